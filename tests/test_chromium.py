"""A real browser: from `podstack auth login` through the sandbox's pages to the outcome page."""

import base64
import json
import os
import re
import subprocess
import urllib.parse
import urllib.request

import pytest
from conftest import need
from logins import LoginProcess, eventually

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=800,600",
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver §11: the key of an element


class Browser:
    """A Chromium session, driven by WebDriver's HTTP protocol."""

    def __init__(self, port, profile):
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.base = "http://127.0.0.1:%s/session" % port
        options = {"args": CHROMIUM + ["--user-data-dir=%s" % profile]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self.send("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/" + made["sessionId"]
        self.send("POST", "/timeouts", {"implicit": 20000})

    def send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        with self.opener.open(request, timeout=60) as answer:
            return json.loads(answer.read().decode())["value"]

    def open(self, url):
        self.send("POST", "/url", {"url": url})

    def find(self, css):
        return self.send("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def click(self, css):
        self.send("POST", "/element/%s/click" % self.find(css), {})

    def type(self, css, text):
        self.send("POST", "/element/%s/value" % self.find(css), {"text": text})

    def run(self, script):
        return self.send("POST", "/execute/sync", {"script": "return " + script, "args": []})

    def cdp(self, command, **params):
        return self.send("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def log(self, kind):
        return self.send("POST", "/se/log", {"type": kind})

    def requests(self):
        """The addresses asked for since the last call, of pages and of whatever they load."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def screenshot(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        return base64.b64decode(self.send("GET", "/screenshot"))

    def close(self):
        self.send("DELETE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    need("chromium", "chromedriver")
    folder = tmp_path_factory.mktemp("chromium")
    env = {"HOME": str(folder), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        for line in iter(driver.stdout.readline, b""):
            port = re.search(rb"started successfully on port (\d+)", line)
            if port:
                break
        session = Browser(port.group(1).decode(), folder / "profile")
        yield session
        session.close()
    finally:
        driver.terminate()
        driver.wait()


@pytest.fixture
def login(api, home):
    """A login whose BROWSER hands the address over; `address` is what it was given."""
    script = home / "browser"
    script.write_text('#!/bin/sh\necho "$1" > "$0.part" && mv "$0.part" "$0.url"\n')
    script.chmod(0o755)
    running = LoginProcess("auth", "login", env={"BROWSER": str(script)})
    given = home / "browser.url"
    eventually(given.exists, lambda: "no address came\n" + running.err)
    running.address = given.read_text().strip()
    assert running.address == running.url
    yield running
    running.process.kill()
    running.process.wait()


def shows(browser, title):
    """Wait until the page of this title is there."""
    eventually(
        lambda: browser.run("document.title") == title,
        lambda: browser.run("document.documentElement.outerHTML"),
    )


def sign_in(browser, login, decision):
    """Walk the pages up to the decision."""
    browser.log("browser")
    browser.open(login.address)
    shows(browser, "Sign in to Podstack - Podstack sandbox")
    browser.type("#email", "user@example.com")
    browser.click("button[type=submit]")
    shows(browser, "Allow access? - Podstack sandbox")
    browser.requests()
    browser.click("button[value=%s]" % decision)


OUTCOMES = [
    ("approve", 0, "You are signed in", "Close this page and go back to the terminal."),
    ("deny", 4, "You are not signed in", "Sign-in was denied. The terminal says what to do next."),
]


@pytest.mark.slow
@pytest.mark.parametrize("decision, code, heading, text", OUTCOMES, ids=["approve", "deny"])
def test_from_the_terminal_to_the_outcome_page(browser, login, decision, code, heading, text, api):
    sign_in(browser, login, decision)
    assert login.end() == code

    # What the page says
    shows(browser, heading + " - podstack")
    assert browser.run("document.querySelector('h1').innerText") == heading
    assert browser.run("document.querySelector('p').innerText") == text
    assert browser.run("document.documentElement.lang") == "en"

    # The code is in the address bar no more, nor a step back
    here = "http://127.0.0.1:%d/" % login.port
    assert browser.run("location.href") == here
    history = browser.cdp("Page.getNavigationHistory")["entries"]
    assert not [entry["url"] for entry in history if "code=" in entry["url"]]

    # It loaded nothing but itself, and broke no rule of its own policy
    asked = browser.requests()
    ours = [url for url in asked if not url.startswith(api.url)]
    assert len(ours) == 1
    assert ours[0].startswith(here + "callback?")
    assert browser.run("performance.getEntriesByType('resource').length") == 0
    assert browser.log("browser") == []

    # It is laid out by its style, in both colour schemes, and fits a telephone
    pictures = {scheme: browser.screenshot(scheme) for scheme in ("light", "dark")}
    keep = os.environ.get("SCREENSHOTS")
    for scheme, picture in pictures.items():
        assert picture.startswith(b"\x89PNG")
        if keep:
            with open(os.path.join(keep, "%s-%s.png" % (decision, scheme)), "wb") as file:
                file.write(picture)
    assert pictures["light"] != pictures["dark"]
    browser.cdp("Emulation.setDeviceMetricsOverride", width=320, height=480,
                deviceScaleFactor=1, mobile=True)  # fmt: skip
    assert browser.run("document.documentElement.scrollWidth") <= 320
    browser.cdp("Emulation.clearDeviceMetricsOverride")


@pytest.mark.slow
def test_markup_in_an_error_is_text_on_the_page(browser, login, api):
    markup = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
    asked = login.asked()
    query = [("error", "<b>bold</b>"), ("error_description", markup)]
    query += [("state", asked["state"]), ("iss", api.url)]
    browser.requests()
    browser.open(asked["redirect_uri"] + "?" + urllib.parse.urlencode(query))
    shows(browser, "You are not signed in - podstack")
    assert login.end() == 4
    told = "Sign-in failed: <b>bold</b>: %s. The terminal says what to do next." % markup
    assert browser.run("document.querySelector('p').innerText") == told
    assert browser.run("document.querySelectorAll('b, img').length") == 0
    assert len(browser.requests()) == 1

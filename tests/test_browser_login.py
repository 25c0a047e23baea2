"""Signing in through the browser, from the command to the saved login.

Most tests run podstack as a process whose browser is `sandbox.py person`: somebody who fills in
the sign-in page and approves. Hostile answers are in test_callback.py.
"""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest
from conftest import PODSTACK, USER
from sandbox import Person, browser_command, s256

import podstack

PERSON = browser_command("person")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/oauth/authorize\?\S+")
STORED = """\
auth:
  token: psa_%s
  expires: %s
  refresh_token: psr_%s
  endpoint: "%s"
  issuer: "%s"
  email: user@example.com
"""


@pytest.fixture
def log_in(podstack_process):
    """`log_in("--timeout", "5")` signs in with the built-in person as the browser."""

    def run(*words, browser=PERSON, **options):
        env = dict(options.pop("env", {}), BROWSER=browser)
        return podstack_process("auth", "login", *words, env=env, **options)

    return run


class Waiting:
    """A login that waits for its browser, which is us: `address` is where it wants us to go."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-B", PODSTACK, "auth", "login", "--no-browser"] + list(words),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True,
        )  # fmt: skip
        self.err = ""
        while not ADDRESS.search(self.err):
            line = self.process.stderr.readline()
            assert line, self.err
            self.err += line
        self.address = ADDRESS.search(self.err).group()

    def end(self):
        """Wait for its end; gives back its exit code."""
        out, err = self.process.communicate(timeout=60)
        self.err += err
        assert out == ""
        assert "Traceback" not in self.err
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def asked(api):
    """The parameters of the one authorization request."""
    (request,) = api.calls("GET", "/oauth/authorize")
    assert all(len(values) == 1 for values in request.query.values())
    return {name: values[0] for name, values in request.query.items()}


def sent(api):
    """The parameters of the one token request."""
    (request,) = api.calls("POST", "/oauth/token")
    return {name: values[0] for name, values in request.form.items()}


# ---- it works


def test_a_person_signs_in_and_the_login_is_saved(log_in, cli, api, config):
    done = log_in()
    assert done.out == ""
    address = ADDRESS.search(done.err).group()
    waiting = re.search("^Waiting for the browser: .*", done.err, re.M).group()
    assert done.err == (
        "Open this address to sign in:\n\n  %s\n\n%s\n"
        "Signed in as user@example.com\nProfile 'default': token stored in %s\n"
    ) % (address, waiting, config)
    text = config.read_text()
    expected = STORED % (r"[0-9a-f]{48}", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r"[0-9a-f]{48}",
                         re.escape(api.url), re.escape(api.url))  # fmt: skip
    assert re.match(expected + r"\Z", text)
    lasts = podstack.parse_time(podstack.yaml_load(text)["auth"]["expires"]) - api.clock.now()
    assert 3500 < lasts <= 3600
    assert cli("auth", "status").out.startswith(
        "Authenticated as: user@example.com\nAccount ID: acc_123456\n"
    )


def test_the_authorization_request_says_what_it_must(log_in, api):
    log_in()
    query = asked(api)
    redirect_uri = query.pop("redirect_uri")
    assert re.match(r"http://127\.0\.0\.1:\d{4,5}/callback\Z", redirect_uri)
    challenge = query.pop("code_challenge")
    assert re.match(r"[A-Za-z0-9_-]{43}\Z", challenge)
    assert re.match(r"[A-Za-z0-9_-]{43,}\Z", query.pop("state"))
    assert query == {
        "response_type": "code",
        "client_id": "podstack-cli",
        "code_challenge_method": "S256",
        "scope": "openid profile email offline_access",
        "prompt": "consent",
        "resource": api.url,
    }
    form = sent(api)
    verifier = form.pop("code_verifier")
    assert re.match(r"[A-Za-z0-9._~-]{43,128}\Z", verifier)
    assert s256(verifier) == challenge
    assert form.pop("code") in api.codes
    assert form == {
        "grant_type": "authorization_code",
        "client_id": "podstack-cli",
        "redirect_uri": redirect_uri,
        "resource": api.url,
    }
    assert "Authorization" not in api.calls("POST", "/oauth/token")[0].headers


def test_every_login_has_secrets_of_its_own(log_in, api):
    log_in()
    log_in()
    first, second = [request.query for request in api.calls("GET", "/oauth/authorize")]
    assert first["state"] != second["state"]
    assert first["code_challenge"] != second["code_challenge"]


def test_only_what_a_login_needs_is_asked_of_the_server(log_in, api):
    log_in()
    assert [request.path for request in api.requests] == [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server",
        "/oauth/authorize",
        "/oauth/sign-in",
        "/oauth/consent",
        "/oauth/token",
        "/v1/auth/whoami",
    ]


def test_only_scopes_that_exist_are_asked_for(log_in, api, config):
    api.metadata = {"scopes_supported": ["email", "openid", "address"]}
    log_in()
    query = asked(api)
    assert query["scope"] == "openid email"
    assert "prompt" not in query
    assert "refresh_token" not in config.read_text()


def test_another_client_id_is_recorded_with_the_login(log_in, cli, api, config):
    api.clients.add("my-client")
    log_in(env={"PODSTACK_CLIENT_ID": "my-client"})
    assert asked(api)["client_id"] == sent(api)["client_id"] == "my-client"
    assert "client_id: my-client\n" in config.read_text()
    cli("auth", "refresh")
    assert api.refreshes == 1


def test_a_profile_of_its_own_for_a_second_account(log_in, cli, api, config):
    log_in()
    before = config.read_text()
    log_in("--profile", "work", browser=PERSON + " --email other@example.com")
    assert config.read_text().startswith(before)
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert cli("--profile", "work", "auth", "whoami").out == "other@example.com\n"


def test_a_second_login_replaces_the_first_and_says_whose_it_was(log_in, api, config):
    log_in()
    first = podstack.yaml_load(config.read_text())["auth"]
    done = log_in(browser=PERSON + " --email other@example.com")
    assert done.err.splitlines()[-3:-1] == [
        "Replaced the login of user@example.com",
        "Signed in as other@example.com",
    ]
    assert first["token"] not in config.read_text()
    assert first["refresh_token"] not in config.read_text()


@pytest.mark.parametrize("umask", ["000", "022", "777"])
def test_the_saved_file_is_private_whatever_the_umask(api, home, umask):
    done = subprocess.run(
        ["sh", "-c", 'umask %s; exec "$@"' % umask, "sh", sys.executable, "-B", PODSTACK, "auth",
         "login"],
        env=dict(os.environ, BROWSER=PERSON), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = home / ".podstack"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    assert modes == {".podstack": 0o700, "config.yaml": 0o600, ".lock": 0o600}


def test_quiet_still_shows_where_to_sign_in(log_in, api):
    done = log_in("--quiet")
    assert done.out == ""
    assert ADDRESS.search(done.err)
    assert "Signed in" not in done.err


def test_on_a_terminal_the_wait_shows_the_time_that_is_left(terminal, api, config):
    shell = terminal("auth", "login", env={"BROWSER": "true"})
    shell.expect(r"Waiting for the browser: (5:00|4:5\d) left")
    address = shell.expect(ADDRESS).group()
    assert "You are signed in" in Person().visit(address).text
    assert shell.end() == 0
    assert config.exists()


# ---- the page tells the truth


def test_the_page_says_that_it_worked_when_it_has(api, config):
    with Waiting() as login:
        shown = Person().visit(login.address)
        assert login.end() == 0
    assert shown.status == 200
    assert "<h1>You are signed in</h1>" in shown.text
    assert config.exists()


FAILURES = [
    pytest.param({"status": 500}, 7, "Podstack is having trouble (HTTP 500, request id req-000006)",
                 id="token-500"),
    pytest.param({"drop": True}, 7,
                 "Cannot reach 127.0.0.1: it closed the connection without an answer",
                 id="token-dropped"),
    pytest.param({"body": "<html>"}, 7,
                 "The authorization server's answer is not understood (HTTP 200)", id="token-html"),
    pytest.param({"body": {"token_type": "Bearer"}}, 7,
                 "The authorization server's answer holds no token", id="no-token"),
    pytest.param({"body": {"access_token": "x y", "token_type": "Bearer"}}, 7,
                 "The authorization server's answer holds no token", id="odd-token"),
    pytest.param({"body": {"access_token": "x", "token_type": "mac"}}, 7,
                 "The authorization server's token is not a bearer token", id="no-bearer"),
    pytest.param({"status": 400, "body": {"error": "invalid_grant"}}, 4,
                 "Sign-in failed: invalid_grant", id="refused"),
]  # fmt: skip


@pytest.mark.parametrize("trouble, code, error", FAILURES)
def test_the_page_says_that_it_failed_when_it_has(api, config, trouble, code, error):
    config.write_text("defaults:\n  project: my-project\n")
    api.next("/oauth/token", **trouble)
    with Waiting() as login:
        shown = Person().visit(login.address)
        assert login.end() == code
    assert "<h1>You are not signed in</h1>" in shown.text
    assert error.replace("'", "&#x27;") in shown.text
    assert "Error: %s\n" % error in login.err
    assert config.read_text() == "defaults:\n  project: my-project\n"


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_login_that_could_not_be_verified_is_kept(log_in, api, config, status):
    api.next("/v1/auth/whoami", status=status)
    done = log_in()
    assert re.search("^Warning: the token could not be verified: ", done.err, re.M)
    assert "Signed in (the token was not verified)\n" in done.err
    assert "refresh_token: psr_" in config.read_text()


# ---- it does not work


@pytest.fixture
def signed_in(api, config):
    """A stored login that no failure may touch; gives back a function that says so."""
    config.write_text('auth:\n  token: %s\n  endpoint: "%s"\n' % (USER, api.url))
    config.chmod(0o600)
    before = config.read_bytes()
    return lambda: config.read_bytes() == before


def test_who_denies_is_not_signed_in(log_in, signed_in):
    done = log_in(browser=PERSON + " --deny", code=4)
    assert done.err.endswith("Error: Sign-in was denied\nRun: podstack auth login\n")
    assert done.out == ""
    assert signed_in()


def test_nobody_comes_in_time(log_in, signed_in):
    done = log_in("--timeout", "0.5", browser="true", code=4)
    assert done.err.endswith("Error: Nobody signed in within 0.5 s\nRun: podstack auth login\n")
    assert signed_in()


def test_ctrl_c_ends_the_wait(api, signed_in):
    with Waiting() as login:
        login.process.send_signal(signal.SIGINT)
        assert login.end() == 130
    assert signed_in()


def test_ctrl_c_on_a_terminal_ends_the_wait(terminal, api, signed_in):
    shell = terminal("auth", "login", env={"BROWSER": "true"})
    shell.expect("Waiting for the browser")
    shell.type("\x03")
    assert shell.end() == 130
    assert "Traceback" not in shell.shown
    assert signed_in()


def test_a_place_that_cannot_be_written_opens_no_browser(log_in, api, tmp_path):
    opened = tmp_path / "opened"
    env = {"PODSTACK_CONFIG": "/proc/podstack/config.yaml"}
    done = log_in(browser="touch %s" % opened, env=env, code=1)
    assert done.err.startswith("Error: Cannot write /proc/podstack/config.yaml: ")
    assert not opened.exists()
    assert not ADDRESS.search(done.err)


def test_a_busy_callback_port_is_named(log_in, api, config):
    port = api.url.rpartition(":")[2]
    done = log_in("--callback-port", port, code=1)
    assert done.err == (
        "Error: Cannot listen on port %s: Address already in use\n"
        "Choose another with --callback-port, or leave it out\n" % port
    )
    assert not config.exists()


def test_a_browser_that_is_missing_is_said_and_the_wait_goes_on(log_in, api):
    done = log_in("--timeout", "0.5", browser="/no/such/browser", code=4)
    assert "No browser could be started here.\n" in done.err
    assert ADDRESS.search(done.err)


def test_no_shell_on_the_way_to_a_browser_runs_a_servers_words(tmp_path):
    """As wslview's PowerShell would, or a BROWSER that is a line for sh."""
    seen = tmp_path / "seen"
    line = "sh -c 'echo \"%%s\" >%s.part && mv %s.part %s'" % (seen, seen, seen)
    app = podstack.App(None, None, None, {"BROWSER": line, "PATH": os.environ["PATH"]})
    assert app.browse("https://h/$(id)/*;!'x'?a=b&c=%20,[]")
    deadline = time.monotonic() + 30
    while not seen.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert seen.read_text() == "https://h/%24%28id%29/%2A%3B%21%27x%27?a=b&c=%20,[]\n"


def test_the_browser_gets_no_token(log_in, tmp_path, api):
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    person = PERSON.replace("%s", '"$1"')
    browser.write_text('#!/bin/sh\n{ env; echo "$@"; } >%s\nexec %s\n' % (seen, person))
    browser.chmod(0o755)
    log_in(browser=str(browser), env={"PODSTACK_API_TOKEN": "psk_secret_of_mine"})
    assert "/oauth/authorize?" in seen.read_text()
    assert "psk_secret_of_mine" not in seen.read_text()


def test_debug_shows_no_secret(log_in, api, config):
    done = log_in("--debug")
    kept = podstack.yaml_load(config.read_text())["auth"]
    form = sent(api)
    assert "> POST %s/oauth/token" % api.url in done.err
    for secret in (kept["token"], kept["refresh_token"], form["code"], form["code_verifier"]):
        assert secret not in done.err


# ---- the browser is elsewhere: the dead callback address is pasted


class Elsewhere(urllib.request.HTTPRedirectHandler):
    """A browser that cannot reach this machine's callback."""

    def redirect_request(self, request, answer, code, message, headers, target):
        self.dead_end = target


def dead_callback(address):
    """The address at which somebody with a browser elsewhere ends up."""
    elsewhere, person = Elsewhere(), Person()
    person.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), elsewhere)
    person.visit(address)
    return elsewhere.dead_end


def test_a_pasted_callback_address_signs_in(terminal, api, config):
    shell = terminal("auth", "login", "--no-browser")
    address = shell.expect(ADDRESS).group()
    shell.expect("If the browser ends at a page that does not load, paste its address here.")
    shell.type("what do I do here?\n")
    shell.expect("That address was not taken: it does not begin with http://127.0.0.1:")
    shell.type(dead_callback(address) + "\n")
    assert shell.end() == 0
    assert "Signed in as user@example.com" in shell.shown
    assert "  token: psa_" in config.read_text()


def test_a_pasted_address_of_another_sign_in_is_not_taken(terminal, api, config):
    shell = terminal("auth", "login", "--no-browser")
    address = shell.expect(ADDRESS).group()
    right = dead_callback(address)
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(right).query)["state"][0]
    shell.type(right.replace(state, "x" * len(state)) + "\n")
    shell.expect(r"not taken: it belongs to another sign-in \(wrong state\)")
    shell.type(right + "\n")
    assert shell.end() == 0


def test_the_browser_and_the_paste_may_race(terminal, api, config):
    shell = terminal("auth", "login", "--no-browser")
    address = shell.expect(ADDRESS).group()
    dead = dead_callback(address)
    visits = threading.Thread(target=Person().get, args=(dead,))
    visits.start()
    shell.type(dead + "\n")
    assert shell.end() == 0
    visits.join(20)
    assert len(api.calls("POST", "/oauth/token")) == 1

"""A login over a slow link completes, and Ctrl-C ends it at once at any point of it."""

import threading
import urllib.parse

import pytest
import sandbox
from logins import Login, LoginProcess, eventually

STORED = """\
auth:
  token: psk_sandbox_user  # kept by hand
  endpoint: %s
defaults:
  project: my-project
"""
INTERRUPTED = "You are not signed in"


@pytest.fixture
def stored(api, config):
    """A login that is there already, and the check that nothing of it has changed."""
    config.write_text(STORED % api.url)
    config.chmod(0o600)

    def unchanged():
        assert config.read_text() == STORED % api.url
        assert config.stat().st_mode & 0o777 == 0o600
        assert {path.name for path in config.parent.iterdir()} <= {"config.yaml", ".lock"}

    return unchanged


@pytest.fixture
def start():
    started = []

    def run(*argv, **options):
        started.append(LoginProcess(*argv, **options))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()


class Visit(threading.Thread):
    """Somebody at the browser, on their way to the outcome page."""

    def __init__(self, url, **person):
        super().__init__(daemon=True)
        self.url, self.person, self.page = url, sandbox.Person(**person), None
        self.start()

    def run(self):
        self.page = self.person.visit(self.url)

    def shown(self):
        self.join(30)
        assert self.page is not None
        return self.page.text


def arrived(api, path):
    eventually(lambda: api.calls(path_prefix=path), lambda: "never asked for %s" % path)


PROTECTED = "/.well-known/oauth-protected-resource"
METADATA = "/.well-known/oauth-authorization-server"
SLOW = [
    pytest.param(["--no-browser"], PROTECTED, id="resource-metadata"),
    pytest.param(["--no-browser"], METADATA, id="server-metadata"),
    pytest.param(["--no-browser"], "/oauth/token", id="token-exchange"),
    pytest.param(["--no-browser"], "/v1/auth/whoami", id="whoami"),
    pytest.param(["--device"], "/oauth/device_authorization", id="device-authorization"),
    pytest.param(["--device"], "/oauth/token", id="device-poll"),
    pytest.param(["--device"], "/v1/auth/whoami", id="device-whoami"),
    pytest.param(["--token", "psk_sandbox_other"], "/v1/auth/whoami", id="api-token"),
]


@pytest.mark.parametrize("way, path", SLOW)
def test_ctrl_c_while_a_slow_server_is_waited_for(api, stored, start, way, path):
    api.device_interval = 0.05
    api.next(path, delay=60)
    login, visit = start("auth", "login", *way), None
    if way == ["--no-browser"] and not path.startswith("/.well-known"):
        visit = Visit(login.url)
    if way == ["--device"] and path == "/v1/auth/whoami":
        code = login.shows(r"enter this code:\n\n  (\S+)\n").group(1)
        sandbox.Person().enter(login.url, code)
    arrived(api, path)
    code, seconds = login.interrupt()
    assert code == 130
    assert seconds < 1
    assert "Error" not in login.err
    stored()
    if visit:
        assert "<h1>You are not signed in</h1><p>The sign-in was interrupted.</p>" in visit.shown()


@pytest.mark.parametrize("way", [["--no-browser"], ["--device"]], ids=["browser", "device"])
def test_ctrl_c_while_somebody_is_waited_for(api, stored, start, way):
    login = start("auth", "login", *way)
    login.shows("^Waiting for ")
    code, seconds = login.interrupt()
    assert (code, seconds < 1) == (130, True)
    stored()


def test_ctrl_c_while_another_podstack_holds_the_file(api, stored, start, config):
    import fcntl

    login = start("auth", "login", "--no-browser")
    url = login.url
    with open(str(config.parent / ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        visit = Visit(url)
        arrived(api, "/v1/auth/whoami")
        eventually(lambda: api.requests[-1].status == 200, "whoami was never answered")
        code, seconds = login.interrupt()
    assert (code, seconds < 1) == (130, True)
    stored()
    assert INTERRUPTED in visit.shown()


@pytest.mark.parametrize("path", [PROTECTED, METADATA])
def test_ctrl_c_ends_a_refresh_before_its_token_is_sent(api, config, start, path):
    granted = api.issue_oauth()
    lines = ["auth:", "  token: " + granted["access_token"], "  expires: 2020-01-01T00:00:00Z"]
    lines += ["  refresh_token: " + granted["refresh_token"]]
    lines += ['  endpoint: "%s"' % api.url, '  issuer: "%s"' % api.url, ""]
    config.write_text("\n".join(lines))
    config.chmod(0o600)
    api.next(path, delay=60)
    refresh = start("auth", "refresh")
    arrived(api, path)
    code, seconds = refresh.interrupt()
    assert (code, seconds < 1) == (130, True)
    assert config.read_text() == "\n".join(lines)


def test_ctrl_c_at_the_question_for_a_token(api, stored, terminal):
    api.oauth = False
    shown = terminal("auth", "login")
    shown.expect("API token: ")
    shown.type("psk_sand\x03")
    assert shown.end() == 130
    stored()


@pytest.mark.slow
def test_every_answer_two_seconds_late(api, stored, start, config):
    api.next(delay=2, times=float("inf"))
    login = start("auth", "login", env={"BROWSER": sandbox.browser_command("person")})
    assert login.end() == 0
    assert "Signed in as user@example.com" in login.err
    assert "psa_" in config.read_text()
    served = [request.path for request in api.requests]
    assert served[-1] == "/v1/auth/whoami"
    assert served.count("/oauth/token") == 1


@pytest.mark.slow
def test_every_answer_two_seconds_late_for_a_device(api, stored, start):
    api.device_interval = 1
    api.next(delay=2, times=float("inf"))
    login = start("auth", "login", "--device")
    code = login.shows(r"enter this code:\n\n  (\S+)\n").group(1)
    sandbox.Person().enter(login.url, code)
    assert login.end() == 0
    assert "Signed in as user@example.com" in login.err


def test_the_page_waits_for_a_slow_exchange_and_then_tells_its_end(api, config):
    late = api.next("/oauth/token", delay=0.3)
    login = Login("auth", "login", "--no-browser")
    shown = sandbox.Person().visit(login.url)
    assert late.hits == 1
    assert (shown.status, "<h1>You are signed in</h1>" in shown.text) == (200, True)
    login.end()
    assert urllib.parse.urlsplit(login.url).path == "/oauth/authorize"

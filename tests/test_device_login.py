"""Signing in with a code on another device (RFC 8628): `podstack auth login --device`."""

import re
import threading

import pytest
import sandbox
from logins import Login


class Time:
    """A clock that only `sleep` moves, the server's along with it; `at` says what happens when."""

    def __init__(self, api):
        self.api, self.now, self.plans, self.polls = api, 1000.0, [], []
        api.report = self.note

    def note(self, request):
        if request.path == "/oauth/token":
            self.polls.append(round(self.now - 1000, 3))

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert 0 < seconds <= 0.5, "Ctrl-C and the time shown would wait as long"
        self.now += seconds
        self.api.clock.advance(seconds)
        for plan in [plan for plan in self.plans if plan[0] <= self.now - 1000]:
            self.plans.remove(plan)
            plan[1]()

    def at(self, seconds, action):
        self.plans.append((seconds, action))

    def approve_at(self, seconds, **person):
        def enter():
            user_code = next(iter(self.api.devices.values())).user_code
            sandbox.Person(**person).enter(self.api.url + "/device", user_code)

        self.at(seconds, enter)


@pytest.fixture
def time_(api):
    return Time(api)


@pytest.fixture
def device(cli, time_):
    """`device()` runs the login by the made-up clock."""

    def run(*argv, **options):
        return cli("auth", "login", "--device", *argv, clock=time_.clock, sleep=time_.sleep,
                   **options)  # fmt: skip

    return run


def refuse(api, error, **more):
    return api.next("/oauth/token", status=400, body={"error": error}, **more)


# ---- the whole way


def test_a_person_enters_the_code_elsewhere(api, config):
    api.device_interval = 0.05
    login = Login("auth", "login", "--device")
    shown = login.shows(r"and enter this code:\n\n  (\S+)\n\n")
    person = threading.Thread(
        target=sandbox.Person().enter, args=(login.url, shown.group(1)), daemon=True
    )
    person.start()
    err = login.end(0)
    assert err == (
        "Open this address on any device:\n\n  %s/device\n\n"
        "and enter this code:\n\n  %s\n\n"
        "Waiting for you to enter the code: 10:00 left\n"
        "Signed in as user@example.com\n"
        "Profile 'default': token stored in %s\n" % (api.url, shown.group(1), config)
    )
    assert login.out.text == ""
    assert re.match(r"[A-Z]{4}-[A-Z]{4}$", shown.group(1))
    assert "psa_" in config.read_text() and "psr_" in config.read_text()


def test_the_request_names_client_scopes_and_resource(api, device, time_):
    time_.approve_at(1)
    device()
    asked = api.calls("POST", "/oauth/device_authorization")[0]
    assert asked.form == {
        "client_id": ["podstack-cli"],
        "scope": ["openid profile email offline_access"],
        "resource": [api.url],
    }
    poll = api.calls("POST", "/oauth/token")[0].form
    assert sorted(poll) == ["client_id", "device_code", "grant_type", "resource"]
    assert poll["grant_type"] == ["urn:ietf:params:oauth:grant-type:device_code"]
    assert all("Authorization" not in request.headers for request in (asked,))


def test_the_time_left_is_shown_in_place_on_a_terminal_and_once_elsewhere(device, time_, api):
    api.device_lifetime = 3
    piped = device(code=4).err
    assert piped.count("Waiting for you to enter the code: 0:03 left\n") == 1
    assert piped.count("Waiting") == 1
    assert "\r" not in piped
    shown = device(code=4, tty=True).err
    in_place = "\r\x1b[2KWaiting for you to enter the code: 0:0%d left"
    assert in_place % 3 + in_place % 2 + in_place % 1 + "\r\x1b[2K" in shown


def test_quiet_shows_the_address_and_the_code_alone(api, device, time_):
    time_.approve_at(1)
    err = device("--quiet").err
    assert err.startswith("Open this address on any device:\n\n  %s/device\n\n" % api.url)
    assert "Waiting" not in err
    assert "Signed in" not in err


def test_debug_shows_neither_the_device_code_nor_a_token(api, device, time_, config):
    time_.approve_at(1)
    err = device("--debug").err
    assert "debug: > POST" in err
    (device_code,) = api.devices
    assert device_code not in err
    for kept in list(api.tokens) + list(api.refresh_tokens):
        assert kept not in err


def test_the_place_for_the_login_is_proven_before_a_code_is_asked_for(api, cli):
    cli("auth", "login", "--device", "--use-keyring", env={"PATH": "/nowhere"}, code=1)
    assert not api.calls("POST")


# ---- how often it asks


def test_the_first_wait_and_each_further_one_is_a_fifth_longer_than_asked(device, time_):
    time_.approve_at(20)
    device()
    assert time_.polls == [6, 12, 18, 24]


def test_slow_down_adds_five_seconds_each_time(api, device, time_):
    refuse(api, "slow_down", times=2)
    time_.approve_at(50)
    device()
    assert time_.polls == [6, 18, 36, 54]


def test_the_servers_own_slow_down_is_never_met(api, device, time_):
    api.device_interval = 7
    time_.approve_at(30)
    device()
    assert time_.polls == [8.4, 16.8, 25.2, 33.6]


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 500},
        {"status": 503},
        {"body": b"<html>a proxy</html>"},
        {"drop": True},
        {"status": 404, "body": b"<html>"},
        {"body": {"token_type": "Bearer"}},
    ],
    ids=["500", "503", "html", "drop", "404", "no-token"],
)
def test_a_failing_server_is_asked_ever_more_rarely(api, device, time_, trouble):
    api.next("/oauth/token", times=2, **trouble)
    time_.approve_at(40)
    device()
    assert time_.polls[-1] == 42
    assert len(api.calls("POST", "/oauth/token")) == 3  # after 6, 12 and 24 s


def test_a_failing_server_is_asked_at_least_once_a_minute(api, device, time_):
    api.next("/oauth/token", times=5, status=503)
    time_.approve_at(1)
    device()
    assert time_.polls == [6, 18, 42, 90, 150, 210]


def test_a_server_may_ask_for_more_than_a_minute(api, device, time_):
    api.device_interval = 90
    api.next("/oauth/token", status=503)
    refuse(api, "slow_down")
    time_.approve_at(1)
    device()
    assert time_.polls == [108, 216, 330]


@pytest.mark.parametrize("interval", [None, 0, -1, "x", [], True, 1e9, float("nan")])
def test_an_interval_that_is_none_counts_as_five_seconds(api, device, time_, interval):
    answer_with(api, interval=interval)
    api.next("/oauth/token", status=400, body={"error": "access_denied"})
    device(code=4)
    assert time_.polls == [6]


# ---- how it ends without a login

EXPIRED = "Error: The code has expired\nRun: podstack auth login --device\n"


def test_denied(api, device, time_, config):
    time_.approve_at(10, approve=False)
    done = device(code=4)
    assert done.err.endswith("Error: Sign-in was denied\nRun: podstack auth login\n")
    assert time_.polls == [6, 12]
    assert not config.exists() or "token" not in config.read_text()


def test_the_server_says_that_the_code_has_expired(api, device, time_):
    refuse(api, "expired_token")
    assert device(code=4).err.endswith(EXPIRED)
    assert time_.polls == [6]


@pytest.mark.parametrize("lifetime, polls", [(20, [6, 12, 18]), (3, []), (6, [])])
def test_it_waits_as_long_as_the_code_lives_and_no_longer(api, device, time_, lifetime, polls):
    api.device_lifetime = lifetime
    assert device(code=4).err.endswith(EXPIRED)
    assert time_.polls == polls
    assert time_.now - 1000 == pytest.approx(lifetime, abs=0.02)


def test_an_unknown_lifetime_counts_as_ten_minutes(api, device, time_):
    answer_with(api, expires_in=None)
    refuse(api, "authorization_pending", times=float("inf"))
    assert device(code=4).err.endswith(EXPIRED)
    assert time_.now - 1000 == pytest.approx(600, abs=0.02)


def test_another_refusal_ends_it_at_once(api, device, time_):
    refuse(api, "invalid_grant")
    assert device(code=4).error == "Error: Sign-in failed: invalid_grant"
    assert time_.polls == [6]


# ---- hostile answers: nothing of them is shown, nothing is polled or stored


def answer_with(api, **changes):
    """Script the answer of the device authorization endpoint; None takes a field out."""
    answer = {
        "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS",
        "user_code": "WDJB-MJHT",
        "verification_uri": api.url + "/device",
        "expires_in": 600,
        "interval": 5,
    }
    answer.update(changes)
    body = {name: value for name, value in answer.items() if value is not None}
    return api.next("/oauth/device_authorization", body=body)


NOT_USED = "Error: The server's verification address cannot be used: "
NO_CODE = "Error: The authorization server's answer holds no code"
CHARACTER = NOT_USED + "it has a character that an address may not have"
NO_SCHEME = NOT_USED + "it does not begin with https://"
NO_TEXT = NOT_USED + "it is not a text"
HOSTILE = [
    # id, field, value, error, exit code
    ("http", "verification_uri", "http://evil.example/device", NOT_USED + "it is not https", 1),
    ("http-like-loopback", "verification_uri", "http://127.0.0.1.evil.example/",
     NOT_USED + "it is not https", 1),
    ("javascript", "verification_uri", "javascript:alert(1)", NO_SCHEME, 1),
    ("data", "verification_uri", "data:text/html,x", NO_SCHEME, 1),
    ("file", "verification_uri", "file:///etc/passwd", NO_SCHEME, 1),
    ("ftp", "verification_uri", "ftp://evil.example/", NO_SCHEME, 1),
    ("no-scheme", "verification_uri", "//evil.example/", NO_SCHEME, 1),
    ("option", "verification_uri", "--help", NO_SCHEME, 1),
    ("user-info", "verification_uri", "https://podstack.ai@evil.example/",
     NOT_USED + "it has a user name in it", 1),
    ("backslash", "verification_uri", "https://evil.example\\@podstack.ai/", CHARACTER, 1),
    ("fragment", "verification_uri", "https://podstack.ai/#x", CHARACTER, 1),
    ("space", "verification_uri", "https://podstack.ai/ x", CHARACTER, 1),
    ("escape", "verification_uri", "https://podstack.ai/\x1b[2J", CHARACTER, 1),
    ("newline", "verification_uri", "https://podstack.ai/\nand then", CHARACTER, 1),
    ("nul", "verification_uri", "https://podstack.ai/\0", CHARACTER, 1),
    ("bidi", "verification_uri", "https://podstack.ai/\u202e", CHARACTER, 1),
    ("homograph", "verification_uri", "https://p\u043edstack.ai/", CHARACTER, 1),
    ("port", "verification_uri", "https://podstack.ai:99999/",
     NOT_USED + "its port is not a number from 1 to 65535", 1),
    ("no-host", "verification_uri", "https:///device", NOT_USED + "its host is not plain", 1),
    ("address-missing", "verification_uri", None, NO_TEXT, 1),
    ("address-empty", "verification_uri", "", NO_TEXT, 1),
    ("address-number", "verification_uri", 7, NO_TEXT, 1),
    ("address-list", "verification_uri", ["https://podstack.ai/"], NO_TEXT, 1),
    ("code-missing", "user_code", None, NO_CODE, 7),
    ("code-empty", "user_code", "", NO_CODE, 7),
    ("code-endless", "user_code", "A" * 101, NO_CODE, 7),
    ("code-number", "user_code", 1234, NO_CODE, 7),
    ("code-list", "user_code", ["A"], NO_CODE, 7),
    ("device-code-missing", "device_code", None, NO_CODE, 7),
    ("device-code-number", "device_code", 5, NO_CODE, 7),
    ("device-code-list", "device_code", ["x"], NO_CODE, 7),
    ("device-code-two-lines", "device_code", "a\nb", NO_CODE, 7),
    ("device-code-space", "device_code", "a b", NO_CODE, 7),
]  # fmt: skip


@pytest.mark.parametrize(
    "field, value, error, code", [pytest.param(*row[1:], id=row[0]) for row in HOSTILE]
)
def test_a_hostile_answer_is_refused_before_it_is_shown(
    api, device, config, field, value, error, code
):
    answer_with(api, **{field: value})
    done = device(code=code)
    use_token = "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)\n"
    assert (
        done.err == error + "\n" + {1: use_token, 7: "Find out why: podstack auth doctor\n"}[code]
    )
    assert done.out == ""
    assert not api.calls("POST", "/oauth/token")
    assert not config.exists() or "token" not in config.read_text()


@pytest.mark.parametrize(
    "trouble, code, error",
    [
        ({"status": 400, "body": {"error": "unauthorized_client"}}, 4,
         "Error: Sign-in failed: unauthorized_client"),
        ({"status": 401, "body": {"error": "invalid_client", "error_description": "\x1b[1mno"}}, 4,
         "Error: Sign-in failed: invalid_client: \\x1b[1mno"),
        ({"body": {"error": "slow_down"}}, 4, "Error: Sign-in failed: slow_down"),
        ({"status": 404, "body": "gone"}, 7,
         "Error: The authorization server's answer is not understood (HTTP 404)"),
        ({"body": "<html>"}, 7,
         "Error: The authorization server's answer is not understood (HTTP 200)"),
        ({"body": b"[]"}, 7,
         "Error: The authorization server's answer is not understood (HTTP 200)"),
        ({"status": 500, "headers": {"X-Request-Id": "r1"}}, 7,
         "Error: Podstack is having trouble (HTTP 500, request id r1)"),
        ({"redirect": "https://evil.example/"}, 7, "Error: Cannot reach 127.0.0.1: "
         "it redirects to https://evil.example/, which is not followed"),
    ],
    ids=["refused", "escapes", "error-in-200", "404", "html", "list", "500", "redirect"],
)  # fmt: skip
def test_a_device_authorization_that_fails(api, device, trouble, code, error):
    api.next("/oauth/device_authorization", **trouble)
    assert device(code=code).error == error
    assert not api.calls("POST", "/oauth/token")


def test_a_code_with_control_characters_is_shown_escaped(api, device):
    answer_with(api, user_code="AB\x1b]0;x\x07\u202eCD")
    refuse(api, "access_denied")
    err = device(code=4).err
    assert "\n  AB\\x1b]0;x\\x07\\u202eCD\n" in err
    assert "\x1b" not in err


def test_an_address_elsewhere_is_shown_when_it_is_https(api, device):
    answer_with(api, verification_uri="HTTPS://Login.Example.COM:443/activate?x=1")
    refuse(api, "access_denied")
    assert "\n  https://login.example.com/activate?x=1\n" in device(code=4).err


def test_a_refusal_that_repeats_the_device_code_does_not_show_it(api, device):
    secret = "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS"
    answer_with(api, device_code=secret)
    body = {"error": "invalid_grant", "error_description": "no such code: " + secret}
    api.next("/oauth/token", status=400, body=body)
    assert device(code=4).error == "Error: Sign-in failed: invalid_grant: no such code: ****"

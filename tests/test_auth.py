"""Signing in with a token, what `podstack auth` says about it, and how it ends.

Signing in through the browser is in test_browser_login.py.
"""

import json
import os
import re
import stat
import subprocess
import sys

import pytest
from conftest import PODSTACK, USER

import podstack

OTHER = "psk_sandbox_other"
READONLY = "psk_sandbox_readonly"
EXPIRED = "psk_sandbox_expired"
UNKNOWN = "psk_sandbox_unknown"
GENERATE = "Generate a new token from the dashboard (Account > API Tokens)\n"
NOT_SIGNED_IN = "Error: Not authenticated\nRun: podstack auth login (or set PODSTACK_API_TOKEN)\n"
FOREVER = float("inf")
PLAIN = {"env": {"NO_COLOR": "1"}}


def no_sleep(seconds):
    """Retries need not wait in a test."""


def keep(config, api, token=USER, **fields):
    """Store a login in the config file as `auth login` does."""
    fields = dict({"token": token, "endpoint": api.url}, **fields)
    write(config, "auth:\n" + "".join('  %s: "%s"\n' % pair for pair in fields.items()))


def keep_oauth(config, api, expires_in=3600, **fields):
    """Store a login as the browser gives it; returns the token answer."""
    grant = api.issue_oauth(expires_in=expires_in)
    fields.setdefault("expires", podstack.format_time(api.clock.now() + expires_in))
    keep(
        config, api, grant["access_token"], refresh_token=grant["refresh_token"],
        issuer=api.url, email="user@example.com", **fields
    )  # fmt: skip
    return grant


def write(config, text):
    config.write_text(text)
    config.chmod(0o600)


def whoami_fails(api, **trouble):
    api.next("/v1/auth/whoami", **trouble)


# ---- login --token


def test_a_token_is_checked_and_stored_for_its_endpoint(cli, api, config):
    done = cli("auth", "login", "--token", USER)
    assert done.out == ""
    assert done.err == (
        "Signed in as user@example.com\nProfile 'default': token stored in %s\n" % config
    )
    assert config.read_text() == (
        'auth:\n  token: psk_sandbox_user\n  endpoint: "%s"\n  email: user@example.com\n' % api.url
    )
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert [request.target for request in api.requests] == ["/v1/auth/whoami"]


def test_a_tokens_expiry_is_stored(cli, api, config):
    api.tokens[USER].expires = api.clock.now() + 86400
    cli("auth", "login", "--token", USER)
    day = podstack.format_time(api.clock.now() + 86400)[:10]
    assert re.search(r"^  expires: %sT" % day, config.read_text(), re.M)


@pytest.mark.parametrize("given", [USER, USER + "\n", USER + "\r\n", "  %s \n\n" % USER])
def test_a_dash_reads_the_token_from_stdin(cli, api, config, given):
    cli("auth", "login", "--token", "-", stdin=given)
    assert "  token: %s\n" % USER in config.read_text()


def test_a_dash_on_a_terminal_asks_without_showing_what_is_typed(terminal, api, config):
    shell = terminal("auth", "login", "--token", "-")
    shell.expect("API token: ")
    shell.type(USER + "\n")
    assert shell.end() == 0
    assert USER not in shell.shown
    assert "Signed in as user@example.com" in shell.shown


ODD_TOKENS = [
    pytest.param("", "The token is empty", id="empty"),
    pytest.param(" \t", "The token is empty", id="blank"),
    pytest.param("psk_one two", None, id="space"),
    pytest.param("psk_one\ttwo", None, id="tab"),
    pytest.param("psk_one\npsk_two", None, id="newline"),
    pytest.param("psk_one\r\nX-Injected: 1", None, id="header"),
    pytest.param("psk_\u00fcber", None, id="latin"),
    pytest.param("psk_\u2028x", None, id="line-separator"),
    pytest.param("psk_\udcff", None, id="wrong-byte"),
    pytest.param("psk_\x1b[31m", None, id="escape"),
    pytest.param("psk_\x7f", None, id="delete"),
    pytest.param("p" * 16385, None, id="too-long"),
]


@pytest.mark.parametrize("way", ["argument", "no-verify", "stdin"])
@pytest.mark.parametrize("token, message", ODD_TOKENS)
def test_an_odd_token_is_refused_before_anything_is_sent(
    cli, podstack_process, api, config, token, message, way
):
    keep(config, api)
    before = config.read_bytes()
    if way == "stdin":
        given = token.encode("utf-8", "surrogateescape")
        done = podstack_process("auth", "login", "--token", "-", stdin=given, code=2)
    else:
        more = ["--no-verify"] if way == "no-verify" else []
        done = cli("auth", "login", "--token", token, *more, code=2)
    problem = message or "The token must be one line of visible ASCII"
    hint = "Generate a new token from the dashboard (Account > API Tokens)"
    assert done.err == "Error: %s\n%s\n" % (problem, hint)
    assert (done.out, config.read_bytes(), api.requests) == ("", before, [])


def test_a_closed_stdin_holds_no_token(api, config):
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -B "$1" auth login --token - <&-', sys.executable, PODSTACK],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"Error: The token is empty\n")


def test_no_verify_stores_a_token_unchecked(cli, api, config):
    done = cli("auth", "login", "--token", UNKNOWN, "--no-verify")
    assert done.err == (
        "Signed in (the token was not verified)\nProfile 'default': token stored in %s\n" % config
    )
    assert api.requests == []
    assert "  token: %s\n" % UNKNOWN in config.read_text()


@pytest.mark.parametrize(
    "token, error",
    [
        (UNKNOWN, "Error: Invalid authentication token\n" + GENERATE),
        (EXPIRED, "Error: Token expired\nRe-authenticate: podstack auth login\n"),
    ],
)
def test_a_token_that_the_server_refuses_changes_nothing(cli, api, config, token, error):
    keep(config, api, OTHER, email="other@example.com")
    before = config.read_bytes()
    done = cli("auth", "login", "--token", token, code=4)
    assert done.err == error + "Token just given\n"
    assert config.read_bytes() == before


@pytest.mark.parametrize("status, why", [
    (403, "Permission denied for resource"), (404, "Scripted HTTP 404"),
])  # fmt: skip
def test_a_token_that_may_not_be_asked_about_is_stored_with_a_warning(
    cli, api, config, status, why
):
    whoami_fails(api, status=status)
    done = cli("auth", "login", "--token", USER)
    assert done.err.startswith("Warning: the token could not be verified: %s\n" % why)
    assert "  token: %s\n" % USER in config.read_text()


UNVERIFIED = [
    pytest.param({"status": 500}, "Podstack is having trouble (HTTP 500, request id req-000001)",
                 id="500"),
    pytest.param({"status": 503, "times": 4},
                 "Podstack is having trouble (HTTP 503, request id req-000004)", id="503"),
    pytest.param({"status": 429, "times": 4, "headers": {"Retry-After": "0"}},
                 "Rate limited; try again in 0 s", id="429"),
    pytest.param({"drop": True, "times": 4},
                 "Cannot reach 127.0.0.1: it closed the connection without an answer", id="drop"),
    pytest.param({"body": "<html>Please log in to the hotel's network</html>"},
                 "Podstack's answer is not understood (no user in it)", id="html"),
]  # fmt: skip


@pytest.mark.parametrize("trouble, why", UNVERIFIED)
def test_a_token_that_cannot_be_checked_is_not_stored(cli, api, config, trouble, why):
    keep(config, api, OTHER)
    before = config.read_bytes()
    whoami_fails(api, **trouble)
    done = cli("auth", "login", "--token", USER, code=7, sleep=no_sleep)
    assert done.err == "Error: Could not verify the token: %s\n%s\n" % (
        why, "Store it unchecked: podstack auth login --token T --no-verify",
    )  # fmt: skip
    assert config.read_bytes() == before


def test_a_token_that_the_server_cannot_take_is_not_stored(cli, api, config):
    whoami_fails(api, status=400)
    done = cli("auth", "login", "--token", USER, code=1)
    assert done.err == (
        "Error: Could not verify the token: Scripted HTTP 400\n"
        "Store it unchecked: podstack auth login --token T --no-verify\n"
    )
    assert not config.exists()


def test_an_unreachable_service_is_named_with_the_way_past_it(cli, config):
    offline = {"PODSTACK_API_ENDPOINT": "http://127.0.0.1:1"}
    done = cli("auth", "login", "--token", USER, env=offline, code=7, sleep=no_sleep)
    assert done.err == (
        "Error: Could not verify the token: Cannot reach 127.0.0.1: connection refused\n"
        "Store it unchecked: podstack auth login --token T --no-verify\n"
    )
    assert not config.exists()
    cli("auth", "login", "--token", USER, "--no-verify", env=offline)
    assert "  token: %s\n" % USER in config.read_text()


def test_a_login_replaces_the_earlier_one_and_says_whose(cli, api, config):
    keep_oauth(config, api)
    config.write_text(config.read_text() + "defaults:\n  project: my-project # mine\n")
    done = cli("auth", "login", "--token", OTHER)
    assert done.err.splitlines()[:2] == [
        "Replaced the login of user@example.com",
        "Signed in as other@example.com",
    ]
    assert config.read_text() == (
        'auth:\n  token: %s\n  endpoint: "%s"\n  email: other@example.com\n'
        "defaults:\n  project: my-project # mine\n" % (OTHER, api.url)
    )


def test_a_login_makes_the_profile_that_it_names(cli, api, config):
    cli("auth", "login", "--token", USER)
    done = cli("auth", "login", "--token", OTHER, "--profile", "work")
    assert done.err.splitlines()[1].startswith("Profile 'work': token stored in ")
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert cli("auth", "whoami", env={"PODSTACK_PROFILE": "work"}).out == "other@example.com\n"


def test_a_login_says_that_the_environments_token_overrides_it(cli, api):
    done = cli("auth", "login", "--token", USER, env={"PODSTACK_API_TOKEN": OTHER})
    last = "PODSTACK_API_TOKEN is set and overrides this login: unset it to use the login"
    assert done.err.splitlines()[-1] == last
    assert api.requests[0].headers["Authorization"] == "Bearer " + USER


def test_an_account_without_an_address_is_named_by_its_id(cli, api, config):
    whoami_fails(api, body={"user": {"account_id": "acc_7", "email": None}})
    done = cli("auth", "login", "--token", USER)
    assert done.err.splitlines()[0] == "Signed in as acc_7"
    assert "email" not in config.read_text()


def test_login_and_logout_say_that_a_program_still_gives_the_token(cli, api, config):
    given = "auth:\n  token_command: echo %s\napi:\n  endpoint: %s\n" % (OTHER, api.url)
    write(config, given)
    done = cli("auth", "login", "--token", USER)
    assert done.err.splitlines()[-1] == "This profile's token still comes from its token_command"
    assert cli("auth", "whoami").out == "other@example.com\n"
    done = cli("auth", "logout")
    assert done.err == ("Logged out of profile 'default'\nIts token_command still gives a token\n")
    assert config.read_text() == given


def test_quiet_signs_in_without_a_word(cli, api):
    done = cli("-q", "auth", "login", "--token", USER)
    assert (done.out, done.err) == ("", "")


def test_a_place_that_cannot_be_written_stores_nothing(cli, api, home, config):
    config.mkdir()
    done = cli("auth", "login", "--token", USER, code=1)
    assert done.error == "Error: Cannot read %s: Is a directory" % config
    assert api.requests == []


# ---- the hidden prompt of a server without browser login


@pytest.fixture
def tokens_only(api):
    api.oauth = False
    return api


def test_without_browser_login_a_token_is_asked_for_and_not_shown(terminal, tokens_only, config):
    shell = terminal("auth", "login", **PLAIN)
    shell.expect(r"Generate a new token from the dashboard \(Account > API Tokens\)\r\nAPI token: ")
    shell.type(USER + "\n")
    assert shell.end() == 0
    assert USER not in shell.shown
    assert "Signed in as user@example.com" in shell.shown
    assert "  token: %s\n" % USER in config.read_text()


def test_a_token_that_is_typed_wrong_is_refused_as_any_other(terminal, tokens_only, config):
    shell = terminal("auth", "login", **PLAIN)
    shell.expect("API token: ")
    shell.type(UNKNOWN + "\n")
    assert shell.end() == 4
    assert "Error: Invalid authentication token" in shell.shown
    assert UNKNOWN not in shell.shown
    assert not config.exists()


@pytest.mark.parametrize(
    "key, code, error",
    [("\x04", 2, "Error: The token is empty"), ("\n", 2, "Error: The token is empty"),
     ("\x03", 130, None)],
    ids=["end", "return", "ctrl-c"],
)  # fmt: skip
def test_the_prompt_can_be_left(terminal, tokens_only, config, key, code, error):
    shell = terminal("auth", "login", **PLAIN)
    shell.expect("API token: ")
    shell.type(key)
    assert shell.end() == code
    assert error is None or error in shell.shown.splitlines()
    assert "Traceback" not in shell.shown
    assert not config.exists()


def test_without_browser_login_and_without_a_terminal_a_token_is_needed(cli, tokens_only, config):
    done = cli("auth", "login", code=2)
    assert done.err == (
        "Error: There is no terminal to sign in from\n"
        "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)\n"
    )
    assert not config.exists()


# ---- status


def test_status_prints_three_lines(cli, api, config):
    keep(config, api)
    api.tokens[USER].expires = podstack.parse_time("2099-12-31T00:00:00Z")
    done = cli("auth", "status")
    assert done.out == (
        "Authenticated as: user@example.com\nAccount ID: acc_123456\nToken expires: 2099-12-31\n"
    )
    assert done.err == ""
    assert len(api.requests) == 1


def test_status_of_a_token_that_does_not_expire(cli, api, config):
    keep(config, api)
    assert cli("auth", "status").out.splitlines()[2] == "Token expires: never"


def test_status_says_that_the_token_is_the_environments(cli, api, config):
    keep(config, api, OTHER)
    done = cli("auth", "status", env={"PODSTACK_API_TOKEN": USER})
    assert done.out.splitlines()[0] == "Authenticated as: user@example.com"
    assert done.err == "The token is from PODSTACK_API_TOKEN\n"
    assert cli("-q", "auth", "status", env={"PODSTACK_API_TOKEN": USER}).err == ""


def test_a_profile_on_the_command_line_wins_over_the_environments_token(cli, api, config):
    keep(config, api, OTHER)
    done = cli("--profile", "default", "auth", "status", env={"PODSTACK_API_TOKEN": USER})
    assert done.out.splitlines()[0] == "Authenticated as: other@example.com"
    assert done.err == ""


@pytest.mark.parametrize("where", ["environment", "file", "command"])
def test_status_for_a_script(cli, api, config, where):
    api.tokens[USER].expires = podstack.parse_time("2099-12-31T00:00:00Z")
    keep(config, api, USER if where == "file" else OTHER)
    if where == "command":
        config.write_text(
            "auth:\n  token_command: echo %s\napi:\n  endpoint: %s\n" % (USER, api.url)
        )
    env = {"PODSTACK_API_TOKEN": USER if where == "environment" else None}
    expected = {
        "authenticated": True,
        "email": "user@example.com",
        "account_id": "acc_123456",
        "expires_at": "2099-12-31T00:00:00Z",
        "profile": "default",
        "endpoint": api.url,
        "token_source": where,
        "token_type": "api_token",
    }
    assert cli("auth", "status", "-o", "json", env=env).json == expected
    as_text = {
        key: str(value).lower() if value is True else value for key, value in expected.items()
    }
    assert podstack.yaml_load(cli("auth", "status", "-o", "yaml", env=env).out) == as_text


def test_only_an_option_changes_the_form_of_the_fixed_lines(cli, api, config):
    keep(config, api)
    env = {"PODSTACK_OUTPUT": "json"}
    assert cli("auth", "status", env=env).out.startswith("Authenticated as: ")
    assert cli("auth", "whoami", env=env).out == "user@example.com\n"
    assert cli("auth", "token", env=env).out == USER + "\n"
    assert cli("auth", "whoami", "-o", "json").json["account_id"] == "acc_123456"
    assert cli("auth", "token", "-o", "json").json == {"token": USER}


NOT_AUTHENTICATED = [
    pytest.param(None, {}, 4, "Not authenticated", id="none"),
    pytest.param(UNKNOWN, {}, 4, "Invalid authentication token", id="invalid"),
    pytest.param(EXPIRED, {}, 4, "Token expired", id="expired"),
    pytest.param("psk one", {}, 4, "PODSTACK_API_TOKEN is not one line of visible ASCII",
                 id="broken"),
    pytest.param(USER, {"status": 403}, 5, "Permission denied for resource", id="denied"),
    pytest.param(USER, {"status": 500}, 7, "Could not verify: Podstack is having trouble "
                 "(HTTP 500, request id req-000001)", id="failing"),
    pytest.param(USER, {"drop": True, "times": 4}, 7, "Could not verify: Cannot reach 127.0.0.1: "
                 "it closed the connection without an answer", id="dropped"),
    pytest.param(USER, {"status": 429, "times": 4}, 7, "Could not verify: Rate limited; try again "
                 "later", id="limited"),
    pytest.param(USER, {"body": "<html>"}, 7, "Could not verify: Podstack's answer is not "
                 "understood (no user in it)", id="html"),
]  # fmt: skip


@pytest.mark.parametrize("token, trouble, code, reason", NOT_AUTHENTICATED)
def test_status_says_why_not_in_every_form(cli, api, token, trouble, code, reason):
    if trouble:
        whoami_fails(api, **dict(trouble, times=3 * trouble.get("times", 1)))
    world = {"env": {"PODSTACK_API_TOKEN": token}, "code": code, "sleep": no_sleep}
    plain = cli("auth", "status", **world)
    assert (plain.out, plain.error) == ("", "Error: " + reason)
    api.request_numbers = iter(range(1, 9))
    for form, read in (("json", json.loads), ("yaml", podstack.yaml_load)):
        done = cli("auth", "status", "-o", form, **world)
        facts = read(done.out)
        api.request_numbers = iter(range(1, 9))
        assert facts == {"authenticated": facts["authenticated"], "reason": reason}
        assert facts["authenticated"] in (False, "false")
        assert done.err == plain.err


def test_status_offline(cli, config):
    offline = {"PODSTACK_API_ENDPOINT": "http://127.0.0.1:1", "PODSTACK_API_TOKEN": USER}
    done = cli("auth", "status", "-o", "json", env=offline, code=7, sleep=no_sleep)
    reason = "Could not verify: Cannot reach 127.0.0.1: connection refused"
    assert done.json == {"authenticated": False, "reason": reason}
    assert done.err == "Error: %s\nFind out why: podstack auth doctor\n" % reason


# ---- the four errors, and where the token came from


SECRET_TOOL = """#!/bin/sh
case $1 in
store) cat >%(item)s ;;
lookup) cat %(item)s ;;
search) [ ! -f %(item)s ] || printf '[/1]\\nsecret = something\\n' ;;
clear) rm -f %(item)s ;;
esac
"""


@pytest.fixture
def keyring(tmp_path, monkeypatch):
    """A `secret-tool` that keeps one secret in a file: enough to hold a login."""
    folder = tmp_path / "keyring"
    folder.mkdir()
    program = folder / "secret-tool"
    program.write_text(SECRET_TOOL % {"item": folder / "item"})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "item"


def from_environment(cli, config, api, token, monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", token)
    return "Token from PODSTACK_API_TOKEN"


def from_file(cli, config, api, token, monkeypatch):
    keep(config, api, token)
    return "Token from profile 'default' in %s" % config


def from_profile(cli, config, api, token, monkeypatch):
    text = 'profiles:\n  work:\n    token: %s\n    endpoint: "%s"\n' % (token, api.url)
    write(config, text)
    monkeypatch.setenv("PODSTACK_PROFILE", "work")
    return "Token from profile 'work' in %s" % config


def from_keyring(cli, config, api, token, monkeypatch):
    cli("auth", "login", "--token", token, "--no-verify", "--use-keyring")
    assert token not in config.read_text()
    return "Token from profile 'default' in keyring"


def from_command(cli, config, api, token, monkeypatch):
    write(config, "auth:\n  token_command: echo %s\napi:\n  endpoint: %s\n" % (token, api.url))
    return "Token from token_command of profile 'default'"


SOURCES = [from_environment, from_file, from_profile, from_keyring, from_command]
DELETED = [["auth", "status"], ["project", "list"], ["pod", "list"], ["auth", "token-info"]]


@pytest.mark.parametrize("source", SOURCES)
def test_after_a_401_the_tokens_source_is_named(cli, api, config, keyring, monkeypatch, source):
    origin = source(cli, config, api, UNKNOWN, monkeypatch)
    before = config.read_bytes() if config.exists() else None
    for words in DELETED:
        done = cli(*words, code=4)
        assert done.out == ""
        assert done.err == "Error: Invalid authentication token\n" + GENERATE + origin + "\n"
    assert (config.read_bytes() if config.exists() else None) == before


@pytest.mark.parametrize("source", SOURCES)
def test_an_expired_token_is_told_from_an_invalid_one(
    cli, api, config, keyring, monkeypatch, source
):
    origin = source(cli, config, api, EXPIRED, monkeypatch)
    done = cli("pod", "list", code=4)
    assert done.err == (
        "Error: Token expired\nRe-authenticate: podstack auth login\n" + origin + "\n"
    )


def test_a_stored_expiry_in_the_past_names_the_401_but_stops_no_request(cli, api, config):
    keep(config, api, UNKNOWN, expires="2020-01-01T00:00:00Z")
    assert cli("auth", "status", code=4).error == "Error: Token expired"
    keep(config, api, USER, expires="2020-01-01T00:00:00Z")
    assert cli("auth", "status").out.startswith("Authenticated as: user@example.com\n")


def test_a_token_that_may_not_do_this_is_denied(cli, api, config):
    keep(config, api, READONLY)
    done = cli("pod", "create", "--name", "ci-pod", "--image", "myimage:latest", code=5)
    assert done.out == ""
    assert done.err == (
        "Error: Permission denied for resource\n"
        "Check if the token has access to the project: podstack project list\n"
        "The token lacks the scope pods:write\n"
        "Token from profile 'default' in %s\n" % config
    )


NEED_A_TOKEN = [
    "auth status", "auth whoami", "auth token-info", "auth token", "auth revoke --yes",
    "project list", "project use my-project", "project create --name p", "pod list", "pod get x",
    "pod create --name x --image y", "pod delete x --force",
]  # fmt: skip


@pytest.mark.parametrize("words", NEED_A_TOKEN)
def test_without_a_token_nothing_is_sent(cli, api, words):
    done = cli(*words.split(), code=4)
    assert (done.out, done.err) == ("", NOT_SIGNED_IN)
    assert api.requests == []


def test_a_variable_that_is_set_but_empty_is_named(cli, api, config):
    done = cli("auth", "status", env={"PODSTACK_API_TOKEN": ""}, code=4)
    assert done.err == NOT_SIGNED_IN + "PODSTACK_API_TOKEN is set but empty\n"
    keep(config, api)
    assert cli("auth", "whoami", env={"PODSTACK_API_TOKEN": ""}).out == "user@example.com\n"


@pytest.mark.parametrize("value", ["psk one", "psk_\u00fc", "psk_1\npsk_2", " ", "psk_\udcff"])
def test_an_environment_token_that_is_none_is_never_sent(cli, api, config, value):
    keep(config, api)
    done = cli("auth", "status", env={"PODSTACK_API_TOKEN": value}, code=4)
    assert done.err == ("Error: PODSTACK_API_TOKEN is not one line of visible ASCII\n" + GENERATE)
    assert api.requests == []


@pytest.mark.parametrize("token", ['"psk one"', '"psk_\\n1"', "psk_\u00fc", '"psk_\\e[31m"'])
def test_a_stored_token_that_is_none_is_never_sent(cli, api, config, token):
    text = "auth:\n  token: %s\n  endpoint: %s\n" % (token, api.url)
    write(config, text)
    for words in ("auth status", "auth token", "pod list", "auth refresh", "auth revoke --yes"):
        done = cli(*words.split(), code=1)
        assert (done.out, done.err) == ("", (
            "Error: %s:2:3: auth.token is not one line of visible ASCII\n"
            "Mend it, or set PODSTACK_CONFIG to another file\n" % config
        ))  # fmt: skip
    assert (config.read_text(), api.requests) == (text, [])
    cli("auth", "logout")
    assert config.read_text() == ""


def test_a_login_mends_a_stored_token_that_is_none(cli, api, config):
    write(config, 'auth:\n  token: "psk one"\n')
    cli("auth", "login", "--token", USER)
    assert cli("auth", "whoami").out == "user@example.com\n"


def test_an_environment_token_may_end_in_a_newline(cli, api):
    env = {"PODSTACK_API_TOKEN": USER + "\n"}
    assert cli("auth", "whoami", env=env).out == "user@example.com\n"


def test_a_stored_token_goes_only_to_the_endpoint_it_is_for(cli, api, config):
    write(config, "auth:\n  token: %s\n  endpoint: https://api.podstack.ai\n" % USER)
    done = cli("auth", "status", code=4)
    assert done.err == (
        "Error: The token of profile 'default' is for https://api.podstack.ai, not for %s\n"
        "Sign in there: podstack auth login\n"
        "The address is from PODSTACK_API_ENDPOINT\n" % api.url
    )
    assert api.requests == []


# ---- whoami, token-info, token


def test_whoami_prints_the_address_alone(cli, api, config):
    keep(config, api)
    done = cli("auth", "whoami")
    assert (done.out, done.err) == ("user@example.com\n", "")
    assert cli("auth", "whoami", "-o", "json").json == {
        "email": "user@example.com",
        "account_id": "acc_123456",
        "name": "Example User",
        "token": api.tokens[USER].shown(),
    }
    assert len(api.requests) == 2


def test_token_info_tells_everything_but_the_token(cli, api, config):
    token = api.tokens[USER]
    token.created = podstack.parse_time("2024-01-15T10:00:00Z")
    token.expires = api.clock.now() + 12.5 * 86400
    keep(config, api)
    done = cli("auth", "token-info")
    assert done.out == (
        "Type:      api_token\n"
        "Name:      sandbox user\n"
        "Token:     psk_sand****\n"
        "Scopes:    projects:read, projects:write, pods:read, pods:write, billing:read\n"
        "Created:   2024-01-15\n"
        "Last used: %s\n"
        "Expires:   %s (in 12 days)\n"
        "Source:    profile 'default' in %s\n"
    ) % (
        podstack.format_time(api.clock.now())[:10],
        podstack.format_time(token.expires)[:10],
        config,
    )
    assert len(api.requests) == 1


def test_token_info_for_a_script_is_the_servers_object(cli, api, config):
    keep(config, api)
    done = cli("auth", "token-info", "-o", "json")
    assert done.json == dict(api.tokens[USER].shown(), token_source="file")
    assert USER not in done.out
    text = cli("auth", "token-info", "-o", "yaml").out
    assert "token_source: file\n" in text
    assert USER not in text


def test_token_info_of_a_sparse_answer(cli, api):
    api.next("/v1/auth/token", body={"token": {"id": "x"}})
    done = cli("auth", "token-info", env={"PODSTACK_API_TOKEN": USER})
    assert [line.split(":")[1].strip() for line in done.out.splitlines()] == [
        "-", "-", "psk_****", "-", "-", "never", "never", "PODSTACK_API_TOKEN",
    ]  # fmt: skip


def test_the_token_alone_for_a_script(cli, api, config):
    keep(config, api)
    done = cli("auth", "token")
    assert (done.out, done.err) == (USER + "\n", "")
    assert cli("auth", "token", env={"PODSTACK_API_TOKEN": OTHER}).out == OTHER + "\n"
    assert api.requests == []


def test_an_expired_token_that_cannot_be_renewed_is_not_printed(cli, api, config):
    keep(config, api, expires="2020-01-01T00:00:00Z")
    done = cli("auth", "token", code=4)
    assert done.out == ""
    assert done.err == (
        "Error: Token expired\nRe-authenticate: podstack auth login\n"
        "Token from profile 'default' in %s\n" % config
    )


def test_a_token_that_is_due_is_renewed_before_it_is_printed(cli, api, config):
    grant = keep_oauth(config, api, expires_in=30)
    fresh = cli("auth", "token").out.strip()
    assert fresh != grant["access_token"]
    assert fresh in api.tokens
    assert "  token: %s\n" % fresh in config.read_text()
    assert api.refreshes == 1


def test_an_expired_login_offline_prints_no_token(cli, api, config):
    keep_oauth(config, api, expires="2020-01-01T00:00:00Z")
    before = config.read_bytes()
    api.next("", drop=True, times=FOREVER)
    done = cli("auth", "token", code=7, sleep=no_sleep)
    assert done.out == ""
    assert done.error.startswith("Error: Cannot reach 127.0.0.1: ")
    assert config.read_bytes() == before


# ---- refresh


def test_refresh_renews_the_login_and_says_until_when(cli, api, config):
    grant = keep_oauth(config, api)
    done = cli("auth", "refresh")
    day = podstack.format_time(api.clock.now() + 3600)[:10]
    assert (done.out, done.err) == ("Token expires: %s\n" % day, "Token refreshed\n")
    text = config.read_text()
    assert grant["access_token"] not in text
    assert grant["refresh_token"] not in text
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert (api.refreshes, api.reuses) == (1, 0)


def test_refresh_acts_on_the_stored_login(cli, api, config):
    keep_oauth(config, api)
    cli("auth", "refresh", env={"PODSTACK_API_TOKEN": OTHER})
    assert api.refreshes == 1


def test_an_api_token_cannot_be_refreshed(cli, api, config):
    keep(config, api)
    done = cli("auth", "refresh", code=1)
    assert done.err == (
        "Error: This token cannot be refreshed\n"
        "Generate a new token from the dashboard (Account > API Tokens), "
        "or run: podstack auth login\n"
    )
    assert api.requests == []


def test_there_must_be_a_login_to_refresh(cli, api):
    assert cli("auth", "refresh", env={"PODSTACK_API_TOKEN": USER}, code=4).err == NOT_SIGNED_IN


def test_a_login_that_ended_at_the_server_is_expired(cli, api, config):
    grant = keep_oauth(config, api)
    api.refresh_tokens[grant["refresh_token"]].grant.dead = True
    before = config.read_bytes()
    done = cli("auth", "refresh", code=4)
    assert done.err == (
        "Error: Token expired\nRe-authenticate: podstack auth login\n"
        "Token from profile 'default' in %s\n" % config
    )
    assert config.read_bytes() == before


# ---- revoke


def test_revoke_ends_the_token_at_the_server_and_forgets_it(cli, api, config):
    keep(config, api)
    config.write_text(config.read_text() + "defaults:\n  project: my-project\n")
    done = cli("auth", "revoke", "--yes")
    assert (done.out, done.err) == (
        "", "Token revoked\nSign in again: podstack auth login\n"
    )  # fmt: skip
    assert USER not in api.tokens
    assert config.read_text() == "defaults:\n  project: my-project\n"


def test_revoke_ends_a_browser_login_as_a_whole(cli, api, config):
    grant = keep_oauth(config, api)
    cli("auth", "revoke", "--yes")
    assert grant["access_token"] not in api.tokens
    assert api.refresh_tokens[grant["refresh_token"]].grant.dead
    assert [call.form["token"][0] for call in api.calls("POST", "/oauth/revoke")] == [
        grant["refresh_token"], grant["access_token"],
    ]  # fmt: skip
    assert "token" not in config.read_text()


def test_a_browser_login_without_a_refresh_token_is_revoked_where_it_came_from(cli, api, config):
    grant = api.issue_oauth()
    keep(config, api, grant["access_token"], issuer=api.url)
    cli("auth", "revoke", "--yes")
    assert grant["access_token"] not in api.tokens
    assert len(api.calls("POST", "/oauth/revoke")) == 1


def test_revoking_a_dead_token_forgets_it(cli, api, config):
    keep(config, api, UNKNOWN)
    done = cli("auth", "revoke", "--yes")
    assert done.err == "The token was dead already\nSign in again: podstack auth login\n"
    assert config.read_text() == ""


@pytest.mark.parametrize("trouble, code", [
    ({"status": 403}, 5), ({"status": 404}, 6), ({"status": 500}, 7),
    ({"drop": True, "times": 4}, 7), ({"redirect": "https://evil.example/"}, 7),
])  # fmt: skip
@pytest.mark.parametrize("words", ["revoke --yes", "logout --revoke"])
def test_a_revocation_that_fails_forgets_nothing(cli, api, config, trouble, code, words):
    keep(config, api)
    before = config.read_bytes()
    api.next("/v1/auth/token", method="DELETE", **trouble)
    done = cli("auth", *words.split(), code=1 if "logout" in words else code, sleep=no_sleep)
    assert done.error
    assert config.read_bytes() == before


def test_a_server_that_cannot_revoke_says_so(cli, api, config):
    keep_oauth(config, api)
    before = config.read_bytes()
    api.metadata = {"revocation_endpoint": None}
    done = cli("auth", "revoke", "--yes", code=1)
    assert done.err == "Error: This server cannot revoke a login\nUse: podstack auth logout\n"
    assert config.read_bytes() == before


def test_what_the_server_says_of_a_revocation_is_told(cli, api, config):
    keep_oauth(config, api)
    before = config.read_bytes()
    said = {"error": "unsupported_token_type", "error_description": "not these"}
    api.next("/oauth/revoke", status=400, body=said)
    done = cli("auth", "revoke", "--yes", code=1)
    assert done.err == (
        "Error: Not revoked: unsupported_token_type: not these\nUse: podstack auth logout\n"
    )
    assert config.read_bytes() == before


def test_revoking_the_environments_token_leaves_the_stored_one_alone(cli, api, config):
    keep(config, api, OTHER)
    before = config.read_bytes()
    done = cli("auth", "revoke", "--yes", env={"PODSTACK_API_TOKEN": USER})
    assert done.err == (
        "Token revoked\nPODSTACK_API_TOKEN still holds it: unset it\n"
        "Sign in again: podstack auth login\n"
    )
    assert USER not in api.tokens
    assert OTHER in api.tokens
    assert config.read_bytes() == before


def test_a_programs_token_is_not_ours_to_revoke(cli, api, config):
    write(config, "auth:\n  token_command: echo %s\napi:\n  endpoint: %s\n" % (USER, api.url))
    done = cli("auth", "revoke", "--yes", code=1)
    assert done.err == (
        "Error: A token from token_command is not ours to revoke\nRevoke it there\n"
    )
    assert USER in api.tokens


def test_without_a_terminal_revoke_needs_a_word_beforehand(cli, api, config):
    keep(config, api)
    done = cli("auth", "revoke", code=2)
    assert done.err == (
        "Error: Revoke the token from profile 'default' in %s? "
        "There is no terminal to ask on\nAdd: --yes\n" % config
    )
    assert USER in api.tokens
    config.write_text(config.read_text() + "cli:\n  confirm: false\n")
    cli("auth", "revoke")
    assert USER not in api.tokens


@pytest.mark.parametrize("answer, code", [("n", 1), ("", 1), ("y", 0), ("YES", 0)])
def test_revoke_asks_on_a_terminal(cli, api, config, answer, code):
    keep(config, api)
    done = cli("auth", "revoke", stdin=answer + "\n", tty=True, code=code, **PLAIN)
    question = "Revoke the token from profile 'default' in %s? [y/N] " % config
    assert done.err.startswith(question)
    assert (USER in api.tokens) == bool(code)
    if code:
        assert done.err == question + "Error: Nothing done\n"


# ---- logout


def test_logout_forgets_the_login_and_keeps_the_rest(cli, api, config):
    keep_oauth(config, api)
    rest = "# mine\ndefaults:\n  project: my-project\n  output: json\n"
    config.write_text(config.read_text() + rest)
    done = cli("auth", "logout")
    assert (done.out, done.err) == ("", "Logged out of profile 'default'\n")
    assert config.read_text() == rest
    assert api.requests == []
    done = cli("auth", "logout")
    assert done.err == "Profile 'default' was not signed in\n"
    assert config.read_text() == rest


def test_logout_where_nobody_ever_signed_in(cli, home):
    assert cli("auth", "logout").err == "Profile 'default' was not signed in\n"
    assert not (home / ".podstack").exists()


def test_logout_says_that_the_environments_token_still_authenticates(cli, api, config):
    keep(config, api, OTHER)
    done = cli("auth", "logout", env={"PODSTACK_API_TOKEN": USER})
    assert done.err == (
        "Logged out of profile 'default'\n"
        "PODSTACK_API_TOKEN is set and still authenticates: unset it\n"
    )
    assert "token" not in config.read_text()


TWO_PROFILES = (
    'profiles:\n  default:\n    token: %s\n    endpoint: "%s"\n    project: my-project\n'
    '  work:\n    token: %s\n    endpoint: "%s"\n    project: work-project\n'
)


@pytest.fixture
def two_profiles(api, config):
    write(config, TWO_PROFILES % (USER, api.url, OTHER, api.url))
    return config


def test_logout_leaves_other_profiles_alone(cli, api, two_profiles):
    cli("auth", "logout", "--profile", "work")
    assert OTHER not in two_profiles.read_text()
    assert "project: work-project\n" in two_profiles.read_text()
    assert cli("auth", "whoami").out == "user@example.com\n"


def test_logout_of_every_profile(cli, api, two_profiles):
    done = cli("auth", "logout", "--all")
    assert done.err == "Logged out of profile 'default'\nLogged out of profile 'work'\n"
    assert two_profiles.read_text() == (
        "profiles:\n  default:\n    project: my-project\n  work:\n    project: work-project\n"
    )
    assert set(api.tokens) >= {USER, OTHER}


@pytest.mark.parametrize("words", [(), ("--revoke",)])
def test_logout_of_every_profile_changes_nothing_where_one_cannot_be_read(
    cli, api, two_profiles, words
):
    write(two_profiles, two_profiles.read_text() + "  odd: text\n")
    before = two_profiles.read_text()
    done = cli("auth", "logout", "--all", *words, code=1)
    assert done.err.splitlines() == [
        "Error: %s:10:3: profiles.odd must hold keys and values" % two_profiles,
        "Mend it, or set PODSTACK_CONFIG to another file",
    ]
    assert two_profiles.read_text() == before
    assert {USER, OTHER} <= set(api.tokens)


def test_logout_can_end_every_login_at_the_server(cli, api, two_profiles):
    done = cli("auth", "logout", "--all", "--revoke")
    assert done.err.splitlines() == [
        "Token revoked", "Logged out of profile 'default'",
        "Token revoked", "Logged out of profile 'work'",
    ]  # fmt: skip
    assert not {USER, OTHER} & set(api.tokens)
    assert "token" not in two_profiles.read_text()


def test_a_login_that_could_not_be_ended_stays(cli, api, two_profiles):
    api.next("/v1/auth/token", method="DELETE", status=500)
    done = cli("auth", "logout", "--all", "--revoke", code=1)
    assert done.err.splitlines() == [
        "Profile 'default' stays signed in: Podstack is having trouble "
        "(HTTP 500, request id req-000001)",
        "Token revoked",
        "Logged out of profile 'work'",
        "Error: Not logged out: default",
        "To forget it here alone: podstack auth logout",
    ]
    assert USER in two_profiles.read_text()
    assert OTHER not in two_profiles.read_text()


def test_a_login_is_ended_at_the_endpoint_that_it_belongs_to(cli, api, config):
    keep(config, api)
    nowhere = {"PODSTACK_API_ENDPOINT": "http://127.0.0.1:1"}
    cli("auth", "logout", "--revoke", env=nowhere)
    assert USER not in api.tokens


def test_logout_never_asks(cli, api, config):
    keep(config, api)
    assert cli("auth", "logout", tty=True).err == "Logged out of profile 'default'\n"


@pytest.mark.parametrize("env", [{}, {"PODSTACK_API_TOKEN": USER}])
def test_logout_of_a_file_that_cannot_be_read_changes_nothing(cli, config, env):
    write(config, "auth: [\n")
    done = cli("auth", "logout", env=env, code=1)
    assert done.error.startswith("Error: %s:1:" % config)
    assert config.read_text() == "auth: [\n"


# ---- list


def test_list_shows_every_profile_from_the_file_alone(cli, api, config):
    write(
        config,
        "profile: work\nauth:\n  token: a_token\n  expires: 2024-12-31T00:00:00Z\n"
        '  endpoint: "%s"\n  email: user@example.com\ndefaults:\n  project: my-project\n'
        "profiles:\n  work:\n    storage: keyring\n    endpoint: https://api.work.podstack.ai\n"
        "    email: me@work.example\n  pass:\n    token_command: pass show podstack\n  empty: {}\n"
        % api.url,
    )
    done = cli("auth", "list", env={"PODSTACK_API_ENDPOINT": None})
    assert done.out == (
        "NAME     ACTIVE  EMAIL             PROJECT     ENDPOINT{}"
        "  STORAGE  EXPIRES\n"
        "default          user@example.com  my-project  {}"
        "  file     2024-12-31\n"
        "work     *       me@work.example   -           https://api.work.podstack.ai"
        "  keyring  -\n"
        "pass             -                 -           https://api.podstack.ai     "
        "  command  -\n"
        "empty            -                 -           https://api.podstack.ai     "
        "  -        -\n"
    ).format(" " * 20, api.url.ljust(28))
    assert "a_token" not in done.out
    assert api.requests == []


def test_a_default_profile_without_anything_is_the_one_at_the_top(cli, config):
    write(config, "auth:\n  token: %s\nprofiles:\n  work:\n  default:\n" % USER)
    assert cli("auth", "list", "-q").out == "default\nwork\n"


def test_list_for_a_script(cli, api, two_profiles):
    env = {"PODSTACK_PROFILE": "work"}
    assert cli("auth", "list", "-o", "json", env=env).json[1] == {
        "name": "work",
        "active": True,
        "email": None,
        "project": "work-project",
        "endpoint": api.url,
        "storage": "file",
        "expires_at": None,
    }
    assert cli("auth", "list", "-q").out == "default\nwork\n"


# ---- the keyring's part; real keyrings are in test_keyring.py


def test_a_login_in_the_keyring_is_named_and_ended_there(cli, api, config, keyring):
    done = cli("auth", "login", "--token", USER, "--use-keyring")
    assert done.err.splitlines()[-1] == "Profile 'default': token stored in the keyring"
    assert USER not in config.read_text()
    assert cli("auth", "status", "-o", "json").json["token_source"] == "keyring"
    cli("auth", "revoke", "--yes")
    assert not keyring.exists()
    assert USER not in api.tokens

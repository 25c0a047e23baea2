"""Servers that answer wrongly, on purpose or not: to a renewal, to a call, on the screen.

Each case holds the exact error, the exit code, that no other server was told anything, and that
what was stored is as before. Redirects, TLS, proxies, the callback and discovery have tables of
their own (test_http.py, test_tls.py, test_proxy.py, test_callback.py, test_discovery.py).
"""

import json
import re

import pytest
from conftest import PYTHONS, USER
from wire import Wire, reply

DOCTOR = "Find out why: podstack auth doctor"
LATER = "Try again in a few minutes"
NOT_UNDERSTOOD = "The authorization server's answer is not understood (HTTP 200)"
NO_TOKEN = "The authorization server's answer holds no token"
CUT_OFF = "Cannot reach 127.0.0.1: its answer was cut off"
NOT_HTTP = "Cannot reach 127.0.0.1: its answer is not HTTP"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NASTY = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.\u2066\u2028\x00\x08\x7f\x1b]8;;http://e\x1b\\x"
NASTY += "\x1b]52;c;cm0gLXJm\x07\r\nError: \u200e"
ESCAPED = (
    r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.\u2066\u2028\x00\x08\x7f\x1b]8;;http://e\x1b\x"
    r"\x1b]52;c;cm0gLXJm\x07\x0d\x0aError: \u200e"
)


@pytest.fixture
def other():
    """A server that nobody may speak to."""
    with Wire(reply(200, {})) as server:
        yield server
        assert server.connections == []


# -- the token endpoint


GOOD = {"access_token": "psa_new", "token_type": "Bearer", "expires_in": 60}


def grant(**changes):
    return reply(200, {k: v for k, v in dict(GOOD, **changes).items() if v is not ...})


def refused(error, description=None, status=400):
    body = {"error": error}
    if description is not None:
        body["error_description"] = description
    return reply(status, body)


TOKEN_ANSWERS = {
    "HTML": (reply(200, "<html>Sign in</html>"), 7, NOT_UNDERSTOOD),
    "empty": (reply(200), 7, NOT_UNDERSTOOD),
    "a list": (reply(200, [GOOD]), 7, NOT_UNDERSTOOD),
    "a text": (reply(200, '"psa_new"'), 7, NOT_UNDERSTOOD),
    "null": (reply(200, "null"), 7, NOT_UNDERSTOOD),
    "a form": (reply(200, "access_token=psa_new&expires_in=60"), 7, NOT_UNDERSTOOD),
    "two objects": (reply(200, json.dumps(GOOD) * 2), 7, NOT_UNDERSTOOD),
    "half an object": (reply(200, json.dumps(GOOD)[:-9]), 7, NOT_UNDERSTOOD),
    "UTF-16": (reply(200, json.dumps(GOOD).encode("utf-16")), 7, NOT_UNDERSTOOD),
    "Latin-1": (reply(200, b'{"access_token": "\xe4"}'), 7, NOT_UNDERSTOOD),
    "nested without end": (reply(200, "[" * 200000), 7, NOT_UNDERSTOOD),
    "nested without end, objects": (reply(200, '{"a":' * 200000), 7, NOT_UNDERSTOOD),
    "no token": (grant(access_token=...), 7, NO_TOKEN),
    "token null": (grant(access_token=None), 7, NO_TOKEN),
    "token empty": (grant(access_token=""), 7, NO_TOKEN),
    "token a number": (grant(access_token=5), 7, NO_TOKEN),
    "token a list": (grant(access_token=["psa_new"]), 7, NO_TOKEN),
    "token an object": (grant(access_token={"a": "b"}), 7, NO_TOKEN),
    "token true": (grant(access_token=True), 7, NO_TOKEN),
    "token with a newline": (grant(access_token="psa_new\nX-Evil: 1"), 7, NO_TOKEN),
    "token with a return": (grant(access_token="psa_new\r\n"), 7, NO_TOKEN),
    "token with a space": (grant(access_token="psa new"), 7, NO_TOKEN),
    "token with an escape": (grant(access_token="psa\x1b[2J"), 7, NO_TOKEN),
    "token with NUL": (grant(access_token="psa\0new"), 7, NO_TOKEN),
    "token beyond ASCII": (grant(access_token="psa_n\u00e9w"), 7, NO_TOKEN),
    "token half a character": (grant(access_token="psa_\ud800"), 7, NO_TOKEN),
    "another type": (grant(token_type="mac"), 7,
                     "The authorization server's token is not a bearer token"),
    "type a list": (grant(token_type=["Bearer"]), 7,
                    "The authorization server's token is not a bearer token"),
    "error beside a token": (grant(error="invalid_request"), 7,
                             "The login could not be refreshed: invalid_request"),
    "invalid_client": (refused("invalid_client", status=401), 7,
                       "The login could not be refreshed: invalid_client"),
    "an error of its own": (refused("out_of_cheese"), 7,
                            "The login could not be refreshed: out_of_cheese"),
    "an error with escapes": (refused(NASTY), 7, "The login could not be refreshed: " + ESCAPED),
    "an error that is none": (refused(["x"]), 7,
                              "The authorization server's answer is not understood (HTTP 400)"),
    "an error of the API": (reply(400, {"error": {"code": "x", "message": "y"}}), 7,
                            "The authorization server's answer is not understood (HTTP 400)"),
    "400 in HTML": (reply(400, "<h1>Bad</h1>"), 7,
                    "The authorization server's answer is not understood (HTTP 400)"),
    "404": (reply(404), 7, "The authorization server's answer is not understood (HTTP 404)"),
    "201": (reply(201, GOOD), 7, "The authorization server's answer is not understood (HTTP 201)"),
    "204": (reply(204, length=False), 7,
            "The authorization server's answer is not understood (HTTP 204)"),
    "304": (reply(304, length=False), 7,
            "The authorization server's answer is not understood (HTTP 304)"),
    "500": (reply(500, "<h1>Oops</h1>"), 7, "Podstack is having trouble (HTTP 500)"),
    "503 with a grant": (reply(503, GOOD), 7, "Podstack is having trouble (HTTP 503)"),
    "999": (reply(999, GOOD), 7, "The authorization server's answer is not understood (HTTP 999)"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", 7, NOT_HTTP),
    "status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", 7, NOT_HTTP),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", 7, NOT_HTTP),
    "status of other digits": ("HTTP/1.1 \u0662\u0660\u0660 OK\r\n\r\n".encode(), 7, NOT_HTTP),
    "HTTP 2": (b"HTTP/2 200 OK\r\n\r\n", 7, NOT_HTTP),
    "HTTP 0.9": (b"{}\r\n", 7, NOT_HTTP),
    "ICY": (b"ICY 200 OK\r\n\r\n", 7, NOT_HTTP),
    # What http.client reads past is the answer that is left then: here {}.
    "a header without colon": (b"HTTP/1.1 200 OK\r\nhello\r\n\r\n{}", 7, NOT_HTTP),
    "a header without name": (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n{}", 7, NOT_HTTP),
    "a header with a space": (b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\n{}", 7, NOT_HTTP),
    "a folded header": (b"HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n{}", 7, NO_TOKEN),
    "101 headers": (b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(101))
                    + b"\r\n{}", 7, NOT_HTTP),
    "a header without end": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, 7, NOT_HTTP),
    "length a word": (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}", 7, NO_TOKEN),
    "length negative": (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", 7, NO_TOKEN),
    "length signed": (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}", 7, NO_TOKEN),
    "length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}", 7,
                     NO_TOKEN),
    "length of other digits": ("HTTP/1.1 200 OK\r\nContent-Length: \u0662\r\n\r\n{}".encode(), 7,
                               NO_TOKEN),
    "length of 20 digits": (b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n{}" % (b"9" * 20), 7,
                            CUT_OFF),
    "too short": (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}", 7, CUT_OFF),
    "gzip": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 7,
             NOT_HTTP),
    "chunk size negative": (CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n", 7, CUT_OFF),
    "chunk size a word": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 7, CUT_OFF),
    "chunk size in C": (CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", 7, NO_TOKEN),
    "chunk size with a line": (CHUNKED + b"0_2\r\n{}\r\n0\r\n\r\n", 7, NO_TOKEN),
    "chunk size missing": (CHUNKED + b"\r\n{}\r\n0\r\n\r\n", 7, CUT_OFF),
    "chunk longer than it says": (CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", 7, CUT_OFF),
    "no last chunk": (CHUNKED + b"2\r\n{}\r\n", 7, CUT_OFF),
    "nothing": (b"", 7, "Cannot reach 127.0.0.1: it closed the connection without an answer"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-Le", 7, NOT_HTTP),
    "binary": (bytes(range(256)) * 4, 7, NOT_HTTP),
    "a mail server": (b"220 mail.example ESMTP\r\n", 7, NOT_HTTP),
}  # fmt: skip


def stored_login(api, config, expires="2020-01-01T00:00:00Z"):
    """A login that is due; returns the file's bytes."""
    known = api.issue_oauth(expires_in=1)
    config.write_text(
        "# mine\nauth:\n  token: %s\n  refresh_token: %s\n  expires: %s\n  endpoint: %s\n"
        "  issuer: %s\n  email: user@example.com\n"
        % (known["access_token"], known["refresh_token"], expires, api.url, api.issuer())
    )
    config.chmod(0o600)
    return config.read_bytes()


def once(answer):
    """What a Wire does that answers and then closes."""

    def serve(connection):
        if connection.request():
            connection.send(answer)

    return serve


@pytest.mark.parametrize("answer, code, error", TOKEN_ANSWERS.values(), ids=TOKEN_ANSWERS)
def test_a_renewal_that_is_answered_wrongly_changes_nothing(
    api, cli, config, other, answer, code, error
):
    before = stored_login(api, config)
    with Wire(once(answer)) as server:
        api.metadata = {"token_endpoint": server.url + "/token"}
        result = cli("auth", "refresh", code=code, sleep=lambda _: None)
        assert result.error == "Error: " + error
        assert result.out == ""
        assert len(server.requests) == 1  # a refresh token is never sent twice
        assert b"Authorization" not in server.received
    assert config.read_bytes() == before
    assert not [call for call in api.calls() if "Authorization" in call.headers]


def test_only_invalid_grant_ends_a_login_and_leaves_it_stored(api, cli, config, other):
    before = stored_login(api, config)
    with Wire(once(refused("invalid_grant", NASTY))) as server:
        api.metadata = {"token_endpoint": server.url + "/token"}
        result = cli("auth", "refresh", code=4)
    assert result.err == (
        "Error: Token expired\nRe-authenticate: podstack auth login\n"
        "Token from profile 'default' in %s\n" % config
    )
    assert config.read_bytes() == before


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("place", ["%(own)s/token2", "/token2", "%(other)s/token"])
def test_a_renewal_follows_no_redirect(api, cli, config, other, status, place):
    before = stored_login(api, config)
    holder = {}
    with Wire(lambda c: c.request() and c.send(holder["answer"])) as server:
        target = place % {"own": server.url, "other": other.url}
        holder["answer"] = reply(status, GOOD, {"Location": target})
        api.metadata = {"token_endpoint": server.url + "/token"}
        result = cli("auth", "refresh", code=7)
        told = "Error: Cannot reach 127.0.0.1: it redirects to %s, which is not followed"
        assert result.error == told % target
        assert server.requests == ["POST /token"]
    assert config.read_bytes() == before


@pytest.mark.parametrize("name", ["oauth-protected-resource", "oauth-authorization-server"])
def test_discovery_follows_no_redirect(api, cli, config, other, name):
    before = stored_login(api, config)
    api.next("/.well-known/" + name, redirect=other.url + "/x")
    result = cli("auth", "refresh", code=7)
    assert result.error.endswith("it redirects to %s/x, which is not followed" % other.url)
    assert config.read_bytes() == before
    assert api.calls("POST") == []


@pytest.mark.parametrize(
    "span, expires",
    [
        (60, "2025-01-01T00:01:00Z"),
        ("60", "2025-01-01T00:01:00Z"),
        (60.9, "2025-01-01T00:01:00Z"),
        (..., None),
        (None, None),
        (0, None),
        (-5, None),
        (True, None),
        ("soon", None),
        ("\u0666\u0660", None),
        ([60], None),
        ({}, None),
        (1e300, None),
        (10**30, None),
    ],
)
def test_a_lifetime_that_is_none_counts_as_unknown(api, cli, config, span, expires):
    stored_login(api, config)
    with Wire(grant(expires_in=span)) as server:
        api.metadata = {"token_endpoint": server.url + "/token"}
        cli("auth", "refresh", now=lambda: 1735689600)
    text = config.read_text()
    assert "  token: psa_new\n" in text
    found = re.search("  expires: (.*)\n", text)
    assert (found and found.group(1)) == expires


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000])
def test_a_lifetime_without_measure_is_none(api, cli, config, number):
    before = stored_login(api, config)
    body = '{"access_token": "psa_new", "token_type": "bearer", "expires_in": %s}' % number
    with Wire(reply(200, body)) as server:
        api.metadata = {"token_endpoint": server.url + "/token"}
        result = cli("auth", "refresh", code=None)
    if result.code:  # from 3.11 on an integer of 5000 digits is refused
        assert (result.code, result.error) == (7, "Error: " + NOT_UNDERSTOOD)
        assert config.read_bytes() == before
    else:
        assert "expires:" not in config.read_text()


@pytest.mark.parametrize(
    "changes, kept",
    [
        ({}, "old"),
        ({"refresh_token": None}, "old"),
        ({"refresh_token": ""}, "old"),
        ({"refresh_token": 5}, "old"),
        ({"refresh_token": "psr\nnew"}, "old"),
        ({"refresh_token": "psr_new"}, "psr_new"),
    ],
    ids=["none", "null", "empty", "a number", "two lines", "a new one"],
)
def test_a_refresh_token_that_is_none_leaves_the_old_one(api, cli, config, changes, kept):
    before = stored_login(api, config).decode()
    old = re.search("refresh_token: (.*)", before).group(1)
    with Wire(grant(**changes)) as server:
        api.metadata = {"token_endpoint": server.url + "/token"}
        cli("auth", "refresh")
    assert "refresh_token: %s\n" % (old if kept == "old" else kept) in config.read_text()


def test_a_byte_order_mark_and_a_doubled_key_are_borne(api, cli, config):
    stored_login(api, config)
    body = b'\xef\xbb\xbf{"access_token": "psa_old", "access_token": "psa_new"}'
    with Wire(reply(200, body)) as server:
        api.metadata = {"token_endpoint": server.url + "/token"}
        cli("auth", "refresh")
    assert "  token: psa_new\n" in config.read_text()


# -- the API


CALLS = {  # the command, and what it misses in an answer that is none
    "auth whoami": "user",
    "auth status": "user",
    "auth token-info": "token",
    "project list": "projects",
    "project use new": "projects",
    "pod list": "pods",
    "pod get pod-1": "pod",
    "pod events pod-1": "events",
    "wallet balance": "wallet",
    "gpu list": "gpus",
}
NO_JSON = {
    "HTML": reply(200, "<html>Welcome to the hotel's network</html>"),
    "empty": reply(200),
    "204": reply(204, length=False),
    "304": reply(304, length=False),
    "a text": reply(200, '"' + USER + '"'),
    "a number": reply(200, "5"),
    "null": reply(200, "null"),
    "true": reply(200, "true"),
    "UTF-16": reply(200, "{}".encode("utf-16")),
    "UTF-7": reply(200, b"+AHsAfQ-"),
    "half a character": reply(200, b'{"email": "\xc3"}'),
    "nested": reply(200, "[" * 100000 + "]" * 100000),
    "two": reply(200, "{} {}"),
    "half": reply(200, '{"email": '),
    "single quotes": reply(200, "{'email': 'x'}"),
    "JSONP": reply(200, "call({})"),
}


@pytest.mark.parametrize("answer", NO_JSON.values(), ids=NO_JSON)
def test_an_answer_that_is_no_json_is_not_understood(cli, config, other, answer):
    with Wire(answer) as server:
        config.write_text("auth:\n  token: psk_mine_mine\n  endpoint: %s\n" % server.url)
        config.chmod(0o600)
        before = config.read_bytes()
        for words, thing in CALLS.items():
            result = cli(*words.split(), code=7, env={"PODSTACK_API_ENDPOINT": server.url})
            thing = "pod" if words == "pod events pod-1" else thing
            first = "Podstack's answer is not understood (no %s in it)" % thing
            first = "Could not verify: " + first if words == "auth status" else first
            assert result.err == "Error: %s\n%s\n" % (first, DOCTOR), words
            assert result.out == ""
        assert config.read_bytes() == before


WRONG_TYPES = [None, True, 5, -1.5, "x", "", [], ["x"], {}, {"x": {"y": ["z"]}}, 10**25]
FIELDS = [
    "id",
    "name",
    "email",
    "account_id",
    "token",
    "type",
    "prefix",
    "scopes",
    "created_at",
    "last_used_at",
    "expires_at",
    "status",
    "gpu_type",
    "gpu_count",
    "cpu",
    "memory",
    "disk",
    "image",
    "ports",
    "labels",
    "project_id",
    "ssh_command",
    "jupyter_url",
    "description",
    "balance_cents",
    "currency",
    "pending_charges_cents",
    "last_updated",
    "memory_gb",
    "price_per_hour_cents",
    "available",
    "total",
    "reason",
    "message",
    "time",
]
SHOWN = [
    "auth whoami", "auth status", "auth token-info", "auth doctor", "project list", "pod list",
    "pod list -o wide", "pod list -q", "pod get pod-1", "pod events pod-1", "pod metrics pod-1",
    "wallet balance", "gpu list", "api /x",
]  # fmt: skip


def answers(value):
    """What any call gets: an object, or a list of one, with every field that is ever shown."""
    thing = dict.fromkeys(FIELDS, value)
    whole = dict(thing, token=dict(thing, id="tok"), id="pod-1")

    def serve(connection):
        for request in iter(connection.request, b""):
            path = request.split(b" ")[1].partition(b"?")[0].decode()
            is_list = path.endswith(("/projects", "/pods", "/events", "/gpus"))
            connection.send(reply(200, [whole] if is_list else whole))

    return serve


@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
def test_a_field_of_another_type_breaks_nothing(cli, value):
    with Wire(answers(value)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        for words in SHOWN:
            for form in ([], ["-o", "json"], ["-o", "yaml"]):
                if form and "-o" in words:
                    continue
                result = cli(*words.split() + form, env=env, code=None)
                assert result.code in (0, 1, 7), (words, result)
                assert "bug" not in result.err, (words, result)
                if form == ["-o", "json"] and result.out:
                    json.loads(result.out)


ODD_NUMBERS = {
    "NaN": "null",
    "Infinity": "null",
    "-Infinity": "null",
    "1e999": "null",
    "1e308": "1e+308",
    "0.1": "0.1",
    "12345678901234567890123": "12345678901234567890123",
}


@pytest.mark.parametrize("sent, shown", ODD_NUMBERS.items(), ids=ODD_NUMBERS)
def test_a_number_that_json_has_no_word_for_is_null(cli, sent, shown):
    with Wire(reply(200, '{"load": %s}' % sent)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        assert cli("api", "/x", env=env).out == '{\n  "load": %s\n}\n' % shown


DEPTHS = [100, 300, 900, 3000, 30000]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PYTHONS))
def test_no_python_breaks_at_an_answer_nested_deeply(podstack_process, name):
    for depth in DEPTHS:
        with Wire(reply(200, '{"a":' * depth + "1" + "}" * depth)) as server:
            env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
            for words in ("api /x", "auth whoami -o yaml", "pod get pod-1"):
                result = podstack_process(*words.split(), python=PYTHONS[name], env=env, code=None)
                assert "bug" not in result.err, (depth, words, result.err)
                assert result.code in (0, 1, 7)


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_answer_nested_deeply_is_shown_or_refused(cli, depth):
    with Wire(reply(200, '{"a":' * depth + "1" + "}" * depth)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        for words in ("api /x", "auth whoami -o json", "auth whoami -o yaml", "pod get pod-1"):
            result = cli(*words.split(), env=env, code=None)
            assert "bug" not in result.err, (words, result)
            assert result.code in (0, 1, 7)


# -- the screen


CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("words", SHOWN)
def test_no_field_brings_a_control_character_to_the_screen(cli, words):
    forms = [[], ["-o", "json"], ["-o", "yaml"]]
    with Wire(answers(NASTY)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER, "NO_COLOR": "1"}
        for form in forms[: 1 if "-o" in words else 3]:
            for tty in (False, True):
                result = cli(*words.split() + form, env=env, tty=tty, code=None)
                assert result.code in (0, 1), result
                for text in (result.out, re.sub("\r?\x1b\\[2K", "", result.err)):
                    assert not CONTROL.search(text), (words, text)
                    assert "\nError: \\u200e" not in text  # no line of its own making
                if form == ["-o", "json"]:
                    json.loads(result.out)
                if words == "auth whoami" and not form:
                    assert result.out == ESCAPED + "\n"


ERRORS = {
    "message": (400, {"error": {"message": NASTY}}, "Error: " + ESCAPED),
    "text": (409, {"error": NASTY}, "Error: " + ESCAPED),
    "OAuth": (400, {"error": "x", "error_description": NASTY}, "Error: " + ESCAPED),
    "teapot": (418, {"error": {"message": NASTY}}, "Error: " + ESCAPED),
}


@pytest.mark.parametrize("status, body, first", ERRORS.values(), ids=ERRORS)
def test_no_error_brings_a_control_character_to_the_screen(cli, status, body, first):
    if isinstance(body["error"], dict):
        body["error"]["details"] = [{"field": NASTY, "message": NASTY}] * 30
    with Wire(reply(status, body)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        result = cli("auth", "whoami", "--no-color", env=env, tty=True, code=1)
    assert result.error == first
    assert not CONTROL.search(result.err)
    assert len(result.err.splitlines()) <= 12  # at most ten fields


@pytest.mark.parametrize("status", [403, 404, 500])
def test_no_header_brings_a_control_character_to_the_screen(cli, status):
    nasty = NASTY.split("\r")[0].encode("utf-8").replace(b"\0", b"")
    answer = b"HTTP/1.1 %d %s\r\nX-Request-Id: %s\r\nContent-Length: 0\r\n\r\n" % (
        status, nasty, nasty)  # fmt: skip
    with Wire(answer) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        result = cli("auth", "whoami", "--debug", env=env, tty=True, code=None)
    assert result.code in (5, 6, 7)
    assert not CONTROL.search(re.sub("\x1b\\[31mError: \x1b\\[0m", "", result.err)), result.err


def test_a_redirect_brings_no_control_character_to_the_screen(cli):
    answer = b"HTTP/1.1 302 x\r\nLocation: http://e/\x1b[2J\xc2\x9b\r\nContent-Length: 0\r\n\r\n"
    with Wire(answer) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        result = cli("auth", "whoami", env=env, code=7)
    assert result.error == (
        "Error: Cannot reach 127.0.0.1: it redirects to http://e/\\x1b[2J\u00c2\\x9b, "
        "which is not followed"
    )


def test_a_log_passes_colours_and_nothing_else(cli):
    log = "\x1b[1;31mred\x1b[0m " + NASTY + "\n\x1b[38:5:9mx\x1b[?25l\x1b[6n\n"
    with Wire(reply(200, log)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        result = cli("pod", "logs", "pod-1", env=env, tty=True)
    kept = re.sub("\x1b\\[[0-9;:]*m", "", result.out)
    assert not CONTROL.search(kept)
    assert result.out.startswith("\x1b[1;31mred\x1b[0m \\x1b]0;owned\\x07\\x1b[2J\\x9b31m")
    assert result.out.endswith("\x1b[38:5:9mx\\x1b[?25l\\x1b[6n\n")


@pytest.mark.parametrize("email", [NASTY, "a\ud800b", "x" * 100000, "\u202emoc.elpmaxe@resu", "#",
                                   "- a: &b *c", "'\"\\"], ids=range(7))  # fmt: skip
def test_an_address_from_a_hostile_server_is_stored_safely_or_not_at_all(cli, config, email):
    with Wire(reply(200, {"email": email, "account_id": "acc_1", "token": {}})) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_STORAGE": "file"}
        login = cli("auth", "login", "--token", "psk_mine_mine", env=env)
        assert not CONTROL.search(login.err)
        listed = cli("auth", "list", "-o", "json", env=env)
        assert json.loads(listed.out)[0]["email"] in (email, email.replace("\ud800", "\ufffd"))
        token = cli("auth", "token", env=env)
        assert token.out == "psk_mine_mine\n"


def test_half_a_character_is_a_replacement_character(cli):
    with Wire(answers("a\ud800b\udfff")) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        for words in ("auth whoami", "auth status", "project list", "pod list -o json",
                      "pod list -o yaml", "api /x"):  # fmt: skip
            result = cli(*words.split(), env=env)
            assert "a\ufffdb\ufffd" in result.out

"""What is shown of secrets: nothing. In --debug, in errors, in tracebacks, whatever a server says.

Every secret of a run is looked for on both streams in every form that a text may carry it in.
"""

import base64
import json
import re
import subprocess
import sys
import urllib.parse

import pytest
from conftest import CHECKOUT, USER
from wire import Wire, reply

import podstack

OPAQUE = "0paque/Token+with=Odd~chars"
FORMS = {
    "raw": lambda secret: secret,
    "percent": lambda secret: urllib.parse.quote(secret, safe=""),
    "percent, lower case": lambda secret: re.sub(
        "%[0-9A-F]{2}", lambda m: m.group().lower(), urllib.parse.quote(secret, safe="")),
    "form": urllib.parse.quote_plus,
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON with escaped slashes": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "repr": lambda secret: repr(secret)[1:-1],
    "hex": lambda secret: secret.encode().hex(),
    "HEX": lambda secret: secret.encode().hex().upper(),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 after 1 byte": lambda secret: base64.b64encode(b"x" + secret.encode()).decode(),
    "base64 after 2 bytes": lambda secret: base64.b64encode(b"xy" + secret.encode()).decode(),
    "base64 after user:": lambda secret: base64.b64encode(b"user:" + secret.encode()).decode(),
    "base64 amid more": lambda secret: base64.b64encode(b"x" + secret.encode() + b"yz").decode(),
    "base64url": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
}  # fmt: skip


def traces_of(secret):
    """Pieces of a secret that would give it away, in any form."""
    pieces = {form(secret)[4:-6] for form in FORMS.values()}
    return {piece for piece in pieces if len(piece) > 5}


def assert_unseen(result, *secrets):
    for secret in secrets:
        for trace in traces_of(secret):
            assert trace not in result.err, (trace, result)


# -- by value


def test_an_answer_of_10_MB_is_masked_within_the_memory_of_a_small_machine():
    limit = "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))"
    script = (
        "import podstack, resource; %s; body = '{\"token\": \"%%s\"}' %% ('a' * 9900000)" % limit
    )
    script += "; print(podstack.redact_names(body))"
    done = subprocess.run([sys.executable, "-c", script], cwd=str(CHECKOUT), stdout=subprocess.PIPE)
    assert done.stdout == b'{"token": "****"}\n'


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "secret",
    ["psk_live_0123456789abcdef", OPAQUE, "abcde", "x" * 200, "Quote'd\"Tok\\en", "A/B/C/D/E+F+G"],
    ids=["psk", "opaque", "short", "long", "quotes", "slashes"],
)
def test_a_known_secret_is_masked_in_every_form(form, secret):
    for text in ("%s", "before %s after", '{"message": "is %s bad?"}', "%s%s"):
        shown = podstack.redact(text.replace("%s", form(secret)), {secret, "other"})
        for piece in (form(secret), form(secret)[2:-4]):
            assert piece not in shown or len(piece) < 4
        assert "****" in shown


def test_words_that_are_no_secrets_stay():
    text = 'GET /v1/pods?state_of=x "code_of": "conduct" podstack_1 psk_x'
    assert podstack.redact_names(podstack.redact(text, {"another-secret"})) == text


def test_a_token_that_nobody_knows_is_masked_by_its_shape():
    shown = podstack.redact("psk_abcdef and podstack_0123456789abcdefgh.")
    assert shown == "psk_**** and podstack_****"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("of https://me:pa55@h/, me@h", "of https://****@h/, me@h"),
        ("https://me:p@55@h", "https://****@h"),
        ("https://h/me@h https://h?x=a@b", "https://h/me@h https://h?x=a@b"),
    ],
)
def test_a_password_in_an_address_is_masked_by_its_place(text, shown):
    assert podstack.redact(text) == shown


def test_the_mask_of_an_address_hides_no_name_of_a_secret(api, cli):
    """In a compact answer the next @ may stand in a variable of the pod."""
    body = b'{"id":"pod-1","jupyter_url":"https://h","env":{"A":"s3cret@tail","B":"more"}}'
    api.next("/v1/pods/pod-1", body=body)
    err = cli("pod", "get", "pod-1", "--debug", env={"PODSTACK_API_TOKEN": USER}).err
    assert '"jupyter_url":"https://h","env":{****}}' in err
    assert "tail" not in err and "more" not in err


# -- by name


@pytest.mark.parametrize(
    "text, shown",
    [
        ('{"access_token": "abc", "expires_in": 3}', '{"access_token": "****", "expires_in": 3}'),
        ('{"refresh_token":"a\\"bc"}', '{"refresh_token":"****"}'),
        ('{"device_code" : "abc"', '{"device_code" : "****"'),
        ('{"Password": "cut off', '{"Password": "****"'),
        ('{"token": {"id": "tok-1"}}', '{"token": {"id": "tok-1"}}'),
        ('{"code": "VALIDATION_ERROR"}', '{"code": "VALIDATION_ERROR"}'),
        ('{"user_code": "ABCD-EFGH"}', '{"user_code": "ABCD-EFGH"}'),
        ('{"env": {"A": "b}", "C": "d\\"}"}, "x": 1}', '{"env": {****}, "x": 1}'),
        ('{"env": {"A": "cut', '{"env": {****}'),
        ('{"api_key": "abc", "apiKey": "d"}', '{"api_key": "****", "apiKey": "****"}'),
        ("GET https://h/page#access_token=a", "GET https://h/page#access_token=****"),
        ("grant_type=x&code=abc&code_verifier=d%20e&client_id=y",
         "grant_type=x&code=****&code_verifier=****&client_id=y"),
        ("refresh_token=abc", "refresh_token=****"),
        ("GET https://h/callback?state=a&code=b", "GET https://h/callback?state=****&code=****"),
        ("encode=abc&barcode=d", "encode=abc&barcode=d"),
    ],
)  # fmt: skip
def test_a_secret_is_masked_by_its_name(text, shown):
    assert podstack.redact_names(text) == shown


# -- whole commands


@pytest.mark.parametrize("switch", [["--debug"], []], ids=["--debug", "PODSTACK_DEBUG"])
@pytest.mark.parametrize("token, masked", [(USER, "psk_****"), ("podstack_x_" + "y" * 20,
                         "podstack_****"), (OPAQUE, "****")])  # fmt: skip
def test_debug_shows_every_request_without_the_token(cli, switch, token, masked):
    body = {"email": "user@example.com", "token": {}, "echo": [f(token) for f in FORMS.values()]}
    head = {"X-Echo": token, "Set-Cookie": "session=verysecret"}
    with Wire(reply(200, body, head)) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": token}
        env["PODSTACK_DEBUG"] = None if switch else "1"
        result = cli("auth", "whoami", *switch, env=env)
    assert "debug: > GET %s/v1/auth/whoami\n" % server.url in result.err
    assert "debug: > Authorization: Bearer %s\n" % masked in result.err
    assert "debug: < HTTP 200 in " in result.err
    assert "debug: < x-echo: %s\n" % masked in result.err
    assert "debug: < set-cookie: ****\n" in result.err
    assert result.out == "user@example.com\n"
    assert_unseen(result, token)


def test_without_debug_nothing_is_said(api, cli):
    assert cli("auth", "whoami", env={"PODSTACK_API_TOKEN": USER, "PODSTACK_DEBUG": ""}).err == ""


def test_a_token_with_line_ends_around_it_is_known_without_them(cli):
    with Wire(reply(418, {"error": {"message": "I saw %s" % OPAQUE}})) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": OPAQUE + "\r\n"}
        result = cli("auth", "whoami", "--debug", env=env, code=1)
    assert "Error: I saw ****\n" in result.err
    assert_unseen(result, OPAQUE)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("words", ["auth whoami", "auth doctor", "auth status -o json", "api /x",
                                   "project create --name x"])  # fmt: skip
def test_an_error_that_echoes_the_token_is_shown_without_it(cli, form, words):
    said = "No: " + form(OPAQUE)
    body = {"error": {"message": said, "details": [{"field": said, "message": said}]}}
    with Wire(reply(422, body, {"X-Request-Id": said})) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": OPAQUE}
        result = cli(*words.split(), "--debug", env=env, code=1)
    assert "No: " in result.err + result.out
    assert_unseen(result, OPAQUE)
    for trace in traces_of(OPAQUE):
        assert trace not in result.out


def test_a_secret_is_masked_before_anything_is_cut(cli):
    """Were the text cut first, the token's first half would stay."""
    for at in range(podstack.MAX_SHOWN - 40, podstack.MAX_SHOWN + 8, 3):
        filler = "x" * at
        with Wire(reply(400, {"error": filler + OPAQUE + filler})) as server:
            env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": OPAQUE}
            result = cli("auth", "whoami", "--debug", env=env, code=1)
        assert OPAQUE[:5] not in result.err
        assert max(len(line) for line in result.err.splitlines()) < podstack.MAX_SHOWN + 200


def test_an_answer_beyond_measure_is_cut(cli):
    with Wire(reply(400, {"error": "x" * 9000000})) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": USER}
        result = cli("auth", "whoami", env=env, code=1)
    assert result.error == "Error: %s..." % ("x" * podstack.MAX_SHOWN)


def test_what_a_pod_is_to_hold_is_not_shown(api, cli):
    env = {"PODSTACK_API_TOKEN": USER}
    result = cli("pod", "create", "--name", "n", "--image", "i", "--env", "HF_TOKEN=hf_hidden",
                 "--debug", env=env)  # fmt: skip
    assert api.calls("POST")[0].json["env"] == {"HF_TOKEN": "hf_hidden"}
    assert '"env": {****}' in result.err
    assert "hf_hidden" not in result.err


# -- signing in


LOGIN_SECRETS = ("code", "code_verifier", "refresh_token", "access_token")


def test_a_browser_login_shows_none_of_its_secrets(api, podstack_process, tmp_path):
    from sandbox import browser_command

    env = {"BROWSER": browser_command("person"), "PODSTACK_STORAGE": "file"}
    result = podstack_process("auth", "login", "--browser", "--debug", env=env)
    assert "Signed in as user@example.com" in result.err
    spent = [call.form for call in api.calls("POST", "/oauth/token")]
    assert len(spent) == 1
    tokens = [value for value in api.tokens if value.startswith("psa_")]
    assert_unseen(result, spent[0]["code"][0], spent[0]["code_verifier"][0],
                  *tokens + list(api.refresh_tokens))  # fmt: skip
    assert "code_verifier=****" in result.err


def signed_in(api, config, **changes):
    grant = dict(api.issue_oauth(expires_in=1), **changes)
    config.write_text(
        "auth:\n  token: %s\n  refresh_token: %s\n  expires: 2020-01-01T00:00:00Z\n"
        "  endpoint: %s\n  issuer: %s\n"
        % (grant["access_token"], grant["refresh_token"], api.url, api.url)
    )
    config.chmod(0o600)
    return grant


def test_a_refresh_shows_none_of_its_secrets(api, cli, config):
    old = signed_in(api, config)
    result = cli("auth", "whoami", "--debug")
    assert len(api.calls("POST", "/oauth/token")) == 1
    assert_unseen(result, old["access_token"], old["refresh_token"], *api.refresh_tokens)
    assert "refresh_token=****" in result.err


def test_a_refused_refresh_that_echoes_shows_none_either(api, cli, config):
    old = signed_in(api, config)
    said = "token %s is unknown" % old["refresh_token"]
    body = {"error": "server_error_" + old["refresh_token"], "error_description": said}
    api.next("/oauth/token", status=400, body=body)
    result = cli("auth", "whoami", "--debug", code=7)
    assert_unseen(result, old["access_token"], old["refresh_token"])


def test_a_revocation_shows_none(api, cli, config):
    old = signed_in(api, config)
    result = cli("auth", "revoke", "--yes", "--debug")
    assert len(api.calls("POST", "/oauth/revoke")) == 2
    assert_unseen(result, old["access_token"], old["refresh_token"])


def test_a_device_login_shows_the_user_code_and_not_the_device_code(api, terminal):
    from sandbox import Person

    api.device_interval = 0.1
    shell = terminal("auth", "login", "--device", "--debug", "--no-keyring")
    code = shell.expect(r"\r\n  ([A-Z]{4}-?[A-Z]{4})\r\n").group(1)
    Person().enter(api.url + "/device", code)
    shell.expect("Signed in as user@example.com")
    assert shell.end() == 0
    device_code = api.calls("POST", "/oauth/token")[0].form["device_code"][0]
    secrets = [device_code] + [v for v in api.tokens if v.startswith("psa_")]
    for secret in secrets + list(api.refresh_tokens):
        for trace in traces_of(secret):
            assert trace not in shell.shown


# -- tracebacks


def test_a_traceback_follows_the_message_and_holds_no_secret(cli, monkeypatch):
    def broken(*_):
        raise KeyError("with %s and %s" % (OPAQUE, FORMS["base64"](OPAQUE)))

    monkeypatch.setattr(podstack.Api, "whoami", broken)
    env = {"PODSTACK_API_TOKEN": OPAQUE, "PODSTACK_API_ENDPOINT": "http://127.0.0.1:9"}

    def handler(cx, args):
        podstack.find_credential(cx.settings)
        broken()

    found = podstack.COMMANDS[("auth", "whoami")]
    handler.__dict__.update(found.__dict__)
    monkeypatch.setitem(podstack.COMMANDS, found.words, handler)
    result = cli("auth", "whoami", "--debug", env=env, code=1)
    assert "Error: This is a bug in podstack" in result.err
    assert "Traceback (most recent call last):" in result.err
    assert "KeyError: 'with **** and ****'" in result.err
    assert_unseen(result, OPAQUE)


# -- every message about a token says where the token is from


SOURCES = {
    "environment": ("Token from PODSTACK_API_TOKEN", {"PODSTACK_API_TOKEN": "psk_wrong_token"}, ""),
    "default profile": ("Token from profile 'default' in FILE", {},
                        "auth:\n  token: psk_wrong_token\n  endpoint: URL\n"),
    "named profile": ("Token from profile 'work' in FILE", {"PODSTACK_PROFILE": "work"},
                      "profiles:\n  work:\n    token: psk_wrong_token\n    endpoint: URL\n"),
    "token_command": ("Token from token_command of profile 'default'", {},
                      "auth:\n  token_command: echo psk_wrong_token\napi:\n  endpoint: URL\n"),
}  # fmt: skip


@pytest.mark.parametrize("origin, env, text", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize(
    "code, first",
    [
        ("invalid_token", "Error: Invalid authentication token\nGenerate a new token from the "
         "dashboard (Account > API Tokens)\n"),
        ("token_expired", "Error: Token expired\nRe-authenticate: podstack auth login\n"),
    ],
)  # fmt: skip
def test_a_401_names_the_source_of_the_token(api, cli, config, origin, env, text, code, first):
    config.write_text(text.replace("URL", api.url))
    config.chmod(0o600)
    api.next(
        "/v1/pods", status=401, body={"error": {"code": code, "message": "no"}}, times=float("inf")
    )
    result = cli("pod", "list", env=env, code=4)
    assert result.err == first + origin.replace("FILE", str(config)) + "\n"
    assert result.out == ""


@pytest.mark.parametrize("origin, env, text", SOURCES.values(), ids=SOURCES)
def test_a_403_names_it_too(api, cli, config, origin, env, text):
    config.write_text(text.replace("URL", api.url))
    config.chmod(0o600)
    api.next("/v1/pods", status=403, body={"error": {"code": "x", "message": "not yours"}})
    result = cli("pod", "list", env=env, code=5)
    assert result.err == (
        "Error: Permission denied for resource\n"
        "Check if the token has access to the project: podstack project list\nnot yours\n"
        + origin.replace("FILE", str(config))
        + "\n"
    )

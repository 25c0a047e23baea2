"""Which authorization server signs in: its published metadata, and every way it can lie."""

import os
import re
import threading
import urllib.parse

import pytest
import sandbox
from logins import Login

import podstack

PROTECTED = "/.well-known/oauth-protected-resource"
METADATA = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
NOBODY = "Error: Nobody signed in within 0.01 s"
NO_LOGIN = "Error: There is no terminal to sign in from"


@pytest.fixture
def login(cli):
    """`login()` goes as far as the address to open; `code` 4 says that it came so far."""

    def run(*argv, code=4, **options):
        return cli("auth", "login", "--no-browser", "--timeout", "0.01", *argv, code=code,
                   **options)  # fmt: skip

    return run


def paths(api):
    return [request.path for request in api.requests]


def address(done):
    """The authorization URL that was shown, taken apart."""
    url = urllib.parse.urlsplit(re.search(r"^  (\S+)$", done.err, re.MULTILINE).group(1))
    return url, dict(urllib.parse.parse_qsl(url.query))


# ---- where it is looked for


def test_the_endpoint_names_its_authorization_server(api, login):
    done = login()
    assert paths(api) == [PROTECTED, METADATA]
    url, asked = address(done)
    assert url.path == "/oauth/authorize"
    assert re.match(r"[\w-]{43}$", asked.pop("state"))
    assert re.match(r"[\w-]{43}$", asked.pop("code_challenge"))
    assert re.match(r"http://127\.0\.0\.1:\d+/callback$", asked.pop("redirect_uri"))
    assert asked == {
        "response_type": "code",
        "client_id": "podstack-cli",
        "code_challenge_method": "S256",
        "scope": "openid profile email offline_access",
        "prompt": "consent",
        "resource": api.url,
    }


def test_state_and_challenge_are_new_each_time(api, login):
    first, second = address(login())[1], address(login())[1]
    assert first["state"] != second["state"]
    assert first["code_challenge"] != second["code_challenge"]


def test_without_resource_metadata_the_endpoint_is_its_own_server(api, login):
    api.next(PROTECTED, status=404)
    _, asked = address(login())
    assert "resource" not in asked


def test_an_issuer_with_a_path_has_it_behind_the_well_known_part(api, login):
    api.issuer_path = "/tenant/a"
    login()
    assert paths(api) == [PROTECTED, METADATA + "/tenant/a"]


def test_an_endpoint_with_a_path_has_it_behind_the_well_known_part(api, login):
    api.prefix = "/podstack"
    login(env={"PODSTACK_API_ENDPOINT": api.url + "/podstack/v1/"})
    assert paths(api) == [PROTECTED + "/podstack", METADATA]


@pytest.mark.parametrize("path", ["", "/tenant"])
def test_openid_metadata_serves_where_there_is_no_other(api, login, path):
    api.metadata_name = "openid-configuration"
    api.issuer_path = path
    login()
    assert paths(api) == [PROTECTED, METADATA + path, path + OPENID]


def test_the_scopes_asked_for_are_those_that_the_server_lists(api, login):
    api.metadata = {"scopes_supported": ["email", "openid", "admin"]}
    _, asked = address(login())
    assert asked["scope"] == "openid email"
    assert "prompt" not in asked


@pytest.mark.parametrize("listed", [None, [], "openid", 5])
def test_all_scopes_are_asked_for_where_none_are_listed(api, login, listed):
    api.metadata = {"scopes_supported": listed}
    assert address(login())[1]["scope"] == "openid profile email offline_access"


def test_an_authorization_endpoint_keeps_its_own_query(api, login):
    api.metadata = {"authorization_endpoint": api.url + "/oauth/authorize?tenant=7"}
    url, asked = address(login())
    assert url.query.startswith("tenant=7&response_type=code&")
    assert asked["client_id"] == "podstack-cli"


def test_another_client_id_is_used_and_remembered(api, config):
    api.clients = {"my-client"}
    environ = dict(os.environ, PODSTACK_CLIENT_ID="my-client")
    running = Login("auth", "login", "--no-browser", environ=environ)
    assert running.asked()["client_id"] == "my-client"
    sandbox.Person().visit(running.url)
    running.end(0)
    assert "client_id: my-client" in config.read_text()
    assert re.search("issuer: .?" + re.escape(api.url), config.read_text())


# ---- absent, or failing


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 400}, {"status": 401}, {"status": 403}, {"status": 404}, {"status": 410},
        {"body": "<html>not found</html>"}, {"body": ""}, {"body": b"[]"}, {"body": b"null"},
        {"body": b'"text"'}, {"body": b"{"}, {"body": b"\xff\xfe"}, {"body": b"[" * 100000},
        {"status": 204, "body": b""},
    ],
    ids=lambda answer: "%s-%.6r" % (answer.get("status", 200), answer.get("body", "")),
)  # fmt: skip
def test_what_is_no_metadata_means_that_there_is_no_browser_login(api, login, answer, config):
    api.next("/.well-known/", times=3, **answer)
    assert login(code=2).error == NO_LOGIN
    assert paths(api) == [PROTECTED, METADATA, OPENID]
    assert not config.exists()


FAILING = [
    ({"status": 500}, "Podstack is having trouble (HTTP 500, request id req-"),
    ({"status": 501}, "Podstack is having trouble (HTTP 501, request id req-"),
    ({"status": 302, "redirect": "https://evil.example/x"},
     "Cannot reach 127.0.0.1: it redirects to https://evil.example/x, which is not followed"),
    ({"status": 301, "redirect": "/.well-known/elsewhere"},
     "Cannot reach 127.0.0.1: it redirects to /.well-known/elsewhere, which is not followed"),
    ({"times": float("inf"), "drop": True},
     "Cannot reach 127.0.0.1: it closed the connection without an answer"),
    ({"times": float("inf"), "truncate": True}, "Cannot reach 127.0.0.1: its answer was cut off"),
]  # fmt: skip


@pytest.mark.parametrize("place", [PROTECTED, METADATA])
@pytest.mark.parametrize("answer, error", FAILING, ids=["500", "501", "302", "301", "drop", "cut"])
def test_a_failing_server_is_no_server_without_login(api, login, place, answer, error, config):
    api.next(place, **answer)
    done = login(code=7, sleep=lambda seconds: None)
    assert done.error.startswith("Error: " + error)
    assert not config.exists()


# ---- metadata that lies: one error line, nothing opened, nothing sent, nothing stored


def refused(api, done, error, config):
    hint = "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)"
    assert done.err == "Error: %s\n%s\n" % (error, hint)
    assert "Open this address" not in done.err
    assert done.out == ""
    assert not api.calls("POST")
    assert not config.exists()


RESOURCES = {
    "another": ("https://evil.example", "https://evil.example"),
    "another-port": ("http://127.0.0.1:1", "http://127.0.0.1:1"),
    "longer": ("%s/other", "%s/other"),
    "user-info": ("http://a@127.0.0.1", "http://****@127.0.0.1"),
    "query": ("%s?x=1", "%s?x=1"),
    "number": (5, "5"),
    "list": (["%s"], "['%s']"),
    "missing": (None, "None"),
    "escape": ("\x1b[2J", "\\x1b[2J"),
}


@pytest.mark.parametrize("resource, shown", RESOURCES.values(), ids=RESOURCES.keys())
def test_metadata_for_another_resource(api, login, config, resource, shown):
    filled = resource % api.url if isinstance(resource, str) and "%" in resource else resource
    filled = [api.url] if isinstance(resource, list) else filled
    api.resource_metadata = {"resource": filled}
    shown = shown % api.url if "%" in shown else shown
    error = "The server's metadata is for %s, not for %s" % (shown, api.url)
    refused(api, login(code=1), error, config)


@pytest.mark.parametrize("form", ["%s/", "%s/v1", "%s/v1/"])
def test_the_same_resource_in_another_form_is_the_same(api, login, form):
    api.resource_metadata = {"resource": form % api.url}
    assert address(login())[1]["resource"] == form % api.url


BAD_URLS = {
    "http": ("http://evil.example/x", "it is not https"),
    "http-like-loopback": ("http://127.0.0.1.evil.example/x", "it is not https"),
    "http-short-loopback": ("http://127.1/x", "it is not https"),
    "http-decimal-loopback": ("http://2130706433/x", "it is not https"),
    "ftp": ("ftp://127.0.0.1/x", "it does not begin with https://"),
    "javascript": ("javascript:alert(1)", "it does not begin with https://"),
    "relative": ("/oauth/x", "it does not begin with https://"),
    "user-info": ("http://127.0.0.1@evil.example/", "it has a user name in it"),
    "password": ("https://a:b@podstack.ai/", "it has a user name in it"),
    "backslash": ("http://127.0.0.1\\@evil.example/", "it has a character that an address may not"
                  " have"),
    "fragment": ("https://podstack.ai/#x", "it has a character that an address may not have"),
    "newline": ("https://podstack.ai/\r\nX: y", "it has a character that an address may not have"),
    "escape": ("https://podstack.ai/\x1b[2J", "it has a character that an address may not have"),
    "space": (" https://podstack.ai/", "it has a character that an address may not have"),
    "not-ascii": ("https://p\u043edstack.ai/", "it has a character that an address may not have"),
    "port": ("https://podstack.ai:0/", "its port is not a number from 1 to 65535"),
    "no-host": ("https:///x", "its host is not plain"),
    "host-like-an-option": ("https://-oProxyCommand/x", "its host is not plain"),
    "empty": ("", "it is not a text"),
    "number": (7, "it is not a text"),
    "list": (["https://podstack.ai/"], "it is not a text"),
    "object": ({"url": "https://podstack.ai/"}, "it is not a text"),
    "true": (True, "it is not a text"),
}  # fmt: skip
URL_ROWS = [pytest.param(*row, id=name) for name, row in BAD_URLS.items()]
ENDPOINTS = ["authorization", "token", "device_authorization", "revocation"]


@pytest.mark.parametrize("url, why", URL_ROWS)
def test_an_issuer_that_cannot_be_used(api, login, config, url, why):
    api.resource_metadata = {"authorization_servers": [url]}
    refused(api, login(code=1), "The server's issuer cannot be used: " + why, config)
    assert paths(api) == [PROTECTED]


@pytest.mark.parametrize("url, why", URL_ROWS)
def test_an_authorization_endpoint_that_cannot_be_used(api, login, config, url, why):
    api.metadata = {"authorization_endpoint": url}
    error = "The server's authorization endpoint cannot be used: " + why
    refused(api, login(code=1), error, config)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("url", ["http://evil.example/x", 5])
def test_no_endpoint_is_used_before_all_are_known_to_be_good(api, login, config, name, url):
    api.metadata = {name + "_endpoint": url}
    why = "it is not https" if url != 5 else "it is not a text"
    error = "The server's %s endpoint cannot be used: %s" % (name.replace("_", " "), why)
    refused(api, login(code=1), error, config)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_http_on_loopback_serves_only_an_endpoint_on_loopback(name):
    metadata = {"issuer": "i", "token_endpoint": "https://example.com/token"}
    metadata[name + "_endpoint"] = "http://127.0.0.1:8400/x"
    assert name in podstack.AuthServer(None, "i", metadata, "c", loopback=True).endpoints
    with pytest.raises(podstack.PodError) as caught:
        podstack.AuthServer(None, "i", metadata, "c")
    assert caught.value.message.endswith(" endpoint cannot be used: it is not https")


@pytest.mark.parametrize("named", [[], None, "https://evil.example", 5])
def test_without_a_named_server_the_endpoint_is_its_own(api, login, named):
    api.resource_metadata = {"authorization_servers": named}
    login()
    assert paths(api) == [PROTECTED, METADATA]


ISSUERS = ["https://evil.example", "%s/", "%s/other", "HTTP%s", "", 5, None, ["%s"], "\x1b[31m"]


@pytest.mark.parametrize("issuer", ISSUERS, ids=lambda issuer: "%.20r" % (issuer,))
def test_metadata_of_another_issuer(api, login, config, issuer):
    lie = issuer
    if isinstance(issuer, str) and "%" in issuer:
        lie = issuer % (api.url if issuer[0] == "%" else api.url[4:])
    api.metadata = {"issuer": [api.url] if isinstance(issuer, list) else lie}
    shown = podstack.printable(api.metadata["issuer"])
    error = "The server's metadata is from issuer %s, not from %s" % (shown, api.url)
    refused(api, login(code=1), error, config)


@pytest.mark.parametrize("methods", [[], ["plain"], ["s256"], "S256", {"S256": 1}, 5, [["S256"]]])
def test_a_server_without_pkce_s256(api, login, config, methods):
    api.metadata = {"code_challenge_methods_supported": methods}
    error = "The authorization server does not support PKCE S256"
    refused(api, login(code=1), error, config)


@pytest.mark.parametrize("name", ["authorization", "token"])
def test_an_endpoint_that_is_missing(api, login, config, name):
    api.metadata = {name + "_endpoint": None}
    error = "The authorization server has no %s endpoint" % name
    refused(api, login(code=1), error, config)


# ---- the token answer

LIFETIMES = [None, 0, -1, True, "x", "-5", [], 1e10, float("nan"), float("inf")]


def sign_in(api, code=0, **changes):
    """A whole login whose token answer has these changes (None takes a field out)."""
    answer = dict(api.issue_oauth(), **changes)
    api.next("/oauth/token", body={k: v for k, v in answer.items() if v is not None})
    running = Login("auth", "login", "--no-browser")
    visit = threading.Thread(target=sandbox.Person().visit, args=(running.url,), daemon=True)
    visit.start()
    err = running.end(code)
    visit.join(30)
    return err, answer


@pytest.mark.parametrize("token", [None, "", 5, ["psa_x"], "two words", "a\nb", "\x1b[31m", "\xe9"])
def test_a_token_that_is_none(api, config, token):
    err, _ = sign_in(api, 7, access_token=token)
    assert "Error: The authorization server's answer holds no token\n" in err
    assert not config.exists() or "token" not in config.read_text()
    assert not api.calls(path_prefix="/v1")


@pytest.mark.parametrize("kind", ["mac", "DPoP", "", 5, ["Bearer"]])
def test_a_token_of_another_kind(api, config, kind):
    err, answer = sign_in(api, 7, token_type=kind)
    assert "Error: The authorization server's token is not a bearer token\n" in err
    assert answer["access_token"] not in err
    assert not config.exists() or "token" not in config.read_text()
    assert not api.calls(path_prefix="/v1")


@pytest.mark.parametrize("lifetime", LIFETIMES, ids=lambda value: "%.8r" % (value,))
def test_a_lifetime_that_is_none_leaves_the_expiry_to_the_api(api, config, lifetime):
    sign_in(api, expires_in=lifetime)
    assert re.search(r"expires: \d{4}-\d\d-\d\dT", config.read_text())


@pytest.mark.parametrize("refresh", [None, "", 5, ["psr_x"], "two words", "a\nb: c"])
def test_a_refresh_token_that_is_none_is_not_kept(api, config, refresh):
    sign_in(api, refresh_token=refresh)
    assert "psa_" in config.read_text()
    assert "refresh_token" not in config.read_text()

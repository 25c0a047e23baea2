"""Through a proxy: which one, for what, how it is asked, and how its failures are told.

The proxy is a real one. The API behind it has a name that no name server knows: only the proxy
can reach it.
"""

import base64
import shutil
import socket
import sys
import threading
import time

import pytest
from conftest import PYTHONS, USER
from wire import Authority, Wire, reply, server_context

import podstack

WHOAMI = reply(200, {"email": "user@example.com", "account_id": "acc_123456", "token": {}})
FAR = "https://api.test.invalid"
FAR_IP6 = "https://[2001:db8::1]:8443"
HERE = "DNS:api.test.invalid,DNS:other.invalid,IP:10.1.2.3,IP:2001:db8::1"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    known = Authority(tmp_path_factory.mktemp("authority"))
    known.chain = known.issue("far", HERE)
    return known


@pytest.fixture
def far(authority):
    """The API that only the proxy reaches."""
    with Wire(WHOAMI, tls=server_context(*authority.chain)) as server:
        yield server


@pytest.fixture
def proxy(far):
    """A proxy that takes every CONNECT to `far`."""

    def answer(connection):
        if connection.request().startswith(b"CONNECT "):
            connection.send(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
            splice(connection.sock, far.port)

    with Wire(answer) as server:
        yield server


def splice(sock, port):
    """Carry bytes both ways until one side ends."""
    with socket.create_connection(("127.0.0.1", port)) as other:
        back = threading.Thread(target=pump, args=(other, sock), daemon=True)
        back.start()
        pump(sock, other)
        back.join(10)


def pump(source, sink):
    try:
        for data in iter(lambda: source.recv(65536), b""):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has gone


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, authority):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    monkeypatch.setenv("PODSTACK_API_ENDPOINT", FAR)
    monkeypatch.setenv("PODSTACK_CA_BUNDLE", authority.pem)


def connect_head(proxy):
    """The head of the CONNECT request: its line, and its headers."""
    lines = proxy.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return lines[0], dict(line.split(": ", 1) for line in lines[1:])


def told(proxy, reason, variable="HTTPS_PROXY", host="api.test.invalid"):
    first = "Error: Cannot reach %s: proxy 127.0.0.1:%d: %s" % (host, proxy.port, reason)
    return "%s\nThe proxy is from %s; NO_PROXY names what goes without\n" % (first, variable)


# -- the way there


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("form", ["http://127.0.0.1:%d", "127.0.0.1:%d", "HTTP://127.0.0.1:%d/",
                                  " http://127.0.0.1:%d/path "])  # fmt: skip
def test_a_proxy_is_asked_for_a_tunnel(proxy, far, cli, variable, form):
    assert cli("auth", "whoami", env={variable: form % proxy.port}).out == "user@example.com\n"
    assert connect_head(proxy) == (
        "CONNECT api.test.invalid:443 HTTP/1.1",
        {"Host": "api.test.invalid:443", "Accept-Encoding": "identity"},
    )
    assert USER.encode() not in proxy.received  # what goes through the tunnel is TLS
    assert b"\r\nHost: api.test.invalid\r\n" in far.received
    assert b"\r\nAuthorization: Bearer " + USER.encode() in far.received


@pytest.mark.parametrize(
    "written, pair",
    [
        ("user:secret", "user:secret"),
        ("user%40corp:p%3Aa%2Fss%25", "user@corp:p:a/ss%"),
        ("user:p@ss", "user:p@ss"),
        ("user:pa/ss", "user:pa/ss"),
        ("user", "user"),
        ("user:", "user:"),
        ("us%C3%BCr:p%C3%A4ss", "us\u00fcr:p\u00e4ss"),
    ],
)
def test_credentials_go_to_the_proxy_alone(proxy, far, cli, written, pair):
    cli("auth", "whoami", env={"HTTPS_PROXY": "http://%s@127.0.0.1:%d" % (written, proxy.port)})
    _, headers = connect_head(proxy)
    expected = "Basic " + base64.b64encode(pair.encode()).decode()
    assert headers["Proxy-Authorization"] == expected
    assert b"Proxy-Authorization" not in far.received


def test_the_lower_case_variable_wins_and_the_scheme_s_own(proxy, cli):
    dead = "http://127.0.0.1:9"
    good = "http://127.0.0.1:%d" % proxy.port
    cli("auth", "whoami", env={"https_proxy": good, "HTTPS_PROXY": dead, "ALL_PROXY": dead})
    cli("auth", "whoami", env={"https_proxy": "", "HTTPS_PROXY": good, "all_proxy": dead})
    assert len(proxy.connections) == 2


def test_http_proxy_is_not_for_https(proxy, cli):
    env = {"HTTP_PROXY": "http://127.0.0.1:%d" % proxy.port, "PODSTACK_TIMEOUT": "5"}
    cli("auth", "whoami", env=env, code=7, sleep=lambda _: None)
    assert proxy.connections == []


def test_an_address_of_numbers_goes_through_the_tunnel_too(proxy, cli):
    env = {
        "HTTPS_PROXY": "127.0.0.1:%d" % proxy.port,
        "PODSTACK_API_ENDPOINT": FAR_IP6,
    }
    cli("auth", "whoami", env=env)
    assert connect_head(proxy)[0] == "CONNECT [2001:db8::1]:8443 HTTP/1.1"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1", "[::1]"])
def test_this_machine_is_never_reached_through_a_proxy(proxy, cli, scheme, host):
    for variable in podstack.PROXY_VARIABLES + ("HTTP_PROXY", "http_proxy"):
        env = {
            variable: "http://127.0.0.1:%d" % proxy.port,
            "PODSTACK_API_ENDPOINT": "%s://%s:9" % (scheme, host),
        }
        result = cli("auth", "whoami", env=env, code=7, sleep=lambda _: None)
        assert result.error == "Error: Cannot reach %s: connection refused" % host.strip("[]")
    assert proxy.connections == []


def test_no_redirect_brings_the_token_back_to_this_machine(proxy, far, api, cli):
    far.answer = lambda c: c.request() and c.send(reply(302, headers={"Location": api.url + "/x"}))
    env = {"HTTPS_PROXY": "127.0.0.1:%d" % proxy.port, "PODSTACK_API_ENDPOINT": FAR}
    result = cli("auth", "whoami", env=env, code=7)
    assert result.error.endswith("it redirects to %s/x, which is not followed" % api.url)
    assert api.calls() == []


# -- NO_PROXY: as curl and Go read it


@pytest.mark.parametrize(
    "listed, endpoint, skipped",
    [
        ("api.test.invalid", FAR, True),
        ("test.invalid", FAR, True),
        (".test.invalid", FAR, True),
        ("*.test.invalid", FAR, True),
        ("API.Test.INVALID", FAR, True),
        ("api.test.invalid:443", FAR, True),
        ("test.invalid:443", FAR, True),
        ("api.test.invalid:8443", FAR, False),
        ("*", FAR, True),
        ("a.example, test.invalid ,b.example", FAR, True),
        ("a.example test.invalid", FAR, True),
        ("invalid", FAR, True),
        ("est.invalid", FAR, False),
        ("pi.test.invalid", FAR, False),
        ("api.test.invalid.example", FAR, False),
        ("", FAR, False),
        (",, ,", FAR, False),
        (".", FAR, False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("10.1.2.3:443", "https://10.1.2.3", True),
        ("10.1.0.0/16", "https://10.1.2.3", True),
        ("10.2.0.0/16", "https://10.1.2.3", False),
        ("10.1.0.0/99", "https://10.1.2.3", False),
        ("10.0.0.0/8", FAR, False),
        ("2001:db8::1", FAR_IP6, True),
        ("[2001:db8::1]", FAR_IP6, True),
        ("[2001:db8::1]:8443", FAR_IP6, True),
        ("[2001:db8::1]:443", FAR_IP6, False),
        ("2001:db8::/32", FAR_IP6, True),
        ("2001:db9::/32", FAR_IP6, False),
    ],
)
def test_no_proxy_names_what_goes_without(listed, endpoint, skipped):
    env = {"HTTPS_PROXY": "http://127.0.0.1:3128", "NO_PROXY": listed}
    client = podstack.Http(podstack.App(None, None, None, env))
    assert (client.proxy_for(podstack.parse_url(endpoint)) is None) == skipped


def test_no_proxy_in_lower_case_wins():
    env = {"HTTPS_PROXY": "127.0.0.1:1", "no_proxy": "a.example", "NO_PROXY": "*"}
    client = podstack.Http(podstack.App(None, None, None, env))
    assert client.proxy_for(podstack.parse_url(FAR)) is not None


def test_what_goes_without_never_meets_the_proxy(proxy, cli):
    env = {"HTTPS_PROXY": "127.0.0.1:%d" % proxy.port, "NO_PROXY": "test.invalid"}
    env["PODSTACK_TIMEOUT"] = "5"
    result = cli("auth", "whoami", env=env, code=7, sleep=lambda _: None)
    assert result.error == "Error: Cannot reach api.test.invalid: its name cannot be resolved"
    assert proxy.connections == []


# -- failures


@pytest.mark.parametrize(
    "answer, reason, tries",
    [
        pytest.param(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
                     "it refused (HTTP 407 Proxy Authentication Required)", 1, id="407"),
        pytest.param(b"HTTP/1.1 403 Forbidden\r\n\r\n<html>no</html>",
                     "it refused (HTTP 403 Forbidden)", 1, id="403"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n",
                     "it refused (HTTP 302 Found)", 1, id="a login page"),
        pytest.param(b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
                     "it refused (HTTP 503 Service Unavailable)", 4, id="503"),
        pytest.param(b"HTTP/1.1 403\r\n\r\n", "it refused (HTTP 403)", 1, id="no reason"),
        pytest.param(b"HTTP/1.1 403 \x1b]0;x\x07\x9b31m\r\n\r\n",
                     "it refused (HTTP 403 \\x1b]0;x\\x07\\x9b31m)", 1, id="escapes"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "its answer is not HTTP", 1, id="SSH"),
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", "its answer is not HTTP", 1, id="HTTP 2"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nX: y", "its answer is not HTTP", 1,
                     id="nothing final"),
        pytest.param(b"", "it closed the connection without an answer", 4, id="nothing"),
        pytest.param(b"x" * 70000, "its answer is not HTTP", 1, id="an endless line"),
    ],
)  # fmt: skip
def test_a_proxy_that_does_not_serve_is_named(cli, answer, reason, tries):
    with Wire(lambda c: c.request() and c.send(answer)) as proxy:
        env = {"HTTPS_PROXY": "http://user:secret@127.0.0.1:%d" % proxy.port}
        result = cli("auth", "whoami", env=env, code=7, sleep=lambda _: None)
        assert result.err == told(proxy, reason)
        assert len(proxy.connections) == tries
        assert USER.encode() not in proxy.received


def test_a_proxy_that_is_not_there_is_named(cli):
    with Wire(b"") as proxy:
        pass
    env = {"ALL_PROXY": "http://user:secret@127.0.0.1:%d" % proxy.port}
    result = cli("auth", "whoami", env=env, code=7, sleep=lambda _: None)
    assert result.err == told(proxy, "connection refused", "ALL_PROXY")


@pytest.mark.parametrize(
    "piece", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK"],
    ids=["silent", "interim answers", "dripping"],
)  # fmt: skip
def test_a_slow_proxy_ends_with_the_time_limit(cli, piece):
    def answer(connection):
        connection.request()
        while piece and not connection.closing.is_set():
            connection.drip(piece, 0.02)
        connection.more()

    with Wire(answer) as proxy:
        env = {"HTTPS_PROXY": "127.0.0.1:%d" % proxy.port, "PODSTACK_TIMEOUT": "0.3"}
        began = time.monotonic()
        result = cli("auth", "whoami", env=env, code=7)
        assert time.monotonic() - began < 3
        assert result.err == told(proxy, "no answer within 0.3 s")
        proxy.settle()


def test_a_proxy_with_several_addresses_may_take_its_time(far, cli, monkeypatch):
    """Each of them but the last gets a short time for the connection; the answer, the whole."""
    monkeypatch.setattr(podstack, "CONNECT_SECONDS", 0.2)

    def answer(connection):
        connection.request()
        connection.closing.wait(0.8)
        connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        splice(connection.sock, far.port)

    with Wire(answer) as proxy:
        env = {"HTTPS_PROXY": "localhost:%d" % proxy.port}
        assert cli("auth", "whoami", env=env).out == "user@example.com\n"
        assert len(proxy.connections) == 1


@pytest.mark.parametrize("host", [".x", "a..b", "x" * 70])
def test_a_name_that_no_certificate_can_have_is_an_error_like_others(proxy, podstack_process, host):
    for python in {PYTHONS.get("3.6.15", sys.executable), sys.executable}:
        env = {
            "HTTPS_PROXY": "127.0.0.1:%d" % proxy.port,
            "PODSTACK_API_ENDPOINT": "https://" + host,
        }
        result = podstack_process("auth", "whoami", python=python, env=env, code=7)
        assert result.error.startswith("Error: Cannot reach %s: " % host)


def test_a_creating_post_that_the_proxy_refused_created_nothing(cli):
    refusal = b"HTTP/1.1 403 Forbidden\r\n\r\n"
    with Wire(lambda c: c.request() and c.send(refusal)) as proxy:
        env = {"HTTPS_PROXY": "127.0.0.1:%d" % proxy.port}
        result = cli("project", "create", "--name", "x", env=env, code=7)
        assert result.err == told(proxy, "it refused (HTTP 403 Forbidden)")


@pytest.mark.parametrize(
    "value, reason",
    [
        ("socks5://127.0.0.1:1080", "HTTPS_PROXY is not the address of a proxy: only http:// ones "
         "are supported"),
        ("HTTPS://127.0.0.1:3128", "HTTPS_PROXY is not the address of a proxy: only http:// ones "
         "are supported"),
        ("user:secret://127.0.0.1:1", "HTTPS_PROXY is not the address of a proxy: only http:// "
         "ones are supported"),
        ("http://127.0.0.1:port", "HTTPS_PROXY is not the address of a proxy: its port is not a "
         "number from 1 to 65535"),
        ("http://user:secret@", "HTTPS_PROXY is not the address of a proxy: its host is not plain"),
        ("http://pro xy:3128", "HTTPS_PROXY is not the address of a proxy: its host is not plain"),
    ],
    ids=["SOCKS", "https", "a secret scheme", "port", "no host", "a space"],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_told_before_anything_is_sent(cli, value, reason):
    result = cli("auth", "whoami", env={"HTTPS_PROXY": value}, code=7)
    assert result.error == "Error: Cannot reach api.test.invalid: " + reason
    assert "secret" not in result.err


def test_the_certificate_is_checked_through_the_tunnel(authority, proxy, far, cli):
    env = {
        "HTTPS_PROXY": "127.0.0.1:%d" % proxy.port,
        "PODSTACK_API_ENDPOINT": "https://elsewhere.invalid",
    }
    result = cli("auth", "whoami", env=env, code=7)
    assert result.error == (
        "Error: Cannot reach elsewhere.invalid: its certificate is for another host"
    )
    far.settle()
    assert far.received == b""


# -- what is shown of it


def test_debug_shows_the_proxy_and_masks_its_password(proxy, cli):
    url = "http://user%%40corp:p%%3Ass-word@127.0.0.1:%d" % proxy.port
    result = cli("auth", "whoami", "--debug", env={"HTTPS_PROXY": url})
    shown = "debug: > CONNECT api.test.invalid:443 through proxy 127.0.0.1:%d\n" % proxy.port
    assert shown + "debug: > Proxy-Authorization: Basic ****\n" in result.err
    for form in ("p:ss-word", "p%3Ass-word", base64.b64encode(b"user@corp:p:ss-word").decode()):
        assert form not in result.err


def test_a_proxy_that_echoes_the_password_gets_it_masked(cli):
    def answer(connection):
        head = connection.request().decode()
        coded = head.partition("Basic ")[2].partition("\r")[0]
        plain = base64.b64decode(coded).decode()
        connection.send(("HTTP/1.1 407 not %s or %s\r\n\r\n" % (coded, plain)).encode())

    with Wire(answer) as proxy:
        env = {"HTTPS_PROXY": "http://user:hunter22@127.0.0.1:%d" % proxy.port}
        result = cli("auth", "whoami", "--debug", env=env, code=7)
        assert "it refused (HTTP 407 not **** or user:****)" in result.err
        assert "hunter22" not in result.err


def test_doctor_tells_of_the_proxy(proxy, cli):
    env = {"HTTPS_PROXY": "http://user:hunter22@127.0.0.1:%d" % proxy.port}
    result = cli("auth", "doctor", env=env, code=None)
    assert "https://api.test.invalid through proxy 127.0.0.1:%d" % proxy.port in result.out
    assert "hunter22" not in result.out + result.err

"""Who is at the other end: certificates that are refused, and why, before anything is sent.

The servers speak real TLS, their certificates come from the openssl program.
"""

import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import pytest
from conftest import PODSTACK, PYTHONS, USER
from wire import Authority, Wire, reply, server_context, three_pages

import podstack

WHOAMI = reply(200, {"email": "user@example.com", "account_id": "acc_123456", "token": {}})
DOCTOR = "Find out why: podstack auth doctor"
HINT = "If your network has its own certificate authority, set PODSTACK_CA_BUNDLE to its file"
UNVERIFIED = "its certificate cannot be verified"
HERE = "DNS:localhost,IP:127.0.0.1"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """An authority that the client is told to trust, and certificates by it: good and bad."""
    known = Authority(tmp_path_factory.mktemp("known"))
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "Stranger")
    known.chains = {
        "good": known.issue("good", HERE),
        "name only": known.issue("name", "DNS:localhost"),
        "expired": known.issue("expired", HERE, end="20210101000000Z"),
        "not yet valid": known.issue("young", HERE, start="20480101000000Z"),
        "wrong host": known.issue("wrong", "DNS:other.test"),
        "wildcard": known.issue("wild", "DNS:*.localhost"),
        "self-signed": known.issue("self", HERE, self_signed=True),
        "unknown authority": stranger.issue("unknown", HERE),
        "weak key": known.issue("weak", HERE, bits=1024),
        "SHA-1": known.issue("sha1", HERE, digest="sha1"),
    }
    return known


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


def at_localhost(server):
    return "https://localhost:%d" % server.port


def error_lines(reason, hint, host="localhost"):
    return "Error: Cannot reach %s: %s\n%s\n" % (host, reason, hint)


# -- certificates


REFUSED = {
    "expired": "its certificate has expired",
    "not yet valid": "its certificate is not valid yet (check this machine's clock)",
    "wrong host": "its certificate is for another host",
    "wildcard": "its certificate is for another host",
    "self-signed": "its certificate is self-signed",
    "unknown authority": "its certificate comes from an authority that is not trusted here",
    "weak key": "its certificate's key is too weak",
    "SHA-1": "its certificate's signature is too weak",
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_certificate_that_is_not_right_is_refused_before_anything_is_sent(authority, cli, case):
    with Wire(WHOAMI, tls=server_context(*authority.chains[case])) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server), "PODSTACK_CA_BUNDLE": authority.pem}
        result = cli("auth", "whoami", code=7, env=env)
        server.settle()
        assert result.err == error_lines(REFUSED[case], HINT)
        assert result.out == ""
        assert server.received == b""
        assert len(server.connections) == 1  # another try would not help


def test_a_certificate_without_the_address_is_refused(authority, cli):
    with Wire(WHOAMI, tls=server_context(*authority.chains["name only"])) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_CA_BUNDLE": authority.pem}
        result = cli("auth", "whoami", code=7, env=env)
        reason = "its certificate is for another address"
        assert result.err == error_lines(reason, HINT, "127.0.0.1")
        assert server.received == b""


CARELESS = """\
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
CipherString = DEFAULT:@SECLEVEL=1
"""


@pytest.mark.parametrize(
    "name, cases",
    [pytest.param(name, list(REFUSED) + ["good"], id=name, marks=pytest.mark.slow)
     for name in sorted(PYTHONS)]
    + [pytest.param(name, ["wrong host", "unknown authority", "good"], id=name + " in short")
       for name in PYTHONS if name.startswith("3.6.")],
)  # fmt: skip
def test_every_python_refuses_them_and_takes_a_good_one(
    authority, podstack_process, tmp_path, name, cases
):
    python = PYTHONS[name]
    (tmp_path / "openssl.cnf").write_text(CARELESS)  # before 3.10, and Debian's: no word against it
    for case in cases:
        with Wire(WHOAMI, tls=server_context(*authority.chains[case])) as server:
            env = {
                "PODSTACK_API_ENDPOINT": at_localhost(server),
                "PODSTACK_CA_BUNDLE": authority.pem,
                "OPENSSL_CONF": str(tmp_path / "openssl.cnf"),
            }
            if case == "good":
                result = podstack_process("auth", "whoami", python=python, env=env)
                assert result.out == "user@example.com\n"
                assert b"Authorization: Bearer " + USER.encode() in server.received
                continue
            result = podstack_process("auth", "whoami", python=python, env=env, code=7)
            server.settle()
            # 3.6 tells no more of a certificate than that its host is wrong.
            vague = name.startswith("3.6.") and REFUSED[case] != REFUSED["wrong host"]
            assert result.err == error_lines(UNVERIFIED if vague else REFUSED[case], HINT), case
            assert server.received == b""


# -- servers that speak something else


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_an_old_version_of_TLS_is_refused(authority, cli, version):
    old = getattr(ssl.TLSVersion, version)
    context = server_context(*authority.chains["good"], minimum_version=old, maximum_version=old)
    with Wire(WHOAMI, tls=context) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server), "PODSTACK_CA_BUNDLE": authority.pem}
        result = cli("auth", "whoami", code=7, env=env)
        assert result.err == error_lines("it has no safe TLS version (1.2 or newer)", DOCTOR)
        assert server.received == b""


@pytest.mark.parametrize(
    "speaks",
    [
        pytest.param(lambda c: c.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="HTTP"),
        pytest.param(lambda c: c.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n") or c.more(), id="SSH"),
    ],
)
def test_a_port_without_TLS_is_told(cli, speaks):
    def answer(connection):
        connection.more()  # the ClientHello
        speaks(connection)

    with Wire(answer) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server), "PODSTACK_TIMEOUT": "5"}
        result = cli("auth", "whoami", code=7, env=env)
        assert result.err == error_lines("it does not speak TLS on this port", DOCTOR)
        assert USER.encode() not in server.received


@pytest.mark.parametrize(
    "piece",
    [b"", b"\x16\x03\x03", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + b"x" * 20],
    ids=["nothing", "three bytes", "half a hello"],
)
def test_a_handshake_that_breaks_off_is_tried_again(cli, piece):
    def answer(connection):
        connection.more()
        connection.send(piece)

    with Wire(answer) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server)}
        result = cli("auth", "whoami", code=7, env=env, sleep=lambda _: None)
        reason = "it closed the connection during the TLS handshake"
        assert result.err == error_lines(reason, DOCTOR)
        assert len(server.connections) == 4
        assert USER.encode() not in server.received


def test_a_handshake_that_drips_ends_with_the_time_limit(cli):
    def answer(connection):
        connection.more()
        connection.drip(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03" + b"x" * 500, 0.05)

    with Wire(answer) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server), "PODSTACK_TIMEOUT": "0.3"}
        began = time.monotonic()
        result = cli("auth", "whoami", code=7, env=env)
        assert time.monotonic() - began < 3
        assert result.err == error_lines("no answer within 0.3 s", DOCTOR)
        server.settle()


def test_ctrl_c_ends_a_handshake_at_once():
    hello = threading.Event()

    def answer(connection):
        connection.more()
        hello.set()
        connection.closing.wait(60)

    with Wire(answer) as server:
        environ = dict(os.environ, PODSTACK_API_ENDPOINT=at_localhost(server))
        argv = [sys.executable, "-B", PODSTACK, "auth", "whoami"]
        pipe = subprocess.PIPE
        child = subprocess.Popen(argv, stdout=pipe, stderr=pipe, env=environ)
        assert hello.wait(60)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert time.monotonic() - began < 1
    assert (child.returncode, out, err) == (130, b"", b"\n")


def test_an_answer_that_drips_in_TLS_ends_with_the_time_limit(authority, cli):
    def answer(connection):
        connection.request()
        connection.drip(WHOAMI * 9, 0.05)

    with Wire(answer, tls=server_context(*authority.chains["good"])) as server:
        env = {
            "PODSTACK_API_ENDPOINT": at_localhost(server),
            "PODSTACK_CA_BUNDLE": authority.pem,
            "PODSTACK_TIMEOUT": "0.5",
        }
        result = cli("auth", "whoami", code=7, env=env)
        assert result.err == error_lines("no answer within 0.5 s", DOCTOR)


CUT = "within its answer"
LOG_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="before its answer"),
        pytest.param(LOG_HEAD, id="within its head"),
        pytest.param(LOG_HEAD + b"\r\n", id="after its head"),
        pytest.param(LOG_HEAD + b"\r\nline 1\nline 2\n", id="within its body"),
    ],
)
@pytest.mark.parametrize("says_goodbye", [True, False])
def test_an_answer_without_length_is_whole_when_TLS_says_so(authority, cli, sent, says_goodbye):
    def answer(connection):
        connection.request()
        connection.send(sent)
        if says_goodbye:
            connection.sock = connection.sock.unwrap()

    with Wire(answer, tls=server_context(*authority.chains["good"])) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server)}
        env["PODSTACK_CA_BUNDLE"] = authority.pem
        code = 0 if says_goodbye and sent else 7
        result = cli("pod", "logs", "pod-1", code=code, env=env, sleep=lambda _: None)
        assert result.out == sent[len(LOG_HEAD) + 2 :].decode()
        reason = "it closed the connection " + ("without an answer" if says_goodbye else CUT)
        assert result.err == (error_lines(reason, DOCTOR) if code else "")


@pytest.mark.parametrize("python", [pytest.param(PYTHONS[name], id=name) for name in PYTHONS])
def test_an_answer_that_TLS_does_not_end_is_cut_on_every_python(
    authority, podstack_process, python
):
    def answer(connection):
        connection.request()
        connection.send(LOG_HEAD + b"\r\nline 1\n")

    with Wire(answer, tls=server_context(*authority.chains["good"])) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server)}
        env["PODSTACK_CA_BUNDLE"] = authority.pem
        done = podstack_process("pod", "logs", "pod-1", env=env, python=python, code=7)
        assert done.out == "line 1\n"
        assert done.err == error_lines("it closed the connection " + CUT, DOCTOR)


def test_what_is_given_up_never_goes_out_in_the_clear(authority, monkeypatch):
    """The time ends just before something is sent, and that before the connection ends."""
    shutdown = socket.socket.shutdown
    over, sent = threading.Event(), threading.Event()

    def send_late():
        over.wait(20)
        try:
            sock.sendall(b"a secret")
        finally:
            sent.set()

    def shut_down_slowly(sock, how):
        over.set()
        sent.wait(20)
        shutdown(sock, how)

    def tap(connection):
        with socket.create_connection(("127.0.0.1", server.port)) as other:
            back = threading.Thread(target=pump, args=(other, connection.sock), daemon=True)
            back.start()
            for data in iter(connection.more, b""):
                other.sendall(data)
        back.join(10)

    with Wire(WHOAMI, tls=server_context(*authority.chains["good"])) as server, Wire(tap) as tapped:
        client = podstack.Http(podstack.App(None, None, None, {}), ca_bundle=authority.pem)
        url = podstack.parse_url(at_localhost(tapped))
        sock = client.connect(url, time.monotonic() + 20)
        with monkeypatch.context() as patched, pytest.raises(TimeoutError):
            patched.setattr(socket.socket, "shutdown", shut_down_slowly)
            podstack.within(time.monotonic() + 0.1, sock, send_late)
        assert sent.is_set()
        tapped.settle()
        assert tapped.received and b"a secret" not in tapped.received


def pump(source, sink):
    try:
        for data in iter(lambda: source.recv(65536), b""):
            sink.sendall(data)
    except OSError:
        pass  # one side has gone


def test_what_comes_unasked_in_one_record_answers_nothing(authority):
    """Decrypted, but in nobody's buffer yet, it is not seen on the socket."""
    asked, unasked = reply(200, b"asked"), reply(200, b"unasked")
    filler = b"x" * (io.DEFAULT_BUFFER_SIZE - len(asked))

    def answer(connection):
        while connection.request():
            connection.send(asked + filler + unasked)

    with Wire(answer, tls=server_context(*authority.chains["good"])) as server:
        app = podstack.App(None, None, None, {})
        client = podstack.Http(app, ca_bundle=authority.pem)
        for _ in range(3):
            assert client.request("GET", podstack.parse_url(server.url)).body == b"asked"


def test_a_connection_that_TLS_did_not_end_is_not_used_again(authority):
    def answer(connection):
        connection.request()
        connection.send(WHOAMI)

    stderr = io.StringIO()
    with Wire(answer, tls=server_context(*authority.chains["good"])) as server:
        app = podstack.App(None, None, stderr, {})
        app.debugging = True
        client = podstack.Http(app, ca_bundle=authority.pem)
        for _ in range(2):
            assert client.request("GET", podstack.parse_url(server.url)).status == 200
            server.settle()
        assert len(server.connections) == 2
    assert "kept-alive" not in stderr.getvalue()


def test_a_connection_in_TLS_is_used_again(authority):
    with Wire(WHOAMI, tls=server_context(*authority.chains["good"])) as server:
        app = podstack.App(None, None, None, {})
        client = podstack.Http(app, ca_bundle=authority.pem)
        for _ in range(3):
            assert client.request("GET", podstack.parse_url(server.url)).status == 200
        assert (len(server.requests), len(server.connections)) == (3, 1)


# -- what is trusted


@pytest.fixture
def good(authority):
    with Wire(WHOAMI, tls=server_context(*authority.chains["good"])) as server:
        yield server


def test_trust_may_be_named_in_each_place(authority, good, cli, config, tmp_path, home):
    folder = tmp_path / "hashed"
    folder.mkdir()
    empty = tmp_path / "other.pem"
    empty.write_text("")
    endpoint = {"PODSTACK_API_ENDPOINT": at_localhost(good)}
    for names in (
        {"PODSTACK_CA_BUNDLE": authority.pem},
        {"PODSTACK_CA_BUNDLE": authority.hashed(folder)},
        {"SSL_CERT_FILE": authority.pem},
        {"PODSTACK_CA_BUNDLE": authority.pem, "SSL_CERT_FILE": str(empty)},
        {"PODSTACK_CA_BUNDLE": "", "SSL_CERT_FILE": authority.pem},
    ):
        assert cli("auth", "whoami", env=dict(endpoint, **names)).out == "user@example.com\n"
    shutil.copy(authority.pem, str(home / "authority.pem"))
    for named in (authority.pem, "~/authority.pem"):
        config.write_text("api:\n  ca_bundle: %s\n" % named)
        config.chmod(0o600)
        assert cli("auth", "whoami", env=endpoint).out == "user@example.com\n"


def test_a_self_signed_certificate_may_be_trusted_by_itself(authority, cli):
    chain = authority.chains["self-signed"]
    with Wire(WHOAMI, tls=server_context(*chain)) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server), "PODSTACK_CA_BUNDLE": chain[0]}
        assert cli("auth", "whoami", env=env).out == "user@example.com\n"


PEM_HINT = "It must be in PEM form (-----BEGIN CERTIFICATE-----)"


@pytest.mark.parametrize(
    "make, problem, hint",
    [
        pytest.param(lambda path: None, "no such file or directory", DOCTOR, id="missing"),
        pytest.param(lambda path: path.write_text(""), "it holds no certificates", PEM_HINT,
                     id="empty"),
        pytest.param(lambda path: path.write_text("hello\n"), "it holds no certificates", PEM_HINT,
                     id="not PEM"),
        pytest.param(lambda path: path.write_bytes(b"\x30\x82\x01"), "it holds no certificates",
                     PEM_HINT, id="DER"),
        pytest.param(
            lambda path: path.write_text(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "it holds no certificates", PEM_HINT, id="broken PEM"),
        pytest.param(lambda path: path.mkdir(), "it has no hashed certificates",
                     "Run: openssl rehash PATH", id="an empty directory"),
    ],
)  # fmt: skip
def test_a_bundle_that_cannot_be_used_is_named(good, cli, tmp_path, make, problem, hint):
    path = tmp_path / "bundle"
    make(path)
    env = {"PODSTACK_API_ENDPOINT": at_localhost(good), "PODSTACK_CA_BUNDLE": str(path)}
    result = cli("auth", "whoami", code=7, env=env)
    told = "CA bundle %s: %s" % (path, problem)
    assert result.err == error_lines(told, hint.replace("PATH", str(path)))
    assert good.connections == []


def test_what_is_named_is_all_that_is_trusted(authority, good, cli, tmp_path):
    stranger = Authority(tmp_path, "Somebody else")
    env = {
        "PODSTACK_API_ENDPOINT": at_localhost(good),
        "PODSTACK_CA_BUNDLE": stranger.pem,
        "SSL_CERT_FILE": authority.pem,
    }
    result = cli("auth", "whoami", code=7, env=env)
    reason = "its certificate comes from an authority that is not trusted here"
    assert result.err == error_lines(reason, HINT)
    assert len(good.connections) == 1


# -- the system's certificates: the hashed directory first, then all


@pytest.fixture
def system(authority, tmp_path, monkeypatch):
    """`system(hashed, full)`: where the machine has the authority; gives the environment."""
    stranger = Authority(tmp_path, "Somebody else")
    folder = tmp_path / "certs"
    folder.mkdir()

    def install(hashed, full):
        (authority if hashed else stranger).hashed(folder)
        monkeypatch.setattr(podstack, "HASHED_CA_DIRECTORY", str(folder))
        # OpenSSL's own environment: podstack is not told of it.
        monkeypatch.setenv("SSL_CERT_FILE", (authority if full else stranger).pem)
        return {"SSL_CERT_FILE": None}

    return install


def test_an_authority_in_the_hashed_directory_is_enough(system, good, cli):
    env = system(hashed=True, full=False)
    cli("auth", "whoami", env=dict(env, PODSTACK_API_ENDPOINT=at_localhost(good)))
    assert len(good.connections) == 1


def test_an_authority_that_only_the_full_set_has_takes_a_second_connection(authority, system, cli):
    env = system(hashed=False, full=True)
    pages = three_pages()

    def answer(connection):  # closes after each answer
        connection.request()
        connection.send(next(pages))

    with Wire(answer, tls=server_context(*authority.chains["good"])) as server:
        env["PODSTACK_API_ENDPOINT"] = at_localhost(server)
        assert len(cli("api", "/things", "--paginate", env=env).json) == 3
        server.settle()
        assert server.connections[0].received == b""  # refused before a byte was sent
        assert isinstance(server.handshakes[0], ssl.SSLError)
        assert server.handshakes[1:] == [None, None, None]  # what served is known from then on


@pytest.mark.parametrize("first", [0, 1])
def test_each_host_may_be_verified_another_way(authority, system, tmp_path, monkeypatch, first):
    """The API by the hashed directory, say, and the authorization server by all certificates."""
    system(hashed=True, full=False)  # the full set has a stranger's authority
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "Another")
    monkeypatch.setenv("SSL_CERT_FILE", stranger.pem)
    chains = [authority.chains["good"], stranger.issue("theirs", HERE)]
    servers = [Wire(WHOAMI, tls=server_context(*chain)) for chain in chains]
    with servers[first] as one, servers[1 - first] as other:
        client = podstack.Http(podstack.App(None, None, None, {}))
        for server in (one, other, one):
            url = podstack.parse_url(at_localhost(server))
            assert client.request("GET", url, retries=0).status == 200


def test_without_a_hashed_directory_there_is_the_full_set(system, good, cli, monkeypatch, tmp_path):
    env = system(hashed=False, full=True)
    monkeypatch.setattr(podstack, "HASHED_CA_DIRECTORY", str(tmp_path / "none"))
    cli("auth", "whoami", env=dict(env, PODSTACK_API_ENDPOINT=at_localhost(good)))
    assert len(good.connections) == 1


def test_an_authority_that_nobody_knows_is_refused_twice(authority, system, good, cli):
    env = system(hashed=False, full=False)
    env["PODSTACK_API_ENDPOINT"] = at_localhost(good)
    result = cli("auth", "whoami", code=7, env=env)
    good.settle()
    reason = "its certificate comes from an authority that is not trusted here"
    assert result.err == error_lines(reason, HINT)
    assert len(good.connections) == 2
    assert good.received == b""


def test_a_certificate_that_is_wrong_in_another_way_is_refused_by_both(authority, system, cli):
    env = system(hashed=True, full=True)
    with Wire(WHOAMI, tls=server_context(*authority.chains["expired"])) as server:
        env["PODSTACK_API_ENDPOINT"] = at_localhost(server)
        result = cli("auth", "whoami", code=7, env=env)
        assert result.err == error_lines("its certificate has expired", HINT)
        server.settle()
        assert len(server.connections) == 2
        assert server.received == b""


def test_status_and_login_say_the_same(authority, cli, config):
    with Wire(WHOAMI, tls=server_context(*authority.chains["unknown authority"])) as server:
        env = {"PODSTACK_API_ENDPOINT": at_localhost(server), "PODSTACK_CA_BUNDLE": authority.pem}
        why = "Cannot reach localhost: %s" % REFUSED["unknown authority"]
        result = cli("auth", "status", code=7, env=env)
        assert result.err == "Error: Could not verify: %s\n%s\n" % (why, HINT)
        result = cli("auth", "login", "--token", "psk_new_token", code=7, env=env)
        assert why in result.error
        assert not config.exists()
        server.settle()
        assert server.received == b""

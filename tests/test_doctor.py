"""`auth doctor`: what keeps you from signing in, line by line, each with what mends it."""

import fcntl
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest
from conftest import USER, Sandbox, need

import podstack

CHECKS = [
    "file", "lock", "profile", "endpoint", "client_id", "storage", "output", "timeout", "color",
    "confirm", "network", "clock", "token",
]  # fmt: skip


@pytest.fixture
def doctor(cli):
    """`doctor(...)` runs it and returns {check: line}; `code` is the expected exit code."""

    def run(*options, code=0, **more):
        done = cli("auth", "doctor", "-o", "json", *options, code=code, **more)
        failed = "Error: Something needs mending\nDo what stands behind ->\n"
        assert done.err.endswith(failed) if code else failed not in done.err
        for row in done.json:
            assert list(row) == ["check", "status", "detail", "fix"]
            assert row["status"] in ("ok", "warn", "fail")
            assert (row["fix"] is None) == (row["status"] == "ok"), row
        assert (code == 1) == any(row["status"] == "fail" for row in done.json)
        return {row["check"]: row for row in done.json}

    return run


@pytest.fixture
def signed_in(api, config):
    config.write_text("auth:\n  token: %s\n  endpoint: %s\n" % (USER, api.url))
    config.chmod(0o600)
    return config


def line(status, detail, fix=None):
    return {"status": status, "detail": detail, "fix": fix}


def only(row):
    return {name: row[name] for name in ("status", "detail", "fix")}


# -- all is well


def test_a_machine_in_order_is_ok_line_by_line(api, doctor, signed_in):
    found = doctor()
    assert list(found) == CHECKS
    assert {row["status"] for row in found.values()} == {"ok"}
    mode = "%s (mode 600, uid %d)" % (signed_in, os.geteuid())
    assert only(found["file"]) == line("ok", mode)
    assert re.match(r"\d+ ms$", found["lock"]["detail"])
    assert found["profile"]["detail"] == "default (default)"
    assert found["endpoint"]["detail"] == "%s (PODSTACK_API_ENDPOINT)" % api.url
    assert re.match(re.escape(api.url) + r" directly, \d+ ms$", found["network"]["detail"])
    assert found["clock"]["detail"] == "agrees with the server's"
    shown = r"from profile 'default' in %s, created \d{4}-\d\d-\d\d, expires never$"
    assert re.match(shown % re.escape(str(signed_in)), found["token"]["detail"])
    assert [call.path for call in api.requests] == [
        "/.well-known/oauth-protected-resource", "/v1/auth/token"]  # fmt: skip


def test_people_read_lines(api, cli, signed_in):
    signed_in.chmod(0o644)
    out = cli("auth", "doctor").out.splitlines()
    assert out[0] == "warn  file       %s can be read by others" % signed_in
    assert out[1] == "                 -> chmod 600 %s" % signed_in
    assert out[3] == "ok    profile    default (default)"
    assert len(out) == len(CHECKS) + 1


def test_yaml_has_the_same_rows(api, cli, signed_in):
    rows = podstack.yaml_load(cli("auth", "doctor", "-o", "yaml").out)
    assert [row["check"] for row in rows] == CHECKS


def test_it_shows_where_each_value_comes_from_and_what_it_shadows(api, doctor, config):
    config.write_text(
        "profile: work\ndefaults:\n  output: yaml\napi:\n  timeout: 5\n  endpoint: %s\n"
        "profiles:\n  work:\n    token: %s\n    api_endpoint: %s\n    project: stored\n"
        % ("https://other.example", USER, api.url)
    )
    config.chmod(0o600)
    env = {"PODSTACK_PROJECT": "from-env", "PODSTACK_TIMEOUT": "9", "PODSTACK_OUTPUT": "wide"}
    found = doctor("--project", "typed", env=env)
    place = " in %s" % config
    assert found["profile"]["detail"] == "work (profile%s)" % place
    assert found["project"]["detail"] == (
        "typed (--project), shadows PODSTACK_PROJECT, profiles.work.project" + place
    )
    assert found["endpoint"]["detail"] == (
        "%s (PODSTACK_API_ENDPOINT), shadows profiles.work.api_endpoint%s, api.endpoint%s"
        % (api.url, place, place)
    )
    assert found["timeout"]["detail"] == "9 (PODSTACK_TIMEOUT), shadows api.timeout" + place
    assert found["color"]["detail"] == "true (default)"


def test_a_token_of_the_environment_shadows_the_stored_one(api, doctor, signed_in):
    found = doctor(env={"PODSTACK_API_TOKEN": "psk_sandbox_other"})
    assert found["token"]["detail"].startswith("from PODSTACK_API_TOKEN, created ")
    assert found["token"]["detail"].endswith(", shadows the one of profile 'default'")


def test_no_token_is_shown(api, cli, signed_in):
    for options in ((), ("--debug",), ("-o", "json", "--debug")):
        done = cli("auth", "doctor", *options)
        assert USER not in done.out + done.err


# -- the file and its lock


def test_without_a_file_it_says_so_and_makes_none(api, doctor, home):
    found = doctor(code=1)
    path = home / ".podstack" / "config.yaml"
    assert only(found["file"]) == line("ok", "%s does not exist yet" % path)
    assert "lock" not in found and not path.parent.exists()
    assert only(found["token"]) == line(
        "fail", "Not authenticated", "Run: podstack auth login (or set PODSTACK_API_TOKEN)"
    )


def test_a_broken_file_is_named_with_line_and_column(api, doctor, signed_in):
    signed_in.write_text("auth:\n  token: &x 1\n")
    found = doctor(code=1)
    assert list(found) == ["file"]
    assert found["file"]["status"] == "fail"
    assert found["file"]["detail"].startswith("%s:2:10: " % signed_in)
    assert api.requests == []
    found = doctor(code=1, env={"PODSTACK_API_TOKEN": USER})
    assert list(found) == ["file", "network", "clock", "token"]
    assert found["token"]["status"] == "ok"


@pytest.mark.parametrize(
    "text, check, detail",
    [
        ("auth: 5\n", "file", "%s:1:1: auth must hold keys and values"),
        ("profiles: x\n", "file", "%s:1:1: profiles must hold keys and values"),
        ("api:\n  timeout: soon\n", "timeout", "%s:2:3: api.timeout must be "),
        ("auth:\n  storage: cloud\n", "storage", "%s:2:3: auth.storage must be file or keyring"),
        ("defaults:\n  output: xml\n", "output", "%s:2:3: defaults.output must be "),
    ],
)
def test_a_wrong_value_is_named_with_line_and_column(api, doctor, config, text, check, detail):
    config.write_text(text)
    config.chmod(0o600)
    found = doctor(code=1, env={"PODSTACK_API_TOKEN": USER})
    assert found[check]["status"] == "fail"
    assert found[check]["detail"].startswith(detail % config)


def test_an_open_file_is_a_warning_with_the_chmod(api, doctor, signed_in):
    signed_in.chmod(0o640)
    found = doctor()
    assert only(found["file"]) == line(
        "warn", "%s can be read by others" % signed_in, "chmod 600 %s" % signed_in
    )
    subprocess.check_call(found["file"]["fix"].split())
    assert doctor()["file"]["status"] == "ok"


def test_a_lock_that_is_held_is_named_with_its_holder(api, doctor, signed_in):
    path = signed_in.parent / ".lock"
    with open(str(path), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write("4711\n")
        stream.flush()
        started = time.monotonic()
        found = doctor(code=1)
        assert time.monotonic() - started < 20
    assert found["lock"]["status"] == "fail"
    assert found["lock"]["detail"] == "Another podstack holds %s (process 4711)" % path
    assert found["token"]["status"] == "ok"


def test_a_profile_that_does_not_exist_is_one_line(api, doctor, signed_in):
    found = doctor(code=1, env={"PODSTACK_PROFILE": "wrok"})
    assert list(found) == ["file", "lock", "profile"]
    assert found["profile"]["status"] == "fail"
    assert found["profile"]["detail"].startswith("Profile 'wrok' does not exist")


# -- the keyring


@pytest.fixture
def in_keyring(api, config):
    config.write_text("auth:\n  storage: keyring\n  endpoint: %s\n" % api.url)
    config.chmod(0o600)


def secret_tool(folder, monkeypatch, script):
    folder.mkdir()
    (folder / "secret-tool").write_text("#!/bin/sh\n" + script)
    (folder / "secret-tool").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (folder, os.environ["PATH"]))


def test_the_keyring_is_timed(api, doctor, in_keyring, tmp_path, monkeypatch):
    class Kept:
        token, refresh_token = USER, None

    script = 'case $1 in search) echo "secret = x";; *) printf %%s "%s";; esac'
    secret_tool(tmp_path / "bin", monkeypatch, script % podstack.pack_payload(Kept))
    found = doctor()
    assert found["keyring"]["status"] == "ok"
    assert re.match(r"\d+ ms$", found["keyring"]["detail"])
    assert found["token"]["detail"].startswith("from profile 'default' in keyring, ")


def test_a_locked_keyring_comes_with_what_unlocks_it(
    api, doctor, in_keyring, tmp_path, monkeypatch
):
    secret_tool(tmp_path / "bin", monkeypatch, "echo Cannot get secret of a locked object >&2")
    found = doctor(code=1)
    fix = 'Unlock it: read -rs P; printf %s "$P" | gnome-keyring-daemon --replace --unlock'
    assert only(found["keyring"]) == line("fail", "Cannot use the keyring: it is locked", fix)
    assert found["network"]["status"] == "ok" and "token" not in found
    found = doctor(code=1, env={"PODSTACK_API_TOKEN": USER})
    assert found["token"]["status"] == "ok"


def test_a_missing_keyring_comes_with_what_installs_it(
    api, doctor, in_keyring, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    fix = "Install it (Debian: libsecret-tools, Fedora: libsecret)"
    problem = "Cannot use the keyring: secret-tool is not installed"
    assert only(doctor(code=1)["keyring"]) == line("fail", problem, fix)


def test_a_broken_keyring_does_not_hide_a_token_in_the_file(api, doctor, signed_in):
    found = doctor(code=1, env={"PODSTACK_STORAGE": "keyring", "PATH": "/nonexistent"})
    assert found["keyring"]["status"] == "fail" and found["token"]["status"] == "ok"


def test_a_keyring_that_is_not_used_is_not_asked(api, doctor, signed_in, tmp_path, monkeypatch):
    secret_tool(tmp_path / "bin", monkeypatch, "touch %s/asked" % tmp_path)
    assert "keyring" not in doctor()
    assert not (tmp_path / "asked").exists()


# -- the endpoint


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_an_endpoint_that_is_down_is_named_and_no_token_sent(api, doctor, config):
    url = "http://127.0.0.1:%d" % closed_port()
    config.write_text("api:\n  endpoint: %s\nauth:\n  token: %s\n" % (url, USER))
    config.chmod(0o600)
    found = doctor(code=1, env={"PODSTACK_API_ENDPOINT": None})
    assert list(found)[-1] == "network"
    assert only(found["network"]) == line(
        "fail", "Cannot reach 127.0.0.1: connection refused", "Try it with: curl -v " + url
    )


def test_a_service_in_trouble_is_a_failure(api, doctor, signed_in):
    api.next("/.well-known/", status=503, headers={"X-Request-Id": "abc"})
    found = doctor(code=1)
    assert only(found["network"]) == line(
        "fail",
        "Podstack is having trouble (HTTP 503, request id abc)",
        "Try again in a few minutes",
    )


def test_a_service_that_limits_the_rate_is_a_failure(api, doctor, signed_in):
    api.next("/.well-known/", status=429, headers={"Retry-After": "30"})
    found = doctor(code=1)
    assert only(found["network"]) == line(
        "fail", "Rate limited; try again in 30 s", "Try it with: curl -v " + api.url
    )


def test_an_unknown_host_is_a_failure(api, doctor, signed_in):
    found = doctor(code=1, env={"PODSTACK_API_ENDPOINT": "https://podstack.invalid"})
    assert found["network"]["detail"].startswith("Cannot reach podstack.invalid: ")
    assert found["network"]["fix"] == "Try it with: curl -v https://podstack.invalid"


def test_an_address_that_is_none_is_a_failure(api, doctor, signed_in):
    found = doctor(code=1, env={"PODSTACK_API_ENDPOINT": "ftp://x"})
    assert found["endpoint"]["status"] == found["network"]["status"] == "fail"


class TlsServer:
    """An https server with a certificate of its own making, which keeps what is sent to it."""

    def __init__(self, folder, name="localhost"):
        self.certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
        subprocess.check_call(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout",
             key, "-out", self.certificate, "-subj", "/CN=" + name, "-addext",
             "subjectAltName=DNS:" + name],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, key)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(5)
        self.url = "https://%s:%d" % (name, self.listener.getsockname()[1])
        self.heard = b""
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as link:
                    self.heard += link.recv(65536)
                    body = b'{"type": "api_token"}'
                    head = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                    link.sendall(head.encode() % len(body) + body)
            except OSError:
                plain.close()


@pytest.fixture
def tls(tmp_path):
    need("openssl")
    server = TlsServer(tmp_path)
    yield server
    server.listener.close()


def test_a_certificate_that_is_not_trusted_is_a_failure_and_gets_no_token(doctor, tls, home):
    env = {"PODSTACK_API_ENDPOINT": tls.url, "PODSTACK_API_TOKEN": USER}
    found = doctor(code=1, env=env)
    assert found["network"]["status"] == "fail"
    assert found["network"]["detail"] == "Cannot reach localhost: its certificate is self-signed"
    assert "PODSTACK_CA_BUNDLE" in found["network"]["fix"]
    assert "token" not in found and tls.heard == b""


def test_the_authorities_in_effect_are_shown(doctor, tls, home):
    env = {"PODSTACK_API_ENDPOINT": tls.url, "PODSTACK_API_TOKEN": USER}
    env["PODSTACK_CA_BUNDLE"] = tls.certificate
    found = doctor(env=env)
    shown = "%s directly, trusting %s, " % (tls.url, tls.certificate)
    assert found["network"]["detail"].startswith(shown)
    assert "clock" not in found  # this server does not tell the time


class Proxy:
    """An HTTP proxy that refuses every tunnel and keeps what was asked of it."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(5)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.heard = b""
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link:
                self.heard += link.recv(65536)
                link.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


def test_a_proxy_in_the_way_is_named_without_its_password(doctor, home):
    proxy = Proxy()
    env = {
        "PODSTACK_API_ENDPOINT": "https://api.podstack.ai",
        "PODSTACK_API_TOKEN": USER,
        "HTTPS_PROXY": "http://user:proxy-password@" + proxy.address,
    }
    found = doctor(code=1, env=env)
    proxy.listener.close()
    assert found["network"]["status"] == "fail"
    assert "proxy %s: " % proxy.address in found["network"]["detail"]
    assert "proxy-password" not in str(found)
    assert (
        proxy.heard.startswith(b"CONNECT api.podstack.ai:443 ") and USER.encode() not in proxy.heard
    )


def test_a_proxy_that_cannot_be_used_is_a_failure(doctor, home):
    env = {
        "PODSTACK_API_ENDPOINT": "https://api.podstack.ai",
        "PODSTACK_API_TOKEN": USER,
        "HTTPS_PROXY": "socks5://127.0.0.1:1",
    }
    found = doctor(code=1, env=env)
    assert found["network"]["status"] == "fail" and found["network"]["fix"] == "Correct HTTPS_PROXY"
    told = "Cannot reach api.podstack.ai: HTTPS_PROXY is not the address of a proxy: "
    assert found["network"]["detail"].startswith(told)


@pytest.mark.parametrize(
    "ahead, words", [(7200, "7200 s ahead of the server's"), (-500, "500 s behind the server's")]
)
def test_a_clock_that_is_wrong_is_a_warning(api, doctor, signed_in, ahead, words):
    api.next("/.well-known/", headers={"Date": date_at(time.time() - ahead)})
    found = doctor()
    assert found["clock"]["status"] == "warn"
    seconds, rest = found["clock"]["detail"].split(" ", 1)
    assert rest == words.split(" ", 1)[1] and abs(int(seconds) - abs(ahead)) <= 30


def date_at(seconds):
    from email.utils import formatdate

    return formatdate(seconds, usegmt=True)


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2026 99:99:99 GMT", "\xff", None])
def test_a_date_that_is_none_is_passed_over(api, doctor, signed_in, date):
    api.next("/.well-known/", headers={"Date": date})
    assert "clock" not in doctor()


# -- the token


@pytest.mark.parametrize(
    "token, detail, fix",
    [
        ("psk_sandbox_expired", "Token expired", "Re-authenticate: podstack auth login"),
        ("psk_gone", "Invalid authentication token",
         "Generate a new token from the dashboard (Account > API Tokens)"),
    ],
)  # fmt: skip
def test_a_token_that_does_not_serve_is_a_failure(api, doctor, home, token, detail, fix):
    found = doctor(code=1, env={"PODSTACK_API_TOKEN": token})
    assert only(found["token"]) == line("fail", detail, fix)


def test_the_tokens_age_and_expiry_are_shown(api, doctor, home):
    token = api.tokens[USER]
    token.created, token.expires = time.time() - 86400, time.time() + 12.5 * 86400
    found = doctor(env={"PODSTACK_API_TOKEN": USER})
    day = podstack.format_time(token.created)[:10]
    last = podstack.format_time(token.expires)[:10]
    assert found["token"]["detail"] == (
        "from PODSTACK_API_TOKEN, created %s, expires %s (in 12 days)" % (day, last)
    )


def test_a_token_never_goes_to_an_endpoint_that_it_is_not_for(api, doctor, signed_in):
    with Sandbox() as other:
        found = doctor(code=1, env={"PODSTACK_API_ENDPOINT": other.url})
        assert found["network"]["status"] == "ok"
        assert found["token"]["status"] == "fail"
        named = "The token of profile 'default' is for %s, not for %s" % (api.url, other.url)
        assert found["token"]["detail"] == named
        assert [call.path for call in other.requests] == ["/.well-known/oauth-protected-resource"]
        assert "Authorization" not in other.requests[0].headers
    assert api.requests == []

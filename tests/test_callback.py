"""The loopback callback: each hostile request gets its 4xx, and the login completes or waits on."""

import html
import os
import socket
import struct
import threading
import time
import urllib.parse
import urllib.request

import pytest
import sandbox
from conftest import PYTHONS
from logins import Login, LoginProcess, Typed, eventually

HEAD = {
    "content-type": "text/html; charset=utf-8",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "connection": "close",
}


class Approval(sandbox.Person):
    """Somebody whose browser stops before the callback: `of(url)` is where it would have gone."""

    def of(self, url):
        person = self

        class Stop(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, request, answer, code, message, headers, target):
                person.target = target

        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stop())
        self.visit(url)
        return self.target


class Reply:
    """A raw HTTP answer: `status` (None where there is none), `headers`, `text`."""

    def __init__(self, data):
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        self.status = int(words[1]) if words[0].startswith("HTTP/1") else None
        fields = [line.partition(": ") for line in lines[1:]]
        self.headers = {name.lower(): value for name, _, value in fields}
        self.text = body.decode("utf-8")


def send(port, data, pieces=1):
    """Send bytes to the callback server and read to the end of what comes back."""
    with socket.create_connection(("127.0.0.1", port), 20) as link:
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            link.sendall(data[start : start + size])
            if pieces > 1:
                time.sleep(0.05)  # a slow link
        received = b""
        while True:
            piece = link.recv(65536)
            if not piece:
                return Reply(received)
            received += piece


class Sign:
    """A login that waits for its callback, and what a right answer consists of."""

    def __init__(self, *argv, form=Login, **options):
        self.login = form("auth", "login", "--no-browser", *argv, **options)
        self.address = self.login.url
        self.port = self.login.port
        self.good = Approval().of(self.address)  # the address of the one right answer

    @property
    def parts(self):
        """What the requests of the tables are made of."""
        known = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.good).query))
        known.update(port=self.port, host="127.0.0.1:%d" % self.port)
        known["iss"] = urllib.parse.quote(known["iss"], safe="")
        known["all"] = "code=%(code)s&state=%(state)s&iss=%(iss)s" % known
        return known

    def request(self, template, pieces=1):
        return send(self.port, (template % self.parts).encode("latin-1"), pieces)

    def get(self, query):
        return self.request("GET /callback?" + query + " HTTP/1.1\r\nHost: %(host)s\r\n\r\n")


@pytest.fixture
def sign(api, config):
    started = []

    def start(*argv, **options):
        started.append(Sign(*argv, **options))
        return started[-1]

    yield start
    for one in started:
        assert not one.login.waits, "a login was left waiting"


def completes(api, one):
    """The right answer is still taken, once, and the login is stored."""
    shown = one.get("%(all)s")
    assert (shown.status, "<h1>You are signed in</h1>" in shown.text) == (200, True)
    assert "Signed in as user@example.com" in one.login.end(0)
    assert len(api.calls("POST", "/oauth/token")) == 1


# ---- requests that are refused; each holds the right code and state unless that is the point

QUERIES = {
    "nothing": "",
    "no-state": "code=%(code)s&iss=%(iss)s",
    "no-code": "state=%(state)s&iss=%(iss)s",
    "empty-state": "code=%(code)s&state=&iss=%(iss)s",
    "empty-code": "code=&state=%(state)s&iss=%(iss)s",
    "wrong-state": "code=%(code)s&state=AAAAAAAAAAAAAAAA&iss=%(iss)s",
    "longer-state": "code=%(code)s&state=%(state)sA&iss=%(iss)s",
    "shorter-state": "code=%(code)s&state=%(state).40s&iss=%(iss)s",
    "state-and-space": "code=%(code)s&state=%(state)s+&iss=%(iss)s",
    "state-and-nul": "code=%(code)s&state=%(state)s%%00&iss=%(iss)s",
    "state-and-raw-nul": "code=%(code)s&state=%(state)s\0&iss=%(iss)s",
    "state-not-ascii": "code=%(code)s&state=%%C3%%A9&iss=%(iss)s",
    "state-raw-bytes": "code=%(code)s&state=\xff\xfe&iss=%(iss)s",
    "state-not-utf-8": "code=%(code)s&state=%%ED%%A0%%80&iss=%(iss)s",
    "state-twice": "code=%(code)s&state=%(state)s&state=%(state)s&iss=%(iss)s",
    "state-right-then-wrong": "code=%(code)s&state=%(state)s&iss=%(iss)s&state=B",
    "state-wrong-then-right": "state=B&code=%(code)s&state=%(state)s&iss=%(iss)s",
    "state-upper-case-name": "code=%(code)s&STATE=%(state)s&iss=%(iss)s",
    "state-as-a-list": "code=%(code)s&state[]=%(state)s&iss=%(iss)s",
    "state-as-the-code": "code=%(state)s&state=%(code)s&iss=%(iss)s",
    "state-in-a-fragment": "code=%(code)s&iss=%(iss)s#state=%(state)s",
    "code-twice": "code=%(code)s&code=x&state=%(state)s&iss=%(iss)s",
    "code-and-space": "code=%(code)s%%20x&state=%(state)s&iss=%(iss)s",
    "code-and-newline": "code=%(code)s%%0d%%0aX&state=%(state)s&iss=%(iss)s",
    "code-and-escape": "code=%(code)s%%1b[2J&state=%(state)s&iss=%(iss)s",
    "code-not-ascii": "code=%%C3%%A9&state=%(state)s&iss=%(iss)s",
    "error-without-state": "error=access_denied&iss=%(iss)s",
    "error-wrong-state": "error=access_denied&state=x&iss=%(iss)s",
    "error-twice": "error=access_denied&error=x&state=%(state)s&iss=%(iss)s",
    "error-without-iss": "error=access_denied&state=%(state)s",
    "error-wrong-iss": "error=access_denied&state=%(state)s&iss=https://evil.example",
    "no-iss": "code=%(code)s&state=%(state)s",
    "empty-iss": "code=%(code)s&state=%(state)s&iss=",
    "wrong-iss": "code=%(code)s&state=%(state)s&iss=https://evil.example",
    "iss-and-slash": "%(all)s/",
    "iss-twice": "%(all)s&iss=%(iss)s",
    "unknown-twice": "%(all)s&x=1&x=2",
    "long": "x=" + "A" * 60000 + "&code=%(code)s",
}
HOSTS = {
    "none": "",
    "foreign": "Host: evil.example\r\n",
    "foreign-right-port": "Host: evil.example:%(port)d\r\n",
    "rebinding": "Host: 127.0.0.1.evil.example:%(port)d\r\n",
    "localhost": "Host: localhost:%(port)d\r\n",
    "ipv6": "Host: [::1]:%(port)d\r\n",
    "no-port": "Host: 127.0.0.1\r\n",
    "another-port": "Host: 127.0.0.1:1\r\n",
    "longer-port": "Host: 127.0.0.1:0%(port)d\r\n",
    "short-address": "Host: 127.1:%(port)d\r\n",
    "user-info": "Host: a@%(host)s\r\n",
    "path": "Host: %(host)s/\r\n",
    "two-in-one": "Host: %(host)s, %(host)s\r\n",
    "twice": "Host: %(host)s\r\nHost: %(host)s\r\n",
    "right-then-foreign": "Host: %(host)s\r\nHost: evil.example\r\n",
    "foreign-then-right": "hOST: evil.example\r\nHost: %(host)s\r\n",
    "empty": "Host:\r\n",
    "forwarded": "X-Forwarded-Host: %(host)s\r\nHost: evil.example\r\n",
    "not-ascii": "Host: 127.0.0.\xb9:%(port)d\r\n",
}
RIGHT = " HTTP/1.1\r\nHost: %(host)s\r\n"
LINES = {
    # id: (request, status)
    "root": ("GET /?%(all)s" + RIGHT, 404),
    "favicon": ("GET /favicon.ico" + RIGHT, 404),
    "trailing-slash": ("GET /callback/?%(all)s" + RIGHT, 404),
    "upper-case-path": ("GET /Callback?%(all)s" + RIGHT, 404),
    "encoded-path": ("GET /%%63allback?%(all)s" + RIGHT, 404),
    "dot-segments": ("GET /x/../callback?%(all)s" + RIGHT, 404),
    "parameter-in-path": ("GET /callback;x?%(all)s" + RIGHT, 404),
    "encoded-question-mark": ("GET /callback%%3F%(all)s" + RIGHT, 404),
    "no-slash": ("GET callback?%(all)s" + RIGHT, 404),
    "absolute": ("GET http://%(host)s/callback?%(all)s" + RIGHT, 404),
    "proxy-request": ("GET http://evil.example/callback?%(all)s" + RIGHT, 404),
    "star": ("GET *" + RIGHT, 404),
    "nul-in-path": ("GET /callback\0?%(all)s" + RIGHT, 404),
    "post": ("POST /callback?%(all)s" + RIGHT + "Content-Length: 0\r\n", 405),
    "put": ("PUT /callback?%(all)s" + RIGHT, 405),
    "patch": ("PATCH /callback?%(all)s" + RIGHT, 405),
    "delete": ("DELETE /callback?%(all)s" + RIGHT, 405),
    "head": ("HEAD /callback?%(all)s" + RIGHT, 405),
    "options": ("OPTIONS /callback?%(all)s" + RIGHT + "Origin: https://evil.example\r\n", 405),
    "trace": ("TRACE /callback?%(all)s" + RIGHT, 405),
    "connect": ("CONNECT %(host)s" + RIGHT, 405),
    "unknown-method": ("FETCH /callback?%(all)s" + RIGHT, 405),
    "lower-case-method": ("get /callback?%(all)s" + RIGHT, 405),
    "http-0.9": ("GET /callback?%(all)s\r\n", 400),
    "http-2": ("GET /callback?%(all)s HTTP/2.0\r\nHost: %(host)s\r\n", 400),
    "http-none": ("GET /callback?%(all)s HTTP/\r\nHost: %(host)s\r\n", 400),
    "one-word": ("GET\r\n", 400),
    "four-words": ("GET /callback?%(all)s x" + RIGHT, 400),
    "space-in-query": ("GET /callback? %(all)s" + RIGHT, 400),
    "binary": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
    "nul": ("\0\0\0\0\r\n", 400),
    "not-ascii": ("GET /callback?\xe9 \xa0 HTTP/1.1\r\n", 400),
    "long-line": ("GET /callback?x=" + "A" * 70000 + "&%(all)s" + RIGHT, 414),
    "long-header": ("GET /callback?%(all)s" + RIGHT + "X: " + "A" * 70000 + "\r\n", 431),
    "many-headers": ("GET /callback?%(all)s" + RIGHT + "X: y\r\n" * 200, 431),
}  # fmt: skip
HOSTILE = (
    [pytest.param("GET /callback?%s%s" % (query, RIGHT), 400, id="query-" + name)
     for name, query in QUERIES.items()]
    + [pytest.param("GET /callback?%(all)s HTTP/1.1\r\n" + host, 400, id="host-" + name)
       for name, host in HOSTS.items()]
    + [pytest.param(line, status, id="line-" + name) for name, (line, status) in LINES.items()]
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """`shared(...)` is one login, the same for every row of a table; the last test ends it."""
    with sandbox.Sandbox() as api:
        environ = {
            "HOME": str(tmp_path_factory.mktemp("home")),
            "PODSTACK_API_ENDPOINT": api.url,
        }
        one = Sign(environ=environ, tty=True, stdin=Typed())
        one.api, one.keyboard = api, one.login.app.stdin
        yield one
        one.keyboard.close_input()


@pytest.mark.parametrize("request_, status", HOSTILE)
def test_a_hostile_request_is_refused_and_the_login_waits_on(shared, request_, status):
    reply = shared.request(request_ + "\r\n")
    assert reply.status == status
    assert {name: reply.headers.get(name) for name in HEAD} == HEAD
    parts = shared.parts
    assert parts["code"] not in reply.text
    assert parts["state"] not in reply.text
    assert not shared.api.calls("POST", "/oauth/token")
    assert shared.login.waits


# ---- lines pasted into the terminal

CUT_OFF = "the terminal cut it off; in another shell: curl 'ADDRESS'"
NOT_TAKEN = "That address was not taken: "
NOT_OURS = NOT_TAKEN + "it does not begin with %(uri)s"
WRONG_STATE = NOT_TAKEN + "it belongs to another sign-in (wrong state)"
PASTED = {
    "word": ("hello", NOT_OURS),
    "no-query": ("%(uri)s", WRONG_STATE),
    "other-port": ("http://127.0.0.1:1/callback?%(all)s", NOT_OURS),
    "localhost": ("http://localhost:%(port)d/callback?%(all)s", NOT_OURS),
    "https": ("https://127.0.0.1:%(port)d/callback?%(all)s", NOT_OURS),
    "user-info": ("http://%(host)s@evil.example/callback?%(all)s", NOT_OURS),
    "longer-path": ("%(uri)s/?%(all)s", NOT_OURS),
    "query-alone": ("?%(all)s", NOT_OURS),
    "wrong-state": ("%(uri)s?code=%(code)s&state=x&iss=%(iss)s", WRONG_STATE),
    "state-twice": ("%(uri)s?%(all)s&state=x", NOT_TAKEN + "a parameter stands twice"),
    "no-code": ("%(uri)s?state=%(state)s&iss=%(iss)s", NOT_TAKEN + "it holds no code"),
    "no-iss": ("%(uri)s?code=%(code)s&state=%(state)s",
               NOT_TAKEN + "it comes from another issuer"),
    "error-wrong-state": ("%(uri)s?error=access_denied&state=x", WRONG_STATE),
    "escapes": ("\x1b[31m%(uri)s?%(all)s", NOT_OURS),
    "nul": ("\0\0", NOT_OURS),
    "two-words": ("%(uri)s?%(all)s x", NOT_OURS),
    "not-utf-8": ("\xff\xfe", NOT_TAKEN + "'utf-8' codec can't decode"),
    "cut": ("%(uri)s?%(all)s" + "&x=" + "A" * 5000, NOT_TAKEN + CUT_OFF),
}  # fmt: skip


@pytest.mark.parametrize(
    "line, said", [pytest.param(*row, id=name) for name, row in PASTED.items()]
)
def test_a_pasted_address_that_is_not_the_answer_is_not_taken(shared, line, said):
    parts = dict(shared.parts, uri="http://127.0.0.1:%d/callback" % shared.port)
    before = len(shared.login.err)
    typed = (line % parts).encode("latin-1")[:4095]  # as a Linux terminal cuts it
    shared.keyboard.type(b"\n  \n" + typed + b"\n")
    eventually(lambda: said % parts in shared.login.err[before:], lambda: shared.login.err)
    assert not shared.api.calls("POST", "/oauth/token")
    assert shared.login.waits


def test_the_page_says_why_an_answer_was_not_taken(shared):
    for request, reason in (
        ("GET /callback?%(all)s HTTP/1.1\r\nHost: x\r\n", "This address is not the sign-in's."),
        ("GET /x" + RIGHT, "There is nothing at this address."),
        ("POST /callback" + RIGHT, "This is not what a browser sends."),
    ):
        page = html.unescape(shared.request(request + "\r\n").text)
        assert "<h1>This answer was not taken</h1><p>%s</p>" % reason in page


def test_after_all_of_these_the_right_answer_is_still_taken(shared):
    completes(shared.api, shared)


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS.keys())
def test_every_python_refuses_them_all_and_completes(api, python):
    one = Sign(form=LoginProcess, python=python)
    for row in HOSTILE:
        assert (row.id, one.request(row.values[0] + "\r\n").status) == (row.id, row.values[1])
    assert "<h1>You are signed in</h1>" in one.get("%(all)s").text
    assert one.login.end() == 0


@pytest.mark.parametrize(
    "query",
    [
        "%(all)s",
        "iss=%(iss)s&state=%(state)s&code=%(code)s",
        "session_state=x&%(all)s&scope=openid+email",
        "&&%(all)s&",
    ],
    ids=["plain", "reordered", "unknown-parameters", "empty-pairs"],
)
def test_the_right_answer_in_any_form_is_taken(api, sign, query):
    one = sign()
    shown = one.get(query)
    assert (shown.status, "<h1>You are signed in</h1>" in shown.text) == (200, True)
    one.login.end(0)


def test_where_the_issuer_is_not_promised_it_may_be_missing(api, sign):
    api.metadata = {"authorization_response_iss_parameter_supported": None}
    api.answer_iss = False
    one = sign()
    assert Approval().of(one.address).count("iss=") == 0
    assert sandbox.Person().visit(one.address).status == 200
    one.login.end(0)


def test_where_the_issuer_is_not_promised_a_foreign_one_is_refused_still(api, sign):
    api.metadata = {"authorization_response_iss_parameter_supported": None}
    one = sign()
    assert one.get("code=%(code)s&state=%(state)s&iss=https://evil.example").status == 400
    completes(api, one)


# ---- many, slow and large


def test_a_hundred_idle_connections_hold_nothing_up(api, sign):
    one = sign()
    idle = [socket.create_connection(("127.0.0.1", one.port), 20) for _ in range(100)]
    started = time.monotonic()
    completes(api, one)
    assert time.monotonic() - started < 4  # they are given up after 5 s
    for link in idle:
        link.close()


def test_half_a_request_holds_nothing_up(api, sign):
    one = sign()
    with socket.create_connection(("127.0.0.1", one.port), 20) as link:
        link.sendall(b"GET /callback?code=")
        completes(api, one)


def test_a_connection_that_is_reset_is_nobodys_business(api, sign, capfd):
    one = sign()
    with socket.create_connection(("127.0.0.1", one.port), 20) as link:
        link.sendall(b"GET /callback?code=")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    completes(api, one)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_one_byte_a_second_holds_nothing_up(api, sign):
    one = sign()
    with socket.create_connection(("127.0.0.1", one.port), 20) as link:
        for byte in b"GET /call":
            link.sendall(bytes([byte]))
            time.sleep(1)
        completes(api, one)


@pytest.mark.slow
def test_an_idle_connection_is_closed_after_a_while(api, sign):
    one = sign()
    with socket.create_connection(("127.0.0.1", one.port), 20) as link:
        assert link.recv(1) == b""
    completes(api, one)


@pytest.mark.parametrize("pieces", [1, 5], ids=["at-once", "slowly"])
def test_a_request_line_of_a_megabyte(api, sign, pieces):
    one = sign()
    line = "GET /callback?x=" + "A" * 1000000 + RIGHT + "\r\n"
    assert one.request(line, pieces).status == 414
    completes(api, one)


@pytest.mark.parametrize("pieces", [1, 5], ids=["at-once", "slowly"])
def test_a_posted_answer_is_refused_and_its_body_read_for_that(api, sign, pieces):
    one = sign()
    body = "%(all)s" + "&x=" + "A" * 300000
    head = "POST /callback" + RIGHT + "Content-Type: application/x-www-form-urlencoded\r\n"
    assert one.request(head + "Content-Length: 300500\r\n\r\n" + body, pieces).status == 405
    completes(api, one)


def test_of_two_right_answers_at_once_one_is_taken(api, sign):
    one = sign()
    api.next("/oauth/token", delay=0.3)
    replies, gate = [], threading.Barrier(8)

    def answer():
        gate.wait()
        replies.append(one.get("%(all)s"))

    threads = [threading.Thread(target=answer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(reply.status for reply in replies) == [200] + [400] * 7
    refused = next(reply.text for reply in replies if reply.status == 400)
    assert "Because this sign-in has had its answer already." in refused
    one.login.end(0)
    assert len(api.calls("POST", "/oauth/token")) == 1


# ---- the page tells the true outcome


def page(one, query):
    shown = one.get(query)
    assert shown.status == 200
    assert {name: shown.headers.get(name) for name in HEAD} == HEAD
    return shown


def test_the_page_loads_nothing_and_takes_the_code_out_of_the_address(api, sign):
    one = sign()
    shown = page(one, "%(all)s")
    one.login.end(0)
    parts = shown.headers["content-security-policy"].split("; ")
    policy = dict(part.split(" ", 1) for part in parts)
    nonce = policy["script-src"]
    assert policy == {
        "default-src": "'none'",
        "style-src": nonce,
        "script-src": nonce,
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert nonce.startswith("'nonce-") and len(nonce) > 25
    assert "history.replaceState(null" in shown.text
    assert shown.text.count('nonce="%s"' % nonce[7:-1]) == 2
    for word in ("http:", "https:", "//", "src=", "href=", "url(", "@import", one.parts["code"]):
        assert word not in shown.text


def test_a_denied_sign_in(api, sign, config):
    one = sign()
    shown = sandbox.Person(approve=False).visit(one.address)
    assert "<p>Sign-in was denied. The terminal says what to do next.</p>" in shown.text
    err = one.login.end(4)
    assert err.endswith("Error: Sign-in was denied\nRun: podstack auth login\n")
    assert not config.exists() or "token" not in config.read_text()
    assert not api.calls("POST", "/oauth/token")


def test_an_error_of_the_server_is_escaped_on_the_page_and_on_the_terminal(api, sign):
    one = sign()
    words = urllib.parse.quote("<script>alert('1')</script>\x1b[31m\u202e")
    shown = page(one, "error=server_error&error_description=" + words.replace("%", "%%")
                 + "&state=%(state)s&iss=%(iss)s")  # fmt: skip
    assert "<script>alert" not in shown.text
    assert "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;\\x1b[31m\\u202e" in shown.text
    err = one.login.end(4)
    line = "Error: Sign-in failed: server_error: <script>alert('1')</script>\\x1b[31m\\u202e\n"
    assert err.endswith(line + "Run: podstack auth login\n")


TROUBLE = [
    pytest.param(
        {"status": 400, "body": {"error": "invalid_grant", "error_description": "Used <b>"}},
        4, "Sign-in failed: invalid_grant: Used &lt;b&gt;", id="refused",
    ),
    pytest.param(
        {"status": 500}, 7, "Podstack is having trouble (HTTP 500, request id ", id="failing"
    ),
    pytest.param(
        {"body": "<html>"}, 7,
        "The authorization server&#x27;s answer is not understood (HTTP 200)", id="html",
    ),
    pytest.param(
        {"body": {"token_type": "Bearer"}}, 7,
        "The authorization server&#x27;s answer holds no token", id="no-token",
    ),
    pytest.param(
        {"redirect": "https://evil.example/"}, 7,
        "Cannot reach 127.0.0.1: it redirects to https://evil.example/, which is not followed",
        id="redirect",
    ),
    pytest.param({"drop": True}, 7, "Cannot reach 127.0.0.1: it closed the connection", id="drop"),
]  # fmt: skip


@pytest.mark.parametrize("what, code, text", TROUBLE)
def test_a_token_exchange_that_fails_is_told_on_the_page_too(api, sign, config, what, code, text):
    one = sign()
    api.next("/oauth/token", **what)
    shown = page(one, "%(all)s")
    assert "<h1>You are not signed in</h1><p>" + text in shown.text
    one.login.end(code)
    assert "token" not in (config.read_text() if config.exists() else "")


def test_a_token_that_the_api_refuses_is_told_on_the_page_too(api, sign, config):
    one = sign()
    api.next("/v1/auth/whoami", status=401)
    shown = page(one, "%(all)s")
    assert "<h1>You are not signed in</h1><p>Invalid authentication token. " in shown.text
    one.login.end(4)
    assert not config.exists() or "psa_" not in config.read_text()


def test_a_login_that_cannot_be_saved_is_told_on_the_page_too(api, sign, config):
    one = sign()
    config.write_text("broken: [\n")
    shown = page(one, "%(all)s")
    assert "<h1>You are not signed in</h1><p>%s:1:" % config in shown.text
    one.login.end(1)
    assert config.read_text() == "broken: [\n"


def test_debug_shows_no_code_verifier_or_token(api, sign):
    one = sign("--debug")
    completes(api, one)
    (exchange,) = api.calls("POST", "/oauth/token")
    (verifier,), (code,) = exchange.form["code_verifier"], exchange.form["code"]
    assert code == one.parts["code"]
    assert "debug: > POST" in one.login.err
    for secret in [code, verifier] + list(api.refresh_tokens) + list(api.tokens):
        assert secret not in one.login.err


def test_the_place_for_the_login_is_proven_before_the_address_is_shown(api, cli):
    done = cli("auth", "login", "--browser", "--use-keyring", env={"PATH": "/nowhere"}, code=1)
    assert done.error == "Error: Cannot use the keyring: secret-tool is not installed"
    assert "Open this address" not in done.err


# ---- where it listens


def test_it_listens_on_the_loopback_address_alone(api, sign):
    one = sign()
    asked = one.login.asked()["redirect_uri"]
    assert asked == "http://127.0.0.1:%d/callback" % one.port
    for address in ("::1", "127.0.0.2", own_address()):
        with pytest.raises(OSError):
            socket.create_connection((address, one.port), 5)
    completes(api, one)


def own_address():
    """An address of this machine that other machines see (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


def test_a_port_of_ones_own_and_again_at_once(api, sign):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(2):
        one = sign("--callback-port", str(port))
        assert one.port == port
        assert sandbox.Person().visit(one.address).status == 200
        one.login.end(0)


def test_the_port_that_browsers_leave_out(api, sign):
    try:
        socket.create_server(("127.0.0.1", 80)).close()
    except OSError as error:
        pytest.skip("port 80: %s" % error.strerror)
    one = sign("--callback-port", "80")
    assert sandbox.Person().visit(one.address).status == 200
    one.login.end(0)


def test_a_port_that_is_taken(api, cli):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        done = cli("auth", "login", "--no-browser", "--callback-port", str(port), code=1)
    assert done.err == (
        "Error: Cannot listen on port %d: Address already in use\n"
        "Choose another with --callback-port, or leave it out\n" % port
    )


@pytest.mark.parametrize("port", ["0x50", "-1", "65536", "http", "1.5", "\u0661"])
def test_a_port_that_is_none(api, cli, port):
    done = cli("auth", "login", "--callback-port", port, code=2)
    assert done.error.startswith("Error: --callback-port must be ")
    assert not api.requests


# ---- the address pasted into the terminal


@pytest.mark.parametrize("form", ["%s\n", "  %s \r\n", "%s#\n", "%s#_=_\n"])
def test_a_pasted_address_is_taken_like_a_callback(api, sign, form):
    keyboard = Typed()
    one = sign(tty=True, stdin=keyboard)
    started = time.monotonic()
    keyboard.type((form % one.good).encode())
    err = one.login.end(0)
    assert time.monotonic() - started < 4  # a browser's page is waited for 5 s, and here is none
    assert "If the browser ends at a page that does not load, paste its address here." in err
    assert "Signed in as user@example.com" in err
    keyboard.close_input()


def test_a_pasted_denial_ends_the_login(api, sign):
    keyboard = Typed()
    one = sign(tty=True, stdin=keyboard, environ=dict(os.environ, NO_COLOR="1"))
    keyboard.type(Approval(approve=False).of(one.address).encode() + b"\n")
    assert one.login.end(4).endswith("Error: Sign-in was denied\nRun: podstack auth login\n")
    keyboard.close_input()


def test_the_end_of_input_ends_nothing(api, sign):
    keyboard = Typed()
    one = sign(tty=True, stdin=keyboard)
    keyboard.close_input()
    completes(api, one)


def test_without_a_terminal_nothing_is_read(api, sign):
    one = sign()
    assert "paste" not in one.login.err
    completes(api, one)


def test_a_line_that_a_real_terminal_cut_is_named_as_such(api, terminal):
    shown = terminal("auth", "login", "--no-browser", size=(24, 5000))
    url = shown.expect(r"  (http://127\.0\.0\.1\S+)\r\n").group(1)
    shown.expect("paste its address here")
    good = Approval().of(url)
    shown.type(good + "&x=" + "A" * 5000 + "\n")
    shown.expect(NOT_TAKEN + CUT_OFF)
    assert not api.calls("POST", "/oauth/token")
    shown.type(good + "\n")
    assert shown.end() == 0


def test_time_is_up(api, cli):
    done = cli("auth", "login", "--no-browser", "--timeout", "0.2", code=4)
    assert done.err.endswith("Error: Nobody signed in within 0.2 s\nRun: podstack auth login\n")
    assert eventually(lambda: not api.calls("POST", "/oauth/token"), "a code came from nowhere")


def test_the_time_left_is_shown_in_place_on_a_terminal_and_once_elsewhere(api, cli):
    argv = ("auth", "login", "--no-browser", "--timeout")
    piped = cli(*argv, "0.1", code=4).err
    assert piped.count("Waiting for the browser: 0:01 left\n") == 1
    assert piped.count("Waiting") == 1
    assert "\r" not in piped
    shown = cli(*argv, "1.05", tty=True, code=4).err
    in_place = "\r\x1b[2KWaiting for the browser: 0:0%d left"
    assert in_place % 2 + in_place % 1 + "\r\x1b[2K" in shown

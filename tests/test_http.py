"""Every request: what is sent, how often, for how long, and what is made of the answer.

The servers are real: the sandbox, and `Wire` where an answer must be odd down to the byte.
"""

import email.utils
import http.client
import io
import re
import socket
import threading
import time

import pytest
from conftest import PYTHONS, USER
from wire import Wire, reply, three_pages

import podstack

WHOAMI = reply(200, {"email": "user@example.com", "account_id": "acc_123456", "token": {}})
UNREACHABLE = "Error: Cannot reach 127.0.0.1: "
DOCTOR = "\nFind out why: podstack auth doctor\n"
LATER = "\nTry again in a few minutes\n"
PROJECT_MADE = "It may have been created: check podstack project list"


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


@pytest.fixture
def ask(cli):
    """`ask(server)` runs `auth whoami` against a Wire; `slept` are the pauses it made."""

    def run(server, *argv, code=0, env=None, **world):
        slept = []
        world.setdefault("sleep", slept.append)
        environ = dict({"PODSTACK_API_ENDPOINT": server.url}, **(env or {}))
        result = cli(*(argv or ("auth", "whoami")), code=code, env=environ, **world)
        result.slept = slept
        return result

    return run


# -- retries


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_get_is_tried_again_when_the_service_has_a_bad_moment(api, cli, status):
    api.next("/v1/auth/whoami", status=status)
    slept = []
    assert cli("auth", "whoami", sleep=slept.append).out == "user@example.com\n"
    assert len(api.calls("GET")) == 2
    assert len(slept) == 1


def test_a_get_is_tried_again_when_the_connection_breaks(api, cli):
    api.next("/v1/auth/whoami", drop=True, times=2)
    api.next("/v1/auth/whoami", truncate=True)
    assert cli("auth", "whoami", sleep=lambda _: None).out == "user@example.com\n"
    assert len(api.calls("GET")) == 4


@pytest.mark.parametrize("number, tries", [(socket.EAI_AGAIN, 4), (socket.EAI_NONAME, 1)])
def test_a_name_is_asked_for_again_where_the_resolver_says_so(cli, monkeypatch, number, tries):
    asked = []

    def resolve(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(number, "words of the system")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    env = {"PODSTACK_API_ENDPOINT": "https://api.test.invalid"}
    result = cli("auth", "whoami", env=env, sleep=lambda _: None, code=7)
    assert result.error == "Error: Cannot reach api.test.invalid: its name cannot be resolved"
    assert asked == [b"api.test.invalid"] * tries


def test_a_get_is_given_up_after_three_more_tries(api, cli):
    api.next("/v1/auth/whoami", status=503, headers={"X-Request-Id": "abc"}, times=4)
    result = cli("auth", "whoami", sleep=lambda _: None, code=7)
    assert result.err == "Error: Podstack is having trouble (HTTP 503, request id abc)" + LATER
    assert result.out == ""
    assert len(api.calls("GET")) == 4


@pytest.mark.parametrize("status", [500, 501, 505, 599])
def test_other_server_errors_are_told_at_once(api, cli, status):
    api.next("/v1/auth/whoami", status=status, headers={"X-Request-Id": "abc"})
    result = cli("auth", "whoami", code=7)
    assert (
        result.err == "Error: Podstack is having trouble (HTTP %d, request id abc)" % status + LATER
    )
    assert len(api.calls("GET")) == 1


@pytest.mark.parametrize("trouble", [{"status": 503}, {"drop": True}], ids=["503", "dropped"])
def test_a_delete_is_tried_again(api, cli, trouble):
    api.next("/v1/auth/token", method="DELETE", **trouble)
    cli("auth", "revoke", "--yes", sleep=lambda _: None)
    assert len(api.calls("DELETE")) == 2
    assert USER not in api.tokens


def test_a_post_is_tried_again_after_429(api, cli):
    api.next("/v1/projects", method="POST", status=429, times=2)
    cli("project", "create", "--name", "new", sleep=lambda _: None)
    assert len(api.calls("POST")) == 3
    assert [project["name"] for project in api.projects.values()].count("new") == 1


@pytest.mark.parametrize(
    "trouble, first_line",
    [
        pytest.param({"status": 502}, "Error: Podstack is having trouble (HTTP 502", id="502"),
        pytest.param({"status": 503}, "Error: Podstack is having trouble (HTTP 503", id="503"),
        pytest.param({"status": 504}, "Error: Podstack is having trouble (HTTP 504", id="504"),
        pytest.param({"drop": True}, UNREACHABLE + "it closed the connection", id="dropped"),
        pytest.param({"truncate": True}, UNREACHABLE + "its answer was cut off", id="cut off"),
        pytest.param({"redirect": "/v1/projects"}, UNREACHABLE + "it redirects to", id="redirect"),
        pytest.param({"body": "<html>"}, "Error: Podstack's answer is not understood", id="HTML"),
    ],
)
def test_a_creating_post_that_may_have_worked_is_never_repeated(api, cli, trouble, first_line):
    api.next("/v1/projects", method="POST", **trouble)
    result = cli("project", "create", "--name", "new", code=7)
    assert result.error.startswith(first_line)
    assert result.err.endswith("\n" + PROJECT_MADE + "\n")
    assert len(api.calls("POST")) == 1


def test_a_pod_that_may_have_been_created_is_named_as_one(api, cli):
    api.next("/v1/pods", method="POST", drop=True)
    result = cli("pod", "create", "--name", "n", "--image", "i", code=7)
    assert result.err.endswith("\nIt may have been created: check podstack pod list\n")
    assert len(api.calls("POST")) == 1


def test_a_pod_is_not_started_twice_either(api, cli):
    api.add_pods(1, name="mine", status="stopped")
    api.next("/start", method="POST", status=503, headers={"X-Request-Id": "abc"})
    result = cli("pod", "start", "mine", code=7)
    assert result.err == "Error: Podstack is having trouble (HTTP 503, request id abc)" + LATER
    assert len(api.calls("POST")) == 1


def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_post_without_a_connection_is_tried_again_and_created_nothing(cli):
    slept = []
    result = cli(
        "project", "create", "--name", "new", code=7, sleep=slept.append,
        env={"PODSTACK_API_ENDPOINT": "http://127.0.0.1:%d" % unused_port()},
    )  # fmt: skip
    assert result.err == UNREACHABLE + "connection refused" + DOCTOR
    assert len(slept) == 3


def test_a_post_goes_out_once_the_server_is_there(api, cli):
    port, started = unused_port(), []

    def sleep(_):  # the server comes up during the first pause
        if not started:
            started.append(type(api)(port))

    env = {"PODSTACK_API_ENDPOINT": "http://127.0.0.1:%d" % port}
    cli("project", "create", "--name", "new", sleep=sleep, env=env)
    with started[0] as server:
        assert len(server.calls("POST")) == 1


# -- pauses


def pauses(api, cli, headers=None, status=503, now=time.time, tries=4):
    api.next("/v1/auth/whoami", status=status, headers=headers, times=tries)
    slept = []
    cli("auth", "whoami", sleep=slept.append, code=7, now=now)
    return slept


def test_pauses_are_full_jitter_below_a_doubling_limit(api, cli):
    rounds = [pauses(api, cli) for _ in range(20)]
    for turn, limit in enumerate([0.5, 1, 2]):
        column = [slept[turn] for slept in rounds]
        assert all(0 <= pause < limit for pause in column)
        assert min(column) < limit / 2 < max(column)
        assert len(set(column)) == 20


NOON = 1735689600  # 2025-01-01T00:00:00Z


@pytest.fixture
def new_york(monkeypatch):
    """Local time is another than UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "status, headers, asked",
    [
        pytest.param(503, {"Retry-After": "2"}, 2, id="seconds"),
        pytest.param(429, {"Retry-After": "2"}, 2, id="seconds after 429"),
        pytest.param(503, {"Retry-After": email.utils.formatdate(NOON + 3, usegmt=True)}, 3,
                     id="a date"),
        pytest.param(503, {"Retry-After": "Wed Jan  1 00:00:03 2025"}, 3, id="a date without zone"),
        pytest.param(503, {"Retry-After": email.utils.formatdate(NOON - 99, usegmt=True)}, 0,
                     id="a date in the past"),
        pytest.param(429, {"X-RateLimit-Reset": str(NOON + 4)}, 4, id="reset"),
        pytest.param(503, {"X-RateLimit-Reset": str(NOON + 4)}, 0, id="reset without 429"),
        pytest.param(429, {"Retry-After": "1", "X-RateLimit-Reset": str(NOON + 9)}, 1, id="both"),
        pytest.param(503, {"Retry-After": "soon"}, 0, id="a word"),
        pytest.param(503, {"Retry-After": "-5"}, 0, id="negative"),
        pytest.param(503, {"Retry-After": "Wed, 99 Foo 2025 00:00:00 GMT"}, 0, id="no date"),
        pytest.param(429, {"X-RateLimit-Reset": "1e99"}, 0, id="no number"),
    ],
)  # fmt: skip
def test_the_pause_is_at_least_what_the_server_asks_for(api, cli, new_york, status, headers, asked):
    slept = pauses(api, cli, headers, status, now=lambda: NOON)
    for pause, jitter in zip(slept, [0.5, 1, 2]):
        assert asked <= pause < asked + jitter
    assert len(slept) == 3


@pytest.mark.parametrize(
    "headers, when",
    [
        pytest.param({"Retry-After": "120"}, "in 120 s", id="seconds"),
        pytest.param({"Retry-After": "999999999999999999"}, "in 999999999 s", id="a huge number"),
        pytest.param({"X-RateLimit-Reset": "99999999999"}, "in 9", id="reset"),
    ],
)
def test_nobody_waits_beyond_the_time_limit(api, cli, headers, when):
    slept = pauses(api, cli, headers, status=429, tries=1)
    assert slept == []
    api.next("/v1/auth/whoami", status=429, headers=headers)
    assert cli("auth", "whoami", code=7).error.startswith("Error: Rate limited; try again " + when)


def test_rate_limited_without_a_word_of_when(api, cli):
    api.next("/v1/auth/whoami", status=429, times=4)
    result = cli("auth", "whoami", sleep=lambda _: None, code=7)
    assert result.err == "Error: Rate limited; try again later\n"


# -- kept-alive connections


def test_requests_of_one_command_share_a_connection(ask):
    pages = three_pages()

    def answer(connection):
        while connection.request():
            connection.send(next(pages))

    with Wire(answer) as server:
        ask(server, "api", "/things", "--paginate")
        assert len(server.requests) == 3
        assert len(server.connections) == 1


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "later"])
@pytest.mark.parametrize("status", [200, 204])
def test_what_comes_unasked_after_an_answer_answers_nothing(status, apart):
    """RFC 9112 section 9.2: it would pass for the answer to the next request."""
    taken, sent = threading.Semaphore(0), threading.Semaphore(0)
    unasked, wanted = reply(200, b"unasked"), b"asked" if status == 200 else b""
    asked = reply(status, wanted, length=status == 200)

    def answer(connection):
        while connection.request():
            connection.send(asked if apart else asked + unasked)
            if apart:
                taken.acquire()
                connection.send(unasked)
            sent.release()

    with Wire(answer) as server:
        client = podstack.Http(podstack.App(None, None, None, {}))
        for _ in range(2):
            assert client.request("GET", podstack.parse_url(server.url)).body == wanted
            taken.release()
            assert sent.acquire(timeout=20)
        assert len(server.connections) == (2 if apart else 1)


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_a_connection_that_the_server_has_closed_breaks_no_get(ask, resets):
    pages = three_pages()

    def answer(connection):
        connection.request()
        connection.send(next(pages))
        if resets:  # takes the second request, and ends without an answer
            connection.request()

    with Wire(answer) as server:
        result = ask(server, "api", "/things", "--paginate")
        assert len(result.json) == 3
        assert result.slept == []  # a new connection is no further try
        assert len(server.connections) == 3


def test_a_post_never_goes_over_a_connection_that_may_be_dying(ask):
    pods = {"data": [{"id": "pod-1", "name": "mine", "status": "stopped"}]}

    def answer(connection):
        if b"GET" in connection.request():
            connection.send(reply(200, pods))
            connection.request()  # anything more is lost
        else:
            connection.send(reply(200, pods["data"][0]))

    with Wire(answer) as server:
        ask(server, "pod", "start", "mine")
        assert [line.partition("?")[0] for line in server.requests] == [
            "GET /v1/pods", "POST /v1/pods/pod-1/start"]  # fmt: skip


def test_a_refresh_survives_a_closed_connection_without_any_retry(api, cli, config):
    """Discovery before a refresh is never retried, but a dead connection is no failure."""
    with Wire(WHOAMI) as server:
        client = podstack.Http(podstack.App(None, None, None, {}))
        url = podstack.parse_url(server.url)
        assert client.request("GET", url, retries=0).status == 200
        for connection in server.connections:
            connection.sock.shutdown(socket.SHUT_RDWR)
        server.settle()
        assert client.request("GET", url, retries=0).status == 200
        assert len(server.connections) == 2


# -- the time limit


def endless(connection, start, more, pause=0.05):
    """After a request: `start` at once, then `more` byte by byte, again and again."""
    connection.request()
    connection.send(start)
    while not connection.closing.is_set():
        connection.drip(more, pause)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "status line": (b"", b"HTTP/1.1 200 OKkkkkkkkk"),
    "header lines": (b"HTTP/1.1 200 OK\r\n", b"X-More: of this\r\n"),
    "one header": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"more"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"more"),
    "body without length": (b"HTTP/1.1 200 OK\r\n\r\n", b"more"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunk size": (CHUNKED, b"0"),
    "chunk extension": (CHUNKED + b"1;", b"name=value"),
    "trailers": (CHUNKED + b"0\r\n", b"X-More: of this\r\n"),
}


@pytest.mark.parametrize("start, more", SLOW.values(), ids=SLOW)
def test_a_server_that_drips_ends_with_the_time_limit(ask, start, more):
    with Wire(lambda connection: endless(connection, start, more)) as server:
        began = time.monotonic()
        result = ask(server, code=7, env={"PODSTACK_TIMEOUT": "0.2"})
        assert 0.18 < time.monotonic() - began < 3
        assert result.err == UNREACHABLE + "no answer within 0.2 s" + DOCTOR
        server.settle()
        assert len(server.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize("start, more", SLOW.values(), ids=SLOW)
def test_a_byte_a_second_is_no_way_round_it(ask, start, more):
    with Wire(lambda connection: endless(connection, start, more, pause=1)) as server:
        began = time.monotonic()
        result = ask(server, code=7, env={"PODSTACK_TIMEOUT": "4"})
        assert 3.9 < time.monotonic() - began < 8
        assert result.err == UNREACHABLE + "no answer within 4 s" + DOCTOR


def test_a_silent_server_ends_with_the_time_limit(ask):
    with Wire(lambda connection: connection.closing.wait(20)) as server:
        began = time.monotonic()
        result = ask(server, code=7, env={"PODSTACK_TIMEOUT": "0.2"})
        assert 0.18 < time.monotonic() - began < 3
        assert result.err == UNREACHABLE + "no answer within 0.2 s" + DOCTOR


def test_a_server_that_does_not_read_ends_with_the_time_limit(ask, home):
    (home / "big").write_bytes(b"1" * 30000000)
    with Wire(lambda connection: connection.closing.wait(20)) as server:
        began = time.monotonic()
        result = ask(server, "api", "/x", "--input", "big", code=7, env={"PODSTACK_TIMEOUT": "0.5"})
        assert 0.45 < time.monotonic() - began < 5
        assert result.error == UNREACHABLE + "no answer within 0.5 s"


def test_all_tries_together_have_one_time_limit(ask):
    with Wire(reply(503, b"", {"X-Request-Id": "abc"})) as server:
        began = time.monotonic()
        result = ask(server, code=7, env={"PODSTACK_TIMEOUT": "0.3"}, sleep=time.sleep)
        assert time.monotonic() - began < 3
        assert result.err == "Error: Podstack is having trouble (HTTP 503, request id abc)" + LATER


def test_a_name_server_that_does_not_answer_ends_with_the_time_limit(monkeypatch, cli):
    gate = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: gate.wait(20) and [])
    began = time.monotonic()
    env = {"PODSTACK_API_ENDPOINT": "https://api.test.invalid", "PODSTACK_TIMEOUT": "0.3"}
    result = cli("auth", "whoami", code=7, env=env)
    gate.set()
    assert time.monotonic() - began < 3
    assert result.err == "Error: Cannot reach api.test.invalid: no answer within 0.3 s" + DOCTOR


def test_a_system_that_has_no_thread_left_is_told(monkeypatch, cli):
    """As where `ulimit -u` or a container's limit is reached."""

    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    env = {"PODSTACK_API_ENDPOINT": "https://api.test.invalid"}
    result = cli("auth", "whoami", code=7, env=env, sleep=lambda _: None)
    assert result.err == "Error: Cannot reach api.test.invalid: can't start new thread" + DOCTOR


def test_a_dead_address_leaves_time_for_the_next(api, cli, monkeypatch):
    """As with an IPv6 address that leads nowhere: nothing answers there, not even a no."""
    with socket.socket() as dead, socket.socket() as first, socket.socket() as second:
        dead.bind(("127.0.0.1", 0))
        dead.listen(0)
        for filler in (first, second):  # a full queue: whoever comes now hears nothing
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        live = ("127.0.0.1", int(api.url.rpartition(":")[2]))
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        found = [kind + (dead.getsockname(),), kind + (live,)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        monkeypatch.setattr(podstack, "CONNECT_SECONDS", 0.2)
        began = time.monotonic()
        assert cli("auth", "whoami").out == "user@example.com\n"
        assert 0.15 < time.monotonic() - began < 5
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found[:1])
        result = cli("auth", "whoami", env={"PODSTACK_TIMEOUT": "0.3"}, code=7)
        assert result.err == UNREACHABLE + "no answer within 0.3 s" + DOCTOR


# -- the size limit


def flood(connection, start, block):
    connection.request()
    connection.send(start)
    while not connection.closing.is_set():
        connection.send(block)


BLOCK = b"x" * 65536
FLOODS = {
    "declared": (b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n", BLOCK),
    "undeclared": (b"HTTP/1.1 200 OK\r\n\r\n", BLOCK),
    "a length beyond any memory": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n", BLOCK),
    "chunked": (CHUNKED, b"10000\r\n" + BLOCK + b"\r\n"),
    "a chunk beyond any memory": (CHUNKED + b"ffffffffffffff\r\n", BLOCK),
    # Of 32 bytes: at one byte each 10 MB take about as long as the time limit, 30 s.
    "tiny chunks": (CHUNKED, (b"20\r\n" + BLOCK[:32] + b"\r\n") * 1000),
}  # fmt: skip


@pytest.mark.parametrize("start, block", FLOODS.values(), ids=list(FLOODS))
def test_an_answer_of_more_than_10_MB_is_not_read_on(ask, start, block):
    with Wire(lambda connection: flood(connection, start, block)) as server:
        result = ask(server, code=7)
        assert result.err == UNREACHABLE + "its answer is larger than 10 MB" + DOCTOR
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "start, block",
    [(CHUNKED + b"0\r\n", b"X: y\r\n" * 10000), (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)],
    ids=["trailers", "interim answers"],
)
def test_a_flood_of_what_is_no_body_ends_with_the_time_limit(ask, start, block):
    with Wire(lambda connection: flood(connection, start, block)) as server:
        result = ask(server, code=7, env={"PODSTACK_TIMEOUT": "0.5"})
        assert result.err == UNREACHABLE + "no answer within 0.5 s" + DOCTOR


def test_a_hundred_header_lines_are_enough_even_of_one_name(ask):
    """Joined one by one, 10 MB of them would take longer than any time limit."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n%s\r\n{}"
    with Wire(head % (b"A: b\r\n" * 98)) as server:
        assert ask(server, "api", "/things").json == {}
    with Wire(head % (b"A: b\r\n" * 100)) as server:
        assert ask(server, code=7).err == UNREACHABLE + "its answer is not HTTP" + DOCTOR


def test_a_number_too_long_for_any_use_is_null(ask):
    """int takes time by the square of its digits: minutes, for 10 MB of them."""
    with Wire(reply(200, '{"long": %s, "just": %s}' % ("9" * 309, "9" * 300))) as server:
        assert ask(server, "api", "/things").json == {"long": None, "just": int("9" * 300)}


def test_an_answer_of_almost_10_MB_is_read(ask):
    rows = [{"id": "x" * 99000} for _ in range(100)]
    with Wire(reply(200, rows)) as server:
        assert ask(server, "project", "list", "-o", "json").json == rows


def test_a_log_has_no_size_limit(ask):
    line = b"x" * 1000 + b"\n"

    def answer(connection):
        if b"/logs" in connection.request():
            connection.send(reply(200, b"", {"Content-Length": len(line) * 12000}, length=False))
            for _ in range(120):
                connection.send(line * 100)
        connection.request()

    with Wire(answer) as server:
        result = ask(server, "pod", "logs", "pod-1")
        assert len(result.out) == 12000 * len(line)


def test_a_log_whose_line_never_ends_is_shown_and_not_hoarded(ask):
    def answer(connection):
        if b"/logs" in connection.request():
            connection.send(reply(200, b"", length=False))
            for _ in range(64):
                connection.send(BLOCK)

    with Wire(answer) as server:
        lines = ask(server, "pod", "logs", "pod-1", tty=True).out.splitlines()
    assert "".join(lines) == "x" * len(BLOCK) * 64
    assert max(map(len, lines)) < 4 * len(BLOCK)


def test_a_log_may_be_silent_for_longer_than_the_time_limit(ask):
    def answer(connection):
        connection.request()
        connection.send(CHUNKED)
        connection.closing.wait(0.8)
        connection.send(b"6\r\nhello\n\r\n0\r\n\r\n")

    with Wire(answer) as server:
        result = ask(server, "pod", "logs", "pod-1", env={"PODSTACK_TIMEOUT": "0.5"})
        assert result.out == "hello\n"


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_log_that_breaks_off_says_so(ask, coding):
    head = CHUNKED + b"9\r\n" if coding == "chunked" else reply(
        200, headers={"Content-Length": 9}, length=False)  # fmt: skip

    def answer(connection):
        connection.request()
        connection.send(head + b"hello\n")

    with Wire(answer) as server:
        result = ask(server, "pod", "logs", "pod-1", code=7)
        assert result.out == "hello\n"
        assert result.err == UNREACHABLE + "its answer was cut off" + DOCTOR


@pytest.mark.parametrize("head, piece", [
    (b"HTTP/1.1 200 OK\r\n\r\n", b"hello\n"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"hello\n"),
    (CHUNKED, b"6\r\nhello\n\r\n"),
], ids=["closing", "length", "chunked"])  # fmt: skip
def test_of_a_log_that_falls_silent_all_that_came_is_shown(head, piece):
    def answer(connection):
        connection.request()
        connection.send(head + piece)
        connection.more()

    with Wire(answer) as server:
        client = podstack.Http(podstack.App(None, None, None, {}))
        answer = client.request("GET", podstack.parse_url(server.url), silence=0.3)
        assert next(answer.pieces) == b"hello\n"
        with pytest.raises(podstack.Unreachable, match="no answer within 0.3 s"):
            next(answer.pieces)


# -- answers, read as other clients read them


ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "HTTP 1.0": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "chunks": CHUNKED + b"3\r\nhel\r\n02;x=y\r\nlo\r\n0\r\n\r\n",
    "upper-case size": CHUNKED + b"A\r\nhellohello\r\n0\r\nX-Trailer: y\r\n\r\n",
    "odd letters": b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh:5\r\n\r\nhello",
    "after 100": b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\nhi",
    "204": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    "999": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nno",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
}


class Canned:
    """As much of a socket as http.client asks of one."""

    def __init__(self, data):
        self.data = data

    def makefile(self, *_):
        return io.BytesIO(self.data)


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_means_what_the_standard_library_says(data):
    oracle = http.client.HTTPResponse(Canned(data), method="GET")
    oracle.begin()

    def answer(connection):
        connection.request()
        connection.send(data)

    with Wire(answer) as server:
        client = podstack.Http(podstack.App(None, None, None, {}))
        got = client.request("GET", podstack.parse_url(server.url))
    assert (got.status, got.body) == (oracle.status, oracle.read())
    assert got.headers == {name.lower(): value for name, value in oracle.getheaders()}


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_means_the_same_however_it_is_cut_into_packets(data):
    def answer(connection):
        connection.request()
        connection.drip(data, 0)

    def whole(connection):
        connection.request()
        connection.send(data)

    client = podstack.Http(podstack.App(None, None, None, {}))
    with Wire(answer) as slow, Wire(whole) as fast:
        one = client.request("GET", podstack.parse_url(slow.url))
        two = client.request("GET", podstack.parse_url(fast.url))
    assert (one.status, one.headers, one.body) == (two.status, two.headers, two.body)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PYTHONS))
def test_every_python_reads_them_alike(podstack_process, name):
    good = b'"hello"\n'
    tell = b"HTTP/1.1 200 OK\r\n"
    chunks = tell + b'Transfer-Encoding: chunked\r\n\r\n4\r\n"hel\r\n3\r\nlo"\r\n0\r\n\r\n'
    moved = reply(302, headers={"Location": "/v1/y"})
    server_error = reply(500, headers={"X-Request-Id": "abc"})
    for answers, code, out, error in (
        ([tell + b'Content-Length: 7\r\n\r\n"hello"'], 0, good, ""),
        ([tell + b'\r\n"hello"'], 0, good, ""),
        ([chunks], 0, good, ""),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + chunks], 0, good, ""),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n"], 7, b"", UNREACHABLE + "its answer is not HTTP"),
        ([b"", chunks], 0, good, ""),
        ([reply(429, headers={"Retry-After": "0"}), chunks], 0, good, ""),
        ([moved, chunks], 0, good, ""),
        ([server_error], 7, b"", "Error: Podstack is having trouble (HTTP 500, request id abc)"),
        ([chunks[:-20]] * 4, 7, b"", UNREACHABLE + "its answer was cut off"),
        ([CHUNKED + b"-1\r\n"] * 4, 7, b"", UNREACHABLE + "its answer was cut off"),
        ([tell + b"X: " + b"y" * 70000], 7, b"", UNREACHABLE + "its answer is not HTTP"),
    ):
        left = list(answers)
        with Wire(lambda c, left=left: c.request() and c.send(left.pop(0))) as server:
            env = {"PODSTACK_API_ENDPOINT": server.url}
            result = podstack_process("api", "/x", python=PYTHONS[name], env=env, code=code)
            assert (result.out.encode(), result.error) == (out, error)
            assert left == []
    with Wire(lambda connection: endless(connection, *SLOW["chunk size"])) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_TIMEOUT": "0.5"}
        result = podstack_process("api", "/x", python=PYTHONS[name], env=env, code=7)
        assert result.error == UNREACHABLE + "no answer within 0.5 s"
    with Wire(lambda connection: flood(connection, *FLOODS["declared"])) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url}
        result = podstack_process("api", "/x", python=PYTHONS[name], env=env, code=7)
        assert result.error == UNREACHABLE + "its answer is larger than 10 MB"


def test_a_204_has_no_body_whatever_it_says(api, cli):
    """RFC 9112 section 6.3; some servers say `chunked` and send none."""
    answer = b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Wire(answer) as server:
        env = {"PODSTACK_API_ENDPOINT": server.url}
        cli("api", "/x", "-X", "DELETE", env=env)
        assert len(server.requests) == 1


# -- redirects


def test_a_redirect_within_the_origin_is_followed_with_the_token(api, cli):
    api.next("/v1/projects", redirect="/v1/projects?moved=1")
    cli("project", "list")
    first, second = api.calls("GET")
    assert second.target == "/v1/projects?moved=1"
    assert second.headers["Authorization"] == "Bearer " + USER


@pytest.mark.parametrize(
    "target, lands",
    [
        ("/v1/x?y=1", "/v1/x?y=1"),
        ("x", "/v1/x"),
        ("?page=2", "/v1/things?page=2"),
        ("../other", "/other"),
        ("%(url)s/v1/x", "/v1/x"),
    ],
)
def test_a_redirect_may_be_relative(ask, target, lands):
    def answer(connection):
        line = connection.request().split(b" ")[1].decode()
        if line == "/v1/things":
            connection.send(reply(302, headers={"Location": target % {"url": server.url}}))
        else:
            connection.send(reply(200, {"at": line}))

    with Wire(answer) as server:
        assert ask(server, "api", "/things").json == {"at": lands}


def test_five_redirects_are_followed_and_not_six(api, cli):
    api.next("/v1/auth/whoami", redirect="/v1/auth/whoami", times=5)
    assert cli("auth", "whoami").out == "user@example.com\n"
    api.next("/v1/auth/whoami", redirect="/v1/auth/whoami", times=6)
    result = cli("auth", "whoami", code=7)
    assert (
        result.err
        == UNREACHABLE + "it redirects to /v1/auth/whoami, which is not followed" + DOCTOR
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    [
        "%(other)s/v1/auth/whoami",
        "http://localhost:%(port)d/v1/auth/whoami",
        "https://127.0.0.1:%(port)d/v1/auth/whoami",
        "//127.0.0.1:%(other_port)d/",
        "http://127.0.0.1:%(port)d@127.0.0.1:%(other_port)d/",
        "http://127.0.0.1:%(port)d\\@127.0.0.1:%(other_port)d/",
    ],
)
def test_no_redirect_to_another_origin(ask, status, target):
    with Wire(WHOAMI) as other:
        holder = {}
        with Wire(lambda connection: redirect(connection, status, holder["to"])) as server:
            names = {"other": other.url, "port": server.port, "other_port": other.port}
            holder["to"] = target % names
            result = ask(server, code=7)
            shown = re.sub("//[^/]*@", "//****@", holder["to"])  # it may hold a password
            told = UNREACHABLE + "it redirects to %s, which is not followed" + DOCTOR
            assert result.err == told % shown
            assert len(server.requests) == 1
        assert other.connections == []


def redirect(connection, status, target):
    while connection.request():
        connection.send(reply(status, headers={"Location": target}))


# -- endpoints and headers


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("prefix", ["", "/gpu/cloud"])
def test_an_endpoint_may_have_a_prefix_a_slash_and_v1(api, cli, prefix, end):
    api.prefix = prefix
    cli("auth", "whoami", env={"PODSTACK_API_ENDPOINT": api.url + prefix + end})
    assert [call.target for call in api.calls()] == [prefix + "/v1/auth/whoami"]


@pytest.mark.parametrize("host, named", [
    ("127.0.0.1", "localhost"), ("127.0.0.1", "LOCALHOST"), ("::1", "localhost"), ("::1", "[::1]"),
])  # fmt: skip
def test_localhost_is_this_machine_over_either_protocol(cli, host, named):
    with Wire(WHOAMI, host) as server:
        url = "http://%s:%d" % (named, server.port)
        assert cli("auth", "whoami", env={"PODSTACK_API_ENDPOINT": url}).out == "user@example.com\n"
        assert b"\r\nHost: %s:%d\r\n" % (named.lower().encode(), server.port) in server.received


def test_what_every_request_says_of_itself(api, cli):
    cli("pod", "list", "--project", "my-project")
    cli("auth", "whoami", "--project", "my-project")
    pods, whoami = api.calls()
    agent = "podstack-cli/%s (python " % podstack.VERSION
    for call in (pods, whoami):
        assert call.headers["Authorization"] == "Bearer " + USER
        assert call.headers["User-Agent"].startswith(agent)
        assert call.headers["Accept"] == "application/json"
        assert call.headers["Host"] == api.url.partition("//")[2]
    assert pods.headers["X-Project-ID"] == "my-project"
    assert whoami.headers["X-Project-ID"] is None


def test_no_project_no_header(api, cli):
    cli("pod", "list")
    assert api.calls()[0].headers["X-Project-ID"] is None


def test_a_project_of_any_letters_stays_one_header(ask):
    with Wire(reply(200, [])) as server:
        ask(server, "pod", "list", "--project", "X-Evil: 1 \u00fc")
        assert b"\r\nX-Project-ID: X-Evil%3A%201%20%C3%BC\r\n" in server.received

"""Lists: every page, in parallel where that pays, without ever holding the whole; and tables."""

import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest
from conftest import CHECKOUT, TESTS, USER, need

import podstack


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


def pages_asked(api):
    return [
        (int(call.query["page"][0]), int(call.query["limit"][0]))
        for call in api.calls("GET", "/v1/pods")
    ]


# -- every page, no page twice


@pytest.mark.parametrize("delay", [0, 0.03], ids=["quick", "slow"])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1000, 2050])
def test_every_pod_is_listed_once_and_no_page_is_asked_for_twice(api, cli, count, delay):
    api.page_delay = delay
    api.add_pods(count)
    listed = cli("pod", "list", "--quiet").out.split()
    assert listed == list(api.pods)
    assert sorted(pages_asked(api)) == [(n + 1, 100) for n in range(max(1, -(-count // 100)))]


LIMITS = [
    (1, [(1, 1)]),
    (20, [(1, 20)]),
    (100, [(1, 100)]),
    (101, [(1, 51), (2, 51)]),
    (150, [(1, 75), (2, 75)]),
    (250, [(1, 84), (2, 84), (3, 84)]),
    (1000, [(n + 1, 100) for n in range(5)]),
]


@pytest.mark.parametrize("limit, asked", LIMITS)
def test_a_limit_fetches_no_more_than_it_must(api, cli, limit, asked):
    api.page_delay = 0.03
    api.add_pods(450)
    listed = cli("pod", "list", "--quiet", "--limit", str(limit)).out.split()
    assert listed == list(api.pods)[:limit]
    assert sorted(pages_asked(api)) == asked


def test_later_pages_are_at_least_three_times_as_quick_in_parallel(api, cli, monkeypatch):
    api.page_delay = 0.05
    api.add_pods(3300)

    def seconds(workers):
        monkeypatch.setattr(podstack, "PARALLEL_PAGES", workers)
        started = time.monotonic()
        assert len(cli("pod", "list", "-q").out.split()) == 3300
        return time.monotonic() - started

    one_by_one = seconds(1)
    assert one_by_one > 33 * 0.05
    assert one_by_one >= 3 * seconds(8)


def test_no_more_than_eight_pages_are_on_their_way(api, cli):
    """And where the service is near, threads do not pay: one."""
    now, most, lock = [0], [0], threading.Lock()
    arrived = api.arrived

    def count(request):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        return arrived(request)

    def done(request):
        with lock:
            now[0] -= 1

    api.arrived, api.report = count, done
    api.add_pods(3000)
    cli("pod", "list", "-q")
    assert most[0] <= 2  # one is on its way while another is printed
    api.page_delay, most[0] = 0.03, 0
    cli("pod", "list", "-q")
    assert 4 <= most[0] <= 8


@pytest.mark.parametrize("form", ["table", "json"])
def test_the_order_is_the_services_whatever_answers_first(api, cli, form):
    """Every third page is late."""
    names = [pod["name"] for pod in api.add_pods(900)]
    api.page_delay = 0.02
    for page in (1, 4, 7):
        api.next("page=%d&" % page, delay=0.1)
    out = cli("pod", "list", "-o", form).out
    assert re.findall(r"worker-\d+", out) == names


def test_a_failing_page_is_a_failure(api, cli):
    api.page_delay = 0.02
    api.add_pods(900)
    api.next("page=5&", status=400, body={"error": {"code": "x", "message": "no such page"}})
    done = cli("pod", "list", code=1)
    assert (done.out, done.error) == ("", "Error: no such page")


def test_ctrl_c_does_not_wait_for_answers(api, terminal):
    api.page_delay = 0.02
    api.add_pods(900)
    api.next("page=5&", delay=60)
    screen = terminal("pod", "list")
    deadline = time.monotonic() + 20
    while len(api.requests) < 9:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = time.monotonic()
    screen.type("\x03")
    assert screen.end() == 130
    assert time.monotonic() - started < 10


# -- lists that move, and services that lie


def change(api, when, what):
    """Do `what()` as soon as page `when` has been asked for."""
    arrived = api.arrived

    def watch(request):
        if "page=%d&" % when in request.target:
            what()
        return arrived(request)

    api.arrived = watch


def test_a_pod_that_is_pushed_to_the_next_page_is_listed_once(api, cli):
    pods = api.add_pods(250)
    first = dict(api.pods)

    def put_in_front():
        new = api.add_pods(1, name="new")[0]
        others = [item for item in api.pods.items() if item[1] is not new]
        api.pods.clear()
        api.pods.update([(new["id"], new)] + others)
        api.pods_version += 1

    change(api, 2, put_in_front)
    listed = cli("pod", "list", "-q").out.split()
    assert listed == list(first) and len(set(listed)) == len(pods)


def test_a_list_that_grows_meanwhile_is_read_to_its_new_end(api, cli):
    api.add_pods(200)
    change(api, 2, lambda: api.add_pods(150))
    assert cli("pod", "list", "-q").out.split() == list(api.pods)


def test_a_list_that_shrinks_meanwhile_ends(api, cli):
    pods = api.add_pods(500)

    def shrink():
        for pod in pods[120:]:
            api.forget_pod(pod)

    change(api, 2, shrink)
    assert cli("pod", "list", "-q").out.split() == [pod["id"] for pod in pods[:120]]
    assert len(api.requests) <= 5  # where the first page is slow, later ones are asked for at once


ROWS = [{"id": "pod-%03d" % number, "name": "n"} for number in range(100)]
LIES = [
    pytest.param({"page": 1, "limit": 100, "total": 10**12, "pages": 10**10}, 1, id="too-many"),
    pytest.param({"page": 1, "limit": 100, "total": 10**8, "pages": 10**6}, 9, id="far-too-many"),
    pytest.param({"page": 1, "limit": 100, "total": 0, "pages": 0}, 2, id="none"),
    pytest.param({"total": "many", "pages": None, "limit": -5}, 2, id="words"),
    pytest.param({"pages": True, "total": 1.5}, 2, id="odd-numbers"),
    pytest.param({}, 2, id="empty"),
    pytest.param(None, 2, id="null"),
    pytest.param("page 1 of 5", 2, id="text"),
]


@pytest.mark.parametrize("told, most", LIES)
def test_a_service_that_always_gives_the_same_page(api, cli, told, most):
    """It does not know `page`, or says anything of how many there are: every row once, an end."""
    body = {"data": ROWS, "pagination": told}
    api.next("/v1/pods", times=float("inf"), body=body, delay=0.02)
    assert cli("pod", "list", "-q").out.split() == [row["id"] for row in ROWS]
    assert len(api.requests) <= max(most, 9)


@pytest.mark.parametrize("told, most", LIES)
def test_a_service_whose_pages_end_without_a_word(api, cli, told, most):
    api.next("page=1&", body={"data": ROWS, "pagination": told})
    api.next("/v1/pods", times=float("inf"), body={"data": [], "pagination": told})
    assert cli("pod", "list", "-q").out.split() == [row["id"] for row in ROWS]


def test_pages_without_a_pagination_object_are_read_while_they_are_full(api, cli):
    rows = [dict(row, id=row["id"] + "b") for row in ROWS[:30]]
    api.next("page=1&", body={"pods": ROWS})
    api.next("page=2&", body=rows)
    listed = cli("pod", "list", "-q").out.split()
    assert listed == [row["id"] for row in ROWS + rows]


def test_a_service_with_smaller_pages_than_asked_for(api, cli):
    for page in range(1, 6):
        told = {"page": page, "limit": 20, "total": 100, "pages": 5}
        rows = ROWS[20 * page - 20 : 20 * page]
        api.next("page=%d&" % page, body={"data": rows, "pagination": told})
    assert cli("pod", "list", "-q").out.split() == [row["id"] for row in ROWS]


def test_rows_without_ids_are_all_shown(api, cli):
    rows = [{"name": "a"}, {"name": "b", "id": None}, {"id": None, "name": "b"}, {}]
    api.next("/v1/pods", body=rows)
    assert cli("pod", "list", "-q").out == "a\nb\nb\n-\n"


def test_a_name_is_looked_for_on_every_page(api, cli):
    """A service that does not know `name=` must not get the wrong pod deleted."""
    api.page_delay = 0.02
    api.add_pods(550)
    api.add_pods(1, name="wanted")
    whole = api.carry_out

    def ignore_name(request):
        request.query.pop("name", None)
        return whole(request)

    api.carry_out = ignore_name
    assert cli("pod", "get", "wanted", "-o", "json").json["name"] == "wanted"
    assert cli("pod", "get", "worker", code=6).error == "Error: Pod 'worker' not found"


def test_a_login_that_ends_between_two_pages_is_renewed_once(api, cli, config, monkeypatch):
    monkeypatch.delenv("PODSTACK_API_TOKEN")
    grant = api.issue_oauth()
    config.write_text(
        "auth:\n  token: %s\n  refresh_token: %s\n  endpoint: %s\n  issuer: %s\n"
        % (grant["access_token"], grant["refresh_token"], api.endpoint, api.url)
    )
    config.chmod(0o600)
    api.page_delay = 0.03
    api.add_pods(1500)
    change(api, 3, lambda: api.tokens.pop(grant["access_token"], None))
    assert cli("pod", "list", "-q").out.split() == list(api.pods)
    assert (api.refreshes, api.reuses) == (1, 0)


# -- tables

WIDE_NAMES = [
    "plain", "日本語のポッド", "café", "cafe\u0301", "한국어", "🚀🚀", "नमस्ते", "عربى", "ﬁ",
    "ｆｕｌｌ", "a\u200db", "zero\u200bwidth", "e\u0301\u0302\u0303", "Ω≈ç√", "\u1112\u1161\u11ab",
]  # fmt: skip
HIDDEN = ["\x1b[31mred", "a\nb", "a\tb", "\u202egnp", "\x00", "\x9b31m", "a\rb", "\u2028"]


def cells_shown(line):
    """Where each cell of a line starts, in terminal cells."""
    return [
        podstack.display_width(line[: match.start()]) for match in re.finditer(r"running", line)
    ]


def test_names_in_any_script_line_up(api, cli):
    for name in WIDE_NAMES + HIDDEN:
        api.add_pods(1, name=name)
    lines = cli("pod", "list").out.split("\n")[:-1]
    assert len(lines) == 1 + len(WIDE_NAMES + HIDDEN)
    assert {place for line in lines[1:] for place in cells_shown(line)} == {
        lines[0].index("STATUS")
    }
    for line, name in zip(lines[1:], WIDE_NAMES):
        assert line.startswith(name + " ")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", "".join(lines))


def test_a_terminal_agrees_on_how_wide_a_name_is(tmp_path):
    """tmux knows how far the cursor has come."""
    need("tmux")

    def tmux(*words):
        base = ["tmux", "-u", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
        return subprocess.check_output(base + list(words), env=environ).decode().strip()

    environ = dict(os.environ, TERM="xterm-256color", SHELL="/bin/sh")
    tmux("new-session", "-d", "-x", "100", "-y", "10", "cat")
    try:
        with open(tmux("display", "-p", "#{pane_tty}"), "w", encoding="utf-8") as screen:
            for number, name in enumerate(WIDE_NAMES):
                print("\r\x1b[2K%s\x1b]2;%d\x07" % (name, number), end="", file=screen, flush=True)
                deadline = time.monotonic() + 30
                while tmux("display", "-p", "#{pane_title}") != str(number):
                    assert time.monotonic() < deadline
                width = int(tmux("display", "-p", "#{cursor_x}"))
                assert podstack.display_width(name) == width, name
    finally:
        tmux("kill-server")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_fits_the_terminal(api, terminal, columns):
    api.add_pods(1, name="n" * 200, gpu_type="A100")
    api.add_pods(1, name="日" * 200)
    screen = terminal("pod", "list", size=(24, columns))
    assert screen.end() == 0
    lines = screen.shown.split("\r\n")[:-1]
    assert len(lines) == 3
    assert max(podstack.display_width(line) for line in lines) <= columns
    assert len({line.index("running") for line in lines[1:2]}) == 1
    assert [line.split()[0][-1] for line in lines[1:]] == ["~", "~"] or columns == 200


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param("\u0301" * 30000 + "x" * 200, id="marks without a width"),
        pytest.param("x" * 9000000, id="9 MB of letters"),
    ],
)
def test_a_name_of_any_length_is_cut_at_once(cell):
    """Neither the square of its letters, nor a step for each, is waited for."""
    started = time.process_time()
    lines = list(podstack.table_lines(["NAME", "STATUS"], [[cell, "running"]], 80))
    assert time.process_time() - started < 3
    assert podstack.display_width(lines[1]) == 80


def test_wide_and_a_pipe_cut_nothing(api, cli, terminal):
    api.add_pods(1, name="n" * 200)
    assert "n" * 200 in cli("pod", "list").out
    screen = terminal("pod", "list", "-o", "wide")
    screen.end()
    assert "n" * 200 in screen.shown.replace("\r\n", "")


# -- json, yaml and ids

ODD_POD = {"id": "pod-1", "name": "a", "status": "running", "new": {"deep": [1, None, "x"]}}


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_unknown_fields_are_kept(api, cli, form):
    api.next("/v1/pods", body={"data": [ODD_POD, {}], "pagination": {"pages": 1, "more": 1}})
    out = cli("pod", "list", "-o", form).out
    assert (json.loads(out) if form == "json" else podstack.yaml_load(out))[0]["new"] is not None
    if form == "json":
        assert json.loads(out) == [ODD_POD, {}]


@pytest.mark.parametrize("form, out", [("json", "[]\n"), ("yaml", "[]\n"), ("table", None)])
def test_an_empty_list(api, cli, form, out):
    shown = cli("pod", "list", "-o", form).out
    assert shown == (out or "NAME  STATUS  GPU  CREATED\n")


def test_a_reader_that_goes_away_ends_the_list(api, podstack_process):
    api.add_pods(3000)
    words = "%s -B %s/podstack.py pod list -o json" % (sys.executable, CHECKOUT)
    done = subprocess.run(
        ["/bin/bash", "-c", "set -o pipefail; %s | head -1" % words], timeout=60,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (b"[\n", b"")
    assert len(api.requests) < 30


# -- a hundred thousand

SERVE = """
import sys, threading
sys.path.insert(0, %r)
from sandbox import Sandbox
api = Sandbox()
api.add_pods(100000, gpu_type="A100", gpu_count=1)
print(api.url, flush=True)
sys.stdin.read()
"""
RUN = """
import sys
sys.path.insert(0, %r)
import podstack
app = podstack.App.real()
code = podstack.main(sys.argv[1:], app)
app.flush()
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(code, peak[0], file=sys.stderr)
"""


@pytest.fixture
def hundred_thousand(monkeypatch):
    words = [sys.executable, "-c", SERVE % TESTS]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    monkeypatch.setenv("PODSTACK_API_ENDPOINT", server.stdout.readline().decode().strip())
    yield
    server.communicate()


def cost(*words):
    """(seconds, peak MB, bytes of output) of a podstack that need not be compiled first."""
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-c", RUN % CHECKOUT] + list(words),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    size = sum(len(piece) for piece in iter(lambda: child.stdout.read(1 << 16), b""))
    code, peak = child.communicate()[1].split()
    assert code == b"0"
    return time.monotonic() - started, int(peak) * 1024 / 1e6, size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_hundred_thousand_pods_cost_little_more_memory_than_a_page(
    hundred_thousand, tmp_path, monkeypatch, capsys
):
    """json, yaml and ids hold a page at a time; a table holds its cells, to line them up."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    cost("pod", "list", "--limit", "1")
    seen = {}
    for form in (["-o", "json"], ["-o", "yaml"], ["-q"], []):
        _, page, _ = cost("pod", "list", "--limit", "100", *form)
        seconds, peak, size = cost("pod", "list", *form)
        seen[" ".join(form) or "table"] = (peak - page, size)
        with capsys.disabled():
            shown = (" ".join(form) or "table", seconds, peak, page, size / 1e6)
            print("\n%-8s %.1f s, %.1f MB (one page: %.1f MB), %.1f MB of output" % shown, end="")
    for form in ("-o json", "-o yaml", "-q"):
        assert seen[form][0] < 8, seen  # the threads, and eight pages that are on their way
    more, size = seen["table"]
    assert more < 4 * size / 1e6, seen

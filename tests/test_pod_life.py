"""What a pod goes through: start, stop, restart, delete, waiting, logs, events, metrics."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import PODSTACK, USER

import podstack


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


@pytest.fixture
def slept():
    """How long the program has slept, each time; hand `slept.append` to cli as `sleep`."""
    return []


def statuses(api):
    return {pod["name"]: pod["status"] for pod in api.pods.values()}


# -- one verb, several pods

VERBS = [
    ("start", "stopped", "pending", "running", "Starting"),
    ("stop", "running", "stopping", "stopped", "Stopping"),
    ("restart", "running", "pending", "running", "Restarting"),
]


@pytest.mark.parametrize("verb, first, at_once, at_last, said", VERBS)
def test_a_pod_changes(api, cli, slept, verb, first, at_once, at_last, said):
    pod = api.add_pods(1, name="ci-pod", status=first)[0]
    done = cli("pod", verb, "ci-pod")
    assert (done.out, done.err) == ("", "%s pod 'ci-pod'\n" % said)
    assert pod["status"] == at_once
    pod["status"] = first
    done = cli("pod", verb, pod["id"], "--wait", sleep=slept.append)
    assert done.err == (
        "{} pod 'ci-pod'\nPod 'ci-pod': {}\nPod 'ci-pod' is {}\n".format(said, at_once, at_last)
    )
    assert pod["status"] == at_last and len(slept) == 2
    pod["status"] = first
    assert cli("pod", verb, "ci-pod", "--wait", "--quiet", sleep=slept.append).err == ""


def test_force_stops_at_once(api, cli):
    pod = api.add_pods(1, name="ci-pod")[0]
    cli("pod", "stop", "ci-pod", "--force")
    assert pod["status"] == "stopped"
    assert api.calls("POST")[0].json == {"force": True}


def test_several_pods_start_side_by_side(api, cli, slept):
    """All are asked to start before the first is waited for."""
    for name in ("a", "b", "c"):
        api.add_pods(1, name=name, status="stopped")
    done = cli("pod", "start", "a", "b", "c", "--wait", sleep=slept.append)
    assert done.err.splitlines()[:3] == ["Starting pod '%s'" % name for name in "abc"]
    assert done.err.splitlines()[-1] == "Pod 'c' is running"
    assert set(statuses(api).values()) == {"running"}
    posts = [call.method for call in api.requests]
    assert "POST" not in posts[posts.index("POST") + 5 :]


def test_what_fails_is_told_and_the_rest_is_done(api, cli, slept):
    api.add_pods(1, name="a", status="stopped")
    api.add_pods(1, name="b", status="running")
    done = cli("pod", "start", "a", "b", "nope", "--wait", code=1, sleep=slept.append)
    assert done.err.splitlines() == [
        "Starting pod 'a'",
        "Error: Cannot start pod 'b' while it is running",
        "Error: Pod 'nope' not found",
        "Pod 'a': pending",
        "Pod 'a' is running",
        "Error: 2 of 3 pods failed",
        "See: podstack pod list",
    ]
    assert statuses(api) == {"a": "running", "b": "running"}


def test_failures_of_one_kind_keep_their_exit_code(api, cli):
    done = cli("pod", "stop", "x", "y", code=6)
    assert done.err.endswith("\nError: 2 of 2 pods failed\nSee: podstack pod list\n")
    api.add_pods(1, name="a", status="running")
    done = cli("pod", "delete", "x", "a", "--yes", code=1)  # it is there, but runs
    assert done.err.endswith("\nError: 2 of 2 pods failed\nSee: podstack pod list\n")


def test_a_dead_token_stops_at_once(api, cli):
    api.add_pods(1, name="a")
    done = cli(
        "pod", "stop", "a", "b", "c", env={"PODSTACK_API_TOKEN": "psk_sandbox_expired"}, code=4
    )
    assert done.error == "Error: Token expired" and len(api.requests) == 1


def test_one_verb_on_one_pod_shows_the_whole_error(api, cli):
    api.add_pods(1, name="ci-pod")
    done = cli("pod", "delete", "ci-pod", "--yes", code=1)
    assert done.error == "Error: Pod 'ci-pod' is running; stop it first or use force"
    assert statuses(api) == {"ci-pod": "running"}


# -- waiting


def test_create_waits_until_the_pod_runs(api, cli, slept):
    api.reads_until_running = 4
    done = cli("pod", "create", "--name", "a", "--image", "i", "--wait", "-o", "json",
               sleep=slept.append)  # fmt: skip
    assert done.json["status"] == "running" and done.json["ssh_command"]
    assert done.err == "Created pod 'a'\nPod 'a': pending\nPod 'a' is running\n"


def test_polls_grow_rarer(api, cli, slept):
    api.reads_until_running = 15
    cli("pod", "create", "--name", "a", "--image", "i", "--wait", sleep=slept.append)
    assert slept[0] == 0.5 and slept[-1] == 10
    assert all(1 <= later / before <= 1.5 for before, later in zip(slept, slept[1:]))


def test_a_pod_that_fails_is_a_failure(api, cli, slept):
    done = cli("pod", "create", "--name", "a", "--image", "will-fail", "--wait", "-q", code=1,
               sleep=slept.append)  # fmt: skip
    assert done.out == ""
    assert done.err == "Error: Pod 'a' has failed\nSee: podstack pod logs a\n"
    assert statuses(api) == {"a": "failed"}


def test_a_failed_pod_can_be_deleted_and_waited_for(api, cli, slept):
    """That it has failed says nothing of its deletion."""
    api.reads_until_gone = 2
    pod = api.add_pods(1, name="a", status="failed")[0]
    api.next("/v1/pods/" + pod["id"], method="GET", body=dict(pod))
    done = cli("pod", "delete", "a", "--yes", "--wait", sleep=slept.append)
    assert done.err == (
        "Deleted pod 'a'\nPod 'a': stopping\nPod 'a': failed\nPod 'a': stopping\nPod 'a' is gone\n"
    )
    assert statuses(api) == {}


@pytest.mark.parametrize("pod", [{}, {"id": None}, {"id": 7}, {"id": ""}, {"id": ".."}], ids=str)
@pytest.mark.parametrize("words", [("stop", "a"), ("events", "a"), ("get", "a", "--watch")])
def test_a_pod_without_a_usable_id_is_asked_nothing(api, cli, words, pod):
    api.next("/v1/pods?name=a", body={"data": [dict(pod, name="a")]})
    done = cli("pod", *words, code=1)
    assert done.err == NO_ID and len(api.requests) == 1


def test_a_new_pod_without_an_id_is_not_waited_for(api, cli):
    api.next("/v1/pods", method="POST", status=201, body={"name": "a", "status": "pending"})
    done = cli("pod", "create", "--name", "a", "--image", "i", "--wait", "-q", code=1)
    assert done.err == NO_ID and len(api.requests) == 1


NO_ID = "Error: Podstack names no usable id of this pod\nAsk Podstack's support\n"


def test_a_wait_has_an_end(api, cli):
    api.seconds_until_running = 3600
    started = time.monotonic()
    done = cli(
        "pod", "create", "--name", "a", "--image", "i", "--wait", "--timeout", "0.7", "-q", code=1
    )
    assert 0.7 <= time.monotonic() - started < 20
    assert done.error == "Error: Pod 'a' is still pending after 0.7 s"
    assert statuses(api) == {"a": "pending"}


def test_a_service_that_is_away_for_a_while_does_not_end_a_wait(api, cli, slept):
    api.reads_until_running = 0
    pod = api.add_pods(1, name="a", status="stopped")[0]
    api.next("/v1/pods/" + pod["id"], method="GET", times=4, status=503)
    done = cli("pod", "start", pod["id"], "--wait", sleep=slept.append)
    assert done.err.splitlines() == [
        "Starting pod 'a'", "Pod 'a': pending", "Pod 'a': unreachable", "Pod 'a' is running",
    ]  # fmt: skip


def test_debug_tells_why_a_service_is_away(api, cli, slept):
    api.reads_until_running = 0
    pod = api.add_pods(1, name="a", status="stopped")[0]
    api.next("/v1/pods/" + pod["id"], method="GET", times=4, status=503)
    done = cli("pod", "start", pod["id"], "--wait", "--debug", sleep=slept.append)
    assert "\ndebug: Podstack is having trouble (HTTP 503, request id " in done.err


def test_a_pod_that_goes_while_it_is_waited_for(api, cli):
    api.reads_until_running = 9
    pod = api.add_pods(1, name="a", status="stopped")[0]
    done = cli("pod", "start", "a", "--wait", code=6, sleep=lambda _: api.forget_pod(pod))
    assert done.error == "Error: Pod 'a' not found"


def test_a_wait_on_a_terminal_is_one_line(api, terminal):
    api.reads_until_running = 0
    screen = terminal("pod", "create", "--name", "a", "--image", "i", "--wait")
    assert screen.end() == 0
    shown = re.sub(r"pod-\w+", "ID", screen.shown)
    line = "\r\x1b[2K"
    assert shown == (
        "Created pod 'a'\r\n" + line + "Pod 'a': pending" + line + "Pod 'a' is running\r\n"
        + "ID  a\r\n"
    )  # fmt: skip


def test_a_narrow_terminal_cuts_the_line_rather_than_wraps_it(api, terminal):
    name, api.reads_until_running = "a" * 60, 0
    screen = terminal("pod", "create", "--name", name, "--image", "i", "--wait", size=(24, 30))
    assert screen.end() == 0
    pieces = re.findall(r"\x1b\[2K(Pod 'a+[^\r]*)\r\x1b", screen.shown)
    assert pieces and max(map(len, pieces)) == 29


def test_a_terminal_that_cannot_replace_lines_gets_new_ones(api, terminal):
    api.reads_until_running = 0
    screen = terminal(
        "pod", "create", "--name", "a", "--image", "i", "--wait", env={"TERM": "dumb"}
    )
    assert screen.end() == 0
    assert (
        "\x1b" not in screen.shown and "Pod 'a': pending\r\nPod 'a' is running\r\n" in screen.shown
    )


@pytest.mark.parametrize("session, escapes", [(None, False), ("", False), ("a-guid", True)])
def test_only_windows_newer_terminal_gets_escapes(api, cli, session, escapes):
    """The console of old shows them as text, unless somebody has told it not to."""
    api.reads_until_running = 0
    words = ("pod", "create", "--name", "a", "--image", "i", "--wait")
    env = {"WT_SESSION": session, "TERM": None}
    done = cli(*words, tty=True, platform="win32", env=env)
    assert ("\x1b[2KPod 'a': pending" in done.err) == ("\x1b" in done.err) == escapes
    assert "Pod 'a': pending" in done.err and done.err.endswith("Pod 'a' is running\n")


def test_ctrl_c_ends_a_wait_and_leaves_the_pod(api, terminal):
    api.seconds_until_running = 3600
    screen = terminal("pod", "create", "--name", "a", "--image", "i", "--wait")
    screen.expect("Pod 'a': pending")
    screen.type("\x03")
    assert screen.end() == 130
    assert statuses(api) == {"a": "pending"}
    assert "Traceback" not in screen.shown and "Error" not in screen.shown


# -- deleting: the question


@pytest.mark.parametrize(
    "answer, code", [("y", 0), ("YES", 0), ("n", 1), ("", 1), ("yess", 1), ("\x04", 1)]
)
def test_delete_asks_on_a_terminal(api, terminal, answer, code):
    api.add_pods(1, name="ci-pod", status="stopped")
    screen = terminal("pod", "delete", "ci-pod")
    screen.expect(re.escape("Delete 'ci-pod' and all data on it? [y/N] "))
    screen.type(answer if answer == "\x04" else answer + "\n")
    assert screen.end() == code
    last = screen.shown.split("\r\n")[-2]
    red = "\x1b[31mError: \x1b[0m"
    assert last == ("Deleted pod 'ci-pod'" if code == 0 else red + "Nothing done")
    assert len(api.pods) == code


def test_ctrl_c_at_the_question_deletes_nothing(api, terminal):
    api.add_pods(1, name="ci-pod", status="stopped")
    screen = terminal("pod", "delete", "ci-pod")
    screen.expect("y/N")
    screen.type("\x03")
    assert screen.end() == 130 and len(api.pods) == 1


@pytest.mark.parametrize("more", ["--yes", "--force", "-y"])
def test_a_word_beforehand_answers(api, terminal, more):
    api.add_pods(1, name="ci-pod", status="stopped")
    screen = terminal("pod", "delete", "ci-pod", more)
    assert screen.end() == 0
    assert screen.shown == "Deleted pod 'ci-pod'\r\n"


@pytest.mark.parametrize(
    "line",
    [
        "podstack pod list --status stopped --quiet | xargs -I {} podstack pod delete {} --yes",
        "podstack pod list --status stopped -q | xargs -r podstack pod delete --yes --",
    ],
)
def test_the_guides_pipelines_delete_the_stopped_pods_if_there_are_any(api, line):
    assert "-I" in line or "  %s\n" % line in podstack.TOPICS["formatting"]
    api.add_pods(3, status="stopped")
    api.add_pods(2)
    with open("podstack", "w") as file:
        file.write('#!/bin/sh\nexec %s -B %s "$@"\n' % (sys.executable, PODSTACK))
    os.chmod("podstack", 0o755)
    env = dict(os.environ, PATH="%s:%s" % (os.getcwd(), os.environ["PATH"]))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for told in (rb"(Deleted pod 'pod-\w+'\n){3}\Z", rb"\Z"):
        done = subprocess.run(["/bin/sh", "-c", line], env=env, timeout=60, **pipes)
        assert (done.returncode, done.stdout) == (0, b"")
        assert re.match(told, done.stderr)
        assert sorted(statuses(api).values()) == ["running", "running"]


def test_an_id_that_looks_like_an_option_is_none_behind_the_dashes(api, cli):
    api.next("/v1/pods", body={"pods": [{"id": "--profile=prod", "name": "a"}]})
    done = cli("pod", "list", "-q")
    refused = cli("pod", "delete", "--yes", "--", *done.out.split(), code=6)
    assert refused.error == "Error: Pod '--profile=prod' not found"


# -- get --watch


def watching(api, turns):
    """A `sleep` that does the next thing each time, and then presses Ctrl-C."""
    todo = list(turns)

    def sleep(_):
        if not todo:
            raise KeyboardInterrupt
        todo.pop(0)()

    return sleep


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_watch_shows_a_pod_as_it_changes(api, cli, form):
    pod = api.add_pods(1, name="a", status="stopped")[0]
    turns = [lambda: None, lambda: api.enter(pod, "pending"), lambda: None,
             lambda: api.enter(pod, "running")]  # fmt: skip
    done = cli("pod", "get", "a", "--watch", "-o", form, code=130, sleep=watching(api, turns))
    assert re.findall(r"(?i)status\W+(\w+)", done.out) == ["stopped", "pending", "running"]
    if form == "yaml":
        parts = [podstack.yaml_load(part) for part in done.out.split("---\n")]
        assert [part["status"] for part in parts] == ["stopped", "pending", "running"]
    if form == "json":
        decoder, text, found = json.JSONDecoder(), done.out, []
        while text.strip():
            value, end = decoder.raw_decode(text.lstrip())
            found.append(value["status"])
            text = text.lstrip()[end:]
        assert found == ["stopped", "pending", "running"]


def test_watch_ends_with_the_pod(api, cli):
    pod = api.add_pods(1, name="a")[0]
    done = cli("pod", "get", "a", "--watch", code=6, sleep=lambda _: api.forget_pod(pod))
    assert done.error == "Error: Pod 'a' not found"


# -- logs


def log_of(api, *lines, **fields):
    """A stopped pod (its log does not grow) with these lines, a minute apart, the last just now."""
    pod = api.add_pods(1, name="a", status="stopped", **fields)[0]
    now = api.clock.now()
    pod.log[:] = [(now - 60 * (len(lines) - 1 - n), line) for n, line in enumerate(lines)]
    return pod


def test_logs_as_they_stand(api, podstack_process):
    log_of(api, "one", "two \u00fc", "three")
    assert podstack_process("pod", "logs", "a").out == "one\ntwo \u00fc\nthree\n"


@pytest.mark.parametrize(
    "words, lines",
    [
        (["--tail", "2"], ["two", "three"]),
        (["--tail", "99"], ["one", "two", "three"]),
        (["--since", "90s"], ["two", "three"]),
        (["--since", "90"], ["two", "three"]),
        (["--since", "30s"], ["three"]),
        (["--since", "1h"], ["one", "two", "three"]),
        (["--since", "2d", "--tail", "1"], ["three"]),
        (["--since", "2000-01-01"], ["one", "two", "three"]),
        (["--since", "2000-01-01T00:00:00Z"], ["one", "two", "three"]),
        (["--since", "2100-01-01T00:00:00+01:00"], []),
    ],
    ids=" ".join,
)
def test_a_part_of_a_log(api, cli, words, lines):
    log_of(api, "one", "two", "three")
    assert cli("pod", "logs", "a", *words).out.split() == lines


@pytest.mark.parametrize(
    "text",
    ["", "x", "1w", "-1h", "h", "1.5h", "yesterday", "2024-13-01", "\u0661h", "99999999999999d"],
)
def test_since_is_a_time_or_a_span(api, cli, text):
    done = cli("pod", "logs", "a", "--since=" + text, code=2)
    assert done.error == "Error: --since takes a time or a span such as 1h, not '%s'" % text
    assert api.requests == []


@pytest.mark.parametrize("text", ["30000d", "99999999999", "1969-12-31"])
def test_since_before_the_first_clock_is_all_of_it(api, cli, text):
    log_of(api, "one")
    assert cli("pod", "logs", "a", "--since", text).out == "one\n"
    assert "since=1970-01-01T00%3A00%3A00Z" in api.requests[-1].target


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", ""])
def test_tail_is_a_number(api, cli, text):
    cli("pod", "logs", "a", "--tail=" + text, code=2)


def test_follow_shows_lines_as_they_come_and_ends_with_the_pod(api):
    pod = api.add_pods(1, name="a")[0]
    api.log_seconds = None
    process = subprocess.Popen(
        [sys.executable, "-B", PODSTACK, "pod", "logs", "a", "--follow"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == b"step 0\n"
        for number in range(3):
            api.log(pod, "line %d" % number)
            assert process.stdout.readline() == b"line %d\n" % number
        with api.lock:
            api.enter(pod, "stopped")
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, b"Stopped a\n", b"")
    finally:
        process.kill()


@pytest.mark.slow
def test_silence_is_not_the_end_of_a_log(api, cli):
    """The time limit of a request is none for the silence of a log that is followed."""
    pod = api.add_pods(1, name="a")[0]
    api.log_seconds = 2
    arrived = api.arrived

    def end_later(request):
        if "follow" in request.target:
            pod.then, pod.due = "stopped", api.clock.now() + 3
        return arrived(request)

    api.arrived = end_later
    done = cli("pod", "logs", "a", "--follow", env={"PODSTACK_TIMEOUT": "1"})
    assert done.out.startswith("step 0\n") and done.err == ""


def test_a_log_that_breaks_off_is_an_error(api, cli):
    log_of(api, *["line %d" % number for number in range(1000)])
    api.next("/logs", truncate=True)
    done = cli("pod", "logs", "a", code=7)
    assert done.out.startswith("line 0\nline 1\n")
    assert done.error == "Error: Cannot reach 127.0.0.1: its answer was cut off"


COLOURED = "\x1b[31mred\x1b[0m \x1b[1;32;4mbold\x1b[m \x1b[38;2;1;2;3mtrue\x1b[39m"
OTHER = "a\x1b[2Jb\x1b]0;title\x07c\x1b[1Ad\x08e\x9b31mf\x1bcg\u202eh\x1b[31"


def test_of_a_logs_escapes_colours_alone_reach_a_terminal(api, terminal):
    log_of(api, COLOURED, OTHER, "end")
    screen = terminal("pod", "logs", "a")
    assert screen.end() == 0
    first, second, last = screen.shown.split("\r\n")[:3]
    assert (first, last) == (COLOURED, "end")
    assert second == (r"a\x1b[2Jb\x1b]0;title\x07c\x1b[1Ad\x08e\x9b31mf\x1bcg\u202eh\x1b[31")


def test_into_a_pipe_a_log_goes_as_it_is(api, podstack_process):
    log_of(api, COLOURED, OTHER, "\udcff\x00 raw", "tab\there\r")
    words = [sys.executable, "-B", PODSTACK, "pod", "logs", "a"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    expected = "\n".join([COLOURED, OTHER, "\udcff\x00 raw", "tab\there\r", ""])
    assert done.stdout == expected.encode("utf-8", "surrogatepass")


def test_a_log_has_no_size_limit(api):
    log_of(api, *["x" * 1000] * 30000)
    words = [sys.executable, "-B", PODSTACK, "pod", "logs", "a"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert (len(done.stdout), done.stderr) == (30000 * 1001, b"")


# -- events and metrics


def test_events_oldest_first_and_all_of_them(api, cli):
    pod = api.add_pods(1, name="a", status="stopped")[0]
    for _ in range(60):
        api.enter(pod, "running")
        api.enter(pod, "stopped")
    lines = cli("pod", "events", "a").out.splitlines()
    assert lines[0].split() == ["TIME", "TYPE", "REASON", "MESSAGE"] and len(lines) == 121
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  Normal  Started  Started a$", lines[1])
    assert cli("pod", "events", pod["id"], "-o", "json").json == pod.events
    assert podstack.yaml_load(cli("pod", "events", "a", "-o", "yaml").out)[0]["reason"] == "Started"
    assert cli("pod", "events", "a", "-q").out.split() == [event["id"] for event in pod.events]
    assert cli("pod", "events", "nope", code=6).error == "Error: Pod 'nope' not found"


def test_metrics_in_every_form(api, cli):
    pod = api.add_pods(1, name="a", gpu_type="A100", gpu_count=2)[0]
    lines = dict(line.split(None, 1) for line in cli("pod", "metrics", "a").out.splitlines())
    assert lines["pod_id:"] == pod["id"] and lines["cpu_percent:"] == "23.5"
    assert lines["gpus.1.utilization_percent:"] == "87"
    assert cli("pod", "metrics", pod["id"], "-o", "json").json["gpus"][1]["index"] == 1
    assert podstack.yaml_load(cli("pod", "metrics", "a", "-o", "yaml").out)["pod_id"] == pod["id"]
    assert cli("pod", "metrics", "nope", code=6).error == "Error: Pod 'nope' not found"


@pytest.mark.parametrize(
    "body, out",
    [
        ({}, "metrics: -\n"),
        ({"a": None, "b": True, "c": "x", "d": []}, "a: -\nb: true\nc: x\n"),
        ({"a\x1b[2J\nb": {"c": [{"d": 1}]}}, "a\\x1b[2J\\x0ab.c.0.d: 1\n"),
    ],
)
def test_metrics_of_any_shape(api, cli, body, out):
    pod = api.add_pods(1, name="a")[0]
    api.next("/metrics", body=body)
    assert cli("pod", "metrics", pod["id"]).out == out


# -- json and yaml are complete

NEW = {"id": "pod-9", "name": "a", "status": "running", "later": {"x": [1, None, True, "y\n"]}}


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(
    "words", ["get pod-9", "create --name a --image i", "list", "metrics pod-9"]
)
def test_fields_of_the_future_are_kept(api, cli, words, form):
    api.next("/v1/pods", body=[NEW] if words == "list" else NEW)
    out = cli("pod", *words.split(), "-o", form).out
    value = json.loads(out) if form == "json" else podstack.yaml_load(out)
    value = value[0] if words == "list" else value
    expected = ["1", None, "true", "y\n"] if form == "yaml" else [1, None, True, "y\n"]
    assert value["later"]["x"] == expected

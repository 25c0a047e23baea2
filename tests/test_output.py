"""What is printed where: tables, JSON, YAML and ids on stdout, all else on stderr, nothing raw."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import PODSTACK, PYTHONS, USER, need

import podstack


@pytest.fixture
def signed_in(api, monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    return api


def set_config(config, text):
    config.write_text(text, encoding="utf-8")
    config.chmod(0o600)


LISTS = [
    ("project list", ["", "NAME", "ID", "CREATED", "DESCRIPTION"], "projects"),
    ("pod list", ["NAME", "STATUS", "GPU", "CREATED"], "pods"),
    ("gpu list", ["TYPE", "NAME", "MEMORY", "PER HOUR", "FREE"], None),
]


@pytest.mark.parametrize("words, header, kind", LISTS, ids=[row[0] for row in LISTS])
def test_a_list_in_each_form(cli, signed_in, words, header, kind):
    yaml = pytest.importorskip("yaml")
    signed_in.add_pods(3)
    lines = cli(*words.split()).out.splitlines()
    assert re.split(r"  +", lines[0].rstrip()) == header
    rows = cli(*words.split(), "-o", "json").json
    assert isinstance(rows, list) and len(rows) == len(lines) - 1 and isinstance(rows[0], dict)
    assert yaml.safe_load(cli(*words.split(), "-o", "yaml").out) == rows
    wide = cli(*words.split(), "-o", "wide").out.splitlines()
    assert len(wide) == len(lines) and wide[0].startswith(lines[0])


def test_an_empty_list_in_each_form(cli, signed_in):
    assert cli("pod", "list").out == "NAME  STATUS  GPU  CREATED\n"
    assert cli("pod", "list", "-o", "json").out == "[]\n"
    assert cli("pod", "list", "-o", "yaml").out == "[]\n"
    assert cli("pod", "list", "-q").out == ""


def test_wide_has_more_columns_and_cuts_nothing(terminal, signed_in):
    signed_in.add_pods(1, name="p" * 70, image="i" * 70)
    screen = terminal("pod", "list", size=(24, 60))
    assert screen.end() == 0
    assert all(len(line) <= 60 for line in screen.shown.splitlines())
    assert "p~ " in screen.shown
    screen = terminal("pod", "list", "-o", "wide", size=(24, 60))
    assert screen.end() == 0
    assert "p" * 70 + " " in screen.shown and "i" * 70 + " " in screen.shown
    assert "ID" in screen.shown and "~" not in screen.shown


def test_a_table_is_not_cut_where_nobody_looks_at_it(cli, signed_in):
    signed_in.add_pods(1, name="p" * 300)
    assert "p" * 300 + "  running" in cli("pod", "list").out


IDS = [
    ("pod list", r"(pod-\w+\n){2}"),
    ("project list", r"(proj-\w+\n){3}"),
    ("pod create --name n --image i", r"pod-\w+\n"),
    ("project create --name n", r"proj-\w+\n"),
]


@pytest.mark.parametrize("words, ids", IDS, ids=[row[0] for row in IDS])
def test_quiet_prints_ids_alone(cli, signed_in, words, ids):
    signed_in.add_pods(2)
    for number, (where, env) in enumerate((
        (["-q"], {}), (["--quiet"], {"PODSTACK_OUTPUT": "json"}), (["-qo", "wide"], {}),
    )):  # fmt: skip
        done = cli(*where, *words.replace("name n", "name n%d" % number).split(), env=env)
        assert re.match(ids + "$", done.out) and done.err == "", where
    done = cli("-q", *words.split(), "-o", "json")
    assert "id" in (done.json if "create" in words else done.json[0]) and done.err == ""


FIXED = ["auth whoami", "auth status", "auth token", "project current", "config path", "version",
         "config get defaults.output", "config get-profile", "config show"]  # fmt: skip


@pytest.mark.parametrize("words", FIXED)
def test_a_fixed_answer_changes_form_only_for_an_explicit_option(cli, signed_in, config, words):
    set_config(config, "defaults:\n  output: json\n  project: p\n")
    plain = cli(*words.split())
    again = cli(*words.split(), env={"PODSTACK_OUTPUT": "yaml"})
    if words != "config get defaults.output":
        assert again.out == plain.out
    assert not plain.out.startswith(("{", '"'))
    assert cli(*words.split(), "-o", "json").json


CHANGED = ["auth token-info", "wallet balance", "pod get p", "gpu list", "auth list"]


@pytest.mark.parametrize("words", CHANGED)
def test_other_answers_follow_the_settings(cli, signed_in, config, words):
    now = signed_in.clock.now()
    signed_in.clock.now = lambda: now  # an answer tells the token's last use
    signed_in.add_pods(1, name="p")
    plain = cli(*words.split()).out
    assert not plain.startswith(("{", "["))
    as_json = cli(*words.split(), "-o", "json")
    assert as_json.json
    assert cli(*words.split(), env={"PODSTACK_OUTPUT": "json"}).out == as_json.out
    set_config(config, "defaults:\n  output: json\n")
    assert cli(*words.split()).json
    assert cli(*words.split(), "-o", "table").out.partition("\n")[0] == plain.partition("\n")[0]


def test_stdout_has_the_answer_alone(cli, signed_in, config):
    for words, code in (
        ("auth login --token " + USER, 0), ("auth logout", 0), ("config set defaults.project p", 0),
        ("project use my-project", 0), ("config reset --yes", 0), ("pod delete nope --force", 6),
        ("pod list --project nope", None), ("pod get nope -o json", 6), ("config get bogus", 2),
        ("config set-profile default", 0),
    ):  # fmt: skip
        done = cli(*words.split(), code=code)
        assert done.out == "" and done.err, words
    assert "debug: " not in cli("--debug", "auth", "whoami").out
    assert "debug: " in cli("--debug", "auth", "whoami").err
    assert json.loads(cli("--debug", "pod", "list", "-o", "json").out) == []


# -- nothing raw reaches a terminal

HOSTILE = (
    "a\x1b[31mred\x1b]0;title\x07\x1b[2J\x9b1m\x85\x00\x08\x7f\r\nError: forged\ttab"
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\U0001f600\u4e16\u00e9"
)
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def everything(*names):
    """An object whose every field is hostile."""
    return dict.fromkeys(names, HOSTILE)


POD_FIELDS = everything(
    "id",
    "name",
    "status",
    "image",
    "gpu_type",
    "cpu",
    "memory",
    "disk",
    "created_at",
    "project_id",
    "ssh_command",
    "jupyter_url",
    HOSTILE,
)
POD_FIELDS["labels"] = {HOSTILE: HOSTILE}
POD_FIELDS["ports"] = [HOSTILE]
TOKEN = everything("id", "name", "type", "prefix", "created_at", "last_used_at", "expires_at")
TOKEN["scopes"] = [HOSTILE]
WHO = dict(everything("email", "account_id", "name"), token=TOKEN)
ANSWERS = [
    ("auth status", WHO),
    ("auth whoami", WHO),
    ("auth token-info", TOKEN),
    ("auth login --token psk_new", WHO),
    ("project list", [everything("id", "name", "description", "created_at", HOSTILE)]),
    ("project create --name n", everything("id", "name")),
    ("pod list -o wide", [POD_FIELDS]),
    ("pod list --quiet", [POD_FIELDS]),
    ("pod get pod-1", POD_FIELDS),
    ("pod create --name n --image i", POD_FIELDS),
    ("pod start pod-1", POD_FIELDS),
    ("pod events p", [everything("created_at", "type", "message")]),
    ("pod metrics p", {HOSTILE: HOSTILE, "inner": {HOSTILE: HOSTILE}}),
    ("wallet balance", dict(everything("currency", "last_updated"), balance_cents=1)),
    ("gpu list", [everything("type", "name", "memory_gb", "available", "total")]),
    ("api /pods", {HOSTILE: [HOSTILE]}),
    ("api /text", HOSTILE),
]  # fmt: skip
FAILURES = [
    {"status": 422, "body": {"error": {"code": HOSTILE, "message": HOSTILE,
                                       "details": [{"field": HOSTILE, "message": HOSTILE}]}}},
    {"status": 400, "body": {"error": HOSTILE}},
    {"status": 402, "body": {"error": {"message": HOSTILE}}},
    {"status": 418, "body": HOSTILE},
    {"status": 401, "body": {"error": {"code": HOSTILE, "message": HOSTILE}}},
]  # fmt: skip


def check_clean(done):
    for text in (done.out, done.err):
        assert not RAW.search(text), ascii(RAW.search(text).group())
    assert not re.search("^Error: forged", done.err, re.MULTILINE)
    assert "This is a bug" not in done.err


def script_answer(api, words, answer):
    """Make the call that `words` are about answer so."""
    if words in ("pod events p", "pod metrics p"):
        if not api.pods:
            api.add_pods(1, name="p")
        api.next("/" + words.split()[1], body=answer)
    else:
        api.next("/v1/", body=answer)


@pytest.mark.parametrize("words, answer", ANSWERS, ids=[row[0] for row in ANSWERS])
@pytest.mark.parametrize("tty", [True, False])
def test_text_of_the_server_is_shown_escaped(cli, signed_in, words, answer, tty):
    for form in ([], ["-o", "json"], ["-o", "yaml"]):
        if form and ("-o" in words or words.startswith(("auth login", "pod start"))):
            continue
        script_answer(signed_in, words, answer)
        done = cli(*words.split(), *form, tty=tty)
        check_clean(done)
        shown = done.out + done.err
        assert "\\x1b[31m" in shown or "\\u001b[31m" in shown or "\\x1B[31m" in shown


@pytest.mark.parametrize("words, answer", ANSWERS[4:-1], ids=[row[0] for row in ANSWERS[4:-1]])
def test_json_and_yaml_hold_it_as_it_was(cli, signed_in, words, answer):
    yaml = pytest.importorskip("yaml")
    words = words.replace(" -o wide", "").replace(" --quiet", "")
    if words.startswith("pod start"):
        return
    script_answer(signed_in, words, answer)
    assert cli(*words.split(), "-o", "json").json == answer
    script_answer(signed_in, words, answer)
    assert yaml.safe_load(cli(*words.split(), "-o", "yaml").out) == answer


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: str(failure["status"]))
@pytest.mark.parametrize(
    "words",
    [
        "auth status",
        "pod create --name n --image i",
        "pod get pod-1",
        "pod delete pod-1 pod-2 --force",
        "auth login --token psk_new",
    ],
)
def test_errors_of_the_server_are_shown_escaped(cli, signed_in, words, failure):
    many = words.startswith("pod delete") and failure["status"] != 401  # that ends the command
    signed_in.next("/v1/", times=2 if many else 1, **failure)
    done = cli(*words.split(), code=None, tty=True, env={"NO_COLOR": "1"})
    check_clean(done)
    assert done.code and done.error and done.out == ""


def test_names_of_the_config_file_are_shown_escaped(cli, signed_in, config):
    dump = podstack.yaml_dump
    set_config(config, dump({
        "profiles": {HOSTILE: {"email": HOSTILE, "token": "x", "expires": HOSTILE}},
        "defaults": {"project": HOSTILE}, "profile": HOSTILE, HOSTILE: HOSTILE,
        "cli": {"color": HOSTILE},
    }))  # fmt: skip
    for words in (
        "auth list", "config show", "config show -o json", "config get defaults.project",
        "project current", "config get-profile", "auth status", "config set cli.color no",
        "--profile nope auth status", "auth logout --all", "auth list -o yaml",
        "config reset --yes",
    ):  # fmt: skip
        check_clean(cli(*words.split(), code=None, tty=True, env={"NO_COLOR": "1"}))


def test_what_is_typed_is_shown_escaped(cli, signed_in, config):
    typed = HOSTILE.replace("\0", "")  # which no shell passes on
    for words in (
        ["pod", "get", typed], ["pod", "delete", typed, "b", "--force"], [typed],
        ["--" + typed], ["project", "use", typed], ["config", "get", typed],
        ["config", "set", "defaults.project", typed], ["config", "set-profile", typed],
        ["config", "delete-profile", typed], ["--profile", typed, "auth", "status"],
        ["pod", "list", "--label", typed], ["pod", "list", "-o", typed], ["api", typed],
        ["completion", typed], ["help", typed], ["pod", "logs", "x", "--since", typed],
        ["pod", "create", "--name", "n", "--image", "i", "--env-file", typed],
        ["pod", "create", "--name", "n", "--image", "i", "--volume", typed],
    ):  # fmt: skip
        check_clean(cli(*words, code=None, tty=True, env={"NO_COLOR": "1"}))


def test_a_question_is_shown_escaped(terminal, signed_in):
    screen = terminal("pod", "delete", "a\x1b[31m\u202eb")
    screen.expect(r"\[y/N\] ")
    assert "Delete 'a\\x1b[31m\\u202eb' and all data on it? [y/N] " in screen.shown
    screen.type("n\n")
    assert screen.end() == 1


def test_a_path_is_shown_escaped(cli, home):
    env = {"PODSTACK_CONFIG": str(home / "a\x1b[31m\u202e.yaml")}
    for words in ("config path", "config set defaults.project p", "auth list"):
        check_clean(cli(*words.split(), env=env))


# -- colour


def test_a_failure_is_red_on_a_terminal(terminal, home):
    screen = terminal("auth", "status")
    assert screen.end() == 4
    assert screen.shown.startswith("\x1b[31mError: \x1b[0mNot authenticated\r\n")


PLAIN = [
    ([], {"NO_COLOR": "1"}, ""),
    ([], {"PODSTACK_NO_COLOR": "1"}, ""),
    ([], {"TERM": "dumb"}, ""),
    (["--no-color"], {}, ""),
    ([], {}, "cli:\n  color: false\n"),
]


@pytest.mark.parametrize("option, env, text", PLAIN)
def test_colour_can_be_turned_off(cli, config, option, env, text):
    set_config(config, text)
    done = cli(*option, "auth", "status", tty=True, env=dict({"TERM": "xterm"}, **env), code=4)
    assert done.err.startswith("Error: Not authenticated\n")


def test_colour_is_for_terminals_and_an_empty_variable_turns_nothing_off(cli, config):
    assert "\x1b" not in cli("auth", "status", code=4).err
    done = cli("auth", "status", tty=True, env={"TERM": "xterm", "NO_COLOR": ""}, code=4)
    assert done.err.startswith("\x1b[31mError: \x1b[0m")
    assert "\x1b" not in done.out


def test_a_warning_is_said_once(cli, signed_in, config):
    set_config(config, "auth:\n  token: x\n")
    config.chmod(0o644)
    for tty in (True, False):
        done = cli("auth", "whoami", tty=tty, env={"TERM": "xterm"})
        assert done.err == "Warning: others can read %s: chmod 600 %s\n" % (config, config)
    set_config(config, "defaults: [\n")
    done = cli("auth", "whoami", tty=True, env={"TERM": "xterm"})
    assert done.err.count("config file not used") == 1


# -- times


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01", 0),
        ("1970-01-01 00:00:01", 1),
        ("1970-01-01t00:01:00.25z", 60.25),
        ("1970-01-01T05:30:00+05:30", 0),
        ("1969-12-31T20:30:00-03:30", 0),
        ("2024-02-29T23:59:59Z", 1709251199),
        ("2024-03-01T00:00:00Z", 1709251200),
        ("2024-12-31T23:59:60Z", 1735689600),
    ],
)
def test_a_time_is_read_in_each_form(text, seconds):
    assert podstack.parse_time(text) == seconds


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "in 0 seconds"), (59.9, "in 59 seconds"), (60, "in 1 minute"), (7199, "in 1 hour"),
        (7200, "in 2 hours"), (86400, "in 1 day"), (-1, "1 second ago"), (-172800, "2 days ago"),
    ],
)  # fmt: skip
def test_a_span_is_said_in_its_largest_unit(seconds, words):
    assert podstack.distance(seconds) == words


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "2024-00-01", "2024-13-01", "2024-01-00", "2024-01-32", "2024-1-1",
        "2024-01-01T24:00:00Z", "2024-01-01T00:60:00Z", "2024-01-01T00:00:61Z",
        "2024-01-01T00:00:00.xZ", "2024-01-01T00:00Z", "2024-01-01T00:00:00+1:00",
    ],
)  # fmt: skip
def test_what_is_no_time_is_shown_as_it_is(cli, signed_in, text):
    assert podstack.parse_time(text) is None
    signed_in.add_pods(1, name="odd", created_at=text)
    row = cli("pod", "list").out.splitlines()[1]
    assert row.endswith(text) and row.startswith("odd")


# -- letters


def test_wide_letters_line_up(cli, signed_in):
    for name in ("ab", "\u4e16\u754c", "e\u0301", "\U0001f600x"):
        signed_in.add_pods(1, name=name)
    lines = cli("pod", "list").out.splitlines()
    assert [line[: line.index("running")] for line in lines[1:]] == [
        "ab    ", "\u4e16\u754c  ", "e\u0301     ", "\U0001f600x   ",
    ]  # fmt: skip
    assert lines[0].startswith("NAME  STATUS")


def ascii_worlds():
    """Interpreters and environments in which stdout can take ASCII alone."""
    worlds = [(sys.executable, {"PYTHONIOENCODING": "ascii"})]
    oldest = [PYTHONS[name] for name in sorted(PYTHONS) if name.startswith("3.6")]
    return worlds + [(python, {"LC_ALL": "C"}) for python in oldest]


@pytest.mark.parametrize("python, env", ascii_worlds(), ids=lambda value: ascii(value)[-12:])
def test_a_stdout_of_ascii_is_no_error(podstack_process, config, python, env):
    text = "\u00e9\u4e16\U0001f600"
    set_config(config, "defaults:\n  project: %s\n" % text)

    def run(*words):
        return podstack_process(*words, python=python, env=env).out

    assert run("project", "current") == "\\xe9\\u4e16\\U0001f600\n"
    assert json.loads(run("project", "current", "-o", "json")) == text
    assert podstack.yaml_load(run("config", "show"))["defaults"]["project"] == text
    assert podstack_process("config", "get", text, python=python, env=env, code=2).error


def test_bytes_that_are_no_text_are_no_error(home):
    done = subprocess.run([sys.executable, PODSTACK, "pod", "get", b"a\xff"], env=dict(os.environ),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert (done.returncode, done.stdout) == (4, b"")
    done = subprocess.run([sys.executable, PODSTACK, b"a\xff"], env=dict(os.environ),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert done.stderr == b"Error: Unknown command 'a\\udcff'\nSee: podstack --help\n"


# -- streams that end


def shell(line, **env):
    """Run a shell line in which $P is podstack; (exit code of podstack, stdout, stderr)."""
    need("bash")
    program = " ".join(map(shlex.quote, [sys.executable, "-B", PODSTACK]))
    done = subprocess.run(
        ["bash", "-c", line.replace("$P", program)], env=dict(os.environ, **env),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_traceback_follows_the_message_with_debug_alone(home):
    for typed, env, traced in (
        ("auth status", {}, False),
        ("--debug auth status", {}, True),
        ("auth status --debug", {}, True),
        ("auth status", {"PODSTACK_DEBUG": "1"}, True),
        ("pod exec x -- ls --debug", {}, False),
    ):
        code, out, err = shell("$P " + typed, **env)
        assert (code, out) == (4, "")
        lines = [line for line in err.splitlines() if not line.startswith("debug: ")]
        assert lines[0] == "Error: Not authenticated"
        assert ("Traceback (most recent call last):" in lines) is traced


ELSEWHERE = "Send it elsewhere: > FILE\n"
ENDS = [
    ("$P config path >&-", 1, "Error: Standard output is closed\n" + ELSEWHERE),
    ("$P config path >&- 2>&-", 1, ""),
    ("$P config path >/dev/full", 1,
     "Error: Cannot write to standard output: No space left on device\n" + ELSEWHERE),
    ("$P help >/dev/full", 1,
     "Error: Cannot write to standard output: No space left on device\n" + ELSEWHERE),
    ("$P config path 2>&- >/dev/null", 0, ""),
    ("$P auth status 2>&-", 4, ""),
    ("$P auth status 2>/dev/full", 4, ""),
    ("$P config path <&- >/dev/null", 0, ""),
    ("$P config reset <&-", 2, None),
    ("PODSTACK_API_TOKEN=t $P api /x --input - <&-", 1,
     "Error: Cannot read -: it is closed\nName a file instead\n"),
    ("$P help | true; exit ${PIPESTATUS[0]}", 1, ""),
    ("$P config set cli.color no >&-", 0, None),
]  # fmt: skip


@pytest.mark.parametrize("line, code, error", ENDS, ids=[row[0] for row in ENDS])
def test_a_stream_that_is_gone_is_no_traceback(home, line, code, error):
    got, _, err = shell(line)
    assert got == code
    assert "Traceback" not in err and "Exception" not in err
    if error is not None:
        assert err == error


def test_a_reader_that_has_seen_enough_ends_a_long_list_quietly(signed_in):
    signed_in.add_pods(3000)
    for form in ("-q", "-o json", "-o table"):
        got, out, err = shell("$P pod list %s | head -1; exit ${PIPESTATUS[0]}" % form)
        assert (got, err) == (1, ""), form
        assert len(out.splitlines()) == 1

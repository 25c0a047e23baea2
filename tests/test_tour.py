"""README's first command: the authentication guide, walked from top to bottom.

A tour that cannot fail proves nothing, so most of this is about guides that say something else.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest
import sandbox
from conftest import PODSTACK, PYTHONS, TESTS, USER

SCRIPT = os.path.join(TESTS, "sandbox.py")
DONE = "Every step did what the guide says.\n"


def script(*words, python=sys.executable, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        [python, "-B", SCRIPT] + list(words), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        universal_newlines=True, **options,
    )  # fmt: skip


def finished(child):
    out, err = child.communicate(timeout=110)
    return child.returncode, out, err


@pytest.fixture(scope="module")
def text():
    with open(sandbox.GUIDE, encoding="utf-8") as file:
        return file.read()


# ---- the guide as it is


def test_the_guide_is_read_whole(text):
    guide = sandbox.Guide(text)
    typed = [command for command in guide.commands if command]
    assert len(typed) == 24
    assert sum(command.startswith("podstack ") for command in typed) == 19
    assert guide.printed() == [
        "Authenticated as: user@example.com",
        "Account ID: acc_123456",
        "Token expires: 2024-12-31",
        "Error: Token expired",
        "Solution: Re-authenticate",
        "Error: Invalid authentication token",
        "Solution: Generate a new token from the dashboard",
        "Error: Permission denied for resource",
        "Solution: Check if the token has access to the project",
    ]
    assert guide.sample("auth:", "output: table") == (
        "auth:\n  token: your_api_token\n  expires: 2024-12-31T00:00:00Z\n"
        "defaults:\n  project: my-project\n  output: table\n"
    )
    assert guide.sample("profiles:", "api_endpoint: https://api.work.podstack.ai") == (
        "profiles:\n  default:\n    token: personal_token\n    project: personal-project\n"
        "  work:\n    token: work_token\n    project: work-project\n"
        "    api_endpoint: https://api.work.podstack.ai\n"
    )


def each_python():
    """Every interpreter there is, the newest among the quick tests."""
    newest = max(PYTHONS, key=lambda version: [int(n) for n in re.findall(r"\d+", version)] or [0])
    for version, path in sorted(PYTHONS.items()):
        marks = [] if version == newest else [pytest.mark.slow]
        yield pytest.param(path, id=version, marks=marks)


@pytest.mark.parametrize("python", list(each_python()))
def test_every_command_and_output_of_the_guide_is_shown(python, text):
    code, out, err = finished(script(python=python))
    assert (code, err) == (0, ""), out
    assert out.endswith(DONE)
    shown = {re.sub(r"^\$ (PODSTACK_API_TOKEN=\S+ )?", "", line) for line in out.splitlines()}
    guide = sandbox.Guide(text)
    for line in [command for command in guide.commands if command] + guide.printed():
        for name in ("YOUR_API_TOKEN", "your_api_token", "$PODSTACK_TOKEN",
                     "${{ secrets.PODSTACK_API_TOKEN }}"):  # fmt: skip
            line = line.replace(name, USER)
        if line.startswith("Solution: "):
            assert any(one.startswith(line[len("Solution: ") :]) for one in shown)
        elif line.startswith("curl "):
            assert "# %s: left out, podstack is this checkout here" % line in shown
        else:
            assert line in shown
    assert not re.search("psa_[0-9a-f]{5}", out)


@pytest.mark.slow
def test_without_a_keyring_the_tour_shows_that_nothing_falls_back(tmp_path):
    for program in ("sh", "env"):
        (tmp_path / program).symlink_to("/bin/" + program)
    code, out, err = finished(script(env=dict(os.environ, PATH=str(tmp_path))))
    assert (code, err) == (0, ""), out
    assert "# There is no keyring here, and this must not fall back to plain text:\n" in out
    assert "Error: Cannot use the keyring: secret-tool is not installed\n" in out


@pytest.mark.slow
def test_the_tour_runs_from_a_place_with_an_odd_name(tmp_path):
    place = tmp_path / "it's a \u00fc place" / "tests"
    place.mkdir(parents=True)
    shutil.copy(PODSTACK, str(place.parent))
    for name in ("sandbox.py", "authentication-guide.txt"):
        shutil.copy(os.path.join(TESTS, name), str(place))
    done = subprocess.run(
        [sys.executable, "-B", str(place / "sandbox.py")], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, env=dict(os.environ, TMPDIR=str(place)), timeout=110,
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode()[-len(DONE) :]) == (0, DONE)
    assert sorted(os.listdir(str(place))) == ["authentication-guide.txt", "sandbox.py"]


# ---- a guide that says something else

CHANGES = [
    ("podstack auth refresh", "podstack auth refresh\npodstack pod explode", [
        "the guide's command to be run: podstack pod explode"]),
    ("podstack project current", "podstack project currant", [
        "the guide's command to be run: podstack project currant"]),
    ("export PODSTACK_PROJECT=my-project", "export PODSTACK_PROJECT=your-project", [
        "the guide's command to be run: export PODSTACK_PROJECT=your-project"]),
    ("Account ID: acc_123456", "Account: acc_123456", [
        r"'Authenticated as: user@example.com\nAccount: acc_123456\n"
        r"Token expires: 2024-12-31\nPlan: pro\n' on standard output"]),
    ("Token expires: 2024-12-31", "Token expires: 2024-12-31\nPlan: pro", []),
    ("podstack auth whoami", "podstack auth whoami\nOutput:\nsomebody@example.com\nThen:", [
        r"'somebody@example.com\n' on standard output"]),
    ("Next Steps", "podstack gpu list\nOutput:\nTYPE", [
        "the guide's command to be run: podstack gpu list",
        "the guide's output to be compared: TYPE"]),
    ("Error: Token expired", "Error: Token lost\nSolution: Find it\nError: Token expired", [
        "the guide's output to be compared: Error: Token lost",
        "the guide's output to be compared: Solution: Find it"]),
    ("Solution: Generate a new token", "Solution: Make a new token", [
        "'Make a new token from the dashboard' as the second line"]),
    ("podstack project list", "podstack project use my-project", [
        "'podstack project use my-project' in the second line"]),
    ("project: work-project", "project: play-project", [
        "the pods of work-project asked for", r"'work-project\n' on standard output"]),
]  # fmt: skip


@pytest.mark.slow
def test_the_tour_fails_where_the_guide_says_something_else(text, tmp_path, capfd):
    expected = set()
    for old, new, complaints in CHANGES:
        assert old in text
        text = text.replace(old, new, 1)
        expected.update("FAILED: expected " + complaint for complaint in complaints)
    changed = tmp_path / "guide.txt"
    changed.write_text(text, encoding="utf-8")
    assert sandbox.tour(str(changed)) == 1
    out = capfd.readouterr().out
    complained = {line for line in out.splitlines() if line.startswith("FAILED: ")}
    assert expected <= complained, complained
    assert re.search(r"^\d+ steps did not do what the guide says\.$", out, re.M)
    assert DONE not in out


# ---- the other modes


def test_run_walks_from_token_to_pod():
    commands = (
        "podstack auth login --token psk_sandbox_user && podstack auth status"
        " && podstack pod create --name ci-pod --image myimage:latest && podstack pod list"
    )
    code, out, err = finished(script("run", "--", "sh", "-c", commands))
    assert code == 0, err
    lines = out.splitlines()
    assert lines[:3] == [
        "Authenticated as: user@example.com", "Account ID: acc_123456", "Token expires: never",
    ]  # fmt: skip
    assert re.match(r"pod-\w+  ci-pod\Z", lines[3])
    assert lines[4].split() == ["NAME", "STATUS", "GPU", "CREATED"]
    assert re.match(r"ci-pod  (pending|running)  -    \d{4}-\d\d-\d\d\Z", lines[5])
    assert len(lines) == 6


def test_run_can_set_the_clock():
    commands = 'podstack auth login --token "$0" -q && podstack auth token-info | grep Last'
    words = ["run", "--now", "2024-05-06T07:08:09Z", "--", "sh", "-c", commands, USER]
    assert finished(script(*words)) == (0, "Last used: 2024-05-06\n", "")


@pytest.mark.parametrize("command, code", [
    ("exit 3", 3), ("kill -TERM $$", 143), ("podstack auth whoami", 4), ("no-such-command", 127),
])  # fmt: skip
def test_run_ends_with_the_commands_code(command, code):
    assert finished(script("run", "--", "sh", "-c", command))[:2] == (code, "")


def test_ctrl_c_is_the_commands_to_answer():
    commands = 'trap "echo caught; exit 9" INT; echo "$HOME"; while :; do read -r x; sleep 1; done'
    child = script("run", "--", "sh", "-c", commands, start_new_session=True,
                   stdin=subprocess.PIPE)  # fmt: skip
    home = child.stdout.readline().strip()
    assert os.path.isdir(home)
    os.killpg(child.pid, signal.SIGINT)
    child.stdin.close()
    child.stdin = None
    assert finished(child) == (9, "caught\n", "")
    assert not os.path.exists(home)


def test_ctrl_c_ends_the_tour_and_leaves_nothing_behind(tmp_path):
    place = tmp_path / "temporary"
    place.mkdir()
    child = script(start_new_session=True, env=dict(os.environ, TMPDIR=str(place)))
    while "$ podstack auth login\n" not in child.stdout.readline():
        assert child.poll() is None
    os.killpg(child.pid, signal.SIGINT)
    code, out, err = finished(child)
    assert (code, err) == (130, ""), out
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_on_a_terminal_the_tour_ends_by_offering_a_shell(terminal):
    shell = terminal(program=[sys.executable, "-B", SCRIPT], env={"SHELL": "/bin/sh", "PS1": "> "})
    shell.expect("A shell in which podstack is this sandbox's\\? \\[y/N\\] ", timeout=100)
    shell.type("y\n")
    shell.type("podstack auth whoami; exit\n")
    assert shell.end() == 0
    assert shell.shown.rstrip().endswith("user@example.com")


def test_the_temporary_home_is_the_sandboxes_own():
    with sandbox.Sandbox() as api, sandbox.Surroundings(api) as place:
        assert place.home.startswith(tempfile.gettempdir())
        assert place.env["HOME"] == place.home
    assert not os.path.exists(place.home)

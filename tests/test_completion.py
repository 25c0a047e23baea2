"""Tab completion in the real shells: commands, options, choices, profiles, projects and pods."""

import os
import re
import subprocess
import sys
import time

import pytest
from conftest import PODSTACK, USER, need

FOREVER = float("inf")
# Each script reads the words after `podstack`, the last of them unfinished, from its arguments,
# and prints what the shell would offer.
OFFER = {
    "bash": (
        ["bash", "--norc", "-c"],
        """source <(podstack completion bash)
        COMP_WORDS=(podstack "$@"); COMP_CWORD=$#
        _podstack
        [ ${#COMPREPLY[@]} = 0 ] || printf '%s\\n' "${COMPREPLY[@]}" """,
    ),
    "zsh": (
        ["zsh", "-f", "-c"],
        """autoload -Uz compinit && compinit -D
        source <(podstack completion zsh)
        compadd() { print -rl -- "${(@P)2}" }
        _files() { }
        words=(podstack "$@"); CURRENT=$(($# + 1))
        _podstack""",
    ),
    "fish": (
        ["fish", "--no-config", "-c"],
        """podstack completion fish | source
        complete -C (string join ' ' -- podstack $argv)""",
    ),
}


@pytest.fixture(autouse=True)
def on_path(tmp_path, monkeypatch):
    """`podstack` on PATH is this checkout's; the folder is otherwise empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    launcher = folder / "podstack"
    launcher.write_text('#!/bin/sh\nexec %s -B %s "$@"\n' % (sys.executable, PODSTACK))
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (folder, os.environ["PATH"]))
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(params=sorted(OFFER))
def offered(request, home):
    """`offered("auth", "st")` returns what the shell offers for the last word."""
    need(request.param)
    start, script = OFFER[request.param]
    name = "--" if request.param == "fish" else request.param

    def ask(*typed):
        done = subprocess.run(
            start + [script, name] + list(typed), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
        assert done.stderr.decode() == ""
        return done.stdout.decode().splitlines()

    ask.shell = request.param
    return ask


@pytest.fixture
def account(api, cli, monkeypatch):
    """Two projects and two pods at the server, two profiles in the file."""
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    for name in ("rendering", "research"):
        cli("project", "create", "--name", name)
    for name in ("train-1", "train-2"):
        cli("pod", "create", "--name", name, "--image", "pytorch")
    cli("config", "set", "profiles.work.project", "rendering")
    cli("config", "set", "profiles.world.project", "research")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("au", "auth"),
        ("auth st", "status"),
        ("auth token", "token token-info"),
        ("--quiet auth st", "status"),
        ("pod list --st", "--status"),
        ("pod list -o js", "json"),
        ("pod list --output ", "json table wide yaml"),
        ("--output=j", "--output=json"),
        ("completion ", "bash fish powershell zsh"),
        ("config get defaults.p", "defaults.project"),
        ("help exit", "exit-codes"),
        ("help pod sto", "stop"),
        ("--profile wo", "work world"),
        ("--profile=wor", "--profile=work --profile=world"),
        ("config set-profile wor", "work world"),
        ("project use re", "rendering research"),
        ("--project ren", "rendering"),
        ("pod get tr", "train-1 train-2"),
        ("pod stop train-1 train-2", "train-2"),
        ("pod create --gpu-type H", "H100"),
        ("auth status x", ""),
        ("nonsense ", ""),
        ("pod get train-1 ", ""),
        ("pod exec train-1 -- --na", ""),
    ],
)
def test_what_is_offered(typed, expected, cli, account):
    """The hidden command behind every shell's script."""
    offered = cli("__complete", *typed.split(" ")).out
    assert offered.split() == expected.split()


def test_without_a_word_everything_is_offered(cli):
    assert cli("__complete").out == cli("__complete", "").out != ""


def test_every_option_of_a_command_is_offered(podstack_process):
    offered = podstack_process("__complete", "pod", "delete", "-").out.split()
    assert {"--force", "--wait", "--timeout", "--profile", "-o", "--output", "--help"} <= set(
        offered
    )


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param("auth sta", "status", marks=pytest.mark.slow),
        pytest.param("auth ", "doctor list login", marks=pytest.mark.slow),
        pytest.param("pod list --st", "--status", marks=pytest.mark.slow),
        pytest.param("--output ", "json table", marks=pytest.mark.slow),
        pytest.param("--profile wo", "work world", marks=pytest.mark.slow),
        ("pod get tr", "train-1 train-2"),
    ],
)
def test_every_shell_offers_it(typed, expected, offered, account):
    assert offered(*typed.split(" "))[: len(expected.split())] == expected.split()


def test_bash_breaks_words_at_the_equals_sign(account):
    need("bash")
    start, script = OFFER["bash"]
    for typed, expected in (
        (["--output", "=", "j"], "json\n"),
        (["--profile", "="], "work\nworld\n"),
    ):
        done = subprocess.run(start + [script, "bash"] + typed, stdout=subprocess.PIPE)
        assert done.stdout.decode() == expected


@pytest.mark.slow
@pytest.mark.parametrize("shell", sorted(OFFER))
def test_tab_on_a_terminal(shell, terminal, account):
    """A person types, presses Tab, and the line is complete."""
    need(shell)
    start = {
        "bash": ["/bin/bash", "--norc", "-i"],
        "zsh": ["/usr/bin/zsh", "-f", "-i"],
        "fish": ["/usr/bin/fish", "--no-config", "-i"],
    }[shell]
    load = "source <(podstack completion %s)" % shell
    load = {"zsh": "autoload -Uz compinit && compinit -D; " + load,
            "fish": "podstack completion fish | source"}.get(shell, load)  # fmt: skip
    screen = terminal(program=start)
    screen.type(load + "; echo load''ed\r")
    screen.expect("loaded")
    screen.type("podstack project use rend\t")
    screen.expect("rendering")
    screen.type("\r")
    screen.expect("(?i)project.*rendering.*\n")


@pytest.mark.slow
def test_nothing_is_offered_without_a_token(offered, api, monkeypatch):
    assert offered("pod", "get", "tr") == []
    monkeypatch.setenv("PODSTACK_API_TOKEN", "psk_wrong")
    assert offered("pod", "get", "tr") == []


@pytest.mark.slow
def test_files_are_offered_where_files_are_meant(offered, home, account):
    (home / "data.csv").write_text("")
    typed = offered("pod", "create", "--env-file", "dat")
    assert typed == (["data.csv"] if offered.shell == "fish" else [])  # others: by their defaults


def test_a_server_that_hangs_costs_a_second(podstack_process, api, monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    api.next("/v1/pods", delay=60)
    started = time.monotonic()
    assert (
        repr(podstack_process("__complete", "pod", "get", "")) == "exit 0\n--- stdout\n--- stderr\n"
    )
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "trouble",
    [{"status": 500}, {"body": b"<html>"}, {"drop": True}, {"status": 401}],
    ids=["failing", "page", "dropped", "refused"],
)
def test_trouble_is_quietly_nothing(trouble, podstack_process, api, monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    api.next("/v1/pods", times=FOREVER, **trouble)
    shown = podstack_process("__complete", "pod", "get", "")
    assert repr(shown) == "exit 0\n--- stdout\n--- stderr\n"


def test_a_warning_does_not_run_into_what_is_typed(podstack_process, config):
    config.write_text("auth:\n  token: %s\n" % USER)
    config.chmod(0o644)
    shown = podstack_process("__complete", "--profile", "")
    assert repr(shown) == "exit 0\n--- stdout\ndefault\n--- stderr\n"


def test_a_broken_config_is_quietly_nothing(podstack_process, config):
    config.write_text("profiles: [\n")
    assert (
        repr(podstack_process("__complete", "--profile", "")) == "exit 0\n--- stdout\n--- stderr\n"
    )
    assert podstack_process("__complete", "auth", "sta").out == "status\n"


def test_tab_spends_no_refresh_token(podstack_process, api, config):
    """The answer could come after the second: the login would be lost."""
    token = api.issue_oauth(expires_in=1)
    text = (
        "auth:\n  token: %s\n  refresh_token: %s\n  expires: 2020-01-01T00:00:00Z\n"
        "  endpoint: %s\n  issuer: %s\n"
    )
    config.write_text(text % (token["access_token"], token["refresh_token"], api.url, api.url))
    config.chmod(0o600)
    before = config.read_text()
    api.clock.advance(3600)
    assert podstack_process("__complete", "pod", "get", "").out == ""
    assert config.read_text() == before
    assert [request.method for request in api.requests] == ["GET"]


def test_tab_runs_no_token_command(podstack_process, api, config, tmp_path):
    config.write_text('auth:\n  token_command: "touch %s/ran"\n' % tmp_path)
    config.chmod(0o600)
    assert podstack_process("__complete", "pod", "get", "").out == ""
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_name_from_the_server_is_never_a_command(offered, api, monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    names = ["a b", "a$(touch pwned)", "a;reboot", "a\x1b[2J", "a'b"]
    api.next("/v1/pods", body={"data": [{"name": name} for name in names]})
    shown = offered("pod", "get", "a")
    assert "\x1b" not in "".join(shown)
    if offered.shell == "bash":  # the others quote what they put on the line
        assert shown == [
            "a\\\\x1b\\[2J", "a\\ b", "a\\$\\(touch\\ pwned\\)", "a\\'b", "a\\;reboot",
        ]  # fmt: skip


def test_the_powershell_script_quotes_too(podstack_process):
    """There is no PowerShell here: its script is held to its text."""
    text = podstack_process("completion", "powershell").out
    assert "Register-ArgumentCompleter -Native -CommandName podstack -ScriptBlock {" in text
    # To PowerShell these five are one: a name that holds one of them would end its quotes.
    letters = re.search(r"\$_ -replace \"(.*)\", '\$0\$0'", text).group(1)
    assert re.sub(letters, "!", "a'\u2018\u2019\u201a\u201b\u201d\"$`") == 'a!!!!!\u201d"$`'
    assert text.count("{") == text.count("}")
    assert podstack_process("__complete", "auth", " ").out.startswith("doctor\n")

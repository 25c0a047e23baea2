"""`token_command`: a program of the user's own that yields the token, as `pass` or `op` would."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import PODSTACK, USER, Sandbox

import podstack

READONLY = "psk_sandbox_readonly"


@pytest.fixture
def program(tmp_path):
    """`program(script)` makes an executable shell script and returns its path."""

    def make(script, name="give token"):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n" + script + "\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def profile(api, config):
    """`profile(command)` writes a config whose profile takes its token from that command."""

    def write(command, more=""):
        data = {"auth": {"token_command": command}, "api": {"endpoint": api.url}}
        config.write_text(podstack.yaml_dump(data) + more)
        config.chmod(0o600)
        return config

    return write


def bearers(api):
    return [call.headers["Authorization"].partition(" ")[2] for call in api.calls(None, "/v1/")]


# -- what is run


@pytest.mark.parametrize(
    "command",
    [
        "printf %s " + USER,
        ["printf", "%s", USER],
        "echo '%s'" % USER,
        "  echo\t%s  " % USER,
        '/bin/echo "%s"' % USER,
        ["/bin/sh", "-c", "echo $0", USER],
    ],
)
def test_a_text_or_a_list_of_words_is_a_command(api, cli, profile, command):
    profile(command)
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert cli("auth", "token").out == USER + "\n"
    assert cli("auth", "status", "-o", "json").json["token_source"] == "command"


def test_the_guides_other_form_of_a_profile_has_it_too(api, cli, config):
    config.write_text(
        "profiles:\n  work:\n    token_command: [echo, %s]\n    api_endpoint: %s\n"
        % (USER, api.url)
    )
    config.chmod(0o600)
    assert cli("--profile", "work", "auth", "whoami").out == "user@example.com\n"


def test_no_shell_ever_reads_it(api, cli, profile, tmp_path):
    marks = [tmp_path / name for name in ("a", "b", "c", "d")]
    words = "; touch %s & touch %s | touch %s $(touch %s) `id` > x * ~ $HOME" % tuple(marks)
    profile("%s -c 'import sys; print(\"|\".join(sys.argv[1:]))' %s" % (sys.executable, words))
    assert cli("auth", "token").out == "|".join(words.split(" ")) + "\n"
    assert not any(mark.exists() for mark in marks)
    profile(["echo", "$HOME;id"])
    assert cli("auth", "token").out == "$HOME;id\n"


def test_a_name_is_looked_for_in_the_path_and_nowhere_else(api, cli, profile, program, home):
    os.rename(program("echo " + USER, "give-token"), str(home / "give-token"))
    profile("give-token")
    done = cli("auth", "token", code=4)
    assert done.error == "Error: token_command of profile 'default': give-token not found"
    assert done.err.splitlines()[1] == CORRECT_IT
    assert cli("auth", "token", code=4, env={"PATH": ".:" + os.environ["PATH"]}).out == ""
    assert cli("auth", "token", code=4, env={"PATH": ":" + os.environ["PATH"]}).out == ""
    assert cli("auth", "token", env={"PATH": str(home)}).out == USER + "\n"
    profile("./give-token")
    assert cli("auth", "token", code=4).out == ""


def test_its_environment_says_what_is_asked_for(api, cli, profile, program, tmp_path):
    profile([program("env >'%s/seen'; echo %s" % (tmp_path, USER))])
    cli("auth", "whoami", env={"PODSTACK_TOKEN": "kept", "PODSTACK_API_TOKEN": ""})
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "seen").read_text().splitlines())
    assert seen["PODSTACK_PROFILE"] == "default"
    assert seen["PODSTACK_API_ENDPOINT"] == api.url
    assert seen["PODSTACK_TOKEN_COMMAND"] == "1"
    assert seen["PODSTACK_TOKEN"] == "kept" and seen["HOME"] == os.environ["HOME"]


def test_it_is_not_given_the_token_of_the_environment(api, cli, profile, program, tmp_path):
    """--profile prefers the profile's own token: the environment's is none of its business."""
    profile([program("env >'%s/seen'; echo %s" % (tmp_path, USER))])
    cli("--profile", "default", "auth", "whoami", env={"PODSTACK_API_TOKEN": READONLY})
    assert bearers(api) == [USER]
    assert READONLY not in (tmp_path / "seen").read_text()


def test_its_words_on_stderr_are_the_users(api, podstack_process, profile, program):
    profile([program("echo 'touch the key' >&2; echo " + USER)])
    done = podstack_process("auth", "whoami")
    assert (done.out, done.err) == ("user@example.com\n", "touch the key\n")


def test_it_asks_on_the_terminal_where_there_is_one(api, profile, program, terminal):
    profile([program("printf 'PIN: ' >&2; read -r pin; [ $pin = 1234 ] && echo " + USER)])
    screen = terminal("auth", "whoami")
    screen.expect("PIN: ")
    screen.type("1234\n")
    assert screen.end() == 0
    assert "user@example.com" in screen.shown


def test_without_a_terminal_it_reads_nothing_of_ours(api, podstack_process, profile, program):
    profile([program("read -r line && echo psk_from_stdin || echo " + USER)])
    assert podstack_process("auth", "token", stdin=b"psk_from_stdin\n").out == USER + "\n"


def test_it_may_ask_another_profile_of_podstack_but_not_itself(api, podstack_process, config):
    own = "[%s, %s, --profile, %s, auth, token]"
    text = "api:\n  endpoint: %s\nprofiles:\n" % api.url
    text += "  store:\n    token: %s\n    endpoint: %s\n" % (USER, api.url)
    for name, other in (("work", "store"), ("loop", "loop"), ("far", "work")):
        text += "  %s:\n    token_command: %s\n" % (name, own % (sys.executable, PODSTACK, other))
    config.write_text(text)
    config.chmod(0o600)
    assert podstack_process("--profile", "work", "auth", "whoami").out == "user@example.com\n"
    for name, inner in (("loop", "loop"), ("far", "work")):
        done = podstack_process("--profile", name, "auth", "token", code=4)
        assert done.err.splitlines()[0] == (
            "Error: token_command of profile '%s' calls podstack itself" % inner
        )
        assert done.err.splitlines()[1] == CORRECT_IT
        last = "Error: token_command of profile '%s' (%s) failed with exit code 4"
        assert last % (name, sys.executable) in done.err.splitlines()


# -- what it prints


@pytest.mark.parametrize(
    "printed",
    [
        USER,
        USER + "\n",
        USER + "\r\n",
        json.dumps({"token": USER}),
        json.dumps({"token": USER, "expires_at": None}, indent=2) + "\n",
        json.dumps({"token": USER, "expires_at": "2099-01-01T00:00:00Z", "version": 1}),
        json.dumps({"token": USER, "expires_at": 1}),
        json.dumps({"token": USER, "expires_at": "soon"}),
        json.dumps({"token": "x"})[:-1] + ', "token": "%s"}' % USER,
    ],
)
def test_one_line_or_an_object_is_a_token(api, cli, profile, tmp_path, printed):
    (tmp_path / "printed").write_bytes(printed.encode())
    profile(["cat", str(tmp_path / "printed")])
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert bearers(api) == [USER]


SECRET = "psk_dont_print_me"
CORRECT_IT = "Correct it: podstack config set auth.token_command COMMAND"


@pytest.mark.parametrize(
    "printed",
    [
        b"", b"\n", b"  \n", b"\n" + SECRET.encode(), (SECRET + "\n" + SECRET).encode(),
        (SECRET + " x").encode(), (" " + SECRET).encode(), (SECRET + "\t").encode(),
        (SECRET + "\0").encode(), (SECRET + "\x1b[31m").encode(), (SECRET + "\r\nX: 1").encode(),
        (SECRET + "\u00e9").encode(), SECRET.encode() + b"\xff", SECRET.encode("utf-16"),
        b"{}", b"{", b"{" + SECRET.encode(), json.dumps({"Token": SECRET}).encode(),
        json.dumps({"token": None, "key": SECRET}).encode(), json.dumps({"token": ""}).encode(),
        json.dumps({"token": [SECRET]}).encode(), json.dumps({"token": {"a": SECRET}}).encode(),
        json.dumps({"token": 7}).encode(), json.dumps({"token": SECRET + "\n"}).encode(),
        json.dumps({"token": SECRET + " "}).encode(), json.dumps({"token": "\ud800"}).encode(),
        json.dumps({"token": SECRET}).encode() + b" x", b'{"a":' * 100000, b"x" * 17000,
        b'{"token": "' + SECRET.encode(),
    ],
    ids=lambda printed: ascii(printed[:40]),
)  # fmt: skip
def test_anything_else_is_an_error_that_never_shows_it(api, cli, profile, tmp_path, printed):
    (tmp_path / "printed").write_bytes(printed)
    profile(["cat", str(tmp_path / "printed")])
    for words in (["auth", "whoami"], ["auth", "token"], ["pod", "list"]):
        done = cli(*words, code=4)
        assert done.out == ""
        assert done.error == (
            "Error: token_command of profile 'default' (%s) did not print one token"
            % shutil.which("cat")
        )
        assert done.err.splitlines()[1] == CORRECT_IT
        assert SECRET not in done.err and "\x1b" not in done.err
    assert api.requests == []


@pytest.mark.parametrize(
    "script, problem",
    [
        ("echo %s; exit 1" % SECRET, "failed with exit code 1"),
        ("echo %s; exit 77" % SECRET, "failed with exit code 77"),
        ("kill -9 $$", "failed with exit code -9"),
    ],
)
def test_a_command_that_fails_is_named_and_its_output_is_not_shown(
    api, cli, profile, program, script, problem
):
    path = program(script)
    profile([path])
    done = cli("auth", "whoami", code=4)
    assert done.error == "Error: token_command of profile 'default' (%s) %s" % (path, problem)
    assert done.err.splitlines()[1] == CORRECT_IT
    assert SECRET not in done.err and api.requests == []


@pytest.mark.parametrize(
    "command",
    ["''", "'open", "\"", [""], [None], [["a"]], [{"a": "b"}], ["a\0b"], ["echo", None], "   "],
)  # fmt: skip
def test_what_is_no_command_is_refused(api, cli, profile, command):
    profile(command)
    done = cli("auth", "whoami", code=None)
    assert done.code in (1, 4) and done.error and done.out == ""
    assert "bug" not in done.err and api.requests == []


def test_a_program_that_cannot_be_started_is_named(api, cli, profile, tmp_path):
    (tmp_path / "broken").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "broken").chmod(0o755)
    for path in (tmp_path / "broken", tmp_path / "missing", tmp_path):
        profile([str(path)])
        done = cli("auth", "whoami", code=4)
        assert done.error.startswith(
            "Error: token_command of profile 'default' (%s) failed: " % path
        )
        assert done.err.splitlines()[1] == CORRECT_IT
        assert "[Errno" not in done.err


def test_a_program_that_does_not_end_in_time_is_ended(program, monkeypatch):
    started = []

    class Seen(subprocess.Popen):
        def __init__(self, *words, **options):
            started.append(self)
            super().__init__(*words, **options)

    monkeypatch.setattr(subprocess, "Popen", Seen)
    err = io.StringIO()
    app = podstack.App(None, None, err, dict(os.environ))
    with pytest.raises(TimeoutError, match="^no answer within 3 s$"):
        app.run([program("exec sleep 60")], timeout=3, patience="Waiting")
    assert err.getvalue() == "Waiting\n"
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_command_is_given_a_minute(api, podstack_process, profile, program):
    """Also one whose own children keep its output open."""
    path = program("exec 2>/dev/null; sleep 90 & sleep 90")
    profile([path])
    started = time.monotonic()
    done = podstack_process("auth", "token", code=4, timeout=90)
    assert 59 < time.monotonic() - started < 75
    assert done.error == (
        "Error: token_command of profile 'default' (%s) failed: no answer within 60 s" % path
    )


# -- when it is run


COUNTING = "echo x >>'%s/runs'; if [ $(wc -l <'%s/runs') = 1 ]; then echo %s; else echo %s; fi"


def runs(tmp_path):
    return len((tmp_path / "runs").read_text().splitlines())


def test_it_is_run_once_for_a_command_and_nothing_is_kept(api, cli, profile, program, tmp_path):
    config = profile([program("echo x >>'%s/runs'; echo %s" % (tmp_path, USER))])
    before = config.read_bytes()
    api.add_pods(250)
    cli("pod", "list")
    assert runs(tmp_path) == 1
    cli("pod", "list")
    assert runs(tmp_path) == 2
    assert config.read_bytes() == before
    assert sorted(os.listdir(str(config.parent))) == ["config.yaml"]


def test_it_is_run_once_more_after_a_refusal(api, cli, profile, program, tmp_path):
    profile([program(COUNTING % (tmp_path, tmp_path, "psk_old", USER))])
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert bearers(api) == ["psk_old", USER]


def test_a_second_refusal_is_the_answer(api, cli, profile, program, tmp_path):
    profile([program(COUNTING % (tmp_path, tmp_path, "psk_old", "psk_older"))])
    done = cli("auth", "whoami", code=4)
    assert done.err == (
        "Error: Invalid authentication token\n"
        "Generate a new token from the dashboard (Account > API Tokens)\n"
        "Token from token_command of profile 'default'\n"
    )
    assert bearers(api) == ["psk_old", "psk_older"] and runs(tmp_path) == 2


def test_the_same_token_again_is_not_sent_twice(api, cli, profile):
    profile("echo psk_old")
    cli("auth", "whoami", code=4)
    assert bearers(api) == ["psk_old"]


def test_an_expired_token_is_named_as_that(api, cli, profile):
    answer = json.dumps({"token": "psk_old", "expires_at": "2020-01-01T00:00:00Z"})
    profile(["echo", answer])
    assert cli("auth", "whoami", code=4).error == "Error: Token expired"
    done = cli("auth", "token", code=4)
    assert done.error == "Error: Token expired" and done.out == ""


@pytest.mark.parametrize(
    "words", [["auth", "list"], ["config", "show"], ["project", "current"], ["auth", "logout"]]
)
def test_what_needs_no_token_does_not_run_it(api, cli, profile, tmp_path, words):
    profile("touch '%s/ran'" % tmp_path)
    cli(*words, code=None)
    assert not (tmp_path / "ran").exists()


# -- who may name it


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_obeyed(api, cli, profile, tmp_path, mode):
    config = profile("touch '%s/ran'" % tmp_path)
    config.chmod(mode)
    done = cli("auth", "whoami", code=4)
    assert done.err == (
        "Error: token_command is not run: others can write %s\nRun: chmod go-w %s\n"
        % (config, config)
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_directory_that_others_can_write_is_not_obeyed(api, cli, profile, tmp_path, mode):
    config = profile("touch '%s/ran'" % tmp_path)
    config.parent.chmod(mode)
    done = cli("auth", "whoami", code=4)
    config.parent.chmod(0o700)
    assert done.error == "Error: token_command is not run: others can write %s" % config.parent
    assert not (tmp_path / "ran").exists()


def test_a_directory_that_others_can_only_read_is_obeyed(api, cli, profile, program):
    config = profile([program("echo " + READONLY)])
    config.chmod(0o644)
    config.parent.chmod(0o755)
    assert cli("auth", "token").out == READONLY + "\n"


@pytest.mark.parametrize("place", ["link", "target"])
def test_a_link_is_judged_at_both_ends(api, cli, profile, tmp_path, place):
    config = profile("touch '%s/ran'" % tmp_path)
    folder = tmp_path / "links"
    folder.mkdir()
    link = folder / "config.yaml"
    link.symlink_to(config)
    open_to_all = folder if place == "link" else config.parent
    open_to_all.chmod(0o777)
    done = cli("auth", "whoami", code=4, env={"PODSTACK_CONFIG": str(link)})
    assert done.error == "Error: token_command is not run: others can write %s" % open_to_all
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_another_is_not_obeyed(api, cli, profile, tmp_path):
    config = profile("touch '%s/ran'" % tmp_path)
    os.chown(str(config.parent), 12345, -1)
    done = cli("auth", "whoami", code=4)
    assert done.err == (
        "Error: token_command is not run: others can write %s\nIt must be yours: ls -ld %s\n"
        % (config.parent, config.parent)
    )
    assert not (tmp_path / "ran").exists()


def test_the_advice_mends_it(api, cli, profile):
    config = profile(["echo", USER])
    config.chmod(0o666)
    advice = cli("auth", "whoami", code=4).err.splitlines()[1].partition(": ")[2]
    subprocess.check_call(advice.split())
    assert cli("auth", "whoami").out == "user@example.com\n"


# -- where the token goes


def test_the_token_goes_to_the_profiles_own_endpoint_only(api, cli, profile, tmp_path):
    profile("touch '%s/ran'" % tmp_path)
    with Sandbox() as other:
        done = cli("auth", "whoami", code=4, env={"PODSTACK_API_ENDPOINT": other.url})
        assert done.err == (
            "Error: The token of profile 'default' is for %s, not for %s\n"
            "If its token is for there: podstack config set api.endpoint ADDRESS\n"
            "The address is from PODSTACK_API_ENDPOINT\n" % (api.url, other.url)
        )
        assert other.requests == api.requests == []
        assert not (tmp_path / "ran").exists()
        cli("config", "set", "api.endpoint", other.url)
        cli("auth", "whoami", code=4, env={"PODSTACK_API_ENDPOINT": other.url})
        assert (tmp_path / "ran").exists()


def test_without_an_endpoint_of_its_own_it_is_for_the_default(api, cli, config):
    config.write_text("auth:\n  token_command: echo %s\n" % USER)
    config.chmod(0o600)
    done = cli("auth", "whoami", code=4)
    assert "is for https://api.podstack.ai, not for %s" % api.url in done.error
    assert api.requests == []


# -- the commands about logins


def test_a_token_of_the_environment_wins_and_the_command_is_not_run(api, cli, profile, tmp_path):
    profile("touch '%s/ran'" % tmp_path)
    cli("auth", "whoami", env={"PODSTACK_API_TOKEN": USER})
    assert not (tmp_path / "ran").exists()


def test_login_and_logout_say_where_the_token_comes_from(api, cli, profile):
    profile(["echo", READONLY])
    done = cli("auth", "login", "--token", USER)
    assert done.err.endswith("This profile's token still comes from its token_command\n")
    assert cli("auth", "token").out == READONLY + "\n"
    done = cli("auth", "logout")
    assert done.err == ("Logged out of profile 'default'\nIts token_command still gives a token\n")
    done = cli("auth", "logout")
    assert done.err == (
        "Profile 'default' was not signed in\nIts token_command still gives a token\n"
    )


def test_its_token_is_neither_revoked_nor_renewed_here(api, cli, profile):
    profile(["echo", USER])
    done = cli("auth", "revoke", "--yes", code=1)
    assert done.error == "Error: A token from token_command is not ours to revoke"
    done = cli("auth", "refresh", code=1)
    assert done.error == "Error: This token cannot be refreshed"
    assert api.requests == [] and USER in api.tokens


def test_list_and_status_name_the_source(api, cli, profile):
    profile(["echo", USER])
    assert cli("auth", "list", "-o", "json").json[0]["storage"] == "command"
    shown = cli("auth", "token-info").out
    assert "Source:    token_command of profile 'default'\n" in shown


def test_a_server_that_repeats_the_token_does_not_get_it_shown(api, cli, profile):
    opaque = "6f7c-opaque-token"
    profile(["echo", opaque])
    body = {"error": {"code": "bad", "message": "Token %s is not for this" % opaque}}
    api.next("/v1/auth/whoami", status=422, body=body)
    done = cli("auth", "whoami", "--debug", code=1)
    assert "Error: Token **** is not for this" in done.err and opaque not in done.err


def test_nothing_of_it_is_shown_by_debug(api, cli, profile):
    profile(["echo", USER])
    for words in (["auth", "whoami"], ["auth", "token-info"], ["pod", "list"]):
        done = cli(*words, "--debug")
        assert USER not in done.err + done.out

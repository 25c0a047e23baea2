"""Whatever a shell, a service or a container gives the program: it works, or says why it cannot.

Each on the oldest Python here and the newest; the ones between are among the long tests.
"""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import PODSTACK, PYTHONS, USER, Result, need
from machines import IS_ROOT
from test_pythons import each_python


@pytest.fixture(params=each_python())
def shell(request, home):
    """`shell("podstack project current >&-")` runs a line in bash; `podstack` is this Python's.

    Options: `code` (expected), `python` (its options), `stdout` (a descriptor); environment.
    """

    def run(line, code=0, python="-B", stdout=subprocess.PIPE, **env):
        environ = dict(os.environ, **env)
        line = line.replace("podstack ", "'%s' %s '%s' " % (request.param, python, PODSTACK))
        done = subprocess.run(
            ["bash", "-c", line], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
            env={k: v for k, v in environ.items() if v is not None}, timeout=60,
        )  # fmt: skip
        out = (done.stdout or b"").decode("latin-1")
        result = Result(done.returncode, out, done.stderr.decode("latin-1"))
        assert code is None or result.code == code, result
        assert "Traceback" not in result.err, result
        assert "This is a bug" not in result.err, result
        return result

    return run


@pytest.fixture
def account(api, monkeypatch, cli):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    cli("project", "create", "--name", "blue")
    return api


def fill(config, text):
    config.write_bytes(text)
    config.chmod(0o600)


# -- languages


NO_COERCION = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"LC_ALL": "C"}, id="C"),
        pytest.param({"LC_ALL": "POSIX"}, id="POSIX", marks=pytest.mark.slow),
        pytest.param({"LC_ALL": None}, id="none", marks=pytest.mark.slow),
        pytest.param(NO_COERCION, id="C-without-coercion", marks=pytest.mark.slow),
    ],
)
def test_a_c_locale(env, shell, account, config):
    fill(config, "# Grüße\nprofiles:\n  work:\n    project: größe\n".encode())
    shown = shell("podstack --profile work project current", **env).out
    assert shown in ("größe\n".encode().decode("latin-1"), "gr\\xf6\\xdfe\n")
    shell("podstack --profile work config set defaults.gpu_type H100", **env)
    assert config.read_bytes() == (
        "# Grüße\nprofiles:\n  work:\n    project: größe\n    gpu_type: H100\n".encode()
    )
    assert "blue" in shell("podstack project list", **env).out


def test_words_that_are_typed_arrive_whole(shell, home, config):
    shell("podstack config set profiles.work.project größe", LC_ALL="C.UTF-8")
    assert config.read_bytes() == 'profiles:\n  work:\n    project: "größe"\n'.encode()


NOT_TEXT = (
    "Error: The command line is not text in this locale\n"
    "Type UTF-8, and set LC_ALL=C.UTF-8 or another UTF-8 locale\n"
)


def test_words_that_are_no_text_are_refused(shell, home):
    assert shell("podstack config set defaults.project $'gr\\xf6'", code=2).err == NOT_TEXT
    assert not (home / ".podstack" / "config.yaml").exists()


def test_a_c_locale_takes_utf_8_from_3_7_on(shell, home, config):
    done = shell("podstack config set defaults.project größe", code=None, LC_ALL="C")
    assert config.exists() == (done.code == 0)
    if done.code:
        assert (done.code, done.err) == (2, NOT_TEXT)


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory):
    """The environment of a terminal that is not UTF-8: a real locale of its own."""
    need("localedef")
    folder = str(tmp_path_factory.mktemp("locales"))
    done = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder + "/de_DE.ISO-8859-1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert os.path.isdir(folder + "/de_DE.ISO-8859-1"), done.stdout
    return {"LOCPATH": folder, "LC_ALL": "de_DE.ISO-8859-1"}


def test_a_terminal_that_is_not_utf_8(shell, latin_1, account, config):
    fill(config, "profiles:\n  work:\n    project: größe\n  east:\n    project: 東\n".encode())
    assert shell("podstack --profile work project current", **latin_1).out == "größe\n"
    assert shell("podstack --profile east project current", **latin_1).out == "\\u6771\n"
    asked = "podstack --profile east project current -o json"
    assert shell(asked, **latin_1).out == '"\\u6771"\n'
    shell("podstack --profile work config set defaults.project $'gr\\xfcn'", **latin_1)
    assert 'project: "grün"\n'.encode() in config.read_bytes()


# -- streams


def test_closed_streams(shell, account, config):
    assert shell("podstack auth whoami <&-").out == "user@example.com\n"
    assert shell("podstack auth whoami 2>&-").out == "user@example.com\n"
    told = shell("podstack auth whoami >&-", code=1).err
    assert told == "Error: Standard output is closed\nSend it elsewhere: > FILE\n"
    assert shell("podstack auth whoami <&- >&- 2>&-", code=1).err == ""
    assert shell("podstack auth nonsense 2>&-", code=2).out == ""
    shell("podstack config set defaults.project blue <&- >&- 2>&-")
    assert config.read_bytes() == b"defaults:\n  project: blue\n"


@pytest.mark.parametrize(
    "words",
    ["project list"] + [pytest.param(w, marks=pytest.mark.slow) for w in ("--help", "auth whoami")],
)
def test_a_reader_that_went_away(words, shell, account):
    """As in `podstack project list | head -1`: no message, and no success either."""
    reader, writer = os.pipe()
    os.close(reader)
    assert shell("podstack " + words, code=1, stdout=writer).err == ""
    os.close(writer)


def test_a_full_disk_behind_stdout(shell, account):
    for words in ("--version", "project list"):
        told = shell("podstack %s >/dev/full" % words, code=1).err
        assert told == (
            "Error: Cannot write to standard output: No space left on device\n"
            "Send it elsewhere: > FILE\n"
        )


def test_stdin_without_a_token(shell, api):
    for line in ("podstack auth login --token - </dev/null", "podstack auth login --token - <&-"):
        assert shell(line, code=2).err.startswith("Error: ")


# -- homes and files


@pytest.mark.parametrize(
    "home_is",
    [None, pytest.param("", marks=pytest.mark.slow), pytest.param("here", marks=pytest.mark.slow)],
    ids=["unset", "empty", "relative"],
)
def test_no_home(home_is, shell, account, tmp_path):
    path = str(tmp_path / "settings.yaml")
    line = "podstack --version && podstack auth whoami && podstack config path"
    done = shell(line, HOME=home_is, PODSTACK_CONFIG=path)
    assert done.out.endswith("user@example.com\n%s\n" % path)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become a user who does not exist")
def test_a_user_without_a_home_anywhere(account):
    """Neither HOME nor a line in the user database; containers run so."""
    need("setpriv")
    argv = ["setpriv", "--reuid", "23456", "--regid", "23456", "--clear-groups"]
    argv += [PYTHONS.get("system", sys.executable), "-B", "-", "auth", "whoami"]
    environ = {name: text for name, text in os.environ.items() if name != "HOME"}
    with open(PODSTACK) as program:  # which that user cannot read everywhere
        done = subprocess.run(argv, stdin=program, stdout=subprocess.PIPE, env=environ, cwd="/")
    assert done.stdout == b"user@example.com\n"


def in_read_only(folder, line):
    """The same line where `folder` cannot be written to, not even by root."""
    script = "mount --bind {0} {0} && mount -o remount,bind,ro {0} && cd {0} && {1}"
    return "unshare -m bash -c " + shlex.quote(script.format(folder, line))


@pytest.mark.slow
@pytest.mark.skipif(not IS_ROOT, reason="mounting takes root")
@pytest.mark.parametrize("has_folder", [False, True], ids=["empty", "with-settings"])
def test_a_read_only_home(has_folder, shell, account, home):
    need("unshare", "mount")
    if has_folder:
        (home / ".podstack").mkdir(mode=0o700)
        fill(home / ".podstack" / "config.yaml", b"defaults:\n  project: blue\n")
    line = "podstack auth whoami && podstack project list && podstack config get defaults.output"
    assert "user@example.com\n" in shell(in_read_only(home, line)).out
    before = sorted(os.listdir(str(home)))
    for words in ("config set defaults.project x", "auth login --token " + USER):
        told = shell(in_read_only(home, "podstack " + words), code=1).err
        assert "Read-only file system" in told
        assert told.startswith("Error: Cannot write ")
        assert USER not in told
    assert sorted(os.listdir(str(home))) == before


@pytest.mark.slow
def test_isolated_mode(shell, account, config):
    fill(config, b"defaults:\n  project: blue\n")
    done = shell("podstack auth whoami && podstack project current", python="-B -I")
    assert done.out == "user@example.com\nblue\n"
    assert shell("podstack --version", python="-B -I -S").out.startswith("podstack ")


@pytest.mark.slow
def test_what_python_variables_and_files_lie_around_is_no_matter(shell, account, home):
    (home / "json.py").write_text("raise SystemExit('not this one')\n")
    (home / "socket.py").write_text("raise SystemExit('nor this one')\n")
    assert shell("podstack auth whoami", python="-B -W error").out == "user@example.com\n"
    assert shell("podstack auth whoami", python="-B -O", PYTHONHASHSEED="0").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("python", list(each_python()))
def test_a_file_beside_the_program_is_no_module_of_pythons(python, account, home):
    """Who fetches it to /tmp and runs it there runs nobody else's json.py."""
    (home / "json.py").write_text("raise SystemExit('not this one')\n")
    shutil.copy(PODSTACK, str(home / "podstack.py"))
    words = [python, "-B", str(home / "podstack.py"), "auth", "whoami"]
    assert subprocess.run(words, stdout=subprocess.PIPE).stdout == b"user@example.com\n"


@pytest.mark.slow
def test_the_current_directory_may_be_gone(shell, account):
    line = "mkdir gone && cd gone && rmdir ../gone && podstack auth whoami"
    assert shell(line).out == "user@example.com\n"


@pytest.mark.slow
def test_few_files_may_be_open(shell, account):
    assert shell("ulimit -n 64; podstack project list").code == 0

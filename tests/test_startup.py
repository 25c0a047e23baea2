"""The installed program starts as a compiled one does: what it imports and opens is counted.

A clock in a test is noise; tests/bench.py has the clock.
"""

import ast
import os
import re
import subprocess
import sys

import pytest
from conftest import PODSTACK, PYTHONS, USER, need
from machines import IS_ROOT, SCRIPT, Machine, read

CONFIG = "auth:\n  token: %s\ndefaults:\n  project: my-project\n" % USER
# What `os` brings where no site module has imported it, under any name that 3.6 to 3.14 use.
OF_OS = {"os", "stat", "_stat", "posixpath", "genericpath", "os.path", "_collections_abc"}
OF_OS |= {"abc", "_abc", "_weakrefset", "_weakref"}

SHORT = [
    pytest.param(["--version"], {}, id="version"),
    pytest.param(["project", "current"], {}, id="project-current"),
    pytest.param(["config", "get", "defaults.project"], {}, id="config-get"),
    pytest.param(["auth", "token"], {}, id="auth-token-stored"),
    pytest.param(["auth", "token"], {"PODSTACK_API_TOKEN": USER}, id="auth-token-environment"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an install with the system's Python, and the Python that it pinned."""
    machine = Machine(str(tmp_path_factory.mktemp("startup") / "machine"))
    machine.run("sh", SCRIPT, "--quiet", "--prefix", machine.home + "/p")
    receipt = read(machine.home + "/p/lib/podstack/receipt")
    machine.python = re.search("(?m)^python (.*)$", receipt).group(1)
    machine.lib, machine.launcher = (
        machine.home + "/p/lib/podstack",
        machine.home + "/p/bin/podstack",
    )
    return machine


@pytest.fixture
def settings(config):
    config.write_text(CONFIG)
    config.chmod(0o600)
    return str(config)


def run(argv, **env):
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, **env)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(), done.stderr.decode()


def imported(python, *argv, **env):
    """Return the names of the modules that a run of Python imports."""
    _, told = run([python, "-I", "-S", "-B", "-X", "importtime"] + list(argv), **env)
    return {line.rpartition("|")[2].strip() for line in told.splitlines() if "import time:" in line}


@pytest.mark.parametrize(("argv", "env"), SHORT)
def test_the_short_commands_import_os_and_nothing_else(argv, env, installed, settings):
    bare = imported(installed.python, "-c", "pass")
    start = installed.lib + "/start.py"
    assert imported(installed.python, start, *argv, **env) - bare <= OF_OS | {"gc", "podstack"}


def opened(trace, argv, **env):
    """Return (path, flags) of every file that a run opens, in order."""
    need("strace")
    run(["strace", "-f", "-o", str(trace), "-e", "trace=open,openat,creat"] + argv, **env)
    call = r'open(?:at)?\((?:AT_FDCWD, )?"([^"]*)", ([A-Z_|]+).* = \d+$'
    return re.findall(call, trace.read_text(), re.M)


@pytest.mark.parametrize(("argv", "env"), SHORT)
def test_the_short_commands_open_no_more_than_they_need(argv, env, installed, settings, tmp_path):
    """The launcher, start.py, the folder's listing, the bytecode; and the config file once."""
    files = opened(tmp_path / "trace", [installed.launcher] + argv, **env)
    ours = {path for path, _ in files if path.startswith(installed.home)}
    (bytecode,) = os.listdir(installed.lib + "/__pycache__")
    names = ("/start.py", "", "/__pycache__/" + bytecode)
    assert ours == {installed.launcher} | {installed.lib + name for name in names}
    assert not [path for path, flags in files if re.search("WRONLY|RDWR|CREAT", flags)]
    assert [path for path, _ in files].count(settings) == (argv != ["--version"])


def test_help_a_usage_error_and_a_list_of_profiles_need_no_network_modules(installed, settings):
    start = installed.lib + "/start.py"
    for argv in (["pod", "list", "--help"], ["auth", "list"], ["auth", "list", "-o", "json"]):
        names = imported(installed.python, start, *argv)
        assert not names & {"socket", "ssl", "http.client", "urllib.request", "subprocess"}, argv


@pytest.mark.parametrize("words", ["auth whoami", "pod list"])
def test_a_request_needs_no_more_than_http_client(words, installed, api):
    start = installed.lib + "/start.py"
    names = imported(installed.python, start, *words.split(), PODSTACK_API_TOKEN=USER)
    assert "http.client" in names
    assert not names & {"urllib.request", "encodings.idna", "stringprep", "concurrent.futures"}
    assert not names & {"subprocess", "http.server", "webbrowser", "tempfile"}


def test_all_that_is_installed_is_at_most_0_6_MB(installed):
    folders = os.walk(installed.home + "/p")
    sizes = [os.path.getsize(os.path.join(at, name)) for at, _, names in folders for name in names]
    assert len(sizes) == 5  # launcher, start, source, bytecode, receipt
    assert sum(sizes) <= 599500  # room for a longer prefix, which stands in four of them


def test_the_bytecode_holds_no_docstring(installed):
    (name,) = os.listdir(installed.lib + "/__pycache__")
    bytecode = read(os.path.join(installed.lib, "__pycache__", name), "rb")
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(read(PODSTACK))) if isinstance(node, kinds)]
    docstrings = [ast.get_docstring(node) for node in nodes if ast.get_docstring(node)]
    assert len(docstrings) > 100
    held = [text for text in docstrings if text.splitlines()[0].encode() in bytecode]
    assert held == []


@pytest.mark.parametrize("words", ["--help", "auth --help", "auth login --help", "pod cp --help"])
def test_help_is_whole_without_docstrings(words, installed, cli):
    assert run([installed.launcher] + words.split()) == (cli(*words.split()).out, "")


def test_what_is_loaded_is_left_out_of_later_searches_for_garbage(installed, home):
    """gc.freeze() is from 3.7 on; what it took away is no garbage, and collecting goes on."""
    look = (
        "print([gc.get_freeze_count() > 1000 if hasattr(gc, 'freeze') else True, gc.isenabled()])"
    )
    start = read(installed.lib + "/start.py").replace("podstack.run()", look)
    (home / "start.py").write_text(start.replace("__file__", repr(installed.lib + "/start.py")))
    out, _ = run([installed.python, "-I", "-S", "-B", str(home / "start.py")])
    assert out == "[True, True]\n"


@pytest.mark.skipif(not IS_ROOT, reason="shows the interpreters to root outside of any home")
@pytest.mark.parametrize(
    "version",
    [
        pytest.param(v, marks=() if v.startswith(("3.6.", "3.13.")) else pytest.mark.slow)
        for v in sorted(PYTHONS) if v != "system"
    ],
)  # fmt: skip
def test_every_python_runs_it_from_bytecode(version, tmp_path):
    need("unshare", "mount", "strace")
    machine = Machine(str(tmp_path / "machine"))
    folder = os.path.dirname(os.path.dirname(PYTHONS[version]))
    script = (
        "mount -t tmpfs -o mode=755 none /mnt && mkdir /mnt/python &&"
        "mount --bind %s /mnt/python &&"
        "sh %s --prefix %s/p && strace -f -o trace -e trace=openat,open p/bin/podstack version"
    )
    done = machine.run(
        "unshare", "-m", "sh", "-c", script % (folder, SCRIPT, machine.home),
        PATH="/mnt/python/bin:/usr/bin:/bin",
    )  # fmt: skip
    assert "(python %s, " % version in done.out
    assert 'podstack.py"' not in read(machine.home + "/trace")


def test_from_a_checkout_it_works_too(podstack_process):
    assert podstack_process("--version", python=sys.executable).out.startswith("podstack ")

"""What every test stands on: a home of its own, a local Podstack, and podstack in three forms.

`cli` runs the program in this process and is the quickest; `podstack_process` runs it as a user's
shell would; `terminal` runs it on a real terminal. HTTP is never faked: all three talk to `api`.
"""

import glob
import importlib.machinery
import importlib.util
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

TESTS = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(TESTS)
PODSTACK = os.path.join(CHECKOUT, "podstack.py")
USER = "psk_sandbox_user"

sys.path.insert(0, TESTS)
if "podstack" not in sys.modules:
    spec = importlib.util.spec_from_file_location("podstack", PODSTACK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["podstack"] = module
    spec.loader.exec_module(module)

from sandbox import Sandbox  # noqa: E402

import podstack  # noqa: E402

# A shell lets what it runs in the background ignore Ctrl-C, and so would everything started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def find_pythons():
    """Every interpreter from 3.6 on that is installed here, as {version: path}."""
    found = {}
    for path in glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")):
        version = path.split(os.sep)[-3]
        if tuple(map(int, re.findall(r"\d+", version)[:2])) >= (3, 6):
            found[version] = path
    if os.path.exists("/usr/bin/python3"):
        found["system"] = "/usr/bin/python3"
    return found or {"this": sys.executable}


PYTHONS = find_pythons()  # before HOME is another
EVERYBODYS_PYTHON = PYTHONS.get("system", sys.executable)

# What a developer's or CI's environment may hold that a test must not see.
FOREIGN = re.compile(
    r"PODSTACK_|GITHUB_|GITLAB_|JENKINS_|XDG_|SSH_|DBUS_|WSL|(?:https?|all|no)_proxy$|"
    r"(?:CI|BROWSER|DISPLAY|WAYLAND_DISPLAY|TERM|NO_COLOR|SSL_CERT_FILE|SSL_CERT_DIR|COLUMNS|"
    r"PYTHON\w*|container|KUBERNETES_SERVICE_HOST|LANG|LC_\w+)$",
    re.IGNORECASE,
)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: a test of many seconds; runs in CI and with --all")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--all") or IN_CI:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


IN_CI = os.environ.get("CI") == "true"
skipped = []


def pytest_runtest_logreport(report):
    if report.skipped:
        skipped.append(report.nodeid)


def pytest_sessionfinish(session, exitstatus):
    """In CI every part that the tests drive is there: a skip is a failure."""
    if IN_CI and skipped and exitstatus == 0:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    if IN_CI and skipped:
        terminalreporter.write_line("skipped in CI: " + ", ".join(skipped))


def need(*programs):
    """Skip the test, with the reason, where a real part that it drives is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip("%s is not installed" % program)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A new empty home, the current directory, and an environment without surprises."""
    for name in list(os.environ):
        if FOREIGN.match(name):
            monkeypatch.delenv(name)
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("USERPROFILE", str(path))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def config(home):
    """The config file's path (a pathlib.Path); nothing is there yet."""
    (home / ".podstack").mkdir(mode=0o700)
    return home / ".podstack" / "config.yaml"


@pytest.fixture
def api(monkeypatch):
    """A local Podstack of this test's own; PODSTACK_API_ENDPOINT names it.

    Trouble that a test scripts must happen, and every route asked for must exist.
    """
    with Sandbox() as server:
        monkeypatch.setenv("PODSTACK_API_ENDPOINT", server.url)
        yield server
        assert server.unused() == []
        assert server.unknown == []


class Stream(io.TextIOWrapper):
    """A text stream over bytes that may claim to be a terminal."""

    def __init__(self, data=b"", tty=False):
        super().__init__(io.BytesIO(data), encoding="utf-8", newline="\n", write_through=True)
        self.tty = tty

    def isatty(self):
        return self.tty

    @property
    def text(self):
        return self.buffer.getvalue().decode("utf-8")


class Result:
    """How a run ended: exit `code`, and what it wrote: `out` and `err`."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        """The first line on stderr that tells of a failure."""
        lines = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        return lines[0] if lines else ""

    def __repr__(self):
        return "exit %s\n--- stdout\n%s--- stderr\n%s" % (self.code, self.out, self.err)


@pytest.fixture
def cli(home):
    """`cli("auth", "status")` runs podstack in this process; options:

    `stdin` text, `tty` (all streams are terminals), `env` (added; None takes a name away), `code`
    (expected; None: any), and any keyword of App: now, sleep, platform.
    """

    def run(*argv, stdin="", tty=False, env=None, code=0, **world):
        environ = dict(os.environ)
        for name, value in (env or {}).items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        out, err = Stream(tty=tty), Stream(tty=tty)
        app = podstack.App(
            stdin=Stream(stdin.encode("utf-8"), tty),
            stdout=out,
            stderr=err,
            environ=environ,
            home=environ.get("HOME"),
            **world,
        )
        got = podstack.main(list(argv), app)
        result = Result(got, out.text, err.text)
        assert code is None or got == code, result
        assert "--debug" in argv or "Traceback" not in result.err, result
        return result

    return run


@pytest.fixture
def podstack_process(home):
    """`podstack_process("auth", "status")` runs podstack.py as a process of its own; options:

    `python` (an interpreter), `stdin` (bytes), `env` (added; None takes a name away), `code`
    (expected; None: any), `timeout` (seconds).
    """

    def run(*argv, python=sys.executable, stdin=b"", env=None, code=0, timeout=60):
        environ = dict(os.environ)
        for name, value in (env or {}).items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        done = subprocess.run(
            [python, "-B", PODSTACK] + list(argv), input=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environ, timeout=timeout,
        )  # fmt: skip
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code is None or result.code == code, result
        assert "--debug" in argv or "Traceback" not in result.err, result
        return result

    return run


@pytest.fixture
def oracle():
    """Another reader of YAML, with every scalar as text and our None for its unquoted nulls."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

    def build(node):
        if isinstance(node, yaml.MappingNode):
            return {build_key(key): build(value) for key, value in node.value}
        if isinstance(node, yaml.SequenceNode):
            return [build(item) for item in node.value]
        is_null = node.style is None and node.value in ("", "~", "null", "Null", "NULL")
        return None if is_null else node.value

    def build_key(node):
        assert isinstance(node, yaml.ScalarNode)
        return node.value

    def read(text):
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return None if node is None else build(node)

    return read


@pytest.fixture(scope="session")
def installed():
    """A compiled copy of the program that every user of this machine can start; its argv."""
    folder = tempfile.mkdtemp(prefix="podstack-")
    module, start = os.path.join(folder, "podstack.py"), os.path.join(folder, "start.py")
    shutil.copyfile(PODSTACK, module)
    with open(start, "w") as stream:
        stream.write(
            "import sys\nsys.path.insert(0, %r)\nimport podstack\n\npodstack.run()\n" % folder
        )
    subprocess.check_call([EVERYBODYS_PYTHON, "-m", "py_compile", module])
    subprocess.check_call(["chmod", "-R", "a+rX", folder])
    yield [EVERYBODYS_PYTHON, "-I", "-S", "-B", start]
    shutil.rmtree(folder)


class Terminal:
    """A program on a real terminal: type into it, wait for what it shows."""

    def __init__(self, argv, env, size=(24, 80)):
        self.shown = ""
        self.code = None
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                os.execve(argv[0], argv, env)
            finally:
                os._exit(127)
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def read(self, seconds):
        """Take what has arrived within `seconds`; False at the end of the program."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux: the program has closed its side
            return False
        self.shown += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, pattern, timeout=20):
        """Wait until what is shown matches a regular expression; returns the match."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.shown)
            if found:
                return found
            left = deadline - time.monotonic()
            if left <= 0 or not self.read(left):
                found = re.search(pattern, self.shown)
                assert found, "never shown: %s\n--- the screen so far\n%s" % (pattern, self.shown)
                return found

    def type(self, text):
        os.write(self.master, text.encode("utf-8"))

    def end(self, timeout=20):
        """Wait for the program's end and return its exit code."""
        deadline = time.monotonic() + timeout
        while self.read(max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                self.close()
                raise AssertionError("still running\n--- the screen so far\n%s" % self.shown)
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        self.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return self.code

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None
        if self.master is not None:
            os.close(self.master)
            self.master = None


@pytest.fixture
def terminal(home):
    """`terminal("auth", "login")` starts podstack on a real terminal and returns a `Terminal`."""
    opened = []

    def start(*argv, python=sys.executable, env=None, program=None, size=(24, 80)):
        environ = dict(os.environ, TERM="xterm")
        for name, value in (env or {}).items():
            environ.pop(name, None)
            if value is not None:
                environ[name] = value
        words = program or [python, "-B", PODSTACK]
        opened.append(Terminal(list(words) + list(argv), environ, size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()

"""For the tests of signing in: a login that waits, in this process or in one of its own."""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

from conftest import PODSTACK, Stream

import podstack

PATIENCE = 30
ADDRESS = re.compile(r"^  (https?://\S+)$", re.MULTILINE)


def eventually(condition, what):
    """Wait until `condition()` is true and return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.01)


class Typed(io.TextIOWrapper):
    """A keyboard: what `type` is given arrives as bytes, line by line, until `close_input`."""

    def __init__(self):
        reader, self.writer = os.pipe()
        super().__init__(os.fdopen(reader, "rb"), encoding="utf-8")

    def isatty(self):
        return True

    def type(self, data):
        os.write(self.writer, data)

    def close_input(self):
        os.close(self.writer)


class Waiting:
    """What both forms of a waiting login have: the address that it shows."""

    def shows(self, pattern):
        """Wait until stderr matches; returns the match."""
        pattern = re.compile(pattern, re.MULTILINE)
        return eventually(
            lambda: pattern.search(self.err), lambda: "never shown: %s\n%s" % (pattern, self.err)
        )

    @property
    def url(self):
        return self.shows(ADDRESS.pattern).group(1)

    def asked(self):
        """The parameters of the authorization request, each once."""
        pairs = urllib.parse.parse_qsl(urllib.parse.urlsplit(self.url).query)
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    @property
    def port(self):
        return urllib.parse.urlsplit(self.asked()["redirect_uri"]).port


class Login(Waiting):
    """`podstack ARGV` in a thread of this process."""

    def __init__(self, *argv, tty=False, stdin=None, environ=None, **world):
        self.out, self.stderr = Stream(tty=tty), Stream(tty=tty)
        environ = dict(os.environ if environ is None else environ)
        self.app = podstack.App(
            stdin=stdin or Stream(), stdout=self.out, stderr=self.stderr,
            environ=environ, home=environ["HOME"], **world
        )  # fmt: skip
        self.code = None
        self.thread = threading.Thread(target=self.work, args=(list(argv),), daemon=True)
        self.thread.start()

    def work(self, argv):
        self.code = podstack.main(argv, self.app)

    @property
    def err(self):
        return self.stderr.text

    @property
    def waits(self):
        return self.thread.is_alive()

    def end(self, code=0):
        """Wait for its end, which must be this exit code; returns stderr."""
        self.thread.join(PATIENCE)
        assert not self.waits, "still running\n" + self.err
        assert self.code == code, self.err
        assert "Traceback" not in self.err
        return self.err


class LoginProcess(Waiting):
    """`podstack ARGV` as a process of its own, to interrupt."""

    def __init__(self, *argv, env=None, python=sys.executable):
        self.err = ""
        self.process = subprocess.Popen(
            [python, "-B", PODSTACK] + list(argv), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, **(env or {})),
        )  # fmt: skip
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in io.TextIOWrapper(self.process.stderr, encoding="utf-8"):
            self.err += line

    def interrupt(self):
        """Press Ctrl-C; returns the exit code and how many seconds it took to end."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        return self.end(), time.monotonic() - started

    def end(self):
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        assert "Traceback" not in self.err
        return code

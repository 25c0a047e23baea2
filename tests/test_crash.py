"""Killed at any system call, refused by the disk at any: the config file is the old or the new one.

strace stops the program at the call that is its turn, or makes that call fail.
"""

import collections
import errno
import os
import re
import shutil
import signal
import subprocess

import pytest
from conftest import USER, need

import podstack

OLD = "# mine\nauth:\n  token: psk_old_token\ndefaults:\n  project: old\n"
Call = collections.namedtuple("Call", "name turn text")


class Scene:
    """A command and the home it starts in, to be played again and again."""

    def __init__(self, argv, program, home, text):
        need("strace")
        self.argv, self.program, self.text = argv, program, text
        self.home, self.folder = str(home), str(home / ".podstack")
        self.config = os.path.join(self.folder, "config.yaml")
        self.log = str(home / "strace")

    def set(self):
        """Put everything back to the start."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.text is not None:
            os.mkdir(self.folder, 0o700)
            with open(self.config, "w") as stream:
                stream.write(self.text)
            os.chmod(self.config, 0o600)

    def play(self, *options):
        """Run the command under strace; returns its exit code and what it said."""
        self.set()
        done = subprocess.run(
            ["strace", "-f", "-qq", "-y", "-o", self.log] + list(options)
            + self.program + list(self.argv),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stderr.decode()

    def calls(self):
        """Return each system call of an undisturbed run, with its turn among its namesakes."""
        code, err = self.play("-e", "signal=none")
        assert code == 0, err
        self.new = self.found
        turns, calls = collections.Counter(), []
        with open(self.log) as stream:
            lines = [line.split(None, 1) for line in stream]
        for pid, text in lines:
            name = text.split("(")[0]
            if pid == lines[0][0] and re.match(r"\w+$", name):
                turns[name] += 1
                calls.append(Call(name, turns[name], text))
        return calls[1:]  # the first is the program's start itself

    @property
    def found(self):
        """The config file's text; None where there is none."""
        if not os.path.exists(self.config):
            return None
        with open(self.config) as stream:
            return stream.read()

    @property
    def names(self):
        return sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []

    @property
    def open_to_others(self):
        """What in the config's directory somebody else could read, leftovers included."""
        paths = [os.path.join(self.folder, name) for name in self.names]
        return [path for path in paths if os.lstat(path).st_mode & 0o077]

    def touches(self, call):
        return self.folder in call.text


SCENES = {
    "a setting": (["config", "set", "defaults.project", "new"], OLD),
    "the first setting": (["config", "set", "defaults.project", "new"], None),
    "a login": (["auth", "login", "--token", USER, "--no-keyring"], OLD),
}


@pytest.fixture(params=list(SCENES))
def scene(request, installed, home, api):
    argv, text = SCENES[request.param]
    return Scene(argv, installed, home, text)


def check_next_command(scene, cli):
    """Check that the file is whole, that the next change works, and that it leaves no trace."""
    before = scene.found
    project = {scene.new: "new" if "set" in scene.argv else "old", OLD: "old", None: ""}[before]
    assert cli("config", "get", "defaults.project", code=None).out.strip() == project
    cli("config", "set", "defaults.output", "json")
    assert scene.found == podstack.yaml_set(before or "", ("defaults", "output"), "json")
    assert scene.names == [".lock", "config.yaml"]


def check_kill(scene, cli, call):
    code, err = scene.play("-e", "inject=%s:signal=KILL:when=%d" % (call.name, call.turn))
    assert code in (0, -signal.SIGKILL), (call, err)
    assert scene.found in ((scene.new,) if code == 0 else (scene.text, scene.new)), call
    assert scene.open_to_others == [], call
    check_next_command(scene, cli)
    return code != 0


def test_killed_where_it_touches_the_files(scene, cli):
    """A sample of the next test, for every day."""
    calls = [call for call in scene.calls() if scene.touches(call)]
    chosen = [call for call in calls if call.name not in ("newfstatat", "lseek", "close", "read")]
    assert {"openat", "write", "fsync", "rename", "flock"} <= {call.name for call in chosen}
    kills = [check_kill(scene, cli, call) for call in chosen]
    assert all(kills)


@pytest.mark.slow
def test_killed_at_every_system_call(scene, cli):
    calls = scene.calls()
    assert len(calls) > 200
    kills = sum(check_kill(scene, cli, call) for call in calls)
    assert kills > 0.9 * len(calls)  # memory calls vary a little from run to run
    print("%d calls, killed at %d" % (len(calls), kills))


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["ENOSPC", "EIO"])
def test_each_call_that_touches_the_files_fails(scene, cli, trouble):
    """A failure is told with its path and reason and changes nothing; done means done."""
    calls = scene.calls()
    renamed = max(i for i, call in enumerate(calls) if call.name == "rename")  # not the trial
    reason = os.strerror(getattr(errno, trouble))
    failures = 0
    for place, call in enumerate(calls):
        if not scene.touches(call):
            continue
        inject = "inject=%s:error=%s:when=%d" % (call.name, trouble, call.turn)
        code, err = scene.play("-e", inject)
        assert "Traceback" not in err and "a bug in" not in err, (call, err)
        assert USER not in err and "psk_old_token" not in err, (call, err)
        assert [name for name in scene.names if name.endswith(".tmp")] == [], (call, err)
        if code == 0:
            assert scene.found == scene.new, (call, err)
        else:
            failures += 1
            told = r"Error: Cannot (read|write|lock) %s/(config.yaml|\.lock): %s$" % (
                scene.folder, reason)  # fmt: skip
            assert code == 1 and re.search(told, err, re.MULTILINE), (call, code, err)
            assert scene.found == (scene.text if place <= renamed else scene.new), (call, err)
        check_next_command(scene, cli)
    assert failures >= 8


@pytest.mark.slow
def test_interrupted_where_it_touches_the_files(scene, cli):
    """Ctrl-C at each: nothing half-done stays, not even until the next change."""
    ends = set()
    for call in scene.calls():
        if scene.touches(call) and call.name not in ("newfstatat", "lseek", "read"):
            code, err = scene.play("-e", "inject=%s:signal=INT:when=%d" % (call.name, call.turn))
            assert code in (0, 130) and "Traceback" not in err, (call, err)
            assert scene.found in ((scene.new,) if code == 0 else (scene.text, scene.new)), call
            assert [name for name in scene.names if name.endswith(".tmp")] == [], call
            check_next_command(scene, cli)
            ends.add((code, scene.found == scene.new))
    assert 130 in {code for code, _ in ends}


def test_a_disk_that_keeps_less_than_it_says_changes_nothing(scene, cli):
    call = next(call for call in scene.calls() if call.name == "write" and ".tmp>" in call.text)
    size = int(call.text.split("= ")[-1])
    code, err = scene.play("-e", "inject=write:retval=%d:when=%d" % (size, call.turn))
    assert code == 1, err
    told = "Error: Cannot write %s: it does not read back as written\n" % scene.config
    assert told in err
    assert scene.found == scene.text
    check_next_command(scene, cli)

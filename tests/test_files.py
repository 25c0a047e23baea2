"""The config file on the disk: who may read it, what a write leaves, what stands in its way.

Where root could do everything the program runs as an ordinary user; file systems that are full,
read-only or odd are real ones, mounted for one process alone.
"""

import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import Result, need

import podstack

IS_ROOT = os.geteuid() == 0
NOBODY = 65534
TOKEN = "psk_very_secret_token"
WITH_TOKEN = "auth:\n  token: %s\n" % TOKEN


class Ordinary:
    """An ordinary user with a home; `run` starts podstack there, `sudo` the same as root."""

    def __init__(self, argv, home):
        self.argv, self.home = argv, home
        self.folder = os.path.join(home, ".podstack")
        self.config = os.path.join(self.folder, "config.yaml")
        self.uid = NOBODY if IS_ROOT else os.geteuid()
        drop = ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups"]
        self.drop = drop if IS_ROOT else []

    def environment(self, env):
        plain = {"HOME": self.home, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        return dict(plain, **(env or {}))

    def start(self, *argv, wrap=(), env=None, umask=0o022):
        """Start podstack as this user; `wrap` is a command line to start it through."""
        return subprocess.Popen(
            list(wrap) + self.argv + list(argv), env=self.environment(env), cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: os.umask(umask),
        )  # fmt: skip

    def finish(self, process, code):
        out, err = process.communicate(timeout=60)
        result = Result(process.returncode, out.decode(), err.decode())
        assert result.code == code, result
        assert "Traceback" not in result.err and "a bug in" not in result.err, result
        return result

    def run(self, *argv, code=0, wrap=(), **options):
        return self.finish(self.start(*argv, wrap=list(wrap) + self.drop, **options), code)

    def sudo(self, *argv, code=0, **options):
        return self.finish(self.start(*argv, **options), code)

    def own(self, path, text=None, mode=0o600):
        """Make a file (or, without text, a directory) of this user's."""
        if text is None:
            os.mkdir(path, mode)
        else:
            with open(path, "w") as stream:
                stream.write(text)
        os.chmod(path, mode)
        if IS_ROOT:
            os.chown(path, NOBODY, NOBODY)
        return path


@pytest.fixture
def user(installed):
    need("setpriv")
    folder = tempfile.mkdtemp(prefix="podstack-")
    os.chmod(folder, 0o755)
    person = Ordinary(installed, os.path.join(folder, "home"))
    person.own(person.home, mode=0o755)
    yield person
    subprocess.call(["chattr", "-R", "-i", folder], stderr=subprocess.DEVNULL)
    subprocess.call(["chmod", "-R", "u+rwX", folder])
    shutil.rmtree(folder)


@pytest.fixture
def root():
    if not IS_ROOT:
        pytest.skip("only root can be another user")


@pytest.fixture
def mounted(root):
    """`mounted("mount ...")` is a command line prefix: what follows it sees that mount alone."""
    need("unshare", "mount")
    if subprocess.call(["unshare", "-m", "true"], stderr=subprocess.DEVNULL):
        pytest.skip("mounting is not permitted here")
    private = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
    return lambda script: private + ['set -e; %s; exec "$@"' % script, "sh"]


MEND = "Mend it, or set PODSTACK_CONFIG to another file"


def failure(message, hint=MEND):
    return "Error: %s\n%s\n" % (message, hint)


def mode_of(path):
    return stat.S_IMODE(os.lstat(str(path)).st_mode)


def content_of(path):
    with open(str(path), encoding="utf-8", newline="") as stream:
        return stream.read()


def names_in(folder):
    return sorted(os.listdir(str(folder)))


# -- what a write leaves


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_what_is_made_is_private_whatever_the_umask(user, umask):
    user.run("config", "set", "defaults.project", "a", umask=umask)
    assert names_in(user.folder) == [".lock", "config.yaml"]
    assert mode_of(user.folder) == 0o700
    assert mode_of(user.config) == mode_of(os.path.join(user.folder, ".lock")) == 0o600
    user.run("config", "set", "defaults.project", "b", umask=umask)
    assert content_of(user.config) == "defaults:\n  project: b\n"
    assert mode_of(user.config) == 0o600


def test_several_missing_directories_are_made_private(user):
    deep = os.path.join(user.home, "a", "b", "config.yaml")
    user.run("config", "set", "defaults.project", "x", env={"PODSTACK_CONFIG": deep}, umask=0)
    for folder in (os.path.dirname(deep), os.path.dirname(os.path.dirname(deep))):
        assert mode_of(folder) == 0o700
    assert content_of(deep) == "defaults:\n  project: x\n"


def test_a_directory_that_was_there_keeps_its_mode(user):
    user.own(user.folder, mode=0o750)
    user.own(user.config, "defaults:\n  project: a\n", mode=0o644)
    user.run("config", "set", "defaults.project", "b")
    assert mode_of(user.folder) == 0o750
    assert mode_of(user.config) == 0o600


TRACED = "trace=openat,write,fsync,rename,renameat2,unlink,link,symlink,truncate,ftruncate,fchmod"


def traced(user, *argv):
    """Return the system calls of a run that touch the config's directory, in order."""
    need("strace")
    log = os.path.join(os.path.dirname(user.home), "strace")
    user.run(*argv, wrap=["strace", "-f", "-y", "-o", log, "-e", TRACED, "-e", "signal=none"])
    lines = [line.split(" ", 1)[1].strip() for line in content_of(log).splitlines()]
    return [
        re.sub(r"\.[0-9a-f]{12}\.tmp", ".RANDOM.tmp", one) for one in lines if user.folder in one
    ]


def test_a_write_is_flushed_before_it_takes_the_files_place_and_the_directory_after(user):
    user.own(user.folder, mode=0o700)
    user.own(user.config, "defaults:\n  project: a\n")
    calls = traced(user, "config", "set", "defaults.project", "b")
    temporary = user.folder + "/.config.yaml.RANDOM.tmp"
    short = [call.split("(")[0] for call in calls if temporary in call or "fsync" in call]
    assert short == ["openat", "fchmod", "write", "fsync", "rename", "fsync"]
    created = next(call for call in calls if call.startswith("openat") and temporary in call)
    assert "O_CREAT|O_EXCL|O_CLOEXEC, 0600" in created
    assert 'rename("%s", "%s") = 0' % (temporary, user.config) in calls
    assert calls.index('rename("%s", "%s") = 0' % (temporary, user.config)) < len(calls) - 1
    assert "<%s>)" % user.folder in [call for call in calls if call.startswith("fsync")][1]
    assert not [call for call in calls if "config.yaml>" in call and call.startswith("write")]


def test_nothing_is_written_where_nothing_changes(user):
    user.own(user.folder, mode=0o700)
    user.own(user.config, "defaults: {project: a}  # mine\n")
    calls = traced(user, "config", "set", "defaults.project", "a")
    assert [call for call in calls if call.startswith(("rename", "fsync"))] == []


def test_an_edit_keeps_every_other_byte(cli, config):
    text = "\ufeff# mine\r\nauth:   # t\r\n    token:  'x y'  # keep\r\n\r\n"
    text += "defaults: {output: json}\r\n# end"
    config.write_bytes(text.encode("utf-8"))
    cli("config", "set", "defaults.output", "yaml")
    assert config.read_bytes().decode("utf-8") == text.replace("json", "yaml")
    cli("config", "set", "api.timeout", "5")
    after = text.replace("json", "yaml") + '\r\napi:\r\n  timeout: "5"\r\n'
    assert config.read_bytes().decode("utf-8") == after


def test_a_write_that_would_make_the_file_too_large_is_refused(cli, config):
    text = "# %s\ndefaults:\n  project: a\n" % ("x" * (podstack.MAX_CONFIG_BYTES - 30))
    config.write_text(text)
    result = cli("config", "set", "defaults.project", "b" * 100, code=1)
    assert result.err == failure("Cannot write %s: it would be larger than 1 MiB" % config)
    assert config.read_text() == text
    assert names_in(config.parent) == [".lock", "config.yaml"]


# -- symbolic links


def test_a_symbolic_link_is_followed_and_stays(cli, config, home):
    target = home / "dotfiles" / "podstack.yaml"
    target.parent.mkdir()
    target.write_text("defaults:\n  project: a\n")
    between = home / "between"
    between.symlink_to("dotfiles/podstack.yaml")
    config.symlink_to("../between")
    cli("config", "set", "defaults.project", "b")
    assert os.readlink(str(config)) == "../between"
    assert os.readlink(str(between)) == "dotfiles/podstack.yaml"
    assert target.read_text() == "defaults:\n  project: b\n"
    assert names_in(target.parent) == [".lock", "podstack.yaml"]
    assert names_in(config.parent) == ["config.yaml"]


def test_a_link_to_a_file_that_is_not_there_yet_makes_it(cli, config, home):
    (home / "dotfiles").mkdir()
    config.symlink_to(home / "dotfiles" / "podstack.yaml")
    cli("config", "set", "defaults.project", "b")
    assert (home / "dotfiles" / "podstack.yaml").read_text() == "defaults:\n  project: b\n"
    assert config.is_symlink()


def test_a_link_into_a_missing_directory_is_an_error(cli, config, home):
    config.symlink_to(home / "missing" / "podstack.yaml")
    result = cli("config", "set", "defaults.project", "b", code=1)
    assert result.err == failure(
        "Cannot write %s: No such file or directory" % config,
        "Create the directory that it links to, or remove the link: ls -l %s" % config,
    )
    assert config.is_symlink()
    assert names_in(home) == [".podstack"]


def test_a_directory_that_links_to_nowhere_is_an_error(cli, home):
    folder = home / ".podstack"
    folder.symlink_to(home / "disk" / "podstack")
    result = cli(*SET, code=1)
    assert result.err == failure(
        "Cannot write %s: No such file or directory" % (folder / "config.yaml"),
        "Create the directory that it links to, or remove the link: ls -l %s"
        % (folder / "config.yaml"),
    )
    assert names_in(home) == [".podstack"]
    (home / "disk" / "podstack").mkdir(parents=True)
    cli(*SET)
    assert content_of(home / "disk" / "podstack" / "config.yaml") == OLD.replace("old", "new")


def test_a_link_to_itself_is_an_error_and_stays(cli, config, home):
    config.symlink_to("config.yaml")
    for argv in (("config", "set", "defaults.project", "b"), ("config", "get", "defaults.project")):
        result = cli(*argv, code=1)
        assert result.err == failure(
            "Cannot read %s: Too many levels of symbolic links" % config,
            "Mend the symbolic link: ls -l %s" % config,
        )
    assert os.readlink(str(config)) == "config.yaml"


def test_a_link_that_becomes_a_loop_before_the_write_is_not_replaced(config):
    config.symlink_to("config.yaml")
    with pytest.raises(podstack.ConfigError) as caught:
        podstack.write_file(None, str(config), OLD)
    assert caught.value.message == "Cannot write %s: Too many levels of symbolic links" % config
    assert names_in(config.parent) == ["config.yaml"] and config.is_symlink()


def test_a_link_to_another_file_system_is_followed(user, mounted):
    user.own(user.folder, mode=0o700)
    disk = user.own(os.path.join(user.home, "disk"), mode=0o700)
    os.symlink(os.path.join(disk, "podstack.yaml"), user.config)
    os.lchown(user.config, NOBODY, NOBODY)
    inside = mounted("mount -t tmpfs -o uid=%d,mode=0700 none %s" % (NOBODY, disk))
    show = ["sh", "-c", '"$@" && cat %s/podstack.yaml' % disk, "sh"]
    result = user.run("config", "set", "defaults.project", "b", wrap=inside + show)
    assert result.out == "defaults:\n  project: b\n"
    assert os.path.islink(user.config)


# -- what stands in the way of a write


def assert_nothing_changed(user, text):
    assert content_of(user.config) == text
    assert [name for name in names_in(user.folder) if name.endswith(".tmp")] == []


OLD = "defaults:\n  project: old\n"
SET = ("config", "set", "defaults.project", "new")


@pytest.fixture
def settled(user):
    """A user with a config file."""
    user.own(user.folder, mode=0o700)
    user.own(user.config, OLD)
    return user


def test_a_directory_that_cannot_be_written(settled):
    os.chmod(settled.folder, 0o500)
    result = settled.run(*SET, code=1)
    assert result.err == failure(
        "Cannot write %s: Permission denied" % settled.config,
        "Check owner and mode: ls -ld %s %s" % (settled.folder, settled.config),
    )
    assert_nothing_changed(settled, OLD)


def test_a_directory_that_cannot_be_listed_is_no_obstacle(settled):
    os.chmod(settled.folder, 0o300)
    settled.run(*SET)
    assert content_of(settled.config) == OLD.replace("old", "new")


def test_a_home_that_cannot_be_written(user):
    os.chmod(user.home, 0o500)
    result = user.run(*SET, code=1)
    assert result.err == failure(
        "Cannot write %s: Permission denied" % user.config,
        "Check owner and mode: ls -ld %s %s" % (user.folder, user.config),
    )
    assert names_in(user.home) == []


def test_a_read_only_file_system(settled, mounted):
    folder = settled.folder
    readonly = mounted("mount --bind %s %s; mount -o remount,bind,ro %s" % (folder, folder, folder))
    result = settled.run(*SET, wrap=readonly, code=1)
    assert result.err == (
        "Error: Cannot write %s: Read-only file system\n"
        "Set PODSTACK_CONFIG to a path that can be written\n" % settled.config
    )
    assert settled.run("config", "get", "defaults.project", wrap=readonly).out == "old\n"
    assert_nothing_changed(settled, OLD)


def test_a_file_that_is_mounted_by_itself(settled, mounted):
    """As in a container that is given one file: it can neither be replaced nor is it truncated."""
    alone = mounted("mount --bind %s %s" % (settled.config, settled.config))
    result = settled.run(*SET, wrap=alone, code=1)
    assert result.err == (
        "Error: Cannot write %s: Device or resource busy\n"
        "It is mounted as a single file: mount its directory instead\n" % settled.config
    )
    assert_nothing_changed(settled, OLD)


@pytest.mark.parametrize("what", ["config", "folder"])
def test_an_immutable_file_or_directory(settled, root, what):
    need("chattr")
    if subprocess.call(["chattr", "+i", getattr(settled, what)], stderr=subprocess.DEVNULL):
        pytest.skip("this file system has no attributes")
    result = settled.run(*SET, code=1)
    assert result.err == failure(
        "Cannot write %s: Operation not permitted" % settled.config,
        "Check the attributes: lsattr -d %s %s" % (settled.folder, settled.config),
    )
    assert_nothing_changed(settled, OLD)


def test_a_full_disk(settled, mounted):
    """The lock's number still fits, the new file does not; the second time neither does."""
    folder = settled.folder
    script = (
        "mount -t tmpfs -o size=32k,uid=%d,mode=0700 none %s; "
        "printf 'defaults:\\n  project: old\\n' > %s; chown %d %s; chmod 600 %s; "
        "dd if=/dev/zero of=%s/big bs=4k count=%d status=none"
    )
    show = ["sh", "-c", '"$@"; code=$?; cd %s; ls -A; cat config.yaml; exit $code' % folder, "sh"]
    for blocks, names in ((6, ".lock\nbig\nconfig.yaml\n"), (7, ".lock\nbig\nconfig.yaml\n")):
        full = mounted(script % (NOBODY, folder, settled.config, NOBODY, settled.config,
                                 settled.config, folder, blocks))  # fmt: skip
        result = settled.run(*SET, wrap=full + show, code=1)
        assert result.err == (
            "Error: Cannot write %s: No space left on device\n"
            "Free some space on that disk, then try again\n" % settled.config
        )
        assert result.out == names + OLD


# -- what is no config file of ours


def test_a_pipe_does_not_hang(cli, config):
    os.mkfifo(str(config))
    for argv in (SET, ("config", "get", "defaults.project"), ("auth", "token")):
        result = cli(*argv, code=1)
        assert result.err == failure("Cannot read %s: it is not a regular file" % config)
    assert stat.S_ISFIFO(os.lstat(str(config)).st_mode)


@pytest.mark.parametrize(
    "path, problem",
    [
        ("/dev/zero", "it is not a regular file"),
        ("/dev/null", "it is not a regular file"),
        ("/proc", "Is a directory"),
        (".", "Is a directory"),
    ],
)
def test_what_is_no_file_is_refused(cli, home, path, problem):
    result = cli(*SET, env={"PODSTACK_CONFIG": path}, code=1)
    path = str(home) if path == "." else path
    assert result.err == failure("Cannot read %s: %s" % (path, problem))


def test_a_path_through_a_file_is_refused(cli, home):
    (home / "file").write_text("")
    path = str(home / "file" / "config.yaml")
    result = cli(*SET, env={"PODSTACK_CONFIG": path}, code=1)
    assert result.err == failure("Cannot read %s: Not a directory" % path)


def test_a_file_above_one_mebibyte_is_refused(cli, config):
    text = "#" * (podstack.MAX_CONFIG_BYTES - 1) + "\n"
    config.write_text(text)
    assert cli("config", "get", "defaults.output").out == "table\n"
    config.write_text("#" + text)
    for argv in (SET, ("config", "get", "defaults.output")):
        result = cli(*argv, code=1)
        assert result.err == failure("Cannot read %s: it is larger than 1 MiB" % config)
    assert config.read_text() == "#" + text


def test_a_file_that_cannot_be_read_is_never_overwritten(settled):
    os.chmod(settled.config, 0)
    for argv in (SET, ("config", "get", "defaults.project"), ("auth", "token")):
        result = settled.run(*argv, code=1)
        assert result.err == failure(
            "Cannot read %s: Permission denied" % settled.config,
            "Check owner and mode: ls -ld %s %s" % (settled.folder, settled.config),
        )
    result = settled.run("auth", "token", env={"PODSTACK_API_TOKEN": "psk_from_ci"})
    assert result.out == "psk_from_ci\n"
    assert result.err == "Warning: config file not used: Cannot read %s: Permission denied\n" % (
        settled.config
    )
    os.chmod(settled.config, 0o600)
    assert_nothing_changed(settled, OLD)


def test_a_file_of_somebody_else_is_refused(settled, root):
    os.chown(settled.config, 0, 0)
    os.chmod(settled.config, 0o666)
    for argv in (SET, ("config", "get", "defaults.project")):
        result = settled.run(*argv, code=1)
        assert result.err == (
            "Error: Cannot use %s: it belongs to another user (uid 0)\n"
            "Set PODSTACK_CONFIG to a file of your own\n" % settled.config
        )
    assert_nothing_changed(settled, OLD)


# -- root in somebody's home


def test_what_sudo_makes_in_a_home_belongs_to_its_owner(user, root):
    user.sudo("config", "set", "defaults.project", "a")
    for path in (user.folder, user.config, os.path.join(user.folder, ".lock")):
        assert (os.lstat(path).st_uid, os.lstat(path).st_gid) == (NOBODY, NOBODY)
    user.run("config", "set", "defaults.project", "b")
    user.sudo("config", "set", "defaults.output", "json")
    assert os.lstat(user.config).st_uid == NOBODY
    assert user.run("config", "get", "defaults.project").out == "b\n"


def test_a_file_in_roots_own_directory_keeps_its_owner(settled, root):
    os.chown(settled.folder, 0, 0)
    os.chmod(settled.folder, 0o755)
    settled.sudo(*SET)
    assert os.lstat(settled.config).st_uid == NOBODY
    assert settled.run("config", "get", "defaults.project").out == "new\n"


def test_as_root_no_planted_link_is_followed(settled, root):
    secret = os.path.join(os.path.dirname(settled.home), "root.yaml")
    with open(secret, "w") as stream:
        stream.write(OLD)
    os.remove(settled.config)
    os.symlink(secret, settled.config)
    os.lchown(settled.config, NOBODY, NOBODY)
    for argv in (SET, ("config", "get", "defaults.project")):
        result = settled.sudo(*argv, code=1)
        assert result.err == failure(
            "As root, the link %s is not followed: others may set it" % settled.config
        )
    assert content_of(secret) == OLD
    assert os.lstat(secret).st_uid == 0
    assert names_in(settled.folder) == ["config.yaml"]


@pytest.mark.parametrize("depth", [1, 2])
def test_as_root_no_planted_directory_link_is_followed(user, root, depth):
    outside = os.path.join(os.path.dirname(user.home), "outside")
    os.makedirs(os.path.join(outside, "sub"))
    link = os.path.join(user.home, "link")
    os.symlink(outside, link)
    path = os.path.join(link, *(["sub"] * (depth - 1) + ["config.yaml"]))
    result = user.sudo(*SET, env={"PODSTACK_CONFIG": path}, code=1)
    assert result.err == failure("As root, the link %s is not followed: others may set it" % link)
    assert names_in(outside) == ["sub"]
    assert names_in(os.path.join(outside, "sub")) == []


def test_as_root_a_link_in_a_directory_of_everybody_must_be_roots(user, root):
    everybody = os.path.join(os.path.dirname(user.home), "tmp")
    os.mkdir(everybody)
    os.chmod(everybody, 0o1777)
    link = os.path.join(everybody, "config.yaml")
    os.symlink(os.path.join(user.home, "x.yaml"), link)
    os.lchown(link, NOBODY, NOBODY)
    result = user.sudo(*SET, env={"PODSTACK_CONFIG": link}, code=1)
    assert result.err == failure("As root, the link %s is not followed: others may set it" % link)
    os.lchown(link, 0, 0)
    user.sudo(*SET, env={"PODSTACK_CONFIG": link})
    assert content_of(os.path.join(user.home, "x.yaml")) == OLD.replace("old", "new")


@pytest.mark.parametrize("mode, refused", [(0o1777, True), (0o775, True), (0o755, False)])
def test_as_root_a_file_that_somebody_laid_where_many_may_write_is_refused(
    user, root, mode, refused
):
    """Else root's token would be saved in it, and its owner could read that."""
    everybody = os.path.join(os.path.dirname(user.home), "tmp")
    os.mkdir(everybody)
    os.chmod(everybody, mode)
    path = os.path.join(everybody, "config.yaml")
    user.own(path, OLD, mode=0o644)
    for argv in (SET, ("config", "get", "defaults.project")):
        result = user.sudo(*argv, env={"PODSTACK_CONFIG": path}, code=int(refused))
        told = "Error: Cannot use %s: it belongs to another user (uid %d)\n" % (path, NOBODY)
        assert result.err.startswith(told) == refused
    assert (content_of(path) == OLD) == refused
    os.chown(path, 0, 0)
    user.sudo(*SET, env={"PODSTACK_CONFIG": path})


def test_as_root_a_directory_that_somebody_laid_where_many_may_write_is_refused(user, root):
    """Else what root makes in it would be its owner's."""
    everybody = os.path.join(os.path.dirname(user.home), "tmp")
    os.mkdir(everybody)
    os.chmod(everybody, 0o1777)
    planted = user.own(os.path.join(everybody, "podstack"), mode=0o755)
    for folders in ((), ("sub",)):
        path = os.path.join(planted, *folders, "config.yaml")
        result = user.sudo(*SET, env={"PODSTACK_CONFIG": path}, code=1)
        told = "As root, %s is not used: others may have laid it there" % planted
        assert result.err == failure(told)
    assert names_in(planted) == []


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "directory"])
def test_a_lock_that_is_no_plain_file_is_refused(settled, kind):
    lock = os.path.join(settled.folder, ".lock")
    victim = settled.own(os.path.join(settled.home, "victim"), "precious\n", mode=0o644)
    make = {"symbolic link": os.symlink, "hard link": os.link}.get(kind)
    if make:
        make(victim, lock)
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(lock)
        os.chown(lock, settled.uid, -1)
    told = {
        "symbolic link": failure(
            "Cannot lock %s: Too many levels of symbolic links" % lock,
            "Mend the symbolic link: ls -l %s" % lock,
        ),
        "directory": failure("Cannot lock %s: Is a directory" % lock),
    }
    other = "Error: %s is not a lock file of ours\nRemove it: %s\n" % (lock, lock)
    for run in (settled.run, settled.sudo):
        assert run(*SET, code=1).err == told.get(kind, other)
    assert content_of(victim) == "precious\n"
    assert os.lstat(victim).st_uid == settled.uid
    assert mode_of(victim) == 0o644
    assert_nothing_changed(settled, OLD)


# -- who can read a token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_token_that_others_can_read_draws_one_warning(cli, config, mode):
    config.write_text(WITH_TOKEN)
    config.chmod(mode)
    result = cli("auth", "token")
    assert result.out == TOKEN + "\n"
    assert result.err == "Warning: others can read %s: chmod 600 %s\n" % (config, config)
    assert mode_of(config) == mode
    assert cli(*SET).err.count("Warning") == 1
    assert mode_of(config) == 0o600
    assert cli("auth", "token").err == ""


def test_a_file_without_a_token_may_be_read_by_others(cli, config):
    config.write_text("# no token here\ndefaults:\n  project: a\n")
    config.chmod(0o644)
    assert cli("config", "get", "defaults.project").err == ""


def test_a_private_file_draws_no_warning(cli, config):
    config.write_text(WITH_TOKEN)
    config.chmod(0o600)
    assert cli("auth", "token").err == ""


@pytest.mark.parametrize("wsl, warned", [(None, True), ("Debian", False)])
def test_a_windows_drive_under_wsl_has_no_modes_to_warn_of(settled, mounted, wsl, warned):
    path = "/mnt/c/config.yaml"
    drive = mounted(
        "mount -t tmpfs none /mnt; mkdir /mnt/c; cp %s /mnt/c; chmod 777 %s; chown %d %s"
        % (settled.own(settled.home + "/config.yaml", WITH_TOKEN), path, NOBODY, path)
    )
    env = {"PODSTACK_CONFIG": path}
    result = settled.run("auth", "token", wrap=drive, env=dict(env, WSL_DISTRO_NAME=wsl or ""))
    assert result.out == TOKEN + "\n"
    assert ("others can read" in result.err) == warned


# -- what a killed writer left


def test_leftovers_are_swept_and_never_read(cli, config):
    config.write_text("defaults:\n  project: a\n")
    left = config.parent / ".config.yaml.0123456789ab.tmp"
    left.write_text("defaults:\n  project: from-a-leftover\n")
    others = [".other.yaml.0123456789ab.tmp", "config.yaml.tmp", ".config.yaml.swp", "notes.tmp"]
    for name in others:
        (config.parent / name).write_text("")
    assert cli("config", "get", "defaults.project").out == "a\n"
    cli("config", "set", "defaults.output", "json")
    assert names_in(config.parent) == sorted(others + [".lock", "config.yaml"])
    assert config.read_text() == "defaults:\n  project: a\n  output: json\n"


# -- the lock


@pytest.mark.slow
def test_a_hundred_processes_lose_nothing(user):
    running = [
        user.start("config", "set", "profiles.p%d.project" % number, "x%d" % number, wrap=user.drop)
        for number in range(100)
    ]
    for process in running:
        user.finish(process, 0)
    expected = {"p%d" % number: {"project": "x%d" % number} for number in range(100)}
    assert podstack.yaml_load(content_of(user.config)) == {"profiles": expected}
    assert names_in(user.folder) == [".lock", "config.yaml"]


def test_a_dozen_processes_in_a_new_home_lose_nothing(user):
    names = ["p%d" % number for number in range(12)]
    running = [user.start("config", "set", "profiles.%s.project" % name, name, wrap=user.drop)
               for name in names]  # fmt: skip
    for process in running:
        user.finish(process, 0)
    found = podstack.yaml_load(content_of(user.config))["profiles"]
    assert found == {name: {"project": name} for name in names}


def test_a_directory_that_another_process_makes_first_is_used(cli, home, monkeypatch):
    make = os.mkdir

    def make_twice(path, mode):
        make(path, mode)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", make_twice)
    result = cli("--debug", *SET)
    assert "no lock" not in result.err
    assert content_of(home / ".podstack" / "config.yaml") == OLD.replace("old", "new")


def hold(path):
    """Hold the lock file as another podstack does; returns what to close."""
    stream = open(str(path), "w")
    fcntl.flock(stream, fcntl.LOCK_EX)
    stream.write("4711\n")
    stream.flush()
    return stream


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self):
        self.time, self.on_sleep = 1700000000.0, None

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds
        if self.on_sleep:
            self.on_sleep(self.time - 1700000000.0)


def test_the_wait_for_the_lock_ends_after_thirty_seconds_and_names_the_holder(cli, config):
    config.write_text(OLD)
    clock, lock = Clock(), config.parent / ".lock"
    with hold(lock):
        # The wall clock may be set back meanwhile.
        back = iter(range(2000000000, 0, -3600)).__next__
        result = cli(*SET, clock=clock.now, now=back, sleep=clock.sleep, code=7)
    assert result.err == (
        "Error: Another podstack holds %s (process 4711)\n"
        "Wait until it has ended, or end it, then try again\n" % lock
    )
    assert 30 <= clock.time - 1700000000.0 < 30.2
    assert config.read_text() == OLD


@pytest.mark.parametrize("written", [b"", b"\xff\xfe\n", b"rm -rf /\n"])
def test_a_holder_that_gives_no_number_is_unknown(cli, config, written):
    clock, lock = Clock(), config.parent / ".lock"
    lock.write_bytes(written)
    with open(str(lock)) as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        result = cli(*SET, clock=clock.now, sleep=clock.sleep, code=7)
    assert result.error == "Error: Another podstack holds %s (process unknown)" % lock


def test_a_lock_that_comes_free_is_taken_and_the_file_read_again(cli, config):
    config.write_text(OLD)
    clock = Clock()
    stream = hold(config.parent / ".lock")

    def let_go(waited):
        if waited >= 3 and not stream.closed:
            config.write_text(OLD + "  output: json\n")
            stream.close()

    clock.on_sleep = let_go
    result = cli(*SET, clock=clock.now, sleep=clock.sleep, tty=True)
    assert result.err.count("Waiting for another podstack to end ...") == 1
    assert config.read_text() == "defaults:\n  project: new\n  output: json\n"


def test_the_lock_of_a_killed_process_is_free(settled, tmp_path):
    script = (
        "import fcntl,sys,time; f=open(%r,'w'); fcntl.flock(f,2); print(flush=True); time.sleep(99)"
    )
    lock = os.path.join(settled.folder, ".lock")
    holder = subprocess.Popen([sys.executable, "-c", script % lock], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"\n"
    os.chown(lock, settled.uid, -1)
    waiting = settled.start(*SET, wrap=settled.drop)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    started = time.monotonic()
    settled.finish(waiting, 0)
    assert time.monotonic() - started < 20
    assert content_of(settled.config) == OLD.replace("old", "new")


@pytest.mark.parametrize("trouble", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_used_without_one(settled, trouble):
    need("strace")
    broken = ["strace", "-f", "-o", "/dev/null", "-e", "inject=flock:error=%s" % trouble]
    settled.run(*SET, wrap=broken)
    assert content_of(settled.config) == OLD.replace("old", "new")
    said = settled.run("--debug", "config", "set", "defaults.project", "x", wrap=broken).err
    lock = os.path.join(settled.folder, ".lock")
    reason = os.strerror(getattr(errno, trouble))
    assert "debug: lock %s: [Errno %d] %s\n" % (
        lock, getattr(errno, trouble), reason) in said  # fmt: skip


def test_a_lock_that_fails_is_an_error(settled):
    need("strace")
    broken = ["strace", "-f", "-o", "/dev/null", "-e", "inject=flock:error=EIO"]
    result = settled.run(*SET, wrap=broken, code=1)
    lock = os.path.join(settled.folder, ".lock")
    assert result.err == failure("Cannot lock %s: Input/output error" % lock)
    assert_nothing_changed(settled, OLD)


class WindowsLocks:
    """Stands in for Windows' msvcrt: the same lock, the other error."""

    LK_UNLCK, LK_NBLCK = 0, 2

    @staticmethod
    def locking(descriptor, mode, length):
        assert length == 1
        if mode == WindowsLocks.LK_UNLCK:
            return fcntl.flock(descriptor, fcntl.LOCK_UN)
        assert mode == WindowsLocks.LK_NBLCK
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied")


def test_on_windows_a_file_that_is_open_elsewhere_is_waited_for(cli, config, monkeypatch):
    config.write_text(OLD)
    monkeypatch.setitem(sys.modules, "msvcrt", WindowsLocks)
    replace, refusals, slept = os.replace, [errno.EACCES] * 3, []

    def replace_when_closed(old, new):
        if refusals:
            raise PermissionError(refusals.pop(), "The process cannot access the file")
        replace(old, new)

    monkeypatch.setattr(os, "replace", replace_when_closed)
    cli(*SET, platform="win32", sleep=slept.append)
    assert content_of(config) == OLD.replace("old", "new")
    assert slept == [0.05] * 3
    refusals += [errno.EACCES] * 11
    result = cli(*SET[:-1], "x", platform="win32", sleep=slept.append, code=1)
    assert result.error == "Error: Cannot write %s: The process cannot access the file" % config
    assert content_of(config) == OLD.replace("old", "new")
    assert names_in(config.parent) == [".lock", "config.yaml"]


def test_on_windows_the_lock_is_waited_for(cli, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "msvcrt", WindowsLocks)
    clock, lock = Clock(), config.parent / ".lock"
    with hold(lock):
        result = cli(*SET, platform="win32", clock=clock.now, sleep=clock.sleep, code=7)
    assert result.error == "Error: Another podstack holds %s (process 4711)" % lock


def test_a_lock_of_root_in_the_way_is_no_obstacle(settled, root):
    """As an older program or a plain `sudo touch` may have left it."""
    with open(os.path.join(settled.folder, ".lock"), "w"):
        pass
    os.chmod(os.path.join(settled.folder, ".lock"), 0o600)
    settled.run(*SET)
    assert content_of(settled.config) == OLD.replace("old", "new")

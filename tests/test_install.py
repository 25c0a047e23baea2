"""install.sh and `podstack update`: from a pipe, a mirror or a file; and what they leave behind."""

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile

import pytest
from conftest import PODSTACK, USER, Result, need
from machines import IS_ROOT, SCRIPT, SYSTEM, Machine, Origin, make_certificate, read, snapshot

import podstack

SHELLS = [["bash"]] + [
    pytest.param(shell, marks=pytest.mark.slow) for shell in (["sh"], ["dash"], ["busybox", "sh"])
]


@pytest.fixture
def origin(monkeypatch):
    with Origin() as server:
        monkeypatch.setenv("PODSTACK_INSTALL_URL", server.url)
        yield server


@pytest.fixture
def user():
    """An ordinary user with an empty home (one without a name in the user database)."""
    root = tempfile.mkdtemp(prefix="podstack-install-")
    yield Machine(root, uid=23456)
    shutil.rmtree(root)


@pytest.fixture
def root(tmp_path):
    """Root, who installs into a scratch prefix: never into /usr/local."""
    return Machine(str(tmp_path / "machine"))


# -- a whole life


def test_install_use_update_and_uninstall_leave_the_tree_as_it_was(origin, user, api):
    before = snapshot(user.home, times=False)
    told = user.install().err
    at = user.home + "/.local/bin/podstack"
    assert "podstack %s is installed: %s (Python: /" % (podstack.VERSION, at) in told
    assert told.endswith("Next: podstack auth login\n")
    assert "PATH" not in told  # it is on it already

    assert user.run("podstack", "--version").out == "podstack %s\n" % podstack.VERSION
    shown = user.run("podstack", "auth", "whoami", PODSTACK_API_TOKEN=USER)
    assert shown.out == "user@example.com\n"

    origin.publish("9.8.7")
    assert user.run("podstack", "update", "--check").out == (
        "podstack %s can be updated to 9.8.7\n" % podstack.VERSION
    )
    told = "podstack 9.8.7 is installed in place of %s: " % podstack.VERSION
    done = user.run("podstack", "update").err
    assert told in done and "Next: " not in done
    assert user.run("podstack", "--version").out == "podstack 9.8.7\n"
    assert user.run("podstack", "update", "--check").out == "podstack 9.8.7 is the newest\n"

    assert "podstack is gone from %s\n" % at in user.install("--uninstall").err
    assert snapshot(user.home, times=False) == before


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_every_shell_that_curl_may_be_piped_into(shell, origin, root):
    need(shell[0])
    before = snapshot(root.home, times=False)
    root.install("--prefix", root.home + "/my tools", shell=shell)
    shown = root.run(root.home + "/my tools/bin/podstack", "version", "-o", "json").json
    assert shown["path"] == root.home + "/my tools/lib/podstack/podstack.py"
    root.install("--uninstall", "--prefix", root.home + "/my tools", shell=shell)
    assert snapshot(root.home, times=False) == before


def test_a_second_run_changes_nothing_at_all(origin, user):
    user.install()
    installed = snapshot(user.home)
    told = user.install().err
    assert "podstack %s is installed already: " % podstack.VERSION in told
    assert "Next: " not in told
    assert snapshot(user.home) == installed
    user.install("--uninstall")
    assert "podstack is not installed here" in user.install("--uninstall").err


@pytest.mark.slow
def test_what_others_put_beside_it_stays_and_so_do_settings(origin, user):
    user.install()
    for path in (".local/lib/others", ".podstack"):
        user.run("mkdir", user.home + "/" + path)
    told = user.install("--uninstall").err
    assert "Kept: your settings and logins; to remove them: rm -r ~/.podstack\n" in told
    left = sorted(snapshot(user.home))
    assert left == [".local", ".local/lib", ".local/lib/others", ".podstack"]


# -- nothing happens unless everything is there


def test_a_script_cut_off_anywhere_does_nothing(origin, user):
    script = read(SCRIPT).encode()
    last = script.rindex(b"{ main")
    cuts = [len(script) * part // 30 for part in range(1, 30)] + list(range(last - 1, last + 10))
    cuts.append(len(script) - 2)
    assert len(cuts) >= 40
    for cut in cuts:
        user.install("--quiet", script=script[:cut], code=None)
        assert snapshot(user.home) == {}, script[:cut][-60:]
    assert origin.asked == []


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        pytest.param(
            lambda files: files.update({"/podstack.py": b"print('podstack 6.6.6')\n"}),
            "Error: {url}/podstack.py does not have the expected checksum; nothing was changed",
            id="another-file",
        ),
        pytest.param(
            lambda files: files.update({"/podstack.py": files["/podstack.py"][:-1]}),
            "Error: {url}/podstack.py does not have the expected checksum; nothing was changed",
            id="cut-file",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda files: files.pop("/podstack.py"),
            "Error: cannot download {url}/podstack.py; nothing was changed",
            id="no-file",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda files: files.pop("/podstack.py.sha256"),
            "Error: cannot download {url}/podstack.py.sha256; nothing was changed",
            id="no-checksum",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda files: files.update({"/podstack.py.sha256": b"<html>\n"}),
            "Error: {url}/podstack.py.sha256 holds no checksum; nothing was changed",
            id="checksum-is-a-page",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda files: files.update({"/podstack.py.sha256": b""}),
            "Error: {url}/podstack.py.sha256 holds no checksum; nothing was changed",
            id="checksum-is-empty",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_bad_download_keeps_what_was_installed(break_it, error, origin, user):
    user.install()
    installed = snapshot(user.home)
    origin.publish("9.8.7")
    break_it(origin.files)
    assert error.format(url=origin.url) + "\n" in user.install(code=1).err
    assert snapshot(user.home) == installed
    assert user.run("podstack", "--version").out == "podstack %s\n" % podstack.VERSION


def test_a_version_that_does_not_start_keeps_the_old_one(origin, user):
    user.install()
    installed = snapshot(user.home)
    origin.publish("9.8.7", text="raise SystemExit('no module named podstack')\n")
    told = user.run("podstack", "update", code=1).err
    assert "Error: %s/podstack.py does not start with /" % origin.url in told
    assert told.endswith(
        "Error: The installer failed (exit 1); this podstack stays as it is\n"
        "It says why above; try again: podstack update\n"
    )
    assert snapshot(user.home) == installed


def test_ctrl_c_while_it_downloads_leaves_nothing(origin, user):
    origin.stall_at = "/podstack.py"
    process = subprocess.Popen(
        user.wrapper + ["sh", "-s"], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        env=dict(user.env, PODSTACK_INSTALL_URL=origin.url), start_new_session=True,
    )  # fmt: skip
    process.stdin.write(read(SCRIPT).encode())
    process.stdin.close()
    assert origin.stalled.wait(30)
    os.killpg(process.pid, signal.SIGINT)
    process.stderr.read()
    assert process.wait(30) in (130, -signal.SIGINT)
    assert snapshot(user.home) == {}
    assert os.listdir(user.temporary) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_nothing(origin, root):
    need("mount", "unshare")
    if not IS_ROOT:
        pytest.skip("mounting a small disk takes root")
    place = root.home + "/disk"
    os.mkdir(place)
    small = "mount -t tmpfs -o size=300k none {0} && sh -s -- --prefix {0}/p"
    small += "; code=$?; ls -A {0}; exit $code"
    told = root.run(
        "unshare", "-m", "sh", "-c", small.format(place),
        stdin=read(SCRIPT).encode(), code=1,
    )  # fmt: skip
    assert "Error: cannot write to %s/p; nothing was changed\n" % place in told.err
    assert told.out == ""


@pytest.mark.slow
@pytest.mark.parametrize("renames", range(1, 6))
def test_killed_between_two_renames_it_still_runs_and_is_mended_by_the_next_run(
    renames, origin, user
):
    """`mv` on PATH kills the installer once it has renamed so many files."""
    user.install()
    origin.publish("9.8.7")
    user.run("mkdir", "bin")
    killer = (
        '#!/bin/sh\necho >>{0}/renamed; /bin/mv "$@"\n'
        "[ $(wc -l <{0}/renamed) -lt {1} ] || kill -9 $PPID\n"
    ).format(user.home, renames)
    user.run("sh", "-c", "cat >bin/mv && chmod +x bin/mv", stdin=killer.encode())
    script = read(SCRIPT).encode()
    path = "%s/bin:%s/.local/bin:%s" % (user.home, user.home, SYSTEM)
    temporary = user.home + "/tmp"
    user.run("mkdir", "tmp")
    user.run("sh", "-s", stdin=script, code=-signal.SIGKILL, PATH=path, TMPDIR=temporary)
    shown = user.run("podstack", "--version").out
    assert shown in ("podstack %s\n" % podstack.VERSION, "podstack 9.8.7\n")
    user.run("rm", "-rf", "bin", "renamed", "tmp")
    user.install()
    assert user.run("podstack", "--version").out == "podstack 9.8.7\n"
    user.install("--uninstall")
    assert snapshot(user.home) == {}


def test_dry_run_prints_what_a_run_does_and_does_nothing(origin, user):
    planned = user.install("--dry-run").out
    assert snapshot(user.home) == {}
    assert "mkdir -p %s/.local/bin" % user.home in planned
    assert re.search(r"(?m)^mv -f \S+/podstack %s/.local/bin/podstack$" % user.home, planned)
    user.install()
    installed = snapshot(user.home)
    assert (
        "rm -f %s/.local/bin/podstack\n" % user.home in user.install("--uninstall", "--dry-run").out
    )
    assert snapshot(user.home) == installed


# -- where the file comes from


def only(folder, *programs):
    """Return a PATH on which a minimal system and these programs alone are found."""
    os.mkdir(folder)
    tools = "cat chmod cmp cp dirname grep id ls mkdir mktemp mv readlink rm rmdir sed sh sort tr"
    for name in tools.split() + list(programs):
        os.symlink(shutil.which(name, path=SYSTEM), os.path.join(folder, name))
    return folder


@pytest.mark.parametrize(
    ("programs", "client"),
    [
        pytest.param(["curl", "wget"], "curl", id="curl-and-wget", marks=pytest.mark.slow),
        pytest.param(["wget"], "Wget", id="wget-only"),
        pytest.param([], "Python-urllib", id="python-only", marks=pytest.mark.slow),
    ],
)
def test_whatever_can_download_does(programs, client, origin, root, tmp_path):
    need(*programs)
    path = only(str(tmp_path / "bin"), "python3", *programs)
    root.install("--prefix", root.home + "/p", PATH=path)
    assert origin.asked == [("/podstack.py", client), ("/podstack.py.sha256", client)]
    assert root.run(root.home + "/p/bin/podstack", "--version").out.startswith("podstack ")
    origin.files.pop("/podstack.py")
    assert "Error: cannot download" in root.install("--prefix", root.home, PATH=path, code=1).err


@pytest.mark.slow
def test_a_system_that_has_busybox_alone(origin, root, tmp_path):
    """Its wget checks no certificate: Python downloads."""
    need("busybox")
    busybox = shutil.which("busybox")
    path = str(tmp_path / "bin")
    os.mkdir(path)
    for name in subprocess.check_output([busybox, "--list"]).decode().split():
        os.symlink(busybox, os.path.join(path, name))
    os.symlink("/usr/bin/python3", path + "/python3")
    for _ in range(2):
        root.install("--prefix", "p", shell=[busybox, "sh"], PATH=path)
    assert {client for _, client in origin.asked} == {"Python-urllib"}
    assert root.run("p/bin/podstack", "--version", PATH=path).out.startswith("podstack ")
    root.install("--uninstall", "--prefix", "p", shell=[busybox, "sh"], PATH=path)
    assert snapshot(root.home) == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://get.podstack.ai",
        "http://127.0.0.1.evil.example",
        "ftp://127.0.0.1",
        "file:///tmp",
        "http://127.0.0.1:80@evil.example",
        "https://me:password@evil.example/x",
    ],
)
def test_only_https_is_downloaded_from(url, user):
    told = user.install(code=1, PODSTACK_INSTALL_URL=url).err
    assert "Error: PODSTACK_INSTALL_URL must be an https:// address, not '%s'\n" % url in told
    assert snapshot(user.home) == {}


def test_a_pinned_checksum_is_the_one_that_counts(origin, user):
    told = user.install(code=1, PODSTACK_SHA256="0" * 64).err
    assert "does not have the expected checksum; nothing was changed\n  expected 0000" in told
    told = user.install(code=1, PODSTACK_SHA256="v1.0.0").err
    assert told.endswith("Error: PODSTACK_SHA256 holds no checksum; nothing was changed\n")
    pin = hashlib.sha256(origin.files["/podstack.py"]).hexdigest()
    origin.files["/podstack.py.sha256"] = b"never asked for"
    del origin.asked[:]
    user.install(PODSTACK_SHA256=pin.upper())
    assert [path for path, _ in origin.asked] == ["/podstack.py"]
    origin.files["/podstack.py.sha256"] = pin.upper().encode()
    assert "is installed already" in user.install().err


@pytest.mark.slow
def test_offline_from_a_file_or_from_the_file_beside_the_script(origin, root):
    shutil.copy(PODSTACK, root.home + "/other.py")
    root.install("--from", "other.py", "--prefix", "p")
    assert os.path.exists(root.home + "/p/bin/podstack")
    root.install("--uninstall", "--prefix", "p")
    shutil.copy(PODSTACK, root.home)
    shutil.copy(SCRIPT, root.home)
    done = root.run("sh", "./install.sh", "--prefix", "p")
    assert done.err.startswith("Installing ./podstack.py\n")
    assert os.path.exists(root.home + "/p/bin/podstack")
    assert origin.asked == []
    told = root.install("--from", "none.py", "--prefix", "q", code=1).err
    assert told.endswith("Error: cannot read none.py; nothing was changed\n")


@pytest.mark.slow
def test_a_checksum_beside_the_file_counts_offline_too(root):
    shutil.copy(PODSTACK, root.home + "/new.py")
    with open(root.home + "/new.py.sha256", "w") as stream:
        stream.write("%s  new.py\n" % ("1" * 64))
    told = root.install("--from", "new.py", "--prefix", "p", code=1).err
    assert "Error: new.py does not have the expected checksum; nothing was changed\n" in told


two_users = pytest.mark.skipif(not IS_ROOT, reason="takes two users")
NOT_TAKEN = (
    "Warning: %s is not taken, for others can change it; to take it all the same: --from FILE\n"
)


@two_users
@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["another's", "a link", "open to all", "in a directory of all", "in another's /tmp"]
)
def test_a_file_beside_the_script_that_others_can_change_is_not_taken(how, origin, root, tmp_path):
    folder = tmp_path / "tmp"
    folder.mkdir()
    shutil.copy(SCRIPT, str(folder))
    beside = folder / "podstack.py"
    evil = tmp_path / "evil.py" if how == "a link" else beside
    evil.write_text("print('podstack 6.6.6')\n")
    evil.chmod(0o666 if how == "open to all" else 0o644)
    if how == "a link":
        beside.symlink_to(evil)
    if how == "another's":
        os.chown(str(beside), 65534, 65534)
    modes = {"another's": 0o1777, "in a directory of all": 0o777, "in another's /tmp": 0o1777}
    folder.chmod(modes.get(how, 0o755))
    if how == "in another's /tmp":
        os.chown(str(folder), 65534, 65534)
    done = root.run("sh", "%s/install.sh" % folder, "--quiet", "--prefix", "p")
    assert done.err.startswith(NOT_TAKEN % beside)
    assert root.run("p/bin/podstack", "--version").out == "podstack %s\n" % podstack.VERSION


@pytest.mark.parametrize("whose", ["ours", pytest.param("root's", marks=two_users)])
def test_a_file_of_ours_or_roots_is_taken_even_from_a_sticky_directory(whose, user):
    """As /tmp is where an image is built."""
    folder = user.home + "/tmp"
    act = user.run if whose == "ours" else lambda *words: subprocess.run(words, check=True)
    act("mkdir", folder)
    act("cp", PODSTACK, SCRIPT, folder)
    act("chmod", "1777", folder)
    done = user.run("sh", "tmp/install.sh", "--prefix", "p")
    assert done.err.startswith("Installing tmp/podstack.py\n")


@two_users
def test_who_calls_sudo_may_change_the_file_that_it_takes(origin, root, tmp_path):
    for path in (PODSTACK, SCRIPT):
        os.chown(shutil.copy(path, str(tmp_path)), 65534, 65534)
    script = "%s/install.sh" % tmp_path
    done = root.run("sh", script, "--prefix", "p", SUDO_UID="65534")
    assert done.err.startswith("Installing %s/podstack.py\n" % tmp_path)
    done = root.run("sh", script, "--prefix", "p", SUDO_UID="65533")
    assert done.err.startswith(NOT_TAKEN % (str(tmp_path) + "/podstack.py"))


def test_nothing_that_is_started_has_the_token(origin, root):
    with open(root.home + "/new.py", "w") as stream:
        stream.write("import os\nprint('podstack', os.environ.get('PODSTACK_API_TOKEN'))\n")
    root.install("--from", "new.py", "--prefix", "p", PODSTACK_API_TOKEN="psk_of_the_job")
    assert "version None\n" in read(root.home + "/p/lib/podstack/receipt")


def test_a_piped_script_takes_no_file_that_lies_around(origin, root):
    with open(root.home + "/podstack.py", "w") as stream:
        stream.write("print('podstack 6.6.6')\n")
    root.install("--prefix", "p")
    assert root.run("p/bin/podstack", "--version").out == "podstack %s\n" % podstack.VERSION


# -- where it goes


def target(dry_run):
    return re.search(r"(?m)^mv -f \S+/podstack (\S+)$", dry_run.out).group(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "modes", "expected"),
    [
        pytest.param("{home}/.local/bin:{home}/bin", {}, ".local/bin", id="local-first"),
        pytest.param("{home}/bin:{home}/.local/bin", {}, ".local/bin", id="order-of-PATH-aside"),
        pytest.param("{home}/bin", {}, "bin", id="bin"),
        pytest.param("{home}/bin", {"bin": 0o777}, ".local/bin", id="bin-is-open-to-all"),
        pytest.param("{home}/.local/bin:{home}/bin", {".local/bin": 0o777}, "bin", id="next-best"),
        pytest.param("/opt/none", {}, ".local/bin", id="neither-on-PATH"),
    ],
)
def test_the_first_safe_directory_on_path(path, modes, expected, origin, user):
    for name, mode in modes.items():
        user.run("mkdir", "-p", name)
        user.run("chmod", "%o" % mode, name)
    path = path.format(home=user.home)
    planned = user.install("--dry-run", PATH=path + ":" + SYSTEM)
    assert target(planned) == "%s/%s/podstack" % (user.home, expected)
    hint = 'So that your shell finds it, add to ~/.profile: export PATH="%s/.local/bin:$PATH"\n'
    done = user.install(PATH=path + ":" + SYSTEM)
    assert (hint % user.home in done.err) == ("%s/%s" % (user.home, expected) not in path)
    user.install("--uninstall", PATH=SYSTEM)  # the receipt knows where
    assert not [path for path in snapshot(user.home) if "podstack" in path]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [".local/bin", ".local/lib", ".local/lib/podstack", ".local/lib/podstack/__pycache__"]
)
def test_no_directory_that_others_can_write_to(name, origin, user):
    user.run("mkdir", "-p", name)
    user.run("chmod", "777", name)
    before = snapshot(user.home)
    told = user.install(code=1).err
    assert "Error: %s/%s must be yours, and nobody else may" % (user.home, name) in told
    assert snapshot(user.home) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "hint"),
    [
        ("/usr/bin/fish", "So that your shell finds it, run: fish_add_path "),
        ("/bin/zsh", "So that your shell finds it, add to ~/.zshrc: export PATH="),
    ],
)
def test_the_hint_is_in_the_users_shells_language(shell, hint, origin, user):
    assert hint in user.install(PATH=SYSTEM, SHELL=shell).err


def test_another_podstack_is_never_replaced(origin, user):
    user.run("mkdir", "-p", ".local/bin")
    user.run("cp", "/bin/true", ".local/bin/podstack")
    before = snapshot(user.home)
    told = user.install(code=1).err
    at = user.home + "/.local/bin/podstack"
    assert told == (
        "Error: %s is another program, which this would replace.\n"
        "Remove it, or choose another place: --prefix DIR\n" % at
    )
    assert snapshot(user.home) == before


def test_another_podstack_on_path_is_named(origin, user):
    for folder in ("before", "after"):
        user.run("mkdir", folder)
        user.run("cp", "/bin/true", folder + "/podstack")
    path = "{0}/before:{0}/.local/bin:{0}/after:{1}".format(user.home, SYSTEM)
    told = user.install(PATH=path).err
    assert (
        "Warning: your shell finds another podstack first: %s/before/podstack\n" % user.home in told
    )
    assert "Warning: this hides another podstack: %s/after/podstack\n" % user.home in told


@pytest.mark.slow
def test_an_install_elsewhere_in_the_home_is_not_doubled(origin, user):
    user.install(PATH="%s/bin:%s" % (user.home, SYSTEM))
    assert "is installed already: %s/bin/podstack" % user.home in user.install().err
    told = user.install("--prefix", user.home + "/.local", code=1).err
    assert told == (
        "Error: podstack is already installed as %s/bin/podstack: "
        "uninstall it first (--uninstall)\n" % user.home
    )


@pytest.mark.slow
def test_github_actions_finds_it_in_the_next_step(origin, user):
    told = user.home + "/github-path"
    planned = user.install("--dry-run", GITHUB_PATH=told).out
    assert planned.endswith(" %s/.local/bin %s\n" % (user.home, told))
    assert snapshot(user.home) == {}
    for _ in range(2):
        user.install(GITHUB_PATH=told)
    assert read(told) == user.home + "/.local/bin\n"


@pytest.mark.skipif(not IS_ROOT, reason="only root does without a home")
@pytest.mark.parametrize("home", [None, pytest.param("/", marks=pytest.mark.slow)])
def test_root_needs_no_home(home, origin, root):
    root.install("--prefix", "p", HOME=home)
    assert root.run("p/bin/podstack", "--version").code == 0


def test_quiet_prints_errors_alone(origin, user):
    assert repr(user.install("--quiet")) == repr(Result(0, "", ""))
    assert user.install("--quiet", "--prefix", "/proc/x", code=1).err != ""


def test_usage(user):
    shown = user.install("--help")
    assert shown.out.startswith("Install podstack %s: curl -sSL https://" % podstack.VERSION)
    told = user.install("--unistall", code=2).err
    assert told.startswith("Error: unknown option '--unistall'\nInstall podstack ")
    assert user.install("--prefix", code=2).err.startswith("Error: --prefix needs a value\n")


# -- the Python that runs it


def pinned(receipt):
    return re.search("(?m)^python (.*)$", read(receipt)).group(1)


def test_shims_and_links_are_resolved_once(origin, user):
    real = os.path.realpath("/usr/bin/python3")
    user.run("mkdir", "shims", "links")
    user.run(
        "sh", "-c",
        "printf '#!/bin/sh\\necho using 3.11; exec /usr/bin/python3 \"$@\"\\n' >shims/python3;"
        "chmod +x shims/python3; ln -s ../shims/python3 links/python3",
    )  # fmt: skip
    user.install(PATH="%s/links:%s" % (user.home, SYSTEM))
    assert pinned(user.home + "/.local/lib/podstack/receipt") == real
    assert "python='%s'\n" % real in read(user.home + "/.local/bin/podstack")


@pytest.mark.slow
def test_a_python_that_is_too_old_or_broken_is_passed_over_and_named(origin, user):
    user.run("mkdir", "-p", "odd")
    for name, answer in (("python3", "it is older than 3.6"), ("python3.12", "no such command")):
        user.run("sh", "-c", "printf '#!/bin/sh\\necho %s; exit 1\\n' >odd/%s" % (answer, name))
        user.run("chmod", "+x", "odd/" + name)
    user.install(PATH="%s/odd:%s" % (user.home, SYSTEM))
    real = os.path.realpath("/usr/bin/python3")
    assert pinned(user.home + "/.local/lib/podstack/receipt") == real


@pytest.mark.skipif(not IS_ROOT, reason="only root must be so choosy")
@pytest.mark.parametrize("place", ["/tmp", pytest.param("/home", marks=pytest.mark.slow)])
def test_root_never_runs_a_python_that_others_can_change(place, origin, root):
    folder = tempfile.mkdtemp(dir=place)
    try:
        planted = os.path.join(folder, "python3")
        with open(planted, "w") as stream:
            stream.write('#!/bin/sh\ntouch %s/ran\nexec /usr/bin/python3 "$@"\n' % folder)
        for path in (folder, planted):
            os.chmod(path, 0o755)
            os.chown(path, 23456, 23456) if place == "/tmp" else None
        root.install("--prefix", root.home + "/p", PATH=folder + ":" + SYSTEM)
        assert os.listdir(folder) == ["python3"]
        assert pinned(root.home + "/p/lib/podstack/receipt").startswith("/usr/bin/python3")
    finally:
        shutil.rmtree(folder)


def test_another_python_serves_when_the_pinned_one_is_gone(origin, root):
    root.install("--prefix", "p")
    launcher = root.home + "/p/bin/podstack"
    text = re.sub("(?m)^python=.*", "python='/gone/python3.9'", read(launcher))
    with open(launcher, "w") as stream:
        stream.write(text)
    assert root.run(launcher, "--version").code == 0
    # Not one from the current directory.
    shutil.copy("/bin/true", root.home + "/python3")
    root.run(launcher, "--version", code=1, PATH=".:")
    told = root.run(launcher, "--version", code=1, PATH="/none").err
    assert told == (
        "Error: podstack needs Python 3.6 or newer, and there is none: install python3\n"
    )


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:16], id="header-only", marks=pytest.mark.slow),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(
            lambda data: b"\0\0\0\0" + data[4:], id="foreign-version", marks=pytest.mark.slow
        ),
        pytest.param(lambda data: data[:16] + b"\xff" * 999, id="garbage", marks=pytest.mark.slow),
        pytest.param(lambda data: b"", id="empty", marks=pytest.mark.slow),
    ],
)
def test_damaged_bytecode_is_not_needed(damage, origin, root):
    root.install("--prefix", "p", "--quiet")
    folder = root.home + "/p/lib/podstack/__pycache__"
    (name,) = os.listdir(folder)
    data = read(os.path.join(folder, name), "rb")
    with open(os.path.join(folder, name), "wb") as stream:
        stream.write(damage(data))
    shown = root.run("p/bin/podstack", "version", "-o", "json").json
    assert shown["path"] == root.home + "/p/lib/podstack/podstack.py"


@pytest.mark.slow
def test_nothing_is_written_when_it_runs(origin, user):
    user.install()
    installed = snapshot(user.home)
    shutil.rmtree(user.home + "/.local/lib/podstack/__pycache__")
    user.run("podstack", "--version")
    assert not [path for path in snapshot(user.home) if path not in installed]


# -- podstack update


def test_a_checkout_is_not_updated(podstack_process):
    assert podstack_process("update", code=1).err == (
        "Error: install.sh did not install %s\n"
        "Update it the way it came: git pull, or your package manager\n" % PODSTACK
    )


@two_users
def test_an_install_of_another_user_can_be_checked_but_not_changed(origin, user):
    user.install()
    at = user.home + "/.local/bin/podstack"
    user.wrapper = []
    installed = snapshot(user.home)
    origin.publish("9.8.7")
    assert "can be updated to 9.8.7" in user.run(at, "update", "--check").out
    told = user.run(at, "update", code=1).err
    assert told.startswith("Error: %s/.local/lib/podstack is not yours to change\n" % user.home)
    assert snapshot(user.home) == installed


@pytest.mark.skipif(not IS_ROOT, reason="mounting takes root")
def test_an_install_on_a_read_only_disk_is_not_updated(origin, root):
    need("unshare", "mount")
    root.install("--prefix", "p")
    line = "mount --bind p p && mount -o remount,bind,ro p && p/bin/podstack update"
    told = root.run("unshare", "-m", "sh", "-c", line, code=1).err
    assert told == (
        "Error: %s/p/lib/podstack is not yours to change\n"
        "Run podstack update as its owner, or renew it where it is made (an image, a disk)\n"
        % root.home
    )


def test_update_refuses_what_is_no_installer(origin, user):
    user.install()
    script = read(SCRIPT).encode()
    for body in (b"<html>503</html>", script[:-5], b'\n{ main "$@"; }\n'):
        origin.files["/cli"] = body
        told = user.run("podstack", "update", code=1).err
        assert told == (
            "Error: %s/cli is not podstack's installer (HTTP 200)\n"
            "Check PODSTACK_INSTALL_URL, or try again later\n" % origin.url
        )
    told = user.run("podstack", "update", code=7, PODSTACK_INSTALL_URL="http://127.0.0.1:9").err
    assert told.startswith("Error: Cannot reach 127.0.0.1: connection refused\n")
    told = user.run("podstack", "update", code=1, PODSTACK_INSTALL_URL="http://192.0.2.1").err
    assert told == (
        "Error: The server's installer's address cannot be used: it is not https\n"
        "Check PODSTACK_INSTALL_URL, or try again later\n"
    )


def test_a_receipt_that_is_not_the_installers_is_no_install(origin, user):
    user.install()
    user.run("sh", "-c", "cat >%s/.local/lib/podstack/receipt" % user.home, stdin=b"of the shop\n")
    told = user.run("podstack", "update", code=1).err
    assert told == (
        "Error: install.sh did not install %s/.local/lib/podstack/podstack.py\n"
        "Update it the way it came: git pull, or your package manager\n" % user.home
    )


def test_update_asks_podstack_itself_where_the_install_names_no_mirror(origin, user):
    user.install()
    receipt = user.home + "/.local/lib/podstack/receipt"
    kept = [line for line in read(receipt).splitlines(True) if not line.startswith("origin ")]
    user.run("sh", "-c", "cat >" + receipt, stdin="".join(kept).encode())
    env = {"PODSTACK_INSTALL_URL": None, "HTTPS_PROXY": "socks://127.0.0.1:9"}
    told = user.run("podstack", "update", code=7, **env).err
    assert told.startswith("Error: Cannot reach get.podstack.ai: HTTPS_PROXY is not the address of")


@pytest.mark.slow
def test_update_goes_back_to_the_mirror_that_it_came_from(origin, user):
    user.install()
    origin.publish("9.8.7")
    user.run("podstack", "update", "--quiet", PODSTACK_INSTALL_URL=None)
    assert user.run("podstack", "--version").out == "podstack 9.8.7\n"
    assert "origin %s\n" % origin.url in read(user.home + "/.local/lib/podstack/receipt")


@pytest.mark.slow
def test_update_trusts_the_networks_own_certificate_authority(user, tmp_path):
    path = make_certificate(tmp_path)
    with Origin(path) as origin:
        url = "https://localhost:%d" % origin.server_port
        user.run("sh", "-c", "cat >ca.pem", stdin=read(path + ".crt", "rb"))
        bundle = user.home + "/ca.pem"
        user.install(PODSTACK_INSTALL_URL=url, CURL_CA_BUNDLE=bundle)
        origin.publish("9.8.7")
        assert "its certificate is self-signed" in user.run("podstack", "update", code=7).err
        user.run("podstack", "update", PODSTACK_CA_BUNDLE=bundle)
    assert user.run("podstack", "--version").out == "podstack 9.8.7\n"


@pytest.mark.slow
def test_update_hands_no_token_to_the_installer(origin, user):
    user.install()
    leak = "env >%s/env\n" % user.home
    origin.files["/cli"] = origin.files["/cli"].replace(
        b"main() {\n", b"main() {\n" + leak.encode()
    )
    user.run("podstack", "update", PODSTACK_API_TOKEN=USER)
    assert "PODSTACK_INSTALL_URL" in read(user.home + "/env")
    assert USER not in read(user.home + "/env")


# -- the script itself


def test_the_script_and_the_program_are_of_one_version():
    assert re.search("(?m)^VERSION=(.*)$", read(SCRIPT)).group(1) == podstack.VERSION


def test_shellcheck_has_no_complaint():
    need("shellcheck")
    done = subprocess.run(["shellcheck", SCRIPT], stdout=subprocess.PIPE)
    assert done.stdout.decode() == ""


def test_what_is_installed_is_what_was_published(origin, root):
    root.install("--prefix", "p")
    files = snapshot(root.home + "/p/lib/podstack")
    assert files["podstack.py"][2] == origin.files["/podstack.py"]
    modes = {path: stat.filemode(facts[0]) for path, facts in snapshot(root.home + "/p").items()}
    assert modes.pop("bin/podstack") == "-rwxr-xr-x"
    assert set(modes.values()) == {"drwxr-xr-x", "-rw-r--r--"}
    facts = dict(line.split(" ", 1) for line in files["receipt"][2].decode().splitlines())
    assert facts["sha256"] == hashlib.sha256(origin.files["/podstack.py"]).hexdigest()
    assert json.dumps(sorted(files)) == json.dumps(
        ["__pycache__", os.path.relpath(facts["bytecode"], root.home + "/p/lib/podstack"),
         "podstack.py", "receipt", "start.py"]
    )  # fmt: skip

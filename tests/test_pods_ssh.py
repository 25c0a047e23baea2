"""Into a pod, through OpenSSH: ssh, exec, cp and port-forward against a real sshd on loopback.

The pod is a directory: sshd's ForceCommand enters it, so that its home and its PATH are a test's
own. The user's ~/.ssh is where the real user's is, so a small `ssh` first on PATH names the
test's configuration instead.
"""

import contextlib
import functools
import hashlib
import http.server
import io
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request

import pytest
from conftest import PODSTACK, PYTHONS, USER, need

import podstack

ENTER = """\
#!/bin/sh
cd '{home}' && export HOME='{home}' PATH='{path}' || exit 1
[ -n "${{SSH_ORIGINAL_COMMAND+x}}" ] || exec {shell}
exec {shell} -c "$SSH_ORIGINAL_COMMAND"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """An sshd with keys, port and directory of its own: `port`, `enter` (a file), `config`."""
    need("sshd", "ssh", "ssh-keygen", "tar")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        key = ["-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run([shutil.which("ssh-keygen")] + key, check=True)
    port, user = free_port(), pwd.getpwuid(os.getuid()).pw_name
    (folder / "keys").write_text((folder / "user.pub").read_text())
    (folder / "known").write_text("[127.0.0.1]:%d %s" % (port, (folder / "host.pub").read_text()))
    (folder / "server").write_text(
        "ListenAddress 127.0.0.1:%d\nHostKey %s/host\nPidFile none\nStrictModes no\n"
        "AuthorizedKeysFile %s/keys\nUsePAM no\nPrintMotd no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nForceCommand %s/enter\n" % (port, folder, folder, folder)
    )
    known = (
        "User %s\nIdentityFile %s/user\nIdentitiesOnly yes\nUserKnownHostsFile %s/known\n"
        "GlobalKnownHostsFile none\nStrictHostKeyChecking yes\n" % (user, folder, folder)
    )
    (folder / "config").write_text(known)
    shared = "ControlMaster auto\nControlPersist 60\nControlPath %s/shared-%%p\n"
    (folder / "shared").write_text(known + shared % folder)
    if os.getuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)  # sshd will not start without it
    words = [shutil.which("sshd"), "-D", "-e", "-f", str(folder / "server")]
    server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    line = server.stderr.readline()
    assert b"listening" in line, line
    threading.Thread(target=server.stderr.read, daemon=True).start()
    server.port, server.user, server.folder = port, user, folder
    yield server
    # `shared`: a connection that outlives its first client is asked to end.
    goodbye = ["ssh", "-F", str(folder / "shared"), "-p", str(port), "-O", "exit", "127.0.0.1"]
    subprocess.run(goodbye, stderr=subprocess.DEVNULL)
    server.kill()
    server.wait()


class Pod:
    """A pod that is a directory: its `path`, and what shell and PATH who enters it has."""

    def __init__(self, path, script):
        self.path, self.script = path, script
        self.enter()

    def enter(self, shell="/bin/sh", path=os.environ["PATH"]):
        self.script.write_text(ENTER.format(home=self.path, path=path, shell=shell))
        self.script.chmod(0o755)

    def __truediv__(self, name):
        return self.path / name

    def __str__(self):
        return str(self.path)


@pytest.fixture(params=["shared"])
def pod(api, sshd, tmp_path, monkeypatch, request):
    """The running pod `ci-pod`, and an `ssh` that reaches it with this configuration."""
    programs = tmp_path / "bin"
    for folder in (programs, tmp_path / "pod"):
        folder.mkdir()
    words = (shutil.which("ssh"), sshd.folder / request.param)
    (programs / "ssh").write_text('#!/bin/sh\nexec %s -F %s "$@"\n' % words)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (programs, os.environ["PATH"]))
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    api.ssh_command = "ssh -p %d %s@127.0.0.1" % (sshd.port, sshd.user)
    api.add_pods(1, name="ci-pod")
    return Pod(tmp_path / "pod", sshd.folder / "enter")


# Most tests share one connection, since each costs a fifth of a second; these do not.
own_connection = pytest.mark.parametrize("pod", ["config"], indirect=True, ids=[""])


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@contextlib.contextmanager
def running(*argv, program=(), **streams):
    """podstack as a process that is still at work; at the end it is killed, and its ssh, too."""
    words = [*program, sys.executable, "-B", PODSTACK, *argv]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True, **streams)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def eventually(holds, seconds=30):
    """Wait until `holds()` gives something true, and give it back."""
    deadline = time.monotonic() + seconds
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, "never: %s" % holds
        time.sleep(0.02)


def tree(path):
    """{relative name: (kind, mode, what is in it)} of everything below a directory."""
    found = {}
    for folder, directories, files in os.walk(str(path)):
        for name in directories + files:
            whole = os.path.join(folder, name)
            mode = os.lstat(whole).st_mode
            if stat.S_ISLNK(mode):
                facts = ("link", os.readlink(whole))
            elif stat.S_ISDIR(mode):
                facts = ("directory", stat.S_IMODE(mode))
            else:
                with open(whole, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                facts = ("file", stat.S_IMODE(mode), digest)
            found[os.path.relpath(whole, str(path))] = facts
    return found


def plant(root):
    """A tree with what trees have: modes, empty things, links, odd names."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "secret").write_text("s")
    (root / "secret").chmod(0o600)
    (root / "sub" / "blob").write_bytes(os.urandom(300000))
    (root / "sub" / "deep" / "nothing").write_text("")
    (root / "sub" / "deep" / "nothing").chmod(0o444)
    (root / "sub" / "twin").symlink_to("blob")
    os.link(str(root / "run.sh"), str(root / "sub" / "same"))
    (root / "sub" / "deep").chmod(0o750)
    for name in ("-rf", "a b", "*", "$HOME", "q'\"", "new\nline", "c:d", "ü\u0301\U0001f600"):
        (root / name).write_text(name)
    with open(os.fsencode(str(root)) + b"/not-utf8-\xff", "wb") as file:
        file.write(b"x")


def web_server():
    """An HTTP server in a thread; whoever asks gets the path back."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = ("you asked for " + self.path).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return None


# -- what "Done" means


@pytest.mark.slow
@own_connection
def test_a_day_with_a_pod(api, sshd, pod, home, podstack_process):
    """Create, logs, exec, cp, port-forward, stop, start, delete: one after the other."""
    api.log_seconds, api.reads_until_running = 0.05, 0
    run = podstack_process
    made = run("pod", "create", "--name", "day", "--image", "pytorch", "--wait", "-q")
    assert re.match(r"pod-\w+\n$", made.out) and made.err == ""

    with running("pod", "logs", "day", "--follow", stdout=subprocess.PIPE) as log:
        line = next(line for line in log.stdout if line.startswith(b"step 5"))
        assert line == b"step 5\n"
        log.send_signal(signal.SIGINT)
        assert log.wait(30) == 130

    failed = run("pod", "exec", "day", "--", "sh", "-c", "exit 7", code=7)
    assert (failed.out, failed.err) == ("", "")

    data = os.urandom(10 * 1000 * 1000)
    (home / "in").write_bytes(data)
    with open("in", "rb") as source, open("out", "wb") as sink:
        words = ["pod", "exec", "day", "-i", "--", "cat"]
        with running(*words, stdin=source, stdout=sink) as copy:
            assert copy.wait(60) == 0
    assert (home / "out").read_bytes() == data

    (home / "tree").mkdir()
    plant(home / "tree")
    run("pod", "cp", "tree", "day:there")
    assert tree(pod / "there") == tree(home / "tree")
    run("pod", "cp", "day:there", "back")
    assert tree(home / "back") == tree(home / "tree")

    web, local = web_server(), free_port()
    forward = "%d:%d" % (local, web.server_address[1])
    with running("pod", "port-forward", "day", forward) as forwarder:
        url = "http://127.0.0.1:%d/hello" % local
        assert eventually(lambda: fetch(url)) == "you asked for /hello"
        forwarder.send_signal(signal.SIGINT)
        assert forwarder.wait(30) == 130
    assert fetch(url) is None
    web.shutdown()
    web.server_close()

    assert run("pod", "stop", "day", "--wait").err.endswith("Pod 'day' is stopped\n")
    refused = run("pod", "exec", "day", "--", "true", code=1)
    assert refused.err == (
        "Error: Pod 'day' cannot be connected to: it is stopped\n"
        "Start it: podstack pod start day --wait\n"
    )
    assert run("pod", "start", "day", "--wait").err.endswith("Pod 'day' is running\n")
    assert run("pod", "delete", "day", "--force", "--wait").err.endswith("Pod 'day' is gone\n")
    assert run("pod", "get", "day", code=6).error == "Error: Pod 'day' not found"


# -- exec and ssh

WORDS = [
    "", " ", "a b", "'", '"', "\\", "\\n", "$HOME", "$(id)", "`id`", "a;b", "a&b|c>d<e", "&&", "*",
    "?", "[a-z]", "~", "{a,b}", "!x", "#c", "%s", "-n", "--", "--tty", "-it", "=x", "a=b", "a\nb",
    "a\tb", "\\'$(id)\\'", "\r", "\x1b[31m", "caf\u00e9", "\u65e5\u672c", "\U0001f600", "e\u0301",
    "\udcff", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("shell", ["zsh", "fish", *slow("bash", "dash", "busybox sh")])
@own_connection
def test_words_arrive_as_typed(pod, cli, capfd, shell):
    need(shell.split()[0])
    pod.enter(shell=shell)
    show = "import sys; print(ascii(sys.argv[1:]))"
    cli("pod", "exec", "ci-pod", "--", sys.executable, "-c", show, *WORDS)
    assert capfd.readouterr().out == ascii(WORDS) + "\n"


def test_the_words_are_not_a_script_of_their_own(pod, cli, capfd):
    cli("pod", "exec", "ci-pod", "--", "echo hi; touch broken", code=127)
    assert not (pod / "broken").exists()


@pytest.mark.parametrize("code", [42, *slow(0, 1, 2, 126, 255)])
def test_exec_ends_with_the_exit_code_of_the_command(pod, cli, capfd, code):
    done = cli("pod", "exec", "ci-pod", "--", "sh", "-c", "exit %d" % code, code=code)
    assert (done.out, done.err) == ("", "")
    assert capfd.readouterr().err == ""


def test_exec_keeps_stdout_and_stderr_apart(pod, cli, capfd):
    cli("pod", "exec", "ci-pod", "--", "sh", "-c", "echo out; echo err >&2")
    assert capfd.readouterr() == ("out\n", "err\n")


def test_a_command_killed_in_the_pod(pod, cli, capfd):
    assert cli("pod", "exec", "ci-pod", "--", "sh", "-c", "kill -9 $$", code=None).code != 0


@own_connection
def test_stdin_is_passed_on_only_when_asked_for(pod, podstack_process):
    words = ["pod", "exec", "ci-pod"]
    data = bytes(range(256)) * 10
    kept = podstack_process(*words, "--", "wc", "-c", stdin=data)
    assert kept.out.strip() == "0"
    passed = podstack_process(*words, "-i", "--", "sha256sum", stdin=data)
    assert passed.out.split()[0] == hashlib.sha256(data).hexdigest()


@own_connection
def test_a_terminal_in_the_pod(pod, terminal):
    """-it: a shell with a terminal of its own, whose Ctrl-C is the command's and not ours."""
    screen = terminal("pod", "exec", "ci-pod", "-it", "--", "sh", "-c", "tty; exec sh -i")
    screen.expect(r"/dev/pts/\d+")
    screen.expect(r"[$#] ")
    # read and not sleep: dash loses an interrupt that comes while it starts a program
    screen.type("sh -c 'echo at w\"\"ork; read line'\n")
    screen.expect("at work")
    screen.type("\x03")
    screen.expect(r"\^C\s+[$#] ")  # only now is the shell the reader again
    screen.type("exit 9\n")
    assert screen.end() == 9


@own_connection
def test_ssh_opens_a_shell_and_ends_with_its_exit_code(pod, terminal):
    screen = terminal("pod", "ssh", "ci-pod")
    screen.expect(r"[$#] ")
    screen.type("pwd; exit 5\n")
    assert screen.end() == 5
    assert str(pod) in screen.shown


@own_connection
def test_ctrl_c_ends_a_command_without_a_terminal(pod, terminal):
    screen = terminal("pod", "exec", "ci-pod", "--", "sh", "-c", "echo on its way; sleep 1000")
    screen.expect("on its way")
    screen.type("\x03")
    assert screen.end() == 130
    assert "Error" not in screen.shown and "Traceback" not in screen.shown


@own_connection
def test_a_request_to_end_reaches_ssh(pod):
    """Whoever ends podstack in the background ends its ssh, too: the port is free again."""
    with running("pod", "exec", "ci-pod", "--", "sh", "-c", "echo $PPID; exec sleep 1000",
                 stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout.readline().strip().isdigit()
        process.terminate()
        assert process.wait(30) == 143
        assert process.stdout.read() == b""  # nobody holds its other end any more


def test_a_request_to_end_that_comes_before_ssh_is_there_reaches_it_too():
    class Early(podstack.App):
        def start(self, *words):  # the last step before ssh starts
            os.kill(os.getpid(), signal.SIGTERM)
            return super().start(*words)

    app = Early(io.StringIO(), io.StringIO(), io.StringIO(), {})
    assert app.hand_over(["sleep", "60"], timeout=30) == 128 + signal.SIGTERM


# OpenSSH 9.2 sleeps on when a signal comes just before it waits; so does this one, always.
DEAF_TO_THE_FIRST = """\
#!/bin/sh
trap 'trap "exit 255" INT TERM' INT TERM
echo ready
while :; do sleep 0.05; done
"""


@pytest.fixture
def deaf_ssh(api, tmp_path, monkeypatch):
    (tmp_path / "ssh").write_text(DEAF_TO_THE_FIRST)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (tmp_path, os.environ["PATH"]))
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    api.add_pods(1, name="ci-pod", ssh_command="ssh root@h")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_ssh_has_lost_is_sent_again(deaf_ssh, number):
    with running("pod", "exec", "ci-pod", "--", "x", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number


def test_the_end_at_a_time_limit_is_asked_for_again(deaf_ssh):
    words = ["pod", "exec", "ci-pod", "--timeout", "0.5", "--", "x"]
    with running(*words, stdout=subprocess.PIPE) as process:
        assert process.wait(30) == 1
        error = b"Error: The command has not ended within 0.5 s\nGive it longer: --timeout S\n"
        assert process.stderr.read() == error


@own_connection
def test_what_nohup_ignores_stays_ignored(pod):
    words = ["pod", "exec", "ci-pod", "-i", "--", "sh", "-c", "echo ready; cat"]
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(*words, program=nohup, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        with open("/proc/%d/task/%d/children" % (process.pid, process.pid)) as file:
            ssh = int(file.read())
        for pid in (process.pid, ssh):
            os.kill(pid, signal.SIGHUP)
        assert process.communicate(b"still here", timeout=30)[0] == b"still here"
        assert process.returncode == 0


@own_connection
def test_a_time_limit(pod, cli, capfd):
    words = ["pod", "exec", "ci-pod", "--timeout", "0.5", "--"]
    done = cli(*words, "sleep", "1000", code=1)
    assert (
        done.err == "Error: The command has not ended within 0.5 s\nGive it longer: --timeout S\n"
    )
    cli("pod", "exec", "ci-pod", "--timeout", "60", "--", "true")


@pytest.mark.slow
@own_connection
def test_the_time_limit_gives_the_terminal_back(pod, terminal):
    words = "pod exec ci-pod -it --timeout 1 -- sleep 1000; stty -a"
    script = "%s -B %s %s" % (sys.executable, PODSTACK, words)
    shell = terminal(program=["/bin/sh", "-c", script])
    shell.end()
    assert "has not ended within 1 s" in shell.shown
    assert re.search(r" icanon .* echo ", shell.shown, re.DOTALL)


def test_a_name_or_an_id_names_the_pod(api, pod, cli, capfd):
    word = api.pods_of(api.account_of("user@example.com"), None)[0]["id"]
    cli("pod", "exec", word, "--", "true")
    cli("pod", "exec", "nobody", "--", "true", code=6)


def test_without_ssh_there_is_a_plain_error(pod, cli):
    done = cli("pod", "ssh", "ci-pod", env={"PATH": "/nowhere"}, code=1)
    assert done.err == "Error: ssh is not installed\nInstall OpenSSH's client\n"


@own_connection
def test_a_host_key_that_the_user_does_not_know_is_the_users_to_judge(sshd, pod, cli, capfd):
    known = sshd.folder / "known"
    kept = known.read_text()
    known.write_text("")
    try:
        cli("pod", "exec", "ci-pod", "--", "true", code=255)
        assert "Host key verification failed." in capfd.readouterr().err
    finally:
        known.write_text(kept)


def test_the_token_stays_here(pod, cli, capfd):
    cli("pod", "exec", "ci-pod", "--", "env")
    assert USER not in capfd.readouterr().out


# -- cp


def lay(root, *paths):
    """Files (each holding its own name) and directories (a name that ends in /) below a root."""
    for path in paths:
        whole = root / path
        if path.endswith("/"):
            whole.mkdir(parents=True, exist_ok=True)
        else:
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text("%s of %s" % (path, root.name))


CP_CASES = [
    pytest.param("file", "new", (), id="file-to-a-new-name"),
    pytest.param("file", "old", ("old",), id="file-over-a-file"),
    pytest.param("file", "dir", ("dir/",), id="file-into-a-directory"),
    pytest.param("file", "dir/", ("dir/file",), id="file-over-one-in-a-directory"),
    pytest.param("file", ".", (), id="file-into-here"),
    pytest.param("file", "dir", ("dir/file/",), id="file-over-a-directory"),
    pytest.param("file", "nowhere/new", (), id="file-into-nothing"),
    pytest.param("file", "nowhere/", (), id="file-into-nothing-with-a-slash"),
    pytest.param("tree", "new", (), id="tree-to-a-new-name"),
    pytest.param("tree", "new/", (), id="tree-to-a-new-name-with-a-slash"),
    pytest.param("tree", "dir", ("dir/kept",), id="tree-into-a-directory"),
    pytest.param("tree", "dir", ("dir/tree/kept", "dir/tree/a"), id="tree-over-a-tree"),
    pytest.param("tree/", "dir/", ("dir/tree/sub/kept",), id="tree-with-a-slash-over-a-tree"),
    pytest.param("tree/.", "dir", ("dir/sub/kept", "dir/a"), id="contents-over-a-tree"),
    pytest.param("tree/.", "new", (), id="contents-to-a-new-name"),
    pytest.param("tree", "file", ("file",), id="tree-over-a-file"),
    pytest.param("tree", "dir", ("dir/tree",), id="tree-over-a-file-in-a-directory"),
    pytest.param("tree", "dir", ("dir/tree/a/",), id="tree-with-a-file-over-a-directory"),
    pytest.param("tree", "nowhere/new", (), id="tree-into-nothing"),
    pytest.param("empty", "new", (), id="empty-directory"),
    pytest.param("nothing", "new", (), id="what-is-not-there"),
    pytest.param("tree/sub", "dir", ("dir/",), id="from-below"),
]


@pytest.mark.slow
@pytest.mark.parametrize("up", [True, False], ids=["to-the-pod", "from-the-pod"])
@pytest.mark.parametrize("source, target, there", CP_CASES)
def test_copies_land_where_cp_puts_them(pod, home, cli, capfd, source, target, there, up):
    origin, goal = (home, pod.path) if up else (pod.path, home)
    expected = home.parent / "expected"
    lay(origin, "from/file", "from/tree/a", "from/tree/sub/b", "from/empty/")
    lay(goal, "to/", *("to/" + path for path in there))
    shutil.copytree(str(goal / "to"), str(expected))
    before = tree(expected)
    copied = subprocess.run(
        ["cp", "-rp", "from/" + source, str(expected / "x")[:-1] + target], cwd=str(origin),
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    words = ["from/" + source, "ci-pod:to/" + target]
    if not up:
        words = ["ci-pod:from/" + source, "to/" + target]
    done = cli("pod", "cp", *words, code=None)
    assert (done.code == 0) == (copied.returncode == 0), done
    if done.code == 0:
        assert tree(goal / "to") == tree(expected)
        assert re.match(r"Copied \S+ to \S+\n$", done.err)
    else:  # cp goes on after a failure; here nothing that was there is harmed
        assert done.error and before.items() <= tree(goal / "to").items()


def test_paths_in_the_pod(pod, home, cli, capfd):
    """They start at its home: `x`, `~/x` and `./x` are one file, `/x` is not."""
    (home / "file").write_text("x")
    for place in ("one", "~/two", "./three", "%s/four" % pod):
        done = cli("pod", "cp", "file", "ci-pod:" + place)
        assert done.err == "Copied file to ci-pod:%s\n" % place
    assert sorted(os.listdir(str(pod))) == ["four", "one", "three", "two"]
    cli("pod", "cp", "ci-pod:~", "all")
    assert sorted(os.listdir("all")) == ["four", "one", "three", "two"]
    assert cli("pod", "cp", "-q", "file", "ci-pod:~/five").err == ""


ODD_NAMES = [
    "-rf", "--", "-oProxyCommand=touch broken", "--checkpoint-action=exec=sh", "-T", "@x", "a b",
    " lead", "trail ", "*", "?", "[a]", "{a,b}", "~", "~root", "$HOME", "$(touch broken)",
    "`touch broken`", "a;touch broken", "a&b", "a|b", "a>b", "<a", "'", '"', "a'b\"c", "\\", "\\n",
    "a\nb", "a\n", "\tb", "\r", "\x1b[31m", "c:d", "user@host:x", "#a", "!a", "%s", "=a",
    ".hidden", "..a", "...", "caf\u00e9", "cafe\u0301", "\u65e5\u672c", "\U0001f600", "\u202egnp",
    "\udcff", "x" * 200,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_any_name_of_a_file_is_a_name(pod, home, cli, capfd, name):
    """Named on the command line and below a directory, to the pod and back."""
    (home / "in").mkdir()
    (home / "in" / name).write_text("what is in it")
    cli("pod", "cp", "-q", "./in/" + name, "ci-pod:./" + name)
    assert (pod / name).read_text() == "what is in it"
    cli("pod", "cp", "-q", "ci-pod:./" + name, "back")
    assert (home / "back").read_text() == "what is in it"
    assert os.listdir(str(pod)) == [name] and sorted(os.listdir(".")) == ["back", "in"]


@own_connection
def test_a_tree_with_all_odd_names(pod, home, cli, capfd):
    (home / "in").mkdir()
    for name in ODD_NAMES:
        (home / "in" / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    cli("pod", "cp", "in", "ci-pod:in")
    assert tree(pod / "in") == tree(home / "in")
    cli("pod", "cp", "ci-pod:in", "back")
    assert tree(home / "back") == tree(home / "in")


def test_an_interrupt_that_a_copys_read_has_missed_ends_it_too():
    """As when it comes just before the read blocks: nothing wakes the main thread up."""
    app = podstack.App(io.StringIO(), io.StringIO(), io.StringIO(), dict(os.environ))

    def read(stream):
        def interrupt():
            time.sleep(0.05)  # so that the read blocks
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        stream.read(1)

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        app.pipe(["sleep", "20"], drain=read)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("words", [("ci-pod:x", "got"), ("tree", "ci-pod:x")])
def test_ctrl_c_ends_a_copy_whatever_still_holds_its_pipes(
    deaf_ssh, home, terminal, tmp_path, words
):
    (tmp_path / "ssh").write_text("#!/bin/sh\ntrap '' INT TERM\necho ready >&2\nsleep 60\n")
    (home / "tree").mkdir()
    (home / "tree" / "big").write_bytes(bytes(3000000))
    screen = terminal("pod", "cp", *words)
    screen.expect("ready")
    screen.type("\x03")
    assert screen.end() == 130
    assert os.listdir(str(home)) == ["tree"]


def slow_tar(pod, tmp_path, pipeline):
    """Give the pod a tar whose stream stops half-way: `reached` is there then, `go` lets it on."""
    reached, go, programs = tmp_path / "reached", tmp_path / "go", tmp_path / "podbin"
    programs.mkdir()
    half = "{ head -c 200000; touch %s; while [ ! -e %s ]; do sleep 0.05; done; cat; }" % (
        reached,
        go,
    )
    (programs / "tar").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exec %s "$@"\n%s\n'
        % (shutil.which("tar"), pipeline % {"half": half, "tar": shutil.which("tar") + ' "$@"'})
    )
    (programs / "tar").chmod(0o755)
    pod.enter(path="%s:%s" % (programs, os.environ["PATH"]))
    return reached, go


UPLOAD, DOWNLOAD = "%(half)s | %(tar)s", "%(tar)s | %(half)s"


@pytest.mark.parametrize("end", [signal.SIGKILL, *slow(signal.SIGINT, signal.SIGTERM)])
@own_connection
def test_a_copy_to_the_pod_cut_short_leaves_what_was_there(pod, home, tmp_path, end):
    (home / "big").write_bytes(os.urandom(3000000))
    (pod / "big").write_text("old")
    reached, go = slow_tar(pod, tmp_path, UPLOAD)
    with running("pod", "cp", "big", "ci-pod:big") as copy:
        eventually(reached.exists)
        assert len(os.listdir(str(pod))) == 2
        copy.send_signal(end)
        assert copy.wait(30) == (130 if end == signal.SIGINT else -end)
        go.write_text("")
    eventually(lambda: os.listdir(str(pod)) == ["big"])
    assert (pod / "big").read_text() == "old"


@pytest.mark.parametrize("end", [signal.SIGINT, *slow(signal.SIGKILL)])
@own_connection
def test_a_copy_from_the_pod_cut_short_leaves_what_was_there(pod, home, tmp_path, end):
    (pod / "big").write_bytes(os.urandom(3000000))
    (home / "big").write_text("old")
    reached, go = slow_tar(pod, tmp_path, DOWNLOAD)
    with running("pod", "cp", "ci-pod:big", "big") as copy:
        eventually(reached.exists)
        copy.send_signal(end)
        assert copy.wait(30) == (130 if end == signal.SIGINT else -end)
        go.write_text("")
    assert (home / "big").read_text() == "old"
    if end == signal.SIGINT:
        assert os.listdir(str(home)) == ["big"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("big", "ci-pod:big"), ("ci-pod:big", "big")], ids=["to", "from"]
)
def test_a_copy_shows_how_far_it_is_on_a_terminal_alone(
    pod, home, tmp_path, terminal, podstack_process, words
):
    for place in (home, pod):
        (place / "big").write_bytes(os.urandom(3000000))
    quiet = podstack_process("pod", "cp", *words)
    assert quiet.err == "Copied %s to %s\n" % words
    reached, go = slow_tar(pod, tmp_path, UPLOAD if words[0] == "big" else DOWNLOAD)
    screen = terminal("pod", "cp", *words)
    eventually(reached.exists)
    go.write_text("")
    screen.expect(r"Copying: \d MB")
    assert screen.end() == 0
    assert screen.shown.endswith("\r\x1b[2KCopied %s to %s\r\n" % words)


def test_an_archive_without_its_end_is_no_tree(pod, home, tmp_path, cli, capfd):
    """Cut between two members a tar looks whole: the copy to the pod tells by its last member."""
    lay(home, "in/a", "in/b")
    programs = tmp_path / "podbin"
    programs.mkdir()
    (programs / "tar").write_text('#!/bin/sh\nhead -c 512 | %s "$@"\n' % shutil.which("tar"))
    (programs / "tar").chmod(0o755)
    pod.enter(path="%s:%s" % (programs, os.environ["PATH"]))
    assert cli("pod", "cp", "in", "ci-pod:in", code=1).error.startswith(
        "Error: The copy has failed ("
    )
    assert os.listdir(str(pod)) == []


def test_what_ssh_says_after_the_copy_is_told(deaf_ssh, home, tmp_path, podstack_process):
    """Its stdin has ended for three seconds by then, and most of it is read when ssh has ended."""
    (home / "file").write_text("x")
    late = "cat >/dev/null\nsleep 3\nyes late | head -n 5000 >&2\nexit 9\n"
    (tmp_path / "ssh").write_text("#!/bin/sh\n" + late)
    done = podstack_process("pod", "cp", "file", "ci-pod:x", code=1)
    assert done.err == "late\n" * 5000 + "Error: The copy has failed (exit code 9)\n"


def test_what_is_not_in_the_pod_is_named(pod, cli):
    done = cli("pod", "cp", "ci-pod:a b/none", "there", code=6)
    assert done.err == (
        "Error: ./a b/none: no such file or directory in pod 'ci-pod'\n"
        "See what there is: podstack pod exec ci-pod -- ls\n"
    )


def test_a_pod_without_tar(pod, home, tmp_path, cli, capfd):
    (home / "file").write_text("x")
    (tmp_path / "few").mkdir()
    for name in ("sh", "mkdir", "mv", "rm", "grep"):
        (tmp_path / "few" / name).symlink_to(shutil.which(name))
    pod.enter(path=str(tmp_path / "few"))
    assert cli("pod", "cp", "file", "ci-pod:x", code=1).err.endswith(
        "Error: The copy has failed (exit code 127)\nA copy needs sh and tar in the pod\n"
    )


def test_busybox_is_enough_of_a_pod(pod, home, tmp_path, cli, capfd):
    need("busybox")
    (tmp_path / "few").mkdir()
    for name in ("sh", "tar", "mkdir", "mv", "rm", "grep"):
        (tmp_path / "few" / name).symlink_to(shutil.which("busybox"))
    pod.enter(shell="sh", path=str(tmp_path / "few"))
    (home / "in").mkdir()
    plant(home / "in")
    for _ in range(2):
        cli("pod", "cp", "in", "ci-pod:in")
        cli("pod", "cp", "ci-pod:in", "back")
    assert tree(pod / "in")["in"][0] == "directory" and "in/run.sh" in tree(pod / "in")
    assert tree(pod / "in" / "in") == tree(home / "in")
    shutil.rmtree("back/in/in")
    assert tree(home / "back" / "in") == tree(home / "in")


def test_what_is_named_is_followed_and_what_is_below_is_not(pod, home, cli, capfd):
    lay(home, "real/file")
    (home / "named").symlink_to("real")
    (home / "real" / "link").symlink_to("file")
    cli("pod", "cp", "named", "ci-pod:x")
    assert not (pod / "x").is_symlink() and os.readlink(str(pod / "x" / "link")) == "file"
    cli("pod", "cp", "ci-pod:x/link", "back")
    assert not (home / "back").is_symlink() and (home / "back").read_text() == "real/file of home"


def test_what_is_no_file_is_left_out_and_named(pod, home, cli, capfd):
    lay(home, "in/a")
    lay(pod.path, "in/a")
    for place in (home, pod):
        os.mkfifo(str(place / "in" / "pipe"))
    sent = cli("pod", "cp", "in", "ci-pod:there")
    assert "Warning: left out: pipe is neither a file nor a directory\n" in sent.err
    assert os.listdir(str(pod / "there")) == ["a"]
    got = cli("pod", "cp", "ci-pod:in", "back")
    assert "Warning: left out: pipe (it leads to no file)\n" in got.err
    assert os.listdir("back") == ["a"]


@pytest.mark.parametrize(
    "words, error",
    [
        (("a", "b"), "One of SRC and DST must be POD:PATH, the other a path here"),
        (("p:a", "q:b"), "One of SRC and DST must be POD:PATH, the other a path here"),
        (("./p:a", "/q:b"), "One of SRC and DST must be POD:PATH, the other a path here"),
        (("p:", "b"), "'p:' names no path in the pod"),
        (("nothing", "ci-pod:b"), "nothing does not exist\nSee what there is: ls\n"),
        (
            ("ci-pod:b", "no/where"),
            "Cannot write no/where: No such file or directory\nLook where it goes: ls -ld no\n",
        ),
        (("user@host:x", "b"), "Pod 'user@host' not found"),
        (("scp://host/x", "b"), "Pod 'scp' not found"),
        (("-oProxyCommand=x:y", "b"), "--output must be table"),
        (("--", "-oProxyCommand=x:y", "b"), "Pod '-oProxyCommand=x' not found"),
        (("a b\n:y", "b"), "Pod 'a b\\x0a' not found"),
    ],
    ids=lambda value: ascii(value) if isinstance(value, tuple) else "",
)
def test_places_that_cannot_be(pod, cli, words, error):
    assert cli("pod", "cp", *words, code=None).err.startswith("Error: " + error)


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_every_python_copies_alike(pod, home, podstack_process, version, locale):
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = functools.partial(podstack_process, python=PYTHONS[version], env=env)
    (home / "in").mkdir()
    plant(home / "in")
    run("pod", "cp", "in", "ci-pod:in")
    run("pod", "cp", "ci-pod:in", "back")
    run("pod", "cp", "in/.", "ci-pod:in")
    run("pod", "cp", "ci-pod:in/.", "back")
    assert tree(pod / "in") == tree(home / "in") == tree(home / "back")
    assert run("pod", "exec", "ci-pod", "-i", "--", "cat", stdin=b"x").out == "x"


@pytest.mark.slow
def test_a_big_file_is_never_in_memory(pod, home, cli, capfd):
    """400 MB both ways within 60 MB more than before."""
    with open("big", "wb") as file:
        file.truncate(400 * 1000 * 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cli("pod", "cp", "big", "ci-pod:big")
    cli("pod", "cp", "ci-pod:big", "back")
    assert os.path.getsize("back") == os.path.getsize("big")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60000


# -- what a pod might send


def member(name, kind=tarfile.REGTYPE, data=b"", **facts):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def archive(*members):
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        return file.getvalue()


def link(goal, kind=tarfile.SYMTYPE, name="./x"):
    return member(name, kind, linkname=goal)


HARD = tarfile.LNKTYPE
TOP = member(".", tarfile.DIRTYPE, mode=0o755)
DEEP = [TOP] + [member(name, tarfile.DIRTYPE, mode=0o755) for name in ("d", "d/e")]
EVIL = b"evil"
HOSTILE = [
    pytest.param([TOP, member("../escaped", data=EVIL)], id="dots"),
    pytest.param([TOP, member("../../escaped", data=EVIL)], id="more-dots"),
    pytest.param([TOP, member("../../../victim", data=EVIL)], id="still-more-dots"),
    pytest.param([TOP, member("./../../escaped", data=EVIL)], id="dots-inside"),
    pytest.param([TOP, member("../../escaped", tarfile.DIRTYPE)], id="a-directory-outside"),
    pytest.param([TOP, member("/escaped", data=EVIL)], id="absolute"),
    pytest.param([TOP, member("//escaped", data=EVIL)], id="absolute-twice"),
    pytest.param([member("..", tarfile.DIRTYPE), member("../x", data=EVIL)], id="dots-first"),
    pytest.param([TOP, link(".."), member("./x/escaped", data=EVIL)], id="through-a-link"),
    pytest.param([TOP, link("../victim"), member("./x", data=EVIL)], id="over-a-link"),
    pytest.param([TOP, link("/etc/passwd")], id="link-to-root"),
    pytest.param([TOP, link("a/../../victim")], id="link-out"),
    pytest.param([TOP, link("../victim", HARD), member("./x", data=EVIL)], id="hard-link-out"),
    pytest.param([TOP, link("../../../victim", HARD)], id="hard-link-far-out"),
    pytest.param([TOP, link("/victim", HARD)], id="hard-link-to-root"),
    pytest.param(DEEP + [link("../..", name="d/e/up"), link("d/e/up/..")], id="links-out-in-turn"),
    pytest.param(DEEP + [link("../..", name="d/e/up"), link("e/up/..", name="d/x")],
                 id="links-out-in-turn-from-below"),
    pytest.param(DEEP + [link("../..", name="d/e/up"), link("d/e/up/.."),
                         link("got/d", name="x/planted")], id="link-behind-a-link"),
    pytest.param([TOP, link("nowhere/.."), link("victim", name="x/planted")], id="link-in-vain"),
    pytest.param([TOP, link("x", name=".")], id="link-of-no-name"),
    pytest.param([TOP, member("./x", tarfile.CHRTYPE, devmajor=1, devminor=3)], id="device"),
    pytest.param([TOP, member("./x", tarfile.FIFOTYPE)], id="pipe"),
    pytest.param([TOP, member("./x", data=EVIL), member("./x", data=EVIL)], id="twice"),
    pytest.param([TOP, member("./x", data=EVIL), member("./x/y", data=EVIL)], id="below-a-file"),
    pytest.param([TOP, member("./x", tarfile.DIRTYPE), member("./x")], id="on-a-directory"),
    pytest.param([TOP, member("./x", data=EVIL, mtime=1 << 62)], id="time-of-no-clock"),
    pytest.param([member("x", data=EVIL), member("../escaped", data=EVIL)], id="file-and-more"),
    pytest.param([member("./" + "x" * 300, data=EVIL)], id="too-long"),
    pytest.param([], id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize("members", HOSTILE)
def test_a_hostile_pod_writes_nowhere_else(api, home, tmp_path, cli, monkeypatch, members):
    """Whatever comes through ssh, only the goal can change."""
    lay(home, "victim", "place/")
    (tmp_path / "bin").mkdir()
    (tmp_path / "evil.tar").write_bytes(archive(*members))
    (tmp_path / "bin" / "ssh").write_text("#!/bin/sh\nexec cat %s/evil.tar\n" % tmp_path)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", "%s/bin:%s" % (tmp_path, os.environ["PATH"]))
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    api.add_pods(1, name="ci-pod")
    done = cli("pod", "cp", "ci-pod:wanted", "place/got", code=None)
    assert done.code in (0, 1) and (done.code == 0 or done.error), done
    assert sorted(os.listdir(str(home))) == ["place", "victim"]
    assert (home / "victim").read_text() == "victim of home"
    assert (home / "victim").stat().st_nlink == 1
    assert set(os.listdir("place")) <= {"got"}
    got = os.path.realpath("place/got")
    for name, (kind, *_) in tree(home / "place").items():
        leads = os.path.realpath(os.path.join("place", name))
        assert kind != "link" or (leads + "/").startswith(got + "/"), (name, leads)
    assert not os.path.exists("/escaped")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_without_end_is_not_read_into_memory(tmp_path, kind):
    """tarfile would take in whatever size it states."""
    info, _ = member("x", kind)
    info.size = 1 << 40
    stream = io.BytesIO(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 21))
    app = podstack.App(None, None, None, {})
    assert podstack.unpack(app, stream, str(tmp_path)) is False
    assert stream.tell() < 1 << 20


@pytest.mark.parametrize("words", [("ci-pod:wanted", "got"), ("victim", "ci-pod:got")])
def test_what_a_pod_says_of_a_copy_is_never_raw(pod, home, tmp_path, cli, capfd, words):
    """Its stderr would else set the terminal's title, or type into it."""
    lay(pod.path, "wanted/a")
    lay(home, "victim")
    programs = tmp_path / "podbin"
    programs.mkdir()
    (programs / "tar").write_text("#!/bin/sh\nprintf '\\033]0;own\\007ed\\nmore' >&2\nexit 3\n")
    (programs / "tar").chmod(0o755)
    pod.enter(path="%s:%s" % (programs, os.environ["PATH"]))
    done = cli("pod", "cp", *words, code=1)
    assert "\\x1b]0;own\\x07ed\nmore\n" in done.err
    assert "\x1b" not in capfd.readouterr().err


def test_setuid_bits_do_not_arrive(pod, home, cli, capfd):
    (pod / "x").write_text("x")
    (pod / "x").chmod(0o6755)
    cli("pod", "cp", "ci-pod:x", "x")
    assert stat.S_IMODE((home / "x").stat().st_mode) == 0o755


@pytest.mark.parametrize("umask, mode", [(0o077, 0o600), (0o022, 0o644), (0, 0o666)])
def test_a_copy_is_as_open_as_the_umask_lets_it(pod, home, cli, umask, mode):
    (pod / "tree").mkdir()
    (pod / "tree" / "file").write_text("x")
    (pod / "tree" / "file").chmod(0o666)
    before = os.umask(umask)
    try:
        cli("pod", "cp", "ci-pod:tree", "tree")
        cli("pod", "cp", "ci-pod:tree/file", "file")
    finally:
        os.umask(before)
    for copy in (home / "tree" / "file", home / "file"):
        assert stat.S_IMODE(copy.stat().st_mode) == mode


def test_a_second_copy_does_not_write_through_a_link_of_the_first(pod, home, cli, capfd):
    """First a link that stays in the tree, then a directory in its place."""
    lay(pod.path, "w/real/")
    (pod / "w" / "x").symlink_to("real")
    cli("pod", "cp", "ci-pod:w/.", "got")
    (pod / "w" / "x").unlink()
    lay(pod.path, "w/x/planted")
    done = cli("pod", "cp", "ci-pod:w/.", "got", code=1)
    assert done.error == "Error: Cannot write got/.: Not a directory"
    assert os.listdir("got/real") == []


# -- hostile addresses


@pytest.fixture
def recorder(api, tmp_path, monkeypatch):
    """An `ssh` that only writes down its words; `recorder()` gives them, None if never run."""
    programs, log = tmp_path / "bin", tmp_path / "argv"
    programs.mkdir()
    (programs / "ssh").write_text('#!/bin/sh\nprintf "%%s\\0" "$@" >%s\n' % log)
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (programs, os.environ["PATH"]))
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    return lambda: log.read_text().split("\0")[:-1] if log.exists() else None


REFUSED = [
    "ssh -oProxyCommand=id root@h", "ssh -o ProxyCommand=id root@h",
    "ssh root@h -oProxyCommand=id", "ssh root@-oProxyCommand=id", "ssh -oProxyCommand=id",
    "ssh --", "ssh -- root@h", "ssh -p22 root@h", "ssh -p 22 -o X root@h", "ssh -p 22 root@h id",
    "ssh root@h id", "ssh root@h -p 22 id", "ssh", "ssh -p 22", "ssh root@h -p",
    "ssh -p -p root@h", "ssh -p root@h 22", "ssh -P 22 root@h", "ssh -F /tmp/x root@h",
    "ssh -J evil root@h", "ssh -i /etc/passwd root@h", "ssh -l root h", "ssh -v root@h",
    "ssh  root@h", " ssh root@h", "ssh root@h ", "ssh\troot@h", "ssh\nroot@h", "ssh root@h\n",
    "ssh root@h\0", "ssh root@h\r", "ssh root@h;id", "ssh root@h&&id", "ssh root@h|id",
    "ssh root@$(id)", "ssh root@`id`", "ssh $(id)@h", "ssh root@h>x", "ssh root@h'",
    'ssh "root@h"', "ssh root@h\\", "ssh root@", "ssh @h", "ssh root@h@i", "ssh -root@h",
    "ssh ro ot@h", "ssh ro:ot@h", "ssh root@h:22", "ssh root@[::1]", "ssh root@::1%lo",
    "ssh root@::g", "ssh root@h/x", "ssh ssh://h", "ssh root@h%x", "ssh root@*", "ssh root@h,i",
    "ssh r\u00f6\u00f6t@h", "ssh root@h\u00f6st", "ssh root@\uff48", "ssh \u202eroot@h",
    "ssh root@h\u2028", "ssh\u00a0root@h", "\uff53sh root@h", "ssh -p 0 root@h",
    "ssh -p 65536 root@h", "ssh -p -22 root@h", "ssh -p 22;id root@h", "ssh -p 2 2 root@h",
    "ssh -p \u0662\u0662 root@h", "ssh -p 0x16 root@h", "ssh -p 1e3 root@h",
    "ssh -p 000000000022 root@h", "ssh -p 1 root@h -p 2", "ssh -p 22 root@h\n", "ssh root@.h",
    "ssh root@:", "ssh .@h", "ssh root@h:h", "scp root@h", "bash -c id", "/bin/ssh root@h",
    "SSH root@h",
    "sshx h", "root@h", "h", "-", "ssh " + "r" * 100000, "s" * 1000000,
    "ssh " + "-p 22 " * 50 + "root@h", 12345, True, 2.5, ["ssh", "root@h"], {"ssh": "root@h"},
    [["-oProxyCommand=id"]],
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:40])
def test_an_address_that_is_not_plain_is_refused(api, recorder, cli, text):
    api.add_pods(1, name="ci-pod", ssh_command=text)
    done = cli("pod", "ssh", "ci-pod", code=1)
    assert done.err.startswith("Error: The pod's ssh_command is not a plain one: ")
    assert done.err.endswith("\nAsk Podstack's support\n")
    assert done.err.count("\n") == 2 and len(done.err) < 2200
    assert recorder() is None
    for words in (
        ["exec", "ci-pod", "--", "x"],
        ["cp", "ci-pod:x", "x"],
        ["port-forward", "ci-pod", "1:1"],
    ):
        cli("pod", *words, code=1)
    assert recorder() is None


def test_a_token_in_a_long_address_is_masked_before_that_is_cut(api, recorder, cli):
    api.add_pods(1, name="ci-pod", ssh_command="ssh %s %s" % ("v" * 188, USER))
    assert cli("pod", "ssh", "ci-pod", code=1).error.endswith("vv psk_***")


ACCEPTED = [
    ("ssh root@h", ["-p", "22", "-o", "User=root", "--", "h"]),
    ("ssh h", ["-p", "22", "--", "h"]),
    ("ssh -p 22022 root@127.0.0.1", ["-p", "22022", "-o", "User=root", "--", "127.0.0.1"]),
    ("ssh root@h.example.com -p 1", ["-p", "1", "-o", "User=root", "--", "h.example.com"]),
    ("ssh -p 65535 a-b_c.d@h", ["-p", "65535", "-o", "User=a-b_c.d", "--", "h"]),
    ("ssh root@fd00::1", ["-p", "22", "-o", "User=root", "--", "fd00::1"]),
    ("ssh root@UPPER", ["-p", "22", "-o", "User=root", "--", "UPPER"]),
]


@pytest.mark.parametrize("text, words", ACCEPTED, ids=[text for text, _ in ACCEPTED])
def test_a_plain_address_is_taken_apart(api, recorder, cli, text, words):
    api.add_pods(1, name="ci-pod", ssh_command=text)
    cli("pod", "ssh", "ci-pod")
    assert recorder() == words


def test_the_words_that_ssh_gets(api, recorder, cli):
    api.add_pods(1, name="ci-pod", ssh_command="ssh -p 2 root@h")
    address = ["-p", "2", "-o", "User=root"]
    cli("pod", "exec", "ci-pod", "--", "echo", "-n", "it's")
    assert recorder() == address + ["-T", "--", "h", "'echo' '-n' 'it'\\''s'"]
    cli("pod", "exec", "ci-pod", "-it", "--", "bash")
    assert recorder() == address + ["-t", "--", "h", "'bash'"]
    done = cli("pod", "port-forward", "ci-pod", "8888", "80:90")
    assert done.err == (
        "Forwarding 127.0.0.1:8888 to 8888, 127.0.0.1:80 to 90 of pod 'ci-pod'; Ctrl-C ends it\n"
    )
    forwards = ["-L", "127.0.0.1:8888:127.0.0.1:8888", "-L", "127.0.0.1:80:127.0.0.1:90"]
    fail = ["-N", "-T", "-o", "ExitOnForwardFailure=yes"]
    assert recorder() == address + fail + forwards + ["--", "h"]


NO_PORTS = [
    "", ":", "a", "1:", ":1", "0:1", "1:65536", "1:2:3", "-1", "1:-1", "1 :2", "h:80", "1:$(id)",
    "\u0661:\u0661", "1:0x50", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", NO_PORTS, ids=lambda text: ascii(text)[:20])
def test_ports_that_are_none_are_refused_before_anything_happens(api, recorder, cli, text):
    done = cli("pod", "port-forward", "ci-pod", "--", text, code=2)
    assert done.error.startswith("Error: LOCAL:REMOTE must be a port from 1 to 65535, not '")
    assert api.requests == [] and recorder() is None


@own_connection
def test_a_port_that_is_taken_is_an_error(pod, cli, capfd):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        forward = "%d:80" % taken.getsockname()[1]
        done = cli("pod", "port-forward", "ci-pod", forward, code=1)
    assert done.err.endswith(
        "Error: The connection to pod 'ci-pod' has ended\nSee how it is: podstack pod get ci-pod\n"
    )


@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_ctrl_c_ends_a_forward_that_it_kills_at_once(api, home, terminal, version):
    api.add_pods(1, name="ci-pod")
    (home / "ssh").write_text("#!/bin/sh\necho it runs\nexec sleep 1000\n")
    (home / "ssh").chmod(0o755)
    env = {"PATH": "%s:%s" % (home, os.environ["PATH"]), "PODSTACK_API_TOKEN": USER}
    words = (PYTHONS[version], PODSTACK)
    screen = terminal(program=["/bin/bash", "--norc", "-i"], env=env)
    screen.type("%s -B %s pod port-forward ci-pod 80; echo code $?; exit\n" % words)
    screen.expect("it runs")
    screen.type("\x03")
    assert screen.expect(r"code (\d+)").group(1) == "130", screen.shown

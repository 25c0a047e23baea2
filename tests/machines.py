"""Where podstack is installed in the tests: an origin that serves it, machines that have nothing.

Run as root the tests install as root into a scratch prefix and as an ordinary user (by setpriv)
into a home of its own; run as a user, as that user.
"""

import hashlib
import http.server
import os
import re
import ssl
import stat
import subprocess
import threading

from conftest import CHECKOUT, PODSTACK, Result, need

import podstack

SCRIPT = os.path.join(CHECKOUT, "install.sh")
IS_ROOT = os.geteuid() == 0
SYSTEM = "/usr/bin:/bin"


def read(path, mode="r"):
    with open(path, mode) as stream:
        return stream.read()


def program(version):
    return read(PODSTACK).replace('VERSION = "%s"' % podstack.VERSION, 'VERSION = "%s"' % version)


def make_certificate(folder):
    """Return a PEM file for get.podstack.ai and localhost: key and certificate; a `.crt` beside."""
    need("openssl")
    path = os.path.join(str(folder), "origin.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=get.podstack.ai", "-keyout", path, "-out", path + ".crt",
         "-addext", "subjectAltName=DNS:get.podstack.ai,DNS:localhost"],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with open(path, "a") as stream:
        stream.write(read(path + ".crt"))
    return path


class Origin(http.server.ThreadingHTTPServer):
    """What get.podstack.ai serves: `files`, and `asked` as (path, the client's program)."""

    daemon_threads = True

    def __init__(self, certificate=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.server_port
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.files, self.asked, self.stalled = {}, [], threading.Event()
        self.stall_at = None
        self.publish(podstack.VERSION)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def publish(self, version, text=None):
        data = (text or program(version)).encode()
        self.files["/cli"] = re.sub("(?m)^VERSION=.*", "VERSION=" + version, read(SCRIPT)).encode()
        self.files["/podstack.py"] = data
        line = "%s  podstack.py\n" % hashlib.sha256(data).hexdigest()
        self.files["/podstack.py.sha256"] = line.encode()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        client = self.headers.get("User-Agent", "").partition("/")[0]
        self.server.asked.append((self.path, client))
        body = self.server.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.path == self.server.stall_at:
            self.wfile.write(body[: len(body) // 2])
            self.server.stalled.set()
            self.rfile.read()  # until the client goes
            return
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


def snapshot(root, times=True):
    """Return {path: facts} of everything below `root`."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            is_file = stat.S_ISREG(facts.st_mode)
            content = read(path, "rb") if is_file else None
            kept = facts.st_mtime_ns if times else None
            found[os.path.relpath(path, root)] = (facts.st_mode, facts.st_uid, content, kept)
    return found


class Machine:
    """Where to install to: a `home`, who acts there, their PATH and folder for temporary files."""

    def __init__(self, root, uid=None):
        self.home, self.temporary = os.path.join(root, "home"), os.path.join(root, "tmp")
        self.wrapper = []
        for folder in (self.home, self.temporary):
            os.makedirs(folder)
        if uid is not None and IS_ROOT:
            need("setpriv")
            self.wrapper = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
            os.chmod(root, 0o755)
            for folder in (self.home, self.temporary):
                os.chown(folder, uid, uid)
        self.env = {
            "HOME": self.home, "TMPDIR": self.temporary, "LC_ALL": "C.UTF-8",
            "PATH": "%s/.local/bin:%s" % (self.home, SYSTEM),
        }  # fmt: skip

    def run(self, *argv, stdin=b"", code=0, **env):
        environ = {k: v for k, v in os.environ.items() if k.startswith("PODSTACK_")}
        environ.update(self.env)
        environ.update(env)
        done = subprocess.run(
            self.wrapper + list(argv), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={k: v for k, v in environ.items() if v is not None}, cwd=self.home, timeout=120,
        )  # fmt: skip
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert code is None or result.code == code, result
        assert os.listdir(self.temporary) == []
        return result

    def install(self, *options, shell=("sh",), code=0, script=None, **env):
        """Pipe install.sh into a shell, as the guide's line does."""
        script = read(SCRIPT).encode() if script is None else script
        return self.run(*shell, "-s", "--", *options, stdin=script, code=code, **env)

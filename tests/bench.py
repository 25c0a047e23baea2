#!/usr/bin/env python3
"""How fast the installed program is, next to what else could be called; all in one run.

    python3 tests/bench.py           a table of ratios with their targets
    python3 tests/bench.py --json    the same as JSON
    python3 tests/bench.py --runs N  medians of N interleaved runs (20)

The base is the bare interpreter: `python3 -I -S -c pass`. Only ratios within one run count, and
only on a quiet machine. As root it runs before other processes, and it also times requests over
TLS, to a server on this machine: in a private mount namespace its certificate authority stands
among the system's own.
"""

import argparse
import functools
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(HERE)
CERTIFICATES = "/etc/ssl/certs"
INSIDE = "PODSTACK_BENCH_INSIDE"
TOKEN = "psk_bench_token"
CONFIG = "auth:\n  token: %s\ndefaults:\n  project: my-project\n" % TOKEN
PEERS = (["gh", "auth", "token"], ["kubectl", "config", "current-context"])
# Started by a small process: a child's peak counts what its parent held when it forked.
PEAK = """import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
print(os.wait4(pid, 0)[2].ru_maxrss)"""


class Server(http.server.ThreadingHTTPServer):
    """A Podstack that answers at once, or after `delay` seconds: whoami, and `pages` of pods."""

    daemon_threads = True
    request_queue_size = 50
    delay, pages = 0.0, 1

    def __init__(self, certificate):
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.url = "https://127.0.0.1:%d" % self.server_port
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_GET(self):
        time.sleep(self.server.delay)
        page = re.search(r"[?&]page=(\d+)", self.path)
        body = page_of_pods(int(page.group(1)) if page else 1, self.server.pages)
        if "whoami" in self.path:
            body = b'{"email": "user@example.com", "account_id": "acc_123456"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@functools.lru_cache(maxsize=None)
def page_of_pods(page, pages):
    pods = [
        {"id": "pod-%d-%d" % (page, row), "name": "pod-%d-%d" % (page, row), "status": "running",
         "gpu_type": "A100", "gpu_count": 1, "created_at": "2024-01-15T00:00:00Z"}
        for row in range(100)
    ]  # fmt: skip
    told = {"page": page, "limit": 100, "total": 100 * pages, "pages": pages}
    return json.dumps({"data": pods, "pagination": told}).encode()


def make_certificate(folder):
    path = os.path.join(folder, "server.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=podstack-bench", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", path, "-out", path + ".crt"],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with open(path, "a") as both, open(path + ".crt") as certificate:
        both.write(certificate.read())
    return path


def trust(certificate, folder):
    """Put the certificate among the system's, in the mount namespace that we run in."""
    copied = os.path.join(folder, "certs")
    shutil.copytree(CERTIFICATES, copied, symlinks=True)
    with open(certificate) as stream, open(copied + "/ca-certificates.crt", "a") as bundle:
        bundle.write(stream.read())
    shutil.copy(certificate, copied)
    subprocess.run(["openssl", "rehash", copied], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["mount", "--bind", copied, CERTIFICATES], check=True)


class Bench:
    """A home and an install of this checkout; measures commands in turn."""

    def __init__(self, folder, runs):
        self.runs, self.rows = runs, []
        prefix = os.path.join(folder, "p")
        script = os.path.join(CHECKOUT, "install.sh")
        subprocess.run(["sh", script, "--quiet", "--prefix", prefix], check=True)
        self.podstack, self.prefix = prefix + "/bin/podstack", prefix
        with open(prefix + "/lib/podstack/receipt") as stream:
            self.python = re.search("(?m)^python (.*)$", stream.read()).group(1)
        os.makedirs(folder + "/home/.podstack")
        with open(folder + "/home/.podstack/config.yaml", "w") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(CONFIG)
        self.env = {
            "HOME": folder + "/home", "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8",
            "PODSTACK_API_ENDPOINT": "https://127.0.0.1:9",
        }  # fmt: skip
        self.base = [self.python, "-I", "-S", "-c", "pass"]

    def once(self, argv, env):
        started = time.perf_counter()
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pid = os.posix_spawn(argv[0], argv, dict(self.env, **env), file_actions=quiet)
        os.waitpid(pid, 0)
        return (time.perf_counter() - started) * 1000

    def medians(self, commands, runs=None):
        """Return the medians in ms of [(argv, env)], which run in turn."""
        times = [[] for _ in commands]
        for _ in range((runs or self.runs) + 1):
            for taken, (argv, env) in zip(times, commands):
                taken.append(self.once(argv, env))
        return [statistics.median(taken[1:]) for taken in times]  # the first warms the cache

    def row(self, what, value, unit, target=None):
        self.rows.append({"what": what, "value": round(value, 3), "unit": unit, "target": target})

    def local(self):
        mine = [
            ("--version", {}, 1.4),
            ("project current", {}, 1.4),
            ("config get defaults.project", {}, 1.4),
            ("auth token", {"PODSTACK_API_ENDPOINT": ""}, 1.4),
            ("auth token", {"PODSTACK_API_TOKEN": TOKEN}, 1.4),
            ("auth list --output json", {}, 3.3),
            ("pod create --help", {}, 3.3),
            ("pod list --limt 5", {}, 3.3),
            ("podd list", {}, 3.3),
        ]
        peers = [[shutil.which(peer[0])] + peer[1:] for peer in PEERS if shutil.which(peer[0])]
        curl = [[shutil.which("curl"), "--version"]] if shutil.which("curl") else []
        checkout = [self.python, os.path.join(CHECKOUT, "podstack.py"), "--version"]
        commands = [(self.base, {})]
        commands += [([self.podstack] + words.split(), env) for words, env, _ in mine]
        commands += [(argv, {}) for argv in [checkout] + curl + peers]
        base, *took = self.medians(commands)
        self.row("python3 -I -S -c pass, the base", base, "ms")
        for (words, env, target), spent in zip(mine, took):
            given = " (token from the environment)" if "PODSTACK_API_TOKEN" in env else ""
            self.row("podstack %s%s" % (words, given), spent / base, "x base", target)
        self.row("python3 podstack.py --version, from a checkout", took[len(mine)] / base,
                 "x base", 4.5)  # fmt: skip
        for argv, spent in zip(curl + peers, took[len(mine) + 1 :]):
            self.row(" ".join([os.path.basename(argv[0])] + argv[1:]), spent / base, "x base")
        for argv, spent in zip(peers, took[len(mine) + 1 + len(curl) :]):
            self.row("podstack auth token", took[3] / spent, "x " + os.path.basename(argv[0]), 0.25)

    def over_tls(self, server):
        env = {"PODSTACK_API_ENDPOINT": server.url, "PODSTACK_API_TOKEN": TOKEN}
        whoami = ([self.podstack, "auth", "whoami"], env)
        curl = ([shutil.which("curl"), "-s", "-H", "Authorization: Bearer " + TOKEN,
                 server.url + "/v1/auth/whoami"], {})  # fmt: skip
        token = ([self.podstack, "auth", "token"], env)
        listed = ([self.podstack, "pod", "list"], env)
        asked, curled, bare, one_page = self.medians([whoami, curl, token, listed])
        server.pages = 11
        (eleven,) = self.medians([listed])
        self.row("podstack auth whoami, over TLS", asked / curled, "x curl -s", 1.35)
        self.row("each further request of pod list", (eleven - one_page) / 10 / (asked - bare),
                 "x the first", 0.2)  # fmt: skip
        server.delay, server.pages = 0.03, 100
        pages = [curl[0][0], "-s", server.url + "/v1/pods?limit=100&page=[1-100]"]
        together, apart = self.medians([listed, (pages, {})], runs=2)
        self.row("100 pages at 30 ms each", together / apart, "x one by one", 0.2)
        server.delay, server.pages = 0.0, 1
        self.peak("podstack auth whoami", whoami, 24)

    def peak(self, what, command, target):
        argv, env = command
        done = subprocess.run(
            [self.python, "-I", "-S", "-c", PEAK] + argv, env=dict(self.env, **env),
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        self.row("peak memory of " + what, int(done.stdout) / 1024, "MiB", target)

    def size(self):
        total = 0
        for folder, _, names in os.walk(self.prefix):
            total += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
        self.row("installed, bytecode included", total / 1e6, "MB", 0.6)


def print_table(rows):
    print("%-58s %9s  %-12s %s" % ("", "measured", "", "target"))
    for row in rows:
        target = "" if row["target"] is None else "<= %g" % row["target"]
        over = "" if row["target"] is None or row["value"] <= row["target"] else "  OVER"
        print("%-58s %9.2f  %-12s %s%s" % (row["what"], row["value"], row["unit"], target, over))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    tls = os.geteuid() == 0 and all(map(shutil.which, ("openssl", "unshare", "mount", "curl")))
    if tls and not os.environ.get(INSIDE):
        os.environ[INSIDE] = "yes"
        own = ["unshare", "-m", "nice", "-n", "-20", sys.executable]
        os.execvp(own[0], own + sys.argv)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, options.runs)
        bench.local()
        if tls:
            certificate = make_certificate(folder)
            trust(certificate + ".crt", folder)
            bench.over_tls(Server(certificate))
            subprocess.run(["umount", CERTIFICATES], check=True)
        bench.peak("podstack project current", ([bench.podstack, "project", "current"], {}), 11)
        bench.size()
    if options.json:
        print(json.dumps(bench.rows, indent=2))
    else:
        print_table(bench.rows)


if __name__ == "__main__":
    main()

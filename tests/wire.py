"""Servers that say exactly what a test tells them to, byte for byte, over TCP or TLS.

`Wire(answer)` listens on this machine and keeps what each connection sent. `Authority` issues
certificates with the openssl program.
"""

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading


def reply(status=200, body=b"", headers=(), reason="Whatever", length=True):
    """An HTTP/1.1 answer in bytes; a body that is no text is sent as JSON."""
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    if not isinstance(body, bytes):
        body = json.dumps(body).encode("ascii")
    lines = ["HTTP/1.1 %s %s" % (status, reason)]
    lines += ["%s: %s" % pair for pair in dict(headers).items()]
    if length:
        lines.append("Content-Length: %d" % len(body))
    return "\r\n".join(lines + ["", ""]).encode("latin-1") + body


def three_pages():
    """The answers of a list of three pages, one after the other."""
    told = {"limit": 1, "total": 3, "pages": 3}
    return (reply(200, {"data": [{"id": page}], "pagination": told}) for page in range(3))


class Connection:
    """One connection as the server sees it: `received` is all that came over it so far."""

    def __init__(self, sock, closing):
        self.sock, self.closing = sock, closing
        self.received = b""

    def request(self):
        """The bytes of the next request, head and body; empty when the client has gone."""
        start = len(self.received)
        while b"\r\n\r\n" not in self.received[start:]:
            if not self.more():
                return self.received[start:]
        head, _, body = self.received[start:].partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        while len(self.received) - start - len(head) - 4 < length and self.more():
            pass
        return self.received[start:]

    def more(self):
        data = self.sock.recv(65536)
        self.received += data
        return data

    def send(self, data):
        self.sock.sendall(data)

    def drip(self, data, pause):
        """Send byte by byte with a pause between two, until the client or the server goes."""
        for byte in data:
            self.sock.sendall(bytes([byte]))
            if self.closing.wait(pause):
                return

    def secure(self, context):
        """Go on in TLS."""
        self.sock = context.wrap_socket(self.sock, server_side=True)


class Wire:
    """A server on this machine, in a thread for each connection.

    `answer` is what every request gets (bytes; the connection stays open), or a function of a
    Connection that does it all. `tls` is an SSLContext to speak TLS with.
    """

    def __init__(self, answer, host="127.0.0.1", tls=None):
        self.answer = answer if callable(answer) else lambda connection: repeat(connection, answer)
        self.tls = tls
        self.connections, self.handshakes = [], []
        self.closing = threading.Event()
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.socket.bind((host, 0))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]
        shown = "[%s]" % host if ":" in host else host
        self.url = "%s://%s:%d" % ("https" if tls else "http", shown, self.port)
        self.idle = threading.Condition()
        self.busy = 0
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()

    def accept(self):
        while True:
            sock, _ = self.socket.accept()
            if self.closing.is_set():
                return sock.close()
            connection = Connection(sock, self.closing)
            self.connections.append(connection)
            with self.idle:
                self.busy += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            if self.tls:
                try:
                    connection.secure(self.tls)
                except (ssl.SSLError, OSError) as error:
                    self.handshakes.append(error)
                    return
                self.handshakes.append(None)
            self.answer(connection)
        except OSError:
            pass  # the client has gone
        finally:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.sock.close()
            with self.idle:
                self.busy -= 1
                self.idle.notify_all()

    @property
    def received(self):
        """What came over all connections together, in the clear."""
        return b"".join(connection.received for connection in self.connections)

    @property
    def requests(self):
        """The request lines, in order of the connections."""
        lines = self.received.split(b"\r\n")
        return [line[:-9].decode() for line in lines if line.endswith(b" HTTP/1.1")]

    def settle(self):
        """Wait until every connection has ended, so that what they took is known."""
        with self.idle:
            assert self.idle.wait_for(lambda: self.busy == 0, 20)

    def close(self):
        self.closing.set()
        # A thread that waits in accept() would go on with whatever gets the descriptor next.
        socket.create_connection(self.socket.getsockname()[:2], 10).close()
        self.accepting.join(10)
        self.socket.close()
        for connection in self.connections:
            try:
                connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def repeat(connection, answer):
    while connection.request():
        connection.send(answer)


CA_CONFIG = """
[ca]
default_ca = here
[here]
dir = %(dir)s
database = %(dir)s/index
serial = %(dir)s/serial
new_certs_dir = %(dir)s
default_md = sha256
policy = any
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
basicConstraints = critical, CA:FALSE
subjectAltName = %(names)s
[root]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
[req]
distinguished_name = nobody
[nobody]
"""


class Authority:
    """A certificate authority of the test's own: `pem` is what to trust."""

    def __init__(self, folder, name="Test Authority"):
        self.folder = str(folder)
        self.key, self.pem = self.path("ca.key"), self.path("ca.pem")
        for file, text in (("index", ""), ("serial", "1000\n"), ("index.attr", "")):
            self.write(file, text)
        self.configure("DNS:unused")
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key)
        self.openssl(
            "req", "-x509", "-new", "-key", self.key, "-out", self.pem, "-days", "30",
            "-subj", "/CN=" + name, "-config", self.path("config"), "-extensions", "root",
        )  # fmt: skip

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)

    def configure(self, names):
        self.write("config", CA_CONFIG % {"dir": self.folder, "names": names})

    def openssl(self, *words):
        done = subprocess.run(
            ("openssl",) + words, cwd=self.folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode()

    def issue(self, label, names, start="20200101000000Z", end="20490101000000Z", bits=None,
              digest="sha256", self_signed=False):  # fmt: skip
        """A server certificate: (chain file, key file). `bits` is for an RSA key."""
        key, request, chain = (self.path(label + kind) for kind in (".key", ".csr", ".pem"))
        if bits:
            self.openssl("genrsa", "-out", key, str(bits))
        else:
            self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        self.configure(names)
        self.openssl("req", "-new", "-key", key, "-out", request, "-subj", "/CN=" + label,
                     "-config", self.path("config"))  # fmt: skip
        signer = ["-selfsign", "-keyfile", key] if self_signed else [
            "-cert", self.pem, "-keyfile", self.key]  # fmt: skip
        self.openssl(
            "ca", "-batch", "-notext", "-config", self.path("config"), "-in", request,
            "-out", chain, "-startdate", start, "-enddate", end, "-md", digest, *signer
        )  # fmt: skip
        return chain, key

    def hashed(self, folder):
        """Fill a folder as Debian's /etc/ssl/certs is: a file for each hash of a name."""
        shutil.copy(self.pem, os.path.join(str(folder), "authority.pem"))
        self.openssl("rehash", str(folder))
        return str(folder)


def server_context(chain, key, **changes):
    """An SSLContext that serves a certificate, as carelessly as the test asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(chain, key)
    for name, value in changes.items():
        setattr(context, name, value)
    return context

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""podstack: sign in to the Podstack GPU cloud (podstack.ai) and work there.

What it does to your machine: it reads and writes ~/.podstack/config.yaml (with a .lock beside it),
and the system's keychain (on macOS unless you decline); it talks to the Podstack API and to the
authorization server that the API names; during a browser login it listens on 127.0.0.1; it starts
a browser, OpenSSH, the keychain's own program, the installer or your token_command when a command
says so. Nothing happens at import, nothing runs in the background, nothing is reported anywhere.

The file is a book of short chapters, each using only what stands above it:
head, errors, text, yaml, app, files, secrets, http, login, api, commands, door.
"""

import io
import os
import stat
import sys
import time

VERSION = "1.0.0"
DEFAULT_ENDPOINT = "https://api.podstack.ai"
DEFAULT_CLIENT_ID = "podstack-cli"
DEFAULT_PROFILE = "default"
INSTALL_URL = "https://get.podstack.ai"
SOURCE = os.path.abspath(__file__)
MAX_CONFIG_BYTES = 1 << 20
MAX_ANSWER_BYTES = 10 * 1000 * 1000
MAX_SHOWN = 2000  # characters of one thing that a server said
MAX_TOKEN_LETTERS = 16384
LOCK_SECONDS = 30
REFRESH_SKEW = 60
REFRESH_SECONDS = 20
PAGE_SIZE = 100
PARALLEL_PAGES = 8
ENVIRONMENT = (
    ("PODSTACK_API_TOKEN", "the token to use; never stored, wins over a stored one"),
    ("PODSTACK_PROFILE", "the profile to use"),
    ("PODSTACK_PROJECT", "the project to work in"),
    ("PODSTACK_API_ENDPOINT", "the API's address (default %s)" % DEFAULT_ENDPOINT),
    ("PODSTACK_CLIENT_ID", "the OAuth client id (default %s)" % DEFAULT_CLIENT_ID),
    ("PODSTACK_STORAGE", "where a new login is kept: file or keyring"),
    ("PODSTACK_OUTPUT", "table, wide, json or yaml"),
    ("PODSTACK_TIMEOUT", "seconds that one request may take (default 30)"),
    ("PODSTACK_CA_BUNDLE", "the authorities to trust: a PEM file or directory"),
    ("PODSTACK_CONFIG", "the config file (default ~/.podstack/config.yaml)"),
    ("PODSTACK_NO_COLOR", "no colour, as NO_COLOR"),
    ("PODSTACK_DEBUG", "show requests and tracebacks, as --debug"),
    ("PODSTACK_INSTALL_URL", "a mirror for podstack update and install.sh"),
)


# == errors: what can go wrong, in the user's words
# Raised deep, printed once (by the door). A message is a fact without a full stop, a hint is one
# thing to do next, details are further lines. Nothing here prints, and no error holds a token.

EXIT_CODES = (
    (0, "done"),
    (1, "failed"),
    (2, "wrong usage"),
    (4, "not authenticated (missing, invalid, expired or denied)"),
    (5, "permission denied"),
    (6, "not found or not set"),
    (7, "service unreachable, rate limited or failing"),
    (130, "interrupted"),
)
DOCTOR_HINT = "Find out why: podstack auth doctor"
DEBUG_HINT = "Run it again with --debug and report what it prints"
OUTPUT_HINT = "Send it elsewhere: > FILE"
USE_TOKEN = "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)"
NEW_TOKEN = "Generate a new token from the dashboard (Account > API Tokens)"


class PodError(Exception):
    """A failure to tell the user: `message`, then `hint`, then each of `details`; exit `code`."""

    code = 1
    usual_hint = None

    def __init__(self, message, hint=None, details=(), code=None):
        super().__init__(message)
        self.message, self.details, self.code = message, list(details), code or self.code
        self.hint = self.usual_hint if hint is None else hint


class UsageError(PodError):
    """It cannot be carried out as typed; the door adds which command's help to read."""

    code = 2


class AuthError(PodError):
    """There is no token, or the one there is does not serve."""

    code = 4


class NotFound(PodError):
    """The thing asked for does not exist, or a setting has no value."""

    code = 6


class Unreachable(PodError):
    """The service is out of reach, failing or busy; `sent`: it may have done what was asked."""

    code = 7
    usual_hint = DOCTOR_HINT
    sent = True


class ConfigError(PodError):
    usual_hint = "Mend it, or set PODSTACK_CONFIG to another file"


def not_authenticated(details=()):
    hint = "Run: podstack auth login (or set PODSTACK_API_TOKEN)"
    return AuthError("Not authenticated", hint, details)


def token_expired(origin):
    return AuthError("Token expired", "Re-authenticate: podstack auth login", [origin])


# == text: words, numbers, times and addresses
# Pure functions from values to values: what a terminal may be shown, how a table lines up, what a
# date, a duration or an address means. Nothing here reads a file, the clock or the environment.

BIDI = [0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
UNSAFE = [*range(0x20), *range(0x7F, 0xA0), *BIDI]
VISIBLE_FORM = {code: ("\\x%02x" if code < 256 else "\\u%04x") % code for code in UNSAFE}
JSON_FORM = {code: "\\u%04x" % code for code in UNSAFE if code >= 0x7F}
NAME_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
URL_SAFE = frozenset((NAME_LETTERS + "-._~").encode("ascii"))
USUAL_PORTS = {"http": 80, "https": 443}
WIRE_SECRETS = "(?:(?:access_|refresh_|id_)?token|device_code|(?:client_)?secret|password|api_?key)"


def printable(text):
    """Return `text` with control characters and bidi overrides shown as escapes."""
    return str(text).translate(VISIBLE_FORM)


def printable_log(line):
    """Return a log's line of bytes as terminal text: of its escapes only colours (SGR) pass."""
    import re

    text = line.decode("utf-8", "replace").rstrip("\r").expandtabs()
    parts = re.split(r"(\x1b\[[0-9;:]*m)", text)
    parts[::2] = map(printable, parts[::2])
    return "".join(parts) + "\n"


def json_dump(value, ascii_only=False, indent=2):
    """Return `value` as JSON text that is safe on a terminal, too."""
    import json

    return json.dumps(value, indent=indent, ensure_ascii=ascii_only).translate(JSON_FORM)


def display_width(text):
    """Return how many terminal cells `text` takes."""
    if len(text) == len(text.encode("utf-8", "replace")):
        return len(text)
    import unicodedata

    width = 0
    for char in text:
        joins = "\u1160" <= char <= "\u11ff"  # a later letter of a Hangul syllable
        if not joins and unicodedata.category(char) not in ("Mn", "Me", "Cf"):
            width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return width


def cut_to_width(text, width):
    """Return as much of `text` as fits into `width` cells, ending in `~` where it was cut."""
    if display_width(text) <= width:
        return text
    kept, left = "", width - 1
    for char in text:
        left -= display_width(char)
        if left < 0:
            break
        kept += char
    return kept + "~"


def table_lines(header, rows, limit=0):
    """Yield the lines of a table; with `limit` the widest columns give way to fit it."""
    # A row waits as one text: as a list of cells a long table takes three times the memory.
    widths, packed = list(map(len, header)), ["\0".join(header)]
    for row in rows:
        cells = list(map(printable, row))
        widths = list(map(max, widths, map(display_width, cells)))
        packed.append("\0".join(cells))
    if limit:  # a cell of millions of letters is not narrowed step by step
        widths = [min(width, max(limit, 8)) for width in widths]
    while limit and sum(widths) + 2 * (len(widths) - 1) > limit and max(widths) > 8:
        widths[widths.index(max(widths))] -= 1
    for line in packed:
        fitted = map(cut_to_width, line.split("\0"), widths)
        padded = [cell + " " * (width - display_width(cell)) for cell, width in zip(fitted, widths)]
        yield "  ".join(padded).rstrip()


def mask(token):
    """Return what may be shown of a token: its kind, never its body."""
    head, mark, _ = token.partition("_")
    return head + "_****" if mark and head in ("psk", "podstack") else "****"


def encodings(secret):
    """Return a secret's forms: raw, quoted, JSON, percent, hex, base64."""
    import base64

    raw = secret.encode("utf-8", "replace")
    forms = {secret, repr(secret)[1:-1], secret.replace("/", "\\/"), raw.hex(), raw.hex().upper()}
    for form in ("%%%02X", "%%%02x"):
        percent = "".join(chr(byte) if byte in URL_SAFE else form % byte for byte in raw)
        forms.update((percent, percent.replace("%20", "+")))
    forms.update((json_dump(secret)[1:-1], json_dump(secret, ascii_only=True)[1:-1]))
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode("ascii").rstrip("=")
        whole = coded[(0, 2, 3)[shift] : len(coded) - (1 if (len(raw) + shift) % 3 else 0)]
        forms.update((whole, whole.replace("+", "-").replace("/", "_")))
    return sorted((form for form in forms if len(form) > 3), key=len, reverse=True)


def redact(text, secrets=()):
    """Return `text` without secrets: by value in any encoding, tokens and user-info by shape."""
    for secret in sorted(secrets, key=len, reverse=True):
        for form in encodings(secret):
            text = text.replace(form, mask(secret))
    if "psk_" not in text and "podstack_" not in text and "@" not in text:
        return text
    import re

    text = re.sub(r"""://[^\s/?#"']*@""", "://****@", text)
    return re.sub(r"\b(psk_(?=[\w.-]{4})|podstack_(?=[\w.-]{16}))[\w.-]+", r"\1****", text)


def redact_names(text):
    """Return wire text with secret-bearing names' values, and a pod's environment, masked."""
    import re

    # Without alternatives: for each turn of such a loop re keeps a way back, 150 bytes a letter.
    quoted = r'"[^"\\]*(?:\\.[^"\\]*)*"?'
    text = re.sub(r'(?i)("%s"\s*:\s*)%s' % (WIRE_SECRETS, quoted), r'\1"****"', text)
    text = re.sub(r'("env"\s*:\s*){[^{}"]*(?:%s[^{}"]*)*}?' % quoted, r"\1{****}", text)
    names = WIRE_SECRETS + "|code|code_verifier|state"
    return re.sub(r"(?i)((?:^|[?&#\s])(?:%s)=)[^&\s]*" % names, r"\1****", text)


def did_you_mean(word, choices):
    """Return ` (did you mean 'x'?)` for the choice nearest to `word`, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(choices), 1, 0.7)
    return " (did you mean '%s'?)" % near[0] if near else ""


def plural(count, noun):
    return "%d %s%s" % (count, noun, "" if count == 1 else "s")


def is_digits(text):
    """Tell whether `text` is ASCII digits alone (str.isdigit takes other scripts' digits)."""
    return bool(text) and not text.strip("0123456789")


def parse_time(text):
    """Return the Unix seconds of an RFC 3339 time (or a date, as midnight UTC), else None."""
    # By hand: datetime and strptime cost more than the start-up budget.
    if not isinstance(text, str):
        return None
    date, _, clock = text.strip().upper().replace(" ", "T").partition("T")
    clock = (clock or "00:00:00").replace("Z", "+00:00")
    if clock[-6:-5] not in ("+", "-"):
        clock += "+00:00"
    whole, _, fraction = clock[:-6].partition(".")
    parts = date.split("-") + whole.split(":") + clock[-5:].split(":")
    if list(map(len, parts)) != [4] + [2] * 7 or not is_digits("".join(parts) + fraction):
        return None
    year, month, day, hour, minute, second, east, more = map(int, parts)
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return None
    years = year - (month < 3)  # that begin in March, with the leap day at their end
    days = years * 365 + years // 4 - years // 100 + years // 400 - 719468
    days += (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    zone = (east * 60 + more) * (-60 if clock[-6] == "-" else 60)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second
    return seconds - zone + float("0." + fraction)


def format_time(seconds):
    """Return Unix seconds as an RFC 3339 UTC time."""
    return "%04d-%02d-%02dT%02d:%02d:%02dZ" % time.gmtime(seconds)[:6]


def format_date(text, missing="-"):
    """Return the UTC date of an RFC 3339 text; the text itself where it is none."""
    if text is None:
        return missing
    seconds = parse_time(text)
    return str(text) if seconds is None else format_time(seconds)[:10]


def distance(seconds):
    """Return a span in words: `in 12 days`, `3 hours ago`."""
    span, form = (seconds, "in %s") if seconds >= 0 else (-seconds, "%s ago")
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if span >= size:
            return form % plural(int(span // size), noun)
    return form % plural(int(span), "second")


def parse_span(text):
    """Return the seconds in `90`, `90s`, `15m`, `1h` or `2d`, else None."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    return int(number) * units[unit] if is_digits(number) and len(number) < 12 else None


# Each of these returns the value of a text, or raises ValueError naming what is accepted.


def read_bool(text):
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("true or false")
    return words[text.lower()]


def read_seconds(text):
    if is_digits(text.replace(".", "", 1)) and 0 < float(text) <= 86400:
        return float(text)
    raise ValueError("a number of seconds between 0 and 86400")


def read_text(text):
    if not text or printable(text) != text:
        raise ValueError("one line of plain text")
    return text


def read_profile_name(text):
    if 0 < len(text) <= 64 and text[0] in NAME_LETTERS and not text.strip(NAME_LETTERS + "-_"):
        return text
    raise ValueError("a name of letters, digits, - and _, at most 64, the first no - or _")


def one_of(*choices):
    """Return a reader that accepts just `choices`."""

    def read(text):
        if text in choices:
            return text
        raise ValueError("%s or %s" % (", ".join(choices[:-1]), choices[-1]))

    return read


def is_token(text):
    """Tell whether `text` can be a token: visible ASCII without spaces."""
    fits = isinstance(text, str) and 0 < len(text) <= MAX_TOKEN_LETTERS
    return fits and "!" <= min(text) <= max(text) <= "~"


def percent_encode(text, plain=URL_SAFE):
    """Return `text` as one URL path segment or query value (RFC 3986 §2.3)."""
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in plain else "%%%02X" % byte for byte in data)


def encode_query(pairs):
    pairs = [(percent_encode(k), percent_encode(str(v))) for k, v in pairs if v is not None]
    return "&".join(map("=".join, pairs))


class Url:
    """A checked http(s) address: `scheme`, `host` (lower case), `port`, `path`, `query`."""

    def __init__(self, scheme, host, port, path, query):
        self.scheme, self.host, self.port, self.path, self.query = scheme, host, port, path, query
        self.origin = "%s://%s" % (scheme, "[%s]" % host if ":" in host else host)
        if port != USUAL_PORTS[scheme]:
            self.origin += ":%d" % port
        asked = "?" + query if query else ""
        self.target, self.text = (path or "/") + asked, self.origin + path + asked

    @property
    def is_loopback(self):
        """Tell whether the host is this machine (RFC 8252 §8.3), not just one named 127.example."""
        parts = self.host.split(".")
        if len(parts) == 4 and set(parts).issubset(map(str, range(256))):
            return parts[0] == "127"
        return self.host in ("localhost", "::1")

    def __str__(self):
        return self.text


def split_authority(authority, default_port):
    """Return (host, port) of `HOST[:PORT]` or `[IPV6][:PORT]`; raises ValueError."""
    host, port, letters = authority, str(default_port), NAME_LETTERS + ".-_"
    if ":" in authority.rpartition("]")[2]:
        host, _, port = authority.rpartition(":")
    if host.startswith("[") and host.endswith("]") and ":" in host:
        host, letters = host[1:-1], "0123456789abcdefABCDEF:."
    if not host or host.strip(letters) or host.startswith("-"):
        raise ValueError("its host is not plain")
    if not is_digits(port) or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError("its port is not a number from 1 to 65535")
    return host.lower(), int(port)


def parse_url(text):
    """Return the `Url` in `text`; raises ValueError saying what is wrong with it.

    Stricter than RFC 3986 on purpose: user-info, fragments, backslashes, spaces and non-ASCII are
    where two readers of one address disagree about its host.
    """
    if not is_token(text) or not set(text).isdisjoint('\\"<>^`{|}#'):
        raise ValueError("it has a character that an address may not have")
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in USUAL_PORTS:
        raise ValueError("it does not begin with https://")
    place, _, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    if "@" in authority:
        raise ValueError("it has a user name in it")
    host, port = split_authority(authority, USUAL_PORTS[scheme])
    return Url(scheme, host, port, slash + path, query)


def safe_url(text, what, loopback=False, hint=USE_TOKEN):
    """Return the `Url` that a server named as `what`: https, or http where `loopback` allows it."""
    try:
        if not isinstance(text, str) or not text:
            raise ValueError("it is not a text")
        url = parse_url(text)
        if url.scheme == "http" and not (loopback and url.is_loopback):
            raise ValueError("it is not https")
        return url
    except ValueError as error:
        raise PodError("The server's %s cannot be used: %s" % (what, error), hint)


def read_endpoint(text):
    """Return an endpoint in canonical form: `https://h` for https://H:443/v1; raises ValueError."""
    try:
        url = parse_url(text)
    except ValueError as error:
        raise ValueError("an https:// address (%s)" % error)
    has_dots = not {".", ".."}.isdisjoint(url.path.split("/"))
    if "?" in text or has_dots or (url.scheme == "http" and not url.is_loopback):
        raise ValueError("an https:// address without a query or .. (http only for this machine)")
    path = url.path.rstrip("/")
    return url.origin + (path[:-3].rstrip("/") if path.endswith("/v1") else path)


def accept(what, text, read):
    """Return what `read` makes of a text that was given as `what`; raises UsageError."""
    try:
        return read(text)
    except ValueError as error:
        raise UsageError("%s must be %s, not '%s'" % (what, error, text))


# == yaml: the config file's language
# A strict subset of YAML, read without guessing: each scalar is its text, the schema types it.
# What the subset lacks is refused with line and column. An edit touches its own entry's lines
# and is read again before it counts. Nothing here opens a file or prints; reading imports nothing.

_YAML_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
_YAML_ESCAPES = dict(zip('0abtnvfre"/\\ N_LP', '\0\a\b\t\n\v\f\r\x1b"/\\ \x85\xa0\u2028\u2029'))
_YAML_NO_KEY = "expected 'key: value'"


class YamlError(ValueError):
    """Text that is no YAML of the subset: a message of one line, `line` and `column` from 1."""

    def __init__(self, message, line, column):
        super().__init__(message)
        self.line, self.column = line, column


class _YamlMark:
    """Where an entry stands, counted from 1; line[start:end]: the value on its key's line."""

    def __init__(self, line, column, start):
        self.line, self.column, self.last_line = line, column, line
        self.start = self.end = start


class _YamlReader:
    """One reading of a text: a cursor (`row`, `at`, from 0) that each method moves on.

    Between entries `at` is the column of the next one, -1 at the file's end. A path is made of
    keys and list indexes; `marks` has one for each path of an entry. `brackets`: what ends
    unquoted text here, for inside a [...] or {...}.
    """

    def __init__(self, text):
        self.lines, self.is_complete = text.splitlines(), text.endswith(("\n", "\r"))
        self.row, self.line, self.at, self.last_row = -1, "", -1, -1
        self.brackets, self.marks = "", {}

    def fail(self, message, at=None):
        raise YamlError(message, self.row + 1, (self.at if at is None else at) + 1)

    def advance(self):
        """Go to the next line that is not blank or a comment, to its first character."""
        self.last_row = self.row
        for row in range(self.row + 1, len(self.lines)):
            content = self.lines[row].lstrip(" ")
            if content and content[0] != "#":
                self.row, self.line = row, self.lines[row]
                self.at = len(self.line) - len(content)
                return
        self.row, self.line, self.at = len(self.lines), "", -1

    def skip_spaces(self):
        """Go to the next character that is no space; tell whether more than a comment follows."""
        while self.line.startswith(" ", self.at):
            self.at += 1
        return self.line[self.at : self.at + 1] not in ("", "#")

    def next_in_flow(self):
        """Go to the next character inside [...] or {...} and return it."""
        if not self.skip_spaces():
            self.fail("[...] and {...} must end on their line")
        return self.line[self.at]

    def require_line_end(self):
        """Check that only spaces and a comment follow; the cursor stays."""
        end = self.at
        if self.skip_spaces() or end == self.at < len(self.line):
            self.fail("expected the end of the line (text that holds ': ' needs quotes)")
        self.at = end

    def at_dash(self):
        return self.line[self.at : self.at + 2] in ("-", "- ")

    def read_text(self):
        """Read quoted text; other text up to a comment, a key's colon or, in flow, a bracket."""
        line, start, end = self.line, self.at, self.at
        char, after, ends = line[start], line[start + 1 : start + 2], " " + self.brackets
        if char in "\"'":
            return self.read_quoted(char)
        is_mark = char in "-?:" and after in ends or self.brackets and char == ":"
        if is_mark or char in ",[]{}#|@`&*!%>" or line.startswith(("---", "...", "<<"), start):
            self.fail("unquoted text cannot start with %r" % char)
        while end < len(line):
            char, after = line[end], line[end + 1 : end + 2]
            if char == "\t":
                self.fail("unquoted tabs (\\t) are not supported", end)
            is_comment = char == "#" and line[end - 1] == " "
            if is_comment or char in self.brackets or char == ":" and after in ends:
                break
            end += 1
        text = line[start:end].rstrip(" ")
        self.at += len(text)
        return text

    def read_quoted(self, quote):
        start, text = self.at, ""
        while True:
            self.at += 1
            char = self.line[self.at : self.at + 1]
            if not char:
                self.fail("quoted text must end on its line", start)
            if char == "\\" and quote == '"':
                char = self.read_escape()
            elif char == quote:
                self.at += 1
                if quote == '"' or self.line[self.at : self.at + 1] != "'":
                    return text
            text += char

    def read_escape(self):
        """Read an escape sequence; `at` ends up at its last character."""
        kind = self.line[self.at + 1 : self.at + 2]
        size, char = {"x": 2, "u": 4, "U": 8}.get(kind, 0), _YAML_ESCAPES.get(kind)
        digits = self.line[self.at + 2 : self.at + 2 + size]
        if digits and not digits.strip("0123456789abcdefABCDEF"):
            code = int(digits, 16)
            char = chr(code) if code < 0xD800 or 0xE000 <= code < 0x110000 else None
        if char is None:
            self.fail("this escape sequence is incomplete or not supported")
        self.at += 1 + size
        return char

    def read_literal(self, parent):
        """Read a `|` text, its lines deeper than the column `parent`; `at` stays in its header."""
        # Other readers disagree on a line of spaces and on a last line without its break.
        start, is_stripped = self.at, self.line.startswith("|-", self.at)
        self.at += 2 if is_stripped else 1
        self.require_line_end()
        indent, texts, is_sound = 0, [], True
        for line in self.lines[self.row + 1 :]:
            width = len(line) - len(line.lstrip(" "))
            is_sound = is_sound and not 0 < width == len(line)
            if line and width < max(indent, parent + 1, 1):
                break
            indent = indent or width
            texts.append(line[indent:])
        else:
            is_sound = is_sound and self.is_complete
        text = "\n".join(texts).rstrip("\n")
        if not text or not is_sound:
            self.fail("a literal text (|) needs whole lines below, none of spaces alone", start)
        self.row += 1 + text.count("\n")
        return text if is_stripped else text + "\n"

    def read_key(self, path):
        """Read a key and its colon and return its path, now marked; None where there is none."""
        start, colon = self.at, ""
        if self.line[start] not in "[{|" and not self.at_dash():
            path += (self.read_text(),)
            self.skip_spaces()
            colon = self.line[self.at : self.at + 2]
        if colon not in (":", ": ") and not (self.brackets and colon[:1] == ":"):
            self.at = start
            return None
        if path in self.marks:
            known = self.marks[path].line
            self.fail("the key %r is on line %d already" % (path[-1], known), start)
        if self.at - start > 1024:  # YAML 1.2 section 7.4.2
            self.fail("keys of more than 1024 characters are not supported", start)
        self.at += 1
        self.marks[path] = _YamlMark(self.row + 1, start + 1, self.at)
        return path

    def read_node(self, path, parent=-1):
        """Return what a key or dash in the column `parent` holds, on its line or below."""
        mark, is_below = self.marks.get(path), not self.skip_spaces()
        if is_below:
            self.advance()
            # The dashes of a key's list may stand in the key's own column.
            if self.at < parent or self.at == parent and not (mark and self.at_dash()):
                return None
        start, char = self.at, self.line[self.at]
        may_be_block = not self.brackets and (is_below or not mark)
        is_list = may_be_block and self.at_dash()
        below = self.read_key(path) if may_be_block and not is_list else None
        if len(path) >= 32 and (is_list or below or char in "[{"):
            self.fail("more than 32 levels are not supported", start)
        if is_list or below:
            return self.read_block(path, start, below)
        if char in "[{":
            value = self.read_flow(path)
        elif char == "|" and not self.brackets:
            value = self.read_literal(parent)
        else:
            value = self.read_text()
            if self.line[start : self.at] in ("null", "~", "Null", "NULL"):
                value = None
        if mark and not is_below:
            mark.start, mark.end = start, self.at
        if not self.brackets:
            self.require_line_end()
            self.advance()
        return value

    def read_flow(self, path):
        outer, self.brackets = self.brackets, ",[]{}?"
        value, closer = ([], "]") if self.line[self.at] == "[" else ({}, "}")
        self.at += 1
        while self.next_in_flow() != closer:
            if closer == "]":
                value.append(self.read_node(path + (len(value),)))
            else:
                below = self.read_key(path) or self.fail(_YAML_NO_KEY)
                is_empty = self.next_in_flow() in ",}"
                value[below[-1]] = None if is_empty else self.read_node(below)
            if self.next_in_flow() == ",":
                self.at += 1
            elif self.line[self.at] != closer:
                self.fail("expected ',' or '%s' (text that holds '?' needs quotes)" % closer)
        self.at += 1
        self.brackets = outer
        return value

    def read_block(self, path, indent, below):
        """Return the mapping whose first key, at the path `below`, has been read, or the list."""
        is_list, value = not below, {} if below else []
        while True:
            if is_list:
                self.at += 1
                value.append(self.read_node(path + (len(value),), indent))
            else:
                value[below[-1]] = self.read_node(below, indent)
                self.marks[below].last_line = self.last_row + 1
            if self.at > indent:
                self.fail("unexpected indentation (text over several lines needs |)")
            if self.at < indent or is_list and not self.at_dash():
                return value
            if not is_list:
                below = self.read_key(path) or self.fail(_YAML_NO_KEY)


def yaml_parse(text):
    """Return (value of dicts, lists, text and None, {path: mark}); raises YamlError."""
    text = text[text.startswith("\ufeff") :]
    for offset, char in enumerate(text):
        is_control = char < " " and char not in "\t\n\r" or "\x7f" <= char < "\xa0"
        if is_control or "\ud800" <= char < "\ue000" or char in "\u2028\u2029\ufeff\ufffe\uffff":
            lines = (text[:offset] + ".").splitlines()
            message = "the character U+%04X is not supported" % ord(char)
            raise YamlError(message, len(lines), len(lines[-1]))
    reader = _YamlReader(text)
    reader.advance()
    if reader.line.partition(" #")[0].rstrip(" ") == "---":
        reader.advance()
    root = _YamlMark(reader.row + 1, reader.at + 1, reader.at)
    value = reader.read_node(())
    if reader.at >= 0:
        reader.fail("expected the end of the file")
    reader.marks[()], root.last_line = root, len(reader.lines)
    return value, reader.marks


def yaml_load(text):
    return yaml_parse(text)[0]


def _write_scalar(value, key=None):
    """Return what stands for `value`, the value of `key`, alike in every version of YAML."""
    if isinstance(value, float) and value - value != 0:
        raise ValueError("%s cannot be written as YAML" % value)
    if not isinstance(value, str):
        text = json_dump(value)
        is_bare = isinstance(value, float) and "." not in text
        return text.replace("e", ".0e") if is_bare else text  # YAML 1.1 reads 1e+16 as text
    is_word = value[:1] not in "0123456789./@+-" and not value.strip(NAME_LETTERS + "_./@+-")
    is_time = key == "expires" and format_time(max(parse_time(value) or 0, 0)) == value
    if is_time or is_word and value.lower() not in _YAML_WORDS:
        return value
    if any("\ud800" <= char < "\ue000" for char in value):
        raise ValueError("a lone surrogate cannot be written as YAML")
    # Python's escapes are YAML's, too. Not every reader takes what is beyond U+FFFF as it is.
    parts = [(repr(char) if char <= "\uffff" else ascii(char))[1:-1] for char in value]
    return '"%s"' % "".join(parts).replace('"', '\\"')


def _write_lines(value, key=None):
    """Return what stands behind `key` for its `value`, then the lines below it."""
    if not value or not isinstance(value, (dict, list)):
        return [" " + _write_scalar(value, key)]
    is_list, lines = isinstance(value, list), [""]
    for name, item in enumerate(value) if is_list else value.items():
        first, *below = _write_lines(item, name)
        if is_list and not first:
            first = " " + below.pop(0)
        head = "-" if is_list else _write_scalar(name) + ":"
        lines += [head + first] + ["  " + line for line in below]
    return lines


def yaml_dump(value):
    """Return the YAML text of dicts, lists, text, numbers, bools and None; raises ValueError."""
    return "\n".join(_write_lines(value)).lstrip() + "\n"


def _insert_lines(lines, row, indent, new):
    """Insert the lines `new` before `row`, with `indent` spaces and the file's line break."""
    first = lines[0] if lines else ""
    newline = first[len(first.rstrip("\r\n")) :] or "\n"
    if row and new and not lines[row - 1].endswith(("\n", "\r")):
        lines[row - 1] += newline
    lines[row:row] = [" " * indent + line + newline for line in new]


def _replace_value(lines, mark, key, value):
    """Give the entry of `key` another value; a comment on the line of its key stays."""
    line = lines[mark.line - 1]
    head = line[: mark.start]
    first, *below = _write_lines(value, key)
    if below:
        head = head.rstrip(" ")
    elif head.endswith(" "):
        first = first[1:]
    lines[mark.line - 1 : mark.last_line] = [head + first + line[mark.end :]]
    _insert_lines(lines, mark.line, mark.column + 1, below)


def _add_entry(lines, marks, path, entry):
    """Add a mapping of one entry to the mapping, or the nothing, at `path`."""
    mark = marks[path]
    columns = [below.column for keys, below in marks.items() if keys and keys[:-1] == path]
    if columns:
        _insert_lines(lines, mark.last_line, columns[0] - 1, _write_lines(entry)[1:])
    elif path:
        _replace_value(lines, mark, path[-1], entry)
    else:  # of the line of an empty root only a comment stays
        line = "".join(lines[mark.line - 1 : mark.line])
        lines[mark.line - 1 : mark.line] = [line[line.index("#") :]] if "#" in line else []
        _insert_lines(lines, len(lines), 0, _write_lines(entry)[1:])


def yaml_set(text, keys, value):
    """Return `text` with the entry at `keys` (a tuple) set, or for None gone, the rest as it is.

    A mapping without its last entry becomes {}. Raises YamlError where the change cannot be made,
    ValueError for a value that YAML cannot hold.
    """
    data, marks = yaml_parse(text)
    bom = text[: text.startswith("\ufeff")]
    lines, path, new = text[len(bom) :].splitlines(True), keys, value
    while path not in marks:
        path, new = path[:-1], {path[-1]: new}
    if value is None and path != keys:
        return text
    mark, above = marks[path], marks.get(keys[:-1])
    problem = "this entry is not edited: write its keys on lines of their own"
    refusal = YamlError(problem, mark.line, mark.column)
    intended = holder = {"": data}
    for key in ("",) + keys[:-1]:
        if holder.get(key) is None:
            holder[key] = {}
        holder = holder[key]
        if not isinstance(holder, dict):
            raise refusal
    if value is None:
        del holder[keys[-1]]
        if not holder and keys[1:]:
            above.last_line = above.line
            _replace_value(lines, above, keys[-2], {})
        del lines[mark.line - 1 : mark.last_line]
    else:
        holder[keys[-1]] = yaml_load(yaml_dump(value))
        if path == keys:
            _replace_value(lines, mark, keys[-1], value)
        else:
            _add_entry(lines, marks, path, new)
    text = bom + "".join(lines)
    try:
        if (yaml_load(text) or {}) == intended[""]:
            return text
    except YamlError:
        pass
    raise refusal


# == app: everything outside the program
# The only holder of the streams, the environment, the clock, child processes and the browser.
# Handlers receive it; tests build their own. It must never let a secret or a raw control
# character reach stderr, nor hand the token to another program.

# The last two may start one of the others.
TEXT_BROWSERS = {"lynx", "w3m", "links", "links2", "elinks", "www-browser", "sensible-browser"}
WINDOWS_HANDLER = "url.dll,FileProtocolHandler"
X_BROWSERS = ("x-www-browser", "firefox", "chromium", "google-chrome", "chromium-browser")
LABEL_COLORS = {"Error: ": "31", "Warning: ": "33"}


class App:
    """The world outside; every part can be replaced by keyword."""

    def __init__(self, stdin, stdout, stderr, environ, home=None, platform=sys.platform,
                 now=time.time, clock=time.monotonic, sleep=time.sleep):  # fmt: skip
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.environ, self.home, self.platform = environ, home, platform
        self.now, self.clock, self.sleep = now, clock, sleep
        self.quiet = self.debugging = self.color = False
        self.is_windows = platform == "win32"
        self.usual_storage = "keyring" if platform == "darwin" else "file"
        self.is_wsl = bool(self.env("WSL_DISTRO_NAME") or self.env("WSL_INTEROP"))
        self.status_shown, self.secrets = None, set()
        self.guard((self.env("PODSTACK_API_TOKEN") or "").strip())

    @classmethod
    def real(cls):
        streams = []
        for one in (sys.stdin, sys.stdout, sys.stderr):
            if one:  # such that no letter breaks it (C locale, 3.6, wrong bytes)
                errors = "surrogateescape" if one is sys.stdin else "backslashreplace"
                one = io.TextIOWrapper(one.buffer, one.encoding, errors, None, one.isatty())
            streams.append(one)
        home = os.path.expanduser("~")
        return cls(*streams, os.environ, home if os.path.isabs(home) else None)

    def env(self, name):
        """Return an environment variable's text; an empty one counts as not set."""
        return self.environ.get(name) or None

    def guard(self, secret):
        """Remember a secret, so that nothing said from now on can hold it; returns it."""
        if isinstance(secret, str) and secret:
            self.secrets.add(secret)
        return secret

    # -- speaking

    def out(self, text):
        """Write one line of the answer to stdout."""
        self.write(printable(text) + "\n")

    def write(self, answer):
        """Write text that is safe as it stands (help, JSON, YAML), or bytes, to stdout."""
        if self.stdout is None:
            raise PodError("Standard output is closed", OUTPUT_HINT)
        self.clear_status()
        stream = self.stdout.buffer if isinstance(answer, bytes) else self.stdout
        self.on_stdout(stream.write, answer)

    def flush(self):
        if self.stdout is not None:
            self.on_stdout(self.stdout.flush)

    @staticmethod
    def on_stdout(act, *words):
        try:
            act(*words)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise PodError("Cannot write to standard output: %s" % error.strerror, OUTPUT_HINT)

    def complain(self, *lines, label=""):
        """Write lines to stderr whatever --quiet says; the `label` before each may be coloured."""
        if self.stderr is None:
            return
        self.clear_status()
        if label in LABEL_COLORS and self.color:
            label = "\x1b[%sm%s\x1b[0m" % (LABEL_COLORS[label], label)
        try:
            for line in lines:
                self.stderr.write(label + printable(redact(line, self.secrets)) + "\n")
            self.stderr.flush()
        except OSError:
            self.stderr = None

    def say(self, *lines):
        """Write lines of progress, hint or confirmation to stderr."""
        if not self.quiet:
            self.complain(*lines)

    def warn(self, text):
        self.complain(text, label="Warning: ")

    def debug(self, text):
        if self.debugging:
            self.complain(*redact_names(redact(text, self.secrets)).splitlines(), label="debug: ")

    @property
    def redraws(self):
        """Tell whether stderr is a terminal that takes escapes (Windows' old one shows them)."""
        is_plain = self.env("TERM") == "dumb" or self.is_windows and not self.env("WT_SESSION")
        return self.is_terminal(self.stderr) and not is_plain

    def status(self, text, topic=None):
        """Show how far a wait is: in place on a terminal, elsewhere once for each topic not ""."""
        shown = text if self.redraws or topic is None else topic
        if self.quiet or shown in ("", self.status_shown):
            return
        self.status_shown = shown
        if self.redraws:
            line = printable(redact(text, self.secrets))
            self.stderr.write("\r\x1b[2K" + cut_to_width(line, self.columns(self.stderr) - 1))
            self.stderr.flush()
        else:
            self.complain(text)

    def countdown(self, what, seconds):
        """Yield how many of the seconds are left, shown each time, until none are."""
        left, deadline = seconds, self.clock() + seconds
        while left > 0:
            self.status("%s: %d:%02d left" % ((what,) + divmod(int(left + 0.999), 60)), what)
            yield left
            left = deadline - self.clock()

    def clear_status(self):
        if self.status_shown and self.redraws:
            self.stderr.write("\r\x1b[2K")
            self.status_shown = None

    # -- asking

    @staticmethod
    def is_terminal(*streams):
        return all(stream is not None and stream.isatty() for stream in streams)

    def columns(self, stream):
        """Return the width of the terminal that `stream` is; 0 where it is none."""
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, AttributeError):
            return 80 if self.is_terminal(stream) else 0

    def confirm(self, question, flag="--yes"):
        """Return when the user agrees; raises UsageError without a terminal to ask on."""
        if not self.is_terminal(self.stdin, self.stderr):
            raise UsageError(question + " There is no terminal to ask on", "Add: " + flag)
        self.stderr.write(printable(question) + " [y/N] ")
        self.stderr.flush()
        answer = self.stdin.readline()
        if not answer.endswith("\n"):
            self.complain("")
        if answer.strip().lower() not in ("y", "yes"):
            raise PodError("Nothing done")

    def ask_secret(self, prompt):
        import getpass

        try:
            return getpass.getpass(prompt)
        except EOFError:
            self.complain("")
            return ""

    # -- the machine

    def which(self, program):
        """Return a program's absolute path, or None; no relative PATH entry counts."""
        names = [program + ".exe", program] if self.is_windows else [program]
        for folder in (self.env("PATH") or os.defpath).split(os.pathsep):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isabs(folder) and os.path.isfile(path) and os.access(path, os.X_OK):
                    return path
        return None

    def start(self, argv, streams, env=None, apart=False):
        """Start a program on its (stdin, stdout, stderr), never with the token in its environ."""
        import subprocess

        environ = dict(self.environ, **(env or {}))
        environ.pop("PODSTACK_API_TOKEN", None)
        return subprocess.Popen(argv, -1, None, *streams, env=environ, start_new_session=apart)

    def run(self, argv, stdin=None, timeout=60, env=None, patience=None, inherit=False):
        """Run a program to its end and return (exit code, stdout, stderr).

        `patience` is said when it takes longer than two seconds. With `inherit` the child's stderr
        is ours, and its stdin too on a terminal; without it Ctrl-C is for us alone, so that a save
        held against interrupts is one. Raises OSError, TimeoutError.
        """
        from subprocess import DEVNULL, PIPE, TimeoutExpired

        typed = self.stdin if inherit and self.is_terminal(self.stdin) else DEVNULL
        streams = (typed if stdin is None else PIPE, PIPE, None if inherit else PIPE)
        process = self.start(argv, streams, env, apart=not inherit)
        try:
            try:
                out, err = process.communicate(stdin, 2)
            except TimeoutExpired:
                if patience:
                    self.say(patience)
                out, err = process.communicate(None, timeout - 2)
            return process.returncode, out, err or b""
        except TimeoutExpired:
            raise TimeoutError("no answer within %d s" % timeout)
        finally:  # not drained: what it started may hold its pipes open for ever
            process.kill()
            process.wait()

    def read_input(self, name, as_lines=False):
        """Return the bytes, or the lines, of a named file (`-` is stdin)."""
        try:
            if name == "-" and self.stdin is None:
                raise OSError(None, "it is closed")
            if name == "-":
                data = self.stdin.buffer.read()
            else:
                with open(name, "rb") as stream:
                    data = stream.read()
            return data.decode("utf-8-sig").splitlines() if as_lines else data
        except (OSError, UnicodeDecodeError) as error:
            reason = (name, getattr(error, "strerror", error))
            hint = "Name a file instead" if name == "-" else "Look at it: ls -l %s" % name
            raise PodError("Cannot read %s: %s" % reason, hint)

    def hand_over(self, argv, typed=True, timeout=None, streams=None, work=None):
        """Run a program on our own streams and return its exit code (128 + signal when killed).

        Ctrl-C and a request to end (on Windows told by the console) are its to answer, not ours;
        so is our stdin where `typed` is true. All that is ours where we `work(process)` meanwhile.
        """
        import signal
        from contextlib import suppress
        from subprocess import DEVNULL, TimeoutExpired

        process, caught, before = None, [], []
        alarm = getattr(signal, "SIGALRM", None)

        def pass_on(number, _):
            if number != alarm:
                caught.append(number)
            if caught and process and alarm:
                with suppress(ProcessLookupError):  # before 3.10: it has just ended
                    process.send_signal(caught[0])

        # Handlers, not SIG_IGN: exec resets them, so that the program does not ignore what we do.
        # What nohup or a shell's & has made us ignore stays so for both.
        ends = () if work else (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))
        for number in (alarm, *ends):
            if number and signal.getsignal(number) != signal.SIG_IGN:
                before.append((number, signal.signal(number, pass_on)))
        try:
            if alarm:
                # Each second: a signal just before we wait is lost on that, and OpenSSH's client
                # loses one that comes between its last look and its poll(); newer: ppoll().
                signal.setitimer(signal.ITIMER_REAL, 1, 1)
            process = self.start(argv, streams or (None if typed else DEVNULL, None, None))
            if work:
                work(process)
            code = process.wait(timeout)
            if caught and code == 255:  # what ssh makes of a signal
                return 128 + caught[0]
            return code if code >= 0 else 128 - code
        except TimeoutExpired:
            caught.append(signal.SIGTERM)
            process.terminate()  # not kill: ssh has the terminal's modes to restore
            process.wait()
            problem = "The command has not ended within %g s" % timeout
            raise PodError(problem, "Give it longer: --timeout S")
        finally:
            if process:
                process.kill()
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
            for number, old in before:
                signal.signal(number, old)

    def pipe(self, argv, feed=None, drain=None):
        """Return a program's exit code; `feed` writes its stdin or `drain` reads its stdout."""
        import threading
        from contextlib import suppress
        from subprocess import DEVNULL, PIPE

        def work(process):
            def say_all():  # a pod's words, which may hold anything
                for line in iter(lambda: process.stderr.readline(4096), b""):
                    self.complain(line.decode("utf-8", "replace").rstrip("\r\n"))

            relay = threading.Thread(target=say_all, daemon=True)
            relay.start()
            with suppress(BrokenPipeError), process.stdin or process.stdout as stream:
                (feed or drain)(stream)
            process.wait()
            relay.join(2)  # what it started may keep its stderr open

        streams = (PIPE if feed else DEVNULL, PIPE if drain else DEVNULL, PIPE)
        return self.hand_over(argv, streams=streams, work=work)

    def browser_command(self):
        """Return the argv that opens a page here (`%s` is the address), or None."""
        import shlex

        choices = (self.env("BROWSER") or "").split(os.pathsep)
        rundll = os.path.join(self.env("SystemRoot") or "C:\\Windows", "System32", "rundll32.exe")
        system = {"darwin": ["/usr/bin/open", "%s"], "win32": [rundll, WINDOWS_HANDLER, "%s"]}
        if self.is_wsl:
            choices += ["wslview", "rundll32.exe " + WINDOWS_HANDLER]
        has_display = self.env("DISPLAY") or self.env("WAYLAND_DISPLAY")
        if has_display and self.platform not in system:
            choices += ["xdg-open", *X_BROWSERS]
        refused = TEXT_BROWSERS if has_display else TEXT_BROWSERS | {"xdg-open"}
        for choice in choices:
            try:
                words = shlex.split(choice)
            except ValueError:
                continue
            program = self.which(words[0]) if words else None
            if program is None:
                continue
            names = {os.path.basename(program), os.path.basename(os.path.realpath(program))}
            if names.isdisjoint(refused):
                return [program] + words[1:] + ([] if "%s" in choice else ["%s"])
        return system.get(self.platform)

    def browse(self, address):
        """Open a page without waiting for the browser; False where none could be started."""
        from subprocess import DEVNULL

        command = self.browser_command()
        if command is None:
            return False
        # wslview hands it to PowerShell, and some settings of BROWSER to sh: $(...) would run.
        plain = percent_encode(address, URL_SAFE.union(b":/?[]@&=+,%"))
        argv = [word.replace("%s", plain) for word in command]
        try:
            # xdg-open tries these last; left to itself it would go on with text browsers.
            self.start(argv, [DEVNULL] * 3, {"BROWSER": ":".join(X_BROWSERS)}, apart=True)
            return True
        except OSError as error:
            self.debug("cannot start %s: %s" % (argv[0], error))
            return False


# == files: the config file, its profiles, and where every value comes from
# Reads and writes ~/.podstack/config.yaml: atomically, 0600, under a lock, only the lines that
# change. `Settings` is the one place that decides between option, environment, file and default.
# It must never overwrite what it could not read, nor let one profile serve another.

LOGIN_FIELDS = ("token", "expires", "refresh_token", "endpoint", "issuer", "email")
SECRET_FIELDS = ("token", "refresh_token")
PROFILE_FIELDS = {field: ("auth", field) for field in LOGIN_FIELDS + ("storage", "token_command")}
PROFILE_FIELDS.update({field: ("defaults", field) for field in ("project", "gpu_type")})
PROFILE_FIELDS.update(api_endpoint=("api", "endpoint"), client_id=("api", "client_id"))
TOP_OF_FILE = (("auth",), ("defaults", "project"), ("defaults", "gpu_type"))  # profile `default`
WRITE_HINTS = {
    "EBUSY": "It is mounted as a single file: mount its directory instead",
    "ENOSPC": "Free some space on that disk, then try again",
    "EDQUOT": "Free some of your quota on that disk, then try again",
    "EROFS": "Set PODSTACK_CONFIG to a path that can be written",
    "EACCES": "Check owner and mode: ls -ld %(directory)s %(path)s",
    "EPERM": "Check the attributes: lsattr -d %(directory)s %(path)s",
    "ELOOP": "Mend the symbolic link: ls -l %(path)s",
    "ENOENT": "Create the directory that it links to, or remove the link: ls -l %(path)s",
}
NO_LOCKS = ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL",
            "EROFS", "EACCES", "EPERM", "ENOSPC", "EDQUOT", "ENOENT")  # fmt: skip


def is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


def os_error(verb, path, error):
    """Return the ConfigError for an OSError, with the one next step."""
    import errno

    hint = WRITE_HINTS.get(errno.errorcode.get(error.errno))
    hint = hint and hint % {"path": path, "directory": os.path.dirname(path)}
    return ConfigError("Cannot %s %s: %s" % (verb, path, error.strerror or error), hint)


def is_foreign(path, owner):
    """Tell whether a file is another user's; to root, one laid where many may write."""
    if is_root():
        folder = os.stat(os.path.dirname(os.path.realpath(path)))
        return folder.st_mode & 0o022 and owner not in (0, folder.st_uid)
    return hasattr(os, "geteuid") and owner != os.geteuid()


def refuse_what_is_planted(path):
    """As root, use no link or directory that others may have laid there; raises ConfigError."""
    while is_root() and path != os.path.dirname(path):
        link, path = path, os.path.dirname(path)
        if os.path.islink(link) and (os.lstat(link).st_uid or os.stat(path).st_uid):
            raise ConfigError("As root, the link %s is not followed: others may set it" % link)
        if os.path.isdir(link) and is_foreign(link, os.lstat(link).st_uid):
            raise ConfigError("As root, %s is not used: others may have laid it there" % link)


def read_file(path):
    """Return (text, stat) of a plain file of ours; ("", None) for none, else ConfigError."""
    at_once = getattr(os, "O_NONBLOCK", 0)  # a pipe's open would wait for its writer
    try:
        refuse_what_is_planted(path)
        with open(path, "rb", opener=lambda at, how: os.open(at, how | at_once)) as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigError("Cannot read %s: it is not a regular file" % path)
            if is_foreign(path, facts.st_uid):
                problem = "it belongs to another user (uid %d)" % facts.st_uid
                hint = "Set PODSTACK_CONFIG to a file of your own"
                raise ConfigError("Cannot use %s: %s" % (path, problem), hint)
            data = stream.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError("Cannot read %s: it is larger than 1 MiB" % path)
        return data.decode("utf-8"), facts
    except FileNotFoundError:
        return "", None
    except OSError as error:
        raise os_error("read", path, error)
    except UnicodeDecodeError as error:
        lines = (data[: error.start].decode("utf-8") + ".").splitlines()
        raise ConfigError("%s:%d:%d: not UTF-8 text" % (path, len(lines), len(lines[-1])))


def settle(descriptor, path, mode=0o600):
    """Give what we have just made its mode and, as root, its directory's owner (sudo in a home)."""
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode)
    if is_root():
        owner = os.stat(os.path.dirname(path))
        if owner.st_uid == 0 and os.path.exists(path):
            owner = os.stat(path)  # what is replaced keeps its own
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def make_directory(path):
    """Create the config's directory, 0700 whatever the umask, where it is missing."""
    parent = os.path.dirname(path)
    if os.path.isdir(path) or path == parent:  # the second: a drive that is not there
        return
    make_directory(parent)
    umask = os.umask(0o077)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:  # another process was quicker, or a link leads to no mounted disk
        return
    finally:
        os.umask(umask)
    if is_root():
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        settle(descriptor, path, 0o700)
        os.close(descriptor)


def replace_file(app, temporary, real):
    """Rename over the old file; on Windows another process may have it open for a moment."""
    for _ in range(9 if app.is_windows else 0):
        try:
            return os.replace(temporary, real)
        except PermissionError:
            app.sleep(0.05)
    os.replace(temporary, real)
    try:
        descriptor = os.open(os.path.dirname(real), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    except OSError as error:  # always so on Windows
        app.debug("cannot sync %s: %s" % (os.path.dirname(real), error))


def write_file(app, path, text, keep=True):
    """Replace the config file by `text`; without `keep` only try to. Raises ConfigError."""
    data = text.encode("utf-8")
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError("Cannot write %s: it would be larger than 1 MiB" % path)
    real = os.path.realpath(path)
    directory, name = os.path.split(real)
    temporary = os.path.join(directory, ".%s.%s.tmp" % (name, os.urandom(6).hex()))
    try:
        refuse_what_is_planted(path)
        if os.path.islink(real):
            os.stat(real)  # fails: realpath returns a loop as it is, and replace would overwrite it
        make_directory(os.path.dirname(path))
        try:
            with open(temporary, "x+b", 0, opener=lambda at, how: os.open(at, how, 0o600)) as file:
                settle(file.fileno(), real)
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
                file.seek(0)
                if file.read() != data:
                    raise OSError(None, "it does not read back as written")
            if keep:
                replace_file(app, temporary, real)
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)
    except OSError as error:
        raise os_error("write", path, error)


def lock_descriptor(descriptor, is_windows, release=False):
    """Take the lock or raise BlockingIOError (Windows: PermissionError) at once; or release it."""
    if is_windows:
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK if release else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Not lockf: that lock drops with any close of the file in the process.
        fcntl.flock(descriptor, fcntl.LOCK_UN if release else fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """The lock beside the config file; the kernel drops it when its holder dies.

    As a context manager it waits up to `seconds` and raises PodError; it may be entered again
    while it is held. On a file system without locks it goes on without one (`held` is false).
    """

    def __init__(self, app, path):
        self.app, self.config_path, self.seconds = app, path, LOCK_SECONDS
        self.held, self.depth, self.descriptor = False, 0, None

    def __enter__(self):
        import errno

        if self.depth:
            self.depth += 1
            return
        folder, name = os.path.split(os.path.realpath(self.config_path))
        self.path = os.path.join(folder, ".lock")
        try:
            make_directory(os.path.dirname(self.config_path))
            self.descriptor = self.open()
            self.wait()
            self.held = True
            os.ftruncate(self.descriptor, 0)
            for entry in os.listdir(folder):  # a killed writer left it: nobody else writes now
                if entry.startswith(".%s." % name) and entry.endswith(".tmp"):
                    os.unlink(os.path.join(folder, entry))
            os.write(self.descriptor, b"%d\n" % os.getpid())  # for those who wait
        except OSError as error:
            if not self.held and errno.errorcode.get(error.errno) not in NO_LOCKS:
                raise os_error("lock", self.path, error)
            self.app.debug("lock %s: %s" % (self.path, error))
        self.depth = 1

    def __exit__(self, *_):
        self.depth -= 1
        if not self.depth and self.descriptor is not None:
            unlock = (lock_descriptor, self.app.is_windows, True)
            for release, *words in (unlock, (os.close,)):
                try:
                    release(self.descriptor, *words)
                except OSError as error:  # either of the two suffices
                    self.app.debug("cannot release %s: %s" % (self.path, error))
            self.descriptor, self.held = None, False

    def open(self):
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            settle(descriptor, self.path)
        except FileExistsError:
            descriptor = os.open(self.path, flags)
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            return descriptor
        raise ConfigError("%s is not a lock file of ours" % self.path, "Remove it: " + self.path)

    def wait(self):
        started = self.app.clock()
        while True:
            try:
                return lock_descriptor(self.descriptor, self.app.is_windows)
            except (BlockingIOError, PermissionError):
                waited = self.app.clock() - started
            if waited >= self.seconds:
                try:
                    pid = int(os.read(self.descriptor, 20))
                except (OSError, ValueError):  # Windows: nobody reads what is locked
                    pid = "unknown"
                problem = "Another podstack holds %s (process %s)" % (self.path, pid)
                hint = "Wait until it has ended, or end it, then try again"
                raise PodError(problem, hint, code=7)
            if waited > 2 and self.app.is_terminal(self.app.stderr):
                self.app.status("Waiting for another podstack to end ...")
            self.app.sleep(0.05)


class HeldInterrupts:
    """Holds Ctrl-C back while a single-use answer is on its way to the disk."""

    def __enter__(self):
        import signal

        self.caught = []
        try:
            self.before = signal.signal(signal.SIGINT, lambda *_: self.caught.append(True))
        except ValueError:  # not the main thread: the interrupt does not reach us
            self.before = None

    def __exit__(self, *_):
        import signal

        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
        if self.caught:
            raise KeyboardInterrupt


class Profile:
    """One account of the config file: `base` is its key path, () for the top of the file."""

    def __init__(self, config, name):
        self.config, self.name, self.base = config, name, ("profiles", name)
        is_default = name == DEFAULT_PROFILE and config.at(self.base) is None
        if is_default and "profiles" in config.data:
            is_default = any(config.at(keys) is not None for keys in TOP_OF_FILE)
        if is_default:
            self.base = ()
        blocks = {type(config.at(self.base + (block,))) for block in ("auth", "defaults", "api")}
        self.is_nested = not self.base or dict in blocks

    def key_of(self, field):
        """Return the key path where `field` stands, or would be written."""
        flat, nested = self.base + (field,), self.base + PROFILE_FIELDS[field]
        if not self.base:
            return nested
        is_flat = self.config.at(flat) is not None
        is_nested = self.config.at(nested) is not None
        if is_flat and is_nested:
            raise self.config.error(nested, "stands in both forms, as %s, too" % ".".join(flat))
        return nested if is_nested or (self.is_nested and not is_flat) else flat

    def get(self, field):
        return self.config.text_at(self.key_of(field))

    @property
    def in_keychain(self):
        kept = self.get("storage") == "keyring" and self.get("endpoint") is not None
        return kept and self.get("token") is None

    @property
    def holds_login(self):
        return self.get("token") is not None or self.in_keychain


def edit_text(config, changes):
    """Return the file's text with `changes` made; blocks that become empty go, profiles stay."""
    text = config.text
    try:
        for keys, value in changes:
            text = yaml_set(text, keys, value)
            block = yaml_load(text)
            for key in keys[:-1]:
                block = block and block.get(key)
            if block == {} and len(keys) in (2, 4):  # as `auth.KEY` or `profiles.work.auth.KEY`
                text = yaml_set(text, keys[:-1], None)
        return text
    except YamlError as error:
        raise ConfigError("%s:%d:%d: %s" % (config.path, error.line, error.column, error))
    except ValueError:  # a lone surrogate: bytes from the command line that are no text here
        hint = "Type UTF-8, and set LC_ALL=C.UTF-8 or another UTF-8 locale"
        raise UsageError("The command line is not text in this locale", hint)


class Config:
    """The config file as read: `data` (nested dicts of text), `marks`, `stat`, or `broken`."""

    def __init__(self, app, path, broken=None):
        self.app, self.path, self.broken = app, path, broken
        self.text, self.stat, self.data, self.marks = "", None, {}, {}
        self.lock = FileLock(app, path)

    def reload(self):
        """Read the file, where there is one; raises ConfigError where it is not understood."""
        self.text, self.stat = read_file(self.path)
        try:
            value, self.marks = yaml_parse(self.text)
        except YamlError as error:
            raise ConfigError("%s:%d:%d: %s" % (self.path, error.line, error.column, error))
        if value is not None and not isinstance(value, dict):
            raise ConfigError("%s:1:1: expected keys and values" % self.path)
        self.data = value or {}

    @property
    def has_modes(self):
        """Tell whether modes and owners mean something where the file is."""
        on_drive = self.app.is_wsl and os.path.realpath(self.path).startswith("/mnt/")
        return not self.app.is_windows and not on_drive

    @property
    def is_open_to_others(self):
        """Tell whether others may read the file and a token in it."""
        is_open = self.stat and self.stat.st_mode & 0o077 and "token" in self.text
        names = self.profile_names() if is_open and self.has_modes else ()
        return any(self.profile(name).get("token") for name in names)

    def error(self, keys, problem):
        """Return the ConfigError that names the file, line, column and key."""
        mark = self.marks.get(tuple(keys))
        place = "%s:%d:%d" % (self.path, mark.line, mark.column) if mark else self.path
        return ConfigError("%s: %s %s" % (place, ".".join(keys), problem))

    def at(self, keys):
        value = self.data
        for depth, key in enumerate(keys):
            if not isinstance(value, (dict, type(None))):
                raise self.error(keys[:depth], "must hold keys and values")
            value = (value or {}).get(key)
        return value

    def text_at(self, keys):
        value = self.at(keys)
        may_be = (str, list) if keys[-1] == "token_command" else str
        if value is not None and not isinstance(value, may_be):
            raise self.error(keys, "must be plain text")
        return value or None

    def read(self, keys, read):
        """Return what `read` makes of the text at a key path; raises ConfigError."""
        try:
            return read(self.text_at(keys))
        except ValueError as error:
            raise self.error(keys, "must be %s" % error)

    def profile_names(self):
        """Return the profiles' names; the one at the top of the file first, as `default`."""
        top = [] if self.profile(DEFAULT_PROFILE).base else [DEFAULT_PROFILE]
        return list(dict.fromkeys(top + list(self.at(("profiles",)) or {})))

    def profile(self, name, must_exist=False):
        """Return the Profile `name`; raises NotFound where it `must_exist` and does not."""
        names = self.profile_names() if must_exist else [name]
        if name in names:
            return Profile(self, name)
        problem = "Profile '%s' does not exist%s" % (name, did_you_mean(name, names))
        raise NotFound(problem, "Profiles: %s" % (", ".join(names) or "none yet"))

    def edit(self, plan, *words, trial=False):
        """Make the changes of `plan(*words)`: (keys, value), of which a None is to be removed.

        With `trial` the file is rewritten as it stands: proof that a write will do.
        """
        with self.lock:
            self.reload()
            edited = edit_text(self, plan(*words))
            if trial:
                write_file(self.app, self.path, self.text, keep=self.stat is not None)
            elif edited != self.text:
                write_file(self.app, self.path, edited)
                self.reload()


OUTPUTS = ("table", "wide", "json", "yaml")


class Setting:
    """Where one value may come from, in order; `read` turns its text into the value."""

    def __init__(self, name, is_option, env, field, general=None, default=None, read=read_text):
        self.name, self.env, self.field, self.default, self.read = name, env, field, default, read
        self.is_option, self.general = is_option, [tuple(general.split("."))] if general else []
        self.key = general or ".".join(PROFILE_FIELDS[field])  # of `config get` and `config set`


SETTINGS = {row[0]: Setting(*row) for row in (
    # name, is there an option, environment, in a profile, general part, default, reader
    ("profile", True, ["PODSTACK_PROFILE"], None, "profile", DEFAULT_PROFILE, read_profile_name),
    ("project", True, ["PODSTACK_PROJECT"], "project"),
    ("gpu_type", True, [], "gpu_type"),
    ("endpoint", False, ["PODSTACK_API_ENDPOINT"], "api_endpoint", "api.endpoint",
     DEFAULT_ENDPOINT, read_endpoint),
    ("client_id", False, ["PODSTACK_CLIENT_ID"], "client_id", "api.client_id", DEFAULT_CLIENT_ID),
    ("storage", False, ["PODSTACK_STORAGE"], "storage", None, None, one_of("file", "keyring")),
    ("output", True, ["PODSTACK_OUTPUT"], None, "defaults.output", "table", one_of(*OUTPUTS)),
    ("timeout", False, ["PODSTACK_TIMEOUT"], None, "api.timeout", "30", read_seconds),
    ("ca_bundle", False, ["PODSTACK_CA_BUNDLE", "SSL_CERT_FILE"], None, "api.ca_bundle"),
    ("color", False, [], None, "cli.color", "true", read_bool),
    ("confirm", False, [], None, "cli.confirm", "true", read_bool),
)}  # fmt: skip


class Settings:
    """The effective value of everything that can be set."""

    def __init__(self, app, options):
        self.app, self.options = app, options
        self.creates = False  # auth login and config set create the profile that they name
        self._config = None

    @property
    def path(self):
        named = self.app.env("PODSTACK_CONFIG")
        if named:
            return os.path.abspath(os.path.expanduser(named))
        if not self.app.home:
            raise ConfigError("There is no home directory", "Set HOME or PODSTACK_CONFIG")
        return os.path.join(self.app.home, ".podstack", "config.yaml")

    @property
    def config(self):
        """The config file; with PODSTACK_API_TOKEN set a broken one only draws a warning."""
        if self._config is None:
            try:
                config = Config(self.app, self.path)
                config.reload()
                if config.is_open_to_others:
                    self.app.warn("others can read %s: chmod 600 %s" % (config.path, config.path))
            except ConfigError as error:
                if not self.app.env("PODSTACK_API_TOKEN") or self.options.profile:
                    raise
                self.app.warn("config file not used: %s" % error.message)
                config = Config(self.app, self.app.env("PODSTACK_CONFIG") or "", error)
            self._config = config
        return self._config

    def profile(self):
        """Return the active Profile; raises NotFound unless it exists or is to be created."""
        name = self.get("profile")
        may_lack = self.creates or name == DEFAULT_PROFILE or self.config.broken
        return self.config.profile(name, not may_lack)

    def place(self, keys):
        return "%s in %s" % (".".join(keys), self.config.path), self.config.text_at(keys), keys

    def candidates(self, name):
        """Yield (value, text, origin) of each place that states it, the winner first."""
        setting, read = SETTINGS[name], SETTINGS[name].read
        given = getattr(self.options, name, None) if setting.is_option else None
        option = ("--" + name.replace("_", "-"), given, None)
        environment = [(variable, self.app.env(variable), None) for variable in setting.env]
        own = [self.place(self.profile().key_of(setting.field))] if setting.field else []
        # With --profile on the command line the profile's own values win over the environment.
        middle = own + environment if self.options.profile else environment + own
        default = self.app.usual_storage if name == "storage" else setting.default
        places = [option, *middle, *map(self.place, setting.general), ("default", default, None)]
        for origin, text, keys in dict.fromkeys(places):  # once each: the top's are general, too
            if text is not None:
                value = self.config.read(keys, read) if keys else accept(origin, text, read)
                yield value, text, origin

    def find(self, name):
        """Return the (value, text, origin) in effect, each None where nothing is set."""
        return next(self.candidates(name), (None, None, None))

    def get(self, name):
        return self.find(name)[0]


# == secrets: logins, where they are kept, and which token serves
# A login lives in the config file or in the system's keychain; the effective token comes from the
# environment, a program, or a login. A secret goes through stdin, never through arguments; nothing
# falls back from the keychain to plain text, and a token goes only to the endpoint it is kept for.

COMMAND_HINT = "Correct it: podstack config set auth.token_command COMMAND"
NO_KEYRING = "Or keep the token in the config file: podstack auth login --no-keyring"
UNLOCK = 'read -rs P; printf %s "$P" | gnome-keyring-daemon --replace --unlock'
SECRET_TOOL_ERRORS = (
    ("autolaunch d-bus", "there is no D-Bus session here", "Start one: dbus-run-session"),
    ("could not connect", "the D-Bus session does not answer", "Start one: dbus-run-session"),
    ("not provided by any", "no keyring service is installed", "Install gnome-keyring"),
    # The bus and its client both give up after 25 s; who is first says so in its own words.
    ("timeout", "the keyring service does not start", "Restart gnome-keyring"),
    ("locked", "it is locked", "Unlock it: " + UNLOCK),
    ("object does not exist", "there is no login keyring", "Create it: " + UNLOCK),
    ("too long", "the login is too long for it", "Generate a shorter token"),
)
SECURITY_ERRORS = {
    36: "it is locked, and this session cannot ask",
    45: "it refused to replace the item",
    51: "access was denied",
    128: "the question was cancelled",
    **dict.fromkeys((37, 50, 53), "it is not available in this session"),
}


def keychain_error(problem, advice):
    return PodError("Cannot use the keyring: %s" % problem, advice, [NO_KEYRING])


def call_keychain(app, argv, stdin=None):
    """Return (exit code, stdout, stderr) of a keychain program; raises PodError."""
    seconds = 60 if app.is_terminal(app.stderr) else 10
    patience = "Waiting for your keyring to be unlocked ..."
    try:
        return app.run(argv, stdin, seconds, {"LC_ALL": "C.UTF-8"}, patience)
    except TimeoutError:
        raise keychain_error("it does not answer", "Unlock it, then try again")
    except OSError as error:
        raise keychain_error("cannot run %s: %s" % (argv[0], error.strerror), "Mend that")


class SecretService:
    """An item of the Linux keyring, through libsecret's secret-tool."""

    def __init__(self, app, account):
        self.app, self.account, self.program = app, account, app.which("secret-tool")
        if not self.program:
            advice = "Install it (Debian: libsecret-tools, Fedora: libsecret)"
            raise keychain_error("secret-tool is not installed", advice)

    def call(self, *words, stdin=None):
        attributes = ["--", "service", "podstack", "account", self.account]
        return call_keychain(self.app, [self.program, *words, *attributes], stdin)

    def failure(self, stderr):
        text = stderr.decode("utf-8", "replace").strip()
        for mark, problem, advice in SECRET_TOOL_ERRORS:
            if mark in text.lower():
                return keychain_error(problem, advice)
        first = redact(text, self.app.secrets).splitlines()[0] if text else "secret-tool failed"
        return keychain_error(first[:200], "Check it with: secret-tool search service podstack")

    def is_absent(self):
        """Tell an absent item from a locked one (lookup says the same of both); never prompts."""
        code, out, err = self.call("search")
        if b"locked object" in err or (b"[/" in out and b"secret = " not in out):
            raise self.failure(b"locked")
        if code or (err.strip() and not out.strip()):
            raise self.failure(err)
        return not out.strip()

    def require_absent(self, err):
        """Raise unless there is no item, after a command that said `err`."""
        if err.strip() or not self.is_absent():
            raise self.failure(err.strip() or b"locked")

    def read(self):
        """Return the payload, or None."""
        if not self.app.is_terminal(self.app.stderr) and self.is_absent():
            return None
        code, out, err = self.call("lookup")
        return self.require_absent(err) if code else out.decode("utf-8", "replace")

    def write(self, payload):
        """Store the payload; any word on stderr means that it was not stored whole."""
        if len(payload) > 8191:  # secret-tool cuts at 8192 bytes and exits 0
            raise self.failure(b"too long")
        label = "--label=podstack (%s)" % self.account
        code, _, err = self.call("store", label, stdin=payload.encode("ascii"))
        if code or err.strip():
            raise self.failure(err)

    def delete(self):
        self.require_absent(self.call("clear")[2])


class MacKeychain:
    """An item of the macOS Keychain, through security (SecurityTool/macOS/security.c)."""

    program = "/usr/bin/security"

    def __init__(self, app, account):
        self.app, self.account = app, account
        self.item = ["-a", account, "-s", "podstack"]

    @staticmethod
    def quote(text):
        """Return `text` as one argument of security's own split_line, which is not a shell's."""
        if min(text, default=" ") < " " or "\x7f" in text:
            raise keychain_error("a name has a control character", "Choose another profile name")
        return '"%s"' % text.replace("\\", "\\\\").replace('"', '\\"')

    def call(self, *words, stdin=None):
        """Return what security prints, or None where there is no item."""
        code, out, err = call_keychain(self.app, [self.program, *words], stdin)
        if code == 44:
            return None
        if code or (stdin and err.strip()):
            problem = SECURITY_ERRORS.get(code, "security ended with code %d" % (code or 1))
            raise keychain_error(problem, "Unlock it: security unlock-keychain")
        return out.decode("utf-8", "replace").rstrip("\n")

    def read(self):
        return self.call("find-generic-password", *self.item, "-w")

    def write(self, payload):
        """Store the payload through `security -i`, so that no argument list ever holds it."""
        words = (self.account, "podstack", "podstack (%s)" % self.account, payload)
        form = "add-generic-password -U -a %s -s %s -l %s -w %s\n"
        line = (form % tuple(map(self.quote, words))).encode("utf-8")
        if len(line) > 4095:  # it would run the rest as another command
            raise keychain_error("the login is too long for it", "Generate a shorter token")
        self.call("-i", stdin=line)

    def delete(self):
        self.call("delete-generic-password", *self.item)


def open_keychain(settings, name):
    """Return a profile's item, one for each config file, in this system's keychain."""
    app, account, path = settings.app, name, os.path.realpath(settings.path)
    if app.is_windows:
        raise keychain_error("there is none for Windows yet", "Leave out --use-keyring")
    if not app.home or path != os.path.realpath(os.path.join(app.home, ".podstack/config.yaml")):
        import hashlib

        account += "@" + hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return MacKeychain(app, account) if app.platform == "darwin" else SecretService(app, account)


def write_keychain(settings, name, payload):
    """Store a payload and read it back; returns the keychain's item, raises PodError."""
    item = open_keychain(settings, name)
    item.write(settings.app.guard(payload))
    if item.read() != payload:
        raise keychain_error("it does not give back what it was given", "Check it")
    return item


def pack_payload(login):
    """Return a login's secrets as printable ASCII (a keychain mangles anything else)."""
    import base64
    import zlib

    kept = {"token": login.token, "refresh_token": login.refresh_token}
    packed = base64.urlsafe_b64encode(zlib.compress(json_dump(kept, True, None).encode(), 9))
    return "ps1." + packed.decode("ascii")


def unpack_payload(payload):
    """Return the fields that a keychain's item holds; raises PodError."""
    import base64
    import json
    import zlib

    try:
        packed = base64.b64decode(payload[4:].encode("ascii"), b"-_", validate=True)
        reader = zlib.decompressobj()
        kept = json.loads(reader.decompress(packed, MAX_CONFIG_BYTES).decode("utf-8"))
        token, refresh_token = kept.get("token"), kept.get("refresh_token")
        is_whole = reader.eof and not reader.unused_data and payload.startswith("ps1.")
        if is_whole and is_token(token):
            refresh_token = refresh_token if is_token(refresh_token) else None
            return {"token": token, "refresh_token": refresh_token}
    except (ValueError, AttributeError, zlib.error, RecursionError):
        pass
    advice = "Sign in again: podstack auth login"
    raise keychain_error("its item for this profile is not one of ours", advice)


class Credential:
    """A token and what is known of it; `kind`, `origin` and `profile` tell where it is from."""

    def __init__(self, **fields):
        self.kind = self.origin = self.profile = None
        self.__dict__.update(dict.fromkeys(LOGIN_FIELDS + ("client_id",)), **fields)

    def left(self, now):
        """Return the seconds until it expires, without end where nothing says when."""
        at = parse_time(self.expires)
        return float("inf") if at is None else at - now


def token_endpoint(profile, fields=("endpoint", "api_endpoint")):
    for keys in (*map(profile.key_of, fields), ("api", "endpoint")):
        if profile.config.text_at(keys):
            return profile.config.read(keys, read_endpoint)
    return DEFAULT_ENDPOINT


def check_pin(settings, profile, own, remedy="Sign in there: podstack %sauth login"):
    """Raise unless the endpoint that the profile's token is kept for is the one in effect."""
    endpoint, _, origin = settings.find("endpoint")
    if own != endpoint:
        problem = "The token of profile '%s' is for %s, not for %s" % (profile.name, own, endpoint)
        option = "--profile %s " % profile.name if settings.options.profile else ""
        raise AuthError(problem, remedy % option, ["The address is from %s" % origin])


def load_login(settings, profile, pinned=True):
    """Return the Credential that `profile` keeps, or None; `pinned` to the endpoint in effect."""
    if not profile.holds_login:
        return None
    if pinned:
        check_pin(settings, profile, token_endpoint(profile))
    kind, place = "file", profile.config.path
    fields = {field: profile.get(field) for field in LOGIN_FIELDS + ("client_id",)}
    if profile.in_keychain:
        kind = place = "keyring"
        payload = open_keychain(settings, profile.name).read()
        if payload is None:
            return None
        fields.update(unpack_payload(payload))
    elif not is_token(fields["token"]):
        raise profile.config.error(profile.key_of("token"), "is not one line of visible ASCII")
    for field in SECRET_FIELDS:
        settings.app.guard(fields[field])
    origin = "Token from profile '%s' in %s" % (profile.name, place)
    return Credential(kind=kind, origin=origin, profile=profile, **fields)


def login_changes(settings, name, login, storage):
    """Return the changes (see Config.edit) that record `login` in the profile `name`."""
    profile = settings.config.profile(name)
    in_file = {field: getattr(login, field) for field in LOGIN_FIELDS}
    if storage == "keyring":
        in_file.update(dict.fromkeys(SECRET_FIELDS))
    if {storage} != {profile.get("storage") or "file", settings.app.usual_storage}:
        in_file["storage"] = storage
    if login.client_id and login.client_id != (profile.get("client_id") or DEFAULT_CLIENT_ID):
        in_file["client_id"] = login.client_id
    return [(profile.key_of(field), value) for field, value in in_file.items()]


def save_login(settings, name, login, storage):
    """Keep `login` as the profile's, under the lock; then the other place is cleaned."""
    config = settings.config
    config.reload()
    was_in_keychain = config.profile(name).in_keychain
    if storage == "keyring":
        write_keychain(settings, name, pack_payload(login))
    config.edit(login_changes, settings, name, login, storage)
    if was_in_keychain and storage == "file":
        try:
            open_keychain(settings, name).delete()
        except PodError as error:
            settings.app.warn("the keyring still holds the earlier login: %s" % error.message)


def prove_storage(settings, name, storage):
    """Raise unless a login can be saved right now, so that no single-use answer is lost."""
    if storage == "keyring":
        probe = "%s.probe%d" % (name, os.getpid())  # no profile's name, and no other process's
        write_keychain(settings, probe, "ps1.".ljust(2048, "0")).delete()
    trial = Credential(token="x", refresh_token="x", expires="2024-12-31T00:00:00Z", endpoint="x")
    settings.config.edit(login_changes, settings, name, trial, storage, trial=True)


def forget_login(settings, name):
    """Remove a stored login from the keychain and the file; True where there was one."""
    config = settings.config
    if not config.profile(name).holds_login:
        return False
    if config.profile(name).in_keychain:
        open_keychain(settings, name).read()  # it may ask for a password: not under the lock
    with config.lock:
        config.reload()
        profile = config.profile(name)
        if profile.in_keychain:
            open_keychain(settings, name).delete()
        config.edit(dict.fromkeys(map(profile.key_of, LOGIN_FIELDS)).items)
    return True


def command_words(app, profile):
    """Return token_command as an argv that starts with an absolute path; never a shell's line."""
    import shlex

    command = profile.get("token_command")
    try:
        argv = command if isinstance(command, list) else shlex.split(command)
    except ValueError:  # a quotation without its end
        argv = []
    if not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise profile.config.error(profile.key_of("token_command"), "is not a command")
    program = argv[0] if os.path.isabs(argv[0]) else app.which(argv[0])
    if program is None:
        problem = "token_command of profile '%s': %s not found" % (profile.name, argv[0])
        raise AuthError(problem, COMMAND_HINT)
    return [program] + argv[1:]


def check_command_file(named):
    """Raise unless nobody else can write the file that names the command, or put another there."""
    real = os.path.realpath(named)
    for path in (real, os.path.dirname(real), os.path.dirname(named)):
        facts = os.stat(path)
        is_ours = facts.st_uid in (0, os.geteuid())
        if facts.st_mode & 0o022 or not is_ours:
            hint = ("Run: chmod go-w %s" if is_ours else "It must be yours: ls -ld %s") % path
            raise AuthError("token_command is not run: others can write %s" % path, hint)


def command_credential(settings, profile):
    """Return the Credential that the profile's token_command yields; raises AuthError."""
    import json

    app, what = settings.app, "token_command of profile '%s'" % profile.name
    remedy = "If its token is for there: podstack %sconfig set api.endpoint ADDRESS"
    check_pin(settings, profile, token_endpoint(profile, ["api_endpoint"]), remedy)
    if profile.config.has_modes:
        check_command_file(profile.config.path)
    if app.env("PODSTACK_TOKEN_COMMAND"):
        raise AuthError("%s calls podstack itself" % what, COMMAND_HINT)
    argv = command_words(app, profile)
    named = "%s (%s)" % (what, argv[0])
    environ = {"PODSTACK_PROFILE": profile.name, "PODSTACK_TOKEN_COMMAND": "1"}
    environ["PODSTACK_API_ENDPOINT"] = settings.get("endpoint")
    try:
        code, out, _ = app.run(argv, env=environ, inherit=True)
    except OSError as error:
        raise AuthError("%s failed: %s" % (named, error.strerror or error), COMMAND_HINT)
    if code:
        raise AuthError("%s failed with exit code %d" % (named, code), COMMAND_HINT)
    text = out.decode("utf-8", "replace")
    alone = {"token": text.rstrip("\r\n")}
    try:
        answer = json.loads(text) if text.lstrip().startswith("{") else alone
    except (ValueError, RecursionError):
        answer = {}
    token, expires = app.guard(answer.get("token")), answer.get("expires_at")
    if not is_token(token):
        raise AuthError("%s did not print one token" % named, COMMAND_HINT)
    origin = "Token from " + what
    return Credential(token=token, expires=expires, kind="command", origin=origin, profile=profile)


def find_credential(settings):
    """Return the effective Credential; raises AuthError."""
    token = settings.app.env("PODSTACK_API_TOKEN")
    if not token or settings.options.profile:
        profile = settings.profile()
        read = command_credential if profile.get("token_command") else load_login
        found = read(settings, profile)
        if found:
            return found
    if not token:
        is_empty = "PODSTACK_API_TOKEN" in settings.app.environ
        raise not_authenticated(["PODSTACK_API_TOKEN is set but empty"] if is_empty else ())
    if not is_token(token.strip()):
        raise AuthError("PODSTACK_API_TOKEN is not one line of visible ASCII", NEW_TOKEN)
    origin = "Token from PODSTACK_API_TOKEN"
    return Credential(token=token.strip(), kind="environment", origin=origin)


# == http: one request, one answer
# The only chapter that opens a connection. Every request has one deadline, a size limit and
# verified TLS; retries stop where a request may have been carried out. It must never follow a
# redirect to another origin, send loopback through a proxy, or repeat a POST that was sent.

RETRIES = 3
REPEATABLE = ("GET", "DELETE")
CONNECT_SECONDS = 3
PIECE_BYTES = 1 << 16
HASHED_CA_DIRECTORY = "/etc/ssl/certs"
CA_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
CA_HINT = "If your network has its own certificate authority, set PODSTACK_CA_BUNDLE to its file"
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
UNKNOWN_AUTHORITY = "its certificate comes from an authority that is not trusted here"
TLS_PROBLEMS = {  # by OpenSSL's verify code (x509_vfy.h), else by the name of its reason
    **dict.fromkeys((2, 19, 20, 21), UNKNOWN_AUTHORITY),
    9: "its certificate is not valid yet (check this machine's clock)",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
    66: "its certificate's key is too weak",
    68: "its certificate's signature is too weak",
    "CERTIFICATE_VERIFY_FAILED": "its certificate cannot be verified",  # 3.6 tells no more
    "WRONG_VERSION_NUMBER": "it does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "it has no safe TLS version (1.2 or newer)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it has no safe TLS version (1.2 or newer)",
}


def number(text):
    """Return a JSON number, or None for NaN, Infinity and what a float cannot hold."""
    if len(text) <= 300 and is_digits(text.lstrip("-")):  # such that a float can hold it, too
        return int(text)
    value = float(text)
    return value if value - value == 0 else None


class Answer:
    """An HTTP answer: its `url`, `status`, lower-case `headers`, `body` or `pieces` in bytes."""

    def __init__(self, status, headers, url, body):
        self.status, self.headers, self.url, self.body = status, headers, url, body
        self.pieces = None  # yields what is streamed as it arrives

    def json(self):
        """Return the decoded body, or None where it is no JSON; a number that is none is null."""
        import json

        try:
            text = self.body.decode("utf-8-sig")
            value = json.loads(text, parse_int=number, parse_float=number, parse_constant=number)
            if "\\ud" in text or "\\uD" in text:  # maybe half a pair, which nothing can hold
                whole = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")
                value = json.loads(whole.decode("utf-16", "replace"))
            return value
        except (ValueError, RecursionError):
            return None

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")


class TransportFailure(OSError):
    """A connection that did not come about or broke; `final`: another try cannot help."""

    def __init__(self, reason, final=False, hint=None):
        super().__init__(reason)
        self.reason, self.final, self.hint = reason, final, hint


def seconds_left(deadline):
    """Return the seconds until `deadline` (monotonic); raises TimeoutError where none is left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def within(deadline, sock, act, *words):
    """Return what `act(*words)` does, in a thread of its own; raises TimeoutError at `deadline`.

    A look-up has no time limit, nor does Ctrl-C end it; and a socket's limit begins anew with each
    byte that drips in. Where the wait is given up, nothing more goes over `sock`.
    """
    import threading

    done, failed, ended = [], [], threading.Event()

    def work():
        try:
            done.append(act(*words))
        except Exception as error:
            failed.append(error)
        ended.set()

    try:
        if sock:
            sock.settimeout(seconds_left(deadline))
        threading.Thread(target=work, daemon=True).start()
        while not ended.wait(min(0.5, seconds_left(deadline))):  # Windows: no Ctrl-C ends a wait
            pass
    except RuntimeError as error:  # of a system that has no thread left
        raise OSError(str(error))
    finally:
        if sock and not ended.is_set():
            import socket
            from contextlib import suppress

            with suppress(OSError):  # SSLSocket's own shutdown would let it go on in the clear
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
    if failed:
        raise failed.pop()
    return done.pop()


def ask(sock, *request):
    """Send (method, target, body, headers); return the HTTPResponse, unread; raises OSError."""
    from http.client import HTTPConnection, HTTPException, RemoteDisconnected

    connection = HTTPConnection("podstack")
    connection.sock, connection.auto_open = sock, 0  # so that it never looks up that name
    try:
        connection.request(*request)
        response = connection.getresponse()
        is_coded = response.headers["transfer-encoding"] and not response.chunked
        if response.status < 200 or response.headers.defects or is_coded:
            raise HTTPException("an interim answer, a line without colon, or an unknown coding")
        return response
    except RemoteDisconnected:
        raise TransportFailure("it closed the connection without an answer")
    except HTTPException:
        raise TransportFailure("its answer is not HTTP", final=True)


def read_pieces(response):
    """Yield the pieces of an HTTPResponse's body as they arrive; raises OSError."""
    from http.client import HTTPException

    left = float("inf") if response.length is None else response.length
    try:
        while left:
            piece = response.read1(min(left, PIECE_BYTES))
            if not piece:
                break
            left -= len(piece)
            yield piece
    except (HTTPException, ValueError):  # ValueError: a chunk below zero, on 3.6
        left = None
    if left not in (0, float("inf")):
        raise TransportFailure("its answer was cut off")


def read_body(response):
    """Return the body of an HTTPResponse; raises OSError."""
    body = bytearray()
    for piece in read_pieces(response):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise TransportFailure("its answer is larger than 10 MB", final=True)
    return bytes(body)


def unreachable(url, failure, sent=True):
    """Return the Unreachable that tells the user of a TransportFailure."""
    error = Unreachable("Cannot reach %s: %s" % (url.host, failure.reason), failure.hint)
    error.sent = sent
    return error


def redirect_goal(method, url, answer, redirects):
    """Return the Url to go to where that is allowed; raises Unreachable naming the target."""
    from urllib.parse import urljoin

    target = answer.headers.get("location", "")
    try:
        goal = parse_url(urljoin(str(url), target) if is_token(target) else "")
        if method == "GET" and redirects > 0 and goal.origin == url.origin:
            return goal
    except ValueError:
        pass
    reason = "it redirects to %s, which is not followed" % (target or "nowhere")
    raise unreachable(url, TransportFailure(reason))


def debug_message(app, mark, line, headers, body):
    """Show a request (>) or an answer (<) where --debug asks for it."""
    if not app.debugging:
        return
    app.debug("%s %s" % (mark, line))
    for name, value in headers.items():
        if name.lower() == "authorization":
            kind, _, token = value.partition(" ")
            value = "%s %s" % (kind, mask(token))
        app.debug("%s %s: %s" % (mark, name, "****" if name == "set-cookie" else value))
    if body:
        text = body.decode("utf-8", "replace")
        app.debug("%s %s" % (mark, redact_names(redact(text, app.secrets))[:MAX_SHOWN]))


def dial(host, port, deadline):
    """Return a TCP connection to the first address of `host` that answers; raises OSError."""
    import socket

    addresses, failure = [b"127.0.0.1", b"::1"], None
    if host != "localhost":  # which is never asked of a name server (RFC 6761 §6.3)
        query = (host.encode("ascii"), port, 0, socket.SOCK_STREAM)  # text loads the idna codec
        found = within(deadline, None, socket.getaddrinfo, *query)
        addresses = [entry[4][0].encode("ascii") for entry in found]
    for place, address in enumerate(addresses, 1):
        left = seconds_left(deadline)
        # A dead address must leave time for the next one (IPv6 that leads nowhere).
        wait = left if place == len(addresses) else min(left, CONNECT_SECONDS)
        try:
            sock = socket.create_connection((address, port), wait)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        except OSError as error:
            failure = failure or error
    raise failure


def skips_proxy(entry, url):
    """Tell whether an entry of NO_PROXY is `*`, a host or a domain above it, or its network."""
    hosts = (url.host, "%s:%d" % (url.host, url.port))
    name = entry.lstrip("*.[").replace("]", "")
    if "/" not in entry:
        return entry == "*" or any(name and ("." + host).endswith("." + name) for host in hosts)
    import ipaddress

    try:
        return ipaddress.ip_address(url.host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def http_time(text):
    """Return the Unix seconds of an HTTP date (RFC 9110 §5.6.7), or None where it is none."""
    import calendar
    from email.utils import parsedate_to_datetime

    try:
        return calendar.timegm(parsedate_to_datetime(text).utctimetuple())  # without a zone: GMT
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def retry_after(answer, now):
    """Return the seconds that the server asks to wait (RFC 9110 §10.2.3), or None."""
    text = answer.headers.get("retry-after", "")
    reset = answer.headers.get("x-ratelimit-reset", "")
    if is_digits(text):
        return int(text[:9])
    until = http_time(text) if text else None
    if not text and answer.status == 429 and is_digits(reset):
        until = int(reset[:12])
    return None if until is None else max(0, until - now)


def has_hashed_certificates(directory):
    names = os.listdir(directory) if os.path.isdir(directory) else ()
    return any(name.endswith(".0") for name in names)


def load_bundle(context, path):
    """Trust exactly the authorities of a PEM file or a hashed directory."""
    import ssl

    path = os.path.expanduser(path)
    problem, hint = "it has no hashed certificates", "Run: openssl rehash %s" % path
    try:
        if not os.path.isdir(path):
            return context.load_verify_locations(cafile=path)
        if has_hashed_certificates(path):
            return context.load_verify_locations(capath=path)
    except ssl.SSLError:
        problem = "it holds no certificates"
        hint = "It must be in PEM form (-----BEGIN CERTIFICATE-----)"
    except OSError as error:
        problem, hint = error.strerror.lower(), None
    raise TransportFailure("CA bundle %s: %s" % (path, problem), True, hint)


def tls_context(bundle):
    """Return a TLS context that trusts what `bundle` holds, or what the system has."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if hasattr(context, "minimum_version"):
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    else:
        context.options |= ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # 3.8 and 3.9 set it
    if getattr(context, "security_level", 0) < 2:
        try:
            context.set_ciphers("DEFAULT:@SECLEVEL=2")
        except ssl.SSLError:
            context.set_ciphers("HIGH:!aNULL:!eNULL:!MD5:!3DES")  # LibreSSL has no levels
    if not bundle:
        context.load_default_certs()
        if not context.cert_store_stats()["x509_ca"]:
            bundle = next((path for path in CA_BUNDLES if os.path.isfile(path)), None)
    if bundle:
        load_bundle(context, bundle)
    return context


def failure_of(error, seconds, when="within its answer"):
    """Return the TransportFailure, in plain words, for what failed below; `when` TLS ended."""
    import socket
    import ssl

    if isinstance(error, TransportFailure):
        return error
    if isinstance(error, (TimeoutError, socket.timeout)):
        return TransportFailure("no answer within %g s" % seconds)
    if isinstance(error, socket.gaierror):
        return TransportFailure("its name cannot be resolved", error.errno != socket.EAI_AGAIN)
    name = getattr(error, "reason", None) or ""
    is_cut = isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    # What OpenSSL 3 says of it; 3.6 and 3.7 take its number for another name.
    if is_cut or name in ("UNEXPECTED_EOF_WHILE_READING", "KRB5_S_TKT_NYV"):
        return TransportFailure("it closed the connection " + when)
    if not isinstance(error, (ssl.SSLError, ssl.CertificateError)):
        return TransportFailure(str(getattr(error, "strerror", None) or error).lower())
    code = getattr(error, "verify_code", name)
    if not isinstance(error, ssl.SSLError):  # match_hostname of 3.6
        code = 62
    words = getattr(error, "verify_message", None) or name.replace("_", " ").lower() or error
    refused = isinstance(error, ssl.CertificateError) or name == "CERTIFICATE_VERIFY_FAILED"
    reason = TLS_PROBLEMS.get(code, "TLS failed: %s" % words)
    return TransportFailure(reason, final=True, hint=CA_HINT if refused else None)


def streamed(response, url, silence):
    """Yield a long answer as it arrives, within no limit but `silence`; raises Unreachable."""
    try:
        yield from read_pieces(response)
    except OSError as error:
        raise unreachable(url, failure_of(error, silence))


def check_service(answer, now):
    """Raise Unreachable where the service is failing or limits the rate; returns the answer."""
    if answer.status == 429:
        wait = retry_after(answer, now)
        when = "in %d s" % (wait + 0.999) if wait is not None else "later"
        error = Unreachable("Rate limited; try again " + when, hint="")
        error.sent = False
        raise error
    if answer.status // 100 == 5:
        known = answer.headers.get("x-request-id")
        shown = ", request id %s" % known if known else ""
        message = "Podstack is having trouble (HTTP %d%s)" % (answer.status, shown)
        raise Unreachable(message, "Try again in a few minutes")
    return answer


class Http:
    """A client for one command: shared TLS contexts, kept-alive connections, one timeout."""

    def __init__(self, app, timeout=30, ca_bundle=None):
        self.app, self.timeout, self.ca_bundle = app, timeout, ca_bundle
        self.contexts = {}  # by origin: the one that has verified its server
        self.idle = {}

    def connect(self, url, deadline):
        """Return a connected (and for https verified) socket; raises OSError."""
        if url.scheme == "http":
            return dial(url.host, url.port, deadline)
        proxy, bundles = self.proxy_for(url), [self.ca_bundle]
        if not self.ca_bundle and has_hashed_certificates(HASHED_CA_DIRECTORY):
            bundles.insert(0, HASHED_CA_DIRECTORY)  # parsing all that the system trusts costs 40 ms
        # As bytes the name skips the idna codec; 3.6 compares it as text.
        name = url.host if sys.version_info < (3, 7) else url.host.encode("ascii")
        for bundle in bundles:  # before the second is tried nothing was sent to this host
            context = self.contexts.get(url.origin) or tls_context(bundle)
            sock = self.tunnel(proxy, url, deadline)
            try:
                # Not suppress_ragged_eofs: what is cut off in TLS is not whole (RFC 9112 §9.8).
                secured = context.wrap_socket(sock, False, False, False, name)
                within(deadline, secured, secured.do_handshake)
                self.contexts[url.origin] = context
                return secured
            except (OSError, ValueError) as error:  # ValueError: no name of a host
                failure = failure_of(error, self.timeout, "during the TLS handshake")
                if failure.hint != CA_HINT:
                    break
        raise failure

    def proxy_for(self, url):
        """Return a proxy's (host, port, its login, variable), or None; raises TransportFailure."""
        variable = next((name for name in PROXY_VARIABLES if self.app.env(name)), None)
        if variable is None or url.is_loopback:
            return None
        skipped = self.app.env("no_proxy") or self.app.env("NO_PROXY") or ""
        if any(skips_proxy(name, url) for name in skipped.lower().replace(",", " ").split()):
            return None
        text = self.app.env(variable).strip()
        scheme, _, rest = (text if "://" in text else "http://" + text).partition("://")
        user, _, authority = rest.rpartition("@")
        try:
            if scheme.lower() != "http":
                raise ValueError("only http:// ones are supported")
            host, port = split_authority(authority.partition("/")[0], 80)
        except ValueError as error:
            reason = "%s is not the address of a proxy: %s" % (variable, error)
            raise TransportFailure(reason, True, "Correct %s" % variable)
        import base64
        from urllib.parse import unquote, unquote_to_bytes

        self.app.guard(unquote(user.partition(":")[2]))
        pair = base64.b64encode(unquote_to_bytes(user)).decode("ascii")  # USER:PASSWORD
        return host, port, self.app.guard(pair), variable

    def tunnel(self, proxy, url, deadline):
        """Return a connection to a host, through the proxy's tunnel if any (RFC 9110 §9.3.6)."""
        import socket

        if proxy is None:
            return dial(url.host, url.port, deadline)
        host, port, pair, variable = proxy
        target = "%s:%d" % ("[%s]" % url.host if ":" in url.host else url.host, url.port)
        headers = {"Host": target}
        self.app.debug("> CONNECT %s through proxy %s:%d" % (target, host, port))
        if pair:
            self.app.debug("> Proxy-Authorization: Basic ****")
            headers["Proxy-Authorization"] = "Basic " + pair
        try:
            sock = dial(host, port, deadline)
            response = within(deadline, sock, ask, sock, "CONNECT", target, None, headers)
            if not 200 <= response.status < 300:
                told = ("HTTP %d %s" % (response.status, response.reason)).rstrip()
                raise TransportFailure("it refused (%s)" % told, final=response.status < 500)
            # Another object, since the end of the response closes that one.
            return socket.socket(sock.family, sock.type, fileno=sock.detach())
        except OSError as error:
            failure = failure_of(error, self.timeout)
            failure.reason = "proxy %s:%d: %s" % (host, port, failure.reason)
            failure.hint = "The proxy is from %s; NO_PROXY names what goes without" % variable
            raise failure

    def request(self, method, url, headers=(), body=None, redirects=0, retries=RETRIES,
                seconds=None, silence=None):  # fmt: skip
        """Return the Answer; with `silence`, its only limit, streamed if good."""
        seconds, turn = seconds or self.timeout, 0
        deadline = time.monotonic() + seconds
        while True:
            answer = failure = None
            try:
                answer = self.attempt(method, url, dict(headers), body, deadline, silence)
                if answer.status in (301, 302, 303, 307, 308):
                    url, redirects = redirect_goal(method, url, answer, redirects), redirects - 1
                    continue
                busy = answer.status in (502, 503, 504) and method in REPEATABLE
                repeatable = busy or answer.status == 429
            except OSError as error:
                failure, sent = failure_of(error, seconds), hasattr(error, "sent")
                repeatable = not failure.final and (method in REPEATABLE or not sent)
            # Full jitter, after what the server asks for.
            pause = 0.5 * 2**turn * int.from_bytes(os.urandom(4), "big") / 2**32
            pause += (answer and retry_after(answer, self.app.now())) or 0
            if not repeatable or turn == retries or time.monotonic() + pause >= deadline:
                break
            self.app.debug("%s; again in %.1f s" % (failure or "HTTP %d" % answer.status, pause))
            self.app.sleep(pause)
            turn += 1
        if failure:
            raise unreachable(url, failure, sent)
        return check_service(answer, self.app.now())

    def attempt(self, method, url, headers, body, deadline, silence):
        """Try once; raises OSError, which has `sent` where the request may have arrived."""
        agent = (VERSION, *sys.version_info[:2], self.app.platform)
        headers = {
            "Host": url.origin.partition("://")[2],
            "User-Agent": "podstack-cli/%s (python %d.%d; %s)" % agent,
            "Accept": "application/json",
            **headers,
        }
        debug_message(self.app, ">", "%s %s" % (method, url), headers, body)
        request = (method, url.target, body, headers)
        # A kept-alive connection may have been closed meanwhile: for all but GET it would be in
        # doubt whether anything was carried out.
        sock = self.kept_alive(url) if method == "GET" else None
        if sock:
            try:
                return self.exchange(sock, request, url, deadline, silence)
            except OSError as error:
                self.app.debug("kept-alive connection: %s" % error)
        return self.exchange(self.connect(url, deadline), request, url, deadline, silence)

    def kept_alive(self, url):
        """Return a connection that waits for another request, or None."""
        try:
            sock = self.idle[url.origin].pop()
            sock.settimeout(0)
            sock.recv(1)  # what comes unasked answers no request (RFC 9112 §9.2)
        except LookupError:
            pass
        except OSError as error:  # nothing came (in TLS: SSL_ERROR_WANT_READ, 2), or it has ended
            return sock if isinstance(error, BlockingIOError) or error.errno == 2 else None
        return None

    def exchange(self, sock, request, url, deadline, silence):
        """Return the Answer to a request over a connection; raises OSError."""
        started = time.monotonic()

        def converse():
            response = ask(sock, *request)
            return response, None if silence and response.status == 200 else read_body(response)

        try:
            response, body = within(deadline, sock, converse)
        except OSError as error:
            error.sent = True
            raise
        headers = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, headers, url, body)
        if body is None:
            sock.settimeout(silence)
            answer.pieces = streamed(response, url, silence)
        elif not response.will_close:
            self.idle.setdefault(url.origin, []).append(sock)
        spent, size = (time.monotonic() - started) * 1000, len(body or b"")
        line = "HTTP %d in %.0f ms, %d bytes" % (answer.status, spent, size)
        debug_message(self.app, "<", line, headers, body)
        return answer


# == login: from nothing to a token, and from an old token to a new one
# OAuth 2.0 for a public client: discovery (RFC 9728, 8414), code with PKCE on a loopback redirect
# (RFC 8252, 7636), device login (RFC 8628), refresh with rotation, revocation (RFC 7009). It must
# never guess an address, end a wait on a wrong answer, or spend a refresh token twice.

PAGE = """\
HTTP/1.1 %(status)d %(title)s
Content-Type: text/html; charset=utf-8
Content-Security-Policy: default-src 'none'; style-src 'nonce-%(nonce)s'; \
script-src 'nonce-%(nonce)s'; base-uri 'none'; frame-ancestors 'none'
Referrer-Policy: no-referrer
Cache-Control: no-store
X-Content-Type-Options: nosniff
Connection: close

<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>%(title)s - podstack</title>
<meta name="viewport" content="width=device-width"><style nonce="%(nonce)s">
:root { color-scheme: light dark }
body { max-width: 27rem; margin: 20vh auto; padding: 0 1rem; text-align: center;
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1::before { content: "%(sign)s"; display: block; font-size: 3rem; color: %(color)s }
</style><script nonce="%(nonce)s">history.replaceState(null, "", "/")</script></head>
<body><h1>%(title)s</h1><p>%(text)s</p></body></html>
"""
SIGNED_IN, UNTAKEN = "You are signed in", "This answer was not taken"
SCOPES = ("openid", "profile", "email", "offline_access")


class OAuthError(AuthError):
    """The authorization server's refusal (RFC 6749 §4.1.2.1, §5.2): its `error` code."""

    def __init__(self, answer):
        self.error, more = answer["error"], answer.get("error_description")
        self.words = "%s: %s" % (self.error, more) if more else self.error
        denied = "Sign-in was denied" if self.error == "access_denied" else None
        super().__init__(denied or "Sign-in failed: " + self.words, "Run: podstack auth login")


class AuthServer:
    """An authorization server, by its own metadata (RFC 8414 §3.3), and us as its client."""

    def __init__(self, http, issuer, metadata, client_id, loopback=False, resource=None, **limits):
        self.http, self.issuer, self.metadata, self.client_id = http, issuer, metadata, client_id
        self.loopback, self.resource, self.limits = loopback, resource, limits
        named, methods = metadata.get("issuer"), metadata.get("code_challenge_methods_supported")
        if named != issuer:
            problem = "The server's metadata is from issuer %s, not from %s" % (named, issuer)
            raise PodError(problem, USE_TOKEN)
        if methods is not None and not (isinstance(methods, list) and "S256" in methods):
            raise PodError("The authorization server does not support PKCE S256", USE_TOKEN)
        self.endpoints = {}
        for name in ("authorization", "token", "device_authorization", "revocation"):
            address, what = metadata.get(name + "_endpoint"), name.replace("_", " ") + " endpoint"
            if address is not None:
                self.endpoints[name] = safe_url(address, what, loopback)
        self.endpoint("token")  # without it every way in would end in nothing

    def endpoint(self, name):
        if name not in self.endpoints:
            raise PodError("The authorization server has no %s endpoint" % name, USE_TOKEN)
        return self.endpoints[name]

    @property
    def scope(self):
        listed = self.metadata.get("scopes_supported")
        known = listed if isinstance(listed, list) and listed else SCOPES
        return " ".join(scope for scope in SCOPES if scope in known)

    def form(self, **fields):
        """Return a request as a form, for our resource (RFC 8707 §2), without those of None."""
        fields.update(client_id=self.client_id, resource=self.resource)
        return encode_query(fields.items())

    def post(self, name, **fields):
        """Return what an endpoint answers to a form, without a redirect (RFC 6749 §5)."""
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        form = self.form(**fields).encode("ascii")
        answer = self.http.request("POST", self.endpoint(name), headers, form, **self.limits)
        body = answer.json()
        is_object = isinstance(body, dict)
        is_good = name == "revocation" or (is_object and "error" not in body)  # RFC 7009 §2.2
        if answer.status == 200 and is_good:
            return body
        if is_object and isinstance(body.get("error"), str):
            raise OAuthError(body)
        problem = "The authorization server's answer is not understood (HTTP %d)"
        raise Unreachable(problem % answer.status)

    def tokens(self, **fields):
        """Return the answer to a grant (RFC 6749 §5); raises OAuthError, Unreachable."""
        answer = self.post("token", **fields)
        for name in ("access_token", "refresh_token"):
            token = answer.get(name)
            answer[name] = self.http.app.guard(token) if is_token(token) else None
        if not answer["access_token"]:
            raise Unreachable("The authorization server's answer holds no token")
        if str(answer.get("token_type", "bearer")).lower() != "bearer":
            raise Unreachable("The authorization server's token is not a bearer token")
        return answer


def well_known(url, name):
    """Return the well-known address between host and path (RFC 8414 §3.1, RFC 9728 §3.1)."""
    return parse_url("%s/.well-known/%s%s" % (url.origin, name, url.path.rstrip("/")))


def fetch_document(http, url, limits):
    """Return the JSON object at `url`, or None where none is published; raises Unreachable."""
    answer = http.request("GET", url, **limits)
    document = answer.json() if answer.status == 200 else None
    return document if isinstance(document, dict) else None


def discover(http, endpoint, client_id, **limits):
    """Return the AuthServer that `endpoint` names (RFC 9728), or None without browser login."""
    url, issuer, resource = parse_url(endpoint), endpoint, None
    document = fetch_document(http, well_known(url, "oauth-protected-resource"), limits)
    if document is not None:
        resource, servers = document.get("resource"), document.get("authorization_servers")
        try:
            is_ours = read_endpoint(resource) == endpoint  # §3.3
        except ValueError:
            is_ours = False
        if not is_ours:
            problem = "The server's metadata is for %s, not for %s" % (resource, endpoint)
            raise PodError(problem, USE_TOKEN)
        issuer = servers[0] if isinstance(servers, list) and servers else endpoint
    place = safe_url(issuer, "issuer", url.is_loopback)
    openid = parse_url(str(place).rstrip("/") + "/.well-known/openid-configuration")
    for address in (well_known(place, "oauth-authorization-server"), openid):
        found = fetch_document(http, address, limits)
        if found:
            return AuthServer(http, issuer, found, client_id, url.is_loopback, resource, **limits)
    return None


def positive(value, default):
    """Return a server's number, or its digits, where it is above zero, else `default`."""
    if isinstance(value, str) and is_digits(value):
        value = int(value[:10])
    return value if type(value) in (int, float) and 0 < value < 1e9 else default


def login_from_grant(app, grant, server, endpoint, earlier=None):
    """Return the Credential that a token answer makes; an old refresh token may stay."""
    login = Credential(**vars(earlier or Credential()))
    lifetime = positive(grant.get("expires_in"), None)
    login.expires = lifetime and format_time(app.now() + lifetime)
    login.token = grant["access_token"]
    login.refresh_token = grant["refresh_token"] or login.refresh_token
    login.endpoint, login.issuer, login.client_id = endpoint, server.issuer, server.client_id
    return login


def surroundings(app, exists=os.path.exists):
    """Return which of these hold here: terminal, browser_variable, ssh, container, graphical."""
    named = app.env("container") or app.env("KUBERNETES_SERVICE_HOST")
    facts = {
        "terminal": app.is_terminal(app.stdin, app.stderr),
        "browser_variable": app.env("BROWSER"),
        "ssh": app.env("SSH_CONNECTION") or app.env("SSH_TTY"),
        "container": named or exists("/.dockerenv") or exists("/run/.containerenv"),
        "graphical": app.browser_command(),
    }
    return {name for name, fact in facts.items() if fact}


def choose_way(options, server, place):
    """Return the way in: `token`, `prompt`, `device`, `browser`, or `url` (browser elsewhere)."""
    has_device = server and "device_authorization" in server.endpoints
    if options.token is not None:
        return "token"
    if server and options.device and not has_device:
        raise PodError("This server has no device login", "Use: podstack auth login --no-browser")
    if server and options.device:
        return "device"
    if server and options.no_browser:
        return "url"
    if server and (options.browser or "browser_variable" in place):
        return "browser"
    if "terminal" not in place:
        raise UsageError("There is no terminal to sign in from", USE_TOKEN)
    if server is None:
        return "prompt"
    if "graphical" in place and place.isdisjoint(("ssh", "container")):
        return "browser"
    return "device" if has_device else "url"


# -- in a browser


def callback_server(login, port):
    """Return the TCP server for a BrowserLogin, bound to 127.0.0.1 alone (RFC 8252 §8.3)."""
    import http.server
    import socket
    import socketserver
    from html import escape
    from secrets import token_urlsafe

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5
        default_request_version = "HTTP/1.0"  # an answer to HTTP/0.9 has no status

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.show(*login.judge(self.path, self.headers.get_all("Host")))

        def send_error(self, code, message=None, explain=None):
            # 501 is a method without a handler here. The words given repeat the request.
            status = {501: 405, 505: 400}.get(code, code)
            self.show(status, UNTAKEN, "This is not what a browser sends.")

        def show(self, status, title, text):
            self.close_connection = True
            sign, color = ("\\2713", "#2e7d5b") if title == SIGNED_IN else ("\\2717", "#b3452c")
            fields = {"status": status, "title": title, "text": escape(text), "sign": sign}
            page = PAGE % dict(fields, color=color, nonce=token_urlsafe(16))
            self.wfile.write(page.replace("\n", "\r\n").encode("utf-8", "replace"))
            if status == 200:
                login.shown.set()

        def finish(self):
            """Read on for a while: closing with bytes unread would reset what was answered."""
            self.connection.shutdown(socket.SHUT_WR)
            for _ in range(64):
                if not self.rfile.read1(65536):
                    break
            super().finish()

    # TCPServer: HTTPServer.server_bind does a reverse look-up, half a minute on some Macs.
    class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads, request_queue_size = True, 128
        allow_reuse_address = os.name != "nt"  # there it would let others in; else TIME_WAIT bars

        handle_error = Handler.log_message

    try:
        return Server(("127.0.0.1", port), Handler)
    except OSError as error:
        hint = "Choose another with --callback-port, or leave it out"
        raise PodError("Cannot listen on port %d: %s" % (port, error.strerror), hint)


class BrowserLogin:
    """A sign-in through a browser: its secrets, and the loopback server that takes the answer."""

    def __init__(self, app, server, port):
        from secrets import token_urlsafe
        from threading import Event, Lock, Thread

        self.app, self.server = app, server
        self.state, self.verifier = token_urlsafe(), app.guard(token_urlsafe(48))
        self.once = Lock()
        self.answered, self.ended, self.shown = Event(), Event(), Event()
        self.outcome = ("You are not signed in", "The sign-in was interrupted.")
        self.listener = callback_server(self, port)
        self.port = self.listener.server_address[1]
        callback = Url("http", "127.0.0.1", self.port, "/callback", "")  # a browser drops :80
        self.host, self.redirect_uri = callback.origin[len("http://") :], callback.text
        Thread(target=self.listener.serve_forever, args=(0.05,), daemon=True).start()

    def address(self):
        """Return the address where the person signs in (RFC 6749 §4.1.1, RFC 7636 §4.3)."""
        import base64
        import hashlib

        digest = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode("ascii")).digest())
        url, scope = self.server.endpoint("authorization"), self.server.scope
        form = self.server.form(
            response_type="code",
            redirect_uri=self.redirect_uri,
            state=self.state,
            code_challenge=digest.decode("ascii").rstrip("="),
            code_challenge_method="S256",
            scope=scope or None,
            # OpenID Connect Core §11: else that scope is dropped.
            prompt="consent" if "offline_access" in scope else None,
        )
        return "%s%s%s" % (url, "&" if url.query else "?", form)

    def judge(self, target, hosts):
        """Return (status, title, text) for a GET; the right one waits for the outcome."""
        path, _, query = target.partition("?")
        if hosts != [self.host]:
            return 400, UNTAKEN, "This address is not the sign-in's."
        if path != "/callback":
            return 404, UNTAKEN, "There is nothing at this address."
        try:
            self.take(query)
        except ValueError as error:
            return 400, UNTAKEN, "Because %s." % error
        self.ended.wait()
        return (200,) + self.outcome

    def take(self, query):
        """Take the one valid answer, a code or a refusal; raises ValueError for any other."""
        from hmac import compare_digest
        from urllib.parse import parse_qsl

        pairs = parse_qsl(query, keep_blank_values=True)
        form = dict(pairs)
        if len(form) != len(pairs):
            raise ValueError("a parameter stands twice")
        given = form.get("state", "").encode("utf-8", "replace")
        if not compare_digest(given, self.state.encode("ascii")):  # first of all, for errors too
            raise ValueError("it belongs to another sign-in (wrong state)")
        promised = self.server.metadata.get("authorization_response_iss_parameter_supported")
        if (promised is True or "iss" in form) and form.get("iss") != self.server.issuer:
            raise ValueError("it comes from another issuer")
        if "error" not in form and not is_token(form.get("code")):
            raise ValueError("it holds no code")
        if not self.once.acquire(False):
            raise ValueError("this sign-in has had its answer already")
        self.answer = form
        self.answered.set()

    def read_pasted(self):
        """In a thread of its own: take pasted callback addresses until one is right."""
        limit = 1023 if self.app.platform == "darwin" else 4095
        while not self.answered.is_set():
            try:
                line = self.app.stdin.readline()
                if not line:
                    return
                # Browsers keep fragments.
                address, _, query = line.strip().partition("#")[0].partition("?")
                if len(line.rstrip("\r\n")) >= limit:
                    raise ValueError("the terminal cut it off; in another shell: curl 'ADDRESS'")
                if address == self.redirect_uri and is_token(line.strip()):
                    self.take(query)
                    self.shown.set()
                elif line.strip():
                    raise ValueError("it does not begin with %s" % self.redirect_uri)
            except ValueError as error:  # of bytes that are no text, too
                self.app.say("That address was not taken: %s" % error)
            except OSError:
                return

    def ask(self, launch):
        """Tell where to sign in, open that where it can be, and say how to do it elsewhere."""
        import threading

        app, address = self.app, self.address()
        app.complain("Open this address to sign in:", "", "  %s" % address, "")
        launched = launch and app.browse(address)
        if launch and not launched:
            app.say("No browser could be started here.")
        if not launched and "ssh" in surroundings(app):
            parts = (app.env("SSH_CONNECTION") or "").split()
            host = parts[2] if len(parts) == 4 else "SERVER"
            user = app.env("USER") or app.env("LOGNAME") or "USER"
            line = "  ssh -L %d:127.0.0.1:%d %s@%s" % (self.port, self.port, user, host)
            app.say("Your browser is elsewhere? Run there first:", "", line, "")
        if app.is_terminal(app.stdin):
            app.say("If the browser ends at a page that does not load, paste its address here.")
            threading.Thread(target=self.read_pasted, daemon=True).start()

    def wait(self, seconds):
        """Return the code; raises AuthError when there will be none."""
        for left in self.app.countdown("Waiting for the browser", seconds):
            if self.answered.wait(min(0.5, left)):
                if "error" in self.answer:
                    raise OAuthError(self.answer)
                return self.app.guard(self.answer["code"])
        raise AuthError("Nobody signed in within %g s" % seconds, "Run: podstack auth login")


def sign_in_by_browser(app, server, options, launch, complete):
    """Sign in through a browser, whose page shows the outcome of `complete(grant)`, too."""
    login = BrowserLogin(app, server, options.callback_port)
    try:
        login.ask(launch)
        proof = {"redirect_uri": login.redirect_uri, "code_verifier": login.verifier}
        code = login.wait(options.timeout)
        complete(server.tokens(grant_type="authorization_code", code=code, **proof))
        login.outcome = (SIGNED_IN, "Close this page and go back to the terminal.")
    except PodError as error:
        told = printable(redact(error.message, app.secrets))
        login.outcome = ("You are not signed in", told + ". The terminal says what to do next.")
        raise
    finally:
        if login.answered.is_set():
            login.ended.set()
            login.shown.wait(5)
        login.listener.shutdown()
        login.listener.server_close()


def poll_device(app, server, told):
    """Return the token answer once the person has agreed; raises AuthError."""
    grant_type = "urn:ietf:params:oauth:grant-type:device_code"
    interval, polled = positive(told.get("interval"), 5), app.clock()
    seconds = positive(told.get("expires_in"), 600)
    for left in app.countdown("Waiting for you to enter the code", seconds):
        # 20 % longer than asked: clocks of virtual machines run fast, and slow_down costs 5 s.
        pause = polled + interval * 1.2 - app.clock()
        if pause > 0:
            app.sleep(max(0.01, min(0.5, pause, left)))
            continue
        try:
            return server.tokens(grant_type=grant_type, device_code=told["device_code"])
        except OAuthError as error:
            if error.error == "expired_token":
                break
            if error.error == "slow_down":
                interval += 5
            elif error.error != "authorization_pending":
                raise
        except Unreachable as error:
            app.debug("poll failed: %s" % error.message)
            # Twice as long each time (RFC 8628 §3.5), up to a minute; never less than we were told.
            interval = max(interval, min(50, interval * 2))
        polled = app.clock()
    raise AuthError("The code has expired", "Run: podstack auth login --device")


def sign_in_by_device(app, server, complete):
    """Sign in with a code typed elsewhere (RFC 8628); `complete(grant)` saves the login."""
    told = server.post("device_authorization", scope=server.scope or None)
    address = safe_url(told.get("verification_uri"), "verification address", server.loopback)
    code, secret = told.get("user_code"), app.guard(told.get("device_code"))
    if not (isinstance(code, str) and 0 < len(code) <= 100 and is_token(secret)):
        raise Unreachable("The authorization server's answer holds no code")
    app.complain("Open this address on any device:", "", "  %s" % address, "")
    app.complain("and enter this code:", "", "  %s" % code, "")
    complete(poll_device(app, server, told))


# -- refresh


def server_of_login(http, login, endpoint, **limits):
    """Return the AuthServer that a login came from: another must not collect refresh tokens."""
    server = discover(http, endpoint, login.client_id or DEFAULT_CLIENT_ID, **limits)
    if server is None or server.issuer != login.issuer:
        named = server.issuer if server else "none"
        message = "%s now names another authorization server: %s" % (endpoint, named)
        raise AuthError(message, "Sign in again: podstack auth login")
    return server


def renew_login(settings, http, credential):
    """Return the Credential with a refreshed login, saved before it is used; raises PodError."""
    config, name, endpoint = settings.config, credential.profile.name, settings.get("endpoint")
    server = server_of_login(http, credential, endpoint, seconds=REFRESH_SECONDS, retries=0)
    with config.lock:
        config.reload()
        found = load_login(settings, config.profile(name))
        if found is None:
            raise not_authenticated()
        if found.token != credential.token or not found.refresh_token:
            return found  # another process was faster
        prove_storage(settings, name, found.kind)
        with HeldInterrupts():  # once it is sent the refresh token may be spent
            try:
                grant = server.tokens(grant_type="refresh_token", refresh_token=found.refresh_token)
            except OAuthError as error:
                if error.error != "invalid_grant":
                    raise Unreachable("The login could not be refreshed: %s" % error.error)
                config.reload()
                newer = load_login(settings, config.profile(name))
                if newer is None or newer.refresh_token == found.refresh_token:
                    raise token_expired(found.origin)
                return newer  # without a lock somebody has renewed it
            login = login_from_grant(settings.app, grant, server, endpoint, found)
            try:
                save_login(settings, name, login, found.kind)
            except PodError as error:
                settings.app.warn("the refreshed login is LOST after this: %s" % error.message)
            return login


def fresh_credential(settings, http, credential):
    """Return `credential`, refreshed where it is due; a token that still serves never waits."""
    left = credential.left(settings.app.now())
    if not credential.refresh_token or left >= REFRESH_SKEW:
        return credential
    if left <= 0:
        return renew_login(settings, http, credential)
    settings.config.lock.seconds = 0
    try:
        return renew_login(settings, http, credential)
    except PodError as error:
        settings.app.debug("not refreshed: %s" % error.message)
        return credential
    finally:
        settings.config.lock.seconds = LOCK_SECONDS


# == api: the Podstack API, call by call
# Thin methods that take and return plain data, for paths below the endpoint's /v1. They attach the
# token, turn a refusal into the error of its case, and read every page of a list; a copy is a tar
# stream through ssh. A user's word never becomes more than one path segment, and no name in a
# pod's stream leads out of the copy.


def looks_like_id(word):
    """Tell whether a pod is named by id: `pod-...`, `pod_...` or a UUID."""
    import re

    return re.match(r"pod[-_]|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\Z", word)


def pod_path(pod_id, more=""):
    if not isinstance(pod_id, str) or pod_id in ("", ".", ".."):  # an id never becomes a path
        raise PodError("Podstack names no usable id of this pod", "Ask Podstack's support")
    return "/pods/" + percent_encode(pod_id) + more


def no_pod(name):
    return NotFound("Pod '%s' not found" % name, "See: podstack pod list")


def not_understood(why):
    return Unreachable("Podstack's answer is not understood (%s)" % why)


def unwrap(body, kind, name, *others):
    """Return what an answer holds, a dict or a list: bare, or wrapped once under one of names."""
    inner = [body.get(key) for key in (name, "data", *others)] if isinstance(body, dict) else []
    for value in inner + [body]:
        if isinstance(value, kind):
            return value
    raise not_understood("no %s in it" % name)


def read_error(answer):
    """Return (code, message, lines for the fields) of an error answer in any of its forms."""
    body = answer.json()
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return error, str(body.get("error_description") or body.get("message") or error), []
    if not isinstance(error, dict):
        return None, "", []
    told, fields = error.get("details"), []
    for detail in told if isinstance(told, list) else ():
        if isinstance(detail, dict):
            fields.append("  %s: %s" % (detail.get("field", "?"), detail.get("message", "?")))
    return error.get("code"), str(error.get("message") or ""), fields[:10]


def refusal(answer, missing, credential, now):
    """Return the PodError for a status from 400 to 499; `missing` is a 404's, or None."""
    code, message, fields = read_error(answer)
    if answer.status == 401:
        if code == "token_expired" or credential.left(now) <= 0:
            return token_expired(credential.origin)
        return AuthError("Invalid authentication token", NEW_TOKEN, [credential.origin])
    if answer.status == 403:
        hint = "Check if the token has access to the project: podstack project list"
        return PodError("Permission denied for resource", hint, [message, credential.origin], 5)
    if answer.status == 402 or code == "insufficient_balance":
        hint = "See: podstack wallet balance"
        return PodError("Insufficient wallet balance", hint, fields or [message])
    if answer.status == 404:
        return missing or NotFound(message or "Not found: %s" % answer.url, DOCTOR_HINT)
    if not message:
        from http.client import responses

        message = "%s (HTTP %d)" % (responses.get(answer.status, "Refused"), answer.status)
    return UsageError(message, None, fields, PodError.code)  # to it the door adds: See ... --help


def read_pages(fetch):
    """Yield the rows of page 1, 2, ...; `fetch(page)` returns them and the last page's number."""
    started = time.monotonic()
    rows, last = fetch(1)
    # Ahead and in parallel where the round trip is long.
    workers = PARALLEL_PAGES if time.monotonic() - started > 0.015 else 1
    yield rows
    if last < 2:
        return
    from concurrent.futures import ThreadPoolExecutor

    pool, page = ThreadPoolExecutor(workers), 1
    try:
        while page < last:
            ahead = range(page + 1, min(page + workers, last) + 1)
            for rows, newest in pool.map(fetch, ahead):
                page, last = page + 1, newest
                yield rows
    finally:
        pool.shutdown(wait=False)  # so that Ctrl-C does not wait for eight slow answers


class Api:
    """The API with the effective token at the effective endpoint, or with those given."""

    def __init__(self, cx, credential=None, endpoint=None):
        from _thread import allocate_lock  # documented, and free where threading costs 6 ms

        self.cx, self.settings = cx, cx.settings
        self._credential, self._endpoint = credential, endpoint
        self.renewing = allocate_lock()

    @property
    def credential(self):
        """The effective Credential, refreshed first where that is due."""
        if self._credential is None:
            found = find_credential(self.settings)
            self._credential = fresh_credential(self.settings, self.cx.http, found)
        return self._credential

    def renewed(self, refused):
        """After an unexpected 401 for the token `refused`: tell whether there is another to try."""
        with self.renewing:  # pages are read by several threads: the first of them renews
            old = self._credential
            if old.token != refused:
                return True
            if old.kind == "command":
                self._credential = command_credential(self.settings, old.profile)
            elif old.refresh_token and old.profile:
                self._credential = renew_login(self.settings, self.cx.http, old)
            return self._credential.token != refused

    def send(self, method, path, query=(), body=None, missing=None, raw=None, silence=None):
        """Return the good Answer to a call; `missing`: what a 404 raises, `raw`: a body in bytes.

        With `silence` the answer is streamed, and that many seconds may pass without a byte of it.
        """
        base, headers = parse_url(self._endpoint or self.settings.get("endpoint")), {}
        place = base.path + "/v1" + path
        url = Url(base.scheme, base.host, base.port, place, encode_query(query))
        data = raw if body is None else json_dump(body, True, None).encode("ascii")
        project = self.settings.get("project") if path.startswith("/pods") else None
        if project:
            headers["X-Project-ID"] = project if max(project) <= "~" else percent_encode(project)
        if data is not None:
            headers["Content-Type"] = "application/json"
        if silence:
            headers["Accept"] = "text/plain"
        for turn in (1, 2):
            token = self.credential.token
            headers["Authorization"] = "Bearer " + token
            answer = self.cx.http.request(method, url, headers, data, redirects=5, silence=silence)
            if answer.status != 401 or turn == 2 or not self.renewed(token):
                break
        if answer.status >= 400:
            raise refusal(answer, missing, self.credential, self.cx.app.now())
        return answer

    def object(self, name, path, method="GET", **options):
        return unwrap(self.send(method, path, **options).json(), dict, name)

    def create(self, name, path, wanted):
        """Return what a creating POST made; a failure says that it may have been carried out."""
        body = {key: value for key, value in wanted.items() if value not in (None, [], {})}
        try:
            return self.object(name, path, "POST", body=body)
        except Unreachable as error:
            if error.sent:
                error.details.append("It may have been created: check podstack %s list" % name)
            raise

    def rows(self, name, path, query=(), limit=None):
        """Yield a list's rows as its pages come, in order, at most `limit` in all."""
        size = -(-limit // -(-limit // PAGE_SIZE)) if limit else PAGE_SIZE

        def fetch(page):
            asked = list(query) + [("page", page), ("limit", size)]
            body = self.send("GET", path, asked).json()
            rows = unwrap(body, list, name, "items")
            if not all(isinstance(row, dict) for row in rows):
                raise not_understood("%s without fields" % name)
            told = body.get("pagination") if isinstance(body, dict) else None
            told = told.items() if isinstance(told, dict) else ()
            counts = {key: n for key, n in told if type(n) is int and 0 < n < 10**9}
            last = counts.get("pages") or -(-counts.get("total", 0) // counts.get("limit", size))
            last = last or page + (len(rows) >= size)
            return rows, min(last, -(-limit // (len(rows) or 1))) if limit else last

        before, left = [], limit or 10**9
        for rows in read_pages(fetch):
            # Lists move while they are read, and some services never end one.
            known = {repr(row["id"]) for row in before if row.get("id") is not None}
            fresh = [row for row in rows if repr(row.get("id")) not in known]
            if not fresh or rows == before:
                return
            yield from fresh[:left]
            before, left = rows, left - len(fresh)
            if left <= 0:
                return

    def whoami(self):
        """Return whose token it is, and what is told of it."""
        user = self.object("user", "/auth/whoami")
        token = user.get("token")
        return user, token if isinstance(token, dict) else {}

    def pod_by_name(self, name):
        """Return the one pod with exactly this name; raises PodError for none and for several."""
        pods = self.rows("pods", "/pods", [("name", name)])  # which some services ignore
        found = [pod for pod in pods if pod.get("name") == name]
        if not found:
            raise no_pod(name)
        if len(found) > 1:
            ids = ", ".join(str(pod.get("id")) for pod in found)
            raise PodError("%d pods are named '%s'" % (len(found), name), "Name one by id: " + ids)
        return found[0]

    def pod_again(self, pod, name):
        return self.object("pod", pod_path(pod.get("id")), missing=no_pod(name))

    def on_pod(self, word, method, more="", **options):
        """Return (id, Answer) of a call on the pod that a user's word means, by id or by name."""
        options["missing"] = no_pod(word)
        if looks_like_id(word):
            try:
                return word, self.send(method, pod_path(word, more), **options)
            except NotFound:
                pass
        pod_id = self.pod_by_name(word).get("id")
        return pod_id, self.send(method, pod_path(pod_id, more), **options)

    def pod_call(self, word, more, body=None, method="POST", name="pod"):
        return unwrap(self.on_pod(word, method, more, body=body)[1].json(), dict, name)

    def pod(self, word):
        """Return the pod that a user's word means; by name, the list holds it already."""
        if looks_like_id(word):
            return self.pod_call(word, "", method="GET")
        return self.pod_by_name(word)

    def delete_pod(self, word, force):
        pod_id, _ = self.on_pod(word, "DELETE", query=[("force", "true")] if force else [])
        return {"id": pod_id, "name": word, "status": "stopping"}


class Context:
    """What a command gets: the app, its options, the settings, and the API."""

    def __init__(self, app, options):
        self.app, self.options = app, options
        self.settings = Settings(app, options)
        self.api = Api(self)
        self._http = None

    @property
    def config(self):
        """The config file, for what cannot do without; raises what made it unreadable."""
        if self.settings.config.broken:
            raise self.settings.config.broken
        return self.settings.config

    @property
    def http(self):
        if self._http is None:
            limit, bundle = self.settings.get("timeout"), self.settings.get("ca_bundle")
            self._http = Http(self.app, limit, bundle)
        return self._http

    def confirm(self, question, flag="--yes"):
        """Return when the user agrees, or has agreed beforehand (--yes, `cli.confirm: false`)."""
        if self.settings.get("confirm") and not self.options.yes:
            self.app.confirm(question, flag)


# -- the way into a pod


def ssh_to(cx, name, *options):
    """Return the argv of the system's ssh with `options`, up to the pod's host."""
    import re

    path = cx.app.which("ssh")
    if path is None:
        raise PodError("ssh is not installed", "Install OpenSSH's client")
    pod = cx.api.pod(name)
    told = pod.get("ssh_command")
    if not told:
        state, hint = pod.get("status"), "Start it: podstack pod start %s --wait" % name
        raise PodError("Pod '%s' cannot be connected to: it is %s" % (name, state), hint)
    # It comes from the service, and an option in it (-oProxyCommand=...) would run a program here.
    word, address = "[A-Za-z0-9_][A-Za-z0-9._-]*", "[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+"
    option = "(?: -p ([0-9]{1,5}))?"
    shape = r"ssh%s (?:(%s)@)?(%s|%s)%s\Z" % (option, word, word, address, option)
    found = re.match(shape, told) if isinstance(told, str) and len(told) < 500 else None
    before, user, host, after = found.groups() if found else (None, None, None, "0")
    port = before or after or "22"
    if (before and after) or not 0 < int(port) < 65536:
        shown = "ssh_command is not a plain one: " + redact(str(told), cx.app.secrets)[:200]
        raise PodError("The pod's " + shown, "Ask Podstack's support")
    named = ["-o", "User=" + user] if user else []
    return [path, "-p", port] + named + list(options) + ["--", host]


def remote_words(words):
    """Return words quoted for the remote shell, so that each arrives as typed."""
    # Not by shlex.quote: it leaves `=x` bare, which zsh takes for the path of a program. Within
    # quotes a backslash is itself in sh, but quotes what follows in fish: it goes outside, too.
    outside = str.maketrans({"'": "'\\''", "\\": "'\\\\'"})
    return " ".join("'%s'" % word.translate(outside) for word in words)


def own_name(path):
    """Return the name that what is at `path` has; `.` where its contents are meant."""
    name = os.path.basename(path.rstrip("/" + os.sep))
    return "." if name in ("", "..") else name


# A copy is a tar stream through one ssh: no path is ever read as an option, a pattern or shell
# words, and links stay links. What arrives is laid down in a directory beside its goal, then moved
# file by file. Each script gets the path as $1, which starts with `/` or `./`. GNU tar would read
# escapes in a name; its exit code 1 only means that a file has changed meanwhile, as logs do.
SEND = """\
[ -e "$1" ] || exit 66
if [ -d "$1" ]; then set -- "$1" . ""; else set -- "${1%/*}/" "./${1##*/}" h; fi
cd "$1" || exit 1
gnu=$(tar --version 2>/dev/null | grep GNU)
tar ${gnu:+--no-unquote} "-c$3f" - "$2" || { [ $? = 1 ] && [ -n "$gnu" ]; }
"""
RECEIVE = """\
set -e
if [ -d "$1" ]; then goal=$1/$2; else goal=$1; fi
[ -d "${goal%/*}/" ] || exit 66
part=${goal%/*}/.podstack-$3
merge() {
    if [ ! -d "$2" ]; then mv -f "$1" "$2"; return; fi
    if [ ! -d "$1" ] || [ -L "$1" ]; then echo "$2 is a directory" >&2; exit 1; fi
    for one in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if [ -e "$one" ] || [ -L "$one" ]; then merge "$one" "$2/${one##*/}"; fi
    done
}
mkdir -m 700 "$part"
trap 'rm -rf "$part"' EXIT
trap 'exit 1' HUP INT TERM
tar -xpof - -C "$part"
[ -e "$part/end" ]
merge "$part/new" "$goal"
"""


class Meter:
    """The stream of a copy; it shows how much has gone through, and ends at its `limit`."""

    def __init__(self, app, stream):
        self.app, self.stream, self.count, self.limit = app, stream, 0, MAX_CONFIG_BYTES // 2

    def tell(self):
        return self.count

    def write(self, data):
        self.stream.write(self.count_in(data))

    def read(self, size):
        if self.count > self.limit:
            raise ValueError("a header without end")
        return self.count_in(self.stream.read(size))

    def count_in(self, data):
        before, self.count = self.count, self.count + len(data)
        if self.count >> 20 > before >> 20:
            self.app.status("Copying: %d MB" % (self.count >> 20), "")
        return data


def run_copy(cx, pod, place, script, *operands, **streams):
    """Run a copy's script in the pod; raises the PodError of its exit code."""
    words = ssh_to(cx, pod, "-T") + [remote_words(("sh", "-c", script, "podstack") + operands)]
    code = cx.app.pipe(words, **streams)
    if code == 66:
        hint = "See what there is: podstack pod exec %s -- ls" % pod
        raise NotFound("%s: no such file or directory in pod '%s'" % (place, pod), hint)
    if code:
        hint = "A copy needs sh and tar in the pod" if code == 127 else None
        raise PodError("The copy has failed (exit code %d)" % code, hint)


def copy_to_pod(cx, source, pod, path):
    """Send a file or a tree as a tar stream: `new`, and `end` when it is whole."""
    import tarfile

    def entry(member):
        if not member.isdev():
            return member
        name = member.name[len("new/") :] or source
        cx.app.warn("left out: %s is neither a file nor a directory" % name)

    def pack(stream):
        try:
            stream, form = Meter(cx.app, stream), tarfile.GNU_FORMAT
            # Not "w|": interrupted, it writes what is left, to one who may never read it.
            with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
                archive.add(os.path.realpath(source), "new", filter=entry)
                archive.addfile(tarfile.TarInfo("end"))
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = (error.filename or source, error.strerror or error)
            raise PodError("Cannot read %s: %s" % reason, "Look at it: ls -l %s" % source)

    if not os.path.lexists(source):
        raise NotFound("%s does not exist" % source, "See what there is: ls")
    if os.path.isdir(source):  # which may become `path/`, as with cp
        path = path.rstrip("/") or "/"
    run_copy(cx, pod, path, RECEIVE, path, own_name(source), os.urandom(6).hex(), feed=pack)


def safe_names(path):
    """Return the names on a path in a tar stream; raises ValueError where it leads elsewhere."""
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names or (os.name == "nt" and any(mark in path for mark in "\\:")):
        raise ValueError("unsafe name: %s" % path)
    return names


def make_link(app, new, names, goal):
    """Make a symbolic link, if it stays in the tree; an empty goal is a device's or a pipe's."""
    # It goes up only before it goes down: what `a/..` is depends on where a link at `a` leads. And
    # it stands in a directory, not behind a link that was made before it.
    steps = [step for step in goal.split("/") if step not in ("", ".")]
    ups = steps.count("..")
    stays = goal and not goal.startswith("/") and ups < len(names)
    folder = os.path.join(os.path.realpath(new), *names[:-1])
    try:
        safe_names("/".join(steps[ups:]))
        if not (stays and os.path.realpath(folder) == folder):
            raise OSError
        os.symlink(goal, os.path.join(folder, names[-1]))
    except (OSError, ValueError, NotImplementedError):
        app.warn("left out: %s (it leads to %s)" % ("/".join(names), goal or "no file"))


def unpack(app, stream, new):
    """Unpack a tar stream as `new`, a tree or a single file; False where the stream is broken."""
    import shutil
    import tarfile

    links = []  # made last, so that nothing is written through one
    umask = os.umask(0o077)
    os.umask(umask)
    try:
        metered = Meter(app, stream)
        with tarfile.open(fileobj=metered, mode="r|") as archive:
            for member in archive:
                metered.limit = float("inf")
                names = safe_names(member.name)
                in_tree = member.isdir() or os.path.isdir(new)
                path = os.path.join(new, *names) if in_tree else new
                if member.isdir():
                    os.makedirs(path, exist_ok=True)
                    os.chmod(path, member.mode & 0o777 & ~umask | 0o700)  # we move things out
                elif member.isreg():
                    with open(path, "xb") as file:
                        shutil.copyfileobj(archive.extractfile(member), file, 65536)
                    os.utime(path, (member.mtime, member.mtime))
                    os.chmod(path, member.mode & 0o777 & ~umask)
                elif member.islnk():
                    os.link(os.path.join(new, *safe_names(member.linkname)), path)
                else:
                    links.append((names, member.linkname))
                # The next header is read into memory whole, however long it says that it is.
                metered.limit = metered.count + MAX_CONFIG_BYTES // 2
    except (tarfile.TarError, ValueError, OverflowError) as error:
        app.debug("tar: %s" % error)
        return False
    for names, goal in links:
        make_link(app, new, names, goal)
    return os.path.exists(new)


def merge(new, goal):
    """Move a tree file by file into the one that is there; never through a link."""
    for path in (new, goal):
        if os.path.islink(path) or not os.path.isdir(path):
            return os.replace(new, goal)
    for name in os.listdir(new):
        merge(os.path.join(new, name), os.path.join(goal, name))


def copy_from_pod(cx, pod, path, target):
    import tempfile

    goal = os.path.join(target, own_name(path)) if os.path.isdir(target) else target
    folder = os.path.dirname(goal.rstrip("/" + os.sep)) or "."
    whole = False

    def receive(stream):
        nonlocal whole
        whole = unpack(cx.app, stream, new)
        while stream.read(65536):
            pass

    try:
        with tempfile.TemporaryDirectory(prefix=".podstack-", dir=folder) as part:
            new = os.path.join(part, "new")
            run_copy(cx, pod, path, SEND, path, drain=receive)
            if not whole:
                raise PodError("The pod's answer is not understood")
            merge(new, goal)
    except OSError as error:
        hint = "Look where it goes: ls -ld %s" % folder
        raise PodError("Cannot write %s: %s" % (goal, error.strerror or error), hint)


# == commands: what the user types
# Each command is declared once, above its handler: its words, help, arguments and examples. (Help
# is no docstring: the installed bytecode has none.) A handler reads its options, decides, does one
# or two things and says what changed. Answers go to stdout, everything else to stderr; no handler
# opens a file, a connection or a process by itself.

COMMANDS = {}
TAKES_VALUE = {}  # of every option's name, in whichever command
GROUPS = {
    "auth": "Sign in, sign out, look at the token",
    "project": "List, choose and create projects",
    "pod": "Create pods and work in them",
    "gpu": "See what GPUs there are",
    "wallet": "See the balance",
    "config": "Settings and profiles",
}


class Part:
    """What a command is declared with: a decorator that adds itself to the handler's `parts`."""

    def __call__(self, handler):
        handler.__dict__.setdefault("parts", []).insert(0, self)
        return handler


class Option(Part):
    """An option as help shows it: `-o, --output FORM`; without a FORM it takes no value.

    `read` turns the text into the value or raises ValueError with what is accepted; `complete` is
    the words that can be the value, or the kind of thing that it names. What `help` ends with
    `(repeat)` may be given again.
    """

    def __init__(self, shown, help, read=str, complete=(), default=None, required=False):
        self.shown, self.help, self.read, self.complete = shown, help, read, complete
        self.name = shown
        self.names = shown.replace(",", "").split()
        self.metavar = None if self.names[-1].startswith("-") else self.names.pop()
        self.dest = self.names[-1].lstrip("-").replace("-", "_")
        self.required, self.repeats = required, help.endswith("(repeat)")
        absent = [] if self.repeats else default
        self.default = absent if self.metavar else False
        TAKES_VALUE.update(dict.fromkeys(self.names, self.metavar is not None))


class Operand(Part):
    """What a command takes: `NAME`, some `NAME...`, any `[NAME...]`, after a --: `-- NAME...`."""

    def __init__(self, shown, help, read=str, complete=(), dest=None):
        self.shown, self.help, self.read, self.complete = shown, help, read, complete
        self.name, self.many, self.behind = shown.strip("-.[] "), "..." in shown, "-- " in shown
        self.dest = dest or self.name.lower()


class Example(Part):
    def __init__(self, typed, meaning):
        self.typed, self.meaning = typed, meaning


def command(words, text):
    """Declare the function below as a command: it gets `words`, `help` and `about`, and is listed.

    The first line of `text` is the `help` in lists of commands. Where it ends in a full stop all of
    `text` is what the command's own help is `about`, else what comes after it.
    """

    def declare(handler):
        first, _, rest = text.partition("\n")
        handler.help, handler.about = first.rstrip("."), text if first.endswith(".") else rest
        kinds = {Option: [], Operand: [], Example: []}
        for part in handler.parts:
            kinds[type(part)].append(part)
        handler.options, handler.operands, handler.examples = kinds.values()
        handler.words = tuple(words.split())
        handler.name = handler.words[-1]
        COMMANDS[handler.words] = handler
        return handler

    return declare


def whole_number(text, limit=10**9, accepted="a whole number above 0"):
    if not is_digits(text) or len(text) > 9 or not 0 < int(text) < limit:
        raise ValueError(accepted)
    return int(text)


def port_number(text):
    return whole_number(text, 65536, "a port from 1 to 65535")


GLOBAL_OPTIONS = [
    Option("--profile NAME", "use this profile", complete="profiles"),
    Option("--project NAME", "work in this project", complete="projects"),
    Option("-o, --output FORM", "how to print: table, wide, json, yaml", one_of(*OUTPUTS), OUTPUTS),
    Option("-q, --quiet", "no progress or hints; ids alone for lists"),
    Option("-y, --yes", "answer every question with yes"),
    Option("--debug", "show requests and tracebacks (never secrets)"),
    Option("--no-color", "no colour"),
    Option("-h, --help", "show this help"),
    Option("--version", "show the version"),
]
WAIT = Option("--wait", "wait until it is done")
TIMEOUT = Option("--timeout S", "how long to wait (600)", read_seconds, default=600)
POD = Operand("NAME", "the pod's name or id", complete="pods")
PODS = Operand("NAME...", "the pods' names or ids", complete="pods")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


# -- printing


def form_of(cx):
    """Return how to print: table, wide, json, yaml; ids for --quiet without -o json or yaml."""
    if cx.options.quiet and cx.options.output not in ("json", "yaml"):
        return "ids"
    return cx.settings.get("output")


def json_for(cx, value):
    """Return `value` as JSON in letters that stdout can show."""
    encoding = getattr(cx.app.stdout, "encoding", None) or "utf-8"
    return json_dump(value, ascii_only=not encoding.lower().startswith("utf"))


def print_data(cx, value, form, lines=()):
    """Print a value as JSON or YAML, or where `form` is for readers the lines in its place."""
    if form == "json":
        cx.app.write(json_for(cx, value) + "\n")
    elif form == "yaml":
        try:
            cx.app.write(yaml_dump(value))
        except ValueError as error:
            raise PodError("The answer cannot be written as YAML: %s" % error, "Use: -o json")
    else:
        for line in lines:
            cx.app.out(line)


def print_fixed(cx, value, *lines):
    """Print fixed lines; only an explicit -o json or yaml prints `value` in their place."""
    print_data(cx, value, cx.options.output, lines)


def print_streamed(cx, rows, form):
    """Print the rows of a list as one bare array, each as it comes."""
    lead = "[\n"
    for row in rows:
        if form == "yaml":
            print_data(cx, [row], form)
        else:
            cx.app.write(lead + json_for(cx, [row])[2:-2])  # without its own brackets
        lead = ",\n"
    if lead == "[\n":
        cx.app.out("[]")
    elif form == "json":
        cx.app.write("\n]\n")


def labelled(column):
    """Return (label, function from a row to its text); a label alone means that field."""
    return (column, field(column.lower())) if isinstance(column, str) else column


def print_rows(cx, rows, columns, wide=()):
    """Print a list: as a table, its ids alone, or JSON or YAML as it comes."""
    form = form_of(cx)
    if form == "ids":
        for row in rows:
            cx.app.out(row.get("id") or row.get("type") or row.get("name") or "-")
    elif form in ("json", "yaml"):
        print_streamed(cx, rows, form)
    else:
        shown = list(map(labelled, columns + (wide if form == "wide" else ())))
        cells = ([show(row) for _, show in shown] for row in rows)
        limit = 0 if form == "wide" else cx.app.columns(cx.app.stdout)
        for line in table_lines([label.upper() for label, _ in shown], cells, limit):
            cx.app.out(line)


def print_object(cx, value, columns):
    """Print one object: for a reader its columns (or (label, text)), as JSON and YAML all of it."""
    shown = list(map(labelled, columns))
    width = max(map(len, dict(shown))) + 2
    lines = []
    for label, show in shown:
        lines.append((label + ":").ljust(width) + (show(value) if callable(show) else show))
    print_data(cx, value, cx.settings.get("output"), lines)


def read_pair(text):
    key, mark, value = text.partition("=")
    if not key or not mark:
        raise ValueError("K=V")
    return key, value


def field(name, show=str):
    """Return a function from a row to the text of its field: what `show` makes of a value."""
    return lambda row: "-" if row.get(name) in (None, "") else show(row[name])


def expiry_words(text, now):
    """Return `2024-12-31 (in 12 days)`, or `never`."""
    at, date = parse_time(text), format_date(text, "never")
    return date if at is None else "%s (%s)" % (date, distance(at - now))


# -- auth


def read_token(app, text):
    """Return the token in `text`; without one it comes from stdin, which a terminal hides."""
    if text in ("-", None):
        if app.is_terminal(app.stdin):
            text = app.ask_secret("API token: ")
        else:
            text = app.stdin.read(MAX_TOKEN_LETTERS + 2) if app.stdin else ""
    text = app.guard(text.strip())
    if is_token(text):
        return text
    problem = "The token must be one line of visible ASCII" if text else "The token is empty"
    raise UsageError(problem, NEW_TOKEN)


def finish_login(cx, profile, storage, login):
    """Ask the server whose login this is, store it, and say who, where, and what overrides it.

    A token may be stored unchecked with --no-verify; one from OAuth is stored in any case.
    """
    app, from_oauth, user, token = cx.app, login.issuer is not None, {}, {}
    login.origin = "Token just given"
    try:
        if from_oauth or not cx.options.no_verify:
            user, token = Api(cx, login).whoami()
    except AuthError:
        raise
    except PodError as error:
        if not from_oauth and error.code not in (5, 6):
            error.message = "Could not verify the token: %s" % error.message
            error.hint = "Store it unchecked: podstack auth login --token T --no-verify"
            raise
        app.warn("the token could not be verified: %s" % error.message)
    login.email = user["email"] if isinstance(user.get("email"), str) else None
    stated = token.get("expires_at")
    if login.expires is None and parse_time(stated) is not None:
        login.expires = stated
    replaced = profile.holds_login and (profile.get("email") or "this profile")
    with cx.config.lock, HeldInterrupts():  # waiting for the lock may be interrupted
        save_login(cx.settings, profile.name, login, storage)
    if replaced:
        app.say("Replaced the login of %s" % replaced)
    who = login.email or user.get("account_id")
    app.say("Signed in %s" % ("as %s" % who if who else "(the token was not verified)"))
    place = "the keyring" if storage == "keyring" else cx.settings.path
    app.say("Profile '%s': token stored in %s" % (profile.name, place))
    if app.env("PODSTACK_API_TOKEN"):
        app.say("PODSTACK_API_TOKEN is set and overrides this login: unset it to use the login")
    if cx.config.profile(profile.name).get("token_command"):
        app.say("This profile's token still comes from its token_command")


@command(
    "auth login",
    "Sign in through the browser, a code on another device, or a token.\n\n"
    "The login is kept in ~/.podstack/config.yaml (0600), on macOS in the Keychain.",
)
@Option("--token T", "store this API token (- reads it from stdin)")
@Option("--device", "sign in with a code on another device")
@Option("--browser", "sign in with a browser on this machine")
@Option("--no-browser", "only print the address to open")
@Option("--callback-port N", "listen for the browser on this port", port_number, default=0)
@Option("--timeout S", "how long to wait for the browser (300)", read_seconds, default=300)
@Option("--use-keyring", "keep the login in the system's keychain")
@Option("--no-keyring", "keep the login in the config file")
@Option("--no-verify", "store the token without checking it")
@Example("podstack auth login", "sign in, in the browser")
@Example("podstack auth login --token YOUR_API_TOKEN", "with an API token")
def auth_login(cx, args):
    app, config, settings = cx.app, cx.config, cx.settings
    settings.creates = True
    profile = config.profile(settings.get("profile"))
    if args.use_keyring and args.no_keyring:
        raise UsageError("--use-keyring and --no-keyring exclude each other")
    asked = "keyring" if args.use_keyring else "file" if args.no_keyring else None
    storage = asked or settings.get("storage")
    endpoint, client_id = settings.get("endpoint"), settings.get("client_id")
    server = discover(cx.http, endpoint, client_id) if args.token is None else None
    way = choose_way(args, server, surroundings(app))
    if way == "prompt":
        app.complain("This server has no browser login.", NEW_TOKEN)
    token = read_token(app, args.token) if way in ("token", "prompt") else None
    prove_storage(settings, profile.name, storage)
    if token:
        return finish_login(cx, profile, storage, Credential(token=token, endpoint=endpoint))

    def complete(grant):
        login = login_from_grant(app, grant, server, endpoint)
        return finish_login(cx, profile, storage, login)

    if way == "device":
        return sign_in_by_device(app, server, complete)
    return sign_in_by_browser(app, server, args, way == "browser", complete)


@command("auth status", "Show whose the token is and until when, checked with the server.")
@Example("podstack auth status", "who, which account, until when")
@Example("podstack auth status -o json", "for a script")
def auth_status(cx, args):
    try:
        user, token = cx.api.whoami()
    except PodError as error:
        if isinstance(error, Unreachable):
            error.message = "Could not verify: %s" % error.message
        reason = redact(error.message, cx.app.secrets)
        print_fixed(cx, {"authenticated": False, "reason": reason})
        raise
    credential = cx.api.credential
    facts = {
        "authenticated": True,
        "email": user.get("email"),
        "account_id": user.get("account_id"),
        "expires_at": token.get("expires_at"),
        "profile": (credential.profile or cx.settings.profile()).name,
        "endpoint": cx.settings.get("endpoint"),
        "token_source": credential.kind,
        "token_type": token.get("type"),
    }
    who = "Authenticated as: " + field("email")(user)
    account = "Account ID: " + field("account_id")(user)
    expires = "Token expires: " + format_date(token.get("expires_at"), "never")
    print_fixed(cx, facts, who, account, expires)
    if credential.kind == "environment":
        cx.app.say("The token is from PODSTACK_API_TOKEN")


@command("auth whoami", "Print the e-mail address that the token belongs to.")
@Example("podstack auth whoami", "the address alone")
def auth_whoami(cx, args):
    user, _ = cx.api.whoami()
    if not user.get("email"):
        raise not_understood("no e-mail address in it")
    print_fixed(cx, user, user["email"])


def flat_fields(value, name=""):
    """Yield (dotted name, text) for each thing in a value, however deep; nothing for None."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat_fields(inner, "%s.%s" % (name, key) if name else str(key))
    elif value is not None:
        yield name, value if isinstance(value, str) else json_dump(value, indent=None)
    elif name:
        yield name, "-"


CREATED = ("Created", field("created_at", format_date))


@command("auth token-info", "Show the token's type, name, scopes, age and expiry.")
@Example("podstack auth token-info", "type, scopes, expiry; never the token")
def auth_token_info(cx, args):
    token, credential = cx.api.object("token", "/auth/token"), cx.api.credential
    prefix = token.get("prefix")
    masked_token = ("Token", "%s****" % prefix if prefix else mask(credential.token))
    scopes = ("Scopes", ", ".join(dict(flat_fields(token.get("scopes"))).values()) or "-")
    used = ("Last used", format_date(token.get("last_used_at"), "never"))
    expires = ("Expires", expiry_words(token.get("expires_at"), cx.app.now()))
    source = ("Source", credential.origin.replace("Token from ", ""))
    columns = ("Type", "Name", masked_token, scopes, CREATED, used, expires, source)
    print_object(cx, dict(token, token_source=credential.kind), columns)


@command("auth token", "Print the effective token alone, refreshed first when it is due.")
@Example('curl -H "Authorization: Bearer $(podstack auth token)" ...', "in a script")
def auth_token(cx, args):
    found = cx.api.credential
    if found.left(cx.app.now()) <= 0:
        raise token_expired(found.origin)
    print_fixed(cx, {"token": found.token}, found.token)


@command("auth refresh", "Exchange the stored refresh token for a new login.")
@Example("podstack auth refresh", "a new access token, now")
def auth_refresh(cx, args):
    profile = cx.config.profile(cx.settings.profile().name)
    stored = load_login(cx.settings, profile)
    if stored is None and not profile.get("token_command"):
        raise not_authenticated()
    if stored is None or not stored.refresh_token:
        hint = NEW_TOKEN + ", or run: podstack auth login"
        raise PodError("This token cannot be refreshed", hint)
    login = renew_login(cx.settings, cx.http, stored)
    cx.app.say("Token refreshed")
    expires = "Token expires: %s" % format_date(login.expires, "never")
    print_fixed(cx, {"expires_at": login.expires}, expires)


def revoke_credential(cx, login, endpoint):
    """End a token at its server; a 401 means that it was dead already."""
    if not (login.issuer or login.refresh_token):
        try:
            Api(cx, login, endpoint).send("DELETE", "/auth/token")
        except AuthError:
            return cx.app.say("The token was dead already")
        return cx.app.say("Token revoked")
    server = server_of_login(cx.http, login, endpoint)
    if "revocation" not in server.endpoints:
        raise PodError("This server cannot revoke a login", "Use: podstack auth logout")
    try:
        if login.refresh_token:  # first of the two (RFC 7009 §2.1)
            server.post("revocation", token=login.refresh_token, token_type_hint="refresh_token")
        server.post("revocation", token=login.token, token_type_hint="access_token")
    except OAuthError as error:
        raise PodError("Not revoked: %s" % error.words, "Use: podstack auth logout")
    cx.app.say("Token revoked")


@command("auth revoke", "End the effective token at the server, then forget it here.")
@Example("podstack auth revoke --yes", "then sign in again")
def auth_revoke(cx, args):
    credential = find_credential(cx.settings)
    if credential.kind == "command":
        raise PodError("A token from token_command is not ours to revoke", "Revoke it there")
    cx.confirm("Revoke the %s?" % credential.origin.replace("Token", "token", 1))
    revoke_credential(cx, credential, cx.settings.get("endpoint"))
    if credential.kind == "environment":
        cx.app.say("PODSTACK_API_TOKEN still holds it: unset it")
    else:
        forget_login(cx.settings, credential.profile.name)
    cx.app.say("Sign in again: podstack auth login")


@command("auth logout", "Remove the stored login from the config file and the keychain.")
@Option("--all", "of every profile")
@Option("--revoke", "end it at the server first")
@Example("podstack auth logout", "project and settings stay")
@Example("podstack auth logout --all --revoke", "leave nothing valid behind")
def auth_logout(cx, args):
    app, config = cx.app, cx.config
    names = config.profile_names() if args.all else [cx.settings.profile().name]
    profiles, failed = list(map(config.profile, names)), []  # a bad one changes nothing
    for profile in profiles:
        try:
            login = load_login(cx.settings, profile, pinned=False) if args.revoke else None
            if login:
                revoke_credential(cx, login, token_endpoint(profile))
            gone = forget_login(cx.settings, profile.name)
            told = "Logged out of profile '%s'" if gone else "Profile '%s' was not signed in"
            app.say(told % profile.name)
        except PodError as error:
            if not args.all and not args.revoke:
                raise
            failed.append(profile.name)
            app.complain("Profile '%s' stays signed in: %s" % (profile.name, error.message))
        if profile.get("token_command"):
            app.say("Its token_command still gives a token")
    if app.env("PODSTACK_API_TOKEN"):
        app.say("PODSTACK_API_TOKEN is set and still authenticates: unset it")
    if failed:
        hint = "To forget it here alone: podstack auth logout" if args.revoke else None
        raise PodError("Not logged out: %s" % ", ".join(failed), hint)


@command("auth list", "List every profile: who, project, endpoint, storage, until when.")
@Example("podstack auth list", "from the config file alone")
def auth_list(cx, args):
    config, rows = cx.config, []
    for profile in map(config.profile, config.profile_names()):
        kept = "keyring" if profile.in_keychain else "file" if profile.get("token") else None
        storage = "command" if profile.get("token_command") else kept
        row = {"name": profile.name, "active": profile.name == cx.settings.get("profile")}
        row.update(email=profile.get("email"), project=profile.get("project"))
        row.update(endpoint=token_endpoint(profile), storage=storage)
        row.update(expires_at=profile.get("expires"))
        rows.append(row)
    active = ("Active", lambda row: "*" if row["active"] else "")
    expires = ("Expires", field("expires_at", format_date))
    print_rows(cx, rows, ("Name", active, "Email", "Project", "Endpoint", "Storage", expires))


# -- auth doctor


def milliseconds_since(started):
    return "%.0f ms" % ((time.monotonic() - started) * 1000)


def check_file(cx):
    path, config = cx.settings.path, cx.config
    for name in config.profile_names():
        for name_in_file in PROFILE_FIELDS:
            config.profile(name).get(name_in_file)
    if config.stat is None:
        yield "file", "ok", "%s does not exist yet" % path
    elif config.is_open_to_others:
        yield "file", "warn", "%s can be read by others" % path, "chmod 600 %s" % path
    else:
        mode = stat.S_IMODE(config.stat.st_mode)
        yield "file", "ok", "%s (mode %03o, uid %d)" % (path, mode, config.stat.st_uid)


def check_lock(cx):
    if os.path.isdir(os.path.dirname(os.path.realpath(cx.settings.path))):
        lock, started = cx.config.lock, time.monotonic()
        lock.seconds = 2
        with lock:
            if lock.held:
                yield "lock", "ok", milliseconds_since(started)
            else:
                fix = "Set PODSTACK_CONFIG to a path that can be written, on a local disk"
                yield "lock", "warn", "there can be none beside the file", fix


def check_value(cx, name):
    """Yield where a value comes from, and what it shadows."""
    cx.settings.profile()
    found = list(cx.settings.candidates(name))
    if found:
        shadowed = [origin for _, _, origin in found[1:] if origin != "default"]
        more = ", shadows %s" % ", ".join(shadowed) if shadowed else ""
        yield name, "ok", "%s (%s)%s" % (found[0][1:] + (more,))


def check_keychain(cx):
    profile = cx.settings.profile()
    if profile.in_keychain or cx.settings.get("storage") == "keyring":
        started = time.monotonic()
        open_keychain(cx.settings, profile.name).read()
        yield "keyring", "ok", milliseconds_since(started)


def check_endpoint(cx):
    """Yield whether the endpoint answers, over what, and whether the clocks agree."""
    url = parse_url(cx.settings.get("endpoint"))
    started = time.monotonic()
    try:
        document = well_known(url, "oauth-protected-resource")
        answer = cx.http.request("GET", document, retries=0)
    except Unreachable as error:
        if error.hint in ("", DOCTOR_HINT):
            error.hint = "Try it with: curl -v %s" % url.origin
        raise
    proxy = cx.http.proxy_for(url)
    detail = "%s %s" % (url.origin, "through proxy %s:%d" % proxy[:2] if proxy else "directly")
    if url.scheme == "https":
        detail += ", trusting %s" % (cx.settings.get("ca_bundle") or "the system's certificates")
    yield "network", "ok", "%s, %s" % (detail, milliseconds_since(started))
    told = http_time(answer.headers.get("date"))
    skew = cx.app.now() - told if told else 0
    if abs(skew) > REFRESH_SKEW:
        detail = "%d s %s the server's" % (abs(skew), "ahead of" if skew > 0 else "behind")
        yield "clock", "warn", detail, "Set this machine's clock: timedatectl set-ntp true"
    elif told:
        yield "clock", "ok", "agrees with the server's"


def check_credential(cx):
    token, profile = cx.api.object("token", "/auth/token"), cx.settings.profile()
    credential = cx.api.credential
    origin = credential.origin.replace("Token from ", "from ")
    created = format_date(token.get("created_at"))
    expires = expiry_words(token.get("expires_at"), cx.app.now())
    detail = "%s, created %s, expires %s" % (origin, created, expires)
    has_own = profile.holds_login or profile.get("token_command")
    if credential.kind == "environment" and has_own:
        detail += ", shadows the one of profile '%s'" % profile.name
    yield "token", "ok", detail


def examine(cx):
    """Return the rows of all checks that can be made."""
    rows = []

    def passes(check, look, *words, fix=None):
        """Add what a check yields; a failure with its own remedy, or `fix` where it knows none."""
        try:
            rows.extend(look(cx, *words))
            return True
        except PodError as error:
            own = error.hint if error.hint != DOCTOR_HINT else None
            rows.append((check, "fail", error.message, own or fix))
            return False

    from_environment = readable = cx.app.env("PODSTACK_API_TOKEN") is not None
    usable = passes("file", check_file)
    if usable:
        passes("lock", check_lock)
        usable = passes("profile", check_value, "profile")
    if usable:
        for name in list(SETTINGS)[1:]:
            passes(name, check_value, name, fix="Correct it where it is set")
        opened = passes("keyring", check_keychain)
        readable = readable or opened or not cx.settings.profile().in_keychain
    fix = "Correct the endpoint's address"
    if (usable or from_environment) and passes("network", check_endpoint, fix=fix) and readable:
        passes("token", check_credential)
    return [dict(zip(("check", "status", "detail", "fix"), row + (None,))) for row in rows]


@command("auth doctor", "Find what keeps you from signing in, and where values come from.")
@Example("podstack auth doctor", "each line ok, warn or fail, with its remedy")
def auth_doctor(cx, args):
    rows, lines = examine(cx), []
    for row in rows:
        row["detail"] = redact(row["detail"], cx.app.secrets)
        lines.append("%(status)-4s  %(check)-9s  %(detail)s" % row)
        lines += ["%17s-> %s" % ("", row["fix"])] if row["fix"] else []
    print_fixed(cx, rows, *lines)
    if any(row["status"] == "fail" for row in rows):
        raise PodError("Something needs mending", "Do what stands behind ->")


# -- config

PROFILE_KEYS = {".".join(keys): name for name, keys in PROFILE_FIELDS.items()}
SETTING_KEYS = {setting.key: setting for setting in SETTINGS.values()}
TOKEN_KEYS = ["auth.token", "auth.refresh_token"]
SETTABLE = list(SETTING_KEYS) + ["auth.token_command"]
READABLE = SETTABLE + [key for key in PROFILE_KEYS if key not in SETTABLE + TOKEN_KEYS]
KEY = Operand("KEY", "such as defaults.project or profiles.work.project", complete=SETTABLE)


def read_key(text, accepted):
    """Return (profile or None for the active one, name, Setting or None) of a dotted key."""
    profile, name, parts = None, text, text.split(".")
    if parts[0] == "profiles" and len(parts) > 2:
        profile, name = parts[1], ".".join(parts[2:])
        name = ".".join(PROFILE_FIELDS.get(name, (name,)))
        accepted = [key for key in accepted if key in PROFILE_KEYS]
    if name in TOKEN_KEYS:
        hint = "To print it: podstack auth token. To set it: podstack auth login --token -"
        raise UsageError("The token is neither shown nor set here", hint)
    if name not in accepted:
        near = [key for key in accepted if key.endswith("." + name)] + [name]
        guess = did_you_mean(near[0], accepted)
        raise UsageError("Unknown key '%s'%s" % (text, guess), "Keys: %s" % ", ".join(accepted))
    if profile is not None:
        accept("A profile", profile, read_profile_name)
    return profile, name, SETTING_KEYS.get(name)


def key_path(config, profile, name):
    """Return the key path where a key stands, or would be written."""
    if name not in PROFILE_KEYS:
        return tuple(name.split("."))
    return config.profile(profile).key_of(PROFILE_KEYS[name])


def set_key(cx, typed, value, told):
    """Set a key, or remove it for None; say that it is `told`, and what still overrides it."""
    own, name, setting = read_key(typed, SETTABLE)
    if value is not None:
        accept(typed, value, setting.read if setting else read_text)
    # To choose another profile is what mends one that does not exist.
    active = None if name == "profile" else cx.settings.profile().name
    profile = own or active
    if active is None and value not in (None, DEFAULT_PROFILE):
        cx.config.profile(value, must_exist=True)

    def plan(config):
        to_file = name == "auth.storage" and value != "keyring"
        if to_file and config.profile(profile).in_keychain:
            hint = "Move it: podstack --profile %s auth login --no-keyring" % profile
            raise PodError("The login of profile '%s' is in the keyring" % profile, hint)
        return [(key_path(config, profile, name), value)]

    cx.config.edit(plan, cx.config)
    cx.app.say(told)
    for variable in setting.env if setting and not own else ():
        if cx.app.env(variable):
            cx.app.say("%s is set and overrides it" % variable)


def masked(value, name=None):
    if name in SECRET_FIELDS and value is not None:
        return mask(value) if isinstance(value, str) else "****"
    if isinstance(value, dict):
        return {key: masked(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return value if value is None else redact(value)


@command("config show", "Show the whole config file with its tokens masked.")
@Example("podstack config show", "what the file says")
def config_show(cx, args):
    data = masked(cx.config.data)
    if data or cx.options.output:
        print_data(cx, data, "json" if cx.options.output == "json" else "yaml")


@command("config get", "Print a key's effective value; exit 6 when there is none.")
@KEY
@Example("podstack config get defaults.project", "the value in effect")
def config_get(cx, args):
    own, name, setting = read_key(args.key, READABLE)
    active = cx.settings.profile().name
    if setting and not own:
        value, text, _ = cx.settings.find(setting.name)
    else:
        value = text = cx.config.text_at(key_path(cx.config, own or active, name))
    if value is None:
        settable = name in SETTABLE
        hint = "Set it: podstack config set %s VALUE" % args.key
        raise NotFound("%s is not set" % args.key, hint if settable else "See: podstack auth list")
    print_fixed(cx, value, text if isinstance(text, str) else json_dump(text, indent=None))


@command("config set", "Set a key; a profile that it names is created.")
@KEY
@Operand("VALUE", "its value")
@Example("podstack config set defaults.output json", "for every command")
@Example("podstack config set profiles.work.project work-project", "for one profile")
def config_set(cx, args):
    cx.settings.creates = True
    told = "%s set to %s in %s" % (args.key, args.value, cx.settings.path)
    set_key(cx, args.key, args.value, told)


@command("config unset", "Remove a key; no error where it is not set.")
@KEY
@Example("podstack config unset defaults.project", "back to the default")
def config_unset(cx, args):
    set_key(cx, args.key, None, "%s removed from %s" % (args.key, cx.settings.path))


@command("config reset", "Remove all settings of the config file; logins stay.")
@Example("podstack config reset --yes", "without a question")
def config_reset(cx, args):
    def plan(config):  # a login keeps what it needs: endpoint, client id
        keys = [("profile",), ("defaults",), ("cli",), ("api", "timeout"), ("api", "ca_bundle")]
        kept = []
        for profile in map(config.profile, config.profile_names()):
            if profile.holds_login or profile.get("token_command"):
                kept += [profile.key_of("project"), profile.key_of("gpu_type")]
            else:
                keys.append(profile.base or ("auth",))
        return dict.fromkeys(keys + (kept or [("api",)])).items()

    cx.confirm("Remove every setting in %s (logins stay)?" % cx.config.path)
    cx.config.edit(plan, cx.config)
    cx.app.say("Settings removed; logins kept (podstack auth logout removes those)")


@command("config path", "Print where the config file is, or would be.")
@Example("cat $(podstack config path)", "look at the file")
def config_path(cx, args):
    print_fixed(cx, cx.settings.path, cx.settings.path)


@command("config set-profile", "Choose the profile to use from now on.")
@Operand("PROFILE", "an existing profile", read_profile_name, "profiles", "name")
@Example("podstack config set-profile work", "until you choose another")
def config_set_profile(cx, args):
    set_key(cx, "profile", args.name, "Using profile '%s'" % args.name)


@command("config get-profile", "Print the name of the profile in use.")
@Example("podstack config get-profile", "the name alone")
def config_get_profile(cx, args):
    name = cx.settings.profile().name
    print_fixed(cx, name, name)


@command("config delete-profile", "Delete a profile, its login and its keychain item.")
@Operand("PROFILE", "a profile that is not in use", complete="profiles", dest="name")
@Example("podstack config delete-profile work", "asks first")
def config_delete_profile(cx, args):
    name, config = args.name, cx.config
    profile = config.profile(name, must_exist=True)
    if name in (cx.settings.get("profile"), config.text_at(("profile",))):
        hint = "Choose another first: podstack config set-profile NAME"
        raise PodError("Profile '%s' is the active one" % name, hint)
    cx.confirm("Delete profile '%s' and its login?" % name)
    forget_login(cx.settings, name)
    config.edit(dict.fromkeys([profile.base] if profile.base else TOP_OF_FILE).items)
    cx.app.say("Deleted profile '%s'" % name)


# -- project


@command("project list", "List the projects; * marks the current one.")
@Example("podstack project list", "the current one is marked")
def project_list(cx, args):
    current = cx.settings.get("project") or ""
    mark = ("", lambda row: "*" if current in (row.get("id"), row.get("name")) else "")
    rows = cx.api.rows("projects", "/projects")
    print_rows(cx, rows, (mark, "Name", "ID", CREATED, "Description"))


@command("project use", "Choose the project to work in, and store it in the profile.")
@Operand("PROJECT", "its name or id", read_text, "projects", "name")
@Option("--no-verify", "do not check that it exists")
@Example("podstack project use my-project", "from now on")
def project_use(cx, args):
    rows = cx.api.rows("projects", "/projects")
    known = (args.name in (row.get("id"), row.get("name")) for row in rows)
    if not args.no_verify and not any(known):
        raise NotFound("Project '%s' not found" % args.name, "See: podstack project list")
    set_key(cx, "defaults.project", args.name, "Using project '%s'" % args.name)


@command("project current", "Print the current project.")
@Example("podstack project current", "the name alone; exit 6 when there is none")
def project_current(cx, args):
    project = cx.settings.get("project")
    if project is None:
        raise NotFound("No project is set", "Run: podstack project use NAME")
    print_fixed(cx, project, project)


def print_created(cx, made):
    """Print what a create made: its id alone when quiet, all of it for json and yaml."""
    form, line = form_of(cx), field("id")(made)
    if form != "ids":
        line += "  " + field("name")(made)
    print_data(cx, made, form, [line])


@command("project create", "Create a project.")
@Option("--name N", "the project's name", required=True)
@Option("--desc D", "what it is for")
@Option("--use", "and work in it from now on")
@Example("podstack project create --name my-project --use", "create it and use it")
def project_create(cx, args):
    body = {"name": args.name, "description": args.desc}
    project = cx.api.create("project", "/projects", body)
    cx.app.say("Created project '%s'" % (project.get("name") or args.name))
    print_created(cx, project)
    if args.use:
        set_key(cx, "defaults.project", args.name, "Using project '%s'" % args.name)


# -- pod: life


def read_environment(app, pairs, path):
    """Return {K: V} of --env-file and --env, where `K` alone takes the value from here."""
    found, lines = {}, app.read_input(path, as_lines=True) if path else []
    told = [("%s:%d" % (path, number), text.strip()) for number, text in enumerate(lines, 1)]
    told = [row for row in told if row[1] and not row[1].startswith("#")]
    for place, text in told + [("--env", pair) for pair in pairs if pair]:
        key, mark, value = text.partition("=")
        found[key] = value if mark else app.environ.get(key)
        if not key or found[key] is None:
            shown = "--env '%s'" % key if place == "--env" else place  # a line may be a secret
            raise UsageError("%s must be K=V, or K that is set here" % shown)
    return found


def wait_for_state(cx, pod, target, timeout):
    """Return the pod once it is `target` (`gone`: deleted) and say so; raises PodError."""
    name = pod.get("name") or pod.get("id")
    deadline, pause = time.monotonic() + timeout, 0.5
    while True:
        state = pod.get("status")
        if state == target:
            cx.app.say("Pod '%s' is %s" % (name, target))
            return pod
        cx.app.status("Pod '%s': %s" % (name, state))
        if state == "failed" and target != "gone":
            raise PodError("Pod '%s' has failed" % name, "See: podstack pod logs %s" % name)
        left = deadline - time.monotonic()
        if left <= 0:
            problem = "Pod '%s' is still %s after %g s" % (name, state, timeout)
            raise PodError(problem, "Look again: podstack pod get %s" % name)
        cx.app.sleep(min(pause, left))
        pause = min(pause * 1.5, 10)
        try:
            pod = cx.api.pod_again(pod, name)
        except NotFound:
            if target != "gone":
                raise
            pod = dict(pod, status="gone")
        except Unreachable as error:
            cx.app.debug(error.message)
            pod = dict(pod, status="unreachable")


def read_volume(text):
    volume, _, path = text.partition(":")
    if not volume or not path.startswith("/"):
        raise ValueError("ID:/PATH")
    return {"volume_id": volume, "mount_path": path}


@command("pod create", "Create a pod\nCreate a pod; what is left out is the service's default.")
@Option("--name N", "the pod's name", required=True)
@Option("--image IMAGE", "the container image")
@Option("--template T", "a template instead of, or with, an image")
@Option("--gpu-type TYPE", "such as A100 (see podstack gpu list)", complete="gpus")
@Option("--gpu-count N", "how many GPUs", whole_number)
@Option("--cpu N", "CPU cores", whole_number)
@Option("--memory GB", "memory", whole_number)
@Option("--disk GB", "disk", whole_number)
@Option("--port PORT", "a port to expose (repeat)", port_number)
@Option("--env K=V", "a variable; K alone takes its value from here (repeat)")
@Option("--env-file FILE", "variables, one K=V a line")
@Option("--volume ID:PATH", "a volume and where to mount it (repeat)", read_volume)
@Option("--command CMD", "what to run, as one string")
@Option("--label K=V", "a label (repeat)", read_pair)
@WAIT
@TIMEOUT
@Example("podstack pod create --name ci-pod --image myimage:latest", "with the server's defaults")
@Example("podstack pod create --name train --image pytorch --gpu-type A100 --wait", "and wait")
def pod_create(cx, args):
    if not (args.image or args.template):
        raise UsageError("A pod needs --image or --template")
    alike = ("name", "image", "template", "gpu_count", "cpu", "memory", "disk", "command")
    wanted = {name: getattr(args, name) for name in alike}
    wanted.update(gpu_type=cx.settings.get("gpu_type"), ports=args.port, volumes=args.volume)
    wanted.update(env=read_environment(cx.app, args.env, args.env_file), labels=dict(args.label))
    pod = cx.api.create("pod", "/pods", wanted)
    cx.app.say("Created pod '%s'" % (pod.get("name") or args.name))
    if args.wait:
        pod = wait_for_state(cx, pod, "running", args.timeout)
    print_created(cx, pod)


def gpu_of(pod):
    kind = pod.get("gpu_type")
    return "%s x%s" % (kind, pod.get("gpu_count") or 1) if kind else "-"


GPU = ("GPU", gpu_of)
MEMORY = ("Memory", field("memory", "{} GB".format))
DISK = ("Disk", field("disk", "{} GB".format))
PROJECT = ("Project", field("project_id"))


@command("pod list", "List the pods\nList the pods of the project.")
@Option("--status S", "only those in this state")
@Option("--label K=V", "only those with this label (repeat)", read_pair)
@Option("--limit N", "at most this many", whole_number)
@Example("podstack pod list", "name, status, GPU, date of creation")
@Example("podstack pod list --status stopped --quiet", "ids, for xargs")
def pod_list(cx, args):
    query = [("status", args.status)] + [("label", "%s=%s" % pair) for pair in args.label]
    rows = cx.api.rows("pods", "/pods", query, args.limit)
    wide = ("ID", "Image", "CPU", MEMORY, DISK, PROJECT)
    print_rows(cx, rows, ("Name", "Status", GPU, CREATED), wide)


def print_pod(cx, pod):
    ports = ", ".join(dict(flat_fields(pod.get("ports"))).values())
    labels = ", ".join(map("=".join, flat_fields(pod.get("labels"))))
    columns = ("Name", "ID", "Status", "Image", GPU, "CPU", MEMORY, DISK)
    columns += (("Ports", ports or "-"), ("Labels", labels or "-"), PROJECT, CREATED)
    columns += (("SSH", field("ssh_command")), ("Jupyter", field("jupyter_url")))
    print_object(cx, pod, columns)


@command("pod get", "Show a pod.")
@POD
@Option("--watch", "go on showing its status as it changes")
@Example("podstack pod get ci-pod", "everything known of it")
def pod_get(cx, args):
    pod = cx.api.pod(args.name)
    print_pod(cx, pod)
    between = {"json": "", "yaml": "---\n"}.get(cx.settings.get("output"), "\n")
    while args.watch:
        cx.app.flush()
        cx.app.sleep(2)
        before, pod = pod, cx.api.pod_again(pod, args.name)
        if pod.get("status") != before.get("status"):
            cx.app.write(between)
            print_pod(cx, pod)


def change_pods(cx, args, done, target, act, *words):
    """Do `act(name, *words)` for each pod and say so, then wait until all are in their state."""
    pods, failures = [], []

    def attempt(act, *words):
        try:
            return act(*words)
        except PodError as error:
            if len(args.name) == 1 or isinstance(error, AuthError):
                raise  # the only pod's failure is the answer, a bad token is that of all
            cx.app.complain(error.message, label="Error: ")
            failures.append(error.code)

    for name in args.name:
        pod = attempt(act, name, *words)
        if pod is not None:
            pods.append(pod)
            cx.app.say("%s pod '%s'" % (done, pod.get("name") or name))
    for pod in pods if args.wait else ():
        attempt(wait_for_state, cx, pod, target, args.timeout)
    if failures:
        problem = "%d of %s failed" % (len(failures), plural(len(args.name), "pod"))
        code = failures[0] if len(set(failures)) == 1 else None
        raise PodError(problem, "See: podstack pod list", code=code)


@command("pod start", "Start one or more stopped pods.")
@PODS
@WAIT
@TIMEOUT
@Example("podstack pod start ci-pod --wait", "until it runs")
def pod_start(cx, args):
    change_pods(cx, args, "Starting", "running", cx.api.pod_call, "/start")


@command("pod stop", "Stop one or more pods.")
@PODS
@Option("--force", "without asking its processes to end")
@WAIT
@TIMEOUT
@Example("podstack pod stop ci-pod", "its disk stays")
def pod_stop(cx, args):
    body = {"force": args.force}
    change_pods(cx, args, "Stopping", "stopped", cx.api.pod_call, "/stop", body)


@command("pod restart", "Restart one or more pods.")
@PODS
@WAIT
@TIMEOUT
@Example("podstack pod restart ci-pod --wait", "until it runs again")
def pod_restart(cx, args):
    change_pods(cx, args, "Restarting", "running", cx.api.pod_call, "/restart")


@command("pod delete", "Delete pods\nDelete one or more pods and what is on their disks.")
@PODS
@Option("--force", "running ones, too, and without a question")
@WAIT
@TIMEOUT
@Example("podstack pod delete ci-pod", "asks first")
@Example("podstack pod delete ci-pod --force", "does not")
def pod_delete(cx, args):
    if not args.force:
        listed = "', '".join(args.name)
        cx.confirm("Delete '%s' and all data on it?" % listed, "--yes or --force")
    change_pods(cx, args, "Deleted", "gone", cx.api.delete_pod, args.force)


# -- pod: what it does


def shown_log(chunks):
    """Yield a log that comes in chunks as text for a terminal, whole lines at a time."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > PIECE_BYTES:  # some programs never end a line
            lines, rest = lines + [rest], b""
        yield "".join(map(printable_log, lines))
    if rest:
        yield printable_log(rest)


@command("pod logs", "Show a pod's log\nShow a pod's log, as it stands or as it grows.")
@POD
@Option("--tail N", "only the last N lines", whole_number)
@Option("--since TIME", "from this time on, or the last 15m, 1h, 2d")
@Option("--follow", "go on as it grows")
@Example("podstack pod logs ci-pod --tail 50 --follow", "the last lines, then new ones")
def pod_logs(cx, args):
    app, query = cx.app, [("tail", args.tail), ("follow", "true" if args.follow else None)]
    if args.since is not None:
        span = parse_span(args.since)
        at = parse_time(args.since) if span is None else app.now() - span
        if at is None:
            raise UsageError("--since takes a time or a span such as 1h, not '%s'" % args.since)
        query.append(("since", format_time(max(at, 0))))
    silence = 86400 if args.follow else 120
    _, answer = cx.api.on_pod(args.name, "GET", "/logs", query=query, silence=silence)
    parts = answer.pieces or [answer.body]  # an empty log may come as 204, which is no stream
    for part in shown_log(parts) if app.is_terminal(app.stdout) else parts:
        app.write(part)
        app.flush()


@command("pod events", "Show what happened to a pod\nShow a pod's events.")
@POD
@Example("podstack pod events ci-pod", "each with its time, type and reason")
def pod_events(cx, args):
    path = pod_path(cx.api.pod(args.name).get("id"), "/events")
    columns = (("Time", field("created_at")), "Type", "Reason", "Message")
    print_rows(cx, cx.api.rows("events", path), columns)


@command("pod metrics", "Show a pod's load\nShow a pod's current metrics.")
@POD
@Example("podstack pod metrics ci-pod", "GPU, CPU, memory, disk")
def pod_metrics(cx, args):
    metrics = cx.api.pod_call(args.name, "/metrics", None, "GET", "metrics")
    print_object(cx, metrics, list(flat_fields(metrics)) or [("metrics", "-")])


# -- pod: into it, through OpenSSH


@command("pod ssh", "Open a shell in a pod\nOpen a shell in a pod; the exit code is the shell's.")
@POD
@Example("podstack pod ssh ci-pod", "through the system's ssh")
def pod_ssh(cx, args):
    return cx.app.hand_over(ssh_to(cx, args.name))


@command("pod exec", "Run a command in a pod; its exit code comes back.")
@POD
@Operand("-- CMD...", "the command and its words, after --; they arrive as typed")
@Option("-i, --stdin", "pass stdin on")
@Option("-t, --tty", "give it a terminal")
@Option("--timeout S", "give up after this long", read_seconds)
@Example("podstack pod exec ci-pod -- nvidia-smi", "its output, its exit code")
@Example("podstack pod exec ci-pod -it -- bash", "a shell")
def pod_exec(cx, args):
    words = ssh_to(cx, args.name, "-t" if args.tty else "-T") + [remote_words(args.cmd)]
    return cx.app.hand_over(words, args.stdin or args.tty, args.timeout)


def split_place(app, text):
    """Return (pod or None, path): `./a:b` and `/a:b` are paths here, as `C:x` is on Windows."""
    pod, mark, path = text.partition(":")
    if not mark or "/" in pod or not pod or (app.is_windows and len(pod) == 1):
        return None, text
    if not path:
        raise UsageError("'%s' names no path in the pod" % text)
    if path == "~" or path.startswith("~/"):
        path = "." + path[1:]
    return pod, path if path.startswith("/") else "./" + path


@command(
    "pod cp",
    "Copy files to or from a pod\n"
    "Copy a file or a directory as cp -r does, with modes and links.\n\n"
    "Into a directory that exists it goes under its own name; SRC/. means what is\n"
    "in SRC. Every file gets its final name only when it is whole. The pod needs tar.",
)
@Operand("SRC", "a path, or POD:PATH")
@Operand("DST", "a path, or POD:PATH")
@Example("podstack pod cp ./data ci-pod:/workspace/data", "to the pod")
@Example("podstack pod cp ci-pod:/workspace/out ./out", "and back")
def pod_cp(cx, args):
    source, target = split_place(cx.app, args.src), split_place(cx.app, args.dst)
    if bool(source[0]) == bool(target[0]):
        raise UsageError("One of SRC and DST must be POD:PATH, the other a path here")
    if target[0]:
        copy_to_pod(cx, source[1], *target)
    else:
        copy_from_pod(cx, *source, target=target[1])
    cx.app.say("Copied %s to %s" % (args.src, args.dst))


def read_forward(text):
    """Return the ports (here, there) of `LOCAL:REMOTE`."""
    local, mark, remote = text.partition(":")
    return port_number(local), port_number(remote if mark else local)


@command("pod port-forward", "Forward ports of this machine to a pod's, until Ctrl-C.")
@POD
@Operand("LOCAL:REMOTE...", "the ports here and there", read_forward, dest="ports")
@Example("podstack pod port-forward ci-pod 8888:8888", "until Ctrl-C")
def pod_port_forward(cx, args):
    options, shown = ["-N", "-T", "-o", "ExitOnForwardFailure=yes"], []
    for pair in args.ports:
        options += ["-L", "127.0.0.1:%d:127.0.0.1:%d" % pair]
        shown.append("127.0.0.1:%d to %d" % pair)
    words = ssh_to(cx, args.name, *options)
    cx.app.say("Forwarding %s of pod '%s'; Ctrl-C ends it" % (", ".join(shown), args.name))
    code = cx.app.hand_over(words, typed=False)
    if code == 255:
        hint = "See how it is: podstack pod get %s" % args.name
        raise PodError("The connection to pod '%s' has ended" % args.name, hint)
    return code


# -- wallet, gpu, api, and the program itself


def money(row, name):
    if not isinstance(row.get(name), (int, float)):
        return "-"
    return "%.2f %s" % (row[name] / 100.0, row.get("currency") or "USD")


@command("wallet balance", "Show the balance.")
@Example("podstack wallet balance", "and what is still to be charged")
def wallet_balance(cx, args):
    wallet = cx.api.object("wallet", "/billing/wallet")
    balance = ("Balance", money(wallet, "balance_cents"))
    pending = ("Pending charges", money(wallet, "pending_charges_cents"))
    updated = ("Updated", field("last_updated", format_date))
    print_object(cx, wallet, (balance, pending, updated))


@command("gpu list", "List the GPU types\nList the GPU types with price and availability.")
@Example("podstack gpu list", "memory, price, how many are free")
def gpu_list(cx, args):
    memory = ("Memory", field("memory_gb", "{} GB".format))
    price = ("Per hour", lambda row: money(row, "price_per_hour_cents"))
    free = ("Free", lambda row: field("available")(row) + "/" + field("total")(row))
    print_rows(cx, cx.api.rows("gpus", "/gpus"), ("Type", "Name", memory, price, free))


def read_api_path(text):
    """Return (path below /v1, query pairs) of a typed path."""
    from urllib.parse import parse_qsl, unquote

    path, _, query = text.partition("?")
    path = path[3:] if path.startswith("/v1/") else path
    decoded = path
    while unquote(decoded) != decoded:  # however often it will be decoded there
        decoded = unquote(decoded)
    plain = is_token(text) and not set('\\#"<>').intersection(text)
    dots = {".", ".."}.intersection(decoded.replace("\\", "/").split("/"))
    if not plain or not path.startswith("/") or path.startswith("//") or dots:
        raise ValueError("a path alone, with one / before it and without .., as /pods")
    return path, parse_qsl(query, keep_blank_values=True)


@command("api", "Call the API directly\nMake any call with the token in effect; JSON comes back.")
@Operand("PATH", "a path such as /pods", read_api_path)
@Option("-X, --method METHOD", "GET, or POST with -f or --input", one_of(*METHODS), METHODS)
@Option("-f, --field K=V", "a field of the JSON body, or of a GET's query (repeat)", read_pair)
@Option("--input FILE", "the body from a file, or - for stdin")
@Option("--paginate", "all pages of a list")
@Example("podstack api /pods --paginate", "every pod as JSON")
@Example("podstack api /projects -f name=new", "a POST with a field")
def api_call(cx, args):
    (path, query), fields = args.path, args.field
    if args.input and fields:
        raise UsageError("-f and --input exclude each other")
    raw = cx.app.read_input(args.input) if args.input else None
    method = args.method or ("POST" if fields or raw is not None else "GET")
    if method == "GET":
        query, fields = query + fields, []
    form = "yaml" if args.output == "yaml" else "json"
    if args.paginate:
        if method != "GET":
            raise UsageError("--paginate goes with GET")
        query = [pair for pair in query if pair[0] not in ("page", "limit")]
        name = path.rstrip("/").rpartition("/")[2]
        return print_streamed(cx, cx.api.rows(name, path, query), form)
    missing = NotFound("'%s' not found" % path, DOCTOR_HINT)
    answer = cx.api.send(method, path, query, dict(fields) or None, missing, raw)
    value = answer.json()
    print_data(cx, value, None if value is None else form, answer.text.splitlines())


@command("update", "Update podstack in place; this version stays if that fails.")
@Option("--check", "only tell whether there is another version")
@Example("podstack update", "install the newest version in place of this one")
@Example("podstack update --check", "only tell whether there is one")
def update(cx, args):
    folder = os.path.dirname(SOURCE)
    path = os.path.join(folder, "receipt")  # what install.sh noted about this install
    noted = cx.app.read_input(path, as_lines=True) if os.path.isfile(path) else []
    receipt = dict(line.partition(" ")[::2] for line in noted)
    if "launcher" not in receipt:
        hint = "Update it the way it came: git pull, or your package manager"
        raise PodError("install.sh did not install %s" % SOURCE, hint)
    origin = cx.app.env("PODSTACK_INSTALL_URL") or receipt.get("origin", INSTALL_URL)
    origin = origin.rstrip("/")
    hint = "Check PODSTACK_INSTALL_URL, or try again later"
    url = safe_url(origin + "/cli", "installer's address", loopback=True, hint=hint)
    answer = cx.http.request("GET", url, redirects=5)
    newest = answer.text.partition("\nVERSION=")[2].partition("\n")[0]
    if answer.status != 200 or not newest or not answer.text.endswith('\n{ main "$@"; }\n'):
        raise PodError("%s is not podstack's installer (HTTP %d)" % (url, answer.status), hint)
    if args.check:
        news = "is the newest" if newest == VERSION else "can be updated to " + newest
        return cx.app.out("podstack %s %s" % (VERSION, news))
    if os.stat(folder).st_uid != os.geteuid() or not os.access(folder, os.W_OK):
        hint = "Run podstack update as its owner, or renew it where it is made (an image, a disk)"
        raise PodError("%s is not yours to change" % folder, hint)
    prefix = os.path.dirname(os.path.dirname(receipt["launcher"]))
    argv = [cx.app.which("sh") or "/bin/sh", "-s", "--", "--prefix", prefix]
    argv += ["--quiet"] if cx.app.quiet else []
    environ = {"PODSTACK_INSTALL_URL": origin}
    bundle = cx.settings.get("ca_bundle")
    if bundle:
        environ.update(CURL_CA_BUNDLE=bundle, SSL_CERT_FILE=bundle)
    script = answer.text.encode("utf-8")
    code, _, _ = cx.app.run(argv, script, timeout=600, env=environ, inherit=True)
    if code:
        problem = "The installer failed (exit %d); this podstack stays as it is" % code
        raise PodError(problem, "It says why above; try again: podstack update")


# == door: the command line in, an exit code out
# Turns words into one handler's options by the table of commands, and every failure into its lines
# and code. Completion and help are read off the same table. It holds the only ladder of `except`.


def unknown_command(words, topics=()):
    """Return the UsageError for words that are no command (nor one of `topics`)."""
    if words[0] in GROUPS:
        known = [path[1] for path in COMMANDS if path[0] == words[0]]
        unknown = (words[1], words[0], did_you_mean(words[1], known))
        hint = "See: podstack %s --help" % words[0]
        return UsageError("Unknown command '%s' for 'podstack %s'%s" % unknown, hint)
    inner = ["'%s'" % " ".join(path) for path in COMMANDS if path[-1] == words[0]]
    guess = did_you_mean(words[0], [path[0] for path in COMMANDS] + list(topics))
    guess = " (did you mean %s?)" % " or ".join(inner) if inner else guess
    return UsageError("Unknown command '%s'%s" % (words[0], guess), "See: podstack --help")


def find_command(words):
    """Return (command, operands) for the words of a line, or (None, words)."""
    found = COMMANDS.get(tuple(words[:2])) or COMMANDS.get(tuple(words[:1]))
    return found, words[len(found.words) :] if found else words


# -- help


def columns_of(rows):
    """Return help lines of (left, right) pairs, or of what has a name and help, aligned."""
    pairs = [row if isinstance(row, tuple) else (row.name, row.help) for row in rows]
    width = min(max(map(len, dict(pairs))), 26)
    lines = []
    for left, right in pairs:
        if len(left) > width:
            left += "\n" + " " * (width + 2)
        lines.append("  %s  %s" % (left.ljust(width), right))
    return lines


TOPICS = {
    "environment": "\n".join(columns_of(ENVIRONMENT))
    + "\n\nHeeded, too: NO_COLOR, SSL_CERT_FILE, HTTPS_PROXY, ALL_PROXY, NO_PROXY, BROWSER\n",
    "exit-codes": "\n".join("%5d  %s" % pair for pair in EXIT_CODES) + "\n",
    "config": """\
The config file is ~/.podstack/config.yaml (podstack config path), YAML, 0600:

  auth:
    token: your_api_token
  defaults:
    project: my-project
  profiles:
    work:
      token: work_token
      project: work-project
      api_endpoint: https://api.work.podstack.ai

auth and defaults at the top are the profile `default`, unless profiles.default
exists. A value comes from the first of these that has it:

  1. the command line        podstack --project my-project pod list
  2. the environment         PODSTACK_PROJECT=my-project
  3. the active profile      --profile, PODSTACK_PROFILE, config set-profile
  4. the file's general part api.endpoint, defaults.output, cli.color ...
  5. the built-in default

With --profile on the command line that profile comes before the environment.
podstack auth doctor shows where each value comes from and what it shadows.
The commands that read and change it: podstack config --help
""",
    "formatting": """\
stdout holds the answer alone, stderr everything else, in every format.

  -o table    aligned columns, cut to the terminal's width (the default)
  -o wide     more columns, nothing cut
  -o json     the server's objects, unknown fields kept; lists are bare arrays
  -o yaml     the same as YAML
  --quiet     ids alone for lists and create, nothing on stderr but errors

  podstack pod list --status stopped -q | xargs -r podstack pod delete --yes --
  podstack auth status -o json
  podstack pod list -o json | jq -r '.[].name'

Commands that print one value or fixed lines (auth status, auth whoami,
project current, config get ...) change form only for an explicit -o.
Dates are UTC; no colour with NO_COLOR, --no-color or cli.color: false.
""",
}


def help_page(usage, about, examples, tables, end):
    """Return a page of help; `tables` are (title, rows), and one without rows is left out."""
    lines = ["usage: podstack " + usage, "", about, "", "examples:"]
    for example in examples:
        lines.append("  %s\n      %s" % (example.typed, example.meaning))
    for title, rows in tables:
        if rows:
            lines += ["", title + ":"] + columns_of(rows)
    return "\n".join(lines + ["", end]) + "\n"


def help_command(found):
    usage = list(found.words) + [option.shown for option in found.options if option.required]
    usage += ["[options]"] + [operand.shown for operand in found.operands]
    everywhere = " ".join(option.names[0] for option in GLOBAL_OPTIONS)
    end = "everywhere: %s\n(see podstack --help)" % everywhere
    tables = [("arguments", found.operands), ("options", found.options)]
    return help_page(" ".join(usage), found.about, found.examples, tables, end)


def help_text(words, topics=()):
    """Return the help for the words of a line, or one of `topics`; raises UsageError."""
    if not words:
        single = [found for path, found in COMMANDS.items() if len(path) == 1]
        tables = [("commands", [*GROUPS.items(), *single])]
        tables.append(("options, before or after the command", GLOBAL_OPTIONS))
        examples = [auth_login.examples[0], pod_create.examples[0]]
        about = "Sign in to the Podstack GPU cloud and work there."
        end = "topics: podstack help " + "|".join(TOPICS)
        return help_page("[options] COMMAND [options]", about, examples, tables, end)
    if len(words) == 1 and words[0] in topics:
        return topics[words[0]]
    found, _ = find_command(words)
    if found:
        return help_command(found)
    if len(words) > 1 or words[0] not in GROUPS:
        raise unknown_command(words, topics)
    members = [found for path, found in COMMANDS.items() if path[0] == words[0]]
    examples = [found.examples[0] for found in members[:2]]
    usage, about = words[0] + " COMMAND [options]", GROUPS[words[0]] + "."
    end = "podstack %s COMMAND --help shows a command's options." % words[0]
    return help_page(usage, about, examples, [("commands", members)], end)


@command("help", "Show help for a command, or one of the topics.")
@Operand("[COMMAND...]", "command words, or a topic")
@Example("podstack help pod create", "as podstack pod create --help")
@Example("podstack help exit-codes", "one of the topics")
def show_help(cx, args):
    cx.app.write(help_text(args.command, TOPICS))


@command("version", "Show the version, the Python that runs it and where it is.")
@Example("podstack version", "for a bug report")
def show_version(cx, args):
    python = "%d.%d.%d" % sys.version_info[:3]
    facts = {"version": VERSION, "python": python, "platform": sys.platform, "path": SOURCE}
    line = "podstack %(version)s (python %(python)s, %(platform)s, %(path)s)" % facts
    print_fixed(cx, facts, line)


# -- the command line


class Options:
    """The values of a command's options and operands, as attributes: at first the defaults."""

    def __init__(self, options):
        for option in options:
            setattr(self, option.dest, option.default)


class Line:
    """A command line taken apart: `words`, `options` as (name, text or None), `tail` after --.

    Options may stand before the command is known: a name takes a value everywhere or nowhere.
    """

    def __init__(self, argv):
        cut = argv.index("--") if "--" in argv else len(argv)
        self.words, self.options, self.tail = [], [], argv[cut + 1 :]
        self.lacks_value, rest = False, argv[:cut]
        while rest:
            word = rest.pop(0)
            if word == "-" or not word.startswith("-"):
                self.words.append(word)
                continue
            name, given, text = word.partition("=")
            if name not in TAKES_VALUE and TAKES_VALUE.get(word[:2]):  # -ojson
                name, given, text = word[:2], "=", word[2:]
            elif name not in TAKES_VALUE and word[:2] in TAKES_VALUE and word[2] != "-":  # -it
                name, given = word[:2], ""
                rest.insert(0, "-" + word[2:])
            elif not given and TAKES_VALUE.get(name):
                given = rest[:1] and rest[0].partition("=")[0] not in TAKES_VALUE
                text = rest.pop(0) if given else None
                self.lacks_value = self.lacks_value or not given
            self.options.append((name, text if given else None))


def build_parser(options):
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        how = {"action": "store_true"}
        if option.metavar:
            how = {"action": "append" if option.repeats else "store"}
            how["type"] = lambda text, option=option: accept(option.names[-1], text, option.read)
        parser.add_argument(*option.names, dest=option.dest, **how)
    return parser


def read_options(options, given):
    """Return the Options given to a command that has `options`, too.

    argparse gets each option with its value joined, by its long name: left to itself it takes
    abbreviations on 3.6, and a value that begins with a dash for an option.
    """
    options = GLOBAL_OPTIONS + options
    named, argv = {name: option for option in options for name in option.names}, []
    for name, text in given:
        if name not in named:
            raise UsageError("Unknown option '%s'%s" % (name, did_you_mean(name, named)))
        if bool(named[name].metavar) != (text is not None):
            problem = "takes no value" if text is not None else "needs a value"
            raise UsageError("%s %s" % (name, problem))
        argv.append(named[name].names[-1] + ("" if text is None else "=" + text))
    values = Options(options)
    if argv:  # a line without options needs no parser: importing one costs a third of a start
        build_parser(options).parse_args(argv, values)
    for option in options:
        if option.required and getattr(values, option.dest) is None:
            raise UsageError("%s is missing" % option.shown)
    return values


def read_operands(operands, words, tail):
    """Return {dest: value} for a command's operands; raises UsageError."""
    behind = operands[-1:] and operands[-1].behind
    values, rest = {}, words if behind else words + tail
    for operand in operands:
        taken = len(rest) if operand.many else 1
        found, rest = (tail, rest) if operand.behind else (rest[:taken], rest[taken:])
        if not found and not rest and not operand.shown.startswith("["):
            raise UsageError("%s is missing" % operand.shown)
        read = [accept(operand.name, text, operand.read) for text in found]
        values[operand.dest] = read if operand.many else read[0]
    if rest:
        more = ": a command goes after --" if behind else ""
        raise UsageError("Unexpected argument '%s'%s" % (rest[0], more))
    return values


def read_line(line):
    """Return (command, Options) for a Line; raises UsageError."""
    found, words = find_command(line.words)
    if found is None:
        for name, _ in line.options:  # a slip there leaves its value among the command words
            guess = did_you_mean(name, TAKES_VALUE)
            if name not in TAKES_VALUE and guess:
                raise UsageError("Unknown option '%s'%s" % (name, guess))
        raise unknown_command(line.words)
    options = read_options(found.options, line.options)
    options.__dict__.update(read_operands(found.operands, words, line.tail))
    return found, options


def prepare(cx):
    """Let the options and settings that concern the terminal take effect."""
    app, options = cx.app, cx.options
    app.quiet = options.quiet
    plain = options.no_color or app.env("NO_COLOR") or app.env("PODSTACK_NO_COLOR")
    if plain or not app.redraws:
        return
    try:
        app.color = cx.settings.get("color")
    except PodError as error:
        app.debug("cannot read cli.color: %s" % error.message)


def dispatch(line, app):
    """Carry out a command line; returns the exit code, raises PodError."""
    asked = () if line.lacks_value else dict(line.options)
    if "--version" in asked:
        app.out("podstack %s" % VERSION)
        return 0
    if "-h" in asked or "--help" in asked:
        app.write(help_text(line.words))
        return 0
    group = [word for word in line.words[:1] if word in GROUPS]
    try:
        if line.words == group:
            read_options([], line.options)
            app.complain(*help_text(line.words).splitlines())
            return UsageError.code
        found, options = read_line(line)
        cx = Context(app, options)
        prepare(cx)
        return found(cx, options) or 0
    except UsageError as error:
        for word in line.words[2:] + line.tail if group == ["auth"] else ():
            app.guard(word)  # none of them takes an operand: it may be a token
        if not error.hint:
            found, _ = find_command(line.words)
            words = found.words if found else group
            error.details.append(" ".join(["See: podstack", *words, "--help"]))
        raise


# -- completion

COMPLETION_SCRIPTS = {
    "bash": """\
_podstack() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do
        printf -v word %q "$word"
        COMPREPLY+=("$word")
    done < <(podstack __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _podstack podstack
""",
    "zsh": """\
#compdef podstack
_podstack() {
    local -a found
    found=("${(@f)$(podstack __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -a found; else _files; fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
if [[ $funcstack[1] = _podstack ]]; then _podstack; else compdef _podstack podstack; fi
""",
    "fish": """\
function __podstack_complete
    set -l typed (commandline -opc) (string join '' -- (commandline -ct))
    set -l found (podstack __complete $typed[2..-1] 2>/dev/null)
    if set -q found[1]
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c podstack -f -a '(__podstack_complete)'
""",
    # An empty argument does not reach a program everywhere: a space stands for it.
    "powershell": """\
Register-ArgumentCompleter -Native -CommandName podstack -ScriptBlock {
    param($word, $ast, $cursor)
    $typed = @($ast.CommandElements | Select-Object -Skip 1 |
        Where-Object { $_.Extent.StartOffset -lt $cursor } | ForEach-Object { "$_" })
    if (-not $word) { $typed += ' ' }
    podstack __complete @typed 2>$null | ForEach-Object {
        $quoted = "'" + ($_ -replace "['\\u2018-\\u201b]", '$0$0') + "'"
        $text = if ($_ -match '^[\\w@./:=+-]+$') { $_ } else { $quoted }
        [System.Management.Automation.CompletionResult]::new($text)
    }
}
""",
}


@command("completion", "Print the completion script for a shell.")
@Operand("SHELL", "bash, zsh, fish or powershell", one_of(*COMPLETION_SCRIPTS), COMPLETION_SCRIPTS)
@Example("source <(podstack completion bash)", "in ~/.bashrc")
@Example("podstack completion fish | source", "in config.fish")
def completion(cx, args):
    cx.app.write(COMPLETION_SCRIPTS[args.shell])


def candidates_for(cx, kind):
    """Return the words of a kind, from the config file or the API; what is no kind is the words."""
    if kind == "profiles":
        return cx.config.profile_names()
    if kind not in ("pods", "projects", "gpus"):
        return kind
    found = find_credential(cx.settings)  # as it is: no login is renewed for this
    api = Api(cx, Credential(token=found.token, origin=found.origin))
    key = "type" if kind == "gpus" else "name"
    rows = api.rows(kind, "/" + kind, limit=PAGE_SIZE)
    return [row[key] for row in rows if isinstance(row.get(key), str)]


def complete_words(app, typed):
    """Return the candidates for the last of the words typed after `podstack`."""
    before, start, lead = list(typed[:-1]), typed[-1].strip() if typed else "", ""
    if "--" in before:
        return []
    if start == "=":  # bash breaks words at =
        start = ""
    elif before[-1:] == ["="]:
        before.pop()
    elif start.startswith("--") and "=" in start:
        name, _, start = start.partition("=")
        before, lead = before + [name], name + "="
    line = Line(before)
    found, operands = find_command(line.words)
    options = GLOBAL_OPTIONS + (found.options if found else [])
    named = {name: option for option in options for name in option.names}
    values = Options(options)
    for name, text in line.options:
        if text and name in named:
            setattr(values, named[name].dest, text)
    pending = line.lacks_value and named.get(line.options[-1][0])
    if pending and pending.metavar:
        words = pending.complete
    elif start.startswith("-"):
        words = named
    elif found is None or found.words == ("help",):
        way = tuple(operands)
        words = [path[len(way)] for path in COMMANDS if path[: len(way)] == way and path != way]
        words += TOPICS if found and not way else ()
    else:
        left = found.operands[len(operands) :] or [one for one in found.operands if one.many]
        words = left[0].complete if left else ()
    words = candidates_for(Context(app, values), words)
    return sorted({lead + word for word in words if word.startswith(start)})


def print_completions(app, typed):
    """Print candidates within a second, quietly nothing on any failure."""
    # As if from a token_command: none is run.
    app.environ = dict(app.environ, PODSTACK_TIMEOUT="1", PODSTACK_TOKEN_COMMAND="1")
    app.stderr = None
    try:
        for word in within(time.monotonic() + 1, None, complete_words, app, typed):
            app.out(word)
    except Exception:
        pass


# -- the end of every run


def report(app, error):
    """Write a failure's lines to stderr: message, hint, details, traceback; returns its code."""
    lines, label = [error.hint or ""] + error.details, "Error: "
    if app.debugging:
        import traceback

        lines += redact_names(redact(traceback.format_exc(), app.secrets)).splitlines()
    for line in [error.message] + list(filter(None, lines)):
        line = redact(line, app.secrets)  # what is cut could no longer be
        app.complain(line if len(line) <= MAX_SHOWN else line[:MAX_SHOWN] + "...", label=label)
        label = ""
    return error.code


def main(argv, app):
    """Run one command line in `app` and return its exit code; nothing escapes."""
    line = Line(argv)
    app.debugging = ("--debug", None) in line.options or bool(app.env("PODSTACK_DEBUG"))
    try:
        if argv[:1] == ["__complete"]:
            print_completions(app, argv[1:])
            return 0
        code = dispatch(line, app)
        app.flush()
        return code
    except KeyboardInterrupt:
        app.complain("")
        return 130
    except BrokenPipeError:
        return 1
    except PodError as error:
        return report(app, error)
    except OSError as error:
        return report(app, PodError(str(error.strerror or error), DEBUG_HINT))
    except RecursionError:  # nothing else is as deep as what comes from elsewhere
        return report(app, Unreachable("Podstack's answer is nested too deeply"))
    except Exception as error:
        bug = (VERSION, type(error).__name__, error)
        return report(app, PodError("This is a bug in podstack %s (%s: %s)" % bug, DEBUG_HINT))


def run():
    if sys.path[:1] == [os.path.dirname(os.path.realpath(SOURCE))]:
        del sys.path[0]  # a json.py beside this file is not ours: it may have come to lie in /tmp
    app = App.real()
    code = main(sys.argv[1:], app)
    try:
        app.flush()
    except (OSError, PodError):
        code = code or 1
    os._exit(code)  # skips the interpreter's tear-down: 1-2 ms, and threads that still wait


if __name__ == "__main__":
    run()

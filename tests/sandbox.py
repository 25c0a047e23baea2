#!/usr/bin/env python3
"""A local Podstack: its HTTP API and its OAuth server, with all state in memory.

    python3 tests/sandbox.py                    the authentication guide from top to bottom
    python3 tests/sandbox.py serve [--port N]   the server alone, until Ctrl-C
    python3 tests/sandbox.py run -- CMD...      CMD with a fresh home, this server and this podstack

Tests use the class `Sandbox` and, for the one who signs in, the class `Person`.
"""

import argparse
import base64
import calendar
import contextlib
import email.utils
import hashlib
import hmac
import html
import html.parser
import http.client
import http.server
import itertools
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from collections import namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(HERE)

# ============================================================================================
# Clock and state: accounts, tokens, projects and pods, and how a pod lives
# ============================================================================================

POD_STATUSES = ("pending", "running", "stopping", "stopped", "failed")
STATUS_NOTES = {  # the event and the line of the log that mark each status
    "pending": ("Scheduled", "Pulling image %(image)s"),
    "running": ("Started", "Started %(name)s"),
    "stopping": ("Stopping", "Stopping %(name)s"),
    "stopped": ("Stopped", "Stopped %(name)s"),
    "failed": ("Failed", "Cannot start image %(image)s"),
}
ALL_SCOPES = ("projects:read", "projects:write", "pods:read", "pods:write", "billing:read")
READ_SCOPES = tuple(scope for scope in ALL_SCOPES if scope.endswith(":read"))
LOGIN_SCOPES = ("openid", "profile", "email", "offline_access")

Account = namedtuple("Account", "id email name")
ACCOUNTS = (
    Account("acc_123456", "user@example.com", "Example User"),
    Account("acc_654321", "other@example.com", "Other User"),
)
PROJECT_NAMES = ("my-project", "personal-project", "work-project")

GPUS = tuple(
    dict(zip(("type", "name", "memory_gb", "price_per_hour_cents", "available", "total"), row))
    for row in (
        ("A100", "NVIDIA A100 80GB", 80, 189, 12, 32),
        ("H100", "NVIDIA H100 80GB", 80, 349, 0, 16),
        ("L40S", "NVIDIA L40S", 48, 99, 7, 24),
        ("RTX4090", "NVIDIA GeForce RTX 4090", 24, 49, 41, 64),
    )
)
CPU_PRICE_CENTS = 5


def parse_time(text):
    """The epoch seconds of an RFC 3339 time; ValueError when it is none."""
    match = re.match(
        r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))$", text
    )
    if not match:
        raise ValueError("not an RFC 3339 time: %r" % text)
    day, clock, fraction, sign, hours, minutes = match.groups()
    seconds = calendar.timegm(time.strptime(day + " " + clock, "%Y-%m-%d %H:%M:%S"))
    offset = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return seconds + float(fraction or 0) - (-offset if sign == "-" else offset)


def format_time(seconds):
    """RFC 3339 in UTC, None for None."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Clock:
    """The server's own time: it starts where it is told, runs at real speed, and can be moved."""

    def __init__(self, start=None):
        if isinstance(start, str):
            start = parse_time(start)
        self.offset = 0 if start is None else start - time.time()

    def now(self):
        return time.time() + self.offset

    def advance(self, seconds):
        self.offset += seconds


class Token:
    """An API token or an OAuth access token, as the table of tokens keeps it."""

    def __init__(self, value, account, created, name="Podstack CLI", type="api_token",
                 scopes=ALL_SCOPES, expires=None, client_id=None, family=None):  # fmt: skip
        self.id = "tok-" + hashlib.sha256(value.encode()).hexdigest()[:12]
        self.value, self.account, self.name, self.type = value, account, name, type
        self.scopes = list(scopes)
        self.created, self.expires, self.last_used = created, expires, None
        self.client_id, self.family = client_id, family

    def allows(self, scope):
        """Whether the token may do this: a login acts for the whole account."""
        return scope is None or self.type == "oauth" or scope in self.scopes

    def shown(self):
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "prefix": self.value[:8],
            "scopes": self.scopes,
            "created_at": format_time(self.created),
            "expires_at": format_time(self.expires),
            "last_used_at": format_time(self.last_used),
        }


class Project(dict):
    """A project's fields as they are shown, and whose it is."""

    def __init__(self, account, fields):
        super().__init__(fields)
        self.account = account


class Pod(dict):
    """A pod's fields as they are shown; its attributes are what only the server knows."""

    __slots__ = ("account", "due", "events", "log", "reads_left", "then")

    def __init__(self, account, fields):
        super().__init__(fields)
        self.account = account
        self.then = None  # the status that follows the present one by itself
        self.reads_left = 0
        self.due = None
        self.log = []
        self.events = []


class PodLife:
    """How pods change: the part of the sandbox that moves them from one status to the next.

    A status that passes by itself (pending, stopping) lasts `reads_until_running` readings, or
    `seconds_until_running` seconds where that is set, so that a test never has to sleep.
    """

    def enter(self, pod, status, then=None, reads=None):
        """Put the pod into a status, and say which one follows by itself."""
        pod["status"] = status
        pod.then = then
        if then is None:
            self.moving.pop(pod["id"], None)
        else:
            self.moving[pod["id"]] = pod
        pod.reads_left = self.reads_until_running if reads is None else reads
        seconds = self.seconds_until_running
        pod.due = None if seconds is None else self.clock.now() + seconds
        self.note(pod, status)

    def note(self, pod, status):
        """One event and one line of the log for a status just entered."""
        reason, text = STATUS_NOTES[status]
        message = text % pod
        event = {
            "id": "evt-%08x" % next(self.numbers),
            "type": "Warning" if status == "failed" else "Normal",
            "reason": reason,
            "message": message,
            "created_at": format_time(self.clock.now()),
        }
        pod.events.append(event)
        self.log(pod, message)

    def log(self, pod, line):
        """Add a line to a pod's log; whoever follows it gets it at once."""
        with self.changed:
            pod.log.append((self.clock.now(), line))
            self.changed.notify_all()

    def observe(self, pod):
        """Move a pod on if its time has come, else count this reading."""
        if pod.then is None:
            return
        over = pod.reads_left <= 0 if pod.due is None else self.clock.now() >= pod.due
        if not over:
            pod.reads_left -= 1
        elif pod.then == "gone":
            self.forget_pod(pod)
        else:
            self.enter(pod, pod.then)

    def show_pod(self, pod):
        """The pod's fields; the addresses are there while it runs."""
        shown = dict(pod)
        if pod["status"] == "running":
            shown["ssh_command"] = pod["ssh_command"] or self.ssh_command
            shown["jupyter_url"] = pod["jupyter_url"] or "https://%(id)s.pods.podstack.ai" % pod
        return shown

    def new_pod(self, account, project_id, fields):
        pod = {
            "id": "pod-%08x" % next(self.numbers),
            "name": None,
            "status": "running",
            "gpu_type": None,
            "gpu_count": 1 if fields.get("gpu_type") else 0,
            "cpu": 4,
            "memory": 16,
            "disk": 50,
            "image": None,
            "ports": [],
            "labels": {},
            "project_id": project_id,
            "created_at": format_time(self.clock.now()),
            "ssh_command": None,
            "jupyter_url": None,
        }
        pod.update(fields)
        pod = Pod(account, pod)
        self.pods[pod["id"]] = pod
        self.pods_version += 1
        return pod

    def forget_pod(self, pod):
        self.pods.pop(pod["id"], None)
        self.moving.pop(pod["id"], None)
        self.pods_version += 1
        pod.then = None
        pod["status"] = "deleted"
        with self.changed:
            self.changed.notify_all()

    def pods_of(self, account, project_id):
        """The account's pods, oldest first; kept between calls, since lists may be long."""
        key = (account, project_id)
        known = self.pods_listed.get(key)
        version = (self.pods_version, len(self.pods))
        if known is None or known[0] != version:
            found = [
                pod
                for pod in self.pods.values()
                if pod.account is account and project_id in (None, pod["project_id"])
            ]
            known = self.pods_listed[key] = (version, found)
        return known[1]


# ============================================================================================
# Answers, errors and routes: what a route function gets, returns and raises
# ============================================================================================

ROUTES = []
Route = namedtuple("Route", "method pattern function scope needs_token")


def route(method, pattern, scope=None, needs_token=True):
    """Declare the function that answers METHOD PATTERN; {name} in it stands for one segment."""
    expression = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern) + "$")

    def register(function):
        ROUTES.append(Route(method, expression, function, scope, needs_token))
        return function

    return register


class Answer:
    """What goes back: bytes with a length, or a stream of them in chunks."""

    def __init__(self, status=200, body=b"", headers=None, stream=None):
        self.status = status
        self.body = body
        self.headers = dict(headers or {})
        self.stream = stream


def json_answer(value, status=200, headers=None):
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Answer(status, body, dict({"Content-Type": "application/json"}, **(headers or {})))


class ApiError(Exception):
    """An error in the shape of Podstack's documentation."""

    def __init__(self, status, code, message, details=None, headers=None, **figures):
        super().__init__(message)
        error = {"code": code, "message": message}
        if details:
            error["details"] = [{"field": field, "message": text} for field, text in details]
        error.update(figures)
        self.answer = json_answer({"error": error}, status, headers)


class OAuthError(Exception):
    """An error in the shape of RFC 6749 §5.2."""

    def __init__(self, code, description, status=400):
        super().__init__(description)
        self.code = code
        self.description = description
        headers = dict(NO_STORE)
        body = {"error": code, "error_description": description}
        self.answer = json_answer(body, status, headers)


NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Request:
    """One request as it arrived."""

    def __init__(self, method, target, headers, body):
        self.method = method
        self.target = target
        path, _, query = target.partition("?")
        self.path = path
        self.query = urllib.parse.parse_qs(query, keep_blank_values=True)
        self.headers = headers
        self.body = body
        self.delay = 0
        self.status = None  # of the answer; None while there is none

    @property
    def json(self):
        return json.loads(self.body.decode("utf-8"))

    @property
    def form(self):
        return urllib.parse.parse_qs(self.body.decode("ascii", "replace"), keep_blank_values=True)

    def __repr__(self):
        return "<%s %s -> %s>" % (self.method, self.target, self.status)


class Call:
    """A request on its way through a route: the values of its path, and who asks."""

    def __init__(self, request, args, token):
        self.request = request
        self.args = args
        self.token = token
        self.account = token.account if token else None

    def value(self, name, default=None):
        """A query parameter that must not be doubled."""
        values = self.request.query.get(name, [default])
        if len(values) > 1:
            raise ApiError(400, "VALIDATION_ERROR", "Parameter %s is given twice" % name)
        return values[0]

    def number(self, name, default, least):
        """A whole number from the query."""
        text = self.value(name)
        if text is None:
            return default
        if not re.match(r"\d{1,9}$", text) or int(text) < least:
            problem = [(name, "must be a whole number from %s" % least)]
            raise ApiError(400, "VALIDATION_ERROR", "Invalid parameters", problem)
        return int(text)

    def body(self):
        """The JSON object that was sent; an empty body is an empty object."""
        if not self.request.body:
            return {}
        try:
            value = self.request.json
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ApiError(400, "BAD_REQUEST", "The body must be a JSON object")
        return value


def one_page(api, call, items, key="data", show=dict):
    """The page of a list that the query asks for (`page`, `limit`), in the documented shape."""
    page = call.number("page", 1, least=1)
    limit = min(call.number("limit", 20, least=1), 100)
    start = (page - 1) * limit
    shown = [show(item) for item in items[start : start + limit]]
    pagination = {
        "page": page,
        "limit": limit,
        "total": len(items),
        "pages": -(-len(items) // limit),
    }
    call.request.delay = api.page_delay
    return {key: shown, "pagination": pagination}


# ============================================================================================
# OAuth: metadata, the authorization code and device grants, refresh, revocation
# ============================================================================================

CODE_LIFETIME = 60
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: no vowels, nothing alike


class Grant:
    """One login: what was asked for and agreed to. All its tokens live and die together."""

    def __init__(self, client_id, scopes, resource, account=None, redirect_uri=None,
                 challenge=None, state=None, user_code=None, interval=None, last_poll=None,
                 expires=None):  # fmt: skip
        self.client_id, self.scopes, self.resource = client_id, scopes, resource
        self.account, self.expires = account, expires
        self.redirect_uri, self.challenge, self.state = redirect_uri, challenge, state
        self.user_code, self.interval, self.last_poll = user_code, interval, last_poll
        self.decision = None  # "approve" or "deny"
        self.spent = self.dead = False


class RefreshToken:
    def __init__(self, grant):
        self.grant = grant
        self.spent = False


def merged(published, changes):
    """Metadata with a test's changes over it; None takes a field out."""
    values = dict(published, **changes)
    return {key: value for key, value in values.items() if value is not None}


def single(form, name, required=True):
    """A parameter of an OAuth request, which must be there once (RFC 6749 §3.1)."""
    values = form.get(name, [])
    if len(values) > 1:
        raise OAuthError("invalid_request", "%s is given twice" % name)
    if not values or not values[0]:
        if required:
            raise OAuthError("invalid_request", "%s is missing" % name)
        return None
    return values[0]


def is_loopback_callback(uri):
    """RFC 8252 §7.3: any port of a loopback literal (or localhost), and our one path."""
    if re.search(r"[^\x21-\x7e]|\\", uri):
        return False
    try:
        parts = urllib.parse.urlsplit(uri)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and port != 0 and not (parts.query or parts.fragment)
    local = parts.hostname in ("127.0.0.1", "::1", "localhost") and "@" not in parts.netloc
    return bool(plain and local and parts.path == "/callback")


def s256(verifier):
    """The challenge of a verifier (RFC 7636 §4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Logins:
    """The authorization server's part of the sandbox."""

    def issuer(self):
        return self.url + self.issuer_path

    def authorization_metadata(self):
        """RFC 8414 §2, with RFC 9207 and RFC 8628 §4."""
        published = {
            "issuer": self.issuer(),
            "authorization_endpoint": self.url + "/oauth/authorize",
            "token_endpoint": self.url + "/oauth/token",
            "revocation_endpoint": self.url + "/oauth/revoke",
            "device_authorization_endpoint": (
                self.url + "/oauth/device_authorization" if self.device else None
            ),
            "scopes_supported": list(LOGIN_SCOPES),
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"]
            + ([DEVICE_GRANT] if self.device else []),
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        return merged(published, self.metadata)

    def protected_resource(self):
        """RFC 9728 §2."""
        published = {
            "resource": self.endpoint,
            "authorization_servers": [self.issuer()],
            "bearer_methods_supported": ["header"],
        }
        return merged(published, self.resource_metadata)

    def well_known(self, path):
        """The document published at a /.well-known/ path, None where there is none."""
        if not self.oauth:
            return None
        place = "/.well-known/" + self.metadata_name
        if path == "/.well-known/oauth-protected-resource" + self.prefix:
            return self.protected_resource()
        if path == place + self.issuer_path:
            return self.authorization_metadata()
        # OpenID Connect Discovery §4 puts it behind the issuer's path instead (RFC 8414 §5).
        if self.metadata_name == "openid-configuration" and path == self.issuer_path + place:
            return self.authorization_metadata()
        return None

    def check_client(self, client_id):
        if client_id not in self.clients:
            raise OAuthError("invalid_client", "Unknown client", 401)

    def check_resource(self, form, granted=None):
        """RFC 8707 §2: the resource is this API, the same in every request of a login."""
        wanted = single(form, "resource", required=False)
        expected = granted or self.protected_resource().get("resource")
        if wanted is None and not granted and not expected:
            return None
        if wanted is None:
            raise OAuthError("invalid_target", "resource is missing")
        if wanted.rstrip("/") != (expected or "").rstrip("/"):
            raise OAuthError("invalid_target", "resource is not this API")
        return wanted

    def wanted_scopes(self, form):
        """The scopes asked for that exist here; an unknown one is left out, not refused."""
        text = single(form, "scope", required=False)
        if text is None:
            return ["openid"]
        scopes = [scope for scope in text.split(" ") if scope in LOGIN_SCOPES]
        if not scopes:
            raise OAuthError("invalid_scope", "None of these scopes exists")
        return scopes

    def issue(self, grant, lifetime=None):
        """A token answer (RFC 6749 §5.1); a refresh token only with offline_access."""
        now = self.clock.now()
        lifetime = self.access_lifetime if lifetime is None else lifetime
        value = "psa_" + secrets.token_hex(24)
        self.tokens[value] = Token(
            value,
            grant.account,
            now,
            type="oauth",
            scopes=grant.scopes,
            expires=now + lifetime,
            client_id=grant.client_id,
            family=grant,
        )
        answer = {
            "access_token": value,
            "token_type": "Bearer",
            "expires_in": lifetime,
            "scope": " ".join(grant.scopes),
        }
        if "offline_access" in grant.scopes:
            answer["refresh_token"] = "psr_" + secrets.token_hex(24)
            self.refresh_tokens[answer["refresh_token"]] = RefreshToken(grant)
        return answer

    def kill(self, grant):
        """End every token of a login."""
        grant.dead = True
        for value in [key for key, token in self.tokens.items() if token.family is grant]:
            del self.tokens[value]

    def issue_oauth(self, email="user@example.com", expires_in=None, client_id="podstack-cli"):
        """A token answer as if somebody had just signed in."""
        with self.lock:
            account = self.account_of(email)
            resource = self.protected_resource().get("resource")
            grant = Grant(client_id, list(LOGIN_SCOPES), resource, account=account)
            return self.issue(grant, expires_in)


@route("GET", "/oauth/authorize", needs_token=False)
def authorize(api, call):
    """RFC 6749 §4.1.1 with RFC 7636: an unproven redirect_uri is never redirected to."""
    query = call.request.query
    try:
        client_id = single(query, "client_id")
        redirect_uri = single(query, "redirect_uri")
        if client_id not in api.clients:
            raise OAuthError("invalid_client", "Unknown client")
        if not is_loopback_callback(redirect_uri):
            raise OAuthError("invalid_request", "redirect_uri is not a loopback callback")
        state = single(query, "state", required=False)
    except OAuthError as error:
        return html_answer(message_page("This sign-in link is not valid", str(error)), 400)
    try:
        grant = requested_grant(api, query, client_id, redirect_uri, state)
    except OAuthError as error:
        reply = [("error", error.code), ("error_description", error.description)]
        return redirect_back(api, redirect_uri, state, reply)
    return html_answer(sign_in_page(api.start_visit(grant)))


def requested_grant(api, query, client_id, redirect_uri, state):
    """What an authorization request asks for, or the error to send back."""
    if single(query, "response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code")
    if single(query, "code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    challenge = single(query, "code_challenge")
    if not re.match(r"[A-Za-z0-9_-]{43}$", challenge):
        raise OAuthError("invalid_request", "code_challenge is no S256 challenge")
    prompts = (single(query, "prompt", required=False) or "").split(" ")
    if "none" in prompts:
        raise OAuthError("login_required", "Nobody is signed in")
    scopes = api.wanted_scopes(query)
    if "consent" not in prompts:  # OpenID Connect Core §11
        scopes = [scope for scope in scopes if scope != "offline_access"]
    return Grant(
        client_id,
        scopes,
        api.check_resource(query),
        redirect_uri=redirect_uri,
        challenge=challenge,
        state=state,
    )


def redirect_back(api, redirect_uri, state, reply):
    """To the callback, with `state` as it came and `iss` (RFC 9207)."""
    issuer = api.issuer() if api.answer_iss is True else api.answer_iss
    if state is not None:
        reply = reply + [("state", state)]
    if issuer:
        reply = reply + [("iss", issuer)]
    location = redirect_uri + "?" + urllib.parse.urlencode(reply)
    return Answer(303, b"", dict(NO_STORE, Location=location))  # 303: RFC 9700 §4.12


@route("POST", "/oauth/token", needs_token=False)
def token_endpoint(api, call):
    """RFC 6749 §3.2: one answer for each grant type."""
    form = checked_form(call)
    api.check_client(single(form, "client_id"))
    grant_type = single(form, "grant_type")
    grants = {
        "authorization_code": redeem_code,
        "refresh_token": redeem_refresh_token,
        DEVICE_GRANT: redeem_device_code,
    }
    if grant_type not in grants:
        raise OAuthError("unsupported_grant_type", "Not supported here")
    return json_answer(grants[grant_type](api, form), headers=NO_STORE)


def checked_form(call):
    kind = call.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "The body must be a form")
    return call.request.form


def redeem_code(api, form):
    """A code serves once; whoever brings it again ends what it gave (RFC 6749 §4.1.2)."""
    grant = api.codes.get(single(form, "code"))
    verifier = single(form, "code_verifier")
    if grant is None or grant.client_id != single(form, "client_id"):
        raise OAuthError("invalid_grant", "Unknown code")
    if grant.spent:
        api.kill(grant)
        raise OAuthError("invalid_grant", "This code was used before")
    grant.spent = True
    if api.clock.now() > grant.expires:
        raise OAuthError("invalid_grant", "This code has expired")
    if single(form, "redirect_uri") != grant.redirect_uri:
        raise OAuthError("invalid_grant", "redirect_uri is not the one of the request")
    shaped = re.match(r"[A-Za-z0-9._~-]{43,128}$", verifier)
    if not shaped or not hmac.compare_digest(s256(verifier), grant.challenge):
        raise OAuthError("invalid_grant", "code_verifier does not match")
    api.check_resource(form, grant.resource)
    return api.issue(grant)


def redeem_refresh_token(api, form):
    """Rotation with reuse detection (RFC 9700 §4.14)."""
    token = api.refresh_tokens.get(single(form, "refresh_token"))
    if token is None or token.grant.client_id != single(form, "client_id"):
        raise OAuthError("invalid_grant", "Unknown refresh token")
    if token.spent:
        api.reuses += 1
        api.kill(token.grant)
        raise OAuthError("invalid_grant", "This refresh token was used before")
    if token.grant.dead:
        raise OAuthError("invalid_grant", "This login has ended")
    api.check_resource(form, token.grant.resource)
    scope = single(form, "scope", required=False)
    if scope and not set(scope.split(" ")) <= set(token.grant.scopes):
        raise OAuthError("invalid_scope", "More than was granted")
    token.spent = True
    api.refreshes += 1
    return api.issue(token.grant)


@route("POST", "/oauth/device_authorization", needs_token=False)
def device_authorization(api, call):
    """RFC 8628 §3.1."""
    if not api.device:
        raise ApiError(404, "not_found", "Not found")
    form = checked_form(call)
    api.check_client(single(form, "client_id"))
    letters = "".join(secrets.choice(USER_CODE_LETTERS) for _ in range(8))
    user_code = letters[:4] + "-" + letters[4:]
    device_code = secrets.token_hex(24)
    now = api.clock.now()
    api.devices[device_code] = Grant(
        single(form, "client_id"),
        api.wanted_scopes(form),
        api.check_resource(form),
        user_code=user_code,
        interval=api.device_interval,
        last_poll=now,
        expires=now + api.device_lifetime,
    )
    page = api.url + "/device"
    answer = {
        "device_code": device_code,
        "user_code": user_code,
        "verification_uri": page,
        "verification_uri_complete": page + "?user_code=" + user_code,
        "expires_in": api.device_lifetime,
        "interval": api.device_interval,
    }
    return json_answer(answer, headers=NO_STORE)


def redeem_device_code(api, form):
    """RFC 8628 §3.5: slow_down adds five seconds for this and all later polls."""
    grant = api.devices.get(single(form, "device_code"))
    if grant is None or grant.client_id != single(form, "client_id"):
        raise OAuthError("invalid_grant", "Unknown device code")
    if grant.spent:
        api.kill(grant)
        raise OAuthError("invalid_grant", "This device code was used before")
    now = api.clock.now()
    if now > grant.expires:
        raise OAuthError("expired_token", "The code has expired")
    too_soon = now - grant.last_poll < grant.interval
    grant.last_poll = now
    if too_soon:
        grant.interval += 5
        raise OAuthError("slow_down", "Polled faster than every %s s" % (grant.interval - 5))
    if grant.decision is None:
        raise OAuthError("authorization_pending", "Nobody has decided yet")
    grant.spent = True
    if grant.decision == "deny":
        raise OAuthError("access_denied", "The request was denied")
    api.check_resource(form, grant.resource)
    return api.issue(grant)


@route("POST", "/oauth/revoke", needs_token=False)
def revoke(api, call):
    """RFC 7009: a refresh token ends the whole login; an unknown token is no error (§2.2)."""
    form = checked_form(call)
    client_id = single(form, "client_id")
    api.check_client(client_id)
    value = single(form, "token")
    refresh = api.refresh_tokens.get(value)
    access = api.tokens.get(value)
    if refresh and refresh.grant.client_id == client_id:
        api.kill(refresh.grant)
    elif access and access.client_id == client_id:
        del api.tokens[value]
    return Answer(200, b"", NO_STORE)


# ============================================================================================
# Pages: sign-in, consent, device code; plain HTML that needs no script
# ============================================================================================

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} - Podstack sandbox</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0; display: grid; place-items: center;
  min-height: 100vh; background: Canvas; color: CanvasText }}
main {{ width: 22rem; max-width: 90vw; padding: 2rem; border: 1px solid GrayText;
  border-radius: 10px }}
h1 {{ font-size: 1.25rem; margin: 0 0 1rem }}
label {{ display: block }}
input {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem;
  margin: .25rem 0 1rem }}
button {{ font: inherit; padding: .5rem 1.25rem; margin-right: .5rem }}
.problem {{ color: #c62828 }}
small {{ color: GrayText }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
<p><small>Podstack sandbox: a local server, no real account.</small></p>
</main>
</body>
</html>
"""

PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


def html_answer(text, status=200):
    return Answer(status, text.encode("utf-8"), PAGE_HEADERS)


def page(title, body):
    return PAGE.format(title=html.escape(title), body=body)


def problem_line(problem):
    return '<p class="problem" role="alert">%s</p>' % html.escape(problem) if problem else ""


def message_page(title, text):
    return page(title, "<p>%s</p>" % html.escape(text))


def sign_in_page(visit, problem=None):
    body = """{problem}<form method="post" action="/oauth/sign-in">
<input type="hidden" name="visit" value="{visit}">
<label for="email">E-mail address</label>
<input id="email" name="email" type="email" autocomplete="username" required autofocus>
<button type="submit">Sign in</button>
</form>
<p><small>Accounts here: {accounts}</small></p>"""
    accounts = ", ".join(account.email for account in ACCOUNTS)
    values = {"visit": visit, "accounts": accounts}
    escaped = {key: html.escape(value) for key, value in values.items()}
    return page("Sign in to Podstack", body.format(problem=problem_line(problem), **escaped))


def consent_page(visit, grant):
    body = """<p><b>{client}</b> asks to act for <b>{email}</b>.</p>
<p>It asks for: {scopes}</p>
<form method="post" action="/oauth/consent">
<input type="hidden" name="visit" value="{visit}">
<button type="submit" name="decision" value="approve">Approve</button>
<button type="submit" name="decision" value="deny">Deny</button>
</form>"""
    values = {
        "visit": visit,
        "client": grant.client_id,
        "email": grant.account.email,
        "scopes": ", ".join(grant.scopes),
    }
    escaped = {key: html.escape(value) for key, value in values.items()}
    return page("Allow access?", body.format(**escaped))


def device_page(user_code, problem=None):
    body = """{problem}<form method="post" action="/device">
<label for="user_code">Code shown on your device</label>
<input id="user_code" name="user_code" value="{code}" autocomplete="off" required autofocus>
<button type="submit">Continue</button>
</form>"""
    filled = body.format(problem=problem_line(problem), code=html.escape(user_code))
    return page("Connect a device", filled)


@route("POST", "/oauth/sign-in", needs_token=False)
def sign_in(api, call):
    form = checked_form(call)
    visit, grant = api.visit_of(form)
    try:
        grant.account = api.account_of(single(form, "email").strip())
    except LookupError:
        return html_answer(sign_in_page(visit, "There is no account with this address."), 401)
    return html_answer(consent_page(visit, grant))


@route("POST", "/oauth/consent", needs_token=False)
def consent(api, call):
    form = checked_form(call)
    visit, grant = api.visit_of(form)
    decision = single(form, "decision")
    if grant.account is None or decision not in ("approve", "deny"):
        raise OAuthError("invalid_request", "Sign in first, then approve or deny")
    del api.visits[visit]
    grant.decision = decision
    if grant.user_code:
        done = {"approve": "Your device is connected", "deny": "The request was denied"}
        return html_answer(message_page(done[decision], "You can close this page."))
    if decision == "deny":
        reply = [("error", "access_denied"), ("error_description", "The request was denied")]
        return redirect_back(api, grant.redirect_uri, grant.state, reply)
    code = secrets.token_hex(24)
    grant.expires = api.clock.now() + CODE_LIFETIME
    api.codes[code] = grant
    return redirect_back(api, grant.redirect_uri, grant.state, [("code", code)])


@route("GET", "/device", needs_token=False)
def show_device_page(api, call):
    return html_answer(device_page(call.value("user_code", "")))


@route("POST", "/device", needs_token=False)
def enter_device_code(api, call):
    typed = single(checked_form(call), "user_code")
    plain = re.sub(r"[^A-Z]", "", typed.upper())  # RFC 8628 §6.1: case and dash do not matter
    for grant in api.devices.values():
        waiting = grant.decision is None and api.clock.now() <= grant.expires
        if waiting and grant.user_code.replace("-", "") == plain:
            return html_answer(sign_in_page(api.start_visit(grant)))
    return html_answer(device_page(typed, "This code is not valid, or it has expired."), 400)


# ============================================================================================
# API routes: /v1 as api.md has it
# ============================================================================================


@route("GET", "/v1/auth/whoami")
def whoami(api, call):
    account = call.account
    return {
        "email": account.email,
        "account_id": account.id,
        "name": account.name,
        "token": call.token.shown(),
    }


@route("GET", "/v1/auth/token")
def show_token(api, call):
    return call.token.shown()


@route("DELETE", "/v1/auth/token")
def delete_token(api, call):
    del api.tokens[call.token.value]


@route("GET", "/v1/projects", scope="projects:read")
def list_projects(api, call):
    return one_page(api, call, api.projects_of(call.account), key="projects")


@route("POST", "/v1/projects", scope="projects:write")
def create_project(api, call):
    body = call.body()
    name = body.get("name")
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise ApiError(422, "VALIDATION_ERROR", "Invalid project", [("name", NAME_RULE)])
    if any(project["name"] == name for project in api.projects_of(call.account)):
        raise ApiError(409, "conflict", "A project named '%s' exists already" % name)
    project = api.add_project(call.account, name, body.get("description") or "")
    return json_answer(project, 201)


@route("GET", "/v1/projects/{id}", scope="projects:read")
def show_project(api, call):
    project = api.find_project(call.account, call.args["id"])
    if project is None:
        raise ApiError(404, "not_found", "Project not found")
    return project


@route("GET", "/v1/pods", scope="pods:read")
def list_pods(api, call):
    project = wanted_project(api, call, call.value("project_id"))
    status, name = call.value("status"), call.value("name")
    for pod in list(api.moving.values()):
        if pod.account is call.account and name in (None, pod["name"]):
            api.observe(pod)
    pods = api.pods_of(call.account, project["id"] if project else None)
    labels = [label.partition("=") for label in call.request.query.get("label", [])]
    if status and status not in POD_STATUSES:
        allowed = "must be one of " + ", ".join(POD_STATUSES)
        raise ApiError(400, "VALIDATION_ERROR", "Invalid parameters", [("status", allowed)])
    if name:
        pods = [pod for pod in pods if pod["name"] == name]
    if status:
        pods = [pod for pod in pods if pod["status"] == status]
    for key, _, value in labels:
        pods = [pod for pod in pods if pod["labels"].get(key) == value]
    return one_page(api, call, pods, show=api.show_pod)


def wanted_project(api, call, named):
    """The project that a pod call is about: by name or id, from the call or the header.

    One that the token cannot see is refused in the same words as one that does not exist.
    """
    wanted = named or call.request.headers.get("X-Project-ID")
    if not wanted:
        return None
    if not isinstance(wanted, str):
        raise ApiError(422, "VALIDATION_ERROR", "Invalid pod", [("project_id", "must be text")])
    project = api.find_project(call.account, wanted)
    if project is None:
        raise ApiError(403, "permission_denied", "No access to project '%s'" % wanted)
    return project


NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
NAME_RULE = "must be 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends"


def whole(least, most):
    """A check: a whole number in these bounds."""

    def check(value):
        good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return None if good else "must be a whole number from %s to %s" % (least, most)

    return check


def words(check_key=None):
    """A check: an object of texts."""

    def check(value):
        if not isinstance(value, dict):
            return "must be an object"
        if not all(isinstance(text, str) for text in value.values()):
            return "values must be text"
        if check_key and not all(re.match(check_key + r"\Z", key) for key in value):
            return "keys must match " + check_key
        return None

    return check


def check_text(value):
    return None if isinstance(value, str) and value.strip() else "is required"


def check_name(value):
    if not isinstance(value, str) or not value:
        return "is required"
    return None if NAME_PATTERN.match(value) else NAME_RULE


def check_gpu_type(value):
    known = [gpu["type"] for gpu in GPUS]
    return None if value in known else "must be one of " + ", ".join(known)


def check_ports(value):
    if not isinstance(value, list) or any(whole(1, 65535)(port) for port in value):
        return "must be whole numbers from 1 to 65535"
    return None if len(set(value)) == len(value) else "must not name a port twice"


def check_volumes(value):
    for volume in value if isinstance(value, list) else [None]:
        if not isinstance(volume, dict) or set(volume) != {"volume_id", "mount_path"}:
            return "must be a list of volume_id and mount_path"
        if not str(volume["mount_path"]).startswith("/"):
            return "mount_path must be absolute"
    return None


POD_CHECKS = {
    "name": check_name,
    "image": check_text,
    "template": check_text,
    "gpu_type": check_gpu_type,
    "gpu_count": whole(1, 8),
    "cpu": whole(1, 128),
    "memory": whole(1, 2048),
    "disk": whole(1, 16384),
    "ports": check_ports,
    "env": words("[A-Za-z_][A-Za-z0-9_]*"),
    "volumes": check_volumes,
    "command": check_text,
    "labels": words(),
    "project_id": check_text,
}


def pod_problems(body):
    """Every field that is wrong, with what it must be."""
    problems = [(key, "is not a field of a pod") for key in body if key not in POD_CHECKS]
    for field, check in POD_CHECKS.items():
        if field in body or field in ("name", "image"):
            problem = check(body.get(field))
            if problem:
                problems.append((field, problem))
    return problems


@route("POST", "/v1/pods", scope="pods:write")
def create_pod(api, call):
    body = call.body()
    problems = pod_problems(body)
    if problems:
        raise ApiError(422, "VALIDATION_ERROR", "Invalid pod", problems)
    project = wanted_project(api, call, body.pop("project_id", None))
    project = project or api.projects_of(call.account)[0]
    if any(pod["name"] == body["name"] for pod in api.pods_of(call.account, project["id"])):
        raise ApiError(409, "conflict", "A pod named '%(name)s' exists already" % body)
    charge(api, body)
    pod = api.new_pod(call.account, project["id"], body)
    api.enter(pod, "pending", then="failed" if "fail" in pod["image"] else "running")
    return json_answer(dict(pod), 201)


def charge(api, body):
    """402 where the wallet does not cover the first hour."""
    prices = {gpu["type"]: gpu["price_per_hour_cents"] for gpu in GPUS}
    price = prices.get(body.get("gpu_type"), CPU_PRICE_CENTS) * body.get("gpu_count", 1)
    if price > api.balance_cents:
        text = "Insufficient wallet balance: %.2f USD per hour needed, %.2f USD available"
        figures = {"required_cents": price, "balance_cents": api.balance_cents}
        message = text % (price / 100, api.balance_cents / 100)
        raise ApiError(402, "insufficient_balance", message, **figures)


def wanted_pod(api, call):
    """The pod of this path as of now, if it is the caller's and in the project of the header."""
    project = wanted_project(api, call, None)
    pod = api.pods.get(call.args["id"])
    if pod is not None and pod.account is call.account:
        api.observe(pod)
        if pod["id"] in api.pods and (project is None or pod["project_id"] == project["id"]):
            return pod
    raise ApiError(404, "not_found", "Pod not found")


@route("GET", "/v1/pods/{id}", scope="pods:read")
def show_pod(api, call):
    return api.show_pod(wanted_pod(api, call))


def moved(api, call, verb, allowed, status, then):
    """Put the pod of this path into another status, 409 where its present one forbids it."""
    pod = wanted_pod(api, call)
    if pod["status"] not in allowed:
        text = "Cannot %s pod '%s' while it is %s" % (verb, pod["name"], pod["status"])
        raise ApiError(409, "conflict", text)
    api.enter(pod, status, then=then)
    return dict(pod)


@route("POST", "/v1/pods/{id}/start", scope="pods:write")
def start_pod(api, call):
    return moved(api, call, "start", ("stopped", "failed"), "pending", "running")


@route("POST", "/v1/pods/{id}/stop", scope="pods:write")
def stop_pod(api, call):
    if call.body().get("force") is True:
        allowed = ("pending", "running", "stopping")
        return moved(api, call, "stop", allowed, "stopped", None)
    return moved(api, call, "stop", ("pending", "running"), "stopping", "stopped")


@route("POST", "/v1/pods/{id}/restart", scope="pods:write")
def restart_pod(api, call):
    return moved(api, call, "restart", ("running", "failed"), "pending", "running")


@route("DELETE", "/v1/pods/{id}", scope="pods:write")
def delete_pod(api, call):
    pod = wanted_pod(api, call)
    if pod["status"] == "running" and call.value("force") != "true":
        text = "Pod '%(name)s' is running; stop it first or use force" % pod
        raise ApiError(409, "conflict", text)
    if api.reads_until_gone:
        api.enter(pod, "stopping", then="gone", reads=api.reads_until_gone)
    else:
        api.forget_pod(pod)


@route("GET", "/v1/pods/{id}/logs", scope="pods:read")
def pod_logs(api, call):
    """Plain text; the log of a running pod grows by a line with every reading."""
    pod = wanted_pod(api, call)
    tail = call.number("tail", None, least=0)
    try:
        since = parse_time(call.value("since")) if call.value("since") else None
    except ValueError as error:
        problem = [("since", str(error))]
        raise ApiError(400, "VALIDATION_ERROR", "Invalid parameters", problem)
    if pod["status"] == "running":
        api.grow(pod)
    shown = [line for at, line in pod.log if since is None or at >= since]
    if tail is not None:
        shown = shown[len(shown) - tail :] if tail < len(shown) else shown
    text = "".join(line + "\n" for line in shown).encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if call.value("follow") != "true":
        return Answer(200, text, headers)
    return Answer(200, b"", headers, stream=api.follow(pod, text, len(pod.log)))


@route("GET", "/v1/pods/{id}/events", scope="pods:read")
def pod_events(api, call):
    return one_page(api, call, wanted_pod(api, call).events)


@route("GET", "/v1/pods/{id}/metrics", scope="pods:read")
def pod_metrics(api, call):
    pod = wanted_pod(api, call)
    busy = 1 if pod["status"] == "running" else 0
    gpus = [
        {"index": index, "utilization_percent": 87 * busy, "memory_used_gb": 41.5 * busy}
        for index in range(pod["gpu_count"])
    ]
    return {
        "pod_id": pod["id"],
        "collected_at": format_time(api.clock.now()),
        "cpu_percent": 23.5 * busy,
        "memory_used_gb": 6.2 * busy,
        "memory_total_gb": pod["memory"],
        "disk_used_gb": 11.4,
        "disk_total_gb": pod["disk"],
        "gpus": gpus,
    }


@route("GET", "/v1/billing/wallet", scope="billing:read")
def wallet(api, call):
    return {
        "balance_cents": api.balance_cents,
        "currency": "USD",
        "pending_charges_cents": 125,
        "last_updated": format_time(api.clock.now()),
    }


@route("GET", "/v1/gpus")
def list_gpus(api, call):
    return list(GPUS)


@route("GET", "/favicon.ico", needs_token=False)
def favicon(api, call):
    return Answer(204)


# ============================================================================================
# Trouble: what a test scripts for the next requests
# ============================================================================================


class Trouble:
    """One scripted misfortune and how often it has struck.

    With a status, a body or a redirect the request is not carried out; with only delay, headers,
    truncate or drip it is, and its true answer suffers. `drip` is the seconds from one byte to
    the next; `drip_head` makes it start at the status line.
    """

    def __init__(self, match="", method=None, times=1, status=None, headers=None, body=None,
                 delay=0, drop=False, truncate=False, drip=None, drip_head=False,
                 redirect=None):  # fmt: skip
        self.match, self.method, self.times, self.hits = match, method, times, 0
        self.status, self.headers, self.body = status, headers or {}, body
        self.delay, self.drop, self.truncate = delay, drop, truncate
        self.drip, self.drip_head, self.redirect = drip, drip_head, redirect

    def fits(self, request):
        if self.hits >= self.times or self.match not in request.target:
            return False
        return self.method in (None, request.method)

    def answer(self):
        """The scripted answer; None when the request is to be carried out."""
        if self.redirect is not None:
            return Answer(self.status or 302, b"", {"Location": self.redirect})
        if self.status is None and self.body is None:
            return None
        status = 200 if self.status is None else self.status
        if self.body is None:
            return ApiError(status, "scripted", "Scripted HTTP %s" % status).answer
        if isinstance(self.body, (bytes, str)):
            raw = self.body if isinstance(self.body, bytes) else self.body.encode("utf-8")
            kind = "text/html" if raw.lstrip()[:1] == b"<" else "text/plain"
            return Answer(status, raw, {"Content-Type": kind + "; charset=utf-8"})
        return json_answer(self.body, status)

    def __repr__(self):
        target = "%s %s" % (self.method or "any", self.match or "request")
        return "<trouble for %s: %s of %s times>" % (target, self.hits, self.times)


# ============================================================================================
# The server: connections, and the Sandbox that tests hold
# ============================================================================================


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection: read a request, let the sandbox answer, write it in one piece."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

    def serve(self):
        api = self.server.api
        if "Transfer-Encoding" in self.headers:
            self.send_error(411)
            return
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length)) if length.isdigit() else b""
        request = Request(self.command, self.path, self.headers, body)
        trouble = api.arrived(request)
        if trouble and trouble.delay:
            api.closing.wait(trouble.delay)
        if trouble and trouble.drop:
            self.close_connection = True
            return
        answer = trouble.answer() if trouble else None
        if answer is None:
            answer = api.answer(request)
        if request.delay:
            api.closing.wait(request.delay)
        request.status = answer.status
        if api.report:
            api.report(request)
        self.send(request, answer, trouble)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = serve

    def head(self, answer, extra):
        reason = http.client.responses.get(answer.status, "Unknown")
        headers = {
            "Server": "podstack-sandbox",
            "Date": email.utils.formatdate(self.server.api.clock.now(), usegmt=True),
            "X-Request-Id": "req-%06d" % next(self.server.api.request_numbers),
        }
        headers.update(answer.headers)
        if answer.stream is not None:
            headers["Transfer-Encoding"] = "chunked"
        elif answer.status not in (204, 304):
            headers["Content-Length"] = str(len(answer.body))
        for name, value in extra.items():
            for known in [key for key in headers if key.lower() == name.lower()]:
                del headers[known]
            headers[name] = value
        if self.close_connection:
            headers["Connection"] = "close"
        lines = ["HTTP/1.1 %s %s" % (answer.status, reason)]
        lines += ["%s: %s" % item for item in headers.items() if item[1] is not None]
        return "\r\n".join(lines + ["", ""]).encode("latin-1", "replace")

    def send(self, request, answer, trouble):
        body = b"" if request.method == "HEAD" else answer.body
        if trouble and (trouble.truncate or trouble.drip):
            self.close_connection = True
        head = self.head(answer, trouble.headers if trouble else {})
        if trouble and trouble.truncate:
            body = body[: len(body) // 2]
        if trouble and trouble.drip:
            self.drip(head, body, trouble)
        elif answer.stream is not None:
            self.send_stream(head, answer.stream)
        else:
            self.wfile.write(head + body)

    def drip(self, head, body, trouble):
        if not trouble.drip_head:
            self.wfile.write(head)
            head = b""
        for byte in head + body:
            if self.server.api.closing.wait(trouble.drip):
                return
            self.wfile.write(bytes([byte]))

    def send_stream(self, head, stream):
        self.wfile.write(head)
        for piece in stream:
            if piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        pass


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection; hundreds may come at once."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, address, api):
        self.api = api
        self.open = set()
        super().__init__(address, Handler)

    def process_request(self, request, client_address):
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.open.discard(request)
        super().shutdown_request(request)


class Sandbox(PodLife, Logins):
    """The whole server, ready when constructed; `with Sandbox() as api:` closes it."""

    def __init__(self, port=0, now=None, access_lifetime=3600, page_delay=0):
        self.clock = Clock(now)
        self.access_lifetime = access_lifetime
        self.page_delay = page_delay
        self.settings()
        self.tables()
        self.lock = threading.RLock()
        self.changed = threading.Condition()
        self.closing = threading.Event()
        self.listener = Listener(("127.0.0.1", port), self)
        self.url = "http://127.0.0.1:%s" % self.listener.server_address[1]
        self.fill()
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def settings(self):
        """What a test may set at any time."""
        self.oauth = True
        self.device = True
        self.metadata = {}
        self.resource_metadata = {}
        self.metadata_name = "oauth-authorization-server"  # or openid-configuration
        self.issuer_path = ""
        self.prefix = ""  # a path under which the API answers
        self.answer_iss = True  # or False, or another issuer's name
        self.clients = {"podstack-cli"}
        self.device_interval = 5
        self.device_lifetime = 600
        self.reads_until_running = 1
        self.seconds_until_running = None
        self.reads_until_gone = 0
        self.log_seconds = 1.0  # a followed log grows by a line this often; None: never
        self.ssh_command = "ssh -p 22022 root@127.0.0.1"
        self.balance_cents = 2500
        self.report = None  # called with each request once it is answered

    def tables(self):
        self.requests = []
        self.unknown = []
        self.trouble = []
        self.tokens = {}
        self.projects = {}
        self.pods = {}
        self.moving = {}  # the pods whose status passes by itself
        self.pods_version = 0
        self.pods_listed = {}
        self.refresh_tokens = {}
        self.codes = {}
        self.devices = {}
        self.visits = {}
        self.refreshes = 0
        self.reuses = 0
        self.numbers = itertools.count(1)
        self.request_numbers = itertools.count(1)

    def fill(self):
        """The accounts' first projects, and the tokens to try."""
        user, other = ACCOUNTS
        now = self.clock.now()
        for account in ACCOUNTS:
            for name in PROJECT_NAMES:
                self.add_project(account, name, "")
        month = 30 * 86400
        for value, account, known in (
            ("psk_sandbox_user", user, {"name": "sandbox user"}),
            ("psk_sandbox_readonly", user, {"name": "sandbox readonly", "scopes": READ_SCOPES}),
            ("psk_sandbox_expired", user, {"name": "sandbox expired", "expires": now - 86400}),
            ("psk_sandbox_other", other, {"name": "sandbox other"}),
        ):
            self.tokens[value] = Token(value, account, now - month, **known)

    # ---- accounts and projects

    def account_of(self, email):
        for account in ACCOUNTS:
            if account.email == email.lower():
                return account
        raise LookupError("no account %r" % email)

    def add_project(self, account, name, description):
        fields = {
            "id": "proj-%08x" % next(self.numbers),
            "name": name,
            "description": description,
            "created_at": format_time(self.clock.now()),
        }
        project = self.projects[fields["id"]] = Project(account, fields)
        return project

    def projects_of(self, account):
        return [project for project in self.projects.values() if project.account is account]

    def find_project(self, account, named):
        for project in self.projects_of(account):
            if named in (project["id"], project["name"]):
                return project
        return None

    def add_pods(self, n, **fields):
        """Make n running pods at once; `email` and `project` say whose. Gives them back."""
        with self.lock:
            account = self.account_of(fields.pop("email", "user@example.com"))
            project = self.find_project(account, fields.pop("project", PROJECT_NAMES[0]))
            fields.setdefault("image", "myimage:latest")
            given = fields.pop("name", None)
            first = len(self.pods) + 1
            pods = []
            for number in range(first, first + n):
                name = "worker-%06d" % number if given is None else given
                pods.append(self.new_pod(account, project["id"], dict(fields, name=name)))
            return pods

    # ---- logs

    def grow(self, pod):
        self.log(pod, "step %s" % len(pod.log))

    def follow(self, pod, text, seen):
        """The log so far, then each new line, until the pod no longer runs."""
        yield text
        while not self.closing.is_set():
            with self.changed:
                if len(pod.log) == seen and pod["status"] in ("pending", "running"):
                    self.changed.wait(self.log_seconds)
                lines = [line for _, line in pod.log[seen:]]
                seen += len(lines)
            if lines:
                yield "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
                continue
            with self.lock:
                self.observe(pod)
                if pod["status"] == "running":
                    self.grow(pod)
                elif pod["status"] != "pending":
                    return

    # ---- visits: a person on their way through the pages

    def start_visit(self, grant):
        visit = secrets.token_hex(16)
        self.visits[visit] = grant
        return visit

    def visit_of(self, form):
        visit = single(form, "visit")
        if visit not in self.visits:
            raise OAuthError("invalid_request", "This sign-in is over; start again")
        return visit, self.visits[visit]

    # ---- requests

    def arrived(self, request):
        """Take note of a request; the trouble scripted for it, if any."""
        with self.lock:
            self.requests.append(request)
            for trouble in self.trouble:
                if trouble.fits(request):
                    trouble.hits += 1
                    return trouble
        return None

    def answer(self, request):
        try:
            with self.lock:
                value = self.carry_out(request)
        except (ApiError, OAuthError) as error:
            return error.answer
        except Exception:  # noqa: BLE001 a fault of the sandbox must not look like a hang
            traceback.print_exc()
            return ApiError(500, "sandbox_bug", "The sandbox itself failed").answer
        if value is None:
            return Answer(204)
        return value if isinstance(value, Answer) else json_answer(value)

    def carry_out(self, request):
        """Find the route, check the token, do the thing."""
        path = request.path
        if "/.well-known/" in path:
            document = self.well_known(path) if request.method == "GET" else None
            if document is None:
                raise ApiError(404, "not_found", "Not found")
            return document
        if path.startswith(self.prefix + "/v1/"):
            path = path[len(self.prefix) :]
        for known in ROUTES:
            match = known.pattern.match(path)
            if match and known.method == request.method:
                token = self.checked_token(request, known.scope) if known.needs_token else None
                args = {key: urllib.parse.unquote(text) for key, text in match.groupdict().items()}
                return known.function(self, Call(request, args, token))
        self.unknown.append(request)
        raise ApiError(501, "not_implemented", "No such route in the sandbox")

    def checked_token(self, request, scope):
        """The token of the Authorization header (RFC 6750 §2.1), if it may do this."""
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        token = self.tokens.get(value.strip()) if scheme.lower() == "bearer" else None
        challenge = {"WWW-Authenticate": "Bearer"}
        if self.oauth:
            place = self.url + "/.well-known/oauth-protected-resource" + self.prefix
            challenge = {"WWW-Authenticate": 'Bearer resource_metadata="%s"' % place}
        if token is None:
            raise ApiError(401, "invalid_token", "The token is not valid", headers=challenge)
        now = self.clock.now()
        if token.expires is not None and now >= token.expires:
            raise ApiError(401, "token_expired", "The token has expired", headers=challenge)
        token.last_used = now
        if not token.allows(scope):
            text = "The token lacks the scope %s" % scope
            raise ApiError(403, "permission_denied", text, required_scope=scope)
        return token

    # ---- for tests

    @property
    def endpoint(self):
        return self.url + self.prefix

    def calls(self, method=None, path_prefix=""):
        with self.lock:
            return [
                request
                for request in self.requests
                if method in (None, request.method) and request.path.startswith(path_prefix)
            ]

    def next(self, match="", **what):
        """Script trouble (see Trouble) for the next requests whose target contains `match`."""
        trouble = Trouble(match, **what)
        with self.lock:
            self.trouble.append(trouble)
        return trouble

    def unused(self):
        """Scripted trouble that has not happened as often as it was scripted to."""
        forever = float("inf")
        return [
            trouble
            for trouble in self.trouble
            if trouble.hits < (1 if trouble.times == forever else trouble.times)
        ]

    def accept(self):
        while not self.closing.is_set():
            self.listener.handle_request()

    def close(self):
        """Stop at once: the listener, and every connection that is still open."""
        if self.closing.is_set():
            return
        self.closing.set()
        with self.changed:
            self.changed.notify_all()
        with contextlib.suppress(OSError):  # wakes accept(), which has no time limit
            socket.create_connection(self.listener.server_address, 1).close()
        self.thread.join(5)
        self.listener.server_close()
        for connection in list(self.listener.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# ============================================================================================
# The person: fills in the pages as somebody with a browser would
# ============================================================================================

Page = namedtuple("Page", "status text")


class FormReader(html.parser.HTMLParser):
    """The first form of a page: its address, its fields and its buttons."""

    def __init__(self, text):
        super().__init__()
        self.action = None
        self.fields = {}
        self.buttons = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = attrs["action"]
        if tag == "input" and "name" in attrs:
            self.fields[attrs["name"]] = attrs.get("value") or ""
        if tag == "button" and "name" in attrs:
            self.buttons.append((attrs["name"], attrs["value"]))


class Person:
    """Stands in for the one who signs in: says who they are, then approves or denies."""

    def __init__(self, email="user@example.com", approve=True):
        self.email = email
        self.decision = "approve" if approve else "deny"
        # Loopback only: a proxy in the environment is none of our business.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def visit(self, url):
        """Walk from an authorization URL to the page that the callback shows."""
        return self.walk(*self.get(url))

    def enter(self, verification_uri, user_code):
        """Type a code at the device page and decide there."""
        return self.walk(*self.get(verification_uri), user_code=user_code)

    def walk(self, url, shown, user_code=None):
        typed = {"email": self.email, "user_code": user_code}
        for _ in range(4):
            form = FormReader(shown.text)
            known = {"email", "user_code"} & set(form.fields)
            if form.action is None or shown.status >= 400 or not (known or form.buttons):
                return shown
            answers = {name: value for name, value in typed.items() if value and name in known}
            if form.buttons:
                answers[form.buttons[0][0]] = self.decision
            target = urllib.parse.urljoin(url, form.action)
            url, shown = self.get(target, dict(form.fields, **answers))
        return shown

    def get(self, url, form=None):
        """Where a request ended up, and the page there."""
        data = None if form is None else urllib.parse.urlencode(form).encode("ascii")
        try:
            answer = self.opener.open(url, data, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read().decode("utf-8", "replace")
            return answer.geturl(), Page(answer.getcode(), text)


# ============================================================================================
# Surroundings: a temporary home, and a PATH on which `podstack` is this checkout
# ============================================================================================


class Surroundings:
    """A home of its own for commands that talk to a sandbox; nothing of the person's is used."""

    def __init__(self, api, own_browser=False):
        self.home = tempfile.mkdtemp(prefix="podstack-sandbox-")
        self.config = os.path.join(self.home, ".podstack", "config.yaml")
        programs = os.path.join(self.home, "bin")
        os.mkdir(programs)
        self.podstack = make_podstack(programs)
        env = {key: value for key, value in os.environ.items() if not key.startswith("PODSTACK_")}
        env["HOME"] = env["USERPROFILE"] = self.home
        env["PATH"] = programs + os.pathsep + env.get("PATH", os.defpath)
        env["PODSTACK_API_ENDPOINT"] = api.url
        env["PODSTACK_STORAGE"] = "file"
        env["BROWSER"] = browser_command("open" if own_browser else "person")
        env["SANDBOX_OUTER_HOME"] = os.path.expanduser("~")
        self.env = env

    def close(self):
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def make_podstack(folder):
    """A small program `podstack` that runs this checkout with the present interpreter."""
    words = [sys.executable, os.path.join(CHECKOUT, "podstack.py")]
    name, text = "podstack", '#!/bin/sh\nexec %s "$@"\n' % " ".join(map(shlex.quote, words))
    if os.name == "nt":
        name, text = "podstack.cmd", '@"%s" "%s" %%*\r\n' % tuple(words)
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)
    return path


def browser_command(mode):
    """A value for BROWSER that runs this file in MODE; forward slashes suit every splitter."""
    words = [word.replace(os.sep, "/") for word in (sys.executable, os.path.abspath(__file__))]
    return " ".join(map(shlex.quote, words)) + " %s %%s" % mode


# ============================================================================================
# The tour: the authentication guide from top to bottom, each step held to what the guide says
# ============================================================================================

GUIDE = os.path.join(HERE, "authentication-guide.txt")
GUIDE_DATE = "2024-12-31T00:00:00Z"
TOUR_START = "2024-12-01T00:00:00Z"
USER_TOKEN = "psk_sandbox_user"


class Guide:
    """The guide's text as data: what it has one type, and what it says one then sees."""

    TYPED = re.compile(r"(?:^|[ '])((?:podstack (?:--\w+ \w+ )?[a-z]|export \w+=|curl )[^']*)")

    def __init__(self, text):
        self.lines = text.splitlines()
        typed = [self.TYPED.search(line) for line in self.lines]
        self.commands = [match.group(1).strip() if match else None for match in typed]
        self.outputs = {}  # what a command prints, as [(number of the line, the line)]
        self.solutions = {}  # an error's solution: its words, and the command (None: there is none)
        for number, line in enumerate(self.lines):
            if line == "Output:":
                self.outputs[self.commands[number - 1]] = self.block(number + 1)
            if line.startswith("Error: "):
                words = self.lines[number + 1].replace("Solution: ", "", 1)
                self.solutions[line] = (words, self.commands[number + 2])

    def block(self, start):
        """The lines from `start` up to the next command or line that introduces something."""
        end = start
        while end < len(self.lines) and not self.commands[end] and self.lines[end][-1:] != ":":
            end += 1
        return list(enumerate(self.lines))[start:end]

    def printed(self):
        """Every line that the guide shows as printed by the program."""
        blocks = [line for block in self.outputs.values() for _, line in block]
        return blocks + [line for line in self.lines if line.startswith(("Error: ", "Solution: "))]

    def sample(self, first, last):
        """A config sample, from one line to another, with the indentation that it has on screen."""
        start = self.lines.index(first)
        text, depth = "", 0
        for line in self.lines[start : self.lines.index(last, start) + 1]:
            if line in ("auth:", "defaults:", "profiles:"):
                depth = 0
            elif line.endswith(":"):
                depth = 1
            text += "  " * depth + line + "\n"
            depth += line.endswith(":")
        return text


Finished = namedtuple("Finished", "code out err")

# A keyring of the tour's own: a new D-Bus session with a new password, both gone at its end.
KEYRING_PROGRAMS = ("dbus-run-session", "gnome-keyring-daemon", "secret-tool")
KEYRING_SESSION = """exec 3>&2 2>/dev/null dbus-run-session -- sh -c '
printf secret | gnome-keyring-daemon --unlock --components=secrets --daemonize >/dev/null
exec "$@" 2>&3 3>&-' sh "$@"
"""
KEYRING_PROOF = "printf x | secret-tool store --label=x x y && secret-tool lookup x y"


class Tour:
    """Runs the guide's commands and keeps count of what was run and compared."""

    def __init__(self, guide, api, work, place, own_browser=False):
        self.guide = guide
        self.api = api
        self.work = work  # the guide's second service, api.work.podstack.ai
        self.place = place
        self.own_browser = own_browser
        self.substitutes = {
            "your_api_token": USER_TOKEN,
            "YOUR_API_TOKEN": USER_TOKEN,
            "$PODSTACK_TOKEN": USER_TOKEN,
            "${{ secrets.PODSTACK_API_TOKEN }}": USER_TOKEN,
            "personal_token": USER_TOKEN,
            "work_token": "psk_sandbox_other",
            "https://api.work.podstack.ai": work.url,
        }
        self.walked = set()  # the guide's commands that were run, or left out for a reason
        self.compared = []  # the guide's lines that something printed was held to
        self.failures = []

    # ---- showing, running, comparing

    def title(self, text):
        print("\n== %s\n" % text)

    def say(self, text):
        print("# " + text)

    def check(self, holds, expected):
        if not holds:
            print("FAILED: expected " + expected)
            self.failures.append(expected)

    def substituted(self, text):
        """The guide's text with real secrets and addresses in it; nothing else is changed."""
        for name, value in self.substitutes.items():
            text = text.replace(name, value)
        return text

    def leave_out(self, command, why):
        self.walked.add(command)
        self.say("%s: left out, %s" % (command, why))

    def export(self, command):
        """Do an `export NAME=VALUE`, as the guide has it or with a value of ours."""
        self.walked.add(command)
        command = self.substituted(command)
        print("$ " + command)
        name, _, value = command.partition(" ")[2].partition("=")
        self.place.env[name] = value

    def unset(self, name):
        print("$ unset " + name)
        del self.place.env[name]

    def run(self, command, code=0, env=None, within=()):
        """Run one of the guide's commands; where the guide prints its output, that must be it."""
        self.walked.add(command)
        typed = self.substituted(command)
        print(
            "$ " + " ".join(["%s=%s" % item for item in (env or {}).items()] + [typed]), flush=True
        )
        done = self.start(shlex.split(typed)[1:], env, within)
        sys.stdout.write(done.err + done.out)
        self.check(done.code == code, "exit code %s of '%s', not %s" % (code, command, done.code))
        if command in self.guide.outputs and code == 0:
            lines = [line for _, line in self.guide.outputs[command]]
            self.prints(done, "".join(line + "\n" for line in lines))
            self.compared += lines
        return done

    def start(self, words, env=None, within=()):
        """Run podstack to its end. Where the person signs in, what it says is shown at once."""
        by_hand = self.own_browser and not within and words == ["auth", "login"]
        child = subprocess.Popen(
            list(within) + [self.place.podstack] + words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if by_hand else subprocess.PIPE,
            env=dict(self.place.env, **(env or {})),
            cwd=self.place.home,
        )
        try:
            out, err = child.communicate(timeout=600 if by_hand else 60)
        finally:
            child.kill()
            child.wait()
        return Finished(child.returncode, text_of(out), text_of(err))

    def prints(self, done, text):
        """The command's answer must be this, verbatim."""
        self.check(done.out == text, "%r on standard output" % text)

    def fails(self, error, command, code, token):
        """The command must fail with this error of the guide and name the guide's solution."""
        words, solution = self.guide.solutions[error]
        done = self.run(command, code, env={"PODSTACK_API_TOKEN": token})
        lines = done.err.splitlines() + ["", ""]
        self.check(done.out == "", "nothing on standard output")
        self.check(lines[0] == error, "%r as the first line" % error)
        self.check(lines[1].startswith(words), "%r as the second line" % words)
        self.check((solution or "") in lines[1], "%r in the second line" % solution)
        self.compared += [error, "Solution: " + words]

    def token(self):
        """The token in use, which is no sight for a screen."""
        return self.start(["auth", "token"]).out.strip()

    def stored(self):
        try:
            with open(self.place.config, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def store(self, first, last):
        """Put a config sample of the guide in place; its general part names this server."""
        text = self.substituted(self.guide.sample(first, last))
        text += "api:\n  endpoint: %s\n" % self.api.url
        print("# ~/.podstack/config.yaml:")
        print("".join("  " + line + "\n" for line in text.splitlines()), end="")
        os.makedirs(os.path.dirname(self.place.config), mode=0o700, exist_ok=True)
        with open(self.place.config, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.place.config, 0o600)

    # ---- the guide's chapters

    def login_methods(self):
        self.title("Login Methods")
        if self.own_browser:
            self.say("Your browser opens; sign in as user@example.com.")
        self.run("podstack auth login")
        visits = self.api.calls("POST", "/oauth/consent")
        self.check(len(visits) == 1, "one visit to the consent page")
        self.check(" psa_" in self.stored(), "the login in the config file")
        if os.name == "posix":
            mode = os.stat(self.place.config).st_mode & 0o777
            self.check(mode == 0o600, "mode 0600 of the config file")
        self.run("podstack auth status")
        self.run("podstack auth login --token YOUR_API_TOKEN")
        self.check(USER_TOKEN in self.stored(), "the token in the config file")
        self.run("podstack auth logout")
        self.export("export PODSTACK_API_TOKEN=your_api_token")

    def verify_authentication(self):
        self.title("Verify Authentication")
        self.run("podstack auth status")
        self.prints(self.run("podstack auth whoami"), "user@example.com\n")
        self.unset("PODSTACK_API_TOKEN")

    def configuration_file(self):
        self.title("Configuration File")
        self.store("auth:", "output: table")
        self.run("podstack auth status")
        self.prints(self.run("podstack project current"), "my-project\n")

    def multiple_profiles(self):
        self.title("Multiple Profiles")
        self.unset("PODSTACK_API_ENDPOINT")
        self.store("profiles:", "api_endpoint: https://api.work.podstack.ai")
        self.run("podstack auth status")
        self.prints(self.run("podstack project current"), "personal-project\n")
        self.prints(self.run("podstack --profile work auth whoami"), "other@example.com\n")
        asked = len(self.api.requests)
        self.run("podstack --profile work pod list")
        listed = self.work.calls("GET", "/v1/pods")
        projects = [request.headers.get("X-Project-ID") for request in listed]
        self.check(projects == ["work-project"], "the pods of work-project asked for")
        self.check(len(self.api.requests) == asked, "nothing sent to the other profile's service")
        self.run("podstack config set-profile work")
        self.prints(self.run("podstack auth whoami"), "other@example.com\n")
        self.prints(self.run("podstack project current"), "work-project\n")
        self.run("podstack config set-profile default")
        self.export("export PODSTACK_API_ENDPOINT=" + self.api.url)

    def project_context(self):
        self.title("Project Context")
        self.run("podstack project use my-project")
        self.prints(self.run("podstack project current"), "my-project\n")
        self.run("podstack project use personal-project")
        self.export("export PODSTACK_PROJECT=my-project")
        self.prints(self.run("podstack project current"), "my-project\n")
        self.unset("PODSTACK_PROJECT")

    def logout(self):
        self.title("Logout")
        done = self.run("podstack auth logout")
        self.prints(done, "")
        self.check(USER_TOKEN not in self.stored(), "the token gone from the config file")
        self.check("project: personal-project" in self.stored(), "the project kept")
        done = self.run("podstack auth status", code=4)
        self.check(done.err.startswith("Error: Not authenticated\n"), "'Error: Not authenticated'")

    def token_management(self):
        self.title("Token Management")
        self.run("podstack auth login")
        done = self.run("podstack auth token-info")
        self.check("2024-12-31" in done.out, "the day on which the token expires")
        before = self.token()
        self.check(before not in done.out, "no token in token-info")
        self.run("podstack auth refresh")
        self.check(self.api.refreshes == 1, "one refresh at the server")
        after = self.token()
        self.check(after != before and after in self.api.tokens, "another valid token")
        self.run("podstack auth status")
        self.say("Without a terminal to ask on, ending a token needs a word beforehand:")
        self.run("podstack config set cli.confirm false")
        self.run("podstack auth revoke")
        self.check(after not in self.api.tokens, "the token refused by the server from now on")
        self.run("podstack auth whoami", code=4)

    def continuous_integration(self):
        self.title("CI/CD Integration")
        create = "podstack pod create --name ci-pod --image myimage:latest"
        self.say("GitHub Actions")
        self.leave_out(
            "curl -sSL https://get.podstack.ai/cli | bash", "podstack is this checkout here"
        )
        self.run("podstack auth login --token ${{ secrets.PODSTACK_API_TOKEN }}")
        self.run(create)
        done = self.run("podstack pod list")
        self.check("ci-pod" in done.out, "ci-pod in the list")
        self.run("podstack pod delete ci-pod --force")
        self.run("podstack auth logout")
        for system, token in (("GitLab CI", "$PODSTACK_TOKEN"), ("Jenkins", "your_api_token")):
            self.say(system)
            self.export("export PODSTACK_API_TOKEN=" + token)
            self.run(create)
            self.run("podstack pod delete ci-pod --force")
            self.unset("PODSTACK_API_TOKEN")

    def secure_token_storage(self):
        self.title("Secure Token Storage")
        command = "podstack auth login --use-keyring"
        if sys.platform == "darwin":
            return self.leave_out(command, "it would write into your own Keychain")
        outside = [] if os.name == "nt" else self.without_desktop()
        inside = outside + ["sh", "-c", KEYRING_SESSION, "sh"]
        if self.has_keyring(inside):
            self.run(command, within=inside)
            self.check("storage: keyring" in self.stored(), "the keyring as the place of the login")
            self.run("podstack auth status", within=inside)
            self.run("podstack auth logout", within=inside)
        else:
            self.say("There is no keyring here, and this must not fall back to plain text:")
            done = self.run(command, code=1, within=outside)
            self.check(done.err.startswith("Error: "), "an error")
            self.check("--no-keyring" in done.err, "an error that names --no-keyring")
        self.check("psa_" not in self.stored(), "no token in the config file")

    def without_desktop(self):
        """What runs a command apart from the person's session, its keyring and its browser."""
        runtime = os.path.join(self.place.home, "run")
        os.mkdir(runtime, 0o700)
        own = [name for name in os.environ if name.startswith(("DBUS_", "XDG_"))]
        words = ["env"]
        for name in own + ["DISPLAY", "WAYLAND_DISPLAY"]:
            words += ["-u", name]
        return words + ["XDG_RUNTIME_DIR=" + runtime, "BROWSER=" + browser_command("person")]

    def has_keyring(self, session):
        """Whether a keyring can be had here at all: made in one session, unlocked in the next."""
        path = self.place.env["PATH"]
        if not all(shutil.which(program, path=path) for program in KEYRING_PROGRAMS):
            return False
        if len(self.place.home) > 80:  # the path of a socket in it ends at 107 bytes
            return False
        proof = session + ["sh", "-c", KEYRING_PROOF]
        null = subprocess.DEVNULL
        try:
            for _ in range(2):
                subprocess.check_call(
                    proof, env=self.place.env, stdin=null, stdout=null, stderr=null, timeout=60
                )
        except (subprocess.SubprocessError, OSError):
            return False
        return True

    def troubleshooting(self):
        self.title("Troubleshooting")
        create = "podstack pod create --name ci-pod --image myimage:latest"
        status = "podstack auth status"
        for error, command, code, token in (
            ("Error: Token expired", status, 4, "psk_sandbox_expired"),
            ("Error: Invalid authentication token", status, 4, "psk_sandbox_unknown"),
            ("Error: Permission denied for resource", create, 5, "psk_sandbox_readonly"),
        ):
            self.fails(error, command, code, token)
        self.run("podstack auth login")
        self.run("podstack auth status")
        done = self.run("podstack project list", env={"PODSTACK_API_TOKEN": "psk_sandbox_readonly"})
        self.check(all(name in done.out for name in PROJECT_NAMES), "the projects")

    def walk(self):
        """Every chapter; True when each step did what the guide says and none was forgotten."""
        for chapter in (
            self.login_methods,
            self.verify_authentication,
            self.configuration_file,
            self.multiple_profiles,
            self.project_context,
            self.logout,
            self.token_management,
            self.continuous_integration,
            self.secure_token_storage,
            self.troubleshooting,
        ):
            chapter()
        self.title("Result")
        for command in sorted(set(filter(None, self.guide.commands)) - self.walked):
            self.check(False, "the guide's command to be run: " + command)
        for line in self.guide.printed():
            self.check(line in self.compared, "the guide's output to be compared: " + line)
        unknown = [repr(request) for api in (self.api, self.work) for request in api.unknown]
        self.check(not unknown, "only requests of the API, not " + ", ".join(unknown))
        if self.failures:
            print("%s steps did not do what the guide says." % len(self.failures))
        else:
            print("Every step did what the guide says.")
        return not self.failures


def text_of(raw):
    return (raw or b"").decode("utf-8", "replace").replace("\r\n", "\n")


def tour(guide_path=GUIDE, own_browser=False):
    """The whole tour; on a terminal it ends with a shell for the curious."""
    with open(guide_path, encoding="utf-8") as file:
        guide = Guide(file.read())
    lasting = parse_time(GUIDE_DATE) - parse_time(TOUR_START)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(Sandbox(now=TOUR_START, access_lifetime=int(lasting)))
        work = stack.enter_context(Sandbox(now=TOUR_START))
        place = stack.enter_context(Surroundings(api, own_browser))
        api.tokens[USER_TOKEN].expires = parse_time(GUIDE_DATE)
        print("A local Podstack answers at %s, where it is %s." % (api.url, TOUR_START))
        good = Tour(guide, api, work, place, own_browser).walk()
        if sys.stdin.isatty() and sys.stdout.isatty():
            offer_shell(place.env)
    return 0 if good else 1


def offer_shell(env):
    try:
        wanted = input("\nA shell in which podstack is this sandbox's? [y/N] ")
    except (EOFError, KeyboardInterrupt):
        return
    if wanted.strip().lower() in ("y", "yes"):
        usual = "cmd.exe" if os.name == "nt" else "/bin/sh"
        subprocess.call([os.environ.get("SHELL") or os.environ.get("COMSPEC") or usual], env=env)


# ============================================================================================
# Command line
# ============================================================================================


def serve(port, now):
    """The server alone, with a line for each request, until Ctrl-C."""
    try:
        api = Sandbox(port=port, now=now)
    except OSError as error:
        print("sandbox.py: port %d: %s" % (port, error.strerror), file=sys.stderr)
        return 1
    with api, contextlib.suppress(KeyboardInterrupt):
        api.report = lambda seen: print(seen.method, seen.target, seen.status, flush=True)
        print("export PODSTACK_API_ENDPOINT=" + api.url)
        print("export PODSTACK_STORAGE=file")
        for token in list(api.tokens.values()):
            print("# podstack auth login --token %s   (%s)" % (token.value, token.account.email))
        print(flush=True)
        threading.Event().wait()
    return 0


def run_command(command, now):
    """COMMAND with a fresh home and server; its exit code."""
    with Sandbox(now=now) as api, Surroundings(api) as place:
        program = shutil.which(command[0], path=place.env["PATH"])
        if program is None:
            print("sandbox.py: %s: not found" % command[0], file=sys.stderr)
            return 127
        # Ctrl-C reaches the command as well, which decides what it means.
        signal.signal(signal.SIGINT, lambda *_: None)
        code = subprocess.call([program] + command[1:], env=place.env)
        return code if code >= 0 else 128 - code


def visit(url, email, approve):
    """What BROWSER runs: walk the pages as the built-in person."""
    try:
        shown = Person(email, approve).visit(url)
    except OSError as error:
        print("sandbox.py: %s" % error, file=sys.stderr)
        return 1
    return 0 if shown.status < 400 else 1


def open_browser(url):
    """Open the person's own browser, in their own home, from within the sandbox's."""
    os.environ.pop("BROWSER", None)
    os.environ["HOME"] = os.environ.get("SANDBOX_OUTER_HOME", os.path.expanduser("~"))
    import webbrowser  # reads BROWSER when it is imported

    return 0 if webbrowser.open(url) else 1


def a_time(text):
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error))


def main(argv):
    command = None
    if "--" in argv:
        argv, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="sandbox.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("mode", nargs="?", choices=["tour", "serve", "run", "person", "open"])
    parser.add_argument("url", nargs="?", help="for person and open")
    parser.add_argument("--browser", action="store_true", help="tour: use your own browser")
    parser.add_argument("--port", type=int, default=0, help="serve: the port to listen on")
    parser.add_argument("--now", type=a_time, help="serve, run: set the server's clock (RFC 3339)")
    parser.add_argument("--email", default=ACCOUNTS[0].email, help="person: who signs in")
    parser.add_argument("--deny", action="store_true", help="person: deny instead of approve")
    args = parser.parse_args(argv)
    if (args.mode == "run") != bool(command):
        parser.error("run -- CMD... takes a command, and only run does")
    if (args.mode in ("person", "open")) != bool(args.url):
        parser.error("person and open take a URL, and only they do")
    if args.mode == "serve":
        return serve(args.port, args.now)
    if args.mode == "run":
        return run_command(command, args.now)
    if args.mode == "person":
        return visit(args.url, args.email, not args.deny)
    if args.mode == "open":
        return open_browser(args.url)
    return tour(own_browser=args.browser)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

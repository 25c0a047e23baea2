"""Broken files, odd words and a server that misbehaves.

Each gets one `Error:` line, a next step and the right exit code, and loses nothing that is stored.
"""

import os
import re
import shutil
import socket
import subprocess
import tempfile

import pytest
from conftest import PODSTACK, USER, need

import podstack

TOKEN = {"PODSTACK_API_TOKEN": USER}
DOCTOR = "Find out why: podstack auth doctor"
MEND = "Mend it, or set PODSTACK_CONFIG to another file"
FOREVER = float("inf")


def no_sleep(seconds):
    """Retries need not wait in a test."""


# ---- the config file

READERS = [
    "auth status", "auth whoami", "auth token", "auth list", "project list", "project current",
    "pod list", "pod get x", "pod create --name x --image y", "pod delete x --force",
    "config show", "config get defaults.project",
]  # fmt: skip
WRITERS = [
    "auth login --token %s" % USER, "auth logout", "project use my-project",
    "config set defaults.project x", "config set-profile work", "config unset defaults.project",
    "config reset --yes", "config delete-profile work --yes", "auth refresh",
]  # fmt: skip
FLOW = "[...] and {...} must end on their line"
BROKEN_FILES = [
    pytest.param(b"auth: [\n", "PATH:1:8: " + FLOW, id="malformed"),
    pytest.param(b"auth:\n\ttoken: x\n", r"PATH:2:1: unquoted tabs (\t) are not supported",
                 id="tab"),
    pytest.param(b"auth:\n  token: x\n  token: y\n",
                 "PATH:3:3: the key 'token' is on line 2 already", id="twice"),
    pytest.param(b"auth: &a\n  token: x\n", "PATH:1:7: unquoted text cannot start with '&'",
                 id="anchor"),
    pytest.param(b"- auth\n", "PATH:1:1: expected keys and values", id="list"),
    pytest.param(b"just a word\n", "PATH:1:1: expected keys and values", id="scalar"),
    pytest.param(b'{"auth": {"token": "x"}', "PATH:1:24: " + FLOW, id="half-json"),
    pytest.param(b"auth:\n  token: caf\xe9\n", "PATH:2:13: not UTF-8 text", id="latin-1"),
    pytest.param("auth: {}\n".encode("utf-16"), "PATH:1:1: not UTF-8 text", id="utf-16"),
    pytest.param(b"auth:\n  token: a\0b\n",
                 "PATH:2:11: the character U+0000 is not supported", id="nul"),
    pytest.param(b"x: y\n" * 1000000, "Cannot read PATH: it is larger than 1 MiB", id="5-mb"),
    pytest.param(b"\x7fELF\x02\x01\x01",
                 "PATH:1:1: the character U+007F is not supported", id="binary"),
]  # fmt: skip


def check_refused(done, code, error, hint, what=""):
    """The whole error: what is wrong, then what to do."""
    lines = done.err.splitlines()
    assert (done.code, done.out) == (code, ""), what
    assert lines[0] == "Error: " + error, what
    assert lines[1] == hint, what


@pytest.mark.parametrize("content, problem", BROKEN_FILES)
def test_a_file_that_is_not_understood_is_named_and_left_alone(cli, api, config, content, problem):
    config.write_bytes(content)
    config.chmod(0o600)
    for words in READERS + WRITERS:
        done = cli(*words.split(), code=1)
        assert (done.out, config.read_bytes()) == ("", content), words
        error = problem.replace("PATH", str(config))
        assert done.err == "Error: %s\n%s\n" % (error, MEND), words
    assert api.requests == []


def make_directory(path):
    path.mkdir()


def make_pipe(path):
    os.mkfifo(str(path))


def make_device(path):
    path.symlink_to("/dev/zero")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(str(path)))


def make_loop(path):
    path.symlink_to(path)


ODD_FILES = [
    pytest.param(make_directory, "Is a directory", id="directory"),
    pytest.param(make_pipe, "it is not a regular file", id="fifo"),
    pytest.param(make_device, "it is not a regular file", id="device"),
    pytest.param(make_socket, "No such device or address", id="socket"),
    pytest.param(make_loop, "Too many levels of symbolic links", id="loop"),
]


@pytest.mark.parametrize("make, problem", ODD_FILES)
def test_what_is_no_file_is_neither_read_nor_replaced(cli, api, config, make, problem):
    make(config)
    before = os.lstat(str(config))
    for words in READERS + WRITERS:
        done = cli(*words.split(), code=1)
        assert done.error == "Error: Cannot read %s: %s" % (config, problem), words
        assert len(done.err.splitlines()) == 2, words
    after = os.lstat(str(config))
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert api.requests == []


def test_a_file_that_is_broken_does_not_hinder_a_token_from_the_environment(cli, api, config):
    config.write_bytes(b"auth: [\n")
    warning = "Warning: config file not used: %s:1:8: " % config
    for words in ("auth whoami", "project list", "pod list", "pod create --name x --image y"):
        done = cli(*words.split(), env=TOKEN)
        assert done.out, words
        assert done.err.startswith(warning), words
    for words in WRITERS:
        done = cli(*words.split(), env=TOKEN, code=1)
        assert done.error.startswith("Error: %s:1:8: " % config), words
    assert config.read_bytes() == b"auth: [\n"


@pytest.fixture
def ordinary_user(tmp_path):
    """`run("auth", "status")` as somebody who is not root, in `run.home`."""
    need("setpriv", "/usr/bin/python3")
    place = tempfile.mkdtemp(prefix="podstack-ordinary-")
    os.chmod(place, 0o755)
    home = os.path.join(place, "home")
    os.mkdir(home, 0o755)
    script = shutil.copy(PODSTACK, place)
    os.chmod(script, 0o755)
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(home, 65534, 65534)
    becoming = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if is_root else []

    def run(*words, **env):
        done = subprocess.run(
            becoming + ["/usr/bin/python3", "-B", script] + list(words), cwd=home,
            env=dict(os.environ, HOME=home, **env), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def give(text, mode):
        folder = os.path.join(home, ".podstack")
        path = os.path.join(folder, "config.yaml")
        os.mkdir(folder, 0o700)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        if is_root:
            os.chown(folder, 65534, 65534)
        return path

    run.home, run.give = home, give
    yield run
    subprocess.call(["chmod", "-R", "u+rwx", place])
    shutil.rmtree(place)


def check_mode(path):
    return "Check owner and mode: ls -ld %s %s" % (os.path.dirname(path), path)


@pytest.mark.parametrize("words", ["auth status", "auth logout", "project use x --no-verify"])
def test_a_file_that_may_not_be_read(api, ordinary_user, words):
    path = ordinary_user.give("auth:\n  token: x\n", 0)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    code, out, err = ordinary_user(*words.split())
    assert (code, out) == (1, "")
    assert err == "Error: Cannot read %s: Permission denied\n%s\n" % (path, check_mode(path))
    assert os.stat(path).st_size == len("auth:\n  token: x\n")


@pytest.mark.parametrize("words", ["auth status", "auth logout", "project use x --no-verify"])
def test_a_file_that_belongs_to_somebody_else(api, ordinary_user, words):
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of somebody else's")
    path = ordinary_user.give("auth:\n  token: x\n", 0o644)
    code, out, err = ordinary_user(*words.split())
    assert (code, out) == (1, "")
    assert err == (
        "Error: Cannot use %s: it belongs to another user (uid 0)\n"
        "Set PODSTACK_CONFIG to a file of your own\n" % path
    )


@pytest.mark.parametrize("words", [
    ["auth", "login", "--token", USER], ["auth", "login", "--browser", "--timeout", "5"],
])  # fmt: skip
def test_a_directory_that_may_not_be_written(api, ordinary_user, words):
    path = ordinary_user.give("defaults:\n  project: x\n", 0o600)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    os.chmod(os.path.dirname(path), 0o500)
    code, out, err = ordinary_user(*words)
    assert (code, out) == (1, "")
    assert err == "Error: Cannot write %s: Permission denied\n%s\n" % (path, check_mode(path))
    assert os.listdir(os.path.dirname(path)) == ["config.yaml"]
    assert not api.calls("GET", "/oauth/authorize")


def test_a_home_that_may_not_be_entered(api, ordinary_user):
    path = ordinary_user.give("auth:\n  token: x\n", 0o600)
    os.chmod(os.path.dirname(path), 0)
    code, out, err = ordinary_user("auth", "status")
    assert (code, out) == (1, "")
    assert err == "Error: Cannot read %s: Permission denied\n%s\n" % (path, check_mode(path))


def test_without_a_home(cli):
    done = cli("auth", "status", env={"HOME": None, "USERPROFILE": None}, code=1)
    assert done.err == "Error: There is no home directory\nSet HOME or PODSTACK_CONFIG\n"
    env = dict(TOKEN, HOME=None, PODSTACK_API_ENDPOINT="http://127.0.0.1:1")
    done = cli("auth", "status", env=env, code=7, sleep=no_sleep)
    assert "Error: Could not verify: Cannot reach 127.0.0.1: connection refused\n" in done.err


# ---- profiles, endpoints and other words


def test_a_profile_that_does_not_exist_lists_those_that_do(cli, api, config):
    config.write_text("profiles:\n  home:\n    token: x\n  work:\n    token: y\n")
    config.chmod(0o600)
    before = config.read_bytes()
    for words in ("auth status", "pod list", "project use x --no-verify", "auth logout",
                  "config unset defaults.project"):  # fmt: skip
        for how in ({}, {"PODSTACK_PROFILE": "wrok"}):
            option = [] if how else ["--profile", "wrok"]
            done = cli(*words.split(), *option, env=how, code=6)
            check_refused(
                done, 6, "Profile 'wrok' does not exist (did you mean 'work'?)",
                "Profiles: home, work", words
            )  # fmt: skip
    assert config.read_bytes() == before
    assert api.requests == []


@pytest.mark.parametrize("name", ["", "a b", "-x", "../x", "a.b", "\u00fc", "x" * 65, "a\nb"])
def test_a_profile_name_that_is_none(cli, api, config, name):
    done = cli("--profile=" + name, "auth", "login", "--token", USER, code=2)
    assert done.err == (
        "Error: --profile must be a name of letters, digits, - and _, at most 64, "
        "the first no - or _, not '%s'\nSee: podstack auth login --help\n"
        % podstack.printable(name)
    )
    assert not config.exists()


ENDPOINTS = [
    "podstack", "api.podstack.ai", "ftp://api.podstack.ai", "http://api.podstack.ai", "https://",
    "https://me@api.podstack.ai", "https://api.podstack.ai?x", "https://api.podstack.ai#x",
    "https://api.podstack.ai:0", "https://api.podstack.ai:99999", "https://api.podstack.ai:x",
    "https://api.pod stack.ai", "https://api.podstack.ai\\@evil.example", "https://[::1",
    "http://127.0.0.1@evil.example", "http://127.0.0.1.evil.example", "https://h/../v1",
    "https://h\nX: y", "javascript:alert(1)", "https://\u00fcber.example", "//api.podstack.ai",
    "http://127.0.0.01", "http://127.0.0.256", "http://127.0.0." + "1" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_that_is_no_address(cli, config, endpoint):
    for words in ("auth status", "auth login --token %s" % USER, "pod list"):
        env = dict(TOKEN, PODSTACK_API_ENDPOINT=endpoint)
        done = cli(*words.split(), env=env, code=2)
        assert done.error.startswith("Error: PODSTACK_API_ENDPOINT must be an https:// address ")
        assert "limit" not in done.error
        assert "\n" not in done.error
        assert len(done.err.splitlines()) == 2, done
    assert not config.exists()


def test_a_password_in_an_endpoint_is_not_repeated(cli):
    env = dict(TOKEN, PODSTACK_API_ENDPOINT="https://me:pa55word@api.podstack.ai")
    done = cli("auth", "status", "--debug", env=env, code=2)
    assert "not 'https://****@api.podstack.ai'\n" in done.err
    assert "pa55word" not in done.err


def test_an_endpoint_in_the_file_is_named_by_its_line(cli, config):
    config.write_text("api:\n  endpoint: podstack\n")
    done = cli("auth", "status", env=TOKEN, code=1)
    assert done.err == (
        "Error: %s:2:3: api.endpoint must be an https:// address "
        "(it does not begin with https://)\n%s\n" % (config, MEND)
    )


# ---- what the server answers

COMMANDS = {
    "auth status": "user",
    "auth whoami": "user",
    "project list": "projects",
    "project use my-project": "projects",
    "pod list": "pods",
    "pod get ci-pod": "pods",
    "pod get pod-1": "pod",
    "pod create --name ci-pod --image myimage:latest": "pod",
    "pod delete ci-pod --force": "pods",
}
STORED = "auth:\n  token: %s\ndefaults:\n  project: my-project\n" % USER


@pytest.fixture
def signed_in(api, config):
    config.write_text(STORED + "api:\n  endpoint: %s\n" % api.url)
    config.chmod(0o600)
    return config


def check_commands(cli, api, config, trouble, code, error, more):
    """Every command fails in the same way; `more` gives the lines after the first."""
    before = config.read_bytes()
    for words, thing in COMMANDS.items():
        del api.trouble[:]
        api.next("/v1/", times=FOREVER, **trouble)
        done = cli(*words.split(), code=None, sleep=no_sleep)
        shown = re.sub(r"req-\d+", "req-N", done.err)
        expected = "Error: " + error.replace("THING", thing)
        if words == "auth status" and code == 7:
            expected = expected.replace("Error: ", "Error: Could not verify: ")
        lines = [line.replace("COMMAND", words.partition(" ")[0]) for line in more]
        lines = [line.replace("WORDS", " ".join(words.split()[:2])) for line in lines]
        sent = not error.endswith("refused") and not error.startswith("Rate")
        if words.startswith("pod create") and code == 7 and sent:
            lines.append("It may have been created: check podstack pod list")
        assert (done.code, done.out) == (code, ""), (words, done)
        assert shown.splitlines() == [expected] + lines, words
        assert config.read_bytes() == before, words


NOT_UNDERSTOOD = [
    pytest.param("<!doctype html><title>Hotel</title>", id="html"),
    pytest.param('{"email": "user@exa', id="half-json"),
    pytest.param("", id="empty"),
    pytest.param("null", id="null"),
    pytest.param("42", id="number"),
    pytest.param('"text"', id="text"),
    pytest.param(b"\xff\xfe\x00", id="bytes"),
    pytest.param("[" * 100000, id="deep"),
    pytest.param("[[1]]" * 2, id="two-values"),
]


@pytest.mark.parametrize("body", NOT_UNDERSTOOD)
def test_an_answer_that_is_not_understood(cli, api, signed_in, body):
    error = "Podstack's answer is not understood (no THING in it)"
    check_commands(cli, api, signed_in, {"body": body}, 7, error, [DOCTOR])


@pytest.mark.parametrize("body", [[1], ["x"], {"data": [None]}, {"items": [[]]}])
def test_a_list_of_what_are_no_objects(cli, api, signed_in, body):
    for words, thing in (("project list", "projects"), ("pod list", "pods")):
        api.next("/v1/", body=body)
        done = cli(*words.split(), code=7)
        error = "Podstack's answer is not understood (%s without fields)" % thing
        check_refused(done, 7, error, DOCTOR)


def test_whoami_without_an_address(cli, api, signed_in):
    api.next("/v1/auth/whoami", body={"hello": "world"})
    done = cli("auth", "whoami", code=7)
    error = "Podstack's answer is not understood (no e-mail address in it)"
    check_refused(done, 7, error, DOCTOR)


TROUBLE = [
    pytest.param(
        {"status": 401}, 4, "Invalid authentication token",
        ["Generate a new token from the dashboard (Account > API Tokens)",
         "Token from profile 'default' in CONFIG"], id="401"),
    pytest.param(
        {"status": 401, "body": {"error": {"code": "token_expired", "message": "Too old"}}}, 4,
        "Token expired",
        ["Re-authenticate: podstack auth login", "Token from profile 'default' in CONFIG"],
        id="401-expired"),
    pytest.param(
        {"status": 401, "body": "<html>Unauthorized</html>"}, 4, "Invalid authentication token",
        ["Generate a new token from the dashboard (Account > API Tokens)",
         "Token from profile 'default' in CONFIG"], id="401-html"),
    pytest.param(
        {"status": 403}, 5, "Permission denied for resource",
        ["Check if the token has access to the project: podstack project list",
         "Scripted HTTP 403", "Token from profile 'default' in CONFIG"], id="403"),
    pytest.param(
        {"status": 403, "body": "<html>"}, 5, "Permission denied for resource",
        ["Check if the token has access to the project: podstack project list",
         "Token from profile 'default' in CONFIG"], id="403-html"),
    pytest.param(
        {"status": 402, "body": {"error": {"code": "insufficient_balance",
                                           "message": "1.00 USD needed, 0.50 USD available"}}}, 1,
        "Insufficient wallet balance",
        ["See: podstack wallet balance", "1.00 USD needed, 0.50 USD available"], id="402"),
    pytest.param({"status": 400}, 1, "Scripted HTTP 400", ["See: podstack WORDS --help"], id="400"),
    pytest.param({"status": 409}, 1, "Scripted HTTP 409", ["See: podstack WORDS --help"], id="409"),
    pytest.param({"status": 410, "body": ""}, 1, "Gone (HTTP 410)",
                 ["See: podstack WORDS --help"], id="410"),
    pytest.param({"status": 499, "body": ""}, 1, "Refused (HTTP 499)",
                 ["See: podstack WORDS --help"], id="499"),
    pytest.param({"status": 429}, 7, "Rate limited; try again later", [], id="429"),
    pytest.param({"status": 429, "headers": {"Retry-After": "90"}}, 7,
                 "Rate limited; try again in 90 s", [], id="429-wait"),
    pytest.param({"status": 500}, 7, "Podstack is having trouble (HTTP 500, request id req-N)",
                 ["Try again in a few minutes"], id="500"),
    pytest.param({"status": 503, "body": "<h1>Unavailable</h1>"}, 7,
                 "Podstack is having trouble (HTTP 503, request id req-N)",
                 ["Try again in a few minutes"], id="503"),
    pytest.param({"status": 599, "headers": {"X-Request-Id": "\x1b[2Jx"}}, 7,
                 "Podstack is having trouble (HTTP 599, request id \\x1b[2Jx)",
                 ["Try again in a few minutes"], id="599"),
    pytest.param({"drop": True}, 7,
                 "Cannot reach 127.0.0.1: it closed the connection without an answer", [DOCTOR],
                 id="dropped"),
    pytest.param({"body": {"x": "y" * 1000}, "truncate": True}, 7,
                 "Cannot reach 127.0.0.1: its answer was cut off", [DOCTOR], id="truncated"),
    pytest.param({"redirect": "https://evil.example/login"}, 7,
                 "Cannot reach 127.0.0.1: it redirects to https://evil.example/login, "
                 "which is not followed", [DOCTOR], id="redirect"),
    pytest.param({"redirect": "/\x1b[2J"}, 7,
                 "Cannot reach 127.0.0.1: it redirects to /\\x1b[2J, which is not followed",
                 [DOCTOR], id="redirect-escape"),
    pytest.param({"status": 304, "body": ""}, 7, "Podstack's answer is not understood "
                 "(no THING in it)", [DOCTOR], id="304"),
]  # fmt: skip


@pytest.mark.parametrize("trouble, code, error, more", TROUBLE)
def test_trouble_at_the_server(cli, api, signed_in, trouble, code, error, more):
    more = [line.replace("CONFIG", str(signed_in)) for line in more]
    check_commands(cli, api, signed_in, trouble, code, error, more)


def test_a_service_that_is_not_there(cli, api, signed_in):
    api.close()
    check_commands(
        cli, api, signed_in, {}, 7, "Cannot reach 127.0.0.1: connection refused", [DOCTOR]
    )
    del api.trouble[:]


NOT_FOUND = [
    ("auth status", "Scripted HTTP 404", DOCTOR),
    ("project list", "Scripted HTTP 404", DOCTOR),
    ("project use nope", "Project 'nope' not found", "See: podstack project list"),
    ("pod get nope", "Pod 'nope' not found", "See: podstack pod list"),
    ("pod get pod-nope", "Pod 'pod-nope' not found", "See: podstack pod list"),
    ("pod get 123e4567-e89b-12d3-a456-426614174000",
     "Pod '123e4567-e89b-12d3-a456-426614174000' not found", "See: podstack pod list"),
    ("pod delete nope --force", "Pod 'nope' not found", "See: podstack pod list"),
    ("pod delete pod-nope --force", "Pod 'pod-nope' not found", "See: podstack pod list"),
    ("pod get ../auth/token", "Pod '../auth/token' not found", "See: podstack pod list"),
    ("pod delete pod-/../../auth/token --force", "Pod 'pod-/../../auth/token' not found",
     "See: podstack pod list"),
    ("--project nope pod get \x1b[2J", "Pod '\\x1b[2J' not found", "See: podstack pod list"),
]  # fmt: skip


@pytest.mark.parametrize("words, error, hint", NOT_FOUND)
def test_what_is_not_found_is_named(cli, api, signed_in, words, error, hint):
    before = signed_in.read_bytes()
    if "Scripted" in error:
        api.next("/v1/", status=404)
    if words.startswith("--project nope"):
        api.next("/v1/pods", body={"data": []})
    done = cli(*words.split(" "), code=6)
    check_refused(done, 6, error, hint)
    assert len(done.err.splitlines()) == 2
    assert USER in api.tokens
    assert signed_in.read_bytes() == before


def test_a_404_that_says_nothing_names_the_address(cli, api, signed_in):
    api.next("/v1/", status=404, body="<h1>It works!</h1>")
    done = cli("auth", "status", code=6)
    check_refused(done, 6, "Not found: %s/v1/auth/whoami" % api.url, DOCTOR)


def details(*fields):
    rows = [{"field": field, "message": "is wrong"} for field in fields]
    return {"error": {"code": "VALIDATION_ERROR", "message": "Invalid pod", "details": rows}}


HELP = "See: podstack pod create --help"
ERROR_SHAPES = [
    pytest.param(details("name", "image"),
                 ["Invalid pod", "  name: is wrong", "  image: is wrong", HELP], id="documented"),
    pytest.param(details(*"abcdefghijkl"),
                 ["Invalid pod"] + ["  %s: is wrong" % letter for letter in "abcdefghij"] + [HELP],
                 id="twelve-fields"),
    pytest.param({"error": "The name is taken"}, ["The name is taken", HELP], id="sdk"),
    pytest.param({"error": "bad", "message": "Very bad"}, ["Very bad", HELP], id="sdk-message"),
    pytest.param({"error": "invalid_request", "error_description": "No name"}, ["No name", HELP],
                 id="oauth"),
    pytest.param("<html><h1>Bad gateway?</h1></html>", ["Conflict (HTTP 409)", HELP], id="html"),
    pytest.param('{"error": {"mess', ["Conflict (HTTP 409)", HELP], id="half-json"),
    pytest.param("", ["Conflict (HTTP 409)", HELP], id="empty"),
    pytest.param([], ["Conflict (HTTP 409)", HELP], id="list"),
    pytest.param({"error": None}, ["Conflict (HTTP 409)", HELP], id="null"),
    pytest.param({"error": {"message": ""}}, ["Conflict (HTTP 409)", HELP], id="no-message"),
    pytest.param({"error": {"message": {"en": "Taken"}}}, ["{'en': 'Taken'}", HELP], id="object"),
    pytest.param({"error": {"message": "Taken", "details": "x"}}, ["Taken", HELP], id="text"),
    pytest.param({"error": {"message": "Taken", "details": [1, None, {}]}},
                 ["Taken", "  ?: ?", HELP], id="odd-details"),
    pytest.param({"error": {"message": "one\ntwo\x1b[2J\u202e"}},
                 ["one\\x0atwo\\x1b[2J\\u202e", HELP], id="control-characters"),
    pytest.param({"error": {"message": "Token %s is taken" % USER}},
                 ["Token psk_**** is taken", HELP], id="the-token"),
]  # fmt: skip


@pytest.mark.parametrize("status", [400, 409, 422])
@pytest.mark.parametrize("body, lines", ERROR_SHAPES)
def test_every_shape_of_error_becomes_one_line(cli, api, signed_in, status, body, lines):
    before = signed_in.read_bytes()
    api.next("/v1/pods", method="POST", status=status, body=body)
    done = cli("pod", "create", "--name", "ci-pod", "--image", "myimage:latest", code=1)
    name = {400: "Bad Request (HTTP 400)", 409: "Conflict (HTTP 409)"}
    name[422] = "Unprocessable (Entity|Content) (HTTP 422)"
    shown = re.sub("Unprocessable (Entity|Content)", "Unprocessable (Entity|Content)", done.err)
    expected = [line.replace(name[409], name[status]) for line in lines]
    assert shown.splitlines() == ["Error: " + expected[0]] + expected[1:]
    assert done.out == ""
    assert signed_in.read_bytes() == before


def test_a_pod_that_runs_is_deleted_only_by_force(cli, api, signed_in):
    api.add_pods(1, name="ci-pod")
    done = cli("pod", "delete", "ci-pod", "--yes", code=1)
    assert done.err == (
        "Error: Pod 'ci-pod' is running; stop it first or use force\n"
        "See: podstack pod delete --help\n"
    )
    assert len(api.pods) == 1


@pytest.mark.parametrize("status", [201, 202, 204, 206])
def test_a_log_may_come_with_any_status_of_success(cli, api, signed_in, status):
    body = b"" if status == 204 else b"one\ntwo\n"
    api.next("/v1/pods/pod-1/logs", status=status, body=body)
    assert cli("pod", "logs", "pod-1").out == body.decode()

"""Config files as accident and malice leave them: the right value, or one error with its place.

Nothing ends in a traceback, nothing unreadable is overwritten, no token and no control character
is shown, and a change changes what it says alone.
"""

import os
import random
import re

import pytest

TOKEN = "psk_hostile_secret_0123456789"
HEAD = "auth:\n  token: %s\n  expires: 2099-12-31T00:00:00Z\n" % TOKEN
GOOD = [
    HEAD + "\ndefaults:\n  project: my-project\n  output: table\n",
    "profile: work\nprofiles:\n  work:\n    token: %s\n    project: my-project\n"
    "  # mine\n  home: {project: other, api_endpoint: https://api.podstack.ai}\n" % TOKEN,
    "profile: work\r\nprofiles:\r\n  work:\r\n    auth:\r\n      token: '%s'\r\n"
    '    defaults:\r\n      project: "my-project"\r\n' % TOKEN,
    "--- # written by hand\n" + HEAD + "defaults: {project: my-project, 'gpu_type': \"A\\x31\"}\n"
    "api:\n  timeout: 30 # seconds\n  ca_bundle: ~\ncli:\n  color: no\n",
    '{"auth": {"token": "%s"}, "defaults": {"project": "my-project"}}\n' % TOKEN,
    HEAD
    + "  token_command:\n  - pass\n  - show\n  - |-\n    a b\n\n    c\ndefaults:\n  project: x\n",
]
PIECES = [
    "\t", " ", "  ", "\n", "\r", "\r\n", "\n\n", "#", " # ", ":", ": ", "- ", "-", "?", "? ", "|",
    "|-", "|+", ">", "'", '"', "\\", "{", "}", "[", "]", ",", "&a ", "*a", "!!str ", "<<: *a\n",
    "%YAML 1.2\n",
    "---\n", "...\n", "--- ", "~", "null", "@", "`", "\\x1b[31m", '"\\ud800"', "\x00", "\x1b[2J",
    "\x7f", "\x85", "\xa0", "\u2028", "\u202e", "\ufeff", "\ufffe", "\U0001f600", "e\u0301",
    "!!python/object/apply:os.system ['true']\n", "profiles: []\n", "auth: x\n", "defaults:\n",
    "profile: ../../x\n", "project: twice\n", "  project: twice\n", "k" * 1100 + ": 1\n",
    "[" * 40, "{a: " * 40, "- " * 40, "x" * 5000, "profiles:\n  '': {}\n", "\xff",
    "\udcff", "\udce9t\udce9",
]  # fmt: skip


def slip(chance, text):
    """Return a good text with one to three slips of the hand in it."""
    for _ in range(chance.randint(1, 3)):
        kind, lines = chance.randrange(6), text.splitlines(True)
        row, place = chance.randrange(len(lines)), chance.randint(0, len(text))
        if kind == 0:  # something comes in
            text = text[:place] + chance.choice(PIECES) + text[place:]
        elif kind == 1:  # something goes
            text = text[:place] + text[place + chance.choice([1, 1, 2, 8]) :]
        elif kind == 2:  # the end is lost
            text = text[: max(1, place)]
        elif kind == 3:  # a line is doubled, or moved
            lines.insert(chance.randrange(len(lines)), lines[row])
            text = "".join(lines)
        elif kind == 4:  # an indentation slips
            lines[row] = chance.choice([" ", "\t", "  ", ""]) + lines[row].lstrip(" ")
            text = "".join(lines)
        else:  # a value is of another kind
            value = chance.choice(
                ["[a, b]", "{a: b}", "", "''", "~", '"\\e[31m\\n"', "1e309", "|\n  x"]
            )
            key, colon, _ = lines[row].partition(": ")
            lines[row] = key + (colon or ": ") + value + "\n"
            text = "".join(lines)
    return text


def hostile_files(count):
    """Return `count` different texts, always the same, as bytes."""
    chance, found = random.Random(300), []
    while len(found) < count:
        data = slip(chance, chance.choice(GOOD)).encode("utf-8", "surrogateescape")
        if data not in found:
            found.append(data)
    return found


READERS = [
    ("config", "get", "defaults.project"),
    ("config", "show"),
    ("auth", "token"),
    ("auth", "list"),
    ("config", "get", "api.timeout"),
]
WRITERS = [
    (("config", "set", "defaults.output", "json"), ("defaults", "output")),
    (("config", "set", "profiles.new.project", "json"), ("profiles", "new", "project")),
]


SHOWN_AS_IS = ("\n", "\xa0")


def check_said(result, path):
    """Check that a run said nothing that it must not say."""
    said = result.out + result.err
    assert "a bug in" not in said and "Traceback" not in said
    assert not [char for char in said if not char.isprintable() and char not in SHOWN_AS_IS]
    assert TOKEN not in result.err
    errors = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (1 if result.code else 0)
    if result.code == 1:
        assert re.match(r"Error: %s:[1-9]\d*:[1-9]\d*: \S" % re.escape(str(path)), errors[0])


def check_project(result, data):
    """Check that `config get defaults.project` printed what the file says."""
    name = data.get("profile") or "default"
    profile = (data.get("profiles") or {}).get(name) or {}
    held = profile.get("project") or (profile.get("defaults") or {}).get("project")
    if name == "default" and "default" not in (data.get("profiles") or {}):
        held = (data.get("defaults") or {}).get("project")
    assert result.out == held + "\n"


def changed(data, keys, value):
    """Return `data` as it is to be after a change."""
    copy = dict(data or {})
    rest = changed(copy.get(keys[0]), keys[1:], value) if keys[1:] else value
    copy[keys[0]] = rest
    return copy


@pytest.mark.parametrize("part", range(3))
def test_three_hundred_hostile_files(cli, config, oracle, part):
    refused = 0
    for data in hostile_files(300)[part::3]:
        config.write_bytes(data)
        config.chmod(0o600)
        for argv in READERS:
            result = cli(*argv, code=None)
            check_said(result, config)
            assert config.read_bytes() == data
            if argv == READERS[0]:
                refused += result.code == 1
                if result.code == 0:
                    check_project(result, oracle(data.decode("utf-8")))
        for argv, keys in WRITERS:
            config.write_bytes(data)
            result = cli(*argv, code=None)
            check_said(result, config)
            if result.code:
                assert config.read_bytes() == data
            else:
                intended = changed(oracle(data.decode("utf-8")), keys, "json")
                assert oracle(config.read_bytes().decode("utf-8")) == intended, (data, argv)
    assert 30 < refused < 95  # neither all harmless nor all beyond reading


MEND = "Mend it, or set PODSTACK_CONFIG to another file"
TABLE = [
    # name, text, command, what the error says after the path
    ("tab", "defaults:\n\tproject: a\n", "config get defaults.project",
     "2:1: unquoted tabs (\\t) are not supported"),
    ("twice", "defaults:\n  project: a\n  project: b\n", "config get defaults.project",
     "3:3: the key 'project' is on line 2 already"),
    ("no colon", "defaults:\n  project a\n  output: b\n", "config get defaults.project",
     "3:3: unexpected indentation (text over several lines needs |)"),
    ("merge key", "a: &a\n  b: c\ndefaults:\n  <<: *a\n", "config get defaults.project",
     "1:4: unquoted text cannot start with '&'"),
    ("code", "defaults:\n  project: !!python/name:os.system\n", "config get defaults.project",
     "2:12: unquoted text cannot start with '!'"),
    ("bomb", "a: [%s]\n" % ("[" * 99 + "]" * 99), "config get defaults.project",
     "1:35: more than 32 levels are not supported"),
    ("escape sequence", "defaults:\n  project: \x1b[31mred\n", "config get defaults.project",
     "2:12: the character U+001B is not supported"),
    ("escaped sequence", 'defaults: {project: "\\e[31m"}\n', "config get defaults.project",
     "1:12: defaults.project must be one line of plain text"),
    ("right-to-left key twice", '"\\u202ea": 1\n"\\u202ea": 2\n', "config show",
     "2:1: the key '\\u202ea' is on line 1 already"),
    ("a list", "- a\n", "config show", "1:1: expected keys and values"),
    ("a word", "token\n", "config show", "1:1: expected keys and values"),
    ("list for text", "defaults:\n  project: [a]\n", "config get defaults.project",
     "2:3: defaults.project must be plain text"),
    ("mapping for text", "auth: {token: {a: b}}\n", "auth token",
     "1:8: auth.token must be plain text"),
    ("text for mapping", "profiles:\n  work: x\n", "--profile work auth token",
     "2:3: profiles.work must hold keys and values"),
    ("list of profiles", "profiles:\n  - work\n", "auth token",
     "1:1: profiles must hold keys and values"),
    ("both forms", "profiles:\n  work:\n    token: a\n    auth: {token: b}\n",
     "--profile work auth token",
     "4:12: profiles.work.auth.token stands in both forms, as profiles.work.token, too"),
    ("token with a break", "auth:\n  token: |\n    psk_a\n", "auth token",
     "2:3: auth.token is not one line of visible ASCII"),
    ("timeout", "api:\n  timeout: soon\n", "config get api.timeout",
     "2:3: api.timeout must be a number of seconds between 0 and 86400"),
    ("endpoint", "api:\n  endpoint: ftp://x\n", "config get api.endpoint",
     "2:3: api.endpoint must be an https:// address (it does not begin with https://)"),
    ("bool", "cli:\n  color: perhaps\n", "config get cli.color",
     "2:3: cli.color must be true or false"),
]  # fmt: skip


@pytest.mark.parametrize(
    "text, command, problem", [pytest.param(*row[1:], id=row[0]) for row in TABLE]
)
def test_an_error_names_the_place(cli, config, text, command, problem):
    config.write_text(text, encoding="utf-8")
    config.chmod(0o600)
    result = cli(*command.split(), code=1)
    assert (result.out, result.err) == ("", "Error: %s:%s\n%s\n" % (config, problem, MEND))
    assert config.read_text(encoding="utf-8") == text


READ = [
    ("a bare date", "auth:\n  token: a\n  expires: 2099-12-31T00:00:00Z\n", "auth token", "a"),
    ("a word that YAML 1.1 takes for false", "defaults: {project: no}\n", None, "no"),
    ("digits", "defaults:\n  project: 0755\n", None, "0755"),
    ("windows", "\ufeffdefaults:\r\n  project: a\r\n", None, "a"),
    ("old mac", "defaults:\r  project: a\r", None, "a"),
    ("no break at the end", "defaults:\n  project: a", None, "a"),
    ("wide text", "defaults:\n  project: \u65e5\u672c\n", None, "\u65e5\u672c"),
    ("unknown keys", "x-mine: [1, {a: b}]\ndefaults: {project: a}\n", None, "a"),
]


@pytest.mark.parametrize(
    "text, command, value", [pytest.param(*row[1:], id=row[0]) for row in READ]
)
def test_what_is_unusual_but_right_is_read(cli, config, text, command, value):
    with open(str(config), "w", encoding="utf-8", newline="") as stream:
        stream.write(text)
    os.chmod(str(config), 0o600)
    result = cli(*(command or "config get defaults.project").split())
    assert (result.out, result.err) == (value + "\n", "")

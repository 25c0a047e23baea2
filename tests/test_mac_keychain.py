"""The macOS Keychain: the default there, through `security -i` and its own idea of a line.

No Mac is at hand, so `mac_security.py` stands in for /usr/bin/security: it reads commands exactly
as Apple's source does, and a wrong quotation or a line that is too long harms the item there, too.
"""

import json
import os
import re
import subprocess
import sys

import mac_security
import pytest
import sandbox
from conftest import TESTS, USER, Stream

import podstack

OTHER = "psk_sandbox_other"
NO_KEYRING = "Or keep the token in the config file: podstack auth login --no-keyring\n"
UNLOCK = "Unlock it: security unlock-keychain\n"


class Mac:
    """A Mac's keychain: its `items`, and how it behaves (`behave`)."""

    def __init__(self, folder, monkeypatch):
        self.path, self.seen = folder / "keychain.json", folder / "seen"
        self.path.write_text(json.dumps({"items": [], "fail": {}}))
        self.seen.write_bytes(b"")
        program = folder / "security"
        script = '#!/bin/sh\n{ cat /proc/$$/cmdline; env; } >>"%s"\nexec "%s" -I -S "%s" "$@"\n'
        program.write_text(script % (self.seen, sys.executable, mac_security.__file__))
        program.chmod(0o755)
        self.program = str(program)
        monkeypatch.setenv("STAND_IN_KEYCHAIN", str(self.path))
        monkeypatch.setattr(podstack.MacKeychain, "program", self.program)

    @property
    def state(self):
        return json.loads(self.path.read_text())

    @property
    def items(self):
        """{account: item} of our service."""
        return {item["a"]: item for item in self.state["items"] if item["s"] == "podstack"}

    def behave(self, **how):
        state = self.state
        state.update(how)
        self.path.write_text(json.dumps(state))

    def interactive(self, data):
        """What `security -i` does with these bytes on its stdin."""
        done = subprocess.run(
            [self.program, "-i"], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return done.returncode, done.stderr.decode()


@pytest.fixture
def mac(tmp_path, monkeypatch):
    folder = tmp_path / "mac"
    folder.mkdir()
    return Mac(folder, monkeypatch)


@pytest.fixture
def cli(cli, api, mac):
    """podstack on a Mac; it shows a token to nobody but who asks, nor hands it to a program."""

    def run(*words, **more):
        done = cli(*words, **dict(more, platform="darwin"))
        secrets = [USER, OTHER] + [token for token in api.tokens if token.startswith("psa_")]
        for secret in secrets + list(api.refresh_tokens) + ["ps1."]:
            assert secret not in done.err + mac.seen.read_text(errors="replace")
            assert secret not in done.out or words[:2] == ("auth", "token")
        return done

    return run


@pytest.fixture
def keychain(mac):
    """podstack's side alone: the item of an account."""
    stream = Stream()
    app = podstack.App(stream, stream, stream, dict(os.environ))
    return lambda account: podstack.MacKeychain(app, account)


def login(cli, *options, token=USER, **more):
    return cli("auth", "login", "--token", "-", *options, stdin=token + "\n", **more)


def kept(config):
    return podstack.yaml_load(config.read_text())["auth"]


# -- the stand-in is as wrong as the original


@pytest.mark.parametrize(
    "line, arguments",
    [
        (r"a b  c", ["a", "b", "c"]),
        (r'a "b c" d', ["a", "b c", "d"]),
        (r"a 'b c'", ["a", "b c"]),
        (r'a "" b', ["a", "", "b"]),
        (r'a b"c d"', ["a", 'b"c', 'd"']),
        (r'a "b"c', ["a", "b", "c"]),
        (r"""'it'"'"'s'""", ["it", "'", "s"]),
        (r'"a \"b\" \\ \n"', ['a "b" \\ n']),
        (r"a\ b \"c", ["a b", '"c']),
        (r'"never closed', ["never closed"]),
        ("a\0b", ["a"]),
        (" ".join("x" * 40), ["x"] * 32),
    ],
)
def test_the_stand_in_splits_a_line_as_the_original(line, arguments):
    assert mac_security.split_line(line) == arguments


def test_the_stand_in_reads_lines_as_the_original(mac):
    def add(size):
        head = b'add-generic-password -U -a p -s podstack -w "'
        return head + b"x" * (size - len(head) - 2) + b'"\n'

    assert mac.interactive(add(4095)) == (0, "")
    assert len(mac.items["p"]["w"]) == 4095 - len(add(0)) - 2 + 2
    assert mac.interactive(add(4096)) == (0, "")  # a second, empty command hides how this one went
    mac.behave(fail={"add": 51})
    code, err = mac.interactive(add(4096))
    assert code == 0 and "returned 51" in err
    mac.behave(fail={})
    code, err = mac.interactive(add(4300))
    assert code == 1 and re.search(r'unknown command "x{50,}', err)  # the tail of the secret
    before = mac.items
    assert mac.interactive(add(100)[:-1]) == (0, "")  # no end of the line: never run
    assert mac.items == before


# -- what is stored, and where


def test_a_login_goes_into_the_keychain_by_default(api, cli, config, mac):
    done = login(cli)
    assert done.err == (
        "Signed in as user@example.com\nProfile 'default': token stored in the keyring\n"
    )
    assert kept(config) == {"endpoint": api.url, "email": "user@example.com", "storage": "keyring"}
    item = mac.items["default"]
    assert item["l"] == "podstack (default)"
    assert re.match(r"ps1\.[A-Za-z0-9_=-]+$", item["w"])
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert cli("auth", "status", "-o", "json").json["token_source"] == "keyring"
    assert cli("auth", "token").out == USER + "\n"
    assert cli("auth", "list", "-o", "json").json[0]["storage"] == "keyring"
    login(cli, token=OTHER)
    assert list(mac.items) == ["default"]
    assert cli("auth", "token").out == OTHER + "\n"
    assert cli("auth", "logout").err == "Logged out of profile 'default'\n"
    assert mac.items == {}
    assert cli("auth", "logout").err == "Profile 'default' was not signed in\n"
    assert cli("auth", "whoami", code=4).error == "Error: Not authenticated"
    seen = mac.seen.read_text()
    assert "add-generic-password" not in seen and "ps1." not in seen
    assert USER not in seen and OTHER not in seen and "find-generic-password" in seen


def test_a_browser_login_lives_and_ends_in_the_keychain(api, cli, config, mac, monkeypatch):
    person = "%s %s person" % (sys.executable, os.path.join(TESTS, "sandbox.py"))
    monkeypatch.setenv("BROWSER", person)
    done = cli("auth", "login", "--browser", "--debug")
    assert list(mac.items) == ["default"]  # and what proved it writable is gone
    first = mac.items["default"]["w"]
    more = cli("auth", "refresh", "--debug").err
    second = mac.items["default"]["w"]
    assert first != second and api.refreshes == 1
    for secret in list(api.tokens) + list(api.refresh_tokens) + [first, second]:
        assert secret not in done.err + more + mac.seen.read_text() + config.read_text()
    cli("auth", "revoke", "--yes")
    assert mac.items == {}


def test_a_new_login_cleans_the_other_place(api, cli, config, mac):
    login(cli)
    done = login(cli, "--no-keyring", token=OTHER)
    assert "token stored in %s\n" % config in done.err
    assert mac.items == {} and kept(config)["token"] == OTHER and kept(config)["storage"] == "file"
    login(cli)  # remembered
    assert mac.items == {} and kept(config)["token"] == USER
    login(cli, "--use-keyring")
    assert USER not in config.read_text() and list(mac.items) == ["default"]


def test_a_login_that_a_file_holds_already_is_used_from_there(api, cli, config, mac):
    config.write_text("auth:\n  token: %s\n  endpoint: %s\n" % (USER, api.url))
    config.chmod(0o600)
    assert cli("auth", "status", "-o", "json").json["token_source"] == "file"
    login(cli)
    assert USER not in config.read_text() and list(mac.items) == ["default"]


def test_each_profile_and_config_file_has_an_item_of_its_own(api, cli, config, mac, tmp_path):
    second = {"PODSTACK_CONFIG": str(tmp_path / "second.yaml")}
    login(cli)
    login(cli, "--profile", "work", token=OTHER)
    login(cli, token=OTHER, env=second)
    (other,) = set(mac.items) - {"default", "work"}
    assert re.match(r"default@[0-9a-f]{12}$", other)
    assert cli("auth", "whoami").out == "user@example.com\n"
    cli("auth", "logout", "--all")
    assert list(mac.items) == [other]


# -- the line that security reads


@pytest.mark.parametrize(
    "account",
    ["default", "it's", 'a"b', "a\\b", "a b", "'", '"', "\\", "a\\", '\\"', "", "-w"],
)
def test_every_name_arrives_as_it_is(keychain, mac, account):
    for payload in ("ps1.abc", "ps1.def"):
        keychain(account).write(payload)
        assert keychain(account).read() == payload
    assert [item["a"].encode("latin-1").decode() for item in mac.state["items"]] == [account]
    keychain(account).delete()
    assert keychain(account).read() is None


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "a\tb", "\x7f", "a\r"])
def test_a_control_character_never_reaches_the_line(keychain, mac, name):
    for account, payload in ((name, "ps1.x"), ("x", "ps1." + name)):
        with pytest.raises(podstack.PodError):
            keychain(account).write(payload)
    assert mac.seen.read_bytes() == b"" and mac.items == {}


@pytest.mark.parametrize("size", [4000, 4094, 4095])
def test_a_line_that_fits_is_stored_whole(keychain, mac, size):
    payload = "x" * (size - len(line_of("p", "")))
    keychain("p").write(payload)
    assert keychain("p").read() == payload


@pytest.mark.parametrize("size", [4096, 4097, 4200, 9000, 100000])
def test_a_line_that_does_not_fit_is_never_sent(keychain, mac, size):
    with pytest.raises(podstack.PodError) as caught:
        keychain("p").write("x" * (size - len(line_of("p", ""))))
    assert caught.value.message == "Cannot use the keyring: the login is too long for it"
    assert mac.seen.read_bytes() == b"" and mac.items == {}


def line_of(account, payload):
    form = 'add-generic-password -U -a "%s" -s "podstack" -l "podstack (%s)" -w "%s"\n'
    return form % (account, account, payload)


def long_token(size):
    """A token that does not compress."""
    import random

    chosen = random.Random(size)
    return "psk_" + "".join(chosen.choice(podstack.NAME_LETTERS) for _ in range(size - 4))


@pytest.mark.parametrize("profile", ["p", "p" * 64])
def test_a_login_that_is_too_long_is_refused_and_nothing_changes(api, cli, config, mac, profile):
    fits, too_long = long_token(3600), long_token(4000)
    for token in (fits, too_long):
        account = api.account_of("user@example.com")
        api.tokens[token] = sandbox.Token(token, account, api.clock.now())
    login(cli, "--profile", profile, token=fits)
    before, items = config.read_bytes(), mac.items
    done = login(cli, "--profile", profile, token=too_long, code=1)
    assert done.err == (
        "Error: Cannot use the keyring: the login is too long for it\n"
        "Generate a shorter token\n" + NO_KEYRING
    )
    assert config.read_bytes() == before and mac.items == items
    assert cli("auth", "token", "--profile", profile).out == fits + "\n"


# -- a keychain that does not serve

CODES = [
    (36, "it is locked, and this session cannot ask"),
    (37, "it is not available in this session"),
    (50, "it is not available in this session"),
    (51, "access was denied"),
    (53, "it is not available in this session"),
    (128, "the question was cancelled"),
    (1, "security ended with code 1"),
    (30, "security ended with code 30"),
]


@pytest.mark.parametrize("code, problem", CODES)
def test_a_keychain_that_refuses_is_an_error_and_never_plain_text(
    api, cli, config, mac, monkeypatch, code, problem
):
    monkeypatch.setenv("BROWSER", "%s %s person" % (sys.executable, sandbox.__file__))
    login(cli)
    before, items = config.read_bytes(), mac.items
    mac.behave(fail={"find": code, "add": code, "delete": code})
    error = "Error: Cannot use the keyring: %s\n%s%s" % (problem, UNLOCK, NO_KEYRING)
    for words in (["auth", "whoami"], ["auth", "token"], ["auth", "logout"]):
        assert cli(*words, code=1).err == error
    assert login(cli, token=OTHER, code=1).err == error
    assert cli("auth", "login", "--browser", code=1).err == error
    assert api.calls("GET", "/oauth/authorize") == []
    assert config.read_bytes() == before and mac.items == items
    mac.behave(fail={})
    assert cli("auth", "whoami").out == "user@example.com\n"


def test_an_update_that_is_refused_is_no_success(api, cli, config, mac):
    """With -U a duplicate (45) means that the old item could not be changed."""
    login(cli)
    before = config.read_bytes(), mac.items
    mac.behave(fail={"update": 51})
    done = login(cli, token=OTHER, code=1)
    assert done.error == "Error: Cannot use the keyring: it refused to replace the item"
    assert (config.read_bytes(), mac.items) == before


def test_a_word_on_stderr_is_a_failure_whatever_the_exit_code(api, cli, config, mac):
    with open(mac.program) as stream:
        lines = stream.read().splitlines(True)
    words = '[ "$1" != -i ] || echo "add-generic-password: returned 5" >&2\n'
    with open(mac.program, "w") as stream:
        stream.writelines(lines[:1] + [words] + lines[1:])
    done = login(cli, code=1)
    assert done.error == "Error: Cannot use the keyring: security ended with code 1"
    assert not config.exists()


def test_a_store_that_reads_back_otherwise_keeps_the_old_login(api, cli, config, mac):
    login(cli, "--no-keyring", token=OTHER)
    before = config.read_bytes()
    mac.behave(spoil="ps1.other")
    done = login(cli, "--use-keyring", code=1)
    assert done.error == "Error: Cannot use the keyring: it does not give back what it was given"
    assert config.read_bytes() == before
    assert cli("auth", "whoami").out == "other@example.com\n"


@pytest.mark.parametrize(
    "secret",
    ["", "caf\xe9", "line\nbreak", USER, "go-keyring-base64:" + USER, "7073312e", "ps1.\x7f"],
    ids=["empty", "accent", "two-lines", "bare-token", "other-prefix", "hex", "control"],
)
def test_an_item_that_is_not_ours_is_one_clear_error(api, cli, config, mac, secret):
    login(cli)
    state = mac.state
    state["items"][0]["w"] = secret
    mac.behave(**state)
    done = cli("auth", "whoami", code=1)
    assert done.err == (
        "Error: Cannot use the keyring: its item for this profile is not one of ours\n"
        "Sign in again: podstack auth login\n" + NO_KEYRING
    )
    login(cli)
    assert cli("auth", "whoami").out == "user@example.com\n"


def test_an_item_that_is_gone_means_signed_out(api, cli, config, mac):
    login(cli)
    mac.behave(items=[])
    assert cli("auth", "whoami", code=4).error == "Error: Not authenticated"
    assert cli("auth", "logout").err == "Logged out of profile 'default'\n"


def test_without_the_program_there_is_no_keychain(api, cli, config, monkeypatch):
    monkeypatch.setattr(podstack.MacKeychain, "program", "/nonexistent/security")
    done = login(cli, code=1)
    assert done.err == (
        "Error: Cannot use the keyring: cannot run /nonexistent/security: "
        "No such file or directory\nMend that\n" + NO_KEYRING
    )
    assert not config.exists()
    login(cli, "--no-keyring")


def test_windows_has_no_keychain_yet(api, config, monkeypatch):
    stream = Stream()
    world = {"home": os.environ["HOME"], "platform": "win32"}
    app = podstack.App(stream, stream, stream, dict(os.environ), **world)
    with pytest.raises(podstack.PodError) as caught:
        podstack.open_keychain(podstack.Settings(app, None), "default")
    assert caught.value.message == "Cannot use the keyring: there is none for Windows yet"
    assert caught.value.hint == "Leave out --use-keyring"

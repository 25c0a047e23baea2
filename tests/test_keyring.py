"""The Linux keyring: `--use-keyring` against a real gnome-keyring on a session bus of its own.

Between podstack and the real secret-tool stands a script that notes every child's arguments and
environment: no token may turn up there, nor in a file, nor on the screen.
"""

import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

import pytest
import sandbox
from conftest import PODSTACK, USER, need

import podstack

OTHER = "psk_sandbox_other"
NO_KEYRING = "Or keep the token in the config file: podstack auth login --no-keyring\n"
UNLOCKED = "printf 'a password' | gnome-keyring-daemon --unlock --components=secrets --daemonize"
UNLOCK = 'read -rs P; printf %s "$P" | gnome-keyring-daemon --replace --unlock'
STARTED = "gnome-keyring-daemon --start --components=secrets --daemonize"
BARE_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen>%s
<policy context="default"><allow send_destination="*" eavesdrop="true"/>
<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
"""
SECRET_NAME = "org.freedesktop.secrets"


class Session:
    """A session bus with what `setup` starts on it, until `end`."""

    def __init__(self, home, setup, bus="", display=None):
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_DATA_HOME": str(home / ".local" / "share"),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "XDG_CACHE_HOME": str(home / ".cache"),
        }
        if display:
            environ["DISPLAY"] = display
        for folder in ("run", ".local/share/keyrings", ".cache"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "run").chmod(0o700)
        script = '%s >&2; echo "$DBUS_SESSION_BUS_ADDRESS"; read -r _' % (setup or ":")
        options = ["--config-file", str(bus)] if bus else []
        self.process = subprocess.Popen(
            ["dbus-run-session"] + options + ["--", "sh", "-c", script], env=environ,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.address = self.process.stdout.readline().decode().strip()
        assert self.address, "no session bus"
        self.env = dict(environ, DBUS_SESSION_BUS_ADDRESS=self.address)

    def ask(self, *words):
        """The answer of the bus itself, as dbus-send prints it."""
        argv = ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus"]
        argv += ["/org/freedesktop/DBus"] + ["org.freedesktop.DBus." + words[0]] + list(words[1:])
        done = subprocess.run(argv, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return done.stdout.decode()

    def owner(self, name):
        """The process that has a name on the bus, or None."""
        found = re.search(r"uint32 (\d+)", self.ask("GetConnectionUnixProcessID", "string:" + name))
        return int(found.group(1)) if found else None

    def end(self):
        if self.process:
            self.process.communicate()
            self.process = None


class Machine:
    """The test's home with a keyring, and what the children of podstack were given there."""

    def __init__(self, home, monkeypatch, tmp_path):
        self.home, self.monkeypatch, self.session = home, monkeypatch, None
        self.bin, self.seen = tmp_path / "bin", tmp_path / "seen"
        self.bin.mkdir()
        self.seen.write_bytes(b"")
        self.real = shutil.which("secret-tool")
        self.original_path = os.environ["PATH"]
        self.wrap('exec "%s" "$@"' % self.real)
        monkeypatch.setenv("PATH", "%s:%s" % (self.bin, self.original_path))

    def wrap(self, script):
        """Let `secret-tool` be a shell script that first notes its arguments and environment."""
        tool = self.bin / "secret-tool"
        note = '{ cat /proc/$$/cmdline; env; } >>"%s"\n' % self.seen
        tool.write_text("#!/bin/sh\n" + note + script + "\n")
        tool.chmod(0o755)

    def start(self, setup, **options):
        """Begin another session on this home, and end the one before."""
        self.end()
        self.session = Session(self.home, setup, **options)
        for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
            self.monkeypatch.setenv(name, self.session.env[name])
        return self.session

    def end(self):
        if self.session:
            self.session.end()
            self.session = None

    def item(self, account="default"):
        """What the keyring holds for an account: the payload, or None."""
        words = ["lookup", "--", "service", "podstack", "account", account]
        done = subprocess.run(
            [self.real] + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60
        )
        assert done.stderr == b""
        return None if done.returncode else done.stdout.decode()

    def items(self):
        """The accounts of all our items."""
        words = ["search", "--all", "--", "service", "podstack"]
        done = subprocess.run(
            [self.real] + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60
        )
        return sorted(re.findall(r"attribute.account = (.*)", done.stderr.decode()))


@pytest.fixture
def machine(home, monkeypatch, tmp_path):
    need("secret-tool", "gnome-keyring-daemon", "dbus-run-session")
    made = Machine(home, monkeypatch, tmp_path)
    yield made
    made.end()


@pytest.fixture
def keyring(machine, api):
    """An unlocked keyring; at the end no token was in a child's hands or left in a file."""
    machine.start(UNLOCKED)
    yield machine
    machine.end()
    search_for_tokens(machine, api)


@pytest.fixture
def cli(cli, api):
    """podstack, which shows a token to nobody but who asks for it."""

    def run(*words, **more):
        done = cli(*words, **more)
        for secret in secrets_of(api):
            assert secret not in done.err
            assert secret not in done.out or words[:2] == ("auth", "token")
        return done

    return run


def secrets_of(api):
    """Every token of this test, and how a payload begins."""
    given = [name for name in api.tokens if name.startswith("psa_")]
    return [USER, OTHER, "ps1."] + given + list(api.refresh_tokens)


def search_for_tokens(machine, api, but=()):
    """Fail where a token stands in the arguments or environment of a child, or in a file."""
    places = {"the children of podstack": machine.seen.read_bytes()}
    for folder, _, names in os.walk(str(machine.home)):
        for path in (os.path.join(folder, name) for name in names):
            if os.path.isfile(path) and path not in map(str, but):
                with open(path, "rb") as stream:
                    places[path] = stream.read()
    for place, data in places.items():
        for secret in secrets_of(api):
            assert secret.encode() not in data, (place, secret)
    assert places["the children of podstack"].count(b"secret-tool") > 0


@pytest.fixture
def browser(monkeypatch):
    """BROWSER is the sandbox's person, who approves."""
    monkeypatch.setenv("BROWSER", "%s %s person" % (sys.executable, sandbox.__file__))


def login(cli, *options, token=USER, **more):
    return cli("auth", "login", "--token", "-", *options, stdin=token + "\n", **more)


def kept(config):
    return podstack.yaml_load(config.read_text())["auth"]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


# -- what is stored, and where


def test_a_token_is_kept_in_the_keyring_and_used_from_there(api, cli, config, keyring):
    done = login(cli, "--use-keyring")
    assert done.out == ""
    assert done.err == (
        "Signed in as user@example.com\nProfile 'default': token stored in the keyring\n"
    )
    assert kept(config) == {
        "endpoint": api.url,
        "email": "user@example.com",
        "storage": "keyring",
    }
    assert re.match(r"ps1\.[A-Za-z0-9_=-]+$", keyring.item())
    assert keyring.items() == ["default"]
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert cli("auth", "status").out.startswith("Authenticated as: user@example.com\n")
    assert cli("auth", "status", "-o", "json").json["token_source"] == "keyring"
    assert cli("auth", "token").out == USER + "\n"
    assert cli("auth", "list", "-o", "json").json[0]["storage"] == "keyring"
    assert re.search(
        r"^Source: +profile 'default' in keyring$", cli("auth", "token-info").out, re.M
    )
    assert USER not in cli("config", "show").out
    assert cli("auth", "logout").err == "Logged out of profile 'default'\n"
    assert keyring.items() == []
    assert kept(config) == {"storage": "keyring"}
    assert cli("auth", "logout").err == "Profile 'default' was not signed in\n"
    assert cli("auth", "whoami", code=4).error == "Error: Not authenticated"


def test_a_browser_login_lives_and_ends_in_the_keyring(api, cli, config, keyring, browser):
    done = cli("auth", "login", "--use-keyring", "--browser", "--debug")
    assert "token stored in the keyring" in done.err
    first = keyring.item()
    assert set(kept(config)) == {"endpoint", "issuer", "email", "expires", "storage"}
    done = cli("auth", "refresh", "--debug")
    assert done.out == "Token expires: %s\n" % kept(config)["expires"][:10]
    for secret in list(api.tokens) + list(api.refresh_tokens) + [first, keyring.item()]:
        assert secret not in done.err
    assert api.refreshes == 1 and keyring.item() != first
    assert keyring.items() == ["default"]
    cli("auth", "whoami")
    cli("auth", "revoke", "--yes")
    assert keyring.items() == []
    assert not [token for token in api.tokens if token.startswith("psa_")]
    assert cli("auth", "whoami", code=4).error == "Error: Not authenticated"


def test_a_refused_token_is_renewed_in_the_keyring(api, cli, config, keyring, browser):
    cli("auth", "login", "--use-keyring", "--browser")
    before = keyring.item()
    for token in [token for token in api.tokens if token.startswith("psa_")]:
        del api.tokens[token]
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert (api.refreshes, api.reuses) == (1, 0)
    assert keyring.item() != before


def test_a_new_login_cleans_the_other_place(api, cli, config, keyring):
    config.write_text("# mine\nauth:\n  token: %s  # old\n  endpoint: %s\n" % (OTHER, api.url))
    config.chmod(0o600)
    done = login(cli, "--use-keyring")
    assert "Replaced the login of this profile\n" in done.err
    assert OTHER not in config.read_text() and USER not in config.read_text()
    assert config.read_text().startswith("# mine\nauth:\n")
    assert keyring.items() == ["default"]
    done = login(cli, "--no-keyring", token=OTHER)
    assert "Replaced the login of user@example.com\n" in done.err
    assert "token stored in %s\n" % config in done.err
    assert keyring.items() == []
    assert kept(config)["token"] == OTHER and kept(config)["storage"] == "file"
    login(cli, "--use-keyring")
    assert OTHER not in config.read_text() and kept(config)["storage"] == "keyring"


def test_the_place_is_remembered(api, cli, config, keyring):
    login(cli, "--use-keyring")
    login(cli, token=OTHER)
    assert "token" not in kept(config) and keyring.items() == ["default"]
    assert cli("auth", "token").out == OTHER + "\n"
    cli("auth", "logout")
    login(cli)
    assert keyring.items() == ["default"]
    login(cli, env={"PODSTACK_STORAGE": "file"})
    assert kept(config)["storage"] == "file" and keyring.items() == []
    login(cli, "--use-keyring", env={"PODSTACK_STORAGE": "file"})
    assert kept(config)["storage"] == "keyring" and keyring.items() == ["default"]


def test_the_environment_chooses_the_place(api, cli, config, keyring):
    login(cli, env={"PODSTACK_STORAGE": "keyring"})
    assert keyring.items() == ["default"] and kept(config)["storage"] == "keyring"
    done = login(cli, code=2, env={"PODSTACK_STORAGE": "cloud"})
    assert done.error == "Error: PODSTACK_STORAGE must be file or keyring, not 'cloud'"
    for option, place in (("--no-keyring", str(config)), ("--use-keyring", "the keyring")):
        done = login(cli, option, env={"PODSTACK_STORAGE": "cloud"})
        assert "token stored in %s\n" % place in done.err
    done = login(cli, "--use-keyring", "--no-keyring", code=2)
    assert done.error == "Error: --use-keyring and --no-keyring exclude each other"


def test_profiles_and_config_files_have_items_of_their_own(api, cli, config, keyring, tmp_path):
    second = {"PODSTACK_CONFIG": str(tmp_path / "second.yaml")}
    login(cli, "--use-keyring")
    login(cli, "--use-keyring", token=OTHER, env=second)
    login(cli, "--use-keyring", "--profile", "work", token=OTHER)
    accounts = keyring.items()
    assert accounts[0] == "default" and accounts[2] == "work"
    assert re.match(r"default@[0-9a-f]{12}$", accounts[1])
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "second.yaml")
    for env, email in (
        ({}, "user@example.com"),
        (second, "other@example.com"),
        ({"PODSTACK_CONFIG": str(link)}, "other@example.com"),
        ({"PODSTACK_PROFILE": "work"}, "other@example.com"),
    ):
        assert cli("auth", "whoami", env=env).out == email + "\n"
    cli("auth", "logout", env=second)
    assert keyring.items() == ["default", "work"]
    cli("config", "delete-profile", "work", "--yes")
    assert keyring.items() == ["default"]
    cli("auth", "logout", "--all")
    assert keyring.items() == []


def test_a_login_never_touches_the_item_of_another_profile(api, cli, config, keyring, browser):
    """The item that proves the keyring writable has a name that no profile can have."""
    login(cli, "--use-keyring", "--profile", "work-probe")
    cli("auth", "login", "--use-keyring", "--browser", "--profile", "work")
    cli("auth", "refresh", "--profile", "work")
    assert keyring.items() == ["work", "work-probe"]
    assert cli("auth", "whoami", "--profile", "work-probe").out == "user@example.com\n"


def test_an_item_that_is_gone_means_signed_out(api, cli, config, keyring):
    login(cli, "--use-keyring")
    words = ["clear", "--", "service", "podstack", "account", "default"]
    subprocess.check_call([keyring.real] + words)
    assert cli("auth", "whoami", code=4).error == "Error: Not authenticated"
    assert cli("auth", "logout").err == "Logged out of profile 'default'\n"
    login(cli)
    assert keyring.items() == ["default"]


def test_settings_cannot_lose_sight_of_a_login(api, cli, config, keyring):
    login(cli, "--use-keyring")
    for words in (["set", "auth.storage", "file"], ["unset", "auth.storage"]):
        done = cli("config", *words, code=1)
        assert done.error == "Error: The login of profile 'default' is in the keyring"
    cli("config", "reset", "--yes")
    assert cli("auth", "whoami").out == "user@example.com\n"
    login(cli, "--no-keyring", token=OTHER)
    cli("config", "set", "auth.storage", "keyring")
    assert cli("auth", "whoami").out == "other@example.com\n"  # it says where the next one goes
    login(cli)
    assert keyring.items() == ["default"] and "token" not in kept(config)


# -- what does not fit

LETTERS = podstack.NAME_LETTERS + "-_"


def long_token(size):
    """A token that does not compress."""
    chosen = random.Random(size)
    return "psk_" + "".join(chosen.choice(LETTERS) for _ in range(size - 4))


def test_a_login_that_is_too_long_is_refused_and_nothing_changes(api, cli, config, keyring):
    fits, too_long = long_token(7900), long_token(8200)
    for token in (fits, too_long):
        account = api.account_of("user@example.com")
        api.tokens[token] = sandbox.Token(token, account, api.clock.now())
    login(cli, "--use-keyring", token=fits)
    before, item = config.read_bytes(), keyring.item()
    done = login(cli, token=too_long, code=1)
    assert done.err == (
        "Error: Cannot use the keyring: the login is too long for it\n"
        "Generate a shorter token\n" + NO_KEYRING
    )
    assert config.read_bytes() == before and keyring.item() == item
    assert cli("auth", "token").out == fits + "\n"


def test_an_item_is_stored_whole_or_not_at_all(keyring):
    item = podstack.SecretService(podstack.App(None, None, None, dict(os.environ)), "default")
    item.write("x" * 8191)
    with pytest.raises(podstack.PodError, match="too long"):
        item.write("y" * 8192)
    assert item.read() == "x" * 8191


# -- a keyring that does not serve

SITUATIONS = {
    "not-installed": (
        "secret-tool is not installed",
        "Install it (Debian: libsecret-tools, Fedora: libsecret)",
    ),
    "no-bus": ("there is no D-Bus session here", "Start one: dbus-run-session"),
    "dead-bus": ("the D-Bus session does not answer", "Start one: dbus-run-session"),
    "no-provider": ("no keyring service is installed", "Install gnome-keyring"),
    "no-login-keyring": ("there is no login keyring", "Create it: " + UNLOCK),
    "locked": ("it is locked", "Unlock it: " + UNLOCK),
}


def enter(situation, machine, monkeypatch, tmp_path):
    """Bring the machine into a situation in which its keyring does not serve."""
    machine.end()
    for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    if situation == "not-installed":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif situation == "dead-bus":
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=%s/none" % tmp_path)
    elif situation == "no-provider":
        bus = tmp_path / "bus.conf"
        bus.write_text(BARE_BUS % "")
        machine.start("", bus=bus)
    elif situation == "no-login-keyring":
        for path in (machine.home / ".local/share/keyrings").iterdir():
            path.unlink()
        machine.start(STARTED)
    elif situation == "locked":
        machine.start(STARTED)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_keyring_that_does_not_serve_is_an_error_and_never_plain_text(
    api, cli, config, machine, monkeypatch, tmp_path, browser, situation
):
    problem, advice = SITUATIONS[situation]
    error = "Error: Cannot use the keyring: %s\n%s\n%s" % (problem, advice, NO_KEYRING)
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    before = config.read_bytes()
    enter(situation, machine, monkeypatch, tmp_path)
    assert login(cli, code=1).err == error  # the choice is remembered
    new = {"PODSTACK_CONFIG": str(tmp_path / "new.yaml")}
    assert login(cli, code=1, env=dict(new, PODSTACK_STORAGE="keyring")).err == error
    asked = len(api.calls())
    assert cli("auth", "login", "--browser", "--use-keyring", code=1).err == error
    assert not api.calls("GET", "/oauth/authorize") and len(api.calls()) == asked + 2
    if situation != "no-login-keyring":  # there the item is gone
        for words in (["auth", "whoami"], ["auth", "logout"], ["auth", "token"], ["pod", "list"]):
            assert cli(*words, code=1).err == error
    assert cli("auth", "list").code == 0
    assert config.read_bytes() == before
    assert not (tmp_path / "new.yaml").exists()
    done = login(cli, "--no-keyring")
    shown = "Warning: the keyring still holds the earlier login: Cannot use the keyring: "
    assert (shown + problem in done.err) == (situation != "no-login-keyring")
    assert kept(config)["token"] == USER
    search_for_tokens(machine, api, but=[config])


@pytest.mark.parametrize("setup", [UNLOCKED, None], ids=["locked", "no-login-keyring"])
def test_the_advice_mends_it(api, cli, config, machine, setup):
    if setup:
        machine.start(setup)
        login(cli, "--use-keyring")
    machine.start(STARTED)
    advice = login(cli, "--use-keyring", code=1).err.splitlines()[1].partition(": ")[2]
    done = subprocess.run(
        ["bash", "-c", advice], input=b"a password\n", env=machine.session.env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0
    login(cli, "--use-keyring")
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert machine.items() == ["default"]


# -- a keyring that does not answer


def frozen(machine):
    """A keyring service that has the name and never answers."""
    session = machine.start(UNLOCKED)
    wait_for(lambda: session.owner(SECRET_NAME))
    os.kill(session.owner(SECRET_NAME), signal.SIGSTOP)


def thaw(machine):
    os.kill(machine.session.owner(SECRET_NAME), signal.SIGCONT)


@pytest.fixture
def display():
    """A screen that nobody looks at."""
    need("Xvfb")
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "640x480x24", "-nolisten", "tcp"],
        pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as stream:
        number = stream.readline().strip()
    yield ":" + number
    server.terminate()
    server.wait()


PROMPTER = "org.gnome.keyring.SystemPrompter"


def test_without_a_terminal_no_prompt_is_raised_by_reading(api, cli, config, machine, display):
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    session = machine.start(STARTED, display=display)
    for words in (["auth", "whoami"], ["auth", "token"], ["auth", "refresh"], ["auth", "logout"]):
        assert cli(*words, code=1).error == "Error: Cannot use the keyring: it is locked"
    assert session.owner(PROMPTER) is None


@pytest.mark.slow
def test_on_a_terminal_the_prompt_is_waited_for(api, config, cli, machine, display, terminal):
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    session = machine.start(STARTED, display=display)
    screen = terminal("auth", "whoami")
    screen.expect(r"Waiting for your keyring to be unlocked \.\.\.")
    wait_for(lambda: session.owner(PROMPTER))
    screen.type("\x03")
    assert screen.end() == 130
    assert "Traceback" not in screen.shown


@pytest.mark.slow
@pytest.mark.parametrize("words", ["auth whoami", "auth logout", "auth login --token %s" % USER])
def test_on_a_terminal_the_password_unlocks_it(api, cli, config, machine, display, terminal, words):
    need("xdotool")
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    session = machine.start(STARTED, display=display)
    screen = terminal(*words.split())
    window = ["search", "--sync", "--onlyvisible", "--name", "Unlock"]
    on_screen(session, *(window + ["windowfocus", "--sync"]))
    on_screen(session, "type", "a password")
    on_screen(session, "key", "Return")
    assert screen.end(60) == 0
    assert machine.items() == ([] if "logout" in words else ["default"])


def on_screen(session, *words):
    """What xdotool says to a few words about the session's display."""
    done = subprocess.run(
        ["xdotool"] + list(words), env=session.env, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return done.stdout.decode()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["auth login --token %s" % USER, "auth logout"])
def test_ctrl_c_ends_the_wait_for_a_password_and_nobody_else_waits(
    api, cli, config, machine, display, terminal, words
):
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    session = machine.start(STARTED, display=display)
    screen = terminal(*words.split())
    wait_for(lambda: session.owner(PROMPTER))
    cli("config", "set", "defaults.project", "mine")
    before = config.read_bytes()
    screen.type("\x03")
    assert screen.end() == 130
    assert config.read_bytes() == before


SILENT = (
    "Error: Cannot use the keyring: it does not answer\nUnlock it, then try again\n" + NO_KEYRING
)


def timed(cli, *words, **more):
    started = time.monotonic()
    done = cli(*words, **more)
    return done, time.monotonic() - started


@pytest.mark.slow
def test_without_a_terminal_a_silent_keyring_is_given_ten_seconds(api, cli, config, machine):
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    before = config.read_bytes()
    frozen(machine)
    for words in (["auth", "whoami"], ["auth", "login", "--token", USER], ["auth", "logout"]):
        done, spent = timed(cli, *words, code=1)
        assert done.err == "Waiting for your keyring to be unlocked ...\n" + SILENT
        assert 9.5 < spent < 20
    done, spent = timed(cli, "auth", "doctor", code=1)
    assert re.search(
        "^fail  keyring    Cannot use the keyring: it does not answer$", done.out, re.M
    )
    assert 9.5 < spent < 20 and " token " not in done.out
    assert config.read_bytes() == before
    thaw(machine)
    assert cli("auth", "whoami").out == "user@example.com\n"


@pytest.mark.slow
def test_without_a_terminal_an_unanswered_prompt_is_given_ten_seconds(
    api, cli, config, machine, display
):
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    before = config.read_bytes()
    machine.start(STARTED, display=display)
    done, spent = timed(cli, "auth", "login", "--token", USER, code=1)
    assert done.err.endswith(SILENT) and 9.5 < spent < 20
    assert config.read_bytes() == before


@pytest.mark.slow
def test_on_a_terminal_an_unanswered_prompt_is_given_a_minute(
    api, cli, config, machine, display, terminal
):
    machine.start(UNLOCKED)
    login(cli, "--use-keyring")
    machine.start(STARTED, display=display)
    started = time.monotonic()
    screen = terminal("auth", "whoami", "--no-color")
    assert screen.end(120) == 1
    assert 59 < time.monotonic() - started < 80
    assert "Error: Cannot use the keyring: it does not answer" in screen.shown


@pytest.mark.slow
def test_on_a_terminal_a_service_that_does_not_start_is_named(
    api, config, machine, terminal, tmp_path
):
    services = tmp_path / "services"
    services.mkdir()
    service = "[D-BUS Service]\nName=%s\nExec=/bin/sleep 600\n" % SECRET_NAME
    (services / "secrets.service").write_text(service)
    bus = tmp_path / "bus.conf"
    bus.write_text(BARE_BUS % ("<servicedir>%s</servicedir>" % services))
    machine.start("", bus=bus)
    screen = terminal("auth", "login", "--token", USER, "--use-keyring", "--no-color")
    assert screen.end(90) == 1
    assert "Error: Cannot use the keyring: the keyring service does not start" in screen.shown
    assert not config.exists()


# -- many at once, and interruptions


def expire(api, config):
    """Let the access tokens be past their time, here and at the server."""
    config.write_text(re.sub(r"expires: .*", "expires: 2020-01-01T00:00:00Z", config.read_text()))
    for token in list(api.tokens):
        if token.startswith("psa_"):
            del api.tokens[token]


def at_once(count, *words, env=None):
    """Run `count` processes at once; returns [(code, stdout, stderr)]."""
    ends, together = [], threading.Barrier(count)

    def run(number):
        more = env(number) if env else {}
        together.wait()
        done = subprocess.run(
            [sys.executable, "-B", PODSTACK] + list(words), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, **more),
        )  # fmt: skip
        ends.append((done.returncode, done.stdout.decode(), done.stderr.decode()))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


@pytest.mark.slow
def test_ten_processes_spend_a_refresh_token_of_the_keyring_once(
    api, cli, config, keyring, browser
):
    cli("auth", "login", "--use-keyring", "--browser")
    expire(api, config)
    api.next("/oauth/token", delay=1)
    assert at_once(10, "auth", "whoami") == [(0, "user@example.com\n", "")] * 10
    assert (api.refreshes, api.reuses) == (1, 0)
    assert keyring.items() == ["default"]
    cli("auth", "refresh")


@pytest.mark.slow
def test_logins_at_once_leave_one_whole_login(api, cli, config, keyring, browser):
    login(cli, "--use-keyring", token=OTHER)
    ends = at_once(6, "auth", "login", "--browser", "--use-keyring")
    assert [code for code, _, _ in ends] == [0] * 6, ends
    assert keyring.items() == ["default"]
    assert cli("auth", "whoami").out == "user@example.com\n"
    cli("auth", "refresh")
    assert api.reuses == 0


def test_ctrl_c_lets_the_keyring_store_the_new_pair(
    api, cli, config, keyring, browser, terminal, tmp_path
):
    """On a terminal Ctrl-C reaches every child, but not the one that is storing."""
    cli("auth", "login", "--use-keyring", "--browser")
    expire(api, config)
    before, started, go = keyring.item(), tmp_path / "started", tmp_path / "go"
    keyring.wrap(
        'case "$*" in store*probe*) ;; store*) : >"%s"\n'
        'until [ -e "%s" ]; do sleep 0.05; done;; esac\n'
        'exec "%s" "$@"' % (started, go, keyring.real)
    )
    screen = terminal("auth", "whoami")
    wait_for(started.exists)
    screen.type("\x03")
    screen.expect(r"\^C")
    go.write_text("")
    assert screen.end() == 130
    assert "LOST" not in screen.shown
    assert keyring.item() != before
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert api.refreshes == 1


@pytest.mark.slow
def test_no_program_that_is_started_is_handed_a_secret(
    api, config, keyring, browser, monkeypatch, tmp_path
):
    """Every execve of every child, with its whole argument list and environment."""
    need("strace")
    monkeypatch.setenv("PODSTACK_API_TOKEN", OTHER)
    trace = tmp_path / "trace"
    tracing = ["strace", "-f", "-qq", "-v", "-s", "65536", "-e", "trace=execve", "-o", str(trace)]
    execs = ""
    for words in (
        "auth login --use-keyring --browser",
        "--profile default auth refresh",
        "--profile default auth whoami",
        "--profile command auth whoami",
        "--profile default auth logout --revoke",
    ):
        if "command" in words:
            program = "profiles:\n  command:\n    token_command: [sh, -c, exec true]\n"
            program += "    api_endpoint: %s\n" % api.url
            config.write_text(config.read_text() + program)
        argv = tracing + [sys.executable, "-B", PODSTACK] + words.split()
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert done.returncode == (4 if "command" in words else 0), done.stderr.decode()
        # What the user started himself has the user's own environment.
        execs += "".join(trace.read_text().splitlines(True)[1:])
    assert execs.count("/secret-tool") > 10 and '"exec true"' in execs and '"person"' in execs
    for secret in secrets_of(api) + ["PODSTACK_API_TOKEN"]:
        assert secret not in execs, secret


@pytest.mark.slow
def test_a_logout_during_a_refresh_leaves_nothing(api, cli, config, keyring, browser):
    cli("auth", "login", "--use-keyring", "--browser")
    expire(api, config)
    api.next("/oauth/token", delay=1)
    renewing = threading.Thread(target=at_once, args=(1, "auth", "whoami"))
    renewing.start()
    wait_for(lambda: len(api.calls("POST", "/oauth/token")) == 2)  # the login's and this one
    assert cli("auth", "logout").err == "Logged out of profile 'default'\n"
    renewing.join()
    assert keyring.items() == [] and kept(config) == {"storage": "keyring"}


# -- a keyring that lies


def stub(machine, api, config, script):
    """A profile whose login is in the keyring, and a secret-tool that is a shell script."""
    config.write_text("auth:\n  endpoint: %s\n  storage: keyring\n" % api.url)
    config.chmod(0o600)
    machine.wrap(script)


def packed(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return b"ps1." + base64.urlsafe_b64encode(zlib.compress(data))


GOOD = packed({"token": USER})
LONE = {"token": USER, "refresh_token": "\ud800"}
SHAPES = [
    b"", b" ", b"\n", b"ps1.", b"ps1", b"ps2." + GOOD[4:], b"PS1." + GOOD[4:], GOOD[4:],
    USER.encode(),
    b"go-keyring-base64:" + base64.b64encode(USER.encode()), b"\0", b"\0" + GOOD, GOOD + b"\0",
    GOOD + b"\n", b"\n" + GOOD, GOOD + GOOD, GOOD[:-1], GOOD[:-4], GOOD[:-5], GOOD[:20],
    GOOD + b"AAAA", b"\xef\xbb\xbf" + GOOD, b"\xff\xfe", "ps1.\u00e9".encode(), b"\x1b[31mred",
    GOOD.replace(b"ps1.", b"ps1.\xc2\xa0"), GOOD.hex().encode(), b"ps1." + GOOD.hex().encode(),
    b"ps1." + base64.urlsafe_b64encode(json.dumps({"token": USER}).encode()), b"ps1.!!!!",
    b"ps1." + b"A" * 4_000_000, b"x" * 20_000_000, packed(b""), packed(b"null"), packed(b"{"),
    packed(b"\xff\xfe"), packed([]), packed([USER]), packed(USER), packed(7), packed(True),
    packed({}), packed({"token": None}), packed({"token": ""}), packed({"token": 5}),
    packed({"token": [USER]}), packed({"token": {"a": 1}}), packed({"token": "two words"}),
    packed({"token": USER + "\n"}), packed({"token": "\r\nX-Evil: 1"}),
    packed({"token": "caf\u00e9"}),
    packed({"token": "\ud800"}), packed({"token": "\x1b[2J"}), packed({"token": "\0"}),
    packed({"Token": USER}), packed(b'{"token": 1e999}'), packed(b"[" * 100_000),
    packed(b'{"a":' * 50_000), packed(b"1" * 500_000), packed(b" " * 50_000_000),
    packed(b'{"token": "' + b"a" * 30_000_000 + b'"}'), b"ps1." + base64.urlsafe_b64encode(
        zlib.compress(zlib.compress(json.dumps({"token": USER}).encode()))),
]  # fmt: skip
STILL_GOOD = [
    GOOD,
    packed({"token": USER, "refresh_token": None}),
    packed({"token": USER, "refresh_token": ["psr_x"]}),
    packed({"token": USER, "refresh_token": 7}),
    packed(LONE),
    packed({"token": USER, "more": {"of": ["a", "later", "version"]}}),
    packed(b'\n {"token": "x", "token": "' + USER.encode() + b'"} '),
]


def mutations(count):
    """Copies of a good payload with a few bytes changed, always the same ones."""
    chance = random.Random(2026)
    for _ in range(count):
        data = bytearray(GOOD)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            what = chance.randrange(3)
            if what == 0:
                data[at] = chance.randrange(256)
            elif what == 1:
                del data[at]
            else:
                data[at:at] = bytes([chance.randrange(256)])
        yield bytes(data)


def test_a_hundred_hostile_answers_give_the_right_value_or_one_error(
    api, cli, config, machine, tmp_path
):
    answer = tmp_path / "answer"
    stub(
        machine, api, config, 'case "$1" in search) echo "secret = x";; *) cat "%s";; esac' % answer
    )
    before, right, wrong = config.read_bytes(), 0, 0
    for payload in SHAPES + STILL_GOOD + list(mutations(60)):
        answer.write_bytes(payload)
        done = cli("auth", "token", code=None)
        assert "This is a bug" not in done.err and "\x1b" not in done.err + done.out
        if done.code == 0:
            assert done.out == USER + "\n", payload
            assert payload not in SHAPES
            right += 1
            continue
        assert (done.code, done.out) == (1, ""), payload
        assert done.error == (
            "Error: Cannot use the keyring: its item for this profile is not one of ours"
        )
        assert payload not in STILL_GOOD
        shown = payload.decode("utf-8", "replace").strip()
        assert len(shown) < 8 or shown not in done.err
        wrong += 1
    assert wrong + right >= 120 and right >= len(STILL_GOOD)
    assert config.read_bytes() == before and not api.requests


NOT_STARTED = "the keyring service does not start\nRestart gnome-keyring\n"
LIES = [
    pytest.param("store) cat >/dev/null; echo 'secret-tool: password is too long' >&2",
                 "the login is too long for it\nGenerate a shorter token\n", id="cut-with-exit-0"),
    pytest.param("store) cat >/dev/null; echo 'secret-tool: \033[1mbroken' >&2; exit 1",
                 r"secret-tool: \x1b[1mbroken", id="unknown-words"),
    pytest.param("store) cat >/dev/null; echo '(service_start_timeout=25000ms)' >&2; exit 1",
                 NOT_STARTED, id="the-bus-gave-up-first"),
    pytest.param("store) cat >/dev/null; echo 'Timeout was reached' >&2; exit 1",
                 NOT_STARTED, id="its-client-gave-up-first"),
    pytest.param("store) cat >/dev/null; exit 1", "secret-tool failed", id="without-a-word"),
    pytest.param("store) exit 0", "it does not give back what it was given", id="kept-nothing"),
    pytest.param("store) cat >/dev/null;; search) echo 'secret = x';; lookup) printf ps1.other",
                 "it does not give back what it was given", id="kept-another"),
    pytest.param("store) cat >/dev/null;; search) echo 'secret = x';; lookup) exit 1",
                 "it is locked", id="not-readable"),
    pytest.param("*) exit 2", "secret-tool failed", id="usage"),
    pytest.param("*) kill -9 $$", "secret-tool failed", id="killed"),
    pytest.param("*) cat >/dev/null; head -c 3000000 /dev/zero | tr '\\0' x >&2",
                 "x" * 60, id="chatter"),
    pytest.param("store) printf '%0190d%s' 0 \"$(cat)\" >&2; exit 1", "0" * 190 + "****\n",
                 id="what-it-was-given"),
]  # fmt: skip


@pytest.mark.parametrize("script, problem", LIES)
def test_what_is_not_stored_whole_is_an_error_and_the_old_login_stays(
    api, cli, config, machine, script, problem
):
    machine.wrap('case "$1" in %s;; esac' % script)
    config.write_text("auth:\n  token: %s\n  endpoint: %s\n" % (OTHER, api.url))
    config.chmod(0o600)
    before = config.read_bytes()
    done = login(cli, "--use-keyring", code=1)
    assert done.err.startswith("Error: Cannot use the keyring: " + problem)
    assert len(done.err) < 1000 and "ps1." not in done.err
    assert config.read_bytes() == before
    assert cli("auth", "whoami").out == "other@example.com\n"


def test_what_proves_the_keyring_is_as_long_as_a_login(api, cli, config, machine, tmp_path):
    stub(machine, api, config, 'case "$1" in store) wc -c >"%s/size"; exit 1;; esac' % tmp_path)
    login(cli, "--use-keyring", code=1)
    assert int((tmp_path / "size").read_text()) == 2048


def test_a_delete_that_did_nothing_keeps_the_record(api, cli, config, machine):
    stub(machine, api, config, 'case "$1" in search) echo "secret = x";; esac')
    before = config.read_bytes()
    done = cli("auth", "logout", code=1)
    assert done.error == "Error: Cannot use the keyring: it is locked"
    assert config.read_bytes() == before

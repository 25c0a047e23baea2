"""How `podstack auth login` chooses the way in: a row for each line of the table and machine."""

import os
import time
from types import SimpleNamespace

import pytest
import sandbox
from conftest import Stream

import podstack

METADATA = {
    "issuer": "https://login.example.com",
    "authorization_endpoint": "https://login.example.com/authorize",
    "token_endpoint": "https://login.example.com/token",
}
DEVICE = {"device_authorization_endpoint": "https://login.example.com/device"}
SSH = {"SSH_CONNECTION": "192.0.2.7 50000 192.0.2.8 22"}
NO_TERMINAL = "There is no terminal to sign in from"


def server(device=True):
    metadata = dict(METADATA, **(DEVICE if device else {}))
    return podstack.AuthServer(None, METADATA["issuer"], metadata, "podstack-cli")


def options(**given):
    chosen = {"token": None, "device": False, "browser": False, "no_browser": False}
    return SimpleNamespace(**dict(chosen, **given))


def way(given=None, to=server, **facts):
    """The way in, or the error's message, for these options in these surroundings."""
    facts = dict({"terminal": True, "graphical": True}, **facts)
    place = {name for name, fact in facts.items() if fact}
    try:
        return podstack.choose_way(options(**(given or {})), to and to(), place)
    except podstack.PodError as error:
        return "exit %d: %s" % (error.code, error.message)


# ---- the table, line by line


@pytest.mark.parametrize("token", ["psk_sandbox_user", "-", ""])
@pytest.mark.parametrize("more", [{}, {"device": True}, {"browser": True}, {"no_browser": True}])
def test_a_given_token_comes_before_everything(token, more):
    for to in (server, None):
        for terminal in (True, False):
            assert way(dict(more, token=token), to, terminal=terminal) == "token"


@pytest.mark.parametrize("given", [{}, {"device": True}, {"browser": True}, {"no_browser": True}])
@pytest.mark.parametrize("facts", [{}, {"ssh": True}, {"browser_variable": True}])
def test_without_metadata_a_terminal_asks_for_a_token_and_no_terminal_is_an_error(given, facts):
    assert way(given, None, **facts) == "prompt"
    assert way(given, None, terminal=False, **facts) == "exit 2: " + NO_TERMINAL


@pytest.mark.parametrize("facts", [{}, {"terminal": False}, {"browser_variable": True}])
@pytest.mark.parametrize("more", [{}, {"browser": True}, {"no_browser": True}])
def test_device_comes_before_every_browser(facts, more):
    assert way(dict(more, device=True), **facts) == "device"


def test_device_where_the_server_has_none_is_an_error_that_names_the_other_way():
    with pytest.raises(podstack.PodError) as caught:
        podstack.choose_way(options(device=True), server(device=False), set())
    assert caught.value.code == 1
    assert caught.value.message == "This server has no device login"
    assert caught.value.hint == "Use: podstack auth login --no-browser"


@pytest.mark.parametrize("given", [{"no_browser": True}, {"no_browser": True, "browser": True}])
@pytest.mark.parametrize("facts", [{}, {"terminal": False}, {"ssh": True}])
def test_no_browser_prints_the_address_anywhere(given, facts):
    assert way(given, **facts) == "url"
    assert way(given, browser_variable=True, **facts) == "url"


@pytest.mark.parametrize(
    "facts", [{}, {"terminal": False}, {"ssh": True}, {"container": True}, {"graphical": False}]
)
def test_browser_and_the_variable_of_that_name_come_before_the_surroundings(facts):
    assert way({"browser": True}, **facts) == "browser"
    assert way(browser_variable=True, **facts) == "browser"


@pytest.mark.parametrize("facts", [{}, {"ssh": True}, {"container": True}, {"graphical": False}])
def test_without_a_terminal_nobody_is_asked(facts):
    assert way(terminal=False, **facts) == "exit 2: " + NO_TERMINAL


@pytest.mark.parametrize("facts", [{"ssh": True}, {"container": True}, {"graphical": False}])
def test_where_no_browser_can_be_seen_the_device_login_serves_if_there_is_one(facts):
    assert way(**facts) == "device"
    assert way(to=lambda: server(device=False), **facts) == "url"


def test_else_the_browser_opens():
    assert way() == "browser"
    assert way(to=lambda: server(device=False)) == "browser"


# ---- machines


@pytest.fixture
def machine(tmp_path):
    """`machine(platform, env, programs, terminal)` is the App of a machine with these on it."""

    def make(platform="linux", env=None, programs=(), terminal=True, links=()):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name in programs:
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        for name, target in links:
            (folder / name).symlink_to(folder / target)
        return podstack.App(
            stdin=Stream(tty=terminal), stdout=Stream(tty=terminal), stderr=Stream(tty=terminal),
            environ=dict({"PATH": str(folder)}, **(env or {})), platform=platform,
        )  # fmt: skip

    return make


X11, WAYLAND = {"DISPLAY": ":0"}, {"WAYLAND_DISPLAY": "wayland-0"}
WSL = {"WSL_DISTRO_NAME": "Debian"}
MACHINES = [
    # id, platform, environment, programs, way
    ("linux-x11", "linux", X11, ["xdg-open"], "browser"),
    ("linux-wayland", "linux", WAYLAND, ["firefox"], "browser"),
    ("linux-empty-display", "linux", {"DISPLAY": ""}, ["xdg-open", "firefox"], "device"),
    ("linux-console", "linux", {}, ["xdg-open", "w3m"], "device"),
    ("freebsd-x11", "freebsd14", X11, ["xdg-open"], "browser"),
    ("freebsd-console", "freebsd14", {}, ["xdg-open"], "device"),
    ("macos", "darwin", {}, [], "browser"),
    ("macos-over-ssh", "darwin", SSH, [], "device"),
    ("windows", "win32", {}, [], "browser"),
    ("windows-over-ssh", "win32", SSH, [], "device"),
    ("wsl-with-wslview", "linux", WSL, ["wslview"], "browser"),
    ("wsl-with-windows-on-the-path", "linux", WSL, ["rundll32.exe"], "browser"),
    ("wsl-with-neither", "linux", WSL, ["xdg-open", "lynx"], "device"),
    ("wsl-with-a-linux-desktop", "linux", dict(WSL, **X11), ["firefox"], "browser"),
    (
        "wsl-by-interop-alone",
        "linux",
        {"WSL_INTEROP": "/run/1"},
        ["wslview"],
        "browser",
    ),
    ("ssh", "linux", SSH, ["xdg-open"], "device"),
    ("ssh-with-display", "linux", dict(SSH, DISPLAY="localhost:10.0"), ["firefox"], "device"),
    ("ssh-by-tty-alone", "linux", dict(X11, SSH_TTY="/dev/pts/3"), ["firefox"], "device"),
    ("podman", "linux", dict(X11, container="podman"), ["firefox"], "device"),
    ("kubernetes", "linux", dict(X11, KUBERNETES_SERVICE_HOST="::1"), ["firefox"], "device"),
    (
        "text-browsers-only",
        "linux",
        X11,
        ["lynx", "w3m", "links", "elinks", "www-browser"],
        "device",
    ),
    ("no-browser-at-all", "linux", X11, [], "device"),
    ("variable", "linux", {"BROWSER": "firefox"}, ["firefox"], "browser"),
    ("variable-over-ssh", "linux", dict(SSH, BROWSER="firefox"), ["firefox"], "browser"),
    ("variable-in-a-container", "linux", {"container": "docker", "BROWSER": "a"}, ["a"], "browser"),
    ("variable-empty", "linux", {"BROWSER": ""}, ["firefox"], "device"),
]


@pytest.mark.parametrize(
    "platform, env, programs, expected",
    [pytest.param(*row[1:], id=row[0]) for row in MACHINES],
)
def test_each_machine_gets_its_way(machine, platform, env, programs, expected):
    app = machine(platform, env, programs)
    place = podstack.surroundings(app, exists=lambda path: False)
    assert podstack.choose_way(options(), server(), place) == expected
    elsewhere = "url" if expected == "device" else expected
    assert podstack.choose_way(options(), server(device=False), place) == elsewhere


@pytest.mark.parametrize("mark", ["/.dockerenv", "/run/.containerenv"])
def test_a_container_is_known_by_its_mark(machine, mark):
    app = machine(env=X11, programs=["firefox"])
    place = podstack.surroundings(app, exists=lambda path: path == mark)
    assert podstack.choose_way(options(), server(), place) == "device"


@pytest.mark.parametrize("env", [{"CI": "true"}, {"CI": "true", "DISPLAY": ":99"}, {}, SSH])
def test_in_ci_and_cron_there_is_no_terminal(machine, env):
    place = podstack.surroundings(machine(env=env, programs=["firefox"], terminal=False))
    with pytest.raises(podstack.UsageError) as caught:
        podstack.choose_way(options(), server(), place)
    assert caught.value.message == NO_TERMINAL
    assert caught.value.hint == "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)"


# ---- the program that opens the page


def command(app):
    found = app.browser_command()
    return found and [os.path.basename(found[0])] + found[1:]


HANDLER = ["rundll32.exe", "url.dll,FileProtocolHandler", "%s"]
COMMANDS = [
    ("desktop", "linux", X11, ["firefox", "xdg-open"], ["xdg-open", "%s"]),
    ("no-xdg-open", "linux", X11, ["google-chrome", "firefox"], ["firefox", "%s"]),
    ("xdg-open-would-start-a-text-browser", "linux", {}, ["xdg-open", "firefox"], None),
    ("macos", "darwin", {}, ["firefox"], ["open", "%s"]),
    ("windows", "win32", {"SystemRoot": "D:/Windows"}, [], HANDLER),
    ("wslview", "linux", dict(WSL, **X11), ["wslview", "rundll32.exe"], ["wslview", "%s"]),
    ("wsl", "linux", dict(WSL, **X11), ["rundll32.exe", "xdg-open"], HANDLER),
    ("named", "linux", {"BROWSER": "opera"}, ["opera"], ["opera", "%s"]),
    ("named-on-macos", "darwin", {"BROWSER": "opera"}, ["opera"], ["opera", "%s"]),
    ("words", "linux", {"BROWSER": "opera -n 'a b'"}, ["opera"], ["opera", "-n", "a b", "%s"]),
    ("place", "linux", {"BROWSER": "opera --url=%s -n"}, ["opera"], ["opera", "--url=%s", "-n"]),
    ("second-choice", "linux", {"BROWSER": "gone:opera"}, ["opera"], ["opera", "%s"]),
    ("missing", "linux", {"BROWSER": "/gone/opera"}, ["opera"], None),
    ("missing-on-a-desktop", "linux", dict(X11, BROWSER="gone"), ["firefox"], ["firefox", "%s"]),
    ("text", "linux", {"BROWSER": "w3m"}, ["w3m", "xdg-open"], None),
    ("text-on-a-desktop", "linux", dict(X11, BROWSER="w3m"), ["w3m", "firefox"], ["firefox", "%s"]),
    ("may-be-text", "linux", dict(X11, BROWSER="sensible-browser"),
     ["sensible-browser", "firefox"], ["firefox", "%s"]),
    ("xdg-open-named", "linux", dict(X11, BROWSER="xdg-open"), ["xdg-open"], ["xdg-open", "%s"]),
    ("xdg-open-named-on-a-console", "linux", {"BROWSER": "xdg-open"}, ["xdg-open"], None),
    ("open-quote", "linux", {"BROWSER": "opera 'x"}, ["opera"], None),
    ("blank", "linux", {"BROWSER": " : "}, ["opera"], None),
]  # fmt: skip


@pytest.mark.parametrize(
    "platform, env, programs, expected",
    [pytest.param(*row[1:], id=row[0]) for row in COMMANDS],
)
def test_the_browser_that_opens_the_page(machine, platform, env, programs, expected):
    assert command(machine(platform, env, programs)) == expected


def test_macos_opens_pages_with_a_program_of_its_own_wherever_path_leads(machine):
    app = machine("darwin", {}, ["open"])
    assert app.browser_command() == ["/usr/bin/open", "%s"]


def test_a_browser_that_does_not_start_is_none(machine):
    app = machine(env=X11, programs=["firefox"])
    with open(app.which("firefox"), "wb") as file:
        file.write(b"\x7fELF nonsense")
    assert app.browse("https://example.com/") is False


@pytest.mark.parametrize("variable", [{}, {"BROWSER": "x-www-browser"}])
def test_a_link_to_a_text_browser_is_one(machine, variable):
    app = machine(env=dict(X11, **variable), programs=["w3m"], links=[("x-www-browser", "w3m")])
    assert command(app) is None


def test_a_browser_in_the_current_directory_is_not_started(machine, tmp_path, monkeypatch):
    app = machine(env=dict(X11, PATH=":.:bin", BROWSER="firefox"), programs=["firefox"])
    monkeypatch.chdir(tmp_path)
    assert command(app) is None


# ---- as it happens


@pytest.fixture
def recorded(home):
    """`recorded(name, ...)` makes programs that note their name, words and environment."""
    folder = home / "bin"
    folder.mkdir()
    log = home / "started"

    def make(*names):
        for name in names:
            program = folder / name
            script = 'echo "$0 $* BROWSER=$BROWSER TOKEN=$PODSTACK_API_TOKEN" >> %s' % log
            program.write_text("#!/bin/sh\n%s.part && mv %s.part %s\n" % (script, log, log))
            program.chmod(0o755)
        return {"PATH": str(folder) + ":/usr/bin:/bin"}

    make.log = log
    return make


def wait_for(path, timeout=20):
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, "%s never came" % path
        time.sleep(0.02)
    return path.read_text()


TIMED_OUT = "Error: Nobody signed in within 0.1 s"


TEXT_BROWSERS = [
    "lynx", "w3m", "links", "elinks", "links2", "www-browser", "sensible-browser",
]  # fmt: skip


@pytest.mark.parametrize(
    "browser", [None, "w3m -T text/html", "/gone/firefox", "'"] + TEXT_BROWSERS
)
def test_a_text_browser_is_never_started(api, cli, recorded, browser):
    env = recorded("xdg-open", *TEXT_BROWSERS)
    env.update(BROWSER=browser, PATH=env["PATH"].partition(":")[0])
    argv = ["auth", "login", "--timeout", "0.1"] + (["--browser"] if browser is None else [])
    done = cli(*argv, env=env, code=4)
    assert "Open this address to sign in:\n\n  %s/oauth/authorize?" % api.url in done.err
    assert "No browser could be started here." in done.err
    assert done.error == TIMED_OUT
    assert not recorded.log.exists()


def test_xdg_open_is_told_of_no_text_browser_and_of_no_token(api, cli, recorded):
    env = recorded("xdg-open", "lynx")
    env.update(DISPLAY=":0", PODSTACK_API_TOKEN="psk_sandbox_user")
    cli("auth", "login", "--browser", "--timeout", "0.1", env=env, code=4)
    started = wait_for(recorded.log)
    assert started.count("\n") == 1
    assert "/xdg-open %s/oauth/authorize?response_type=code&" % api.url in started
    browsers = "x-www-browser:firefox:chromium:google-chrome:chromium-browser"
    assert started.endswith(" BROWSER=%s TOKEN=\n" % browsers)


def test_no_terminal_exits_2_and_names_the_token_ways(api, podstack_process):
    done = podstack_process("auth", "login", code=2)
    assert done.out == ""
    assert done.err == (
        "Error: There is no terminal to sign in from\n"
        "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)\n"
    )


def test_a_server_without_metadata_asks_for_a_token_unseen(api, terminal, config):
    api.oauth = False
    shown = terminal("auth", "login", "--device")
    shown.expect("API token: ")
    shown.type("psk_sandbox_user\n")
    assert shown.end() == 0
    assert "This server has no browser login." in shown.shown
    assert "Generate a new token from the dashboard (Account > API Tokens)" in shown.shown
    assert "Signed in as user@example.com" in shown.shown
    assert "psk_sandbox_user" not in shown.shown
    assert "psk_sandbox_user" in config.read_text()


def test_a_server_without_metadata_and_no_terminal_exits_2(api, podstack_process, config):
    api.oauth = False
    done = podstack_process("auth", "login", "--device", code=2)
    assert done.err == (
        "Error: There is no terminal to sign in from\n"
        "Use: podstack auth login --token - (or set PODSTACK_API_TOKEN)\n"
    )
    assert not config.exists()


def test_a_given_token_asks_nothing_of_the_authorization_server(api, cli, config):
    cli("auth", "login", "--token", "psk_sandbox_user", "--device", "--browser")
    assert [request.path for request in api.requests] == ["/v1/auth/whoami"]
    assert "psk_sandbox_user" in config.read_text()


def test_the_variable_browser_opens_the_page_over_ssh_without_a_terminal(api, podstack_process):
    env = dict(SSH, BROWSER=sandbox.browser_command("person"))
    done = podstack_process("auth", "login", env=env)
    assert done.out == ""
    assert "Signed in as user@example.com" in done.err
    assert "ssh -L" not in done.err  # the browser was opened here


@pytest.mark.parametrize(
    "env, line",
    [
        (SSH, "ssh -L %d:127.0.0.1:%d ada@192.0.2.8"),
        ({"SSH_TTY": "/dev/pts/1"}, "ssh -L %d:127.0.0.1:%d ada@SERVER"),
        ({"SSH_CONNECTION": "::1 5 2001:db8::7 22"}, "ssh -L %d:127.0.0.1:%d ada@2001:db8::7"),
    ],
    ids=["address", "unknown-address", "ipv6"],
)
def test_over_ssh_without_device_login_the_line_that_brings_the_port_is_shown(
    api, terminal, env, line
):
    api.device = False
    shown = terminal("auth", "login", "--timeout", "30", env=dict(env, USER="ada"))
    port = int(shown.expect(r"redirect_uri=http%3A%2F%2F127\.0\.0\.1%3A(\d+)%2Fcallback").group(1))
    shown.expect("Your browser is elsewhere\\? Run there first:")
    shown.expect("\r\n  %s\r\n" % (line % (port, port)))
    shown.type("\x03")
    assert shown.end() == 130


def test_without_ssh_no_such_line_is_shown(api, cli):
    done = cli("auth", "login", "--no-browser", "--timeout", "0.1", code=4)
    assert "ssh -L" not in done.err

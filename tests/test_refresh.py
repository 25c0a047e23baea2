"""A login lasts: due tokens are renewed before use, once for any number of processes.

A refresh token can be spent once (RFC 9700 §4.14), so the old pair is given up for a new one only
where the new one is sure to be kept, and nothing but `invalid_grant` ends a login.
"""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import PODSTACK, USER, Sandbox

import podstack

HOUR = 3600


@pytest.fixture(autouse=True)
def nothing_is_left(config):
    """No run leaves a temporary file behind, whatever happened to it."""
    yield
    assert set(os.listdir(str(config.parent))) <= {".lock", "config.yaml"}


@pytest.fixture
def cli(cli, api):
    """podstack, which shows a token to nobody but who asks for it."""

    def run(*words, **more):
        done = cli(*words, **more)
        for secret in secrets_of(api):
            assert secret not in done.err
            assert secret not in done.out or "token" in words
        return done

    return run


def secrets_of(api):
    """Every OAuth token that was ever given."""
    return [token for token in api.tokens if token.startswith("psa_")] + list(api.refresh_tokens)


def sign_in(api, config, left=HOUR, name=None, **more):
    """Store a login as `auth login` does; its access token has `left` seconds to go."""
    answer = api.issue_oauth()
    at = time.time() + left
    api.tokens[answer["access_token"]].expires = api.clock.now() + left
    login = {
        "token": answer["access_token"],
        "expires": podstack.format_time(at),
        "refresh_token": answer["refresh_token"],
        "endpoint": api.url,
        "issuer": api.issuer(),
        "email": "user@example.com",
    }
    login.update(more)
    data = {"profiles": {name: login}} if name else {"auth": login}
    config.write_text("# by hand\n" + podstack.yaml_dump(data) + "cli:\n  color: no  # never\n")
    config.chmod(0o600)
    return login


def kept(config):
    return podstack.yaml_load(config.read_text())["auth"]


def grants(api):
    """The requests at the token endpoint."""
    return api.calls("POST", "/oauth/token")


def bearers(api, path="/v1/"):
    return [call.headers["Authorization"].partition(" ")[2] for call in api.calls(None, path)]


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


# -- when


def test_a_due_token_is_renewed_before_use(api, cli, config):
    old = sign_in(api, config, left=30)
    assert cli("auth", "whoami").out == "user@example.com\n"
    new = kept(config)
    assert (api.refreshes, api.reuses) == (1, 0)
    assert new["token"] != old["token"] and new["refresh_token"] != old["refresh_token"]
    assert bearers(api) == [new["token"]]
    assert len(api.requests) == 4  # two of discovery, the refresh, the call
    unchanged = ("endpoint", "issuer", "email")
    assert [new[name] for name in unchanged] == [old[name] for name in unchanged]
    assert config.read_text().startswith("# by hand\n")
    assert config.read_text().endswith("cli:\n  color: no  # never\n")


def test_the_new_pair_is_saved_before_it_is_used(api, cli, config):
    sign_in(api, config, left=-5)
    seen = []
    api.report = lambda call: call.path == "/v1/auth/whoami" and seen.append(kept(config)["token"])
    cli("auth", "whoami")
    assert seen == bearers(api)


@pytest.mark.parametrize("left", [HOUR, 90])
def test_a_token_that_lasts_is_left_alone(api, cli, config, left):
    sign_in(api, config, left=left)
    before = config.read_bytes()
    cli("auth", "whoami")
    assert [call.path for call in api.requests] == ["/v1/auth/whoami"]
    assert config.read_bytes() == before


def test_a_token_refused_unexpectedly_is_renewed_once_more(api, cli, config):
    old = sign_in(api, config)
    del api.tokens[old["token"]]
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert bearers(api) == [old["token"], kept(config)["token"]]
    assert (api.refreshes, api.reuses) == (1, 0)


def test_a_second_refusal_is_the_answer(api, cli, config):
    old = sign_in(api, config)
    refusal = {"error": {"code": "invalid_token", "message": "No"}}
    api.next("/v1/auth/whoami", times=2, status=401, body=refusal)
    done = cli("auth", "whoami", code=4)
    assert done.err == (
        "Error: Invalid authentication token\n"
        "Generate a new token from the dashboard (Account > API Tokens)\n"
        "Token from profile 'default' in %s\n" % config
    )
    assert api.refreshes == 1 and len(bearers(api)) == 2
    assert kept(config)["token"] != old["token"]


@pytest.mark.parametrize("source", ["file", "environment"])
def test_an_api_token_is_never_renewed(api, cli, config, source):
    if source == "file":
        config.write_text("auth:\n  token: psk_gone\n  endpoint: %s\n" % api.url)
        config.chmod(0o600)
        cli("auth", "whoami", code=4)
    else:
        sign_in(api, config, left=-5)
        cli("auth", "whoami", code=4, env={"PODSTACK_API_TOKEN": "psk_gone"})
    assert [call.path for call in api.requests] == ["/v1/auth/whoami"]


def test_only_the_profile_in_use_is_renewed(api, cli, config):
    other = sign_in(api, config, left=-5, name="work")
    text = config.read_text()
    mine = sign_in(api, config, left=-5, name="home")
    work = podstack.yaml_dump({"work": other}).replace("\n", "\n  ")
    config.write_text(config.read_text().replace("cli:", "  %s\ncli:" % work.rstrip(), 1))
    cli("--profile", "home", "auth", "whoami")
    profiles = podstack.yaml_load(config.read_text())["profiles"]
    assert profiles["work"] == podstack.yaml_load(text)["profiles"]["work"] == other
    assert profiles["home"]["refresh_token"] != mine["refresh_token"]


def test_pages_read_side_by_side_renew_once(api, cli, config):
    old = sign_in(api, config)
    api.add_pods(900)
    api.page_delay = 0.05

    def revoke(call):
        if call.path == "/v1/pods":
            api.tokens.pop(old["token"], None)

    api.report = revoke  # once the first page is there
    rows = cli("pod", "list", "-o", "json").json
    assert len({row["id"] for row in rows}) == 900
    assert (api.refreshes, api.reuses) == (1, 0)


# -- what is sent


def test_the_refresh_names_the_client_and_the_resource(api, cli, config):
    api.clients = {"my-client"}
    answer = api.issue_oauth(client_id="my-client")
    old = sign_in(api, config, left=-5, refresh_token=answer["refresh_token"])
    config.write_text(config.read_text() + "api:\n  client_id: my-client\n")
    cli("auth", "whoami", env={"PODSTACK_CLIENT_ID": "another"})
    assert grants(api)[0].form == {
        "grant_type": ["refresh_token"],
        "refresh_token": [old["refresh_token"]],
        "client_id": ["my-client"],
        "resource": [api.url],
    }
    assert "Authorization" not in grants(api)[0].headers


def test_a_login_with_another_client_id_remembers_it(api, cli, config):
    """The profile keeps what the login was made with, also where it kept another before."""
    api.clients = {"podstack-cli"}
    config.write_text("profiles:\n  work:\n    client_id: my-client\n")
    config.chmod(0o600)
    env = {"BROWSER": "%s %s person" % (sys.executable, sys.modules["sandbox"].__file__)}
    env["PODSTACK_CLIENT_ID"] = "podstack-cli"
    options = ("--browser", "--timeout", "30")
    env["PODSTACK_PROFILE"] = "work"
    cli("auth", "login", *options, env=env)
    api.clients = {"podstack-cli"}
    cli("auth", "refresh", env={"PODSTACK_PROFILE": "work"})
    assert api.refreshes == 1


@pytest.mark.parametrize("given", [None, "", 7, ["psr_x"], {"a": "b"}, "two words", "caf\u00e9"])
def test_an_answer_without_a_refresh_token_keeps_the_old_one(api, cli, config, given):
    old = sign_in(api, config, left=-5)
    token = api.issue_oauth()["access_token"]
    body = {"access_token": token, "token_type": "bearer", "expires_in": 600}
    if given is not None:
        body["refresh_token"] = given
    api.next("/oauth/token", body=body)
    cli("auth", "whoami")
    assert kept(config)["token"] == token
    assert kept(config)["refresh_token"] == old["refresh_token"]


def change_issuer(api, other):
    api.resource_metadata = {"authorization_servers": [other.url]}


def change_path(api, other):
    api.issuer_path = "/tenant"


def drop_metadata(api, other):
    api.oauth = False


@pytest.mark.parametrize("change", [change_issuer, change_path, drop_metadata])
def test_where_the_issuer_changed_nothing_is_sent(api, cli, config, change):
    """A metadata document that somebody changed must not collect refresh tokens."""
    sign_in(api, config, left=-5)
    before = config.read_bytes()
    with Sandbox() as other:
        change(api, other)
        now = {change_issuer: other.url, change_path: api.url + "/tenant"}.get(change, "none")
        done = cli("auth", "whoami", code=4)
        assert done.err == (
            "Error: %s now names another authorization server: %s\n"
            "Sign in again: podstack auth login\n" % (api.url, now)
        )
        assert grants(api) == grants(other) == bearers(api) == []
        assert not [call for call in other.requests if "Authorization" in call.headers]
    assert config.read_bytes() == before


def test_no_issuer_is_not_the_issuer_of_that_name(api, cli, config):
    sign_in(api, config, left=-5, issuer="none")
    api.oauth = False
    done = cli("auth", "whoami", code=4)
    assert done.error == "Error: %s now names another authorization server: none" % api.url


# -- what ends a login, and what does not

TROUBLE = [
    pytest.param({"status": 503}, id="503"),
    pytest.param({"status": 500, "body": b"<html>oops</html>"}, id="500-html"),
    pytest.param({"status": 500, "body": {"error": "invalid_grant"}}, id="500-invalid-grant"),
    pytest.param({"status": 429, "headers": {"Retry-After": "3"}}, id="429"),
    pytest.param({"drop": True}, id="no-answer"),
    pytest.param({"status": 200, "body": b"<html>log in to the wifi</html>"}, id="html"),
    pytest.param({"status": 200, "body": b""}, id="empty"),
    pytest.param({"status": 200, "body": [1]}, id="list"),
    pytest.param({"status": 200, "body": {}}, id="no-token"),
    pytest.param({"status": 200, "body": {"access_token": ["psa_x"]}}, id="list-token"),
    pytest.param({"status": 200, "body": {"access_token": "a b"}}, id="spaced-token"),
    pytest.param({"status": 200, "body": {"access_token": "x\n"}}, id="newline-token"),
    pytest.param({"body": {"access_token": "psa_x", "token_type": "mac"}}, id="token-type"),
    pytest.param({"status": 400, "body": {"error": "invalid_request"}}, id="invalid-request"),
    pytest.param({"status": 401, "body": {"error": "invalid_client"}}, id="invalid-client"),
    pytest.param({"status": 400, "body": {"error": ["invalid_grant"]}}, id="error-list"),
    pytest.param({"status": 400, "body": b"\xff\xfe"}, id="400-garbage"),
    pytest.param({"redirect": "/elsewhere", "status": 307}, id="redirect"),
]


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_at_the_token_endpoint_leaves_the_login_as_it_is(api, cli, config, trouble):
    sign_in(api, config, left=-5)
    before = config.read_bytes()
    api.next("/oauth/token", **trouble)
    done = cli("auth", "whoami", code=7)
    assert done.error and done.out == ""
    assert config.read_bytes() == before
    assert len(grants(api)) == 1 and bearers(api) == []
    cli("auth", "whoami")  # the next one succeeds
    assert (api.refreshes, api.reuses) == (1, 0)


@pytest.mark.parametrize("trouble", TROUBLE[::4] + [{"status": 400, "body": {"error": "x"}}])
def test_a_token_that_still_serves_is_used_when_it_cannot_be_renewed(api, cli, config, trouble):
    old = sign_in(api, config, left=40)
    api.next("/oauth/token", **trouble)
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert bearers(api) == [old["token"]]


def test_the_discovery_failing_leaves_the_login_as_it_is(api, cli, config):
    sign_in(api, config, left=-5)
    before = config.read_bytes()
    api.next("/.well-known/", status=502)
    assert cli("auth", "whoami", code=7).error.startswith("Error: Podstack is having trouble")
    assert config.read_bytes() == before and grants(api) == []


def test_invalid_grant_ends_the_login(api, cli, config):
    old = sign_in(api, config, left=-5)
    api.kill(api.refresh_tokens[old["refresh_token"]].grant)
    done = cli("auth", "whoami", code=4)
    assert done.err == (
        "Error: Token expired\n"
        "Re-authenticate: podstack auth login\n"
        "Token from profile 'default' in %s\n" % config
    )
    assert bearers(api) == []
    done = cli("auth", "login", "--token", USER)
    assert "Replaced the login of user@example.com" in done.err


def test_a_pair_that_another_process_saved_outlives_invalid_grant(api, cli, config):
    """Without locks (some network file systems) two processes may spend one refresh token."""
    sign_in(api, config, left=-5)
    newer = []

    def renew(call):
        if call.path == "/oauth/token":
            newer.append(sign_in(api, config))

    api.report = renew
    api.next("/oauth/token", status=400, body={"error": "invalid_grant"})
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert bearers(api) == [newer[0]["token"]]


def test_a_login_that_another_process_ended_meanwhile_is_none(api, cli, config):
    sign_in(api, config, left=-5)
    text = "cli:\n  color: no\n"
    api.report = lambda call: call.path == "/oauth/token" and config.write_text(text)
    api.next("/oauth/token", status=400, body={"error": "invalid_grant"})
    assert cli("auth", "whoami", code=4).error == "Error: Token expired"
    assert bearers(api) == [] and config.read_text() == text


def test_a_login_that_ended_before_it_could_be_renewed_is_none(api, cli, config):
    sign_in(api, config, left=-5)
    api.report = lambda call: config.write_text("cli:\n  color: no\n")  # during the discovery
    assert cli("auth", "whoami", code=4).error == "Error: Not authenticated"
    assert grants(api) == bearers(api) == []


# -- the commands about the token itself


def test_auth_token_prints_the_renewed_token_alone(api, cli, config):
    sign_in(api, config, left=-5)
    done = cli("auth", "token")
    assert (done.out, done.err) == (kept(config)["token"] + "\n", "")


@pytest.mark.parametrize(
    "trouble, code",
    [({"status": 503}, 7), ({"status": 400, "body": {"error": "invalid_grant"}}, 4)],
    ids=["service-down", "login-over"],
)
def test_auth_token_prints_nothing_where_it_cannot_be_renewed(api, cli, config, trouble, code):
    sign_in(api, config, left=-5)
    api.next("/oauth/token", **trouble)
    assert cli("auth", "token", code=code).out == ""


def test_auth_refresh_acts_on_the_stored_login(api, cli, config):
    old = sign_in(api, config)
    done = cli("auth", "refresh", env={"PODSTACK_API_TOKEN": USER})
    assert done.out == "Token expires: %s\n" % kept(config)["expires"][:10]
    assert done.err == "Token refreshed\n"
    assert kept(config)["token"] != old["token"]


def test_auth_refresh_acts_on_the_stored_login_beside_a_token_command(api, cli, config):
    old = sign_in(api, config, token_command="false")
    cli("auth", "refresh")
    assert kept(config)["token"] != old["token"]


# -- the store


def full_disk():
    """Every write to a file fails, for root, too."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def start(*argv, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-B", PODSTACK] + list(argv), stdout=pipe, stderr=pipe, **options
    )


def end(process, code):
    out, err = (stream.decode() for stream in process.communicate(timeout=60))
    assert process.returncode == code, out + err
    return out, err


def test_where_nothing_can_be_saved_the_refresh_token_is_not_spent(api, config):
    sign_in(api, config, left=-5)
    before = config.read_bytes()
    _, err = end(start("auth", "whoami", preexec_fn=full_disk), 1)
    assert err.startswith("Error: Cannot write %s: File too large\n" % config)
    assert grants(api) == bearers(api) == []
    assert config.read_bytes() == before
    assert sorted(os.listdir(str(config.parent))) == [".lock", "config.yaml"]


def test_where_nothing_can_be_saved_a_token_that_serves_is_used(api, config):
    old = sign_in(api, config, left=40)
    out, err = end(start("auth", "whoami", "--debug", preexec_fn=full_disk), 0)
    assert out == "user@example.com\n"
    assert "debug: not refreshed: Cannot write %s: File too large\n" % config in err
    assert grants(api) == [] and bearers(api) == [old["token"]]


def test_a_save_that_fails_after_the_refresh_warns_and_goes_on(api, cli, config):
    sign_in(api, config, left=-5)

    def spoil(call):
        if call.path == "/oauth/token":
            config.write_text("auth: {\n")

    api.report = spoil
    done = cli("auth", "whoami")
    assert done.out == "user@example.com\n"
    assert done.err.startswith("Warning: the refreshed login is LOST after this: %s:1:" % config)
    assert config.read_text() == "auth: {\n"


def test_ctrl_c_waits_until_the_new_pair_is_saved(api, config):
    old = sign_in(api, config, left=-5)
    api.next("/oauth/token", delay=1)
    process = start("auth", "whoami")
    wait_for(lambda: grants(api))
    process.send_signal(signal.SIGINT)
    out, _ = end(process, 130)
    assert out == "" and bearers(api) == []
    new = kept(config)
    assert new["token"] in api.tokens and new["refresh_token"] != old["refresh_token"]


@pytest.mark.parametrize(
    "code, trouble",
    [
        (0, None),
        (7, {"status": 503}),
        (7, {"body": {"access_token": 5, "refresh_token": "psr_with_a_wrong_one"}}),
        (4, "invalid_grant"),
        (7, "save"),
    ],
)
def test_debug_shows_everything_but_the_tokens(api, config, code, trouble):
    old = sign_in(api, config, left=-5)
    if isinstance(trouble, dict):
        api.next("/oauth/token", **trouble)
    elif trouble == "invalid_grant":
        api.next("/oauth/token", status=400, body={"error": trouble})
    elif trouble == "save":
        api.next("/v1/auth/whoami", status=500)
        api.report = lambda call: "token" in call.path and config.write_text("auth: {\n")
    out, err = end(start("auth", "whoami", "--debug"), code)
    assert "debug: > POST /oauth/token" in err or "/oauth/token" in err
    assert ("Traceback" in err) == (code != 0)
    for secret in secrets_of(api) + [old["token"], "psr_with"]:
        assert secret not in err + out


# -- many at once


class HeldLock:
    """The config's lock, held by another process: this one."""

    def __init__(self, config):
        self.descriptor = os.open(str(config.parent / ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        os.write(self.descriptor, b"%d\n" % os.getpid())

    def release(self):
        os.close(self.descriptor)


def test_a_token_that_still_serves_does_not_wait_for_the_lock(api, cli, config):
    old = sign_in(api, config, left=40)
    lock = HeldLock(config)
    started = time.monotonic()
    assert cli("auth", "whoami").out == "user@example.com\n"
    assert time.monotonic() - started < 5
    lock.release()
    assert bearers(api) == [old["token"]] and grants(api) == []


def test_a_save_after_that_waits_for_the_lock_again(api, cli, config):
    sign_in(api, config, left=40)
    lock = HeldLock(config)
    again = threading.Timer(1, lock.release)
    api.report = lambda call: call.path == "/v1/projects" and again.start()
    cli("project", "use", "my-project")
    again.join()
    assert "project: my-project\n" in config.read_text() and api.refreshes == 0


def test_who_waits_for_the_lock_takes_what_it_finds(api, config):
    sign_in(api, config, left=-5)
    lock = HeldLock(config)
    process = start("auth", "whoami")
    wait_for(lambda: len(api.calls("GET", "/.well-known/")) == 2)
    newer = sign_in(api, config)
    lock.release()
    out, _ = end(process, 0)
    assert out == "user@example.com\n"
    assert grants(api) == [] and bearers(api) == [newer["token"]]


@pytest.mark.slow
def test_who_waits_too_long_for_the_lock_gives_up(api, config):
    sign_in(api, config, left=-5)
    lock = HeldLock(config)
    started = time.monotonic()
    _, err = end(start("auth", "whoami"), 7)
    assert 29 < time.monotonic() - started < 50
    holder = (config.parent / ".lock", os.getpid())
    assert err.startswith("Error: Another podstack holds %s (process %d)\n" % holder)
    lock.release()
    assert grants(api) == bearers(api) == []


@pytest.mark.slow
def test_a_server_that_never_answers_ends_the_wait_and_keeps_the_login(api, config):
    sign_in(api, config, left=-5)
    before = config.read_bytes()
    api.next("/oauth/token", delay=60)
    started = time.monotonic()
    _, err = end(start("auth", "whoami"), 7)
    assert 19 < time.monotonic() - started < 40
    assert err.startswith("Error: Cannot reach 127.0.0.1: ")
    assert config.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("source", ["due", "refused"])
def test_fifty_processes_spend_one_refresh_token_once(api, config, source):
    old = sign_in(api, config, left=-5 if source == "due" else HOUR)
    api.tokens.pop(old["token"])
    api.next("/oauth/token", delay=3)  # the others arrive while the first is at it
    together = threading.Barrier(50)
    ends = []

    def run():
        together.wait()
        ends.append(end(start("auth", "whoami"), 0))

    threads = [threading.Thread(target=run) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [("user@example.com\n", "")] * 50
    assert (api.refreshes, api.reuses, len(grants(api))) == (1, 0, 1)
    assert kept(config)["token"] in api.tokens
    assert sorted(os.listdir(str(config.parent))) == [".lock", "config.yaml"]

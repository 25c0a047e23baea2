"""A stored token goes only to the endpoint that it was stored for."""

import pytest
from conftest import USER

DEFAULT = "https://api.podstack.ai"


def write(config, lines, **places):
    config.write_text("\n".join(lines) % places + "\n")
    config.chmod(0o600)
    return config.read_bytes()


def named(api, text):
    """An address of the table: {port} is the sandbox's."""
    return text.replace("{port}", api.url.rpartition(":")[2])


HERE = "http://127.0.0.1:{port}"
ROWS = [
    # the token's record, the profile's api_endpoint, the general api.endpoint, the variable;
    # where the token belongs, where it would go
    pytest.param(HERE, None, None, HERE, HERE, HERE, id="recorded"),
    pytest.param(HERE, HERE, None, None, HERE, HERE, id="recorded-and-in-the-profile"),
    pytest.param(HERE, None, HERE, None, HERE, HERE, id="recorded-and-in-general"),
    pytest.param(None, HERE, None, None, HERE, HERE, id="the-profiles"),
    pytest.param(None, None, HERE, None, HERE, HERE, id="the-general-one"),
    pytest.param(None, HERE, "https://general.example", None, HERE, HERE,
                 id="the-profiles-before-the-general-one"),
    pytest.param(None, HERE, None, HERE, HERE, HERE, id="the-same-by-variable"),
    # one endpoint in many forms
    pytest.param(HERE + "/", None, None, HERE, HERE, HERE, id="slash"),
    pytest.param(HERE + "/v1", None, None, HERE, HERE, HERE, id="v1"),
    pytest.param(HERE + "/v1/", None, None, HERE + "/", HERE, HERE, id="v1-slash"),
    pytest.param("HTTP://127.0.0.1:{port}", None, None, HERE, HERE, HERE, id="scheme-in-capitals"),
    pytest.param("http://LocalHost:{port}", None, None, "http://localhost:{port}/v1",
                 "http://localhost:{port}", "http://localhost:{port}", id="host-in-capitals"),
    # elsewhere
    pytest.param(None, None, None, HERE, DEFAULT, HERE, id="no-record-belongs-to-the-default"),
    pytest.param(DEFAULT, None, None, HERE, DEFAULT, HERE, id="recorded-for-the-default"),
    pytest.param("https://API.podstack.ai:443/v1/", None, None, HERE, DEFAULT, HERE,
                 id="recorded-in-another-form"),
    pytest.param("https://a.example:8443", None, None, HERE, "https://a.example:8443", HERE,
                 id="variable"),
    pytest.param("https://a.example", HERE, None, None, "https://a.example", HERE,
                 id="the-profile-was-changed"),
    pytest.param("https://a.example", None, HERE, None, "https://a.example", HERE,
                 id="the-general-one-was-changed"),
    pytest.param(None, "https://a.example", None, HERE, "https://a.example", HERE,
                 id="no-record-belongs-to-the-profiles"),
    pytest.param(None, None, "https://a.example", HERE, "https://a.example", HERE,
                 id="no-record-belongs-to-the-general-one"),
    pytest.param("http://localhost:{port}", None, None, HERE, "http://localhost:{port}", HERE,
                 id="localhost-is-not-127"),
    pytest.param(HERE + "/eu", None, None, HERE, HERE + "/eu", HERE, id="path"),
    pytest.param("http://127.0.0.1:1", None, None, HERE, "http://127.0.0.1:1", HERE, id="port"),
    pytest.param(HERE, None, None, "http://127.0.0.1:1", HERE, "http://127.0.0.1:1",
                 id="to-a-stranger"),
]  # fmt: skip


@pytest.mark.parametrize("name", ["default", "work"])
@pytest.mark.parametrize("recorded, own, general, variable, belongs, goes", ROWS)
def test_where_a_token_belongs(
    cli, api, config, recorded, own, general, variable, belongs, goes, name
):
    lines = ["profile: " + name, "profiles:", "  %s:" % name, "    token: " + USER]
    lines += ["    endpoint: " + named(api, recorded)] if recorded else []
    lines += ["    api_endpoint: " + named(api, own)] if own else []
    lines += ["api:", "  endpoint: " + named(api, general)] if general else []
    before = write(config, lines)
    env = {"PODSTACK_API_ENDPOINT": named(api, variable) if variable else None}
    belongs, goes = named(api, belongs), named(api, goes)
    if belongs == goes:
        done = cli("auth", "whoami", env=env)
        assert (done.out, done.err) == ("user@example.com\n", "")
        return
    done = cli("auth", "whoami", env=env, code=4)
    assert done.out == ""
    assert done.err.splitlines()[:2] == [
        "Error: The token of profile '%s' is for %s, not for %s" % (name, belongs, goes),
        "Sign in there: podstack auth login",
    ]
    assert api.requests == []
    assert config.read_bytes() == before


SENDING = [
    "auth status", "auth whoami", "auth token-info", "auth revoke --yes", "auth refresh",
    "project list", "project use my-project", "project create --name n", "pod list",
    "pod create --name n --image i", "pod get n", "pod delete n --force", "pod logs n",
    "wallet balance", "gpu list", "api /pods", "auth token",
]  # fmt: skip


@pytest.mark.parametrize("kept", ["token: psk_stranger", "token_command: echo psk_stranger"])
@pytest.mark.parametrize("words", SENDING)
def test_no_command_sends_it_elsewhere(cli, api, config, words, kept):
    before = write(
        config, ["auth:", "  " + kept, "  refresh_token: psk_again", "  issuer: https://i"]
    )
    done = cli(*words.split(), code=None)
    if kept.startswith("token_command") and words == "auth refresh":
        assert done.code in (1, 4)  # there is nothing to renew
    else:
        assert done.code == 4
        assert done.error == "Error: The token of profile 'default' is for %s, not for %s" % (
            DEFAULT, api.url)  # fmt: skip
    assert "psk_stranger" not in done.out + done.err
    assert api.requests == []
    assert config.read_bytes() == before


def test_the_error_names_the_place_that_the_address_is_from(cli, api, config):
    lines = ["profiles:", "  work:", "    token: x", "    endpoint: https://a.example"]
    write(config, lines)
    done = cli("--profile", "work", "auth", "status", code=4)
    assert done.err == (
        "Error: The token of profile 'work' is for https://a.example, not for %s\n"
        "Sign in there: podstack --profile work auth login\n"
        "The address is from PODSTACK_API_ENDPOINT\n" % api.url
    )
    write(config, lines + ["    api_endpoint: https://b.example"])
    done = cli(
        "auth", "status", env={"PODSTACK_PROFILE": "work", "PODSTACK_API_ENDPOINT": ""}, code=4
    )
    assert done.err == (
        "Error: The token of profile 'work' is for https://a.example, not for https://b.example\n"
        "Sign in there: podstack auth login\n"
        "The address is from profiles.work.api_endpoint in %s\n" % config
    )


def test_the_own_endpoint_of_a_profile_on_the_command_line_beats_the_variable(cli, api, config):
    lines = ["profiles:", "  work:", "    token: " + USER, "    api_endpoint: " + api.url]
    write(config, lines)
    env = {"PODSTACK_API_ENDPOINT": "https://stranger.example"}
    assert cli("--profile", "work", "auth", "whoami", env=env).out == "user@example.com\n"
    env["PODSTACK_PROFILE"] = "work"
    done = cli("auth", "whoami", env=env, code=4)
    assert done.error == (
        "Error: The token of profile 'work' is for %s, not for https://stranger.example" % api.url
    )


def test_a_login_records_its_endpoint_in_canonical_form(cli, api, config):
    cli("auth", "login", "--token", USER, env={"PODSTACK_API_ENDPOINT": api.url + "/v1/"})
    assert '\n  endpoint: "%s"\n' % api.url in config.read_text()
    assert cli("auth", "whoami").out == "user@example.com\n"


def test_signing_in_elsewhere_mends_it(cli, api, config):
    write(config, ["auth:", "  token: psk_stranger", "  endpoint: https://a.example"])
    cli("auth", "whoami", code=4)
    cli("auth", "login", "--token", USER)
    assert cli("auth", "whoami").out == "user@example.com\n"


def test_a_token_from_the_environment_goes_where_the_user_says(cli, api, config):
    write(config, ["auth:", "  token: psk_stranger", "  endpoint: https://a.example"])
    env = {"PODSTACK_API_TOKEN": USER}
    assert cli("auth", "whoami", env=env).out == "user@example.com\n"
    assert all("psk_stranger" not in str(seen.headers) for seen in api.requests)


def test_logout_revokes_at_the_endpoint_that_the_token_is_for(cli, api, config):
    write(config, ["auth:", "  token: " + USER, "  endpoint: " + api.url])
    env = {"PODSTACK_API_ENDPOINT": "https://stranger.example"}
    cli("auth", "logout", "--revoke", env=env)
    assert USER not in api.tokens
    assert not config.read_text().strip()


@pytest.mark.parametrize("field", ["endpoint", "api_endpoint"])
@pytest.mark.parametrize(
    "text", ["ftp://x", "http://a.example", "https://u@a.example", "https://a b"]
)
def test_a_record_that_is_no_address_sends_nothing(cli, api, config, field, text):
    before = write(config, ["profiles:", "  default:", "    token: " + USER,
                            "    %s: %s" % (field, text)])  # fmt: skip
    done = cli("auth", "status", code=1)
    assert done.error.startswith("Error: %s:4:5: profiles.default.%s must be an https://" % (
        config, field))  # fmt: skip
    assert api.requests == []
    assert config.read_bytes() == before

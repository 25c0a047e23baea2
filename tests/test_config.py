"""Configuration: where each value comes from, profiles, and `podstack config ...`."""

import os
import random

import pytest
from conftest import USER

import podstack


def write(config, text):
    """Make the config file: a text as it is, or a dict in YAML; returns its bytes."""
    text = text if isinstance(text, str) else podstack.yaml_dump(text)
    config.write_bytes(text.encode("utf-8"))
    config.chmod(0o600)
    return config.read_bytes()


def nest(keys, value):
    """{"a": {"b": value}} for "a.b"."""
    for key in reversed(keys.split(".")):
        value = {key: value}
    return value


# -- where values come from


class Row:
    """One line of the table: a value, and each place that may state it."""

    def __init__(self, key, texts, option=None, env=(), flat=None, general=False, default=None):
        self.key, self.option, self.env, self.flat = key, option, env, flat
        self.general, self.default = general, default
        self.texts = texts  # what the places state: general part, profile, variables, option


HOSTS = ["https://%s.example" % name for name in ("general", "profile", "env", "option")]
NAMES = ["general", "profile", "env", "option"]
TABLE = [
    Row("defaults.project", NAMES, "--project", ("PODSTACK_PROJECT",), "project"),
    Row("defaults.gpu_type", ["", "A100"], flat="gpu_type"),
    Row("api.endpoint", HOSTS, None, ("PODSTACK_API_ENDPOINT",), "api_endpoint", True,
        "https://api.podstack.ai"),
    Row("api.client_id", NAMES, None, ("PODSTACK_CLIENT_ID",), "client_id", True, "podstack-cli"),
    Row("auth.storage", ["", "keyring", "file"], None, ("PODSTACK_STORAGE",), "storage",
        default="file"),
    Row("defaults.output", ["yaml", "", "wide", "table"], "--output", ("PODSTACK_OUTPUT",), None,
        True, "table"),
    Row("api.timeout", ["7", "", "8.5"], None, ("PODSTACK_TIMEOUT",), None, True, "30"),
    Row("api.ca_bundle", ["/general.pem", "", "/env.pem"], None, ("PODSTACK_CA_BUNDLE",), None,
        True),
    Row("cli.color", ["no"], general=True, default="true"),
    Row("cli.confirm", ["OFF"], general=True, default="true"),
]  # fmt: skip


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("row", TABLE, ids=[row.key for row in TABLE])
def test_a_value_is_of_the_first_place_that_has_it(cli, config, row, form):
    """From the default upward: each place that is added wins over all before."""
    general, profile = {"profile": "work"}, {"token": USER}
    env, option = {}, []

    def effective(*choice, code=0):
        write(config, dict(general, profiles={"work": profile}))
        done = cli(*choice, "config", "get", row.key, *option, env=env, code=code)
        return done.out.rstrip("\n") if not code else None

    assert effective(code=0 if row.default else 6) == row.default
    if row.general:
        general.update(nest(row.key, row.texts[0]))
        assert effective() == row.texts[0]
    if row.flat:
        profile.update({row.flat: row.texts[1]} if form == "flat" else nest(row.key, row.texts[1]))
        assert effective() == row.texts[1]
        assert effective("--profile", "work") == row.texts[1]
    for name in row.env:
        env[name] = row.texts[2]
        assert effective() == row.texts[2]
        own = row.texts[1] if row.flat else row.texts[2]
        assert effective("--profile", "work") == own
    if row.option:
        option = [row.option, row.texts[3]]
        assert effective() == row.texts[3]
        assert effective("--profile", "work") == row.texts[3]


@pytest.mark.parametrize("row", TABLE, ids=[row.key for row in TABLE])
def test_an_empty_variable_counts_as_not_set(cli, config, row):
    wanted = cli("config", "get", row.key, code=None)
    for name in row.env:
        done = cli("config", "get", row.key, env={name: ""}, code=None)
        assert (done.code, done.out, done.err) == (wanted.code, wanted.out, wanted.err)


@pytest.mark.parametrize("row", [row for row in TABLE if row.flat], ids=lambda row: row.key)
def test_nothing_of_one_profile_serves_another(cli, config, row):
    expected = row.default
    for first, second in (("default", "work"), ("work", "default")):
        for data in (
            {"profiles": {first: {row.flat: row.texts[1]}, second: {"email": "a@b"}}},
            {"profiles": {first: nest(row.key, row.texts[1]), second: {"email": "a@b"}}},
        ):
            write(config, data)
            done = cli("--profile", second, "config", "get", row.key, code=None)
            assert done.out.rstrip("\n") == (expected or "")


def test_the_profile_is_chosen_by_option_variable_file_and_default(cli, config):
    def chosen(*option, **env):
        return cli(*option, "config", "get-profile", env=env).out

    text = "profiles:\n  default: {}\n  a: {}\n  b: {}\n  c: {}\n"
    write(config, text)
    assert chosen() == "default\n"
    write(config, text + "profile: a\n")
    assert chosen() == "a\n"
    assert chosen(PODSTACK_PROFILE="b") == "b\n"
    assert chosen(PODSTACK_PROFILE="") == "a\n"
    assert chosen("--profile", "c", PODSTACK_PROFILE="b") == "c\n"
    assert cli("config", "get", "profile", env={"PODSTACK_PROFILE": "b"}).out == "b\n"


def test_ssl_cert_file_serves_after_the_own_variable(cli, config):
    write(config, "api:\n  ca_bundle: /file.pem\n")
    env = {"SSL_CERT_FILE": "/ssl.pem"}
    assert cli("config", "get", "api.ca_bundle", env=env).out == "/ssl.pem\n"
    env["PODSTACK_CA_BUNDLE"] = "/own.pem"
    assert cli("config", "get", "api.ca_bundle", env=env).out == "/own.pem\n"


def test_the_config_file_is_where_podstack_config_says(cli, home, config):
    assert cli("config", "path").out == "%s\n" % config
    assert cli("config", "path", env={"PODSTACK_CONFIG": ""}).out == "%s\n" % config
    other = home / "other" / "file.yaml"
    for named in (str(other), "~/other/file.yaml", "other/file.yaml"):
        env = {"PODSTACK_CONFIG": named}
        assert cli("config", "path", env=env).out == "%s\n" % other
        cli("config", "set", "defaults.project", named, env=env)
        assert cli("config", "get", "defaults.project", env=env).out == named + "\n"
    assert not config.exists()
    assert (
        oct(other.stat().st_mode)[-3:] == "600" and oct(other.parent.stat().st_mode)[-3:] == "700"
    )


def test_without_a_home_the_variable_still_names_the_file(cli, home):
    env = {"HOME": None}
    done = cli("config", "path", env=env, code=1)
    assert done.err == "Error: There is no home directory\nSet HOME or PODSTACK_CONFIG\n"
    env["PODSTACK_CONFIG"] = str(home / "c.yaml")
    cli("config", "set", "defaults.project", "p", env=env)
    assert cli("project", "current", env=env).out == "p\n"


def test_macos_keeps_logins_in_its_keychain_unless_told_otherwise(cli, config):
    assert cli("config", "get", "auth.storage", platform="darwin").out == "keyring\n"
    env = {"PODSTACK_STORAGE": "file"}
    assert cli("config", "get", "auth.storage", platform="darwin", env=env).out == "file\n"


SPAN = "a number of seconds between 0 and 86400"
ADDRESS = "an https:// address without a query or .. (http only for this machine)"
INVALID = [
    ("PODSTACK_PROFILE", "profile", "a b",
     "a name of letters, digits, - and _, at most 64, the first no - or _"),
    ("PODSTACK_PROJECT", "defaults.project", "a\tb", "one line of plain text"),
    ("PODSTACK_API_ENDPOINT", "api.endpoint", "ftp://x",
     "an https:// address (it does not begin with https://)"),
    ("PODSTACK_API_ENDPOINT", "api.endpoint", "http://api.example", ADDRESS),
    ("PODSTACK_API_ENDPOINT", "api.endpoint", "https://x?y", ADDRESS),
    ("PODSTACK_API_ENDPOINT", "api.endpoint", "https://x/y/../v1", ADDRESS),
    ("PODSTACK_STORAGE", "auth.storage", "Keychain", "file or keyring"),
    ("PODSTACK_OUTPUT", "defaults.output", "JSON", "table, wide, json or yaml"),
    ("PODSTACK_TIMEOUT", "api.timeout", "0", SPAN),
    ("PODSTACK_TIMEOUT", "api.timeout", "-1", SPAN),
    ("PODSTACK_TIMEOUT", "api.timeout", "1e3", SPAN),
    ("PODSTACK_TIMEOUT", "api.timeout", "nan", SPAN),
    ("PODSTACK_TIMEOUT", "api.timeout", "86401", SPAN),
    ("PODSTACK_TIMEOUT", "api.timeout", "30s", SPAN),
    (None, "cli.color", "1", "true or false"),
    (None, "cli.confirm", "maybe", "true or false"),
]  # fmt: skip


@pytest.mark.parametrize("name, key, text, accepted", INVALID, ids=[ascii(r[1:3]) for r in INVALID])
def test_an_invalid_value_is_refused_wherever_it_stands(cli, config, name, key, text, accepted):
    shown = podstack.printable(text)
    if name:
        done = cli("config", "get", key, env={name: text}, code=2)
        assert done.error == "Error: %s must be %s, not '%s'" % (name, accepted, shown)
    before = write(config, nest(key, text))
    done = cli("config", "get", key, code=1)
    mark = podstack.yaml_parse(before.decode())[1][tuple(key.split("."))]
    place = "%s:%d:%d" % (config, mark.line, mark.column)
    assert done.error == "Error: %s: %s must be %s" % (place, key, accepted)
    done = cli("config", "set", key, "--", text, code=2)
    assert done.error == "Error: %s must be %s, not '%s'" % (key, accepted, shown)
    assert config.read_bytes() == before


@pytest.mark.parametrize("name, key, text, accepted", INVALID[1:8], ids=lambda value: ascii(value))
def test_an_invalid_value_harms_nothing_where_another_wins(cli, config, name, key, text, accepted):
    good = {"defaults.project": "p", "api.endpoint": "https://x", "auth.storage": "file",
            "defaults.output": "wide", "api.timeout": "5"}[key]  # fmt: skip
    write(config, nest(key, text))
    assert cli("config", "get", key, env={name: good}).out == good + "\n"
    cli("config", "set", key, good)
    assert cli("config", "get", key).out == good + "\n"


# -- profiles


DEFAULTS = [
    # the file, and the default profile's project
    ("", None),
    ("defaults:\n  project: top\n", "top"),
    ("auth:\n  token: x\ndefaults:\n  project: top\n", "top"),
    ("defaults:\n  project: top\nprofiles:\n  work:\n    project: w\n", "top"),
    ("profiles:\n  default:\n    project: own\n  work:\n    project: w\n", "own"),
    ("defaults:\n  project: top\nprofiles:\n  default:\n    project: own\n", "own"),
    ("defaults:\n  project: top\nprofiles:\n  default:\n    token: x\n", None),
    ("auth:\n  token: x\ndefaults:\n  project: top\nprofiles:\n  default: {}\n", None),
    ("defaults:\n  output: json\nprofiles:\n  work:\n    project: w\n", None),
    ("profiles:\n  default:\n    defaults:\n      project: own\n", "own"),
]


@pytest.mark.parametrize("text, project", DEFAULTS, ids=[ascii(row[0]) for row in DEFAULTS])
def test_the_default_profile_is_at_the_top_unless_profiles_has_it(cli, config, text, project):
    write(config, text)
    for choice in ([], ["--profile", "default"]):
        done = cli(*choice, "project", "current", code=0 if project else 6)
        assert done.out == ("%s\n" % project if project else "")


def test_a_gpu_type_at_the_top_is_the_default_profiles_too(cli, config):
    write(config, "defaults:\n  gpu_type: A100\nprofiles:\n  work:\n    gpu_type: H100\n")
    for choice, found in (([], "A100"), (["--profile", "work"], "H100")):
        assert cli(*choice, "config", "get", "defaults.gpu_type").out == found + "\n"


def test_a_value_that_yaml_cannot_hold_is_told(cli):
    env = {"PODSTACK_PROJECT": "\udcff"}
    done = cli("config", "get", "defaults.project", "-o", "yaml", env=env, code=1)
    assert (done.out, done.err) == ("", (
        "Error: The answer cannot be written as YAML: a lone surrogate cannot be written as YAML\n"
        "Use: -o json\n"
    ))  # fmt: skip


def test_a_list_is_shown_as_json(cli, config):
    write(config, "auth:\n  token_command: [echo, caf\u00e9]\n")
    assert cli("config", "get", "auth.token_command").out == '["echo", "caf\u00e9"]\n'


BOTH_FORMS = [
    ("project: a\n    defaults:\n      project: b", "defaults.project", "project", "5:7"),
    ("api_endpoint: https://a\n    api:\n      endpoint: https://b",
     "api.endpoint", "api_endpoint", "5:7"),
    ("auth:\n      token: a\n    token: b", "auth.token", "token", "4:7"),
]  # fmt: skip


@pytest.mark.parametrize("lines, nested, flat, place", BOTH_FORMS)
def test_a_key_in_both_forms_is_an_error(cli, config, lines, nested, flat, place):
    before = write(config, "profiles:\n  work:\n    %s\n" % lines)
    done = cli("auth", "list", code=1)
    assert done.error == (
        "Error: %s:%s: profiles.work.%s stands in both forms, as profiles.work.%s, too"
        % (config, place, nested, flat)
    )
    assert config.read_bytes() == before


def test_a_key_in_both_forms_is_not_an_error_for_another_profile(cli, config):
    write(config, "profiles:\n  a:\n    project: x\n    defaults:\n      project: y\n  b:\n"
                  "    project: z\n")  # fmt: skip
    assert cli("--profile", "b", "project", "current").out == "z\n"


MISSHAPEN = [
    ("- a\n", "1:1: expected keys and values"),
    ("text\n", "1:1: expected keys and values"),
    ("defaults: text\n", "1:1: defaults must hold keys and values"),
    ("defaults:\n  project:\n    - a\n", "2:3: defaults.project must be plain text"),
    ("defaults:\n  project: {a: b}\n", "2:3: defaults.project must be plain text"),
    ("profiles: text\n", "1:1: profiles must hold keys and values"),
    ("profiles:\n  - a\n", "1:1: profiles must hold keys and values"),
    ("profiles:\n  default: text\n", "2:3: profiles.default must hold keys and values"),
    ("profiles:\n  default:\n    defaults: text\n",
     "3:5: profiles.default.defaults must hold keys and values"),
]  # fmt: skip


@pytest.mark.parametrize("text, error", MISSHAPEN, ids=[ascii(row[0]) for row in MISSHAPEN])
def test_a_file_of_another_shape_is_named_with_its_line(cli, config, text, error):
    before = write(config, text)
    done = cli("project", "current", code=1)
    assert done.error == "Error: %s:%s" % (config, error)
    assert config.read_bytes() == before


def test_null_and_empty_values_count_as_not_set(cli, config):
    for text in ("", "null", "~", "''", '""', "{}"):
        write(config, "defaults:\n  project: %s\n" % text)
        done = cli("project", "current", code=None)
        assert done.code == (1 if text == "{}" else 6), text


# -- what is written, and how


EDITS = [
    pytest.param("", "config set defaults.project p", "defaults:\n  project: p\n", id="new-file"),
    pytest.param(
        "", "config set profiles.work.project p", "profiles:\n  work:\n    project: p\n",
        id="new-profile-is-flat"),
    pytest.param(
        "", "config set profiles.work.defaults.project p", "profiles:\n  work:\n    project: p\n",
        id="new-profile-is-flat-whatever-the-key"),
    pytest.param(
        "", "--profile work config set api.endpoint https://x",
        'profiles:\n  work:\n    api_endpoint: "https://x"\n', id="profile-by-option"),
    pytest.param(
        "profiles:\n  work:\n    auth:\n      token: x\n",
        "--profile work config set api.client_id c",
        "profiles:\n  work:\n    auth:\n      token: x\n    api:\n      client_id: c\n",
        id="nested-stays-nested"),
    pytest.param(
        "profiles:\n  work:\n    token: x\n", "config set profiles.work.defaults.project p",
        "profiles:\n  work:\n    token: x\n    project: p\n", id="flat-stays-flat"),
    pytest.param(
        "profiles:\n  work:\n    project: a\n    auth:\n      token: x\n",
        "config set profiles.work.project p",
        "profiles:\n  work:\n    project: p\n    auth:\n      token: x\n",
        id="a-key-is-changed-where-it-stands"),
    pytest.param(
        "profiles:\n  work:\n    token: x\n", "config set defaults.project p",
        "profiles:\n  work:\n    token: x\n  default:\n    project: p\n",
        id="default-beside-other-profiles"),
    pytest.param(
        "auth:\n  token: x\nprofiles:\n  work:\n    token: y\n", "config set defaults.project p",
        "auth:\n  token: x\nprofiles:\n  work:\n    token: y\ndefaults:\n  project: p\n",
        id="default-at-the-top"),
    pytest.param(
        "auth:\n  token: x\n", "config set profiles.default.project p",
        "auth:\n  token: x\ndefaults:\n  project: p\n", id="default-at-the-top-by-name"),
    pytest.param(
        "# mine\ndefaults:   # here\n    project: 'a'  # was b\n\n    output: json\n# end",
        "config set defaults.project 'p q'",
        "# mine\ndefaults:   # here\n    project: \"p q\"  # was b\n\n    output: json\n# end",
        id="comments-indent-and-order"),
    pytest.param(
        "defaults:\r\n  project: a\r\n  output: json\r\n", "config set defaults.project p",
        "defaults:\r\n  project: p\r\n  output: json\r\n", id="crlf"),
    pytest.param(
        "defaults:\r\n  output: json\r\n", "config set cli.color no",
        'defaults:\r\n  output: json\r\ncli:\r\n  color: "no"\r\n', id="crlf-new-lines"),
    pytest.param(
        "\ufeffdefaults:\n  project: a\n", "config set defaults.project p",
        "\ufeffdefaults:\n  project: p\n", id="byte-order-mark"),
    pytest.param(
        "profiles: {}\n", "config set defaults.project p",
        "profiles:\n  default:\n    project: p\n", id="empty-profiles"),
    pytest.param(
        "profiles:\n", "config set profiles.work.project p",
        "profiles:\n  work:\n    project: p\n", id="profiles-of-nothing"),
    pytest.param("{}\n", "config set cli.color no", 'cli:\n  color: "no"\n', id="empty-map"),
    pytest.param("# only this\n", "config set cli.color no",
                 '# only this\ncli:\n  color: "no"\n', id="comment-alone"),
    pytest.param(
        "defaults: {output: json}\n", "config set defaults.output table",
        "defaults: {output: table}\n", id="a-value-inside-one-line"),
    pytest.param(
        "defaults:\n  project: a\n  output: json\n", "config unset defaults.project",
        "defaults:\n  output: json\n", id="unset"),
    pytest.param(
        "defaults:\n  project: a\n\n# next\ncli:\n  color: no\n", "config unset defaults.project",
        "\n# next\ncli:\n  color: no\n", id="unset-drops-an-empty-block"),
    pytest.param(
        "profiles:\n  work:\n    project: a\n", "config unset profiles.work.project",
        "profiles:\n  work: {}\n", id="unset-keeps-the-profile"),
    pytest.param(
        "profiles:\n  work:\n    defaults:\n      project: a\n",
        "config unset profiles.work.project",
        "profiles:\n  work: {}\n", id="unset-drops-a-profiles-block"),
    pytest.param(
        "profiles:\n  auth:\n    project: a\n", "config unset profiles.auth.project",
        "profiles:\n  auth: {}\n", id="a-profile-named-auth-is-none-of-the-blocks"),
    pytest.param(
        "defaults:\n  output: json\n", "config unset defaults.project",
        "defaults:\n  output: json\n", id="unset-of-what-is-not-set"),
    pytest.param(
        "profile: a\nprofiles:\n  a: {}\n", "config unset profile", "profiles:\n  a: {}\n",
        id="unset-profile"),
    pytest.param(
        "profiles:\n  a:\n    project: x\n", "config set profile a",
        "profiles:\n  a:\n    project: x\nprofile: a\n", id="set-profile-as-a-key"),
    pytest.param(
        "profile: b # now\nprofiles:\n  a: {}\n  b: {}\n", "config set-profile a",
        "profile: a # now\nprofiles:\n  a: {}\n  b: {}\n", id="set-profile"),
]  # fmt: skip


@pytest.mark.parametrize("before, typed, after", EDITS)
def test_only_what_changes_is_written(cli, config, before, typed, after):
    import shlex

    if before:
        write(config, before)
    done = cli(*shlex.split(typed))
    assert config.read_bytes().decode("utf-8") == after
    assert oct(config.stat().st_mode)[-3:] == "600"
    assert done.out == ""


FIELDS = {"project": "defaults.project", "gpu_type": "defaults.gpu_type",
          "api_endpoint": "api.endpoint", "client_id": "api.client_id", "email": "auth.email",
          "storage": "auth.storage"}  # fmt: skip
WORDS = {"api_endpoint": ["https://a.example", "https://b.example"], "storage": ["file"]}


def random_file(rng):
    """A config file with profiles in either form, as a dict."""
    data = {}
    if rng.random() < 0.4:
        data["auth"] = {"email": "top"}
    if rng.random() < 0.5:
        data["defaults"] = {"output": "wide"}
        if rng.random() < 0.5:
            data["defaults"]["project"] = "top"
    profiles = {}
    for name in rng.sample(["default", "a", "b", "auth"], rng.randint(0, 4)):
        profile = profiles[name] = {}
        nested = rng.random() < 0.5
        for field in rng.sample(sorted(FIELDS), rng.randint(0, 3)):
            value = rng.choice(WORDS.get(field, ["x", "y z", "no", "1"]))
            block, _, key = FIELDS[field].partition(".")
            if nested:
                profile.setdefault(block, {})[key] = value
            else:
                profile[field] = value
    if profiles or rng.random() < 0.2:
        data["profiles"] = profiles
    return data


def leaves(data, path=()):
    if not isinstance(data, dict):
        return {path: data}
    found = {}
    for key, value in data.items():
        found.update(leaves(value, path + (key,)))
    return found


def test_a_change_to_one_profile_changes_nothing_else_whatever_the_file(cli, config):
    rng = random.Random(11)
    for _ in range(80):
        data = random_file(rng)
        write(config, data)
        name = rng.choice(["default", "a", "b", "auth", "new"])
        field = rng.choice([field for field in sorted(FIELDS) if field != "email"])
        value = rng.choice(WORDS.get(field, ["x", "z", "yes", "1.0", "a: b"]))
        key = rng.choice(["%s", "profiles." + name + ".%s"]) % FIELDS[field]
        before = leaves(data)
        cli("--profile", name, "config", "set", key, value)
        after = leaves(podstack.yaml_load(config.read_text()))
        changed = {path for path in set(before) | set(after) if before.get(path) != after.get(path)}
        changed = {path for path in changed if before.get(path) or after.get(path)}  # but for {}
        assert len(changed) <= 1, (data, name, key)
        assert cli("--profile", name, "config", "get", key).out == value + "\n"
        cli("--profile", name, "config", "unset", key)
        gone = leaves(podstack.yaml_load(config.read_text()) or {})
        lost = {path for path in before if before[path] and path not in gone}
        assert len(lost | changed) <= 1, (data, name, key)


NOT_EDITED = [
    ("defaults: {output: json}\n", "config set defaults.project p", "1:1"),
    ("defaults: {output: json}\n", "config unset defaults.output", "1:12"),
    ("{defaults: {output: json}}\n", "config set cli.color no", "1:1"),
    ("profiles: {work: {project: a}}\n", "config set profiles.work.gpu_type A", "1:12"),
    ("profiles: {work: {project: a}}\n", "--yes config delete-profile work", "1:12"),
]


@pytest.mark.parametrize(
    "text, typed, place", NOT_EDITED, ids=[row[0] + row[1] for row in NOT_EDITED]
)
def test_what_stands_on_one_line_is_refused_and_stays(cli, config, text, typed, place):
    before = write(config, text)
    done = cli(*typed.split(), code=1)
    assert done.err.splitlines()[0].startswith("Error: %s:%s: " % (config, place))
    assert done.error.endswith(": write its keys on lines of their own")
    assert config.read_bytes() == before
    assert os.listdir(str(config.parent)) in (["config.yaml", ".lock"], [".lock", "config.yaml"])


LOGINS = [
    ("", [], "auth:\n  token: %s\n"),
    ("", ["--profile", "work"], "profiles:\n  work:\n    token: %s\n"),
    ("profiles:\n  work:\n    project: p\n", [], "  default:\n    token: %s\n"),
    ("profiles:\n  work:\n    project: p\n", ["--profile", "work"],
     "  work:\n    project: p\n    token: %s\n"),
    ("profiles:\n  work:\n    defaults:\n      project: p\n", ["--profile", "work"],
     "    auth:\n      token: %s\n"),
]  # fmt: skip


@pytest.mark.parametrize("before, choice, part", LOGINS)
def test_a_login_is_written_in_the_profiles_form(cli, api, config, before, choice, part):
    if before:
        write(config, before)
    cli(*choice, "auth", "login", "--token", USER)
    assert part % USER in config.read_text()
    assert cli(*choice, "auth", "whoami").out == "user@example.com\n"


# -- config get, set, unset: keys


PROFILE_KEYS = ("defaults.project", "defaults.gpu_type", "api.endpoint", "api.client_id",
                "auth.storage", "auth.token_command")  # fmt: skip
ALL_KEYS = PROFILE_KEYS + ("profile", "defaults.output", "api.timeout", "api.ca_bundle",
                           "cli.color", "cli.confirm")  # fmt: skip
READ_ONLY = ("auth.email", "auth.expires", "auth.issuer", "auth.endpoint")
UNKNOWN = [
    ("defaults.projet", " (did you mean 'defaults.project'?)"),
    ("api.tiemout", " (did you mean 'api.timeout'?)"),
    ("project", " (did you mean 'defaults.project'?)"),
    ("output", " (did you mean 'defaults.output'?)"),
    ("bogus", ""),
    ("", ""),
    ("defaults", ""),
    ("profiles", ""),
    ("profiles.work", ""),
    ("profiles.work.", ""),
    ("profiles..project", None),
    ("profiles.work.api.timeout", None),
    ("profiles.a.b.project", None),
    ("defaults.project.x", None),
]


@pytest.mark.parametrize("key, guess", UNKNOWN)
@pytest.mark.parametrize("verb", ["get", "set", "unset"])
def test_an_unknown_key_is_refused_with_the_known_ones(cli, config, verb, key, guess):
    done = cli("config", verb, "--", key, *(["x"] if verb == "set" else []), code=2)
    first, second = done.err.splitlines()
    if key == "profiles..project":
        assert first.startswith("Error: A profile must be a name of letters")
        return
    assert first.startswith("Error: Unknown key '%s'%s" % (key, guess or ""))
    keys = PROFILE_KEYS if key.count(".") > 1 and key.startswith("profiles.") else ALL_KEYS
    shown = second.replace("Keys: ", "").split(", ")
    extra = READ_ONLY if verb == "get" else ()
    assert sorted(shown) == sorted(keys + extra)
    assert not config.exists()


@pytest.mark.parametrize(
    "key",
    [
        "auth.token",
        "auth.refresh_token",
        "profiles.work.token",
        "profiles.work.auth.token",
        "profiles.work.refresh_token",
    ],
)
@pytest.mark.parametrize("verb", ["get", "set", "unset"])
def test_a_token_is_neither_shown_nor_set(cli, config, key, verb):
    before = write(
        config, "auth:\n  token: psk_secret12345\nprofiles:\n  work:\n    token: psk_x\n"
    )
    done = cli("config", verb, key, *(["psk_other98765"] if verb == "set" else []), code=2)
    assert done.err == (
        "Error: The token is neither shown nor set here\n"
        "To print it: podstack auth token. To set it: podstack auth login --token -\n"
    )
    assert done.out == "" and config.read_bytes() == before


@pytest.mark.parametrize("key", READ_ONLY)
def test_what_a_login_recorded_is_read_only(cli, config, key):
    before = write(config, nest(key, "something"))
    assert cli("config", "get", key).out == "something\n"
    for words in (["set", key, "x"], ["unset", key]):
        done = cli("config", *words, code=2)
        assert done.error.startswith("Error: Unknown key '%s'" % key)
    assert config.read_bytes() == before


def test_a_key_without_a_value_is_not_found(cli, config):
    done = cli("config", "get", "defaults.project", code=6)
    assert (done.out, done.err) == (
        "",
        "Error: defaults.project is not set\nSet it: podstack config set defaults.project VALUE\n",
    )
    done = cli("config", "get", "auth.email", code=6)
    assert done.err == "Error: auth.email is not set\nSee: podstack auth list\n"
    write(config, "profiles:\n  work:\n    token: x\n")
    done = cli("config", "get", "profiles.work.project", code=6)
    assert done.error == "Error: profiles.work.project is not set"


def test_a_key_of_a_named_profile_is_that_profiles_own(cli, config):
    write(config, "defaults:\n  project: top\napi:\n  endpoint: https://general.example\n"
                  "profiles:\n  work:\n    project: w\n")  # fmt: skip
    env = {"PODSTACK_PROJECT": "env"}
    assert cli("config", "get", "profiles.work.project", env=env).out == "w\n"
    assert cli("config", "get", "profiles.work.defaults.project", env=env).out == "w\n"
    assert cli("config", "get", "profiles.default.project", env=env).out == "top\n"
    cli("config", "get", "profiles.work.api_endpoint", code=6)


def test_a_value_keeps_its_type_in_json_and_yaml(cli, config):
    write(
        config, "cli:\n  color: No\napi:\n  timeout: 5\nauth:\n  token_command: [pass, show, x]\n"
    )
    assert cli("config", "get", "cli.color").out == "No\n"
    assert cli("config", "get", "cli.color", "-o", "json").json is False
    assert cli("config", "get", "api.timeout", "-o", "json").json == 5
    assert cli("config", "get", "auth.token_command").out == '["pass", "show", "x"]\n'
    assert cli("config", "get", "auth.token_command", "-o", "yaml").out == "- pass\n- show\n- x\n"
    assert cli("config", "path", "-o", "json").json == str(config)


def test_set_and_unset_say_what_they_did(cli, config):
    assert cli("config", "set", "defaults.output", "json").err == (
        "defaults.output set to json in %s\n" % config
    )
    assert cli("config", "unset", "defaults.output").err == (
        "defaults.output removed from %s\n" % config
    )
    assert cli("-q", "config", "set", "defaults.output", "json").err == ""


@pytest.mark.parametrize("value", ["", "a\nb", "\x1b[2J", "\u202e", "\x85"])
@pytest.mark.parametrize("key", ["defaults.project", "auth.token_command", "api.ca_bundle"])
def test_only_one_line_of_plain_text_is_stored(cli, config, key, value):
    done = cli("config", "set", key, value, code=2)
    assert done.error == "Error: %s must be one line of plain text, not '%s'" % (
        key, podstack.printable(value))  # fmt: skip
    assert not config.exists()


@pytest.mark.parametrize(
    "value",
    [
        "yes",
        "010",
        "1e3",
        "null",
        "~",
        "a: b",
        "# x",
        "'",
        '"',
        "- x",
        "\u00fc\u4e16",
        "{}",
        "psk_x",
        " lead",
        "trail ",
        "2024-12-31",
    ],
)
def test_a_value_comes_back_as_it_was_set(cli, config, value):
    cli("config", "set", "defaults.project", "--", value)
    assert cli("config", "get", "defaults.project", "-o", "json").json == value
    assert cli("project", "current").out == value + "\n"


def test_the_place_of_a_login_is_not_changed_under_it(cli, config):
    text = "profiles:\n  work:\n    storage: keyring\n    endpoint: https://api.podstack.ai\n"
    before = write(config, text)
    for words in (["set", "profiles.work.storage", "file"], ["unset", "profiles.work.storage"]):
        done = cli("config", *words, code=1)
        assert done.err.splitlines()[:2] == [
            "Error: The login of profile 'work' is in the keyring",
            "Move it: podstack --profile work auth login --no-keyring",
        ]
    cli("config", "set", "profiles.work.storage", "keyring")
    assert config.read_bytes() == before


# -- config show, set-profile, get-profile


SHOWN = """\
# mine
auth:
  token: psk_abcdefgh1234
  refresh_token: opaque-refresh
  email: user@example.com
other: [a, {token: opaque}, psk_pasted123456]
profiles:
  work:
    token: opaque-token
    token_command: pass show x
"""


def test_show_masks_every_token_and_keeps_the_rest(cli, config):
    before = write(config, SHOWN)
    done = cli("config", "show", env={"PODSTACK_OUTPUT": "table"})
    masked = {
        "auth": {"token": "psk_****", "refresh_token": "****", "email": "user@example.com"},
        "other": ["a", {"token": "****"}, "psk_****"],
        "profiles": {"work": {"token": "****", "token_command": "pass show x"}},
    }
    assert podstack.yaml_load(done.out) == masked
    assert cli("config", "show", "-o", "json").json == masked
    assert cli("config", "show", env={"PODSTACK_OUTPUT": "json"}).out == done.out
    assert config.read_bytes() == before


def test_show_of_no_file(cli, home):
    assert cli("config", "show").out == ""
    assert cli("config", "show", "-o", "json").json == {}
    assert list(home.iterdir()) == []


def test_set_profile_takes_one_that_exists(cli, config):
    before = write(config, "profiles:\n  home: {}\n  work: {}\n")
    for words in (["set-profile", "wrok"], ["set", "profile", "wrok"]):
        done = cli("config", *words, code=6)
        assert done.err == (
            "Error: Profile 'wrok' does not exist (did you mean 'work'?)\nProfiles: home, work\n"
        )
    done = cli("config", "set-profile", "a/b", code=2)
    assert done.error.startswith("Error: PROFILE must be a name of letters")
    assert config.read_bytes() == before
    done = cli("config", "set-profile", "work", env={"PODSTACK_PROFILE": "home"})
    assert done.err == "Using profile 'work'\nPODSTACK_PROFILE is set and overrides it\n"
    assert cli("config", "get-profile").out == "work\n"
    cli("config", "set-profile", "default")
    assert cli("config", "get-profile").out == "default\n"


@pytest.mark.parametrize("choice", ["gone", '"a b"'])
@pytest.mark.parametrize("words", ["set-profile work", "set profile work", "unset profile"])
def test_a_choice_that_no_longer_serves_is_mended(cli, config, choice, words):
    write(config, "profiles:\n  default: {}\n  work: {}\nprofile: %s\n" % choice)
    cli("config", *words.split())
    chosen = "default" if "unset" in words else "work"
    assert cli("config", "get-profile").out == chosen + "\n"


@pytest.mark.parametrize(
    "words",
    [
        "config get-profile",
        "config get defaults.output",
        "config get profile",
        "config get auth.email",
        "config unset defaults.project",
        "project current",
    ],
)
def test_a_profile_that_does_not_exist_is_an_error_everywhere(cli, config, words):
    before = write(config, "profiles:\n  home: {}\n")
    for option, env in ((["--profile", "work"], {}), ([], {"PODSTACK_PROFILE": "work"})):
        done = cli(*option, *words.split(), env=env, code=6)
        assert done.err == "Error: Profile 'work' does not exist\nProfiles: home\n"
    assert config.read_bytes() == before


NAMES_OF_PROFILES = [
    ("a", True), ("A-1_b", True), ("0", True), ("x" * 64, True),
    ("x" * 65, False), ("", False), ("-a", False), ("_a", False), ("a.b", False), ("a b", False),
    ("a/b", False), ("\u00e9", False), ("a\n", False), ("\u0661", False), ("..", False),
]  # fmt: skip


@pytest.mark.parametrize("name, good", NAMES_OF_PROFILES, ids=lambda value: ascii(value)[:20])
def test_the_name_of_a_profile(cli, config, name, good):
    done = cli("--profile=" + name, "config", "set", "defaults.project", "p", code=0 if good else 2)
    if good:
        assert podstack.yaml_load(config.read_text()) == {"profiles": {name: {"project": "p"}}}
        return
    assert done.error == (
        "Error: --profile must be a name of letters, digits, - and _, at most 64, the first no - "
        "or _, not '%s'" % podstack.printable(name)
    )
    assert not config.exists()


# -- config reset and delete-profile


RESETS = [
    pytest.param(
        "# mine\nauth:\n  token: x\ndefaults:\n  project: p\n  output: json\napi:\n"
        "  endpoint: https://x\n  timeout: 3\ncli:\n  color: no\nprofile: work\n"
        "profiles:\n  work:\n    token: y\n    project: w\n    api_endpoint: https://y\n"
        "  empty:\n    project: z\nother: kept\n",
        "# mine\nauth:\n  token: x\napi:\n  endpoint: https://x\n"
        "profiles:\n  work:\n    token: y\n    api_endpoint: https://y\nother: kept\n",
        id="logins-and-their-endpoints-stay"),
    pytest.param(
        "defaults:\n  project: p\napi:\n  endpoint: https://x\nprofiles:\n  a:\n    project: p\n",
        "", id="without-a-login-all-goes"),
    pytest.param(
        "profiles:\n  work:\n    auth:\n      storage: keyring\n      endpoint: https://x\n"
        "    defaults:\n      project: p\n",
        "profiles:\n  work:\n    auth:\n      storage: keyring\n      endpoint: https://x\n",
        id="a-login-in-the-keyring"),
    pytest.param(
        "profiles:\n  work:\n    token_command: pass show x\n    gpu_type: A100\n",
        "profiles:\n  work:\n    token_command: pass show x\n", id="a-token-command"),
]  # fmt: skip


@pytest.mark.parametrize("before, after", RESETS)
def test_reset_removes_settings_and_keeps_logins(cli, config, before, after):
    write(config, before)
    done = cli("config", "reset", "--yes")
    assert config.read_text() == after
    assert done.err == "Settings removed; logins kept (podstack auth logout removes those)\n"
    cli("config", "reset", "--yes")
    assert config.read_text() == after


def test_reset_of_no_file_makes_none(cli, config):
    cli("config", "reset", "--yes")
    assert not config.exists()


ASKING = [
    ("config reset", "Remove every setting in %(config)s (logins stay)?"),
    ("config delete-profile work", "Delete profile 'work' and its login?"),
]


@pytest.mark.parametrize("words, question", ASKING)
def test_without_a_terminal_a_question_needs_yes(cli, config, words, question):
    before = write(config, "defaults:\n  project: p\nprofiles:\n  work:\n    token: x\n")
    done = cli(*words.split(), stdin="y\n", code=2)
    assert done.err == "Error: %s There is no terminal to ask on\nAdd: --yes\n" % (
        question % {"config": config})  # fmt: skip
    assert config.read_bytes() == before
    write(config, before.decode() + "cli:\n  confirm: false\n")
    cli(*words.split())
    assert config.read_bytes() != before


RESET, DELETE = ASKING


@pytest.mark.parametrize(
    "asking, typed, code",
    [(RESET, "y\n", 0), (DELETE, "YES\n", 0), (RESET, "yeah\n", 1), (DELETE, "\n", 1),
     (RESET, "\x04", 1), (DELETE, "\x03", 130)],
)  # fmt: skip
def test_on_a_terminal_it_asks(terminal, config, asking, typed, code):
    before = write(config, "defaults:\n  project: p\nprofiles:\n  work:\n    token: x\n")
    words, question = asking
    screen = terminal(*words.split())
    screen.expect(r"\[y/N\] ")
    assert question % {"config": config} + " [y/N] " in screen.shown
    screen.type(typed)
    assert screen.end() == code
    assert (config.read_bytes() == before) is (code != 0)
    assert ("Nothing done" in screen.shown) is (code == 1)


DELETIONS = [
    pytest.param(
        "profiles:\n  a:\n    token: x\n  # about b\n  b:\n    token: y\n", "a",
        "profiles:\n  # about b\n  b:\n    token: y\n", id="one-of-two"),
    pytest.param("profiles:\n  a:\n    token: x\ncli:\n  color: no\n", "a",
                 "cli:\n  color: no\n", id="the-last"),
    pytest.param(
        "profile: b\nauth:\n  token: x\ndefaults:\n  project: p\n  output: json\n"
        "profiles:\n  b:\n    token: y\n", "default",
        "profile: b\ndefaults:\n  output: json\nprofiles:\n  b:\n    token: y\n",
        id="the-one-at-the-top"),
    pytest.param(
        "profile: b\nprofiles:\n  default:\n    token: x\n  b:\n    token: y\n", "default",
        "profile: b\nprofiles:\n  b:\n    token: y\n", id="default-among-the-profiles"),
    pytest.param("profiles:\n  a b: {}\n  c: {}\n", "a b", "profiles:\n  c: {}\n",
                 id="a-name-that-cannot-be-chosen"),
]  # fmt: skip


@pytest.mark.parametrize("before, name, after", DELETIONS)
def test_delete_profile(cli, config, before, name, after):
    write(config, before)
    done = cli("config", "delete-profile", name, "--yes")
    assert done.err == "Deleted profile '%s'\n" % name
    assert config.read_text() == after


def test_the_active_profile_is_not_deleted(cli, config):
    before = write(config, "profile: a\nprofiles:\n  a: {}\n  b: {}\n")
    for name, option, env in (
        ("a", [], {}),
        ("b", ["--profile", "b"], {}),
        ("b", [], {"PODSTACK_PROFILE": "b"}),
        ("a", ["--profile", "b"], {}),  # the file would name what is gone
    ):
        done = cli(*option, "config", "delete-profile", name, "--yes", env=env, code=1)
        assert done.err.splitlines()[:2] == [
            "Error: Profile '%s' is the active one" % name,
            "Choose another first: podstack config set-profile NAME",
        ]
    done = cli("config", "delete-profile", "c", "--yes", code=6)
    assert done.err == "Error: Profile 'c' does not exist\nProfiles: a, b\n"
    assert config.read_bytes() == before


# -- what a setting does


OTHER = "psk_sandbox_other"
ANOTHER = {"PODSTACK_API_TOKEN": OTHER}
MINE, THEIRS = "user@example.com\n", "other@example.com\n"


def test_the_token_in_effect(cli, api, config):
    keep = "profiles:\n  work:\n    token: %s\n    endpoint: %s\n  bare: {}\n" % (USER, api.url)
    write(config, keep)
    for option, env, who in (
        (["--profile", "work"], {}, MINE),
        (["--profile", "work"], ANOTHER, MINE),  # the profile that is typed comes first
        (["--profile", "bare"], ANOTHER, THEIRS),
        ([], dict(ANOTHER, PODSTACK_PROFILE="work"), THEIRS),
        ([], {"PODSTACK_PROFILE": "work", "PODSTACK_API_TOKEN": ""}, MINE),
    ):
        assert cli(*option, "auth", "whoami", env=env).out == who, (option, env)
    for option in (["--profile", "bare"], []):
        done = cli(*option, "auth", "whoami", code=4)
        assert done.error == "Error: Not authenticated"
    done = cli("auth", "whoami", env={"PODSTACK_API_TOKEN": ""}, code=4)
    assert "PODSTACK_API_TOKEN is set but empty\n" in done.err
    write(config, keep + "profile: work\n")
    assert cli("auth", "whoami").out == MINE
    assert cli("auth", "whoami", env=ANOTHER).out == THEIRS


def test_debug_by_option_or_variable(cli, api):
    for option, env, shown in (
        (["--debug"], {}, True),
        ([], {"PODSTACK_DEBUG": "1"}, True),
        ([], {"PODSTACK_DEBUG": ""}, False),
    ):
        done = cli(*option, "auth", "whoami", env=dict(env, PODSTACK_API_TOKEN=USER))
        assert ("debug: " in done.err) is shown and USER not in done.err


def test_a_setting_that_a_variable_overrides_is_stored_and_said(cli, config):
    env = {"PODSTACK_OUTPUT": "json"}
    done = cli("config", "set", "defaults.output", "wide", env=env)
    assert done.err == (
        "defaults.output set to wide in %s\nPODSTACK_OUTPUT is set and overrides it\n" % config
    )
    assert cli("config", "get", "defaults.output").out == "wide\n"
    done = cli("config", "set", "profiles.work.project", "p", env={"PODSTACK_PROJECT": "x"})
    assert done.err == "profiles.work.project set to p in %s\n" % config
    done = cli("config", "unset", "defaults.output", env=env)
    assert done.err == (
        "defaults.output removed from %s\nPODSTACK_OUTPUT is set and overrides it\n" % config
    )


def test_the_project_in_effect_is_sent(cli, api, config):
    write(config, "auth:\n  token: %s\n  endpoint: %s\ndefaults:\n  project: my-project\n"
                  % (USER, api.url))  # fmt: skip
    for option, env, sent in (
        ([], {}, "my-project"),
        ([], {"PODSTACK_PROJECT": "personal-project"}, "personal-project"),
        (["--project", "work-project"], {"PODSTACK_PROJECT": "x"}, "work-project"),
    ):
        cli(*option, "pod", "list", env=env)
        assert api.requests[-1].headers["X-Project-ID"] == sent


def test_the_gpu_type_in_effect_is_asked_for(cli, api, config):
    write(config, "auth:\n  token: %s\n  endpoint: %s\ndefaults:\n  gpu_type: L40S\n"
                  % (USER, api.url))  # fmt: skip
    for option, wanted in (([], "L40S"), (["--gpu-type", "A100"], "A100")):
        made = cli("pod", "create", "--name", "p" + wanted.lower(), "--image", "i", *option,
                   "-o", "json").json  # fmt: skip
        assert made["gpu_type"] == wanted


def test_the_output_in_effect_is_printed(cli, api, config):
    write(config, "auth:\n  token: %s\n  endpoint: %s\ndefaults:\n  output: json\n"
                  % (USER, api.url))  # fmt: skip
    assert cli("gpu", "list").out.startswith("[\n")
    assert cli("gpu", "list", env={"PODSTACK_OUTPUT": "yaml"}).out.startswith("- type: ")
    assert cli("gpu", "list", "-o", "table").out.startswith("TYPE")

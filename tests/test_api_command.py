"""`podstack api`, `wallet balance`, `gpu list` and the help topics."""

import re

import pytest
from conftest import USER

import podstack


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


def only_call(api):
    (call,) = api.requests
    return call


# -- podstack api: what may be asked for


@pytest.mark.parametrize(
    "path, target",
    [
        ("/pods", "/v1/pods"),
        ("/v1/pods", "/v1/pods"),
        ("/pods?status=running&name=a%20b", "/v1/pods?status=running&name=a%20b"),
        ("/pods?label=a%3Db&label=c%3Dd", "/v1/pods?label=a%3Db&label=c%3Dd"),
        ("/pods?status=", "/v1/pods?status="),
        ("/auth/whoami", "/v1/auth/whoami"),
    ],
)
def test_a_path_below_v1(api, cli, path, target):
    cli("api", path, code=None)
    assert only_call(api).target == target
    assert only_call(api).headers["Authorization"] == "Bearer " + USER


@pytest.mark.parametrize(
    "path",
    [
        "pods", "", "//evil.example/pods", "/v1//evil.example", "https://evil.example/pods",
        "http://127.0.0.1/pods", "@evil", "/\\evil.example", "\\\\evil", "/pods#x", "/po ds",
        "/pods\n", "/pods\r\nX: y", "/pods\x00", "/p\u00f6ds", "/pods\t", '/"', "/<x>", "?x=1", "-",
        "/..", "/../pods", "/pods/..", "/pods/../auth/token", "/./pods", "/pods/.", "/v1/../x",
        "/%2e%2e/x", "/%2E./x", "/pods/%2e%2e/auth/token", "/pods/.%2e", "/pods%2f..%2fauth",
        "/pods/%252e%252e/x", "/%25252e%25252e/x", "/pods/%5c..%5cx", "/pods%2F%2E%2E",
    ],
    ids=ascii,
)  # fmt: skip
def test_a_path_that_is_none_or_leads_elsewhere_is_refused(api, cli, path):
    done = cli("api", "--", path, code=2)
    wanted = (
        "Error: PATH must be a path alone, with one / before it and without .., as /pods, not '"
    )
    assert done.error.startswith(wanted)
    assert api.requests == []


@pytest.mark.parametrize(
    "path", ["/pods/...", "/pods/..a", "/pods/a..b", "/pods/.hidden", "/pods/%20"]
)
def test_dots_in_a_name_are_a_name(api, cli, path):
    done = cli("api", path, code=6)
    assert done.err == "Error: '%s' not found\nFind out why: podstack auth doctor\n" % path


# -- podstack api: method and body


@pytest.mark.parametrize(
    "words, method, target, body",
    [
        (["/projects"], "GET", "/v1/projects", None),
        (["/pods", "-f", "name=a b", "-X", "GET"], "GET", "/v1/pods?name=a%20b", None),
        (["/projects", "-f", "name=x"], "POST", "/v1/projects", {"name": "x"}),
        (["/projects", "-f", "name=x=y", "-f", "description="], "POST", "/v1/projects",
         {"name": "x=y", "description": ""}),
        (["-X", "POST", "/pods/pod-1/start"], "POST", "/v1/pods/pod-1/start", None),
        (["-X", "DELETE", "/pods/pod-1?force=true"], "DELETE", "/v1/pods/pod-1?force=true", None),
        (["/projects", "--method=POST", "--field", "name=\u00fc"], "POST", "/v1/projects",
         {"name": "\u00fc"}),
    ],
    ids=str,
)  # fmt: skip
def test_the_call_that_is_made(api, cli, words, method, target, body):
    cli("api", *words, code=None)
    call = only_call(api)
    assert (call.method, call.target) == (method, target)
    assert (call.json if call.body else None) == body
    assert call.headers.get("Content-Type") == ("application/json" if body else None)


@pytest.mark.parametrize("source", ["file", "-"])
def test_a_body_goes_as_it_is(api, cli, home, source):
    text = '{"name": "from-input",\n "description": "\u00fc"}'
    (home / "file").write_bytes(text.encode("utf-8"))
    made = cli("api", "/projects", "--input", source, stdin=text)
    assert only_call(api).body == text.encode("utf-8")
    assert (only_call(api).method, made.json["name"]) == ("POST", "from-input")


@pytest.mark.parametrize(
    "words, code, error",
    [
        (["/x", "-f", "novalue"], 2, "--field must be K=V, not 'novalue'"),
        (["/x", "-f", "=v"], 2, "--field must be K=V, not '=v'"),
        (["/x", "-f", "a=b", "--input", "-"], 2, "-f and --input exclude each other"),
        (["/x", "--input", "nothing"], 1, "Cannot read nothing: No such file or directory"),
        (["/x", "--input", "."], 1, "Cannot read .: Is a directory"),
        (["/x", "-X", "post"], 2, "--method must be GET, POST, PUT, PATCH or DELETE, not 'post'"),
        (["/x", "-X", "GE T"], 2, "--method must be GET, POST, PUT, PATCH or DELETE, not 'GE T'"),
        (
            ["/x", "-X", "GET\r\nX: y"],
            2,
            "--method must be GET, POST, PUT, PATCH or DELETE, not 'GET\\x0d\\x0aX: y'",
        ),
        (
            ["/x", "-X", "G\u00c9T"],
            2,
            "--method must be GET, POST, PUT, PATCH or DELETE, not 'G\u00c9T'",
        ),
        (["/x", "-X", "POST", "--paginate"], 2, "--paginate goes with GET"),
        ([], 2, "PATH is missing"),
        (["/x", "/y"], 2, "Unexpected argument '/y'"),
    ],
    ids=str,
)
def test_calls_that_are_not_made(api, cli, words, code, error):
    done = cli("api", *words, code=code)
    assert done.error == "Error: " + error
    assert (done.err.splitlines()[1] == "Look at it: ls -l nothing") == ("nothing" in words)
    assert api.requests == []


def test_what_the_service_refuses(api, cli):
    assert cli("api", "/pods/pod-x", code=6).error == "Error: '/pods/pod-x' not found"
    refused = cli("api", "/projects", "-f", "name=NOT GOOD", code=1)
    assert refused.out == "" and refused.err.startswith("Error: Invalid project\n  name: must be ")
    denied = cli(
        "api", "/pods", "-f", "name=a", env={"PODSTACK_API_TOKEN": "psk_sandbox_readonly"}, code=5
    )
    assert denied.error == "Error: Permission denied for resource"
    assert (
        cli("api", "/pods", env={"PODSTACK_API_TOKEN": None}, code=4).error
        == "Error: Not authenticated"
    )


# -- podstack api: the answer


def test_an_answer_is_printed_whole(api, cli):
    assert cli("api", "/auth/whoami").json["email"] == "user@example.com"
    listed = cli("api", "/projects").json
    assert set(listed) == {"projects", "pagination"}
    shown = podstack.yaml_load(cli("api", "/auth/whoami", "-o", "yaml").out)
    assert shown["account_id"] == "acc_123456"
    assert cli("api", "/auth/whoami", "-o", "table").json["account_id"] == "acc_123456"


@pytest.mark.parametrize(
    "body, out",
    [
        (b"", ""),
        (b"plain\ntext", "plain\ntext\n"),
        (b"\x1b[2Jcursor\x00", "\\x1b[2Jcursor\\x00\n"),
        (b"[1, 2]", "[\n  1,\n  2\n]\n"),
        (b'"text\\u001b"', '"text\\u001b"\n'),
        (b"0", "0\n"),
        (b"false", "false\n"),
        (b"null", "null\n"),
        (b'{"a": "\xc2\x9b"}', '{\n  "a": "\\u009b"\n}\n'),
    ],
)
def test_answers_of_any_kind(api, cli, body, out):
    api.next("/gpus", body=body)
    assert cli("api", "/gpus").out == out


def test_a_deletion_answers_with_nothing(api, cli):
    pod = api.add_pods(1, status="stopped")[0]
    done = cli("api", "-X", "DELETE", "/pods/" + pod["id"])
    assert (done.out, done.err) == ("", "") and not api.pods


@pytest.mark.parametrize("path", ["/pods", "/pods?page=3&limit=7", "/pods?status=running"])
def test_paginate_makes_one_list_of_all_pages(api, cli, path):
    api.add_pods(250)
    listed = cli("api", path, "--paginate").json
    assert [pod["id"] for pod in listed] == list(api.pods)
    assert sorted(call.query["page"][0] for call in api.requests) == ["1", "2", "3"]


def test_paginate_reads_each_shape_of_a_list(api, cli):
    assert len(cli("api", "/projects", "--paginate").json) == 3
    assert len(cli("api", "/gpus", "--paginate").json) == 4
    pod = api.add_pods(1, status="stopped")[0]
    pod.events.append({"id": "evt-1"})
    assert cli("api", "/pods/%s/events" % pod["id"], "--paginate").json == [{"id": "evt-1"}]
    shown = podstack.yaml_load(cli("api", "/projects", "--paginate", "-o", "yaml").out)
    assert shown[0]["name"] == "my-project"
    assert cli("api", "/auth/whoami", "--paginate", code=7).error.startswith(
        "Error: Podstack's answer"
    )


def test_the_project_goes_along(api, cli):
    cli("api", "/pods", "--project", "work-project")
    assert only_call(api).headers["X-Project-ID"] == "work-project"


# -- wallet and gpu


def test_the_balance(api, cli):
    api.clock.advance(podstack.parse_time("2024-01-15T10:00:00Z") - api.clock.now())
    assert cli("wallet", "balance").out == (
        "Balance:         25.00 USD\nPending charges: 1.25 USD\nUpdated:         2024-01-15\n"
    )
    assert cli("wallet", "balance", "-o", "json").json["balance_cents"] == 2500
    assert podstack.yaml_load(cli("wallet", "balance", "-o", "yaml").out)["currency"] == "USD"


@pytest.mark.parametrize(
    "wallet, balance",
    [
        ({"balance_cents": -5, "currency": "EUR"}, "-0.05 EUR"),
        ({"balance_cents": 123456789, "currency": None}, "1234567.89 USD"),
        ({"balance_cents": "25"}, "-"),
        ({"balance_cents": None}, "-"),
        ({"balance_cents": 10**400}, "-"),
        ({"data": {"balance_cents": 1}}, "0.01 USD"),
        ({"balance_cents": 1, "currency": "\x1b[2J"}, "0.01 \\x1b[2J"),
    ],
)
def test_balances_of_any_kind(api, cli, wallet, balance):
    api.next("/billing/wallet", body=wallet)
    assert cli("wallet", "balance").out.splitlines()[0] == "Balance:         " + balance


def test_the_gpus(api, cli):
    assert cli("gpu", "list").out.splitlines() == [
        "TYPE     NAME                     MEMORY  PER HOUR  FREE",
        "A100     NVIDIA A100 80GB         80 GB   1.89 USD  12/32",
        "H100     NVIDIA H100 80GB         80 GB   3.49 USD  0/16",
        "L40S     NVIDIA L40S              48 GB   0.99 USD  7/24",
        "RTX4090  NVIDIA GeForce RTX 4090  24 GB   0.49 USD  41/64",
    ]
    assert cli("gpu", "list", "-q").out == "A100\nH100\nL40S\nRTX4090\n"
    assert cli("gpu", "list", "-o", "json").json[1]["memory_gb"] == 80


def test_what_is_not_known_of_a_gpu(api, cli):
    api.next("/gpus", body=[{"type": "A100", "available": None, "total": 8}, {"type": "H100"}])
    assert [line.split()[-1] for line in cli("gpu", "list").out.splitlines()] == [
        "FREE", "-/8", "-/-",
    ]  # fmt: skip


# -- help topics


def test_the_topics(cli):
    environment = cli("help", "environment").out
    for name, _ in podstack.ENVIRONMENT:
        assert re.search(r"^  %s\b" % name, environment, re.MULTILINE)
    codes = cli("help", "exit-codes").out
    assert [int(line.split()[0]) for line in codes.splitlines()] == [
        code for code, _ in podstack.EXIT_CODES
    ]
    assert "profiles:" in cli("help", "config").out
    assert "--quiet" in cli("help", "formatting").out
    for topic in podstack.TOPICS:
        assert topic in cli("--help").out
        assert max(map(len, cli("help", topic).out.splitlines())) <= 80


def test_the_config_topic_is_a_config_file(cli, config):
    """What it shows reads as it says."""
    text = cli("help", "config").out
    shown = text.split("\n\n")[1]
    config.write_text("\n".join(line[2:] for line in shown.splitlines()) + "\n")
    config.chmod(0o600)
    assert cli("config", "get", "defaults.project").out == "my-project\n"
    assert cli("--profile", "work", "config", "get", "defaults.project").out == "work-project\n"

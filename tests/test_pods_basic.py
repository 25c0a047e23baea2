"""Creating, listing, reading and deleting pods, and how many requests each command makes."""

import re

import pytest
from conftest import USER

import podstack


@pytest.fixture(autouse=True)
def signed_in(monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)


def created(api):
    """The one POST /v1/pods that was sent."""
    (request,) = api.calls("POST", "/v1/pods")
    return request


# ---- create


def test_only_what_was_given_is_sent(cli, api):
    done = cli("pod", "create", "--name", "ci-pod", "--image", "myimage:latest")
    request = created(api)
    assert request.json == {"name": "ci-pod", "image": "myimage:latest"}
    assert "X-Project-ID" not in request.headers
    assert request.headers["Content-Type"] == "application/json"
    (pod,) = api.pods.values()
    assert done.out == "%s  ci-pod\n" % pod["id"]
    assert done.err == "Created pod 'ci-pod'\n"


def test_every_option_becomes_its_field(cli, api, home):
    (home / "vars").write_text("# from a file\nFILE=1\nBOTH=file\n\n")
    given = """
        --name=train --image=pytorch:2 --template=jupyter --gpu-type=A100 --gpu-count=2 --cpu=8
        --memory=64 --disk=200 --port=8888 --port=22 --env=A=1 --env=EMPTY= --env=EQUALS=a=b
        --env=BOTH=option --env=HERE --env-file=vars --volume=vol-1:/data --volume=vol-2:/a:b
        --label=team=ml --label=x=y=z
    """
    command = 'python "my train.py" --lr 0.1 # $HOME'
    cli("pod", "create", *given.split(), "--command", command, env={"HERE": "from here"})
    assert created(api).json == {
        "name": "train",
        "image": "pytorch:2",
        "template": "jupyter",
        "gpu_type": "A100",
        "gpu_count": 2,
        "cpu": 8,
        "memory": 64,
        "disk": 200,
        "ports": [8888, 22],
        "env": {
            "FILE": "1", "BOTH": "option", "A": "1", "EMPTY": "", "EQUALS": "a=b",
            "HERE": "from here",
        },
        "volumes": [
            {"volume_id": "vol-1", "mount_path": "/data"},
            {"volume_id": "vol-2", "mount_path": "/a:b"},
        ],
        "command": command,
        "labels": {"team": "ml", "x": "y=z"},
    }  # fmt: skip


def test_words_arrive_as_they_were_typed(cli, api):
    cli("pod", "create", "--name", "p", "--image", "i", "--env", "K=\u00fc \u202e \U0001f600",
        "--label", "k=", "--command=-x --name y")  # fmt: skip
    sent = created(api).json
    assert sent["env"] == {"K": "\u00fc \u202e \U0001f600"}
    assert sent["labels"] == {"k": ""}
    assert sent["command"] == "-x --name y"


def test_the_profiles_gpu_type_and_project_are_used(cli, api, config):
    config.write_text("defaults:\n  project: work-project\n  gpu_type: L40S\n")
    cli("pod", "create", "--name", "one", "--image", "i")
    assert created(api).json == {"name": "one", "image": "i", "gpu_type": "L40S"}
    assert created(api).headers["X-Project-ID"] == "work-project"
    cli("pod", "create", "--name", "two", "--image", "i", "--gpu-type", "A100",
        "--project", "my-project")  # fmt: skip
    request = api.requests[-1]
    assert request.json["gpu_type"] == "A100"
    assert request.headers["X-Project-ID"] == "my-project"


def test_a_new_pod_for_a_script(cli, api):
    words = ["pod", "create", "--image", "i", "--name"]
    assert re.match(r"pod-\w+\n\Z", cli("-q", *words, "one").out)
    done = cli(*words, "two", "-o", "json")
    assert done.json["status"] == "pending"
    assert podstack.yaml_load(cli(*words, "three", "-o", "yaml").out)["name"] == "three"
    assert cli(*words, "four", env={"PODSTACK_OUTPUT": "json"}).json["name"] == "four"


@pytest.mark.parametrize("wrapped", ["pod", "data", None])
def test_each_shape_of_an_answer_is_read(cli, api, wrapped):
    pod = {"id": "pod-1", "name": "ci-pod", "novelty": [1]}
    api.next("/v1/pods", status=201, body={wrapped: pod} if wrapped else pod)
    done = cli("pod", "create", "--name", "ci-pod", "--image", "i", "-o", "json")
    assert done.json == pod


REFUSED_WORDS = [
    ("--image i", "--name N is missing"),
    ("--name x", "A pod needs --image or --template"),
    ("--name x --image i --gpu-count 0", "--gpu-count must be a whole number above 0, not '0'"),
    ("--name x --image i --cpu 1.5", "--cpu must be a whole number above 0, not '1.5'"),
    ("--name x --image i --memory 64GB", "--memory must be a whole number above 0, not '64GB'"),
    ("--name x --image i --disk -1", "--disk must be a whole number above 0, not '-1'"),
    ("--name x --image i --port 0", "--port must be a port from 1 to 65535, not '0'"),
    ("--name x --image i --port 65536", "--port must be a port from 1 to 65535, not '65536'"),
    (
        "--name x --image i --port 00000165536",
        "--port must be a port from 1 to 65535, not '00000165536'",
    ),
    (
        "--name x --image i --cpu 01999999999",
        "--cpu must be a whole number above 0, not '01999999999'",
    ),
    ("--name x --image i --env =v", "--env '' must be K=V, or K that is set here"),
    ("--name x --image i --env NOT_SET", "--env 'NOT_SET' must be K=V, or K that is set here"),
    ("--name x --image i --label team", "--label must be K=V, not 'team'"),
    ("--name x --image i --volume vol-1", "--volume must be ID:/PATH, not 'vol-1'"),
    ("--name x --image i --volume vol-1:data", "--volume must be ID:/PATH, not 'vol-1:data'"),
    ("--name x --image i extra", "Unexpected argument 'extra'"),
    ("--name x --image i --gpu A100", "Unknown option '--gpu' (did you mean '--cpu'?)"),
]


@pytest.mark.parametrize("words, error", REFUSED_WORDS)
def test_what_makes_no_pod_is_refused_here(cli, api, words, error):
    done = cli("pod", "create", *words.split(), code=2)
    assert done.err == "Error: %s\nSee: podstack pod create --help\n" % error
    assert api.requests == []


def test_a_line_of_a_file_of_variables_that_says_nothing_is_named(cli, api, home):
    (home / "vars").write_text("# of the job\nA=1\n\nNOT_SET\n")
    done = cli("pod", "create", "--name", "x", "--image", "i", "--env-file", "vars", code=2)
    assert done.error == "Error: vars:4 must be K=V, or K that is set here"
    assert api.requests == []


def test_a_file_of_variables_from_a_windows_editor_is_read(cli, api, home):
    (home / "vars").write_bytes(b"\xef\xbb\xbfA=1\r\nB=2\r\n")
    cli("pod", "create", "--name", "x", "--image", "i", "--env-file", "vars")
    assert api.requests[0].json["env"] == {"A": "1", "B": "2"}


def test_a_file_of_variables_that_is_not_there(cli, api):
    done = cli("pod", "create", "--name", "x", "--image", "i", "--env-file", "nope", code=1)
    assert done.error == "Error: Cannot read nope: No such file or directory"
    assert api.requests == []


def test_what_the_server_refuses_is_named_field_by_field(cli, api):
    done = cli("pod", "create", "--name", "Bad Name", "--image", "i", "--gpu-type", "B52", code=1)
    assert done.err == (
        "Error: Invalid pod\n"
        "  name: must be 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends\n"
        "  gpu_type: must be one of A100, H100, L40S, RTX4090\n"
        "See: podstack pod create --help\n"
    )


def test_an_empty_wallet_creates_no_pod(cli, api):
    api.balance_cents = 100
    done = cli("pod", "create", "--name", "x", "--image", "i", "--gpu-type", "A100", code=1)
    assert done.err == (
        "Error: Insufficient wallet balance\nSee: podstack wallet balance\n"
        "Insufficient wallet balance: 1.89 USD per hour needed, 1.00 USD available\n"
    )


def test_a_creation_that_may_have_happened_is_not_repeated(cli, api):
    api.next("/v1/pods", method="POST", body={"x": "y" * 99}, truncate=True)
    done = cli("pod", "create", "--name", "x", "--image", "i", code=7)
    assert done.err == (
        "Error: Cannot reach 127.0.0.1: its answer was cut off\n"
        "Find out why: podstack auth doctor\n"
        "It may have been created: check podstack pod list\n"
    )
    assert len(api.requests) == 1


# ---- list


@pytest.fixture
def pods(api):
    """Three pods of two projects, a year old."""
    (train,) = api.add_pods(1, name="train", gpu_type="A100", gpu_count=1, labels={"team": "ml"})
    (web,) = api.add_pods(1, name="web", status="stopped", labels={"team": "web"})
    (other,) = api.add_pods(1, name="other", project="work-project")
    for pod in (train, web, other):
        pod["created_at"] = "2024-01-15T10:00:00Z"
    return train, web, other


def test_the_list_of_pods(cli, pods):
    done = cli("pod", "list", "--project", "my-project")
    assert done.out == (
        "NAME   STATUS   GPU      CREATED\n"
        "train  running  A100 x1  2024-01-15\n"
        "web    stopped  -        2024-01-15\n"
    )
    assert done.err == ""


def test_the_wide_list_of_pods(cli, pods):
    train, web, _ = pods
    done = cli("pod", "list", "-o", "wide", "--project", "my-project")
    assert done.out == (
        "NAME   STATUS   GPU      CREATED     ID            IMAGE           CPU  MEMORY  DISK "
        "  PROJECT\n"
        "train  running  A100 x1  2024-01-15  %s  myimage:latest  4    16 GB   50 GB  %s\n"
        "web    stopped  -        2024-01-15  %s  myimage:latest  4    16 GB   50 GB  %s\n"
    ) % (train["id"], train["project_id"], web["id"], web["project_id"])


def test_the_list_for_a_script(cli, api, pods):
    shown = [api.show_pod(pod) for pod in pods]
    assert cli("pod", "list", "-o", "json").json == shown
    ids = [pod["id"] for pod in pods]
    listed = podstack.yaml_load(cli("pod", "list", "-o", "yaml").out)
    assert [pod["id"] for pod in listed] == ids
    assert cli("-q", "pod", "list").out.split() == ids


@pytest.mark.parametrize(
    "words, query, names",
    [
        ("", "page=1&limit=100", ["train", "web", "other"]),
        ("--status stopped", "status=stopped&page=1&limit=100", ["web"]),
        ("--label team=ml", "label=team%3Dml&page=1&limit=100", ["train"]),
        ("--label team=ml --label a=b", "label=team%3Dml&label=a%3Db&page=1&limit=100", []),
        ("--limit 2", "page=1&limit=2", ["train", "web"]),
        ("--project work-project", "page=1&limit=100", ["other"]),
    ],
)
def test_the_list_can_be_narrowed(cli, api, pods, words, query, names):
    done = cli("pod", "list", *words.split())
    assert [line.split()[0] for line in done.out.splitlines()[1:]] == names
    assert [request.target for request in api.requests] == ["/v1/pods?" + query]
    project = "work-project" if "--project" in words else None
    assert api.requests[0].headers.get("X-Project-ID") == project


def test_a_status_that_does_not_exist_is_the_servers_to_name(cli, api):
    done = cli("pod", "list", "--status", "asleep", code=1)
    assert done.err == (
        "Error: Invalid parameters\n"
        "  status: must be one of pending, running, stopping, stopped, failed\n"
        "See: podstack pod list --help\n"
    )


@pytest.mark.parametrize("words, count, requests", [
    ("", 250, 3), ("--limit 150", 150, 2), ("--limit 200", 200, 2), ("--limit 100", 100, 1),
    ("--limit 1", 1, 1),
])  # fmt: skip
def test_each_page_is_asked_for_once(cli, api, words, count, requests):
    api.add_pods(250)
    done = cli("-q", "pod", "list", *words.split())
    assert len(set(done.out.split())) == len(done.out.split()) == count
    targets = [request.target for request in api.requests]
    assert len(set(targets)) == len(targets) == requests


def test_a_pod_without_fields_is_listed_all_the_same(cli, api):
    api.next("/v1/pods", body={"pods": [{"id": "pod-1"}, {"name": None, "created_at": "soon"}]})
    assert cli("pod", "list").out == (
        "NAME  STATUS  GPU  CREATED\n-     -       -    -\n-     -       -    soon\n"
    )


def test_what_a_server_says_cannot_move_the_cursor(cli, api):
    odd = {"name": "a\x1b[2J\r\nb", "status": "\u202egninnur", "image": "\x9b31m", "id": "x\x07"}
    api.next("/v1/pods", times=2, body={"data": [odd]})
    done = cli("pod", "list", "-o", "wide")
    assert done.out.splitlines()[1].split("  ")[:2] == [
        r"a\x1b[2J\x0d\x0ab", r"\u202egninnur",
    ]  # fmt: skip
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out)
    assert cli("-q", "pod", "list").out == "x\\x07\n"


# ---- get


def test_a_pod_in_full(cli, api, pods):
    train = pods[0]
    train["ports"] = [8888, 22]
    for word in ("train", train["id"]):
        assert cli("pod", "get", word).out == (
            "Name:    train\n"
            "ID:      %(id)s\n"
            "Status:  running\n"
            "Image:   myimage:latest\n"
            "GPU:     A100 x1\n"
            "CPU:     4\n"
            "Memory:  16 GB\n"
            "Disk:    50 GB\n"
            "Ports:   8888, 22\n"
            "Labels:  team=ml\n"
            "Project: %(project_id)s\n"
            "Created: 2024-01-15\n"
            "SSH:     ssh -p 22022 root@127.0.0.1\n"
            "Jupyter: https://%(id)s.pods.podstack.ai\n" % train
        )
    assert cli("pod", "get", "train", "-o", "json").json == api.show_pod(train)


def test_a_pod_with_next_to_nothing(cli, api):
    api.next("/v1/pods/pod-1", body={"pod": {"id": "pod-1", "ports": None, "labels": None}})
    lines = cli("pod", "get", "pod-1").out.splitlines()
    assert lines[1] == "ID:      pod-1"
    assert {line.split(":")[1].strip() for line in lines[2:]} == {"-"}


@pytest.mark.parametrize("odd", [
    {"gpu_type": {"a": 1}}, {"memory": []}, {"created_at": 7}, {"status": {}}, {"project_id": 5},
    {"ssh_command": ["x"]}, {"gpu_count": "two"}, {"labels": ["a"]}, {"labels": "x"},
    {"labels": {"a": {"b": 1}}}, {"ports": 5}, {"ports": "80"}, {"ports": [{"a": 1}, None]},
])  # fmt: skip
def test_a_field_of_another_kind_is_no_failure(cli, api, odd):
    api.next("/v1/pods", times=2, body={"pods": [dict({"id": "pod-1", "name": "x"}, **odd)]})
    assert cli("pod", "get", "x").out
    assert cli("pod", "list").out


# ---- by name and by id


def test_a_name_is_compared_here_when_the_server_ignores_the_filter(cli, api):
    names = ["ci-pod-2", "ci", "CI-POD", "ci-pod ", "xci-pod", None, "ci-pod"]
    pods = [{"id": "pod-%d" % number, "name": name} for number, name in enumerate(names)]
    api.next("/v1/pods?name=", body={"data": pods})
    api.next("/v1/pods/pod-6", method="DELETE", status=204, body="")
    cli("pod", "delete", "ci-pod", "--force")
    assert [request.target for request in api.calls("DELETE")] == ["/v1/pods/pod-6?force=true"]


def test_a_name_is_looked_for_on_every_page(cli, api):
    pages = [[{"id": "pod-1", "name": "other"}], [{"id": "pod-2", "name": "ci-pod"}]]
    for number, rows in enumerate(pages, 1):
        told = {"page": number, "limit": 1, "total": 2, "pages": 2}
        api.next("page=%d" % number, body={"data": rows, "pagination": told})
    assert cli("pod", "get", "ci-pod", "-o", "json").json == {"id": "pod-2", "name": "ci-pod"}


def test_a_pod_that_goes_between_two_requests_is_not_found(cli, api):
    api.add_pods(1, name="ci-pod")
    api.next("/v1/pods/", method="DELETE", status=404)
    done = cli("pod", "delete", "ci-pod", "--force", code=6)
    assert done.err == "Error: Pod 'ci-pod' not found\nSee: podstack pod list\n"


def test_a_server_that_answers_with_other_pods_deletes_none(cli, api):
    api.next("/v1/pods?name=", body={"data": [{"id": "pod-1", "name": "other"}]})
    done = cli("pod", "delete", "ci-pod", "--force", code=6)
    assert done.error == "Error: Pod 'ci-pod' not found"
    assert api.calls("DELETE") == []


@pytest.mark.parametrize("words", ["get", "delete --force", "stop", "start", "restart", "logs"])
def test_several_pods_of_one_name_must_be_told_apart_by_id(cli, api, words):
    ids = [pod["id"] for pod in api.add_pods(3, name="ci-pod")]
    verb, *more = words.split()
    done = cli("pod", verb, "ci-pod", *more, code=1)
    assert done.err == ("Error: 3 pods are named 'ci-pod'\nName one by id: %s\n" % ", ".join(ids))
    assert len(api.requests) == 1
    cli("pod", "delete", ids[1], "--force")
    assert sorted(api.pods) == sorted([ids[0], ids[2]])


def test_a_name_that_looks_like_an_id_is_a_name_after_all(cli, api):
    api.add_pods(1, name="pod-of-mine")
    assert "Name:    pod-of-mine\n" in cli("pod", "get", "pod-of-mine").out
    assert [request.path for request in api.requests[:2]] == ["/v1/pods/pod-of-mine", "/v1/pods"]
    cli("pod", "delete", "pod-of-mine", "--force")
    assert not api.pods


def test_a_pod_of_another_project_is_not_found_by_name(cli, api, pods):
    assert cli("pod", "get", "other", "--project", "my-project", code=6).error == (
        "Error: Pod 'other' not found"
    )


def test_a_project_that_the_token_cannot_see(cli, api, pods):
    done = cli("pod", "list", "--project", "nope", code=5)
    assert done.err == (
        "Error: Permission denied for resource\n"
        "Check if the token has access to the project: podstack project list\n"
        "No access to project 'nope'\n"
        "Token from PODSTACK_API_TOKEN\n"
    )


@pytest.mark.parametrize("name", [".", "..", "../auth/token", "a/b", "a?b", "a%2fb", "\u00fc", ""])
def test_a_name_never_becomes_a_path(cli, api, name):
    done = cli("pod", "delete", "--force", "--", name, code=None)
    assert done.code in (2, 6)
    assert {request.path for request in api.requests} <= {"/v1/pods"}
    assert USER in api.tokens


# ---- delete


def test_delete_asks_on_a_terminal(cli, api, pods):
    plain = {"NO_COLOR": "1"}
    done = cli("pod", "delete", "web", tty=True, stdin="n\n", env=plain, code=1)
    assert done.err == "Delete 'web' and all data on it? [y/N] Error: Nothing done\n"
    assert api.requests == []
    done = cli("pod", "delete", "web", tty=True, stdin="y\n", env=plain)
    assert done.err == "Delete 'web' and all data on it? [y/N] Deleted pod 'web'\n"
    assert len(api.pods) == 2


def test_delete_without_a_terminal_needs_a_word_beforehand(cli, api, config, pods):
    done = cli("pod", "delete", "web", code=2)
    assert done.err == (
        "Error: Delete 'web' and all data on it? There is no terminal to ask on\n"
        "Add: --yes or --force\n"
    )
    assert api.requests == []
    config.write_text("cli:\n  confirm: false\n")
    assert cli("pod", "delete", "web").err == "Deleted pod 'web'\n"


def test_force_asks_nothing_and_is_said_to_the_server(cli, api, pods):
    done = cli("pod", "delete", "train", "--force", tty=True)
    assert (done.out, done.err) == ("", "Deleted pod 'train'\n")
    (request,) = api.calls("DELETE")
    assert request.target == "/v1/pods/%s?force=true" % pods[0]["id"]
    assert cli("pod", "delete", "web", "--yes", "-q").err == ""
    assert api.calls("DELETE")[1].target == "/v1/pods/%s" % pods[1]["id"]


def test_several_pods_are_deleted_and_each_failure_is_told(cli, api, pods):
    done = cli("pod", "delete", "train", "nope", "web", "--force", code=6)
    assert done.err.splitlines() == [
        "Deleted pod 'train'",
        "Error: Pod 'nope' not found",
        "Deleted pod 'web'",
        "Error: 1 of 3 pods failed",
        "See: podstack pod list",
    ]
    assert [pod["name"] for pod in api.pods.values()] == ["other"]


# ---- how many requests each command makes (performance.md)

LOCAL = [
    "auth token", "project current", "config get defaults.project", "config show", "config path",
    "config get-profile", "config set defaults.output json", "config unset defaults.output",
    "config set-profile default", "config reset --yes", "auth list", "auth logout",
    "completion bash", "version", "--version", "help", "pod list --help",
]  # fmt: skip
ONE = [
    "auth status", "auth whoami", "auth token-info", "auth login --token %s" % USER,
    "pod create --name new --image i", "pod get ID", "pod get ci-pod", "pod list", "project list",
    "project use my-project", "pod start ID", "pod restart ID", "pod stop ID",
    "pod delete ID --force", "pod logs ID", "pod ssh ID", "pod ssh ci-pod", "wallet balance",
    "gpu list",
]  # fmt: skip
TWO = [
    "pod start ci-pod", "pod restart ci-pod", "pod stop ci-pod", "pod delete ci-pod --force",
    "pod logs ci-pod",
]  # fmt: skip


@pytest.mark.parametrize(
    "words, count",
    [(words, 0) for words in LOCAL] + [(words, 1) for words in ONE] + [(words, 2) for words in TWO],
)
def test_requests_are_counted(podstack_process, cli, api, config, home, words, count):
    config.write_text("auth:\n  token: %s\n  endpoint: %s\ndefaults:\n  project: my-project\n" % (
        USER, api.url))  # fmt: skip
    config.chmod(0o600)
    (pod,) = api.add_pods(1, name="ci-pod", status="stopped" if " start" in words else "running")
    words = words.replace("ID", pod["id"])
    if " ssh " in words:
        ssh = home / "ssh"
        ssh.write_text("#!/bin/sh\n")
        ssh.chmod(0o755)
        podstack_process(*words.split(), env={"PATH": str(home)})
    else:
        cli(*words.split())
    assert len(api.requests) == count, api.requests


def test_a_due_refresh_costs_one_request_more_and_two_for_discovery(cli, api, config):
    grant = api.issue_oauth(expires_in=30)
    soon = podstack.format_time(api.clock.now() + 30)
    config.write_text(
        "auth:\n  token: %s\n  refresh_token: %s\n  expires: %s\n  endpoint: %s\n  issuer: %s\n"
        % (grant["access_token"], grant["refresh_token"], soon, api.url, api.url)
    )
    config.chmod(0o600)
    cli("pod", "list", env={"PODSTACK_API_TOKEN": None})
    assert [request.path for request in api.requests] == [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-authorization-server",
        "/oauth/token",
        "/v1/pods",
    ]

"""The sandbox is a server in its own right: these tests speak plain HTTP to it."""

import concurrent.futures
import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import namedtuple

import pytest
import sandbox
from sandbox import FormReader, Person, Sandbox

USER = "psk_sandbox_user"
VERIFIER = "a-verifier-of-more-than-forty-three-characters.~_"
CALLBACK = "http://127.0.0.1:4321/callback"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox.py")
PODSTACK = os.path.join(os.path.dirname(os.path.dirname(SCRIPT)), "podstack.py")

Reply = namedtuple("Reply", "status headers body")


@pytest.fixture
def api():
    with Sandbox(now="2024-12-01T00:00:00Z") as server:
        yield server
        assert server.unused() == []


def connect(api):
    parts = urllib.parse.urlsplit(api.url)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)


def send(api, method, target, token=USER, body=None, form=None, headers=None, connection=None):
    """One request over real HTTP; redirects are answers like any other."""
    headers = dict(headers or {})
    if token:
        headers["Authorization"] = "Bearer " + token
    if body is not None:
        headers["Content-Type"] = "application/json"
        body = body if isinstance(body, (str, bytes)) else json.dumps(body)
    if form is not None:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urllib.parse.urlencode(form)
    own = connection is None
    connection = connection or connect(api)
    try:
        connection.request(method, target, body, headers)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        if own:
            connection.close()


def ask(api, method, target, status=200, **options):
    """The JSON of an answer that must have this status."""
    reply = send(api, method, target, **options)
    assert reply.status == status, reply
    return json.loads(reply.body.decode()) if reply.body else None


def pod(api, name="one", **fields):
    """A new pod, by the API."""
    return ask(api, "POST", "/v1/pods", 201, body=dict({"name": name, "image": "i:1"}, **fields))


# ---- HTTP


def test_every_answer_carries_its_length_a_request_id_and_the_servers_date(api):
    reply = send(api, "GET", "/v1/auth/whoami")
    assert reply.headers["Content-Length"] == str(len(reply.body))
    assert re.match(r"req-\d{6}$", reply.headers["X-Request-Id"])
    assert reply.headers["Date"].startswith("Sun, 01 Dec 2024 00:00:")


def test_a_connection_serves_many_requests_without_stalls(api):
    connection = connect(api)
    started = time.monotonic()
    for _ in range(100):
        assert send(api, "GET", "/v1/auth/whoami", connection=connection).status == 200
    assert time.monotonic() - started < 2  # an answer in two pieces would wait 40 ms
    assert len(api.calls("GET", "/v1/auth/")) == 100


def test_hundreds_of_connections_at_once_are_answered(api):
    connections = [connect(api) for _ in range(300)]
    for connection in connections:
        connection.connect()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        replies = list(
            pool.map(lambda one: send(api, "GET", "/v1/gpus", connection=one), connections)
        )
    for connection in connections:
        connection.close()
    assert {reply.status for reply in replies} == {200}


def test_a_route_that_does_not_exist_is_answered_501_and_remembered(api):
    error = ask(api, "PATCH", "/v1/pods", 501)["error"]
    assert error["code"] == "not_implemented"
    assert [(request.method, request.path) for request in api.unknown] == [("PATCH", "/v1/pods")]


def test_requests_are_kept_as_they_came(api):
    send(api, "POST", "/v1/pods?a=1&a=2", body={"x": 1}, headers={"X-Project-ID": "p"})
    send(api, "POST", "/oauth/token", form={"grant_type": "x"})
    first, second = api.requests
    assert (first.method, first.path, first.query) == ("POST", "/v1/pods", {"a": ["1", "2"]})
    assert first.json == {"x": 1}
    assert first.headers.get("x-project-id") == "p"
    assert second.form == {"grant_type": ["x"]}
    assert api.calls("POST", "/oauth") == [second]


def test_closing_ends_open_connections_at_once():
    api = Sandbox()
    connection = connect(api)
    send(api, "GET", "/v1/gpus", connection=connection)
    started = time.monotonic()
    api.close()
    assert connection.sock is None or connection.sock.recv(1) == b""
    assert time.monotonic() - started < 2
    connection.close()


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1.5),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01T00:00:00-01:30", 5400),
        ("2024-12-31T00:00:00Z", 1735603200),
    ],
)
def test_times_are_rfc_3339(text, seconds):
    assert sandbox.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "2024-12-31", "2024-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError):
        sandbox.parse_time(text)


# ---- tokens


def test_whoami_shows_the_account_and_the_token(api):
    shown = ask(api, "GET", "/v1/auth/whoami")
    assert (shown["email"], shown["account_id"]) == ("user@example.com", "acc_123456")
    assert shown["token"] == ask(api, "GET", "/v1/auth/token")
    assert shown["token"]["type"] == "api_token"
    assert shown["token"]["prefix"] == "psk_sand"
    assert shown["token"]["expires_at"] is None
    other = ask(api, "GET", "/v1/auth/whoami", token="psk_sandbox_other")
    assert (other["email"], other["account_id"]) == ("other@example.com", "acc_654321")


@pytest.mark.parametrize(
    "header, code",
    [
        (None, "invalid_token"),
        ("Bearer", "invalid_token"),
        ("Bearer nonsense", "invalid_token"),
        ("Basic " + USER, "invalid_token"),
        ("Bearer psk_sandbox_expired", "token_expired"),
    ],
)
def test_a_token_that_is_not_good_is_answered_401(api, header, code):
    headers = {"Authorization": header} if header else {}
    reply = send(api, "GET", "/v1/auth/whoami", token=None, headers=headers)
    assert reply.status == 401
    assert json.loads(reply.body.decode())["error"]["code"] == code
    place = api.url + "/.well-known/oauth-protected-resource"
    assert reply.headers["WWW-Authenticate"] == 'Bearer resource_metadata="%s"' % place


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/v1/pods"),
        ("POST", "/v1/projects"),
        ("POST", "/v1/pods/pod-1/stop"),
        ("DELETE", "/v1/pods/pod-1"),
    ],
)
def test_a_readonly_token_changes_nothing(api, method, path):
    error = ask(api, method, path, 403, token="psk_sandbox_readonly", body={})["error"]
    assert error["code"] == "permission_denied"
    assert ask(api, "GET", "/v1/pods", token="psk_sandbox_readonly")["data"] == []


def test_a_deleted_token_stops_working_at_once(api):
    assert send(api, "DELETE", "/v1/auth/token").status == 204
    assert send(api, "GET", "/v1/auth/whoami").status == 401


def test_a_token_expires_by_the_servers_clock(api):
    token = api.issue_oauth(expires_in=60)["access_token"]
    assert send(api, "GET", "/v1/auth/whoami", token=token).status == 200
    api.clock.advance(61)
    assert ask(api, "GET", "/v1/gpus", 401, token=token)["error"]["code"] == "token_expired"


# ---- projects and lists


def test_each_account_has_its_own_three_projects(api):
    mine = ask(api, "GET", "/v1/projects")
    theirs = ask(api, "GET", "/v1/projects", token="psk_sandbox_other")
    names = ["my-project", "personal-project", "work-project"]
    assert [project["name"] for project in mine["projects"]] == names
    assert [project["name"] for project in theirs["projects"]] == names
    ids = [project["id"] for project in mine["projects"] + theirs["projects"]]
    assert len(set(ids)) == 6
    assert all(one.startswith("proj-") for one in ids)
    assert mine["pagination"] == {"page": 1, "limit": 20, "total": 3, "pages": 1}


def test_a_project_can_be_made_and_read_by_its_id_or_name(api):
    body = {"name": "new", "description": "d"}
    made = ask(api, "POST", "/v1/projects", 201, body=body)
    assert ask(api, "GET", "/v1/projects/" + made["id"]) == made
    assert ask(api, "GET", "/v1/projects/new") == made
    assert ask(api, "POST", "/v1/projects", 409, body=body)["error"]["code"] == "conflict"
    error = ask(api, "POST", "/v1/projects", 422, body={"name": "Not Good"})["error"]
    assert error["details"][0]["field"] == "name"
    assert send(api, "GET", "/v1/projects/new", token="psk_sandbox_other").status == 404


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_pod_call_names_its_project_by_name_or_id(api, by):
    work = ask(api, "GET", "/v1/projects")["projects"][2]
    header = {"X-Project-ID": work[by]}
    body = {"name": "one", "image": "i"}
    made = ask(api, "POST", "/v1/pods", 201, body=body, headers=header)
    assert made["project_id"] == work["id"]
    other = ask(api, "POST", "/v1/pods", 201, body=dict(body, project_id=work[by], name="two"))
    assert other["project_id"] == work["id"]
    third = pod(api, "three")
    listed = ask(api, "GET", "/v1/pods", headers=header)["data"]
    assert [shown["name"] for shown in listed] == ["one", "two"]
    listed = ask(api, "GET", "/v1/pods?project_id=" + work[by])["data"]
    assert [shown["name"] for shown in listed] == ["one", "two"]
    assert len(ask(api, "GET", "/v1/pods")["data"]) == 3
    assert send(api, "GET", "/v1/pods/" + third["id"], headers=header).status == 404


def test_a_project_of_another_account_is_refused_like_one_that_does_not_exist(api):
    foreign = ask(api, "GET", "/v1/projects", token="psk_sandbox_other")["projects"][0]["id"]
    for name in (foreign, "nowhere"):
        error = ask(api, "GET", "/v1/pods", 403, headers={"X-Project-ID": name})["error"]
        assert error["message"] == "No access to project '%s'" % name


@pytest.mark.parametrize(
    "query, page, limit, count, pages",
    [
        ("", 1, 20, 20, 13),
        ("?page=13", 13, 20, 10, 13),
        ("?page=14", 14, 20, 0, 13),
        ("?limit=7&page=2", 2, 7, 7, 36),
        ("?limit=1000", 1, 100, 100, 3),
        ("?name=worker-000009", 1, 20, 1, 1),
        ("?status=stopped", 1, 20, 10, 1),
        ("?label=team=b&label=kind=x", 1, 20, 5, 1),
        ("?label=team=none", 1, 20, 0, 0),
    ],
)
def test_lists_are_paged_and_filtered(api, query, page, limit, count, pages):
    api.add_pods(235)
    api.add_pods(10, status="stopped", labels={"team": "a", "kind": "x"})
    api.add_pods(5, labels={"team": "b", "kind": "x"})
    answer = ask(api, "GET", "/v1/pods" + query)
    told = answer["pagination"]
    assert (told["page"], told["limit"], len(answer["data"])) == (page, limit, count)
    assert told["pages"] == pages


@pytest.mark.parametrize("query", ["page=0", "page=x", "limit=0", "page=1&page=2", "status=odd"])
def test_a_list_refuses_parameters_that_make_no_sense(api, query):
    assert ask(api, "GET", "/v1/pods?" + query, 400)["error"]["code"] == "VALIDATION_ERROR"


def test_a_hundred_thousand_pods_are_made_and_paged_cheaply(api):
    api.add_pods(100000)
    connection = connect(api)
    started = time.monotonic()
    for page in range(901, 1001):
        target = "/v1/pods?limit=100&page=%d" % page
        answer = send(api, "GET", target, connection=connection)
    connection.close()
    shown = json.loads(answer.body.decode())
    assert shown["pagination"]["total"] == 100000
    assert shown["data"][-1]["name"] == "worker-100000"
    assert time.monotonic() - started < 5


def test_each_page_of_a_list_can_be_slow():
    with Sandbox(page_delay=0.05) as api:
        started = time.monotonic()
        ask(api, "GET", "/v1/pods")
        assert time.monotonic() - started >= 0.05


# ---- pods


@pytest.mark.parametrize(
    "change, field",
    [
        ({"name": None}, "name"),
        ({"name": "-x"}, "name"),
        ({"name": "Upper"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "x\n"}, "name"),
        ({"image": None}, "image"),
        ({"image": " "}, "image"),
        ({"gpu_type": "abacus"}, "gpu_type"),
        ({"gpu_count": 0}, "gpu_count"),
        ({"gpu_count": True}, "gpu_count"),
        ({"cpu": 1.5}, "cpu"),
        ({"memory": "16"}, "memory"),
        ({"disk": -1}, "disk"),
        ({"ports": [0]}, "ports"),
        ({"ports": [65536]}, "ports"),
        ({"ports": [80, 80]}, "ports"),
        ({"ports": 80}, "ports"),
        ({"env": {"1X": "a"}}, "env"),
        ({"env": {"X": 1}}, "env"),
        ({"labels": ["a"]}, "labels"),
        ({"volumes": [{"volume_id": "v"}]}, "volumes"),
        ({"volumes": [{"volume_id": "v", "mount_path": "data"}]}, "volumes"),
        ({"command": []}, "command"),
        ({"project_id": 5}, "project_id"),
        ({"flavour": "x"}, "flavour"),
    ],
)
def test_a_pod_that_makes_no_sense_is_refused_by_field(api, change, field):
    body = dict({"name": "one", "image": "i"}, **change)
    error = ask(api, "POST", "/v1/pods", 422, body=body)["error"]
    assert (error["code"], error["message"]) == ("VALIDATION_ERROR", "Invalid pod")
    assert [detail["field"] for detail in error["details"]] == [field]
    assert api.pods == {}


def test_every_wrong_field_is_named_at_once(api):
    error = ask(api, "POST", "/v1/pods", 422, body={"cpu": 0, "ports": [0]})["error"]
    assert [detail["field"] for detail in error["details"]] == ["name", "image", "cpu", "ports"]


@pytest.mark.parametrize("body", ["[]", "{", '"x"', b"\xff"])
def test_a_body_that_is_no_object_is_refused(api, body):
    assert ask(api, "POST", "/v1/pods", 400, body=body)["error"]["code"] == "BAD_REQUEST"


def test_a_pod_keeps_what_was_given_and_gets_the_documented_defaults(api):
    given = {
        "gpu_type": "A100",
        "ports": [22, 8080],
        "env": {"A": "b"},
        "volumes": [{"volume_id": "vol-1", "mount_path": "/data"}],
        "command": "sleep 1",
        "labels": {"team": "a"},
    }
    made = pod(api, **given)
    assert {key: made[key] for key in given} == given
    assert (made["gpu_count"], made["cpu"], made["memory"], made["disk"]) == (1, 4, 16, 50)
    assert made["created_at"].startswith("2024-12-01T00:00:")
    assert made["id"].startswith("pod-")
    assert pod(api, "two")["gpu_count"] == 0


def test_a_pods_name_is_taken_once_in_a_project(api):
    pod(api)
    error = ask(api, "POST", "/v1/pods", 409, body={"name": "one", "image": "i"})["error"]
    assert (error["code"], error["message"]) == ("conflict", "A pod named 'one' exists already")
    pod(api, project_id="work-project")


def test_an_empty_wallet_pays_for_no_pod(api):
    api.balance_cents = 100
    body = {"name": "one", "image": "i", "gpu_type": "A100", "gpu_count": 2}
    error = ask(api, "POST", "/v1/pods", 402, body=body)["error"]
    assert error == {
        "code": "insufficient_balance",
        "message": "Insufficient wallet balance: 3.78 USD per hour needed, 1.00 USD available",
        "required_cents": 378,
        "balance_cents": 100,
    }
    assert ask(api, "GET", "/v1/billing/wallet")["balance_cents"] == 100


def statuses(api, pod_id, count):
    return [ask(api, "GET", "/v1/pods/" + pod_id)["status"] for _ in range(count)]


def test_a_pod_lives_from_pending_to_running_to_stopped_by_readings(api):
    api.reads_until_running = 2
    made = pod(api)
    path = "/v1/pods/" + made["id"]
    assert made["status"] == "pending"
    assert statuses(api, made["id"], 3) == ["pending", "pending", "running"]
    assert ask(api, "POST", path + "/stop")["status"] == "stopping"
    assert statuses(api, made["id"], 3) == ["stopping", "stopping", "stopped"]
    assert ask(api, "POST", path + "/start")["status"] == "pending"
    assert statuses(api, made["id"], 3) == ["pending", "pending", "running"]
    assert ask(api, "POST", path + "/restart")["status"] == "pending"
    assert ask(api, "POST", path + "/stop", body={"force": True})["status"] == "stopped"
    events = ask(api, "GET", path + "/events")["data"]
    assert [event["reason"] for event in events] == [
        "Scheduled", "Started", "Stopping", "Stopped", "Scheduled", "Started", "Scheduled",
        "Stopped",
    ]  # fmt: skip


def test_a_listed_pod_counts_as_read_also_when_the_list_is_filtered_by_status(api):
    made = pod(api)
    other = pod(api, "two")
    assert ask(api, "GET", "/v1/pods?name=one")["data"][0]["status"] == "pending"
    found = ask(api, "GET", "/v1/pods?status=running")["data"]
    assert [shown["id"] for shown in found] == [made["id"]]
    assert ask(api, "GET", "/v1/pods/" + other["id"])["status"] == "running"


def test_the_readings_of_other_accounts_do_not_count(api):
    made = pod(api)
    for _ in range(3):
        assert ask(api, "GET", "/v1/pods", token="psk_sandbox_other")["data"] == []
    assert statuses(api, made["id"], 2) == ["pending", "running"]


def test_a_pod_can_live_by_the_servers_clock_instead(api):
    api.seconds_until_running = 30
    made = pod(api)
    assert statuses(api, made["id"], 4) == ["pending"] * 4
    api.clock.advance(30)
    assert statuses(api, made["id"], 1) == ["running"]


def test_a_pod_whose_image_cannot_start_fails(api):
    made = pod(api, image="fail:latest")
    assert statuses(api, made["id"], 2) == ["pending", "failed"]
    event = ask(api, "GET", "/v1/pods/%s/events" % made["id"])["data"][-1]
    assert (event["type"], event["message"]) == ("Warning", "Cannot start image fail:latest")


@pytest.mark.parametrize(
    "status, verb, allowed",
    [
        ("running", "start", False),
        ("running", "stop", True),
        ("running", "restart", True),
        ("stopped", "start", True),
        ("stopped", "stop", False),
        ("stopped", "restart", False),
        ("failed", "start", True),
        ("failed", "restart", True),
        ("stopping", "start", False),
    ],
)
def test_a_pod_changes_only_where_its_status_allows_it(api, status, verb, allowed):
    (made,) = api.add_pods(1, status=status, name="one")
    reply = send(api, "POST", "/v1/pods/%s/%s" % (made["id"], verb))
    assert reply.status == (200 if allowed else 409)
    if not allowed:
        message = json.loads(reply.body.decode())["error"]["message"]
        assert message == "Cannot %s pod 'one' while it is %s" % (verb, status)


def test_a_running_pod_is_deleted_only_with_force(api):
    (made,) = api.add_pods(1, name="one")
    path = "/v1/pods/" + made["id"]
    error = ask(api, "DELETE", path, 409)["error"]
    assert error["message"] == "Pod 'one' is running; stop it first or use force"
    assert send(api, "DELETE", path + "?force=true").status == 204
    assert send(api, "GET", path).status == 404
    assert ask(api, "GET", "/v1/pods")["data"] == []


def test_a_deleted_pod_can_take_a_while_to_go(api):
    api.reads_until_gone = 1
    (made,) = api.add_pods(1, status="stopped")
    path = "/v1/pods/" + made["id"]
    assert send(api, "DELETE", path).status == 204
    assert ask(api, "GET", path)["status"] == "stopping"
    assert send(api, "GET", path).status == 404


def test_a_pod_of_another_account_does_not_exist(api):
    (made,) = api.add_pods(1, email="other@example.com", project="work-project")
    for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("GET", "/logs")):
        assert send(api, method, "/v1/pods/" + made["id"] + end).status == 404


def test_a_running_pod_says_how_to_get_in(api):
    made = pod(api)
    assert made["ssh_command"] is None
    api.ssh_command = "ssh -p 2200 me@127.0.0.1"
    shown = [ask(api, "GET", "/v1/pods/" + made["id"]) for _ in range(2)]
    assert [one["ssh_command"] for one in shown] == [None, "ssh -p 2200 me@127.0.0.1"]
    assert shown[1]["jupyter_url"] == "https://%s.pods.podstack.ai" % made["id"]
    (own,) = api.add_pods(1, ssh_command="ssh x@y")
    assert ask(api, "GET", "/v1/pods/" + own["id"])["ssh_command"] == "ssh x@y"


def test_metrics_wallet_and_gpus_answer(api):
    (made,) = api.add_pods(1, gpu_type="A100", gpu_count=2)
    metrics = ask(api, "GET", "/v1/pods/%s/metrics" % made["id"])
    assert len(metrics["gpus"]) == 2
    assert set(ask(api, "GET", "/v1/billing/wallet")) == {
        "balance_cents", "currency", "pending_charges_cents", "last_updated",
    }  # fmt: skip
    fields = {"type", "name", "memory_gb", "price_per_hour_cents", "available", "total"}
    assert all(set(gpu) == fields for gpu in ask(api, "GET", "/v1/gpus"))


# ---- logs


def log_lines(api, made, query=""):
    reply = send(api, "GET", "/v1/pods/%s/logs%s" % (made["id"], query))
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    return reply.body.decode().splitlines()


def test_the_log_of_a_running_pod_grows(api):
    made = pod(api)
    assert log_lines(api, made) == ["Pulling image i:1"]
    assert log_lines(api, made) == ["Pulling image i:1", "Started one", "step 2"]
    assert log_lines(api, made)[-1] == "step 3"


@pytest.mark.parametrize("tail, shown", [(0, []), (2, ["b", "c"]), (9, ["a", "b", "c"])])
def test_the_tail_of_a_log_can_be_asked_for(api, tail, shown):
    (made,) = api.add_pods(1, status="stopped")
    for line in "abc":
        api.log(made, line)
    assert log_lines(api, made, "?tail=%d" % tail) == shown


def test_a_log_can_be_asked_for_since_a_time(api):
    (made,) = api.add_pods(1, status="stopped")
    api.log(made, "early")
    api.clock.advance(3600)
    api.log(made, "late")
    assert log_lines(api, made, "?since=2024-12-01T00:30:00Z") == ["late"]
    target = "/v1/pods/%s/logs?since=1h" % made["id"]
    assert ask(api, "GET", target, 400)["error"]["details"][0]["field"] == "since"


def test_a_followed_log_is_streamed_until_the_pod_stops(api):
    api.log_seconds = None
    (made,) = api.add_pods(1, name="one")
    connection = connect(api)
    target = "/v1/pods/%s/logs?follow=true" % made["id"]
    connection.request("GET", target, headers={"Authorization": "Bearer " + USER})
    answer = connection.getresponse()
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.readline() == b"step 0\n"
    api.log(made, "hello")
    assert answer.readline() == b"hello\n"
    ask(api, "POST", "/v1/pods/%s/stop" % made["id"], body={"force": True})
    assert answer.read() == b"Stopped one\n"
    connection.close()


def test_a_followed_log_grows_by_itself(api):
    api.log_seconds = 0.01
    (made,) = api.add_pods(1)
    connection = connect(api)
    target = "/v1/pods/%s/logs?follow=true" % made["id"]
    connection.request("GET", target, headers={"Authorization": "Bearer " + USER})
    answer = connection.getresponse()
    assert [answer.readline() for _ in range(3)] == [b"step 0\n", b"step 1\n", b"step 2\n"]
    connection.close()


# ---- OAuth: what is published


def test_the_metadata_says_what_the_server_does(api):
    resource = ask(api, "GET", "/.well-known/oauth-protected-resource", token=None)
    assert resource["resource"] == api.url
    assert resource["authorization_servers"] == [api.url]
    shown = ask(api, "GET", "/.well-known/oauth-authorization-server", token=None)
    assert shown["issuer"] == api.url
    assert shown["code_challenge_methods_supported"] == ["S256"]
    assert shown["authorization_response_iss_parameter_supported"] is True
    for name in ("authorization", "token", "device_authorization", "revocation"):
        assert shown[name + "_endpoint"].startswith(api.url + "/oauth/")
    assert send(api, "GET", "/.well-known/openid-configuration").status == 404


def test_without_oauth_nothing_is_published(api):
    api.oauth = False
    for name in ("oauth-protected-resource", "oauth-authorization-server"):
        assert send(api, "GET", "/.well-known/" + name).status == 404


def test_without_device_login_its_endpoint_is_neither_published_nor_there(api):
    api.device = False
    shown = ask(api, "GET", "/.well-known/oauth-authorization-server")
    assert "device_authorization_endpoint" not in shown
    form = {"client_id": "podstack-cli", "resource": api.url}
    assert send(api, "POST", "/oauth/device_authorization", form=form).status == 404


def test_a_test_changes_and_removes_fields_of_the_metadata(api):
    api.metadata = {"issuer": "https://evil.example", "revocation_endpoint": None}
    api.resource_metadata = {"resource": "https://else.example"}
    shown = ask(api, "GET", "/.well-known/oauth-authorization-server")
    assert shown["issuer"] == "https://evil.example"
    assert "revocation_endpoint" not in shown
    shown = ask(api, "GET", "/.well-known/oauth-protected-resource")
    assert shown["resource"] == "https://else.example"


@pytest.mark.parametrize(
    "name, paths",
    [
        ("oauth-authorization-server", ["/.well-known/oauth-authorization-server/tenant"]),
        (
            "openid-configuration",
            [
                "/.well-known/openid-configuration/tenant",
                "/tenant/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_an_issuer_with_a_path_publishes_where_the_rfc_says(api, name, paths):
    api.issuer_path = "/tenant"
    api.metadata_name = name
    assert send(api, "GET", "/.well-known/" + name).status == 404
    for path in paths:
        assert ask(api, "GET", path)["issuer"] == api.url + "/tenant"
    resource = ask(api, "GET", "/.well-known/oauth-protected-resource")
    assert resource["authorization_servers"] == [api.url + "/tenant"]


def test_an_api_below_a_path_names_that_as_its_resource(api):
    api.prefix = "/cloud"
    place = "/.well-known/oauth-protected-resource"
    assert send(api, "GET", place).status == 404
    assert ask(api, "GET", place + "/cloud")["resource"] == api.url + "/cloud"
    assert ask(api, "GET", "/cloud/v1/auth/whoami")["email"] == "user@example.com"


# ---- OAuth: the authorization endpoint


def question(api, **changes):
    """The query of an authorization request; None takes a parameter out."""
    query = {
        "response_type": "code",
        "client_id": "podstack-cli",
        "redirect_uri": CALLBACK,
        "scope": "openid profile email offline_access",
        "prompt": "consent",
        "state": "s/1 &",
        "code_challenge": sandbox.s256(VERIFIER),
        "code_challenge_method": "S256",
        "resource": api.url,
    }
    query.update(changes)
    kept = {key: value for key, value in query.items() if value is not None}
    return "/oauth/authorize?" + urllib.parse.urlencode(kept, doseq=True)


def fill(api, reply, **answers):
    """Send the form of a page with these answers."""
    form = FormReader(reply.body.decode())
    return send(api, "POST", form.action, token=None, form=dict(form.fields, **answers))


def consented(api, decision="approve", email="user@example.com", **changes):
    """Walk to the redirect; its target without query, and the query's single values."""
    page = send(api, "GET", question(api, **changes), token=None)
    page = fill(api, page, email=email)
    return redirected(fill(api, page, decision=decision))


def redirected(reply):
    assert reply.status == 303, reply
    target, _, query = reply.headers["Location"].partition("?")
    values = urllib.parse.parse_qs(query, strict_parsing=True)
    assert all(len(value) == 1 for value in values.values())
    return target, {key: value[0] for key, value in values.items()}


def redeem(api, code, status=200, **changes):
    form = {
        "grant_type": "authorization_code",
        "client_id": "podstack-cli",
        "code": code,
        "redirect_uri": CALLBACK,
        "code_verifier": VERIFIER,
        "resource": api.url,
    }
    form.update(changes)
    form = {key: value for key, value in form.items() if value is not None}
    return ask(api, "POST", "/oauth/token", status, token=None, form=form)


def test_approval_leads_back_with_a_code_the_state_and_the_issuer(api):
    target, answer = consented(api)
    assert target == CALLBACK
    assert set(answer) == {"code", "state", "iss"}
    assert (answer["state"], answer["iss"]) == ("s/1 &", api.url)
    token = redeem(api, answer["code"])
    assert token["token_type"] == "Bearer"
    assert token["expires_in"] == 3600
    assert token["scope"] == "openid profile email offline_access"
    shown = ask(api, "GET", "/v1/auth/whoami", token=token["access_token"])
    assert (shown["email"], shown["token"]["type"]) == ("user@example.com", "oauth")
    assert shown["token"]["expires_at"].startswith("2024-12-01T01:00:")


def test_denial_leads_back_with_access_denied(api):
    _, answer = consented(api, decision="deny")
    assert (answer["error"], answer["state"]) == ("access_denied", "s/1 &")
    assert "code" not in answer


@pytest.mark.parametrize("iss, expected", [(False, None), ("https://x", "https://x")])
def test_a_test_chooses_the_issuer_of_the_answer(api, iss, expected):
    api.answer_iss = iss
    assert consented(api)[1].get("iss") == expected


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1/callback",
        "http://localhost:65535/callback",
        "http://[::1]:8080/callback",
    ],
)
def test_any_port_of_loopback_may_receive_the_answer(api, uri):
    target, answer = consented(api, redirect_uri=uri)
    assert target == uri
    assert redeem(api, answer["code"], redirect_uri=uri)["access_token"]


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "another"},
        {"client_id": None},
        {"client_id": ["podstack-cli", "podstack-cli"]},
        {"redirect_uri": None},
        {"redirect_uri": "https://127.0.0.1:4321/callback"},
        {"redirect_uri": "http://127.0.0.1:0/callback"},
        {"redirect_uri": "http://127.0.0.1:x/callback"},
        {"redirect_uri": "http://127.0.0.1:99999/callback"},
        {"redirect_uri": "http://127.0.0.1:4321/other"},
        {"redirect_uri": "http://127.0.0.1:4321/callback/"},
        {"redirect_uri": "http://127.0.0.1:4321/callback?a=1"},
        {"redirect_uri": "http://127.0.0.1:4321/callback#x"},
        {"redirect_uri": "http://127.0.0.1:4321@evil.example/callback"},
        {"redirect_uri": "http://user@127.0.0.1:4321/callback"},
        {"redirect_uri": "http://127.0.0.1.evil.example:4321/callback"},
        {"redirect_uri": "http://127.0.0.1:4321\\@evil.example/callback"},
        {"redirect_uri": "http://evil.example:4321/callback"},
        {"redirect_uri": "http://127.0.0.1:4321/callback\r\nX: y"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": [CALLBACK, CALLBACK]},
        {"state": ["a", "b"]},
    ],
)
def test_what_cannot_be_trusted_to_redirect_gets_a_page(api, changes):
    reply = send(api, "GET", question(api, **changes), token=None)
    assert reply.status == 400
    assert "Location" not in reply.headers
    assert b"This sign-in link is not valid" in reply.body


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"prompt": "none"}, "login_required"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"scope": ["openid", "email"]}, "invalid_request"),
        ({"resource": "https://else.example"}, "invalid_target"),
        ({"resource": None}, "invalid_target"),
    ],
)
def test_other_mistakes_lead_back_with_an_error(api, changes, error):
    target, answer = redirected(send(api, "GET", question(api, **changes), token=None))
    assert target == CALLBACK
    assert (answer["error"], answer["state"], answer["iss"]) == (error, "s/1 &", api.url)


def test_offline_access_is_granted_only_with_consent(api):
    token = redeem(api, consented(api, prompt=None)[1]["code"])
    assert token["scope"] == "openid profile email"
    assert "refresh_token" not in token


# ---- OAuth: the token endpoint


def test_a_code_works_once_and_its_reuse_ends_what_it_gave(api):
    code = consented(api)[1]["code"]
    token = redeem(api, code)
    assert redeem(api, code, 400)["error"] == "invalid_grant"
    assert send(api, "GET", "/v1/gpus", token=token["access_token"]).status == 401
    assert renew(api, token["refresh_token"], 400)["error"] == "invalid_grant"
    assert api.reuses == 0


@pytest.mark.parametrize(
    "changes, status, error",
    [
        ({"code": "unknown"}, 400, "invalid_grant"),
        ({"code_verifier": "x" * 43}, 400, "invalid_grant"),
        ({"code_verifier": None}, 400, "invalid_request"),
        ({"code_verifier": ""}, 400, "invalid_request"),
        ({"redirect_uri": "http://127.0.0.1:4322/callback"}, 400, "invalid_grant"),
        ({"redirect_uri": "http://localhost:4321/callback"}, 400, "invalid_grant"),
        ({"redirect_uri": None}, 400, "invalid_request"),
        ({"client_id": "another"}, 401, "invalid_client"),
        ({"client_id": None}, 400, "invalid_request"),
        ({"resource": "https://else.example"}, 400, "invalid_target"),
        ({"resource": None}, 400, "invalid_target"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": None}, 400, "invalid_request"),
    ],
)
def test_a_token_request_is_checked(api, changes, status, error):
    changes = dict(changes)
    code = consented(api)[1]["code"]
    answer = redeem(api, changes.pop("code", code), status, **changes)
    assert answer["error"] == error
    assert answer["error_description"]
    assert not [token for token in api.tokens.values() if token.type == "oauth"]


def test_a_wrong_verifier_spends_the_code(api):
    code = consented(api)[1]["code"]
    redeem(api, code, 400, code_verifier="x" * 43)
    assert redeem(api, code, 400)["error"] == "invalid_grant"


def test_a_code_of_another_client_is_unknown(api):
    api.clients.add("another")
    code = consented(api)[1]["code"]
    assert redeem(api, code, 400, client_id="another")["error"] == "invalid_grant"
    assert redeem(api, code)["access_token"]


def test_a_code_expires_after_a_minute(api):
    code = consented(api)[1]["code"]
    api.clock.advance(61)
    assert redeem(api, code, 400)["error_description"] == "This code has expired"


def test_a_token_request_must_be_a_form_and_its_answer_is_not_stored(api):
    error = ask(api, "POST", "/oauth/token", 400, body={"grant_type": "refresh_token"})
    assert error["error"] == "invalid_request"
    form = {"grant_type": "refresh_token", "client_id": "podstack-cli", "resource": api.url}
    form["refresh_token"] = api.issue_oauth()["refresh_token"]
    assert send(api, "POST", "/oauth/token", form=form).headers["Cache-Control"] == "no-store"


def renew(api, refresh_token, status=200, **changes):
    form = {
        "grant_type": "refresh_token",
        "client_id": "podstack-cli",
        "refresh_token": refresh_token,
        "resource": api.url,
    }
    form.update(changes)
    form = {key: value for key, value in form.items() if value is not None}
    return ask(api, "POST", "/oauth/token", status, token=None, form=form)


def test_a_refresh_token_is_replaced_at_each_use(api):
    first = api.issue_oauth(expires_in=10)
    second = renew(api, first["refresh_token"])
    third = renew(api, second["refresh_token"])
    assert len({first["refresh_token"], second["refresh_token"], third["refresh_token"]}) == 3
    assert send(api, "GET", "/v1/gpus", token=third["access_token"]).status == 200
    assert third["expires_in"] == 3600
    assert (api.refreshes, api.reuses) == (2, 0)


def test_an_old_refresh_token_that_comes_back_ends_the_whole_family(api):
    first = api.issue_oauth()
    unrelated = api.issue_oauth()
    second = renew(api, first["refresh_token"])
    assert renew(api, first["refresh_token"], 400)["error"] == "invalid_grant"
    assert renew(api, second["refresh_token"], 400)["error"] == "invalid_grant"
    assert send(api, "GET", "/v1/gpus", token=second["access_token"]).status == 401
    assert send(api, "GET", "/v1/gpus", token=unrelated["access_token"]).status == 200
    assert (api.refreshes, api.reuses) == (1, 1)


@pytest.mark.parametrize(
    "changes, status, error",
    [
        ({"refresh_token": "psr_unknown"}, 400, "invalid_grant"),
        ({"client_id": "another"}, 401, "invalid_client"),
        ({"client_id": None}, 400, "invalid_request"),
        ({"resource": None}, 400, "invalid_target"),
        ({"resource": "https://else.example"}, 400, "invalid_target"),
        ({"scope": "openid pods:write"}, 400, "invalid_scope"),
    ],
)
def test_a_refresh_that_is_wrong_spends_nothing(api, changes, status, error):
    value = api.issue_oauth()["refresh_token"]
    sent = dict({"refresh_token": value}, **changes)
    assert renew(api, sent.pop("refresh_token"), status, **sent)["error"] == error
    assert renew(api, value)["access_token"]
    assert api.refreshes == 1


# ---- OAuth: revocation


def end(api, token, **changes):
    form = dict({"token": token, "client_id": "podstack-cli"}, **changes)
    return send(api, "POST", "/oauth/revoke", token=None, form=form)


def test_revoking_the_refresh_token_ends_the_login(api):
    login = api.issue_oauth()
    assert end(api, login["refresh_token"]).status == 200
    assert send(api, "GET", "/v1/gpus", token=login["access_token"]).status == 401
    assert renew(api, login["refresh_token"], 400)["error"] == "invalid_grant"
    assert api.reuses == 0


def test_revoking_the_access_token_ends_that_alone(api):
    login = api.issue_oauth()
    assert end(api, login["access_token"]).status == 200
    assert send(api, "GET", "/v1/gpus", token=login["access_token"]).status == 401
    assert renew(api, login["refresh_token"])["access_token"]


def test_revocation_leaves_tokens_of_others_alone_and_accepts_unknown_ones(api):
    login = api.issue_oauth()
    api.clients.add("another")
    for value in ("nonsense", USER):
        assert end(api, value).status == 200
    assert end(api, login["refresh_token"], client_id="another").status == 200
    assert end(api, login["refresh_token"], client_id="nobody").status == 401
    assert end(api, "").status == 400
    assert send(api, "GET", "/v1/gpus").status == 200
    assert send(api, "GET", "/v1/gpus", token=login["access_token"]).status == 200


# ---- OAuth: device login


def device(api, **changes):
    form = {"client_id": "podstack-cli", "scope": "openid offline_access", "resource": api.url}
    form.update(changes)
    return ask(api, "POST", "/oauth/device_authorization", token=None, form=form)


def poll(api, started, status=400, after=5, **changes):
    api.clock.advance(after)
    form = {
        "grant_type": DEVICE_GRANT,
        "client_id": "podstack-cli",
        "device_code": started["device_code"],
        "resource": api.url,
    }
    form.update(changes)
    answer = ask(api, "POST", "/oauth/token", status, token=None, form=form)
    return answer.get("error", answer)


def test_a_device_is_connected_once(api):
    started = device(api)
    assert started["verification_uri"] == api.url + "/device"
    assert re.match("[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}$", started["user_code"])
    assert (started["expires_in"], started["interval"]) == (600, 5)
    assert poll(api, started) == "authorization_pending"
    shown = Person().enter(started["verification_uri"], started["user_code"].lower())
    assert shown.status == 200
    assert "Your device is connected" in shown.text
    token = poll(api, started, 200)
    assert token["refresh_token"]
    assert send(api, "GET", "/v1/gpus", token=token["access_token"]).status == 200
    assert poll(api, started) == "invalid_grant"
    assert send(api, "GET", "/v1/gpus", token=token["access_token"]).status == 401


def test_polling_too_fast_slows_down_for_good(api):
    started = device(api)
    assert poll(api, started, after=1) == "slow_down"
    assert poll(api, started, after=6) == "slow_down"
    assert poll(api, started, after=16) == "authorization_pending"


def test_a_denied_device_stays_out(api):
    started = device(api)
    shown = Person(approve=False).visit(started["verification_uri_complete"])
    assert "The request was denied" in shown.text
    assert poll(api, started) == "access_denied"


def test_a_device_code_expires(api):
    api.device_lifetime = 60
    started = device(api)
    assert poll(api, started, after=61) == "expired_token"
    shown = Person().enter(started["verification_uri"], started["user_code"])
    assert shown.status == 400
    assert "This code is not valid, or it has expired." in shown.text


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"device_code": "unknown"}, "invalid_grant"),
        ({"device_code": ""}, "invalid_request"),
    ],
)
def test_a_device_poll_is_checked(api, changes, error):
    assert poll(api, device(api), **changes) == error


# ---- pages


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "\" onload='x'", "&lt;b&gt;"])
def test_pages_escape_what_they_show(api, hostile):
    api.clients.add(hostile)
    page = send(api, "GET", question(api, client_id=hostile), token=None)
    consent = fill(api, page, email="user@example.com").body.decode()
    code = "/device?" + urllib.parse.urlencode({"user_code": hostile})
    entered = send(api, "GET", code, token=None)
    again = fill(api, entered, user_code=hostile).body.decode()
    for text in (consent, entered.body.decode(), again):
        assert hostile not in text
        assert sandbox.html.escape(hostile) in text


def test_pages_need_no_script_and_load_nothing(api):
    page = send(api, "GET", question(api), token=None)
    for reply in (page, fill(api, page, email="user@example.com"), send(api, "GET", "/device")):
        text = reply.body.decode()
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert not re.search(r"<script|<link|<img|src=|https?://|@import|url\(", text)


def test_an_unknown_address_may_try_again(api):
    page = send(api, "GET", question(api), token=None)
    again = fill(api, page, email="nobody@example.com")
    assert again.status == 401
    assert b"There is no account with this address." in again.body
    assert fill(api, again, email="other@example.com").status == 200


def test_nobody_consents_without_signing_in_or_twice(api):
    page = send(api, "GET", question(api), token=None)
    visit = FormReader(page.body.decode()).fields["visit"]
    form = {"visit": visit, "decision": "approve"}
    assert send(api, "POST", "/oauth/consent", form=form).status == 400
    fill(api, page, email="user@example.com")
    assert send(api, "POST", "/oauth/consent", form=form).status == 303
    assert send(api, "POST", "/oauth/consent", form=form).status == 400


# ---- trouble


def test_a_scripted_status_comes_once_and_does_nothing(api):
    api.next("/v1/pods", method="POST", status=503, headers={"Retry-After": "7"})
    assert ask(api, "GET", "/v1/pods")["data"] == []
    reply = send(api, "POST", "/v1/pods", body={"name": "one", "image": "i"})
    assert (reply.status, reply.headers["Retry-After"]) == (503, "7")
    assert json.loads(reply.body.decode())["error"]["message"] == "Scripted HTTP 503"
    assert api.pods == {}
    pod(api)


@pytest.mark.parametrize(
    "body, kind",
    [
        ("<html>no</html>", "text/html; charset=utf-8"),
        (b"\xff\x00", "text/plain; charset=utf-8"),
        ({"a": [1]}, "application/json"),
        ([], "application/json"),
        ("", "text/plain; charset=utf-8"),
    ],
)
def test_a_scripted_body_comes_as_what_it_is(api, body, kind):
    api.next(body=body)
    reply = send(api, "GET", "/v1/pods")
    assert (reply.status, reply.headers["Content-Type"]) == (200, kind)
    raw = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    assert reply.body == (raw.encode() if isinstance(raw, str) else raw)


def test_a_scripted_header_replaces_the_servers_own(api):
    api.next(headers={"content-type": "text/odd", "X-More": "1"})
    reply = send(api, "GET", "/v1/gpus")
    assert reply.headers.get_all("Content-Type") == ["text/odd"]
    assert reply.headers["X-More"] == "1"
    assert json.loads(reply.body.decode())


def test_a_dropped_connection_gets_no_answer_and_does_nothing(api):
    api.next(drop=True)
    with pytest.raises(http.client.RemoteDisconnected):
        pod(api)
    assert api.pods == {}


def test_a_truncated_answer_was_carried_out(api):
    api.next(truncate=True)
    with pytest.raises(http.client.IncompleteRead):
        pod(api)
    assert len(api.pods) == 1


@pytest.mark.parametrize("drip_head", [False, True])
def test_an_answer_can_drip_byte_by_byte(api, drip_head):
    api.next(body="abcde", drip=0.002, drip_head=drip_head)
    started = time.monotonic()
    assert send(api, "GET", "/v1/gpus").body == b"abcde"
    assert time.monotonic() - started >= (0.2 if drip_head else 0.01)


def test_an_answer_can_be_late(api):
    api.next(delay=0.05)
    started = time.monotonic()
    assert send(api, "GET", "/v1/gpus").status == 200
    assert time.monotonic() - started >= 0.05


@pytest.mark.parametrize("status", [None, 301, 307])
def test_an_answer_can_be_a_redirect(api, status):
    api.next(redirect="https://else.example/x", status=status)
    reply = send(api, "GET", "/v1/gpus")
    assert (reply.status, reply.headers["Location"]) == (status or 302, "https://else.example/x")


def test_trouble_waits_for_its_request_and_tells_when_it_never_came(api):
    twice = api.next("page=2", times=2, status=500)
    always = api.next("/v1/gpus", times=float("inf"), status=500)
    assert api.unused() == [twice, always]
    assert send(api, "GET", "/v1/pods?page=1").status == 200
    assert send(api, "GET", "/v1/pods?page=2").status == 500
    assert [send(api, "GET", "/v1/gpus").status for _ in range(3)] == [500] * 3
    assert api.unused() == [twice]
    assert repr(twice) == "<trouble for any page=2: 1 of 2 times>"
    assert send(api, "GET", "/v1/pods?page=2").status == 500


# ---- the person


class Callback:
    """A loopback callback that keeps what it was asked."""

    def __enter__(self):
        asked = self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write("all done \u2713".encode())

            def log_message(self, *_):
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.uri = "http://127.0.0.1:%d/callback" % self.server.server_address[1]
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize("approve, word", [(True, "code="), (False, "error=access_denied")])
def test_a_person_walks_from_the_sign_in_page_to_the_callback(api, approve, word):
    with Callback() as callback:
        url = api.url + question(api, redirect_uri=callback.uri)
        shown = Person("other@example.com", approve).visit(url)
    assert shown == (200, "all done \u2713")
    assert len(callback.asked) == 1
    assert word in callback.asked[0]


def test_a_person_who_is_unknown_gets_no_further(api):
    shown = Person("nobody@example.com").visit(api.url + question(api))
    assert shown.status == 401


def test_a_person_needs_no_proxy(api, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    shown = Person().enter(api.url + "/device", "NONE-NONE")
    assert shown.status == 400


# ---- the command line


def script(*words, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen(
        [sys.executable, SCRIPT] + list(words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        **options,
    )


def finished(child):
    out, err = child.communicate(timeout=110)
    return child.returncode, out, err


def test_the_person_command_is_a_browser(api):
    with Callback() as callback:
        url = api.url + question(api, redirect_uri=callback.uri)
        assert finished(script("person", url, "--deny")) == (0, "", "")
    assert "error=access_denied" in callback.asked[0]
    assert finished(script("person", api.url + "/oauth/authorize"))[0] == 1


def test_serve_prints_how_to_use_it_and_a_line_for_each_request():
    child = script("serve", "--now", "2024-12-01T00:00:00Z")
    address = child.stdout.readline()
    assert re.match(r"export PODSTACK_API_ENDPOINT=http://127\.0\.0\.1:\d+\n$", address)
    assert child.stdout.readline() == "export PODSTACK_STORAGE=file\n"
    tokens = [child.stdout.readline() for _ in range(4)]
    for line, name in zip(tokens, ("user", "readonly", "expired", "other")):
        assert line.startswith("# podstack auth login --token psk_sandbox_%s " % name)
    assert child.stdout.readline() == "\n"
    Server = namedtuple("Server", "url")
    reply = send(Server(address.strip().partition("=")[2]), "GET", "/v1/gpus")
    assert reply.headers["Date"].startswith("Sun, 01 Dec 2024 00:00:")
    assert child.stdout.readline() == "GET /v1/gpus 200\n"
    child.send_signal(signal.SIGINT)
    assert finished(child) == (0, "", "")


SHOW_SURROUNDINGS = """
import json, os, shutil, sys
names = ("HOME", "PODSTACK_API_ENDPOINT", "PODSTACK_STORAGE", "BROWSER", "PODSTACK_PROFILE")
shown = {name: os.environ.get(name) for name in names}
shown["podstack"] = shutil.which("podstack")
shown["homes"] = os.path.isdir(os.environ["HOME"])
print(json.dumps(shown))
sys.exit(7)
"""


def test_run_gives_a_command_its_own_surroundings_and_ends_with_its_code():
    env = dict(os.environ, PODSTACK_PROFILE="mine", PODSTACK_API_TOKEN="mine")
    child = script("run", "--", sys.executable, "-c", SHOW_SURROUNDINGS, "--", env=env)
    code, out, err = finished(child)
    assert (code, err) == (7, "")
    shown = json.loads(out)
    assert shown["PODSTACK_API_ENDPOINT"].startswith("http://127.0.0.1:")
    assert (shown["PODSTACK_STORAGE"], shown["PODSTACK_PROFILE"]) == ("file", None)
    assert shown["BROWSER"].endswith("sandbox.py person %s")
    assert shown["HOME"] != os.environ["HOME"]
    assert os.path.dirname(shown["podstack"]) == os.path.join(shown["HOME"], "bin")
    assert shown["homes"]
    assert not os.path.exists(shown["HOME"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["run"], "run -- CMD... takes a command, and only run does"),
        (["serve", "--", "x"], "run -- CMD... takes a command, and only run does"),
        (["person"], "person and open take a URL, and only they do"),
        (["serve", "--now", "noon"], "argument --now: not an RFC 3339 time: 'noon'"),
    ],
)
def test_a_wrong_command_line_is_refused(words, message):
    code, out, err = finished(script(*words))
    assert (code, out) == (2, "")
    assert err.endswith("error: " + message + "\n")


def test_serve_says_that_its_port_is_taken(api):
    port = urllib.parse.urlsplit(api.url).port
    code, out, err = finished(script("serve", "--port", str(port)))
    assert (code, out) == (1, "")
    assert err.startswith("sandbox.py: port %d: " % port)


def test_run_says_that_a_command_is_missing():
    code, out, err = finished(script("run", "--", "no-such-command"))
    assert (code, out, err) == (127, "", "sandbox.py: no-such-command: not found\n")

"""The main job from sign-in to logout, with podstack.py run by every Python that is installed."""

import functools
import re

import pytest
from conftest import PYTHONS
from sandbox import browser_command


def version_of(name):
    return [int(number) for number in re.findall(r"\d+", name)] or [0]


def each_python():
    """Every interpreter; the oldest and the newest are among the quick tests."""
    names = sorted(PYTHONS, key=version_of)
    known = [name for name in names if name != "system"] or names
    for name in names:
        marks = [] if name in (known[0], known[-1]) else [pytest.mark.slow]
        yield pytest.param(PYTHONS[name], id=name, marks=marks)


@pytest.mark.parametrize("python", list(each_python()))
def test_the_main_job(podstack_process, api, config, python):
    run = functools.partial(podstack_process, python=python)

    done = run("auth", "login", env={"BROWSER": browser_command("person")})
    assert "Signed in as user@example.com\n" in done.err
    done = run("auth", "status")
    assert re.match(
        r"Authenticated as: user@example\.com\nAccount ID: acc_123456\n"
        r"Token expires: \d{4}-\d\d-\d\d\n\Z", done.out
    )  # fmt: skip
    assert done.err == ""
    assert run("auth", "whoami").out == "user@example.com\n"

    run("project", "use", "my-project")
    assert run("project", "current").out == "my-project\n"
    odd = "\u00fc \u202e"
    pod_id = run("-q", "pod", "create", "--name", "ci-pod", "--image", "myimage:latest",
                 "--env", "ODD=" + odd).out.strip()  # fmt: skip
    assert api.pods[pod_id]["env"] == {"ODD": odd}
    assert api.calls("POST", "/v1/pods")[0].headers["X-Project-ID"] == "my-project"
    assert run("pod", "list").out.splitlines()[1].split()[0] == "ci-pod"
    assert run("pod", "list", "-o", "json").json[0]["env"]["ODD"] == odd
    assert run("pod", "get", "nope", code=6).err == (
        "Error: Pod 'nope' not found\nSee: podstack pod list\n"
    )
    run("pod", "delete", "ci-pod", "--force")
    assert not api.pods

    before = run("auth", "token").out.strip()
    assert run("auth", "refresh").err == "Token refreshed\n"
    after = run("auth", "token").out.strip()
    assert (before in api.tokens, after in api.tokens) == (True, True)
    assert before != after

    run("auth", "logout", "--revoke")
    assert config.read_text() == "defaults:\n  project: my-project\n"
    assert after not in api.tokens
    assert run("auth", "status", code=4).error == "Error: Not authenticated"
    assert run("pod", "lst", code=2).error == (
        "Error: Unknown command 'lst' for 'podstack pod' (did you mean 'list'?)"
    )
    agents = {call.headers["User-Agent"] for call in api.calls() if call.path.startswith("/v1/")}
    assert len(agents) == 1
    assert re.match(r"podstack-cli/\d+\.\d+\.\d+ \(python 3\.\d+; \w+\)\Z", agents.pop())

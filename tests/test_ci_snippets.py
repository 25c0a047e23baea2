"""The authentication guide's three CI snippets run as they stand, on a machine without podstack.

The steps are cut out of the guide's text and run as each CI system runs them; it fills in its
secrets, nothing else changes. The machine's curl finds https://get.podstack.ai in this process
(by ~/.curlrc: another address, another certificate authority). Root's /usr/local is a scratch one.
"""

import os
import re
import shutil
import tempfile

import pytest
from conftest import TESTS, USER, need
from machines import IS_ROOT, Machine, Origin, make_certificate, read

GUIDE = read(os.path.join(TESTS, "authentication-guide.txt"))
CREATE = "podstack pod create --name ci-pod --image myimage:latest"


def section(title, following):
    return GUIDE.split("\n%s\n" % title)[1].split("\n%s\n" % following)[0]


def github_steps(secrets):
    """Each step's `run`, with the secrets put in, as the runner does before a shell sees it."""
    steps = []
    for step in section("GitHub Actions", "GitLab CI").split("- name: ")[1:]:
        run = step.partition("run: ")[2].strip()
        run = run[2:] if run.startswith("|\n") else run
        steps.append(re.sub(r"\$\{\{ secrets\.(\w+) \}\}", lambda m: secrets[m.group(1)], run))
    return steps


def gitlab_script():
    lines = section("GitLab CI", "Jenkins").partition("script:\n")[2].splitlines()
    return "\n".join(line[2:] for line in lines)


def jenkins_step():
    text = section("Jenkins", "Security Best Practices")
    assert "PODSTACK_API_TOKEN = credentials('podstack-token')" in text
    return re.search(r"\bsh '(.*)'", text).group(1)


def test_the_snippets_are_the_guides():
    assert github_steps({"PODSTACK_API_TOKEN": "T"}) == [
        "curl -sSL https://get.podstack.ai/cli | bash\npodstack auth login --token T", CREATE,
    ]  # fmt: skip
    assert gitlab_script().splitlines() == [
        "curl -sSL https://get.podstack.ai/cli | bash",
        "export PODSTACK_API_TOKEN=$PODSTACK_TOKEN",
        CREATE,
    ]
    assert jenkins_step() == CREATE


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """https://get.podstack.ai itself, by a certificate authority of our own."""
    path = make_certificate(tmp_path_factory.mktemp("tls"))
    with Origin(path) as server:
        server.certificate = path + ".crt"
        yield server


@pytest.fixture(params=["root", "user"])
def runner(request, origin):
    """A CI machine: root in a container, or a user with ~/.local/bin on PATH."""
    need("curl")
    if request.param == "root" and not IS_ROOT:
        pytest.skip("only root can give itself an empty /usr/local")
    folder = tempfile.mkdtemp(prefix="podstack-ci-")
    machine = Machine(folder, uid=23456 if request.param == "user" else None)
    machine.is_root = request.param == "root"
    if machine.is_root:
        machine.env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    shutil.copy(origin.certificate, machine.home + "/ca.crt")
    os.chmod(machine.home + "/ca.crt", 0o644)
    with open(machine.home + "/.curlrc", "w") as stream:
        stream.write(
            "connect-to = get.podstack.ai:443:127.0.0.1:%d\ncacert = %s/ca.crt\n"
            % (origin.server_port, machine.home)
        )
    yield machine
    shutil.rmtree(folder)


def run_job(machine, steps, **env):
    """Run the steps as one job: each (shell, text) in a shell of its own; returns the Result.

    Between steps PATH grows by what was appended to $GITHUB_PATH, as a GitHub runner lets it.
    """
    job = [] if not machine.is_root else ["mount -t tmpfs none /usr/local; mkdir /usr/local/bin"]
    for number, (shell, text) in enumerate(steps):
        path = "%s/step-%d" % (machine.home, number)
        with open(path, "w") as stream:
            stream.write(text + "\n")
        job.append('[ ! -f "$GITHUB_PATH" ] || PATH="$(head -n 1 "$GITHUB_PATH"):$PATH"')
        job.append("%s %s || exit" % (shell, path))
    own = ["unshare", "-m"] if machine.is_root else []
    env.setdefault("GITHUB_PATH", None)
    return machine.run(*own, "sh", "-c", "\n".join(job), **env)


def pods(cli):
    return [pod["name"] for pod in cli("pod", "list", "-o", "json").json]


@pytest.fixture
def account(cli, api, monkeypatch):
    monkeypatch.setenv("PODSTACK_API_TOKEN", USER)
    assert pods(cli) == []
    yield
    assert pods(cli) == ["ci-pod"]


def test_github_actions(runner, account):
    steps = [("bash -e", step) for step in github_steps({"PODSTACK_API_TOKEN": USER})]
    done = run_job(
        runner, steps, GITHUB_PATH=runner.home + "/github-path", PODSTACK_API_TOKEN=None, CI="true"
    )
    assert "is installed: " in done.err
    assert "ci-pod" in done.out + done.err
    bin_folder = "/usr/local/bin" if runner.is_root else runner.home + "/.local/bin"
    assert read(runner.home + "/github-path") == bin_folder + "\n"
    assert os.stat(runner.home + "/.podstack/config.yaml").st_mode & 0o777 == 0o600


def test_gitlab_ci(runner, account):
    done = run_job(
        runner, [("bash -eo pipefail", gitlab_script())],
        PODSTACK_API_TOKEN=None, PODSTACK_TOKEN=USER, GITLAB_CI="true", CI="true",
    )  # fmt: skip
    assert "ci-pod" in done.out + done.err
    assert not os.path.exists(runner.home + "/.podstack")


@pytest.mark.slow
def test_jenkins(runner, account):
    """Its agent has podstack already: the snippet starts at the step."""
    steps = [("bash -e", gitlab_script().splitlines()[0]), ("sh -xe", jenkins_step())]
    done = run_job(runner, steps, PODSTACK_API_TOKEN=USER)
    assert "ci-pod" in done.out + done.err


@pytest.mark.slow
def test_a_missing_secret_is_named(runner, api):
    steps = [("bash -e", step) for step in github_steps({"PODSTACK_API_TOKEN": ""})]
    job = [(shell, text + " || echo exit $?") for shell, text in steps]
    done = run_job(runner, job, PODSTACK_API_TOKEN="")
    assert done.out == "exit 2\nexit 4\n"
    assert "PODSTACK_API_TOKEN is set but empty" in done.err

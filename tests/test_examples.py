"""Every example that --help shows, typed into a shell as it stands, where it makes sense.

The server, the browser's person and the shells are real; the pod is a directory, which a stand-in
for `ssh` enters (test_pods_ssh.py has the real one).
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import PODSTACK, TESTS, USER, need

import podstack

EXAMPLES = [example.typed for found in podstack.COMMANDS.values() for example in found.examples]

# What differs from exit code 0 on a pod that runs.
CODES = {
    "podstack auth login --token YOUR_API_TOKEN": 4,
    "podstack update": 1,
    "podstack update --check": 1,
}
ASKING = ("podstack pod delete ci-pod", "podstack config delete-profile work")
STOPPED = ("pod start", "pod delete ci-pod")

SSH = """\
#!/bin/sh
while [ "$1" != -- ]; do shift; done
cd {pod} || exit
[ -z "$3" ] || exec sh -c "$(printf %s "$3" | sed 's:/workspace:{pod}/workspace:g')"
"""


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def world(api, home, config, tmp_path, monkeypatch):
    """A signed-in home with two profiles, a pod with files in it, and a PATH to match."""
    programs, inside = tmp_path / "bin", tmp_path / "pod"
    (inside / "workspace" / "out").mkdir(parents=True)
    (home / "data").mkdir()
    programs.mkdir()
    program(programs / "podstack", '#!/bin/sh\nexec %s -B %s "$@"\n' % (sys.executable, PODSTACK))
    program(programs / "ssh", SSH.replace("{pod}", str(inside)))
    program(programs / "nvidia-smi", "#!/bin/sh\necho A100\n")
    monkeypatch.setenv("PATH", "%s:%s" % (programs, os.environ["PATH"]))
    monkeypatch.setenv("BROWSER", "%s %s/sandbox.py person %%s" % (sys.executable, TESTS))
    monkeypatch.setenv("PODSTACK_STORAGE", "file")
    login = api.issue_oauth()
    config.write_text(
        "auth:\n  token: %s\n  refresh_token: %s\n  endpoint: %s\n  issuer: %s\n"
        "defaults:\n  project: my-project\n"
        "profiles:\n  work:\n    token: %s\n    endpoint: %s\n"
        % (login["access_token"], login["refresh_token"], api.endpoint, api.url, USER, api.endpoint)
    )
    config.chmod(0o600)
    api.reads_until_running, api.log_seconds = 0, 0.05
    return api


@pytest.mark.slow
@pytest.mark.parametrize("typed", EXAMPLES)
def test_an_example_does_what_it_says(world, home, terminal, typed):
    pod = world.add_pods(1, name="other" if "create" in typed else "ci-pod")[0]
    if any(words in typed for words in STOPPED):
        pod["status"] = "stopped"
    if "--follow" in typed:  # a log that is followed ends with its pod
        pod.then, pod.due = "stopped", world.clock.now() + 0.5
    if "project create" in typed:
        for project in world.projects_of(world.account_of("user@example.com")):
            del world.projects[project["id"]]
    shell = "fish" if typed.endswith("| source") else "bash"
    need(shell)
    line = typed.replace(" ...", " --fail --silent %s/v1/auth/whoami" % world.endpoint)
    if typed in ASKING:
        screen = terminal(program=[shutil.which(shell), "-c", line])
        screen.expect("y/N")
        screen.type("y\n")
        assert screen.end() == 0, screen.shown
        return
    done = subprocess.run(
        [shutil.which(shell), "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    shown = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == CODES.get(typed, 0), shown
    assert "Traceback" not in shown and "This is a bug" not in shown
    world.unknown.clear()  # doctor asks the server whether it is there at all
    assert bool(re.search("^Error: ", shown, re.MULTILINE)) == (done.returncode != 0), shown


def test_every_command_has_an_example_that_begins_with_its_words():
    for words, found in podstack.COMMANDS.items():
        assert found.examples, words
        assert any(
            "podstack" in example.typed and words[-1] in example.typed for example in found.examples
        ), words

"""README says what the program does: its lists are the program's own, its sessions really run.

python3 tests/test_docs.py     writes the lists into README.md
"""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import CHECKOUT
from sandbox import Sandbox, Surroundings

import podstack

README = os.path.join(CHECKOUT, "README.md")


def read_readme():
    with open(README, encoding="utf-8") as stream:
        return stream.read()


def command_list():
    width = max(len(" ".join(words)) for words in podstack.COMMANDS)
    lines = []
    for group in list(podstack.GROUPS) + [None]:
        single = group is None
        for words, found in podstack.COMMANDS.items():
            if (len(words) == 1) if single else (words[0] == group and len(words) == 2):
                lines.append("podstack %s  %s" % (" ".join(words).ljust(width), found.help))
    return lines


def table(head, rows):
    lines = ["| %s | meaning |" % head, "|---|---|"] + ["| `%s` | %s |" % row for row in rows]
    return "\n".join(lines)


def with_lists(text):
    """README's text with each list, from its mark to the next empty line, as the program has it."""
    for name, shown in (
        ("commands", "```text\n%s\n```" % "\n".join(command_list())),
        ("environment", table("variable", podstack.ENVIRONMENT)),
        ("exit codes", table("code", podstack.EXIT_CODES)),
    ):
        mark = "<!-- %s: written by tests/test_docs.py -->\n" % name
        before, found, after = text.partition(mark)
        assert found, name
        text = before + mark + shown + "\n\n" + after.partition("\n\n")[2]
    return text


def sessions():
    """(command, what it prints) of every console block, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", read_readme(), re.DOTALL):
        for step in block.split("$ ")[1:]:
            typed, _, printed = step.partition("\n")
            found.append((typed, printed))
    return found


def test_the_lists_are_the_programs_own():
    assert read_readme() == with_lists(read_readme())


def test_the_sessions_run_as_they_are_shown():
    with Sandbox(now="2024-12-01T00:00:00Z") as api, Surroundings(api) as place:
        assert len(sessions()) > 5
        for typed, printed in sessions():
            done = subprocess.run(
                shlex.split(typed), env=place.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            assert done.stdout.decode().replace(place.home, "~") == printed, typed


def test_every_variable_that_the_program_reads_is_documented():
    with open(podstack.SOURCE, encoding="utf-8") as stream:
        used = set(re.findall(r"\bPODSTACK_[A-Z_]+\b", stream.read()))
    internal = {"PODSTACK_TOKEN_COMMAND"}  # the guard against a token_command that calls podstack
    assert used - internal == {name for name, _ in podstack.ENVIRONMENT}


def typed_commands():
    """Every podstack command of README's shell blocks, pipes and comments taken off."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", read_readme(), re.DOTALL):
        for line in block.splitlines():
            found = re.match(r"(?:\$ )?(podstack [^|#]*)", line)
            if found:
                yield found.group(1).strip()


@pytest.mark.parametrize("typed", list(typed_commands()))
def test_every_command_that_readme_shows_is_one(typed):
    found, options = podstack.read_line(podstack.Line(shlex.split(typed)[1:]))
    assert callable(found) and options


def test_readme_is_short_enough_to_be_read():
    assert 150 <= len(read_readme().splitlines()) <= 220


if __name__ == "__main__":
    text = with_lists(read_readme())
    with open(README, "w", encoding="utf-8") as stream:
        stream.write(text)
    sys.exit(0)

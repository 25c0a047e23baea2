"""The command line: what is understood, what is refused and how, and every page of help."""

import argparse
import itertools
import random
import re
import shlex

import pytest
from conftest import PYTHONS, USER

import podstack

GROUPS = list(podstack.GROUPS)
NAMES = sorted(" ".join(words) for words in podstack.COMMANDS)
GLOBALS = podstack.GLOBAL_OPTIONS


def understood(typed):
    """The command that a line means, and what it sets beside the defaults."""
    found, options = podstack.read_line(podstack.Line(shlex.split(typed)))
    defaults = {argument.dest: argument.default for argument in arguments_of(found)}
    values = {name: value for name, value in vars(options).items() if value != defaults.get(name)}
    return " ".join(found.words), values


def arguments_of(found):
    return list(GLOBALS) + found.options


UNDERSTOOD = [
    ("auth status", "auth status", {}),
    # options before, between and after the command words
    ("--profile work auth status", "auth status", {"profile": "work"}),
    ("auth --profile work status", "auth status", {"profile": "work"}),
    ("auth status --profile work", "auth status", {"profile": "work"}),
    ("-q auth -y status --debug --no-color", "auth status",
     {"quiet": True, "yes": True, "debug": True, "no_color": True}),
    ("--device auth login", "auth login", {"device": True}),
    ("pod get --watch ci-pod", "pod get", {"watch": True, "name": "ci-pod"}),
    ("pod --name a create --image b", "pod create", {"name": "a", "image": "b"}),
    # the forms of a value
    ("pod list --output json", "pod list", {"output": "json"}),
    ("pod list --output=json", "pod list", {"output": "json"}),
    ("pod list -o json", "pod list", {"output": "json"}),
    ("pod list -ojson", "pod list", {"output": "json"}),
    ("pod list -o=json", "pod list", {"output": "json"}),
    ("pod list -o yaml -o json", "pod list", {"output": "json"}),
    ("api /pods -f a=b=c", "api", {"path": ("/pods", []), "field": [("a", "b=c")]}),
    ("api /pods -fa=b -fc=d --field e=f", "api",
     {"path": ("/pods", []), "field": [("a", "b"), ("c", "d"), ("e", "f")]}),
    ("pod create --name=a=b --image=", "pod create", {"name": "a=b", "image": ""}),
    ("auth login --token -", "auth login", {"token": "-"}),
    ("pod create --name a --command '-c ls'", "pod create", {"name": "a", "command": "-c ls"}),
    ("pod create --name a --command=--wait", "pod create", {"name": "a", "command": "--wait"}),
    ("pod create --name a --port 80 --port 443", "pod create", {"name": "a", "port": [80, 443]}),
    # clusters
    ("pod exec x -it -- sh", "pod exec", {"name": "x", "stdin": True, "tty": True, "cmd": ["sh"]}),
    ("pod list -qo json", "pod list", {"quiet": True, "output": "json"}),
    ("pod list -qyojson", "pod list", {"quiet": True, "yes": True, "output": "json"}),
    # operands
    ("pod delete a b c", "pod delete", {"name": ["a", "b", "c"]}),
    ("pod cp ./a b:/c", "pod cp", {"src": "./a", "dst": "b:/c"}),
    ("config set defaults.project ''", "config set", {"key": "defaults.project", "value": ""}),
    ("config set defaults.project -", "config set", {"key": "defaults.project", "value": "-"}),
    ("help", "help", {"command": []}),
    ("help pod create", "help", {"command": ["pod", "create"]}),
    # all after the first -- is as it is
    ("pod exec x -- ls --help -q -- -o json", "pod exec",
     {"name": "x", "cmd": ["ls", "--help", "-q", "--", "-o", "json"]}),
    ("-q pod exec -i x -- sh -c 'a  b'", "pod exec",
     {"quiet": True, "stdin": True, "name": "x", "cmd": ["sh", "-c", "a  b"]}),
    ("pod delete a -- -b --yes", "pod delete", {"name": ["a", "-b", "--yes"]}),
    ("pod get -- --weird", "pod get", {"name": "--weird"}),
    ("config set api.timeout -- -5", "config set", {"key": "api.timeout", "value": "-5"}),
    ("auth status --", "auth status", {}),
]  # fmt: skip


@pytest.mark.parametrize("typed, words, values", UNDERSTOOD, ids=[row[0] for row in UNDERSTOOD])
def test_a_line_is_understood(typed, words, values):
    assert understood(typed) == (words, values)


LOGIN, CREATE, EXEC = "auth login", "pod create", "pod exec"
REFUSED = [
    # typed, the error, the command words whose help is named
    ("auht login", "Unknown command 'auht' (did you mean 'auth'?)", ""),
    ("pods list", "Unknown command 'pods' (did you mean 'pod'?)", ""),
    ("xyzzy", "Unknown command 'xyzzy'", ""),
    ("login", "Unknown command 'login' (did you mean 'auth login'?)", ""),
    ("doctor -q", "Unknown command 'doctor' (did you mean 'auth doctor'?)", ""),
    ("balance", "Unknown command 'balance' (did you mean 'wallet balance'?)", ""),
    ("create --name x", "Unknown command 'create' (did you mean 'project create' or 'pod create'?)",
     ""),
    ("auth logn", "Unknown command 'logn' for 'podstack auth' (did you mean 'login'?)", "auth"),
    ("pod lst --wait", "Unknown command 'lst' for 'podstack pod' (did you mean 'list'?)", "pod"),
    ("pod lst --wide", "Unknown command 'lst' for 'podstack pod' (did you mean 'list'?)", "pod"),
    ("auth xyzzy", "Unknown command 'xyzzy' for 'podstack auth'", "auth"),
    ("environment", "Unknown command 'environment'", ""),
    ("help enviroment", "Unknown command 'enviroment' (did you mean 'environment'?)", ""),
    ("help pod lst", "Unknown command 'lst' for 'podstack pod' (did you mean 'list'?)", "pod"),
    ("xyzzy --help", "Unknown command 'xyzzy'", ""),
    ("''", "Unknown command ''", ""),
    ("-", "Unknown command '-'", ""),
    # options: no abbreviations, a guess for a slip
    ("--versio", "Unknown option '--versio' (did you mean '--version'?)", ""),
    ("--bogus", "Unknown option '--bogus'", ""),
    ("auth --bogus", "Unknown option '--bogus'", "auth"),
    ("--porfile work auth login", "Unknown option '--porfile' (did you mean '--profile'?)", ""),
    ("--imgae x pod create", "Unknown option '--imgae' (did you mean '--image'?)", ""),
    ("auth login --porfile work", "Unknown option '--porfile' (did you mean '--profile'?)", LOGIN),
    ("auth login --dev", "Unknown option '--dev' (did you mean '--device'?)", LOGIN),
    ("auth login --devic", "Unknown option '--devic' (did you mean '--device'?)", LOGIN),
    ("auth login --no-brows", "Unknown option '--no-brows' (did you mean '--no-browser'?)", LOGIN),
    ("auth login --tokn=x", "Unknown option '--tokn' (did you mean '--token'?)", LOGIN),
    ("auth login --image x", "Unknown option '--image'", LOGIN),
    ("auth login -x", "Unknown option '-x'", LOGIN),
    ("pod exec x -itz -- sh", "Unknown option '-z'", EXEC),
    ("config set api.timeout -5", "Unknown option '-5'", "config set"),
    ("auth login ---token x", "Unknown option '---token' (did you mean '--token'?)", LOGIN),
    # values
    ("auth login --token", "--token needs a value", LOGIN),
    ("pod create --name", "--name needs a value", CREATE),
    ("pod create --name --image x", "--name needs a value", CREATE),
    ("pod create --name --image=x", "--name needs a value", CREATE),
    ("pod create --name x --command --quiet", "--command needs a value", CREATE),
    ("pod create --name x --command --help", "--command needs a value", CREATE),
    ("pod create --name x --command --version", "--command needs a value", CREATE),
    ("--profile --quiet", "--profile needs a value", ""),
    ("--profile --help", "--profile needs a value", ""),
    ("pod list -q-yes", "Unknown option '-q-yes' (did you mean '--yes'?)", "pod list"),
    ("pod list -o", "-o needs a value", "pod list"),
    ("pod list -qo", "-o needs a value", "pod list"),
    ("pod exec x --timeout -- sh", "--timeout needs a value", EXEC),
    ("--profile -- auth status", "--profile needs a value", ""),
    ("auth login --device=yes", "--device takes no value", LOGIN),
    ("auth login --device=", "--device takes no value", LOGIN),
    ("pod list -o xml", "--output must be table, wide, json or yaml, not 'xml'", "pod list"),
    ("pod list --output=", "--output must be table, wide, json or yaml, not ''", "pod list"),
    ("pod create --name a --cpu 0", "--cpu must be a whole number above 0, not '0'", CREATE),
    ("pod create --name a --cpu 1.5", "--cpu must be a whole number above 0, not '1.5'", CREATE),
    ("pod create --name a --cpu \u0661",
     "--cpu must be a whole number above 0, not '\u0661'", CREATE),
    ("pod create --name a --port 65536",
     "--port must be a port from 1 to 65535, not '65536'", CREATE),
    ("auth login --timeout soon",
     "--timeout must be a number of seconds between 0 and 86400, not 'soon'", LOGIN),
    ("pod create --image x", "--name N is missing", CREATE),
    ("project create", "--name N is missing", "project create"),
    # operands
    ("pod get", "NAME is missing", "pod get"),
    ("pod delete", "NAME... is missing", "pod delete"),
    ("pod delete --", "NAME... is missing", "pod delete"),
    ("config set defaults.project", "VALUE is missing", "config set"),
    ("pod exec", "NAME is missing", EXEC),
    ("pod exec x", "-- CMD... is missing", EXEC),
    ("pod exec x --", "-- CMD... is missing", EXEC),
    ("pod exec -- x ls", "NAME is missing", EXEC),
    ("pod exec x ls -- pwd", "Unexpected argument 'ls': a command goes after --", EXEC),
    ("pod exec x ls", "Unexpected argument 'ls': a command goes after --", EXEC),
    ("auth status now", "Unexpected argument 'now'", "auth status"),
    ("auth status -- --now", "Unexpected argument '****'", "auth status"),
    ("pod get a b", "Unexpected argument 'b'", "pod get"),
    ("completion tcsh", "SHELL must be bash, zsh, fish or powershell, not 'tcsh'", "completion"),
    # what is typed reaches no terminal raw, and a token no screen at all
    ("'\x1b[2J'", "Unknown command '\\x1b[2J'", ""),
    ("pod get a 'b\nc'", "Unexpected argument 'b\\x0ac'", "pod get"),
    ("auth login a-token-of-no-known-shape", "Unexpected argument '****'", LOGIN),
]  # fmt: skip


@pytest.mark.parametrize("typed, error, words", REFUSED, ids=[ascii(row[0]) for row in REFUSED])
def test_a_line_is_refused(cli, config, typed, error, words):
    done = cli(*shlex.split(typed), code=2)
    assert done.error == "Error: " + error
    if words is not None:
        see = " ".join(["podstack"] + words.split() + ["--help"])
        assert done.err == "Error: %s\nSee: %s\n" % (error, see)
    assert done.out == ""
    assert not config.exists()


def test_nothing_is_abbreviated_on_the_oldest_python_either(podstack_process):
    oldest = PYTHONS[
        min(PYTHONS, key=lambda name: [int(n) for n in re.findall(r"\d+", name)] or [9])
    ]
    done = podstack_process("auth", "login", "--dev", python=oldest, code=2)
    assert done.error == "Error: Unknown option '--dev' (did you mean '--device'?)"
    done = podstack_process("pod", "exec", "x", "-it", python=oldest, code=2)
    assert done.error == "Error: -- CMD... is missing"


def test_no_line_whatever_ends_in_a_bug(cli, home):
    """Words of the command line at random: each ends with a code of the table, nothing raw."""
    rng = random.Random(7)
    commands = [
        words for words in podstack.COMMANDS if words[-1] not in ("login", "doctor", "update")
    ]
    options = sorted({name for found in podstack.COMMANDS.values()
                      for argument in arguments_of(found) for name in argument.names})  # fmt: skip
    odd = ["", "-", "--", "---", "--=", "-=", "--x=y", "=", "\x1b[2J", "\u202e", "%s",
           "9" * 5000, "profiles.", "profiles.x.project", "json", "1h", "a:/b", "K=V"]  # fmt: skip
    codes = {code for code, _ in podstack.EXIT_CODES}
    for _ in range(3000):
        words = list(rng.choice(commands)) if rng.random() < 0.9 else []
        for _ in range(rng.randint(0, 4)):
            word = rng.choice((rng.choice(options), rng.choice(options) + "=" + rng.choice(odd),
                               rng.choice(odd), rng.choice(odd)))  # fmt: skip
            words.insert(rng.randint(0, len(words)), word)
        done = cli(*words, code=None)
        assert done.code in codes, words
        assert "This is a bug" not in done.err, (words, done)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out + done.err), words


# -- another reader of the same lines: argparse


class Strict(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def peer(found):
    """An argparse parser for one command with its command words as operands."""
    parser = Strict(add_help=False, allow_abbrev=False)
    for argument in arguments_of(found):
        known = {"dest": argument.dest}
        if argument.metavar is None:
            known["action"] = "store_true"
        else:
            known["action"] = "append" if argument.repeats else "store"
            known["default"] = argument.default
            known["required"] = argument.required
            known["type"] = argument.read
        parser.add_argument(*argument.names, **known)
    for number, word in enumerate(found.words):
        parser.add_argument("word%d" % number, choices=[word])
    for operand in found.operands:
        if not operand.behind:
            nargs = ("*" if operand.shown.startswith("[") else "+") if operand.many else None
            parser.add_argument(operand.dest, nargs=nargs, type=operand.read)
    return parser


VALUES = ("json", "7", "80", "a", "work", "K=V", "b c", "\u00e9", "1h", "a=b=c", "")
WORDS = ("a", "8080:80", "defaults.project", "x y", "\u00e9", "/pods", "\u4e16")


def random_option(rng, argument):
    name = rng.choice(argument.names)
    if argument.metavar is None:
        return [name]
    value = rng.choice(podstack.OUTPUTS if argument.complete == podstack.OUTPUTS else VALUES)
    if name.startswith("--"):
        return rng.choice(([name, value], ["%s=%s" % (name, value)]))
    return rng.choice(([name, value], [name + value])) if value else [name, value]


def random_line(rng, found):
    """The words before a --, and those behind it: mostly right, sometimes not."""
    groups = [[word] for word in found.words]
    for operand in found.operands:
        count = 0 if operand.behind else rng.randint(1, 3) if operand.many else 1
        groups += [[rng.choice(WORDS)] for _ in range(count)]
    arguments = arguments_of(found)
    chosen = [argument for argument in arguments if argument.required and rng.random() < 0.95]
    chosen += rng.sample(arguments, rng.randint(0, 3))
    for argument in chosen:
        groups.insert(rng.randint(0, len(groups)), random_option(rng, argument))
    if rng.random() < 0.2:
        wrong = rng.choice((["--bogus"], ["extra"], ["-Z"], ["--profil", "x"], ["--project"]))
        groups.insert(rng.randint(0, len(groups)), wrong)
    tail = [rng.choice(WORDS) for _ in range(rng.randint(0, 2))] if found.operands else []
    return list(itertools.chain(*groups)), tail


def ours(typed):
    """(Command, values) as the program reads a line; (None, None) where it refuses it."""
    try:
        line = podstack.Line(typed)
        if not line.words or line.words in [[group] for group in GROUPS]:
            return None, None
        found, options = podstack.read_line(line)
        return found, vars(options)
    except podstack.UsageError:
        return None, None


def theirs(parser, found, typed, tail):
    """The same by argparse."""
    behind = [operand for operand in found.operands if operand.behind]
    try:
        split = [] if behind or not tail else ["--"] + tail
        values = vars(parser.parse_intermixed_args(typed + split))
    except ValueError:
        return None, None
    if behind and not tail:
        return None, None
    for number in range(len(found.words)):
        del values["word%d" % number]
    values.update({operand.dest: tail for operand in behind})
    return found, values


@pytest.mark.parametrize("words", NAMES)
def test_a_line_without_options_means_what_the_parser_makes_of_it(words):
    found = podstack.COMMANDS[tuple(words.split())]
    arguments = arguments_of(found)
    options = podstack.Options(arguments)
    podstack.build_parser(arguments).parse_args([], options)
    assert vars(options) == {argument.dest: argument.default for argument in arguments}


def test_thousands_of_lines_mean_what_argparse_makes_of_them():
    rng = random.Random(20240101)
    parsers = {words: peer(found) for words, found in podstack.COMMANDS.items()}
    read = refused = 0
    for _ in range(4000):
        found = rng.choice(list(podstack.COMMANDS.values()))
        typed, tail = random_line(rng, found)
        expected = theirs(parsers[found.words], found, typed, tail)
        got = ours(typed + ["--"] + tail if tail else typed)
        if got[0] is not None and got[0] is not found:
            continue  # a value was left out, and a command word taken for it: another command
        assert got == expected, (typed, tail)
        read, refused = read + (got[0] is found), refused + (got[0] is None)
    assert read > 2000 and refused > 500, (read, refused)


# -- help


def page(words):
    return podstack.help_text(words.split())


PAGES = [page(words) for words in [""] + GROUPS + NAMES]
PAGES += [podstack.TOPICS[topic] for topic in podstack.TOPICS]


@pytest.mark.parametrize("text", PAGES, ids=[text.partition("\n")[0] for text in PAGES])
def test_a_page_of_help_fits_a_screen(text):
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert not any(line != line.rstrip() for line in lines)


def test_a_page_of_help_as_a_whole():
    assert page("pod exec") == (
        "usage: podstack pod exec [options] NAME -- CMD...\n"
        "\n"
        "Run a command in a pod; its exit code comes back.\n"
        "\n"
        "examples:\n"
        "  podstack pod exec ci-pod -- nvidia-smi\n"
        "      its output, its exit code\n"
        "  podstack pod exec ci-pod -it -- bash\n"
        "      a shell\n"
        "\n"
        "arguments:\n"
        "  NAME  the pod's name or id\n"
        "  CMD   the command and its words, after --; they arrive as typed\n"
        "\n"
        "options:\n"
        "  -i, --stdin  pass stdin on\n"
        "  -t, --tty    give it a terminal\n"
        "  --timeout S  give up after this long\n"
        "\n"
        "everywhere: --profile --project -o -q -y --debug --no-color -h --version\n"
        "(see podstack --help)\n"
    )


@pytest.mark.parametrize("words", [""] + GROUPS + NAMES)
def test_a_page_of_help_begins_with_how_to_type_it_then_examples(words):
    text = page(words)
    assert text.startswith(" ".join(["usage: podstack"] + words.split()))
    places = [text.find("\n%s" % part) for part in ("examples:\n  ", "arguments:", "options")]
    assert places[0] > 0
    assert all(place > places[0] for place in places[1:] if place >= 0)


@pytest.mark.parametrize("words", [""] + GROUPS + NAMES)
def test_help_can_be_asked_for_in_each_way(cli, home, words):
    typed = words.split()
    text = page(words)
    for line in (
        typed + ["--help"],
        ["-h"] + typed,
        typed[:1] + ["--help"] + typed[1:],
        ["help"] + typed,
        typed + ["-q", "--profile", "nobody", "--help"],
        typed + ["--bogus", "--help"],
        typed + ["--help", "--", "x"],
    ):
        if line[0] == "help" and ("--bogus" in line or words in podstack.TOPICS):
            continue
        done = cli(*line)
        assert (done.out, done.err) == (text, "")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [
        "pod create --cpu none --help",
        "pod get --help extra",
        "pod exec x ls -h",
    ],
)
def test_help_wins_over_what_is_wrong_with_the_line(cli, typed):
    assert cli(*typed.split()).out == page(" ".join(typed.split()[:2]))


def test_help_behind_a_double_dash_is_for_the_pod(cli):
    done = cli("pod", "exec", "x", "--", "ls", "--help", "--version", code=4)
    assert done.error == "Error: Not authenticated"


@pytest.mark.parametrize("words", [""] + GROUPS)
def test_bare_words_print_help_where_errors_go(cli, words):
    for more in ([], ["-q"], ["--profile", "work"], ["--", "auth", "status"]):
        done = cli(*(words.split() + more), code=2)
        assert (done.out, done.err) == ("", page(words))


@pytest.mark.parametrize("topic", sorted(podstack.TOPICS))
def test_help_for_a_topic(cli, topic):
    assert cli("help", topic).out == podstack.TOPICS[topic]
    assert "podstack help " + "|".join(podstack.TOPICS) in page("")


def test_help_lists_the_exit_codes_and_the_environment(cli):
    codes = cli("help", "exit-codes").out
    for code, meaning in podstack.EXIT_CODES:
        assert re.search("^ +%d  %s$" % (code, re.escape(meaning)), codes, re.MULTILINE)
    names = cli("help", "environment").out
    assert re.findall("PODSTACK_[A-Z_]+", names) == [name for name, _ in podstack.ENVIRONMENT]


def test_version(cli, home):
    assert cli("--version").out == "podstack %s\n" % podstack.VERSION
    assert cli("pod", "list", "--version").out == "podstack %s\n" % podstack.VERSION
    assert re.match(r"podstack %s \(python 3\." % podstack.VERSION, cli("version").out)
    assert cli("version", "-o", "json").json["version"] == podstack.VERSION
    assert list(home.iterdir()) == []


# -- the table of commands


@pytest.mark.parametrize("words", NAMES)
def test_a_command_is_described(words):
    found = podstack.COMMANDS[tuple(words.split())]
    assert found.words[0] in GROUPS or len(found.words) == 1
    assert found.about.endswith(".") and found.help and not found.help.endswith(".")
    said = [part.help for part in found.options + found.operands]
    for text in said + [example.meaning for example in found.examples]:
        assert re.match("[a-z]|[A-Z]{2}", text) and not text.endswith(".")
    assert 1 <= len(found.examples) <= 2


@pytest.mark.parametrize("words", NAMES)
def test_a_commands_examples_are_lines_of_that_command(words):
    found = podstack.COMMANDS[tuple(words.split())]
    for example in found.examples:
        typed = re.search(r"(?<![^ (])podstack [^|()]*", example.typed).group().split()[1:]
        assert podstack.read_line(podstack.Line(typed))[0] is found


@pytest.mark.parametrize("words", NAMES)
def test_no_two_parts_of_a_command_share_a_name(words):
    found = podstack.COMMANDS[tuple(words.split())]
    names = [name for argument in arguments_of(found) for name in argument.names]
    places = [part.dest for part in arguments_of(found) + found.operands]
    # pod create's --name and project create's are options, elsewhere NAME is an operand
    assert len(set(names)) == len(names) and len(set(places)) == len(places)
    assert all(re.match(r"--[a-z][a-z-]+$|-[a-zA-Z]$", name) for name in names)


def test_an_option_takes_a_value_in_every_command_or_in_none():
    known = {}
    for found in podstack.COMMANDS.values():
        for argument in arguments_of(found):
            for name in argument.names:
                assert known.setdefault(name, argument.metavar is None) == (
                    argument.metavar is None
                )


def test_the_topic_that_is_called_as_a_group_names_the_groups_help(cli):
    assert set(GROUPS) & set(podstack.TOPICS) == {"config"}
    assert cli("help", "config").out.endswith(": podstack config --help\n")
    assert cli("config", "--help").out == page("config")


def test_a_command_is_never_a_group_and_never_a_topic():
    single = {words[0] for words in podstack.COMMANDS if len(words) == 1}
    assert not single & set(GROUPS)
    assert not single & set(podstack.TOPICS)
    assert {words[0] for words in podstack.COMMANDS if len(words) == 2} == set(GROUPS)


def test_yes_and_quiet_are_understood_before_the_command(cli, api, config):
    cli("--quiet", "--yes", "auth", "login", "--token", USER)
    done = cli("-y", "-q", "auth", "revoke")
    assert (done.out, done.err) == ("", "")

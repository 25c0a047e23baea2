"""The layout of podstack.py: which chapter may do what, and that it reads from top to bottom."""

import ast
import os
import re

from conftest import CHECKOUT, PODSTACK

with open(PODSTACK, encoding="utf-8") as stream:
    SOURCE = stream.read()
LINES = SOURCE.splitlines()
TREE = ast.parse(SOURCE)
CHAPTERS = (
    "head", "errors", "text", "yaml", "app", "files", "secrets", "http", "login", "api",
    "commands", "door",
)  # fmt: skip

# What a chapter may import, beyond what stands at the top of the file. A module that opens
# something outside the program (a socket, a process, a terminal) is in one chapter alone.
IMPORTS = {
    "text": {"base64", "difflib", "json", "re", "unicodedata"},
    "app": {"contextlib", "getpass", "shlex", "signal", "subprocess", "threading"},
    "files": {"errno", "fcntl", "msvcrt", "signal"},
    "secrets": {"base64", "hashlib", "json", "shlex", "zlib"},
    "http": {
        "base64", "calendar", "contextlib", "email.utils", "http.client", "ipaddress", "json",
        "socket", "ssl", "threading", "urllib.parse",
    },
    "login": {
        "base64", "hashlib", "hmac", "html", "http.server", "secrets", "socket", "socketserver",
        "threading", "urllib.parse",
    },
    "api": {"_thread", "concurrent.futures", "http.client", "re", "shutil", "tarfile", "tempfile"},
    "commands": {"urllib.parse"},
    "door": {"argparse", "traceback"},
}  # fmt: skip
# What reaches outside the program without an import: {written as: the chapters that may}.
AT_START = ["io", "os", "stat", "sys", "time"]  # of these Python has loaded all but one itself
REACHES = {
    "print": (),
    "input": (),
    "open": ("app", "files", "api"),
    "os.open": ("files",),
    "os.environ": ("app",),
    "os.getenv": (),
    "os.system": (),
    "os._exit": ("door",),
    "sys.stdin": ("app",),
    "sys.stdout": ("app",),
    "sys.stderr": ("app",),
    "sys.argv": ("door",),
    "sys.exit": (),
    "time.sleep": ("app",),
    "time.time": ("app",),
}


def chapter_of(line):
    """The chapter that a line (from 1) stands in."""
    starts = [name for number, name in BANNERS if number <= line]
    return starts[-1] if starts else "head"


BANNERS = [
    (number, re.match(r"# == (\w+): ", line).group(1))
    for number, line in enumerate(LINES, 1)
    if line.startswith("# == ")
]


def rank(line):
    return CHAPTERS.index(chapter_of(line))


def written(node):
    """How a name or attribute is written: `os.environ`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id + "." + node.attr
    return None


def definitions():
    """{name: line} of everything that the module defines at its top level."""
    found = {}
    for node in TREE.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node.lineno
        for target in getattr(node, "targets", []):
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    found.setdefault(name.id, node.lineno)
    return found


def local_names(function):
    arguments = function.args
    every = arguments.args + arguments.kwonlyargs + [arguments.vararg, arguments.kwarg]
    names = {argument.arg for argument in every if argument}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node is not function:
            names.add(node.name)
    return names


def references():
    """(line, name, line of its definition) for each use of a module-level name."""
    defined = definitions()

    def visit(node, hidden):
        inner = hidden
        if isinstance(node, ast.FunctionDef):
            inner = hidden | local_names(node)
        elif isinstance(node, ast.Lambda):
            inner = hidden | {argument.arg for argument in node.args.args}
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            targets = [name for part in node.generators for name in ast.walk(part.target)]
            inner = hidden | {name.id for name in targets if isinstance(name, ast.Name)}
        is_use = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        if is_use and node.id in defined and node.id not in hidden:
            yield node.lineno, node.id, defined[node.id]
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    return list(visit(TREE, set()))


def functions():
    return [node for node in ast.walk(TREE) if isinstance(node, ast.FunctionDef)]


def length(node):
    return node.end_lineno - node.lineno + 1


def test_the_chapters_stand_in_their_order_and_each_says_what_it_is_for():
    assert [name for _, name in BANNERS] == list(CHAPTERS[1:])
    for number, name in BANNERS:
        below = LINES[number : number + 4]
        comments = [line for line in below if line.startswith("# ")]
        assert 2 <= len(comments) <= 4, "%s (line %d)" % (name, number)


def test_no_chapter_uses_what_stands_in_a_lower_one():
    upward = [
        "line %d (%s) uses %s of line %d (%s)" % (line, chapter_of(line), name, at, chapter_of(at))
        for line, name, at in references()
        if rank(at) > rank(line)
    ]
    assert upward == []


def test_the_file_reads_from_top_to_bottom():
    every = references()
    down = [row for row in every if row[2] > row[0]]
    assert len(down) <= 0.03 * len(every), down


def test_each_import_stands_in_the_chapter_that_needs_it():
    foreign = []
    for node in ast.walk(TREE):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        chapter = chapter_of(node.lineno)
        allowed = set(AT_START) if chapter == "head" else IMPORTS.get(chapter, set())
        foreign += [
            "line %d (%s) imports %s" % (node.lineno, chapter, module)
            for module in modules
            if module not in allowed
        ]
    assert foreign == []


def test_only_the_head_imports_at_start_up():
    at_top = [node for node in TREE.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = sorted(alias.name for node in at_top for alias in node.names)
    assert names == AT_START


def test_each_way_out_of_the_program_is_in_its_chapter():
    wrong = []
    for node in ast.walk(TREE):
        name = written(node)
        if name in REACHES and chapter_of(node.lineno) not in REACHES[name]:
            wrong.append("line %d (%s) uses %s" % (node.lineno, chapter_of(node.lineno), name))
    assert wrong == []


def test_one_ladder_turns_errors_into_words():
    reports = [name for _, name, _ in references() if name == "report"]
    handlers = [node for node in functions() if node.name == "main"]
    assert len(handlers) == 1
    inside = range(handlers[0].lineno, handlers[0].end_lineno + 1)
    lines = [line for line, name, _ in references() if name == "report"]
    assert reports and all(line in inside for line in lines)


def test_the_top_level_holds_what_it_should_alone():
    found = {name for name in os.listdir(CHECKOUT) if not name.startswith(".")}
    wanted = {"podstack.py", "install.sh", "tests", "README.md", "LICENSE"}
    assert found - {"__pycache__"} == wanted


def test_the_file_does_not_grow():
    """The wish is 3,000 lines; each new feature finds its lines here, and lowers the number."""
    assert len(LINES) <= 5388


def test_functions_are_small():
    sizes = sorted(map(length, functions()))
    long = [
        "%s (%d lines)" % (node.name, length(node)) for node in functions() if length(node) > 60
    ]
    assert long == []
    assert sizes[len(sizes) * 9 // 10] < 30


def test_every_definition_is_used():
    """A helper that nothing calls goes; commands are used by the table, the rest by name."""
    used = {name for _, name, _ in references()}
    declared = {
        node.name for node in TREE.body if isinstance(node, ast.FunctionDef) and node.decorator_list
    }
    public = {"yaml_load", "yaml_dump", "yaml_set"}
    assert sorted(set(definitions()) - used - declared - public) == []

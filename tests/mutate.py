"""Mutation testing: break one line of podstack.py at random, and see whether a quick test tells.

    python3 tests/mutate.py [--seed 20261125] [--count 200] [--jobs 2]

Each chapter gets mutations in proportion to its length: a line at random, then one of the changes
that `changes` knows. Every mutation is tried in a copy of the checkout, with the tests that run
its line, the fastest first, until one fails. First all quick tests run once, traced, to learn
which those are: that takes a few minutes. What no test notices is printed, and then it is an
equivalent change, or a test is missing, or the line is not needed:

    SURVIVED line 352 (text): < -> <=
"""

import argparse
import ast
import collections
import concurrent.futures
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIRST = 30  # tests that run before the rest: one that fails is mostly among them
# What a trace does not show: these read the file, or count what the program imports.
ALWAYS = ["tests/test_shape.py", "tests/test_docs.py", "tests/test_startup.py"]
SWAPS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
}  # fmt: skip

# What is put at the top of the traced copy: it notes each pair of running test and line once.
TRACER = """\
import os as _os, sys as _sys, threading as _threading
def _note(mine=globals(), seen=set(), log=_os.open(%r, _os.O_WRONLY | _os.O_APPEND)):
    environ = _os.environ
    def lines(frame, event, argument):
        if event == "line":
            pair = environ.get("PYTEST_CURRENT_TEST"), frame.f_lineno
            if pair not in seen:
                seen.add(pair)
                _os.write(log, ("%%d %%s\\n" %% pair[::-1]).encode("utf-8", "replace"))
        return lines
    def calls(frame, event, argument):
        return lines if frame.f_globals is mine else None
    _sys.settrace(calls)
    _threading.settrace(calls)
_note()
"""

Mutation = collections.namedtuple("Mutation", "line chapter what begin end text")


class Source:
    """podstack.py as bytes, with its tree, and where each line begins."""

    def __init__(self, data):
        self.data, self.tree = data, ast.parse(data)
        self.lines = data.splitlines(True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def begin(self, node):
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node):
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node):
        return self.data[self.begin(node) : self.end(node)].decode("utf-8")

    def chapters(self):
        """(name, its first line, the line after its last) of each chapter."""
        banners = [("head", 1)]
        for number, line in enumerate(self.lines, 1):
            found = re.match(rb"# == (\w+):", line)
            if found:
                banners.append((found.group(1).decode(), number))
        ends = [number for _, number in banners[1:]] + [len(self.lines) + 1]
        return [(name, number, end) for (name, number), end in zip(banners, ends)]

    def mutations(self):
        """Every mutation that there is."""
        chapters = self.chapters()
        docs = [node for node in ast.walk(self.tree) if isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)]  # fmt: skip
        left_alone = {id(node) for doc in docs for node in (doc, doc.value)}
        for node in ast.walk(self.tree):
            if id(node) in left_alone:
                continue
            for old, begin, end, new in self.changes(node):
                line = self.data.count(b"\n", 0, begin) + 1
                chapter = [name for name, first, _ in chapters if first <= line][-1]
                what = "%s -> %s" % (" ".join(old.split()), new.strip() or "nothing")
                yield Mutation(line, chapter, what, begin, end, new)

    def changes(self, node):
        """(what it replaces, from, to, by what) for each way to break one node."""
        begin, end = (self.begin(node), self.end(node)) if hasattr(node, "lineno") else (0, 0)

        def whole(new):
            return self.text(node), begin, end, new

        if isinstance(node, (ast.Expr, ast.Assign, ast.AugAssign, ast.Raise, ast.Delete)):
            yield whole("pass")
        elif isinstance(node, ast.Return) and node.value and self.text(node) != "return None":
            yield whole("return None")
        elif isinstance(node, (ast.Break, ast.Continue)):
            yield whole("continue" if isinstance(node, ast.Break) else "break")
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            test = node.test
            yield self.text(test), self.begin(test), self.end(test), "(not (%s))" % self.text(test)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield whole("(%s)" % self.text(node.operand))
        elif isinstance(node, ast.Compare):
            yield from self.swapped(node)
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:]):
                yield self.between(left, right, old, new)
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, str)):
            value = node.value
            if isinstance(value, bool):
                yield whole(str(not value))
            elif isinstance(value, int):
                yield whole(str(value + 1))
            else:
                yield whole(repr("X" + value))
        elif isinstance(node, ast.Call):
            yield from self.fewer(node.args + node.keywords, self.data.rindex(b")", begin, end))
        elif isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Tuple):
            yield from self.fewer(node.type.elts, self.end(node.type) - 1)

    def between(self, left, right, old, new):
        begin, end = self.end(left), self.begin(right)
        gap = self.data[begin:end].decode("utf-8")
        return old, begin, end, re.sub(r"(?<!\w)%s(?!\w)" % re.escape(old), new, gap, count=1)

    def swapped(self, node):
        for left, op, right in zip([node.left] + node.comparators, node.ops, node.comparators):
            yield self.between(left, right, *SWAPS[type(op)])

    def fewer(self, parts, closing):
        """Leave one of the `parts` of a call or tuple out, with the comma after it."""
        for index, part in enumerate(parts):
            is_last = index + 1 == len(parts)
            stop = closing if is_last else self.begin(parts[index + 1])
            if isinstance(part, (ast.Name, ast.Constant, ast.Attribute, ast.keyword, ast.Call)):
                yield self.text(part), self.begin(part), stop, ""

    def mutated(self, mutation):
        return self.data[: mutation.begin] + mutation.text.encode() + self.data[mutation.end :]

    def compiles(self, mutation):
        try:
            compile(self.mutated(mutation), "podstack.py", "exec")
            return True
        except SyntaxError:
            return False


def choose(source, seed, count):
    """`count` mutations, spread over the chapters by their length, each on a line of its own."""
    rng, chosen = random.Random(seed), []
    by_line = collections.defaultdict(list)
    for mutation in source.mutations():
        by_line[mutation.line].append(mutation)
    taken = 0
    for _, first, end in source.chapters():
        quota = round(count * (end - 1) / len(source.lines)) - taken
        lines = [line for line in range(first, end) if line in by_line]
        rng.shuffle(lines)
        found = (rng.choice(sorted(by_line[line], key=lambda one: one[3:])) for line in lines)
        kept = [one for one, _ in zip(filter(source.compiles, found), range(quota))]
        chosen += sorted(kept)
        taken += len(kept)
    return chosen


def copy_checkout(folder, data):
    """Make a copy of the checkout whose podstack.py is `data`; returns its path."""
    path = os.path.join(folder, "checkout")
    shutil.copytree(CHECKOUT, path, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__"))
    with open(os.path.join(path, "podstack.py"), "wb") as stream:
        stream.write(data)
    return path


def scratch():
    """A folder of its own that every user may look into, as the tests' other users do."""
    folder = tempfile.TemporaryDirectory(prefix="mut-")
    os.chmod(folder.name, 0o755)
    return folder


def pytest(checkout, words, seconds):
    """Run pytest over a copy; (exit code, output). Nothing that it starts is left over."""
    temporary = os.path.join(os.path.dirname(checkout), "tmp")
    os.makedirs(temporary, exist_ok=True)
    env = dict(os.environ, TMPDIR=temporary)
    argv = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=line"]
    argv += ["-o", "faulthandler_timeout=60", "-o", "faulthandler_exit_on_timeout=true"]
    if shutil.which("unshare") and os.getuid() == 0:  # processes of their own, with a shell as init
        own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        argv = own + ["sh", "-c", '"$@"; exit $?', "sh"] + argv
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv + words, cwd=checkout, env=env, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            output.write(b"\ntimeout\n")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


class Coverage:
    """Which quick tests run which line, how long each takes, and what passes at all."""

    def __init__(self):
        self.tests = collections.defaultdict(set)  # {line: tests}
        self.seconds = collections.defaultdict(float)
        self.passed = set()

    def learn(self, source, jobs):
        names = sorted(os.listdir(os.path.join(CHECKOUT, "tests")))
        files = ["tests/" + name for name in names if re.match(r"test_\w+\.py$", name)]
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda path: self.learn_file(source, path), files))

    def learn_file(self, source, path):
        with scratch() as folder:
            log = os.path.join(folder, "lines")
            open(log, "wb").close()
            os.chmod(log, 0o666)
            tracer = "exec(%r)\n" % (TRACER % log)
            data = source.data.replace(b"import io\n", b"import io; " + tracer.encode(), 1)
            checkout = copy_checkout(folder, data)
            _, output = pytest(checkout, [path, "-rp", "-vv", "--durations=0"], 900)
            with open(log, encoding="utf-8", errors="replace") as stream:
                pairs = [line.rstrip("\n").partition(" ") for line in stream]
        passed = set(re.findall(r"^PASSED (.*)$", output, re.MULTILINE))
        for seconds, test in re.findall(r"^([\d.]+)s \w+ +(.*)$", output, re.MULTILINE):
            self.seconds[test] += float(seconds)
        for number, _, running in pairs:
            test = running.rpartition(" (")[0]
            # A process with an environment of its own does not know for which test it runs.
            self.tests[int(number)].update([test] if test in passed else passed)
        self.passed |= passed

    def of(self, source, mutation):
        """The tests that run a mutation's line, the fastest first."""
        lines, is_all = lines_that_run(source, mutation)
        found = set().union(*(self.tests[line] for line in lines if line in self.tests))
        kept = self.passed if is_all else found & self.passed
        return sorted(kept, key=lambda test: (test not in found, self.seconds[test], test))


def lines_that_run(source, mutation):
    """(the lines that show a mutation where they run, whether any test at all may see it, too).

    Within a function these are its statement's own; outside, all that use what it defines.
    """
    number, around = mutation.line, []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.stmt):
            decorators = [one.lineno for one in getattr(node, "decorator_list", [])]
            if min(decorators + [node.lineno]) <= number <= node.end_lineno:
                around.append(node)
    innermost, functions = around[-1], [n for n in around if isinstance(n, ast.FunctionDef)]
    body = getattr(innermost, "body", None)
    if any(node.body[0].lineno <= number for node in functions):
        if isinstance(innermost, ast.FunctionDef):  # its defaults
            return range(body[0].lineno, innermost.end_lineno + 1), False
        end = body[0].lineno if body else innermost.end_lineno + 1
        return range(min(innermost.lineno, number), max(end, number + 1)), False
    names = {getattr(node, "name", None) for node in around}
    for target in getattr(innermost, "targets", []):
        names |= {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(target)}
    lines = set()
    for node in ast.walk(source.tree):
        if getattr(node, "id", getattr(node, "attr", None)) in names - {None}:
            lines.add(node.lineno)
    for node in functions:
        lines |= set(range(node.body[0].lineno, node.end_lineno + 1))
    return lines, True


def fails(source, mutation, coverage):
    """The test that a mutation makes fail (or how else it ended), or None: it survived."""
    tests = coverage.of(source, mutation)
    with scratch() as folder:
        checkout = copy_checkout(folder, source.mutated(mutation))
        for words in (tests[:FIRST], tests[FIRST:], ALWAYS):
            if not words:
                continue
            seconds = 60 + 6 * sum(coverage.seconds[test] for test in words)
            code, output = pytest(checkout, ["-x"] + words, seconds)
            if code:
                found = re.search(r"^(?:FAILED|ERROR) (.*)$", output, re.MULTILINE)
                return found.group(1) if found else "exit %d" % code
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    with open(os.path.join(CHECKOUT, "podstack.py"), "rb") as stream:
        source = Source(stream.read())
    chosen, coverage = choose(source, options.seed, options.count), Coverage()
    coverage.learn(source, options.jobs)
    sums = collections.Counter()
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda one: fails(source, one, coverage), chosen)
        for mutation, result in zip(chosen, results):
            if result is None:
                sums[mutation.chapter] += 1
                print("SURVIVED line %d (%s): %s" % mutation[:3], flush=True)
    for name, _, _ in source.chapters():
        tried = sum(mutation.chapter == name for mutation in chosen)
        print("%-10s %d of %d survived" % (name, sums[name], tried))
    print("%d of %d survived" % (sum(sums.values()), len(chosen)))


if __name__ == "__main__":
    main()

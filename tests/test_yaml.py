"""The YAML of the config file: what is read, what is refused and where, and what an edit leaves."""

import random

import pytest

import podstack

GUIDE = """\
auth:
  token: your_api_token
  expires: 2024-12-31T00:00:00Z

defaults:
  project: my-project
  output: table
"""
GUIDE_PROFILES = """\
profiles:
  default:
    token: personal_token
    project: personal-project
  work:
    token: work_token
    project: work-project
    api_endpoint: https://api.work.podstack.ai
"""
LIST_OF_MAPPINGS = "a:\n- b: 1\n  c:\n  - 2\n- - 3\n  -\n  - d: 4\n"
DEEP_MAPPINGS = "".join(" " * depth + "a:\n" for depth in range(32))
DEEP_VALUE = None
for _ in range(32):
    DEEP_VALUE = {"a": DEEP_VALUE}

ACCEPTED = [
    # name, text, value
    ("nothing", "", None),
    ("only comments", "# a\n\n  # b", None),
    ("only a document marker", "--- # a\n", None),
    ("document marker", "# a\n---\nb: c\n", {"b": "c"}),
    ("byte order mark", "\ufeffa: b\n", {"a": "b"}),
    ("carriage returns and newlines", "a: b\r\nc: d\re: f\n", {"a": "b", "c": "d", "e": "f"}),
    ("no line break at the end", "a: b", {"a": "b"}),
    ("text alone", "a b\n", "a b"),
    (
        "words stay text",
        "a: no\nb: 010\nc: 1e3\nd: True",
        {"a": "no", "b": "010", "c": "1e3", "d": "True"},
    ),
    ("a date stays text", "a: 2024-12-31T00:00:00Z\n", {"a": "2024-12-31T00:00:00Z"}),
    ("four spellings of null", "a: null\nb: ~\nc: Null\nd: NULL\n", dict.fromkeys("abcd")),
    (
        "nothing is null",
        "a:\nb:  # c\nd: {e: , f: }\n",
        {"a": None, "b": None, "d": {"e": None, "f": None}},
    ),
    ("quoted null is text", "a: 'null'\nb: \"~\"\nc: ''\n", {"a": "null", "b": "~", "c": ""}),
    ("null as a key is text", "null: a\n~: b\n", {"null": "a", "~": "b"}),
    ("comments", "# a\nb: c # d\n  # e\nf: g#h #\n", {"b": "c", "f": "g#h"}),
    ("tabs in comments and quotes", 'a: "b\tc" # \t\n', {"a": "b\tc"}),
    (
        "colons in text",
        "a: b:c\nd: http://e\nf::g: h\n",
        {"a": "b:c", "d": "http://e", "f::g": "h"},
    ),
    (
        "marks inside text",
        "a: b-c?d&e*f!g|h>i%j@k`l'm\"n[o]{p},q\n",
        {"a": "b-c?d&e*f!g|h>i%j@k`l'm\"n[o]{p},q"},
    ),
    ("dashes before text", "-a: -b\n", {"-a": "-b"}),
    ("spaces around a key's colon", "a :  b  \n'c' : d\n", {"a": "b", "c": "d"}),
    ("quoted keys", "'a: b': 1\n\"c\\n\": 2\n'<<': 3\n", {"a: b": "1", "c\n": "2", "<<": "3"}),
    ("no-break space is text", "a: \xa0b\xa0\n", {"a": "\xa0b\xa0"}),
    (
        "double quotes",
        r'a: "\0\a\b\t\n\v\f\r\e\"\/\\\ \N\_\L\P"',
        {"a": '\0\a\b\t\n\v\f\r\x1b"/\\ \x85\xa0\u2028\u2029'},
    ),
    ("escapes at the edges", r'a: "\ud7ff\ue000\U0010ffff"', {"a": "\ud7ff\ue000\U0010ffff"}),
    ("hexadecimal escapes", r'a: "\x41\u00e9\U0001F600"', {"a": "A\xe9\U0001f600"}),
    ("single quotes", "a: 'it''s \\n \"b\"'\n", {"a": 'it\'s \\n "b"'}),
    (
        "indentation of any width",
        "a:\n   b:\n    c: 1\n   d: 2\n",
        {"a": {"b": {"c": "1"}, "d": "2"}},
    ),
    (
        "text on the line below",
        "a:\n  b\nc:\n  'd'\ne:\n  {f: g}\n",
        {"a": "b", "c": "d", "e": {"f": "g"}},
    ),
    ("lists", LIST_OF_MAPPINGS, {"a": [{"b": "1", "c": ["2"]}, ["3", None, {"d": "4"}]]}),
    ("indented list", "a:\n  - b\n  # c\n\n  - d\n", {"a": ["b", "d"]}),
    (
        "list at the top",
        "- a\n-\n  b: c\n-   d: e\n    f: g\n",
        ["a", {"b": "c"}, {"d": "e", "f": "g"}],
    ),
    (
        "flow",
        "a: [b, [c, d e], {f: g, h: [i]}, ]\n",
        {"a": ["b", ["c", "d e"], {"f": "g", "h": ["i"]}]},
    ),
    (
        "flow like JSON",
        '{"a":1,"b":[true,null],"c":{"d":"e"}}',
        {"a": "1", "b": ["true", None], "c": {"d": "e"}},
    ),
    ("empty flow", "a: {}\nb: [ ]\n", {"a": {}, "b": []}),
    ("colons in flow", "a: [b:c, http://d:1]\n", {"a": ["b:c", "http://d:1"]}),
    (
        "literal",
        "a: |\n  b # c\n   d: e\n\n  \tf\n\ng: h\n",
        {"a": "b # c\n d: e\n\n\tf\n", "g": "h"},
    ),
    ("literal without line break", "a: |- # c\n\n  b\n\n\nd: e\n", {"a": "\nb", "d": "e"}),
    ("literal that ends in spaces", "a: |-\n  b  \nc: d\n", {"a": "b  ", "c": "d"}),
    ("literal in a list", "- |\n a\n- - |\n   b\n", ["a\n", ["b\n"]]),
    ("32 nested mappings", DEEP_MAPPINGS, DEEP_VALUE),
    ("key of 1024 characters", "k" * 1024 + ": 1\n", {"k" * 1024: "1"}),
]

LITERAL = "a literal text (|) needs whole lines below, none of spaces alone"
REFUSED = [
    # name, text, line, column, message
    ("anchor", "a: &x 1\n", 1, 4, "unquoted text cannot start with '&'"),
    ("alias", "a: *x\n", 1, 4, "unquoted text cannot start with '*'"),
    ("tag", "a: !!str 1\n", 1, 4, "unquoted text cannot start with '!'"),
    ("folded", "a: >\n  x\n", 1, 4, "unquoted text cannot start with '>'"),
    ("directive", "%YAML 1.2\n---\na: 1\n", 1, 1, "unquoted text cannot start with '%'"),
    (
        "second document",
        "a: 1\n---\nb: 2\n",
        2,
        1,
        "unquoted text cannot start with '-'",
    ),
    (
        "value after the document marker",
        "--- a\n",
        1,
        1,
        "unquoted text cannot start with '-'",
    ),
    ("document end", "a: 1\n...\n", 2, 1, "unquoted text cannot start with '.'"),
    (
        "indented document marker",
        "a: 1\n ---\n",
        2,
        2,
        "unexpected indentation (text over several lines needs |)",
    ),
    ("merge key", "b: 1\n<<: 2\n", 2, 1, "unquoted text cannot start with '<'"),
    ("merge key in flow", "a: {<<: b}\n", 1, 5, "unquoted text cannot start with '<'"),
    ("explicit key", "? a\n: b\n", 1, 1, "unquoted text cannot start with '?'"),
    (
        "duplicate key",
        "auth:\n  token: a\n  # c\n  token: b\n",
        4,
        3,
        "the key 'token' is on line 2 already",
    ),
    ("duplicate key in flow", 'a: {b: 1, "b": 2}\n', 1, 11, "the key 'b' is on line 1 already"),
    ("duplicate key, quoted", "a: 1\n'a': 2\n", 2, 1, "the key 'a' is on line 1 already"),
    ("tab indentation", "a:\n\tb: 1\n", 2, 1, "unquoted tabs (\\t) are not supported"),
    ("tab after a value", "a: b\t# c\n", 1, 5, "unquoted tabs (\\t) are not supported"),
    ("tab after a colon", "a:\tb\n", 1, 3, "unquoted tabs (\\t) are not supported"),
    (
        "tab after quotes",
        'a: "b"\t\n',
        1,
        7,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "tab on a blank line",
        "a: 1\n  \t\nb: 2\n",
        2,
        3,
        "unexpected indentation (text over several lines needs |)",
    ),
    (
        "text over two lines",
        "a: b\n  c\n",
        2,
        3,
        "unexpected indentation (text over several lines needs |)",
    ),
    ("quotes over two lines", 'a: "b\n  c"\n', 1, 4, "quoted text must end on its line"),
    ("single quotes over two lines", "a: 'b\n", 1, 4, "quoted text must end on its line"),
    ("flow over two lines", "a: [b,\n  c]\n", 1, 7, "[...] and {...} must end on their line"),
    ("flow cut by a comment", "a: {b: c # d\n", 1, 10, "[...] and {...} must end on their line"),
    (
        "siblings that do not line up",
        "a:\n    b: 1\n  c: 2\n",
        3,
        3,
        "unexpected indentation (text over several lines needs |)",
    ),
    (
        "deeper sibling",
        "a: 1\n  b: 2\n",
        2,
        3,
        "unexpected indentation (text over several lines needs |)",
    ),
    ("list item among keys", "a: 1\n- b\n", 2, 1, "expected 'key: value'"),
    ("key among list items", "- a\nb: 1\n", 2, 1, "expected the end of the file"),
    ("list below a null", "a:\n  ~\n- b\n", 3, 1, "expected 'key: value'"),
    ("text among keys", "a: 1\nb\n", 2, 1, "expected 'key: value'"),
    (
        "colon and space in a value",
        "a: b: c\n",
        1,
        5,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "colon at the end of a value",
        "a: b:\n",
        1,
        5,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "text after quotes",
        'a: "b" c\n',
        1,
        8,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "comment without space after quotes",
        'a: "b"#c\n',
        1,
        7,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "text after flow",
        "a: [] b\n",
        1,
        7,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    ("value that starts with a bracket", "a: ]\n", 1, 4, "unquoted text cannot start with ']'"),
    ("value that starts with a comma", "a: , b\n", 1, 4, "unquoted text cannot start with ','"),
    ("reserved at sign", "a: @b\n", 1, 4, "unquoted text cannot start with '@'"),
    ("reserved backquote", "a: `b`\n", 1, 4, "unquoted text cannot start with '`'"),
    ("dash and space", "a: - b\n", 1, 4, "unquoted text cannot start with '-'"),
    ("lone dash", "a: -\n", 1, 4, "unquoted text cannot start with '-'"),
    ("empty key", ": b\n", 1, 1, "unquoted text cannot start with ':'"),
    (
        "list as key",
        "[a]: b\n",
        1,
        4,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    ("flow key without a space", "a: {b:1}\n", 1, 5, "expected 'key: value'"),
    ("flow key without value", "a: {b}\n", 1, 5, "expected 'key: value'"),
    (
        "pair in a flow list",
        "a: [b: c]\n",
        1,
        6,
        "expected ',' or ']' (text that holds '?' needs quotes)",
    ),
    (
        "question mark in flow",
        "a: [http://x?y]\n",
        1,
        13,
        "expected ',' or ']' (text that holds '?' needs quotes)",
    ),
    ("doubled comma", "a: [b,,c]\n", 1, 7, "unquoted text cannot start with ','"),
    ("wrong bracket", "a: [b}\n", 1, 6, "expected ',' or ']' (text that holds '?' needs quotes)"),
    ("colon at the start in flow", "a: [:b]\n", 1, 5, "unquoted text cannot start with ':'"),
    ("dash in flow", "a: [-]\n", 1, 5, "unquoted text cannot start with '-'"),
    (
        "literal that keeps line breaks",
        "a: |+\n  b\n",
        1,
        5,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "literal with an indentation digit",
        "a: |2\n   b\n",
        1,
        5,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    ("literal without text", "a: |\nb: 1\n", 1, 4, LITERAL),
    (
        "literal without the last line break",
        "a: |\n  b",
        1,
        4,
        LITERAL,
    ),
    (
        "literal with a line of spaces",
        "a: |\n  b\n    \nc: 1\n",
        1,
        4,
        LITERAL,
    ),
    ("literal with a line of one space", "a: |\n b\n \nc: 1\n", 1, 4, LITERAL),
    (
        "literal, less indented line",
        "a: |\n    b\n  c\n",
        3,
        3,
        "unexpected indentation (text over several lines needs |)",
    ),
    (
        "unknown escape sequence",
        'a: "x\\q"\n',
        1,
        6,
        "this escape sequence is incomplete or not supported",
    ),
    (
        "short hexadecimal",
        'a: "\\x4"\n',
        1,
        5,
        "this escape sequence is incomplete or not supported",
    ),
    (
        "no hexadecimal",
        'a: "\\u00_1"\n',
        1,
        5,
        "this escape sequence is incomplete or not supported",
    ),
    (
        "surrogate escape",
        'a: "\\ud800\\ude00"\n',
        1,
        5,
        "this escape sequence is incomplete or not supported",
    ),
    (
        "beyond Unicode",
        'a: "\\U00110000"\n',
        1,
        5,
        "this escape sequence is incomplete or not supported",
    ),
    ("backslash at the end", 'a: "b\\"\n', 1, 4, "quoted text must end on its line"),
    ("NUL", "a: b\n# \x00\n", 2, 3, "the character U+0000 is not supported"),
    ("escape character", 'a: "\x1b[31m"\n', 1, 5, "the character U+001B is not supported"),
    ("delete", "a: \x7f\n", 1, 4, "the character U+007F is not supported"),
    ("next line", "a: b\x85c\n", 1, 5, "the character U+0085 is not supported"),
    ("line separator", 'a: "\u2028"\n', 1, 5, "the character U+2028 is not supported"),
    ("paragraph separator", "# \u2029\n", 1, 3, "the character U+2029 is not supported"),
    (
        "byte order mark inside",
        "a: 1\r\nb: \ufeff\r\n",
        2,
        4,
        "the character U+FEFF is not supported",
    ),
    ("second byte order mark", "\ufeff\ufeffa: 1\n", 1, 1, "the character U+FEFF is not supported"),
    ("surrogate", "a: \ud800\n", 1, 4, "the character U+D800 is not supported"),
    ("no character", "a: \uffff\n", 1, 4, "the character U+FFFF is not supported"),
    ("vertical tab", "a: 1\x0bb: 2\n", 1, 5, "the character U+000B is not supported"),
    ("form feed", "\x0ca: 1\n", 1, 1, "the character U+000C is not supported"),
    (
        "33 nested mappings",
        DEEP_MAPPINGS + " " * 32 + "a:\n",
        33,
        33,
        "more than 32 levels are not supported",
    ),
    ("33 nested flow lists", "[" * 33 + "]" * 33, 1, 33, "more than 32 levels are not supported"),
    ("33 dashes", "- " * 33 + "a\n", 1, 65, "more than 32 levels are not supported"),
    ("long key", "k" * 1025 + ": 1\n", 1, 1, "keys of more than 1024 characters are not supported"),
    (
        "line after the carriage return",
        "a: 1\rb: &x 2\r",
        2,
        4,
        "unquoted text cannot start with '&'",
    ),
    (
        "column of wide text",
        'ключ: "日本" x\n',
        1,
        12,
        "expected the end of the line (text that holds ': ' needs quotes)",
    ),
    (
        "bidi override in a duplicate key",
        '"\\u202ea": 1\n"\\u202ea": 2\n',
        2,
        1,
        "the key '\\u202ea' is on line 1 already",
    ),
    (
        "control characters in a duplicate key",
        '"\\e[31m\\n": 1\n"\\e[31m\\n": 2\n',
        2,
        1,
        "the key '\\x1b[31m\\n' is on line 1 already",
    ),
]


def rows(table):
    return [pytest.param(*row[1:], id=row[0]) for row in table]


def refusal(call, *arguments):
    with pytest.raises(podstack.YamlError) as caught:
        call(*arguments)
    return caught.value.line, caught.value.column, str(caught.value)


@pytest.mark.parametrize("text, value", rows(ACCEPTED))
def test_a_document_reads_as_written(text, value):
    assert podstack.yaml_load(text) == value


@pytest.mark.parametrize("text, value", rows(ACCEPTED))
def test_another_reader_agrees(text, value, oracle):
    assert oracle(text) == value


@pytest.mark.parametrize("text, line, column, message", rows(REFUSED))
def test_what_is_not_supported_is_refused_with_its_place(text, line, column, message):
    assert refusal(podstack.yaml_load, text) == (line, column, message)


@pytest.mark.parametrize("text, line, column, message", rows(REFUSED))
def test_a_refused_text_is_never_edited(text, line, column, message):
    assert refusal(podstack.yaml_set, text, ("a",), "b") == (line, column, message)
    assert refusal(podstack.yaml_set, text, ("a",), None) == (line, column, message)


def test_the_guides_sample_reads_as_written():
    assert podstack.yaml_load(GUIDE) == {
        "auth": {"token": "your_api_token", "expires": "2024-12-31T00:00:00Z"},
        "defaults": {"project": "my-project", "output": "table"},
    }


def test_the_guides_profiles_read_as_written():
    assert podstack.yaml_load(GUIDE_PROFILES)["profiles"]["work"] == {
        "token": "work_token",
        "project": "work-project",
        "api_endpoint": "https://api.work.podstack.ai",
    }


@pytest.mark.parametrize("text", [GUIDE, GUIDE_PROFILES], ids=["sample", "profiles"])
def test_the_guides_samples_are_what_the_writer_writes(text):
    value = podstack.yaml_load(text)
    assert podstack.yaml_dump(value).replace('"', "") == text.replace("\n\n", "\n")


def test_marks_tell_where_each_entry_stands():
    _, marks = podstack.yaml_parse("# c\na:\n  b: 1\n  'c': {d: 2}\ne:\n  - f: 3\n")
    places = {path: (mark.line, mark.column) for path, mark in marks.items()}
    assert places == {
        (): (2, 1),
        ("a",): (2, 1),
        ("a", "b"): (3, 3),
        ("a", "c"): (4, 3),
        ("a", "c", "d"): (4, 9),
        ("e",): (5, 1),
        ("e", 0, "f"): (6, 5),
    }


DUMPED = [
    # name, value, text
    ("mapping", {"a": "b", "c": {"d": "e"}}, "a: b\nc:\n  d: e\n"),
    (
        "lists",
        {"a": ["b", ["c", "d"], {"e": "f", "g": ["h"]}]},
        "a:\n  - b\n  - - c\n    - d\n  - e: f\n    g:\n      - h\n",
    ),
    ("list at the top", [{"a": 1}, []], "- a: 1\n- []\n"),
    ("empty", {"a": {}, "b": [], "c": None, "d": ""}, 'a: {}\nb: []\nc: null\nd: ""\n'),
    ("nothing", None, "null\n"),
    ("no entries", {}, "{}\n"),
    ("text alone", "a", "a\n"),
    (
        "bools and numbers",
        [True, False, 0, -7, 1.5, 10**30],
        "- true\n- false\n- 0\n- -7\n- 1.5\n- 1" + "0" * 30 + "\n",
    ),
    ("floats", [1e16, 1e-07, 1.5e300, -0.0], "- 1.0e+16\n- 1.0e-07\n- 1.5e+300\n- -0.0\n"),
    ("plain words", ["a.b-c/d@e+f_9", "_x", "Nope"], "- a.b-c/d@e+f_9\n- _x\n- Nope\n"),
    (
        "words with a meaning",
        ["null", "True", "False", "yes", "NO", "y", "N", "on", "off"],
        '- "null"\n- "True"\n- "False"\n- "yes"\n- "NO"\n- "y"\n- "N"\n- "on"\n- "off"\n',
    ),
    (
        "marks with a meaning",
        ["~", "=", "<<", "-", "a: b", "a #b"],
        '- "~"\n- "="\n- "<<"\n- "-"\n- "a: b"\n- "a #b"\n',
    ),
    (
        "numbers as text",
        ["1", "0x1f", "1e3", ".5", "1_000", "1:30"],
        '- "1"\n- "0x1f"\n- "1e3"\n- ".5"\n- "1_000"\n- "1:30"\n',
    ),
    (
        "escapes",
        '"\\\n\t\r\0\x1b\x7f\x85\xa0\xad\u2028\ufeff',
        '"\\"\\\\\\n\\t\\r\\x00\\x1b\\x7f\\x85\\xa0\\xad\\u2028\\ufeff"\n',
    ),
    (
        "other scripts",
        ["\u043a\u043b\u044e\u0447", "\U0001f600"],
        '- "\u043a\u043b\u044e\u0447"\n- "\\U0001f600"\n',
    ),
    ("keys", {"a b": 1, "": 2, "no": 3, "1": 4}, '"a b": 1\n"": 2\n"no": 3\n"1": 4\n'),
    ("a time of expiry", {"expires": "2024-02-29T23:59:59Z"}, "expires: 2024-02-29T23:59:59Z\n"),
    ("a time elsewhere", {"at": "2024-12-31T00:00:00Z"}, 'at: "2024-12-31T00:00:00Z"\n'),
    ("an impossible day", {"expires": "2024-02-30T00:00:00Z"}, 'expires: "2024-02-30T00:00:00Z"\n'),
    (
        "a time in other digits",
        {"expires": "2024-1-1T00:00:00Z"},
        'expires: "2024-1-1T00:00:00Z"\n',
    ),
]


@pytest.mark.parametrize("value, text", rows(DUMPED))
def test_a_value_is_written_so_that_every_reader_agrees(value, text):
    assert podstack.yaml_dump(value) == text


@pytest.mark.parametrize("value, text", rows(DUMPED))
def test_what_is_written_keeps_its_type_in_another_reader(value, text, oracle):
    import datetime

    import yaml

    read = yaml.safe_load(text)
    if isinstance(value, dict) and text.startswith("expires: 2"):
        assert read == {
            "expires": datetime.datetime(2024, 2, 29, 23, 59, 59, tzinfo=datetime.timezone.utc)
        }
    else:
        assert (read, repr(read)) == (value, repr(value))


UNWRITABLE = [
    ("infinity", float("inf"), "inf cannot be written as YAML"),
    ("not a number", [float("nan")], "nan cannot be written as YAML"),
    ("lone surrogate", {"a": "\ud800"}, "a lone surrogate cannot be written as YAML"),
]


@pytest.mark.parametrize("value, message", rows(UNWRITABLE))
def test_what_yaml_cannot_hold_is_not_written(value, message):
    for call in (podstack.yaml_dump, lambda value: podstack.yaml_set("b: 1\n", ("a",), value)):
        with pytest.raises(ValueError) as caught:
            call(value)
        assert str(caught.value) == message


SET = [
    # name, text, keys, value, text after
    ("text", "a: 1\nb: 2\nc: 3\n", "b", "new", "a: 1\nb: new\nc: 3\n"),
    ("text that needs quotes", "a: 1\n", "a", "it: 's", 'a: "it: \'s"\n'),
    ("bool", "a: 'x'\n", "a", True, "a: true\n"),
    ("number", 'a: "x"\n', "a", 1.5, "a: 1.5\n"),
    (
        "time of expiry",
        "a:\n  expires: x\n",
        "a.expires",
        "2024-12-31T00:00:00Z",
        "a:\n  expires: 2024-12-31T00:00:00Z\n",
    ),
    (
        "comment and spacing stay",
        "# x\n\n'a' :   old   # mine\n# y\n",
        "a",
        "new",
        "# x\n\n'a' :   new   # mine\n# y\n",
    ),
    ("carriage returns stay", "a: 1\r\nb: 2\r\n", "a", "x", "a: x\r\nb: 2\r\n"),
    ("carriage returns in new lines", "a: 1\r\n", "b.c", "x", "a: 1\r\nb:\r\n  c: x\r\n"),
    ("bare carriage returns", "a: 1\rb: 2\r", "c", "x", "a: 1\rb: 2\rc: x\r"),
    ("byte order mark stays", "\ufeffa: 1\n", "a", "x", "\ufeffa: x\n"),
    ("no line break at the end", "a: 1\nb: 2", "b", "x", "a: 1\nb: x"),
    ("new entry after no line break", "a: 1", "b", "x", "a: 1\nb: x\n"),
    ("new entry in an empty file", "", "a.b", "x", "a:\n  b: x\n"),
    ("new entry below comments", "# a", "a", "x", "# a\na: x\n"),
    ("new entry below a document marker", "---\n", "a", "x", "---\na: x\n"),
    ("new entry in an empty root", "{}\n", "a", "x", "a: x\n"),
    ("new entry in a root null", "~ # }\n", "a", "x", "# }\na: x\n"),
    (
        "new entry in an empty root with a comment",
        "--- # a\n{ } # }",
        "a",
        "x",
        "--- # a\n# }\na: x\n",
    ),
    ("new entry at the end", "a: 1\n\n# end\n", "b", "x", "a: 1\n\n# end\nb: x\n"),
    (
        "new entry after its last sibling",
        "a:\n    b: 1 # c\n\n# d\ne: 2\n",
        "a.f",
        "x",
        "a:\n    b: 1 # c\n    f: x\n\n# d\ne: 2\n",
    ),
    (
        "new entry after a nested block",
        "a:\n  b:\n    - 1\n    - c: |\n        x\n\nd: 2\n",
        "a.e",
        "x",
        "a:\n  b:\n    - 1\n    - c: |\n        x\n  e: x\n\nd: 2\n",
    ),
    (
        "new entry after a list at its key",
        "a:\n  b:\n  - 1\n  - 2\nd: 2\n",
        "a.e",
        "x",
        "a:\n  b:\n  - 1\n  - 2\n  e: x\nd: 2\n",
    ),
    ("new entry in an indented root", "  a: 1\n", "b", "x", "  a: 1\n  b: x\n"),
    ("new entries at several levels", "a:\n  b: 1\n", "a.c.d", "x", "a:\n  b: 1\n  c:\n    d: x\n"),
    ("entry in an empty mapping", "a: {} # b\nc: 1\n", "a.d", "x", "a: # b\n  d: x\nc: 1\n"),
    ("entry in nothing", "a: # b\nc: 1\n", "a.d", "x", "a: # b\n  d: x\nc: 1\n"),
    ("entry in null", "a: ~\n", "a.d", "x", "a:\n  d: x\n"),
    ("value for nothing", "a:   # b\n", "a", "x", "a: x   # b\n"),
    (
        "value for a block",
        "a: # k\n  b: 1\n  # c\n  d: 2\n# e\nf: 3\n",
        "a",
        "x",
        "a: x # k\n# e\nf: 3\n",
    ),
    ("value for a list", "a:\n- 1\n- 2\nb: 3\n", "a", "x", "a: x\nb: 3\n"),
    ("value for a literal", "a: |- # k\n  b\n\n  c\nd: 3\n", "a", "x", "a: x # k\nd: 3\n"),
    ("value for text on the line below", "a:\n  b\nc: 3\n", "a", "x", "a: x\nc: 3\n"),
    (
        "mapping for text",
        "a: b  # k\nc: 3\n",
        "a",
        {"d": {"e": 1}, "f": []},
        "a:  # k\n  d:\n    e: 1\n  f: []\nc: 3\n",
    ),
    (
        "list for text",
        "a:\n  b: c",
        "a.b",
        ["d", {"e": None}],
        "a:\n  b:\n    - d\n    - e: null\n",
    ),
    ("mapping for a block", "a:\n  b: 1\nc: 3\n", "a", {"d": "e"}, "a:\n  d: e\nc: 3\n"),
    ("empty mapping for a block", "a:\n  b: 1\nc: 3\n", "a", {}, "a: {}\nc: 3\n"),
    (
        "text inside a one-line mapping",
        "a: {b: c, 'd':1, e: }\n",
        "a.b",
        "x y",
        "a: {b: \"x y\", 'd':1, e: }\n",
    ),
    ("text after two spaces", "a: {b:  c, d: 1}\n", "a.b", "x", "a: {b:  x, d: 1}\n"),
    ("text after a close colon", "a: {b: c, 'd':1, e: }\n", "a.d", "x", "a: {b: c, 'd': x, e: }\n"),
    (
        "value for nothing inside a one-line mapping",
        "a: {b: c, e: }\n",
        "a.e",
        "x",
        "a: {b: c, e: x }\n",
    ),
    ("value for a one-line mapping", "a: {b: c} # d\n", "a", "x", "a: x # d\n"),
]


def keys_of(dotted):
    return tuple(dotted.split("."))


@pytest.mark.parametrize("text, keys, value, after", rows(SET))
def test_an_edit_changes_its_own_entry_alone(text, keys, value, after):
    assert podstack.yaml_set(text, keys_of(keys), value) == after


NOT_EDITED = "this entry is not edited: write its keys on lines of their own"
SET_REFUSED = [
    # name, text, keys, value, line, column, message
    ("new entry inside a one-line mapping", "b: 1\na: {c: d}\n", "a.e", "x", 2, 1, NOT_EDITED),
    ("new entry inside a one-line root", "{c: d}\n", "a", "x", 1, 1, NOT_EDITED),
    ("block inside a one-line mapping", "a: {c: d}\n", "a.c", {"e": "f"}, 1, 5, NOT_EDITED),
    ("entry below text", "b: 1\na: c\n", "a.d.e", "x", 2, 1, NOT_EDITED),
    ("entry below empty text", "a: ''\n", "a.d", "x", 1, 1, NOT_EDITED),
    ("entry below a list", "a: []\n", "a.d", "x", 1, 1, NOT_EDITED),
    ("entry in a root list", "- a\n", "a", "x", 1, 1, NOT_EDITED),
    ("a value too deep", DEEP_MAPPINGS, ".".join("a" * 33), "x", 32, 32, NOT_EDITED),
]


@pytest.mark.parametrize("text, keys, value, line, column, message", rows(SET_REFUSED))
def test_an_edit_that_cannot_be_local_is_refused(text, keys, value, line, column, message):
    found = refusal(podstack.yaml_set, text, keys_of(keys), value)
    assert found == (line, column, message)


UNSET = [
    # name, text, keys, text after
    ("entry", "a: 1\n# x\nb: 2 # y\n\nc: 3\n", "b", "a: 1\n# x\n\nc: 3\n"),
    ("block", "a:\n  b: 1\n  # x\n  c:\n  - 2\n# y\nd: 3\n", "a", "# y\nd: 3\n"),
    ("literal", "a: |\n  b\n\n  c\nd: 3\n", "a", "d: 3\n"),
    ("one-line mapping", "a: {b: c}\nd: 3\n", "a", "d: 3\n"),
    ("nested entry", "a:\n  b: 1\n  c: 2\n", "a.b", "a:\n  c: 2\n"),
    ("one-line mapping of one entry", "a:\n  {b: c}\nd: 3\n", "a.b", "a: {}\nd: 3\n"),
    (
        "last entry of a mapping",
        "a: # x\n  # y\n  b: 1\n  # z\nc: 2\n",
        "a.b",
        "a: {} # x\n  # y\n  # z\nc: 2\n",
    ),
    ("last entry of a nested mapping", "a:\n  b:\n    c: 1\n", "a.b.c", "a:\n  b: {}\n"),
    ("last entry of the file", "# x\n---\na: 1\n# y", "a", "# x\n---\n# y"),
    ("carriage returns and byte order mark", "\ufeffa: 1\r\nb: 2\r\n", "a", "\ufeffb: 2\r\n"),
    ("no line break at the end", "a: 1\nb: 2", "b", "a: 1\n"),
    ("absent", "a: 1\n", "b", "a: 1\n"),
    ("absent below text", "a: 1\n", "a.b", "a: 1\n"),
    ("absent in an empty file", "", "a", ""),
]


@pytest.mark.parametrize("text, keys, after", rows(UNSET))
def test_unset_removes_the_lines_of_its_own_entry_alone(text, keys, after):
    assert podstack.yaml_set(text, keys_of(keys), None) == after


UNSET_REFUSED = [
    ("inside a one-line mapping", "b: 1\na: {c: d}\n", "a.c", 2, 5, NOT_EDITED),
    ("a comment would become text", "a: |\n  b\nc: 1\n  # d\n", "c", 3, 1, NOT_EDITED),
]


@pytest.mark.parametrize("text, keys, line, column, message", rows(UNSET_REFUSED))
def test_an_unset_that_cannot_be_local_is_refused(text, keys, line, column, message):
    assert refusal(podstack.yaml_set, text, keys_of(keys), None) == (line, column, message)


def test_an_absent_key_is_no_reason_to_unset_what_shares_its_name():
    text = "a:\n  b: 1\nc:\n  d: 2\n"
    assert podstack.yaml_set(text, ("c", "b"), None) == text


class Documents:
    """A seeded source of documents: each a text, in any style, and the value that it holds."""

    WORDS = ("a", "b", "key", "x-y", "no", "1", "null", "~", "e f", "g:h", "i#j", "\xe9", "")
    QUOTED = WORDS + (
        "a: b",
        "# c",
        "- d",
        "{",
        "it's",
        '"',
        "\\",
        " ",
        "\t",
        "[e]",
        "\u65e5",
        "NULL",
    )

    PIECES = (
        *("a", "b: ", "c:", ": ", "- ", "-", "#", " # ", "'", '"', "{", "}", "[", "]", ", ", "?"),
        *(
            "|",
            "|-",
            "|\n  x\n",
            ">",
            "&a ",
            "*a",
            "!b ",
            "%",
            "@",
            "~",
            "null",
            "<<",
            "---",
            "...",
        ),
        *("\\n", "\\x41", "\n", "\n", "\n  ", "\n    ", "\n- ", " ", "  ", "\t", "\r"),
        *("\x85", "\u2028", "\ufeff", "\xa0"),
    )

    ODD = "aZ \0\n\r\x1b\x7f\x85\xa0\xad\u2028\ufeff\u202e\u0301\u65e5\U0001f600\U000e0001"

    def __init__(self, seed):
        self.random = random.Random(seed)

    def scalar(self, in_flow=False):
        """Return (text, value) of a scalar in one of the three styles."""
        style = self.random.randrange(3)
        if style == 0:
            text = self.random.choice(self.WORDS[:-1] if in_flow else self.WORDS)
            return text, None if text in ("", "~", "null") else text
        value = self.random.choice(self.QUOTED)
        if style == 1:
            return "'%s'" % value.replace("'", "''"), value
        return '"%s"' % "".join(map(self.escaped, value)), value

    def escaped(self, char):
        """Return what may stand for `char` in double quotes."""
        forms = ["\\x%02x", "\\u%04X", "\\U%08x"][ord(char) > 0xFF :]
        if char in '\\"\t' or self.random.random() < 0.1:
            named = {"\t": "\\t", '"': '\\"', "\\": "\\\\", " ": "\\ "}.get(char, char)
            return self.random.choice([named] + [form % ord(char) for form in forms])
        return char

    def key(self, taken):
        """Return (text, key) of a key that is not among `taken`."""
        while True:
            text, value = self.scalar(in_flow=True)
            value = text if value is None else value
            if value not in taken:
                return text, value

    def flow(self, depth=0):
        """Return (text, value) of something on one line."""
        kind = self.random.randrange(6)
        if kind > 1 or depth > 2:
            return self.scalar(in_flow=True)
        items = [self.flow(depth + 1) for _ in range(self.random.randrange(3))]
        if kind == 0:
            return "[%s]" % ", ".join(text for text, _ in items), [value for _, value in items]
        parts, mapping = [], {}
        for text, value in items:
            key_text, key = self.key(mapping)
            parts.append("%s: %s" % (key_text, text))
            mapping[key] = value
        return "{%s}" % ", ".join(parts), mapping

    def noise(self, indent):
        """Return blank and comment lines, mostly none."""
        if self.random.random() < 0.85:
            return []
        return self.random.choice([[""], [" " * indent + "# c: d"], ["# 'e", ""]])

    def literal(self, indent):
        """Return (header, lines, value) of a literal text."""
        texts = [self.random.choice(["a", " b", "# c", "d: e", ""]) for _ in range(3)]
        texts = ["x"] + texts + ["y"]
        header = self.random.choice(["|", "|-"])
        lines = [" " * indent + text if text else "" for text in texts]
        return header, lines, "\n".join(texts) + ("\n" if header == "|" else "")

    def entry(self, head, indent, depth, is_key):
        """Return (lines, value) of what stands behind `head`, a key or a dash."""
        kind = self.random.randrange(10)
        step = self.random.randint(1, 4)
        comment = self.random.choice(["", "", "", " # k"])
        if kind < 2 and depth < 3:
            lines, value = self.mapping(indent + step, depth + 1)
            return [head + comment] + lines, value
        if kind == 2 and depth < 3:
            lines, value = self.sequence(indent + (step if not is_key else step - 1), depth + 1)
            return [head + comment] + lines, value
        if kind == 3:
            header, lines, value = self.literal(indent + step)
            return ["%s %s%s" % (head, header, comment)] + lines, value
        text, value = self.flow() if kind == 4 else self.scalar()
        return [("%s %s" % (head, text)).rstrip(" ") + comment], value

    def mapping(self, indent, depth=0):
        """Return (lines, value) of a block mapping."""
        lines, mapping = [], {}
        for _ in range(self.random.randint(1, 3)):
            text, key = self.key(mapping)
            lines += self.noise(indent)
            below, mapping[key] = self.entry(" " * indent + text + ":", indent, depth, True)
            lines += below
        return lines, mapping

    def sequence(self, indent, depth):
        """Return (lines, value) of a block list."""
        lines, items = [], []
        for _ in range(self.random.randint(1, 3)):
            if self.random.random() < 0.3 and depth < 3:
                below, value = self.mapping(indent + 2, depth + 1)
                while not below[0].strip() or below[0].lstrip().startswith("#"):
                    del below[0]
                below[0] = " " * indent + "- " + below[0].lstrip(" ")
            else:
                below, value = self.entry(" " * indent + "-", indent, depth, False)
            lines += below
            items.append(value)
        return lines, items

    def document(self):
        """Return (text, value) of a whole file."""
        lines, value = self.mapping(0)
        newline = self.random.choice(["\n", "\n", "\r\n"])
        start = self.random.choice(["", "", "", "\ufeff", "--- # start" + newline])
        end = "" if self.random.random() < 0.2 and "|" not in "".join(lines) else newline
        return start + newline.join(lines) + end, value

    def value(self, depth=0):
        """Return something to write."""
        kind = self.random.randrange(12 if depth < 2 else 10)
        if kind == 10:
            return [self.value(depth + 1) for _ in range(self.random.randrange(3))]
        if kind == 11:
            return {self.random.choice(self.QUOTED): self.value(depth + 1) for _ in range(2)}
        choices = [None, True, False, 7, -1.5, 1e22, "2024-12-31T00:00:00Z"]
        if kind < 3:
            return self.random.choice(choices)
        return self.random.choice(self.QUOTED) if kind < 6 else self.text()

    def text(self):
        """Return any text, often one that some reader takes for a number or a mark."""
        alphabet = self.random.choice(
            ["0123456789.eE+-_:xob", "yesnoTRUEfalsnul~", "-:#?, []{}&*!|>'\"%@`\t\\", self.ODD]
        )
        return "".join(self.random.choice(alphabet) for _ in range(self.random.randint(1, 6)))

    def path(self, value):
        """Return the keys of an entry, mostly one that is there."""
        keys = ()
        while isinstance(value, dict) and value and self.random.random() < 0.85:
            keys += (self.random.choice(list(value)),)
            value = value[keys[-1]]
            if self.random.random() < 0.3:
                return keys
        return keys if keys and self.random.random() < 0.5 else keys + ("new",)

    def broken(self):
        """Return a text of random pieces, or a document with slips: mostly no YAML at all."""
        if self.random.random() < 0.5:
            text, _ = self.document()
            for _ in range(self.random.randint(1, 3)):
                start = self.random.randint(0, len(text))
                end = start + self.random.choice([0, 0, 1, 3])
                text = text[:start] + self.random.choice(self.PIECES + ("",)) + text[end:]
            return text
        start = self.random.choice(["", "a: ", "a:\n  "])
        count = self.random.randint(1, 9)
        return start + "".join(self.random.choice(self.PIECES) for _ in range(count))


def read_as(value):
    """Return what a written value reads as: numbers and bools become their text."""
    if isinstance(value, dict):
        return {key: read_as(item) for key, item in value.items()}
    if isinstance(value, list):
        return [read_as(item) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    if value == 1e22:
        return "1.0e+22"
    return str(value) if isinstance(value, (int, float)) else value


def changed_rows(before, after):
    """Return the first changed row and the row after the last, as rows of `before`."""
    first = 0
    while first < min(len(before), len(after)) and before[first] == after[first]:
        first += 1
    last, end = len(before), len(after)
    while last > first and end > first and before[last - 1] == after[end - 1]:
        last, end = last - 1, end - 1
    return first, last


MANY = pytest.mark.parametrize("count", [1000, pytest.param(20000, marks=pytest.mark.slow)])


@MANY
def test_documents_read_as_they_were_made(count):
    source = Documents(1)
    for _ in range(count):
        text, value = source.document()
        assert podstack.yaml_load(text) == value, text


@MANY
def test_another_reader_agrees_on_these_documents(count, oracle):
    source = Documents(1)
    for _ in range(count):
        text, value = source.document()
        assert oracle(text) == value, text


@MANY
def test_a_broken_document_gets_one_clear_error_or_what_another_reader_sees(count, oracle):
    source, accepted = Documents(3), 0
    for _ in range(count):
        text = source.broken()
        try:
            value = podstack.yaml_load(text)
        except podstack.YamlError as error:
            lines = text.lstrip("\ufeff").splitlines() or [""]
            assert str(error).isprintable(), text
            assert 1 <= error.line <= len(lines), text
            assert 1 <= error.column <= len(lines[error.line - 1]) + 1, text
        else:
            accepted += 1
            assert oracle(text) == value, text
    assert accepted > count / 10


@MANY
def test_what_is_written_reads_back_as_it_was(count):
    source = Documents(4)
    for _ in range(count):
        value = source.value()
        assert podstack.yaml_load(podstack.yaml_dump(value)) == read_as(value), value


@MANY
def test_what_is_written_keeps_its_types_in_another_reader(count, oracle):
    import yaml

    source = Documents(5)
    for _ in range(count):
        value = source.value()
        text = podstack.yaml_dump(value)
        read = yaml.safe_load(text)
        assert (read, repr(read)) == (value, repr(value)), text
        assert oracle(text) == read_as(value), text


def random_edits(source, count):
    """Yield (text, value, keys, removes, new, edited); `edited` is None where it is refused."""
    for _ in range(count):
        text, value = source.document()
        keys, new = source.path(value), source.value()
        removes = new is None or source.random.random() < 0.3
        try:
            edited = podstack.yaml_set(text, keys, None if removes else new)
        except podstack.YamlError as error:
            assert str(error) == NOT_EDITED, (text, keys)
            edited = None
        yield text, value, keys, removes, new, edited


def intended_by(value, keys, removes, new):
    """Return the data that an edit is meant to leave."""
    copy = dict(value or {})
    if keys[1:]:
        if not removes or isinstance(copy.get(keys[0]), dict):
            copy[keys[0]] = intended_by(copy.get(keys[0]), keys[1:], removes, new)
    elif removes:
        copy.pop(keys[0], None)
    else:
        copy[keys[0]] = read_as(new)
    return copy


def without_mark(text):
    return text[1:] if text.startswith("\ufeff") else text


def check_bytes_around(text, keys, removes, edited):
    """Check that an edit left every line alone that is not the entry's own."""
    assert edited.startswith("\ufeff") == text.startswith("\ufeff")
    assert edited.count("\r\n") in (0, edited.count("\n"))
    before = without_mark(text).splitlines(True)
    after = without_mark(edited).splitlines(True)
    data, marks = podstack.yaml_parse(text)
    mark = marks.get(keys)
    if mark is None:
        first, end = changed_rows(before, after)
        assert end - first <= (0 if removes else 1)
    elif not removes:
        head, tail = before[: mark.line - 1], before[mark.last_line :]
        assert after[: len(head)] == head
        assert after[len(after) - len(tail) :] == tail
    else:
        others = before[: mark.line - 1] + before[mark.last_line :]
        parent = marks[keys[:-1]]
        for key in keys[:-1]:
            data = data[key]
        if len(keys) > 1 and len(data) == 1:
            row = before[parent.line - 1]
            others[parent.line - 1] = row[: parent.start] + " {}" + row[parent.start :]
        assert after == others


@MANY
def test_edits_change_what_they_should_and_nothing_else(count):
    made = 0
    for text, value, keys, removes, new, edited in random_edits(Documents(6), count * 5 // 4):
        if edited is not None:
            intended = intended_by(value, keys, removes, new)
            assert (podstack.yaml_load(edited) or {}) == intended, (text, keys, edited)
            check_bytes_around(text, keys, removes, edited)
            made += 1
    assert made > count


@MANY
def test_another_reader_agrees_on_edited_documents(count, oracle):
    for text, value, keys, removes, new, edited in random_edits(Documents(7), count):
        if edited is not None:
            intended = intended_by(value, keys, removes, new)
            assert (oracle(edited) or {}) == intended, (text, keys, edited)

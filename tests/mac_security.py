#!/usr/bin/env python3
"""A stand-in for macOS's /usr/bin/security, as its source has it (SecurityTool/macOS).

It reads commands the way readline.c and split_line in security.c do, with their traps: a buffer of
4096 bytes whose rest runs as another command, quotes only where an argument begins, a line without
its end that is never run. Items, and how the keychain behaves, live in the JSON file that the
environment variable STAND_IN_KEYCHAIN names.
"""

import json
import os
import sys

BUFFER = 4096
MAX_ARGS = 32
NOT_FOUND, DUPLICATE, USAGE = 44, 45, 2
OPTIONS = {  # those with a value, those without
    "add-generic-password": ("acCDGjlspwXT", "UA"),
    "find-generic-password": ("acCDGjls", "gw"),
    "delete-generic-password": ("acCDGjls", ""),
}


def split_line(line):
    """The arguments of a line, as split_line finds them."""
    arguments, at = [], 0
    line = line.partition("\0")[0]
    while at < len(line) and len(arguments) < MAX_ARGS:
        while at < len(line) and line[at] in " \t\n\v\f\r":
            at += 1
        if at == len(line):
            break
        quote, found = "", []
        if line[at] in "\"'":  # a quote is one only here
            quote = line[at]
            at += 1
        while at < len(line):
            char = line[at]
            if char == "\\":  # nothing but the next character, without \n or \t
                at += 1
                if at < len(line):
                    found.append(line[at])
            elif quote and char == quote:  # ends the argument, whatever follows
                at += 1
                break
            elif not quote and char in " \t\n\v\f\r":
                break
            else:
                found.append(char)
            at += 1
        arguments.append("".join(found))
    return arguments


class Keychain:
    """The items of the file, and what the test wants of it: `fail` {command: exit code}."""

    def __init__(self, path):
        self.path = path
        with open(path, encoding="latin-1") as stream:
            self.state = json.load(stream)
        self.items = self.state["items"]

    def save(self):
        with open(self.path, "w", encoding="latin-1") as stream:
            json.dump(self.state, stream)

    def run(self, arguments):
        """Carry out one command and return its exit code."""
        if not arguments:
            return 0
        name = arguments[0]
        if name not in OPTIONS:
            print('security: unknown command "%s"' % name, file=sys.stderr)
            return 1
        options = read_options(arguments[1:], *OPTIONS[name])
        if options is None:
            print("Usage: %s" % name, file=sys.stderr)
            return USAGE
        return getattr(self, name.partition("-")[0])(options)

    def key(self, options):
        account, service = options.get("a"), options.get("s")
        for item in self.items:
            if account in (None, item["a"]) and service in (None, item["s"]):
                return item
        return None

    def failure(self, name):
        return self.state["fail"].get(name, 0)

    def add(self, options):
        if "a" not in options or "s" not in options:
            print("Usage: add-generic-password", file=sys.stderr)
            return USAGE
        code = self.failure("add")
        found = self.key(options)
        if code == 0 and found and ("U" not in options or self.failure("update")):
            code = DUPLICATE  # a refused update goes on to create
        if code:
            print("security: SecKeychainItemCreateFromContent: failed", file=sys.stderr)
            return code
        if not found:
            found = {"a": options["a"], "s": options["s"]}
            self.items.append(found)
        found.update(w=options.get("w", ""), l=options.get("l", options["s"]))
        if self.state.get("spoil"):
            found["w"] = self.state["spoil"]
        self.save()
        return 0

    def find(self, options):
        found = self.key(options)
        if not found:
            words = "The specified item could not be found in the keychain."
            print("security: SecKeychainSearchCopyNext: " + words, file=sys.stderr)
            return NOT_FOUND
        if self.failure("find"):
            return self.failure("find")  # without a word
        if "w" in options:
            secret = found["w"]
            plain = all(" " <= char <= "~" for char in secret)
            print(secret if plain else secret.encode("latin-1").hex())
        return 0

    def delete(self, options):
        found = self.key(options)
        if not found:
            return NOT_FOUND
        print("password has been deleted.", file=sys.stderr)  # also when it was not
        if self.failure("delete"):
            return self.failure("delete")
        self.items.remove(found)
        self.save()
        return 0


def read_options(words, with_value, without):
    """The options by letter, None where getopt would refuse them."""
    options, words = {}, list(words)
    while words:
        word = words.pop(0)
        if len(word) != 2 or word[0] != "-" or word[1] not in with_value + without:
            return None
        if word[1] in with_value and not words:
            return None
        options[word[1]] = words.pop(0) if word[1] in with_value else True
    return options


def interactive(keychain, stream):
    """Read commands from `stream` and return the exit code of the last one."""
    code, data = 0, stream.read()
    while data:
        line = data[: BUFFER - 1]
        end = line.find(b"\n")
        if end >= 0:
            line = line[: end + 1]
        elif len(line) < BUFFER - 1:
            return code  # the end of the input inside a line: it is not run
        data = data[len(line) :]
        code = keychain.run(split_line(line.decode("latin-1")))
        if code:
            print(
                "%s: returned %d" % (line.split(b" ")[0].decode("latin-1"), code), file=sys.stderr
            )
    return code


def main(arguments):
    keychain = Keychain(os.environ["STAND_IN_KEYCHAIN"])
    if arguments == ["-i"]:
        return interactive(keychain, sys.stdin.buffer)
    return keychain.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

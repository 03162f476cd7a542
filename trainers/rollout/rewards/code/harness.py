"""Runs inside the jail: the program, and then one call or assertion. A script of its own: standard library only.

Standard input is one line of JSON that is read when the program has run, so that the program does not find what it will
be asked, nor the word that proves an answer, in memory. What the program prints is not an answer.
"""

# ruff: noqa: PTH123
import json
import os
import sys


def main():
    answers = os.dup(1)
    questions = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with open(sys.argv[1], encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    names = {"__name__": "solution", "__builtins__": __builtins__}
    exec(compile(source, "solution.py", "exec"), names)
    with os.fdopen(questions) as file:
        asked = json.loads(file.readline())
    if "assert" in asked:
        exec(compile(asked["assert"], "test.py", "exec"), names)
        value = True
    else:
        value = find(names, asked["call"])(*asked["args"], **asked["kwargs"])
    os.write(answers, json.dumps([asked["word"], value]).encode())


def find(names, name):
    if name not in names and "Solution" in names:
        return getattr(names["Solution"](), name)
    return names[name]


main()

"""The flags in a launch script, or in any text that was cut from one.

A small part of the shell is understood: arrays, assignments, quotes, comments, continued lines, ``${NAME[@]}``,
``${NAME:-default}``, ``$((…))`` and ``$(seq …)``. Redirections are left out. What only a shell can fill in stays as it
is, and is refused where a flag has it as its value.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from controlplane.jobs.flags.command_line import PROGRAMS
from controlplane.jobs.flags.shell_words import Break, Word, shell_words

_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)(\+?)=")
_ARRAY = re.compile(r"^\$\{([A-Za-z_]\w*)\[[@*]\]\}$")
_DEFAULT = re.compile(r"^\$\{([A-Za-z_]\w*):?-(.*)\}$")
_PLAIN = re.compile(r"^\$\{?([A-Za-z_]\w*)\}?$")
_ARITHMETIC = re.compile(r"^\$\(\((.*)\)\)$", re.DOTALL)
_SEQ = re.compile(r"^\$\(\s*seq((?:\s+-?\d+){1,3})\s*\)$")
_OPENS, _CLOSES = {"if", "for", "while", "until", "case", "{"}, {"fi", "done", "esac", "}"}
_LEADS = {"then", "else", "do", "{", "!"}
"""A command may follow these at once."""
_DECLARES = ("export", "local")
_OWN_DIRECTORY = "SCRIPT_DIR"
"""What slime's scripts call it; they ask a shell for what is known here."""
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Div: lambda left, right: left // right,
    ast.Mod: operator.mod,
}


def script_words(text: str, *, directory: str = "", read_file: Callable[[str], str | None] | None = None) -> list[str]:
    """The command line that runs slime's training, or else all flags in the text, in their order. ``directory``:
    where the script lies; ``read_file``: the text of a script that it sources, None if there is none."""
    run = _Run(read_file or (lambda path: None))
    if directory:
        run.values[_OWN_DIRECTORY] = [directory]
    command = run.execute(text)
    return command if command is not None else run.loose


@dataclass
class _Run:
    read_file: Callable[[str], str | None]
    values: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    loose: list[str] = field(default_factory=list[str])
    """Flags that stand in no command."""
    unknown: set[str] = field(default_factory=set[str])
    """Names that a branch sets."""
    incomplete: bool = False
    """A script was sourced that could not be read: a name that is unset may be set there."""

    def execute(self, text: str) -> list[str] | None:
        """The words of the command that trains; None if there is none."""
        depth = 0
        arrays: list[str] = []
        trained: list[str] | None = None
        runs = True  # whether nothing could keep a shell from coming as far as this
        for command in _commands(text):
            depth = max(0, depth + command.opens)
            first = command.words[0].plain if command.words else ""
            runs = command.after is Break.END or (command.after is Break.AND and runs)
            name = self._assign(command, settled=runs and depth == 0 and not command.nested)
            runs = runs and command.succeeds
            if name:
                arrays.append(name)
                continue
            words = [text for word in command.words for text in self.expand(word)]
            if any(PurePosixPath(word).name in PROGRAMS for word in words):
                trained = words
            elif first in ("source", ".") and len(words) > 1:
                self._source(words[1])
            elif first.startswith("-"):
                self.loose += words
        found = (self.values.get(name, [f"${{{name}[@]}}"]) for name in dict.fromkeys(arrays))
        self.loose = [text for texts in found for text in texts] + self.loose
        return trained

    def expand(self, word: Word) -> list[str]:
        """The words that one becomes: an array's elements, or what a list without quotes splits into."""
        found = [""]
        empty = not word.quoted
        for part in word.parts:
            values = self._fill(part.text) if part.expands else None
            if values is None:
                values = [part.text]
            elif not part.quoted:
                values = [text for value in values for text in value.split()]
            empty = empty and not values
            if values:
                found[-1] += values[0]
                found += values[1:]
        return [] if empty else found

    def _fill(self, text: str) -> list[str] | None:
        """What stands for ``$…``; None: only a shell knows."""
        if match := _ARRAY.match(text):
            return self.values.get(match[1], None if self.incomplete or match[1] in self.unknown else [])
        if match := _DEFAULT.match(text):
            return self.values.get(match[1]) or (None if match[1] in self.unknown else [match[2].strip("\"'")])
        if match := _PLAIN.match(text):
            return self.values.get(match[1])
        if match := _SEQ.match(text):
            numbers = [int(number) for number in match[1].split()]
            first, step, last = (1, 1, *numbers) if len(numbers) == 1 else (numbers[0], 1, numbers[1])
            if len(numbers) == 3:
                first, step, last = numbers
            return [str(number) for number in range(first, last + (1 if step > 0 else -1), step)] if step else None
        if match := _ARITHMETIC.match(text):
            return self._compute(match[1])
        return None

    def _compute(self, text: str) -> list[str] | None:
        filled = re.sub(r"\$?\{?([A-Za-z_]\w*)\}?", lambda match: (self.values.get(match[1]) or [match[0]])[0], text)
        try:
            return [str(_number(ast.parse(filled.strip(), mode="eval").body))]
        except (SyntaxError, ValueError, ZeroDivisionError):
            return None

    def _assign(self, command: "_Command", *, settled: bool) -> str | None:
        """The array's name, if the command sets one; an empty name for another assignment."""
        words = command.words[1:] if command.words and command.words[0].plain in _DECLARES else command.words
        match = _ASSIGNMENT.match(words[0].parts[0].text) if words and words[0].parts else None
        if match is None or words[0].parts[0].expands:
            return None
        name = match[1]
        if not settled:
            self.values.pop(name, None)  # which branch is taken, only a shell knows
            self.unknown.add(name)
            return name if command.array is not None else None
        if name in self.unknown and match[2]:
            return None
        self.unknown.discard(name)
        if command.array is not None:
            elements = [text for word in command.array for text in self.expand(word)]
            self.values[name] = (self.values.get(name, []) if match[2] else []) + elements
            return name
        value = words[0].without(match.end())
        unknown = [part for part in value.parts if part.expands and self._fill(part.text) is None]
        # What is known of a longer text is kept, with the gaps as they stand.
        if not unknown or any(part.text and part not in unknown for part in value.parts):
            self.values[name] = [" ".join(self.expand(value))]
        elif name != _OWN_DIRECTORY:
            self.values.pop(name, None)
        return None

    def _source(self, path: str) -> None:
        text = self.read_file(path)
        if text is None:
            self.incomplete = True
        else:
            self.execute(text)


@dataclass
class _Command:
    words: list[Word] = field(default_factory=list[Word])
    array: list[Word] | None = None
    """What stands in the parentheses of ``NAME=(…)``."""
    after: Break = Break.END
    """What stands between it and the one before."""
    nested: bool = False
    """It stands in parentheses, and what it sets is forgotten after them."""
    opens: int = 0
    """How many branches and loops begin with it, less those that end."""

    @property
    def succeeds(self) -> bool:
        """Whether what stands after ``&&`` will run: where a directory cannot be entered, the rest is of no use."""
        plain = [word.plain for word in self.words]
        return bool(plain) and (plain[0] in (*_DECLARES, "cd") or all(map(_ASSIGNMENT.match, plain)))

    @property
    def begins(self) -> bool:
        """Whether a command may still begin here."""
        return all(word.plain in _LEADS for word in self.words)

    def led(self) -> "_Command":
        """Without the words that only lead to it."""
        first = 0
        while first < len(self.words) and (word := self.words[first].plain) in _LEADS | _CLOSES | {"function"}:
            self.opens += (word in _OPENS) - (word in _CLOSES)
            first += 2 if word == "function" else 1  # its name
        self.words = self.words[first:]
        self.opens += bool(self.words) and self.words[0].plain in _OPENS
        return self


def _commands(text: str) -> Iterator[_Command]:
    command, inside, nested = _Command(), 0, 0
    for token in shell_words(text):
        if isinstance(token, Word):
            if inside and command.array is not None:
                command.array.append(token)
            elif not inside:
                command.words.append(token)
            continue
        if token is Break.OPEN and (inside or not command.begins):
            inside += 1
            if inside == 1 and command.array is None and command.words[-1].plain.endswith("="):
                command.array = []
            continue
        if inside:
            inside -= token is Break.CLOSE
            if inside or len(command.words) > 1 or command.array is not None:
                continue  # what else ends here is a function's head
        nested = max(0, nested + (token is Break.OPEN) - (token is Break.CLOSE))
        if command.words:
            yield command.led()
            command = _Command()
        command.nested = nested > 0
        if token in (Break.AND, Break.OR):
            command.after = token
    if command.words:
        yield command.led()


def _number(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
    raise ValueError("not a sum of numbers")

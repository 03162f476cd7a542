"""The flags in a launch script, or in any text that was cut from one.

A small part of the shell is understood: arrays, assignments, quotes, comments, continued lines, ``${NAME[@]}``,
``${NAME:-default}``, ``$((…))``, ``$(seq …)`` and loops that count. Redirections are left out. What only a shell can
fill in, as what a branch sets or a function that may be called, stays as it is, and is refused where a flag has it as
its value.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from controlplane.jobs.flags.command_line import PROGRAMS
from controlplane.jobs.flags.shell_arithmetic import changed_names, compute
from controlplane.jobs.flags.shell_commands import Block, Command, commands
from controlplane.jobs.flags.shell_words import Break, Part, Word

_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)(\+?)=")
_ARRAY = re.compile(r"^\$\{([A-Za-z_]\w*)\[[@*]\]\}$")
_ELEMENT = re.compile(r"^([A-Za-z_]\w*)\[.*\]\+?=")
_DEFAULT = re.compile(r"^\$\{([A-Za-z_]\w*)(:?)([-=])(.*)\}$")
_PLAIN = re.compile(r"^\$\{?([A-Za-z_]\w*)\}?$")
_ARITHMETIC = re.compile(r"^\$\(\((.*)\)\)$", re.DOTALL)
_SEQ = re.compile(r"^\$\(\s*seq((?:\s+-?\d+){1,3})\s*\)$")
_DECLARES = {"export", "local", "declare", "typeset", "readonly"}
_SUCCEED = {"cd", "pushd", "mkdir", "set", "source", ".", "echo", "true", ":"}
"""What stands after one of these and ``&&`` will run: where they fail, the rest is of no use."""
_SETS = {"for", "select", "read", "unset", "mapfile", "readarray", "getopts"}
"""They change the values of the names that follow, the first two of one."""
_SAY = {"echo", "printf"}
_TRAINS = re.compile(r"\s.*\btrain(?:_async)?\.py\b", re.DOTALL)
_HEADS = {"if", "elif", "while", "until"}
"""A command follows them at once."""
_COUNTS = re.compile(r"\(\(\s*(\w+)\s*=([^;]+);([^;]+);\s*(?:\1\s*\+\+|\+\+\s*\1|\1\s*\+=\s*1)\s*\)\)")
_MOST_TURNS = 1000
_DEEPEST = 20
_JOINED = re.compile(r"""^\$\(\s*IFS=(['"]?)(.)[^;]*;\s*echo\s+"\$\{([A-Za-z_]\w*)\[\*\]\}"\s*\)$""")
_OWN_DIRECTORY = "SCRIPT_DIR"
"""What slime's scripts call it; they ask a shell for what is known here."""


def script_words(
    text: str,
    *,
    directory: str = "",
    read_file: Callable[[str], str | None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line that runs slime's training, or else all flags in the text, in their order. ``directory``:
    where the script lies; ``read_file``: the text of a script that it sources, None if there is none;
    ``environment``: the variables that it would find. ValueError for a script that trains in several ways."""
    run = _Run(read_file or (lambda path: None), {name: [value] for name, value in (environment or {}).items()})
    if directory:
        run.values[_OWN_DIRECTORY] = [directory]
    run.execute(text)
    if not run.trained:
        return run.loose
    # Not one that only names the program, as to copy it.
    trained = [words for words in run.trained if _has_flags(words)] or run.trained
    if any(words != trained[0] for words in trained):
        raise ValueError(
            f"the script trains with {len(trained)} different commands, and a job is one of them: leave only that"
            + "".join(f"\n  {_shortened(words)}" for words in trained[:5])
        )
    return trained[0]


@dataclass
class _Scope:
    settled: bool
    """Whether a shell certainly comes to what stands in it."""
    block: Block | None = None
    values: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    unknown: set[str] = field(default_factory=set[str])
    """Both as they were before it."""


@dataclass
class _Run:
    read_file: Callable[[str], str | None]
    values: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    loose: list[str] = field(default_factory=list[str])
    """Flags that stand in no command."""
    trained: list[list[str]] = field(default_factory=list[list[str]])
    """The words of the commands that train."""
    unknown: set[str] = field(default_factory=set[str])
    """Names whose values only a shell knows, as a branch sets them."""
    incomplete: bool = False
    """A script was sourced that could not be read: a name that is unset may be set there."""

    depth: int = 0
    """Of scripts that source one another."""

    def execute(self, text: str, *, settled: bool = True) -> None:
        scopes = [_Scope(settled)]
        arrays: list[str] = []
        runs = True  # whether nothing could keep a shell from coming as far as this
        found, at = list(commands(text)), 0
        while at < len(found):
            command, at = found[at], at + 1
            for blocks in command.closes:
                self._leave(scopes, blocks)
            runs = command.after is Break.END or (command.after is Break.AND and runs)
            if runs and scopes[-1].settled and (end := self._count(found, at - 1)):
                at = end
                continue
            for block in command.opens:
                inside = block in (Block.GROUP, Block.SUBSHELL, Block.FUNCTION) and scopes[-1].settled and runs
                scopes.append(_Scope(inside, block, dict(self.values), set(self.unknown)))
            certain = runs and scopes[-1].settled
            names, others = self._assign(command, settled=certain)
            arrays += names
            before = command.words[: len(command.words) - len(others)]
            if others and others[0].plain in _HEADS:
                others = others[1:]
            if others:
                self._perform(others, before, settled=certain)
                runs = runs and others[0].plain in _SUCCEED
        sets = (self.values.get(name, [f"${{{name}[@]}}"]) for name in dict.fromkeys(arrays))
        self.loose = [text for texts in sets for text in texts] + self.loose

    def _perform(self, command: list[Word], settings: list[Word], *, settled: bool) -> None:
        """What does more than to set. ``settings``: what stands before, and is so for this command alone."""
        for part in (part for word in command for part in word.parts if part.expands):
            self._take_default(part.text, settled=settled)
        first = command[0].plain
        words = [text for word in command for text in self.expand(word)]
        if any(PurePosixPath(word).name in PROGRAMS for word in words):
            self.trained.append(words)
        elif PurePosixPath(first).name == "rollway" and words[1:2] == ["train"]:
            self.trained.append([PROGRAMS[0], *words[words.index("--") + 1 if "--" in words else 2 :]])
        elif first not in _SAY and (inner := next(filter(_TRAINS.search, words), None)):
            self._inner(words[: words.index(inner)], inner)
        elif first in ("source", "."):
            self._source("".join(words[1:2]), settings, settled=settled)
        elif first == "printf" and len(command) > 2 and command[1].plain == "-v":
            self._print(command[2].plain, command[3:], settled=settled)
        elif first.startswith("-"):
            self.loose += words
        else:
            self._forget_changed(first, command)

    def _inner(self, before: list[str], text: str) -> None:
        """Another shell's command, as that of ``bash -c``."""
        run = _Run(self.read_file, dict(self.values), depth=self.depth + 1)
        if self.depth < _DEEPEST:
            run.execute(text)
        self.trained += [[*before, *words] for words in run.trained]

    def _count(self, found: list[Command], at: int) -> int:
        """Run the loop that begins at ``at`` if it counts, as ``for ((i = 0; i < N; i++))`` does, and its turns are
        known. Returns what follows it; 0: it is left to a shell."""
        head = found[at]
        match = _COUNTS.fullmatch(head.words[1].plain) if head.opens == [Block.LOOP] and len(head.words) == 2 else None
        ends = (end for end in range(at + 1, len(found)) if (Block.LOOP,) in found[end].closes)
        end = next(ends, None)
        first = compute(match[2], self.values) if match else None
        if match is None or first is None or end is None or found[end].words:
            return 0
        before = dict(self.values), set(self.unknown)
        for number in range(first, first + _MOST_TURNS):
            self._set(match[1], [str(number)])
            goes_on = compute(match[3], self.values)
            if goes_on == 0:
                return end + 1
            if goes_on is None or not self._turn(found[at + 1 : end]):
                break
        self.values, self.unknown = before
        return 0

    def _turn(self, body: list[Command]) -> bool:
        """What a loop repeats, where it only assigns, under conditions that are known; False: it does more."""
        taken: list[bool] = []
        for command in body:
            for blocks in command.closes:
                if blocks != (Block.IF,) or not taken:
                    return False
                taken.pop()
            if command.otherwise and taken:
                taken[-1] = not taken[-1]
            if command.opens:
                condition = compute(command.words[1].plain, self.values) if len(command.words) == 2 else None
                if command.opens != [Block.IF] or condition is None:
                    return False
                taken.append(bool(condition))
            elif command.after is not Break.END or (all(taken) and self._assign(command, settled=True)[1]):
                return False
        return not taken

    def _leave(self, scopes: list[_Scope], blocks: tuple[Block, ...]) -> None:
        if blocks == (Block.SUBSHELL,) and scopes[-1].block is Block.CASE:
            return  # this ends a pattern
        at = next((at for at in range(len(scopes) - 1, 0, -1) if scopes[at].block in blocks), None)
        if at is None:
            return  # the text was cut from a script
        scope = scopes[at]
        del scopes[at:]
        if scope.block is Block.SUBSHELL:
            self.values, self.unknown = scope.values, scope.unknown
        elif scope.block is Block.FUNCTION:  # it may never be called
            touched = {
                name for name in {*self.values, *scope.values} if self.values.get(name) != scope.values.get(name)
            }
            self.values = {name: value for name, value in scope.values.items() if name not in touched}
            self.unknown |= touched

    def expand(self, word: Word) -> list[str]:
        """The words that one becomes: an array's elements, or what a list without quotes splits into."""
        found = [""]
        empty, missing = not word.quoted, False
        for part in word.parts:
            values = self._fill(part.text) if part.expands else None
            if values is None:
                values = [part.text]
            elif not part.quoted:
                values = [text for value in values for text in value.split()]
            elif part.text.endswith("[*]}"):
                values = [" ".join(values)]
            empty = empty and not values
            missing = missing or (part.quoted and not values)  # "${NAME[@]}" of no elements, which is no word
            if values:
                found[-1] += values[0]
                found += values[1:]
        return [] if empty or (missing and found == [""]) else found

    def _fill(self, text: str) -> list[str] | None:
        """What stands for ``$…``; None: only a shell knows."""
        if match := _ARRAY.match(text):
            return self.values.get(match[1], None if self.incomplete or match[1] in self.unknown else [])
        if match := _DEFAULT.match(text):
            held, default = self.values.get(match[1]), match[4].strip("\"'")
            if (held and (held[0] or not match[2])) or match[1] in self.unknown:
                return held
            return self._fill(default) if default.startswith("$") else [default]
        if match := _PLAIN.match(text):
            return self.values.get(match[1])
        if match := _SEQ.match(text):
            numbers = [int(number) for number in match[1].split()]
            first, step, last = (1, 1, *numbers) if len(numbers) == 1 else (numbers[0], 1, numbers[1])
            if len(numbers) == 3:
                first, step, last = numbers
            numbers = range(first, last + (1 if step > 0 else -1), step) if step else None
            return None if numbers is None else ["\n".join(map(str, numbers))]
        if match := _JOINED.match(text):
            elements = self.values.get(match[3])
            return None if elements is None else [match[2].join(elements)]
        if match := _ARITHMETIC.match(text):
            number = compute(match[1], self.values)
            return None if number is None else [str(number)]
        return None

    def _assign(self, command: Command, *, settled: bool) -> tuple[list[str], list[Word]]:
        """The arrays that the command sets, and its words, if it does more than to set: what stands before another
        command is set for that one alone."""
        declares = bool(command.words) and command.words[0].plain in _DECLARES
        arrays: list[str] = []
        matches = [
            _ASSIGNMENT.match(word.parts[0].text) if word.parts and not word.parts[0].expands else None
            for word in command.words
        ]
        if not declares and None in matches:
            return arrays, command.words[matches.index(None) :]
        for at, (word, match) in enumerate(zip(command.words, matches, strict=True)):
            if match is None:
                continue  # an option, or a name alone
            name, adds = match[1], bool(match[2])
            array = command.arrays.get(at)
            if array is not None:
                arrays.append(name)
            if not settled or (adds and name in self.unknown):
                self._forget(name)  # which branch is taken, only a shell knows
            elif array is not None:
                elements = [text for element in array for text in self.expand(element)]
                self._set(name, (self.values.get(name, []) if adds else []) + elements)
            else:
                self._set_text(name, word.without(match.end()), adds=adds)
        return arrays, []

    def _set_text(self, name: str, value: Word, *, adds: bool) -> None:
        unknown = [part for part in value.parts if part.expands and self._fill(part.text) is None]
        # What is known of a longer text is kept, with the gaps as they stand.
        if not unknown or any(part.text and part not in unknown for part in value.parts):
            before = "".join(self.values.get(name, [])[:1]) if adds else ""
            whole = Word(tuple(Part(part.text, part.expands, True) for part in value.parts))  # it is not split
            self._set(name, [before + " ".join(self.expand(whole))])
        elif name != _OWN_DIRECTORY:
            self._forget(name)

    def _take_default(self, text: str, *, settled: bool) -> None:
        """``${NAME:=default}`` sets the name too, as in ``: ${NAME:=default}``."""
        match = _DEFAULT.match(text)
        if match is None or match[3] != "=":
            return
        found = self._fill(text) if settled else None
        if found is not None:
            self._set(match[1], found)
        elif not any(self.values.get(match[1], ())):
            self._forget(match[1])

    def _set(self, name: str, value: list[str]) -> None:
        self.values[name] = value
        self.unknown.discard(name)

    def _forget(self, name: str) -> None:
        self.values.pop(name, None)
        self.unknown.add(name)

    def _forget_changed(self, first: str, words: list[Word]) -> None:
        """Names that a command changes in a way that only a shell can follow."""
        text = " ".join(word.plain for word in words)
        if first in _SETS:
            names = {word.plain.partition("[")[0] for word in words[1 : 2 if first in ("for", "select") else None]}
            names |= changed_names(text) if first == "for" else set()
        elif first == "let" or first.startswith("(("):
            names = changed_names(text)
        elif first == "eval":
            self.incomplete = True
            names = changed_names(text)
        else:
            names = {match[1] for word in words[:1] if (match := _ELEMENT.match(word.plain))}
        for name in names:
            self._forget(name)

    def _print(self, name: str, words: list[Word], *, settled: bool) -> None:
        """``printf -v NAME FORMAT TEXT``."""
        known = all(self._fill(part.text) is not None for word in words for part in word.parts if part.expands)
        form, *texts = [text for word in words for text in self.expand(word)] or [""]
        if settled and known and len(texts) == 1 and form.count("%") == form.count("%s") == 1:
            self._set(name, [form.replace("%s", texts[0])])
        else:
            self._forget(name)

    def _source(self, path: str, settings: list[Word], *, settled: bool) -> None:
        text = self.read_file(path)
        if text is None or self.depth == _DEEPEST:
            self.incomplete = True
            return
        values = dict(self.values)
        self._assign(Command(settings), settled=settled)
        self.depth += 1
        self.execute(text, settled=settled)
        self.depth -= 1
        for name in (word.plain.partition("=")[0].rstrip("+") for word in settings):
            self._set(name, values[name]) if name in values else self.values.pop(name, None)


def _has_flags(words: list[str]) -> bool:
    at = next(at for at, word in enumerate(words) if PurePosixPath(word).name in PROGRAMS)
    return any(word.startswith(("-", "$")) for word in words[at + 1 :])


def _shortened(words: list[str], limit: int = 100) -> str:
    text = " ".join(words)
    return text if len(text) <= limit else f"{text[:limit]}…"

"""Shell text as commands, each with the branches, loops, groups and functions that begin or end with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from controlplane.jobs.flags.shell_words import Break, Word, shell_words

_NAME = re.compile(r"[A-Za-z_][\w-]*")


class Block(Enum):
    IF = "if"
    LOOP = "loop"
    CASE = "case"
    GROUP = "{"
    SUBSHELL = "("
    FUNCTION = "function"


_OPENS = {
    "if": Block.IF,
    "for": Block.LOOP,
    "while": Block.LOOP,
    "until": Block.LOOP,
    "case": Block.CASE,
    "{": Block.GROUP,
}
_CLOSES = {
    "fi": (Block.IF,),
    "done": (Block.LOOP,),
    "esac": (Block.CASE,),
    "}": (Block.GROUP, Block.FUNCTION),
}
_LEADS = {"then", "else", "do", "{", "!"}
"""A command may follow these at once."""


@dataclass
class Command:
    words: list[Word] = field(default_factory=list[Word])
    arrays: dict[int, list[Word]] = field(default_factory=dict[int, list[Word]])
    """What stands in the parentheses of ``NAME=(…)``, by the place of that word."""
    after: Break = Break.END
    """What stands between it and the one before."""
    closes: list[tuple[Block, ...]] = field(default_factory=list[tuple[Block, ...]])
    """What ends before it, one of several each time."""
    opens: list[Block] = field(default_factory=list[Block])
    """What begins with it, from the outermost on."""
    follows_head: bool = False
    """The head of a function stands before it."""
    otherwise: bool = False
    """``else`` stands before it."""

    @property
    def begins(self) -> bool:
        """Whether a command may still begin here."""
        return all(word.plain in _LEADS for word in self.words)

    def led(self) -> "Command":
        """Without the words that only lead to it."""
        first = 0
        while first < len(self.words) and (word := self.words[first].plain) in _LEADS | _CLOSES.keys() | {"function"}:
            self.otherwise = self.otherwise or word == "else"
            if word == "function":
                self.follows_head = True
                first += 1  # its name
            elif word in _CLOSES:
                self.closes.append(_CLOSES[word])
            elif word == "{":
                self.opens.append(Block.FUNCTION if self.follows_head else Block.GROUP)
            first += 1
        self.words = self.words[first:]
        self.arrays = {at - first: words for at, words in self.arrays.items()}
        if self.words and self.words[0].plain in _OPENS:
            self.opens.append(_OPENS[self.words[0].plain])
        return self


def commands(text: str) -> Iterator[Command]:
    command, inside = Command(), 0
    for token in shell_words(text):
        at = len(command.words) - 1
        if isinstance(token, Word):
            if not inside:
                command.words.append(token)
            elif at in command.arrays:
                command.arrays[at].append(token)
            continue
        if token is Break.OPEN and (inside or not command.begins):
            inside += 1
            if inside == 1 and command.words[-1].plain.endswith("="):
                command.arrays[at] = []
            continue
        ends_head = False
        if inside:
            inside -= token is Break.CLOSE
            if inside or at in command.arrays or any(word.plain not in _LEADS for word in command.words[:at]):
                continue
            name = command.words[at].plain
            ends_head = name not in _OPENS and _NAME.fullmatch(name) is not None
        if command.words:
            yield command.led()
            command = Command(follows_head=ends_head)
        if token is Break.OPEN:
            command.opens.append(Block.SUBSHELL)
        elif token is Break.CLOSE and not ends_head:
            command.closes.append((Block.SUBSHELL,))
        elif token in (Break.AND, Break.OR):
            command.after = token
    if command.words:
        yield command.led()

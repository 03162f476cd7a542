"""Shell text as words whose parts know whether they were quoted and whether they are to be expanded. Redirections are
left out with their targets, and so are here-documents."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_SETS = re.compile(r"[A-Za-z_]\w*\+?=")
_HOME = re.compile(r"~(?=[/\s]|$)")
_REDIRECTION = re.compile(r"(?:\d+|&)?(<<<|<<-?|<>|<&|<|>>|>\||>&|>)")


class Break(Enum):
    END = "end of a command"
    AND = "&&"
    OR = "||"
    OPEN = "("
    CLOSE = ")"


@dataclass(frozen=True, slots=True)
class Part:
    text: str
    expands: bool
    """It is ``$…`` as a whole."""
    quoted: bool


@dataclass(frozen=True, slots=True)
class Word:
    parts: tuple[Part, ...]

    @property
    def quoted(self) -> bool:
        return any(part.quoted for part in self.parts)

    @property
    def plain(self) -> str:
        """Its text as it stands."""
        return "".join(part.text for part in self.parts)

    def without(self, length: int) -> "Word":
        """The word after the first characters, which are no expansion."""
        first, *rest = self.parts
        head = Part(first.text[length:], first.expands, first.quoted)
        return Word((*((head,) if head.text else ()), *rest))


def shell_words(text: str) -> Iterator[Word | Break]:
    at = 0
    documents: list[re.Pattern[str]] = []  # the ends of here-documents that begin on the next line
    while at < len(text):
        character = text[at]
        if text.startswith("\\\n", at):
            at += 2
        elif character in " \t\r":
            at += 1
        elif character == "#":
            at = _until(text, "\n", at)
        elif redirection := _REDIRECTION.match(text, at):
            target, at = _target(text, redirection.end())
            if redirection[1] in ("<<", "<<-"):
                tabs = r"\t*" if redirection[1] == "<<-" else ""
                documents.append(re.compile(rf"^{tabs}{re.escape(target.plain)}$", re.MULTILINE))
        elif text.startswith(("&&", "||"), at):
            at += 2
            yield Break.AND if character == "&" else Break.OR
        elif character == "\n":
            at = _after(documents, text, at + 1)
            documents.clear()
            yield Break.END
        elif character in ";&|":
            at += 1
            yield Break.END
        elif text.startswith("((", at) and (end := _closing(text, at)) and text.startswith("))", end - 2):
            yield Word((Part(text[at:end], False, False),))
            at = end
        elif character in "()":
            at += 1
            yield Break.OPEN if character == "(" else Break.CLOSE
        else:
            word, at = _word(text, at)
            yield word
    yield Break.END


def _target(text: str, at: int) -> tuple[Word, int]:
    while at < len(text) and text[at] in " \t":
        at += 1
    return _word(text, at)


def _after(documents: list[re.Pattern[str]], text: str, at: int) -> int:
    """Where the here-documents that begin at ``at`` have ended. One without an end is none: ``<<`` also shifts bits."""
    for ending in documents:
        found = ending.search(text, at)
        at = found.end() if found else at
    return at


def _word(text: str, at: int) -> tuple[Word, int]:
    parts: list[Part] = []
    while at < len(text) and text[at] not in " \t\r\n;&|()<>":
        character = text[at]
        if text.startswith("\\\n", at):
            at += 2
        elif character == "\\" and at + 1 < len(text):
            parts.append(Part(text[at + 1], False, True))
            at += 2
        elif character == "'":
            end = _until(text, "'", at + 1)
            parts.append(Part(text[at + 1 : end], False, True))
            at = end + 1
        elif character == '"':
            inner, at = _double_quoted(text, at + 1)
            parts += inner
        elif text.startswith("$'", at):
            decoded, at = _ansi_quoted(text, at + 2)
            parts.append(Part(decoded, False, True))
        elif character == "~" and _HOME.match(text, at) and (not parts or _SETS.fullmatch(Word(tuple(parts)).plain)):
            parts.append(Part("$HOME", True, True))
            at += 1
        elif character == "`":
            end = _until(text, "`", at + 1)
            parts.append(Part(f"$({text[at + 1 : end]})", True, False))
            at = end + 1
        elif character == "$" and (end := _expansion(text, at)) > at + 1:
            parts.append(Part(text[at:end], True, False))
            at = end
        else:
            end = at + 1
            while end < len(text) and text[end] not in " \t\r\n;&|()<>\\'\"$`~":
                end += 1
            parts.append(Part(text[at:end], False, False))
            at = end
    return Word(tuple(parts)), at


def _double_quoted(text: str, at: int) -> tuple[list[Part], int]:
    parts = [Part("", False, True)]
    literal = ""
    while at < len(text) and text[at] != '"':
        if text[at] == "\\" and at + 1 < len(text) and text[at + 1] in '"\\$`\n':
            literal += "" if text[at + 1] == "\n" else text[at + 1]
            at += 2
        elif text[at] == "$" and (end := _expansion(text, at)) > at + 1:
            parts += [Part(literal, False, True), Part(text[at:end], True, True)]
            literal, at = "", end
        elif text[at] == "`":
            end = _until(text, "`", at + 1)
            parts += [Part(literal, False, True), Part(f"$({text[at + 1 : end]})", True, True)]
            literal, at = "", end + 1
        else:
            literal += text[at]
            at += 1
    return [*parts, Part(literal, False, True)], at + 1


def _ansi_quoted(text: str, at: int) -> tuple[str, int]:
    """What stands in ``$'…'``, where ``\\n`` is a line's end."""
    end = at
    while end < len(text) and text[end] != "'":
        end += 2 if text[end] == "\\" else 1
    escaped = text[at:end].encode("latin-1", "backslashreplace")
    try:
        return escaped.decode("unicode_escape"), end + 1
    except UnicodeDecodeError:
        return text[at:end], end + 1


def _expansion(text: str, at: int) -> int:
    """Where what ``$`` begins at ``at`` ends."""
    if text[at + 1 : at + 2] in ("{", "("):
        return _closing(text, at + 1) or len(text)
    end = at + 1
    while end < len(text) and (text[end].isalnum() or text[end] == "_"):
        end += 1
    return end


def _closing(text: str, at: int) -> int:
    """Where what the parenthesis or brace at ``at`` opens has been closed; 0: it is not."""
    opening, closing, depth = text[at], {"{": "}", "(": ")"}[text[at]], 0
    for end in range(at, len(text)):
        depth += (text[end] == opening) - (text[end] == closing)
        if depth == 0:
            return end + 1
    return 0


def _until(text: str, what: str, at: int) -> int:
    found = text.find(what, at)
    return len(text) if found < 0 else found

"""The response names the right one of several choices."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.rollout.rewards.answer import final_answer, last_boxed

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TAIL = 2000
"""Characters at the end of a response in which its answer is looked for."""
# Possessive (++ and *+) where two runs of the same characters meet: a white space that a later one could take as well
# would otherwise be tried in every one of them, for a time that grows with the cube of their number.
_LETTER = r"[\s*_`\"'\[({\\$]*+(?:text(?:bf)?\{|mathrm\{|mathbf\{)?[(\[]?([A-Z])[)\]}*_`.\"'$:]*"
_STATED = re.compile(
    r"(?i:\b(?:answer|choice|option)\b(?:\s++(?:is|are|would be|should be|must be))?\s*+"
    r"(?:(?:option|choice)\b\s*+)?)"
    rf"[\s:=*_-]*+{_LETTER}(?![A-Za-z0-9'’])"
)
_IS_RIGHT = re.compile(r"(?:^|(?<=[\s(*]))([A-Z])[)*.]*\s+(?i:is\s+(?:the\s+)?(?:correct|right|best)\b)")
_ALONE = re.compile(rf"{_LETTER}\s*")
_LABELLED = re.compile(r"[*_(\[]*([A-Z])[)\].:*_]+\s*(.*)", re.DOTALL)
_ANOTHER = re.compile(
    r"[\s*_)\]},.]*(?:\bor\b|\band\b|[/&,;|+])[\s*_(\[]*[A-Z](?![A-Za-z])"
    r"|[ \t*_]*[(\[*_][A-Z][)\]*_]|[ \t]+[A-Z](?:[ \t]+[A-Z])*[ \t]*(?:\n|\Z)"
)
_SET = re.compile(r"\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox)\{([^{}]*)\}")
_SPACE = re.compile(r"\\(?:[ ,;:!]|quad(?![A-Za-z]))|~")
_STATEMENT = re.compile(r"(?i)\banswer\b(?:\s+is)?\s*:?\s*(.+)")


def choices_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The choices by letter, from ``metadata["choices"]``: a list in the order of the letters, or an object."""
    found: Any = metadata.get("choices")
    if isinstance(found, Mapping):
        return {str(letter).strip().upper(): str(text) for letter, text in found.items()}
    if isinstance(found, Sequence) and not isinstance(found, str):
        return {letter: str(text) for letter, text in zip(LETTERS, found, strict=False)}
    return {}


def right_letter(label: Any, metadata: Mapping[str, Any]) -> str | None:
    """The letter of the right choice: ``metadata["correct_letter"]``, else the label, which is a letter, the text of
    a choice or its number counted from 0. None when it is none of them."""
    choices = choices_of(metadata)
    valid = _letters(choices, metadata)
    told = metadata.get("correct_letter", label)
    if isinstance(told, bool):
        return None
    if isinstance(told, int):
        return valid[told] if 0 <= told < len(valid) else None
    text = str(told).strip() if told is not None else ""
    letter = text.strip("()[]. ").upper()
    if letter in valid:
        return letter
    return _letter_of_text(text, choices)


def gpqa(response: str, label: Any, metadata: Mapping[str, Any]) -> float:
    """1 when the answer that the response ends on is the right choice, by its letter or its text."""
    right = right_letter(label, metadata)
    return float(right is not None and chosen(response, metadata) == right)


def chosen(response: str, metadata: Mapping[str, Any]) -> str | None:
    """The letter of the choice that a response ends on; None when it names none, or several at once.

    What follows ``</think>`` counts. In this order: the last ``\\boxed{}``; the last statement "the answer is X" or
    "X is correct"; a last line that is a letter or the text of a choice.
    """
    choices = choices_of(metadata)
    valid = _letters(choices, metadata)
    text = final_answer(response)[-_TAIL:].strip()
    boxed = last_boxed(text)
    if boxed is not None:
        return _named(boxed, choices, valid)
    stated = [each for pattern in (_STATED, _IS_RIGHT) for each in pattern.finditer(text) if each[1] in valid]
    last = max(stated, key=lambda each: each.start(1), default=None)
    if last is not None:
        return None if _ANOTHER.match(text, last.end()) else last[1]
    line = text.rpartition("\n")[2].strip()
    if (named := _named(line, choices, valid)) is not None:
        return named
    statement = _STATEMENT.search(line)
    return _named(statement[1], choices, valid) if statement else None


def _named(text: str, choices: Mapping[str, str], valid: str) -> str | None:
    """The choice that the whole of ``text`` names."""
    text = _untypeset(text).strip()
    if (alone := _ALONE.fullmatch(text)) and alone[1] in valid:
        return alone[1]
    if (letter := _letter_of_text(text, choices)) is not None:
        return letter
    labelled = _LABELLED.fullmatch(text)
    if labelled and labelled[1] in valid and labelled[1] == _letter_of_text(labelled[2], choices):
        return labelled[1]
    return None


def _letter_of_text(text: str, choices: Mapping[str, str]) -> str | None:
    """The one choice whose text this is."""
    plain = _plain(text)
    found = [letter for letter, choice in choices.items() if plain and _plain(choice) == plain]
    return found[0] if len(found) == 1 else None


def _untypeset(text: str) -> str:
    return _SPACE.sub(" ", _SET.sub(r"\1", text))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", _untypeset(text)).casefold().strip(" \t\n.*_`$\"'").split())


def _letters(choices: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    told = metadata.get("valid_letters")
    if isinstance(told, str | list | tuple):
        return "".join(str(letter).strip().upper()[:1] for letter in told)
    return "".join(choices) or "ABCD"

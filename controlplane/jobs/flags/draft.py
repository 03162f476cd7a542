"""A job spec in the making: each value with the flags that it comes from, each flag with what became of it."""

from typing import Any, cast

from controlplane.jobs.flags.given import Given
from controlplane.jobs.flags.report import Default, Entry, Outcome, Report

type _Result = tuple[Outcome, tuple[str, ...], str]


class Draft:
    def __init__(self, given: Given) -> None:
        self.spec: dict[str, Any] = {}
        self._given = given
        self._results: dict[str, _Result] = {}
        self._defaults: list[Default] = []
        self._remarks: list[str] = []

    def get(self, field: str, default: Any = None) -> Any:
        place: Any = self.spec
        for part in field.split("."):
            if not isinstance(place, dict) or part not in place:
                return default
            place = cast("dict[str, Any]", place)[part]
        return place

    def set(self, field: str, value: Any, *flags: str, why: str = "") -> None:
        """``flags`` that were given have set ``field``; ``why``: what the user should know of it."""
        self._put(field, value)
        for flag in flags:
            if flag in self._given:
                _, fields, before = self._results.get(flag, (Outcome.SET, (), ""))
                self._results[flag] = (Outcome.SET, tuple(dict.fromkeys((*fields, field))), before or why)

    def default(self, field: str, value: Any, flag: str) -> None:
        """slime's default of ``flag``, which was not given."""
        self._put(field, value)
        self._defaults.append(Default(field, value, flag))

    def ignore(self, flag: str, why: str) -> None:
        """A flag that was not given, or has set something already, stays as it is."""
        if flag in self._given and flag not in self._results:
            self._results[flag] = (Outcome.IGNORED, (), why)

    def override(self, flag: str, why: str) -> None:
        """What a flag has set is set otherwise, and it is ignored after all."""
        if flag in self._given:
            self._results[flag] = (Outcome.IGNORED, (), why)

    def drop(self, field: str, flag: str, why: str) -> None:
        """As :meth:`override`, where the field is not set at all."""
        if flag in self._given:
            self.override(flag, why)
            *sections, name = field.split(".")
            self.get(".".join(sections), {}).pop(name, None)

    def refuse(self, flag: str, why: str) -> None:
        if flag in self._given:
            self._results[flag] = (Outcome.REFUSED, (), why)

    def remark(self, text: str) -> None:
        self._remarks.append(text)

    def settled(self, flag: str) -> bool:
        return flag in self._results

    def report(self) -> Report:
        return Report(tuple(self._entries()), tuple(self._defaults), tuple(self._remarks))

    def _entries(self) -> list[Entry]:
        entries: list[Entry] = []
        for use in self._given.uses:
            if use.problem:
                entries.append(Entry(use.spelled, use.shown, Outcome.REFUSED, (), use.problem, use.suggestion))
            elif not self._given.holds(use):
                why = f"{use.flag} is given again later, and the last one holds"
                entries.append(Entry(use.spelled, use.shown, Outcome.IGNORED, (), why))
            else:
                outcome, fields, why = self._results[use.flag]
                entries.append(Entry(use.spelled, use.shown, outcome, fields, why))
        return entries

    def _put(self, field: str, value: Any) -> None:
        *sections, name = field.split(".")
        place = self.spec
        for section in sections:
            place = cast("dict[str, Any]", place.setdefault(section, {}))
        place[name] = value

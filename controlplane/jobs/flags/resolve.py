"""A command line all the way: translated, validated, and each error with the flag that it comes from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from controlplane.errors import FieldError
from controlplane.jobs.flags.manifests import Manifests
from controlplane.jobs.flags.options import option_errors
from controlplane.jobs.flags.report import Report
from controlplane.jobs.flags.translate import Translation, translate
from controlplane.jobs.spec import JobSpec, field_errors


@dataclass(frozen=True, slots=True)
class Resolution:
    translation: Translation
    spec: JobSpec | None
    """None where there are errors."""
    errors: tuple[FieldError, ...]

    @property
    def report(self) -> Report:
        return self.translation.report


def resolve(
    argv: Sequence[str],
    manifests: Manifests,
    *,
    files: Mapping[str, str] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Resolution:
    """``files``: the text of files that flags name. ``beside``: fields of the spec that no flag sets."""
    translation = translate(argv, manifests, files)
    errors = [
        FieldError(entry.flag, f"{entry.text}: {entry.why}", entry.suggestion) for entry in translation.report.refused
    ]
    errors += [FieldError(flag, f"{flag} is required") for flag in translation.missing]
    spec: JobSpec | None = None
    if not errors:
        try:
            spec = JobSpec.model_validate({**translation.spec, **(beside or {})})
            wrong = option_errors(spec.model_dump(), manifests)
        except ValidationError as error:
            wrong = field_errors(error.errors())
        errors += [_with_flags(each, translation.report) for each in wrong]
    return Resolution(translation, None if errors else spec, tuple(errors))


def _with_flags(error: FieldError, report: Report) -> FieldError:
    """What is wrong with a whole section, or the whole spec, is told by the names of its fields."""
    named = set(re.findall(r"\w+", error.message)) if "." not in error.path else None
    flags = report.setters(error.path, named=named)
    return replace(error, message=f"{error.message} (set by {', '.join(flags)})") if flags else error

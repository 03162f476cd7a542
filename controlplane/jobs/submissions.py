"""The forms in which a job is submitted: a spec, of a run or of a conversion, and slime's command line."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from controlplane.errors import FieldError, Invalid
from controlplane.jobs.flags.manifests import Manifests
from controlplane.jobs.flags.options import option_errors
from controlplane.jobs.flags.resolve import resolve
from controlplane.jobs.spec import AnySpec, ConversionSpec, JobSpec


class ArgvSubmission(BaseModel):
    """slime's flags, as a launch script has them; `docs/slime-flags.md` says what becomes of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    argv: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    files: dict[str, str] = Field(default_factory=dict)
    """The text of the YAML files that flags name (`--eval-config`, `--custom-config-path`), by path."""
    name: str | None = None
    labels: dict[str, str] | None = None
    max_attempts: int | None = None


def _form(body: Any) -> str:
    for form, kind in FORMS.items():
        if isinstance(body, kind) or (isinstance(body, dict) and form in body):
            return form
    return "spec"


type Submission = Annotated[
    Annotated[JobSpec, Tag("spec")]
    | Annotated[ConversionSpec, Tag("conversion")]
    | Annotated[ArgvSubmission, Tag("argv")],
    Discriminator(_form),
]

FORMS: dict[str, type[BaseModel]] = {"argv": ArgvSubmission, "conversion": ConversionSpec, "spec": JobSpec}
"""By the tag that stands before the path of an error in each. The tag is the field by which a form is known, but for a
run's spec, which is every other."""


def read_submission(submission: AnySpec | ArgvSubmission, manifests: Manifests) -> tuple[AnySpec, tuple[str, ...]]:
    """The spec, and what the user should know of the flags that it was made from. Raises Invalid."""
    if isinstance(submission, ConversionSpec):
        return submission, ()
    if isinstance(submission, JobSpec):
        if errors := option_errors(submission.model_dump(), manifests):
            raise _invalid(errors)
        return submission, ()
    beside = submission.model_dump(include={"name", "labels", "max_attempts"}, exclude_none=True)
    found = resolve(submission.argv, manifests, files=submission.files, beside=beside)
    if found.spec is None:
        raise _invalid(found.errors)
    return found.spec, found.report.notices


def _invalid(errors: tuple[FieldError, ...]) -> Invalid:
    return Invalid("; ".join(error.message for error in errors), errors)

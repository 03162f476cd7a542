"""What a client can meet."""

from dataclasses import dataclass


class RollwayError(Exception):
    """Base of the client's errors."""


class NotReachable(RollwayError):
    """No Rollway answers at the address, or none is known."""


@dataclass(frozen=True, slots=True)
class FieldProblem:
    path: str
    message: str
    suggestion: str | None


class ApiError(RollwayError):
    """The API refused. ``fields`` names what was wrong in the request."""

    def __init__(self, status: int, code: str, message: str, fields: tuple[FieldProblem, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields


class JobWaitTimeout(RollwayError):
    """A job did not end in time; the text says what it was doing."""

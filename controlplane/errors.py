"""What the API can answer besides success. Each error knows its HTTP status and a code that programs may match."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: where it is, what is wrong, and the field that was probably meant."""

    path: str
    message: str
    suggestion: str | None = None


class ControlPlaneError(Exception):
    """Base of this room's errors; the text is for the caller."""

    status = 500
    code = "internal_error"

    @property
    def message(self) -> str:
        return str(self)

    @property
    def fields(self) -> tuple[FieldError, ...]:
        return ()


class BadRequest(ControlPlaneError):
    status = 400
    code = "bad_request"


class Unauthorized(ControlPlaneError):
    status = 401
    code = "unauthorized"


class NotFound(ControlPlaneError):
    status = 404
    code = "not_found"


class Conflict(ControlPlaneError):
    """The request is well formed, but the job's state does not allow it."""

    status = 409
    code = "conflict"


class TooLarge(ControlPlaneError):
    status = 413
    code = "too_large"


class Invalid(ControlPlaneError):
    """The request's content is wrong; ``fields`` says where."""

    status = 422
    code = "invalid"

    def __init__(self, message: str, fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(message, fields)

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def fields(self) -> tuple[FieldError, ...]:
        return self.args[1]


class BadGateway(ControlPlaneError):
    """The job's router did not answer."""

    status = 502
    code = "bad_gateway"


class DatabaseUnavailable(ControlPlaneError):
    """The database cannot be reached or went away during the request; nothing was changed."""

    status = 503
    code = "database_unavailable"


class LeaseLost(ControlPlaneError):
    """The row is no longer as the writer saw it: another writer was first, so this one walks away."""

    status = 409
    code = "lease_lost"

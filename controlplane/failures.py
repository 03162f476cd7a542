"""One shape for every error that the API answers."""

import logging
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from controlplane.errors import BadRequest, ControlPlaneError, FieldError, Invalid, NotFound, TooLarge
from controlplane.jobs.schemas import ErrorBody, ErrorView, FieldErrorView
from controlplane.jobs.spec import dotted, field_errors
from controlplane.jobs.submissions import FORMS

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    app.add_exception_handler(ControlPlaneError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


def answer(status: int, code: str, message: str, fields: tuple[FieldError, ...] = ()) -> JSONResponse:
    views = [FieldErrorView(path=f.path, message=f.message, suggestion=f.suggestion) for f in fields]
    view = ErrorView(error=ErrorBody(code=code, message=message, fields=views))
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(status)
    return JSONResponse(view.model_dump(mode="json"), status, headers)


def respond(error: ControlPlaneError) -> JSONResponse:
    return answer(error.status, error.code, error.message, error.fields)


async def _known(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ControlPlaneError)
    return respond(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [cast("dict[str, Any]", each) for each in error.errors()]
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "invalid")
        return answer(400, "invalid_json", f"the body is not JSON: {reason} at character {first['loc'][-1]}")
    in_body = [each | {"loc": each["loc"][1:]} for each in errors if each["loc"][0] == "body"]
    model = _body_model(request)
    if model is None and in_body and in_body[0]["loc"]:
        # A job is submitted in one of two forms, and the form's tag stands before the path.
        model = FORMS.get(in_body[0]["loc"][0])
        in_body = [each | {"loc": each["loc"][1:]} for each in in_body] if model else in_body
    if any(not each["loc"] and each["type"] != "value_error" for each in in_body):
        return answer(422, "invalid", "send a JSON object, with Content-Type: application/json")
    fields = field_errors(in_body, model) if model else ()
    fields += tuple(
        FieldError(dotted(each["loc"][1:]), f"{each['msg']} (in the {each['loc'][0]})")
        for each in errors
        if each["loc"][0] != "body"
    )
    summary = "; ".join(
        field.message if field.path in field.message else f"{field.path}: {field.message}" for field in fields
    )
    return answer(Invalid.status, Invalid.code, summary or "the request is invalid", fields)


def _body_model(request: Request) -> type[BaseModel] | None:
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = getattr(getattr(field, "field_info", None), "annotation", None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == NotFound.status:
        return answer(404, NotFound.code, f"there is no {request.method} {request.url.path}")
    if (
        error.status_code == BadRequest.status and error.__cause__ is not None
    ):  # FastAPI's, of a body it could not parse
        return answer(BadRequest.status, "invalid_json", f"the body is not JSON: {error.__cause__}")
    codes = {405: "method_not_allowed", TooLarge.status: TooLarge.code}
    response = answer(error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail))
    response.headers.update(error.headers or {})
    return response


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(500, "internal_error", f"{type(error).__name__}: the server's log says more")

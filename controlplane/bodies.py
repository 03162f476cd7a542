"""How large a request may be that is read whole."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane import failures
from controlplane.errors import TooLarge

MAX_BODY = 32 << 20
"""Bytes. A body is parsed in one go, and nobody else is answered meanwhile."""
_REFUSAL = f"a request may have {MAX_BODY >> 20} MiB"


class BodyLimit:
    """In front of all routes but those to a job's router, through which requests of any size stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET" or "/openai/v1/" in scope["path"]:
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if declared.isdigit() and int(declared) > MAX_BODY:
            await failures.respond(TooLarge(_REFUSAL))(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:  # in pieces, whose sum nobody declared
                raise HTTPException(TooLarge.status, _REFUSAL)
            return message

        await self._app(scope, counted, send)

"""Who may call: users with the installation's API key, drivers with a token of their attempt."""

import hashlib
import hmac
import secrets
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import LargeBinary, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane import failures
from controlplane.db import Base, Database
from controlplane.errors import Unauthorized

API_KEY_SCHEME = "API key"
DRIVERS = "/v1/attempts/"

_attempt_token = HTTPBearer(scheme_name="Attempt token", description="A driver's token.", auto_error=False)

type AttemptCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_attempt_token)]


class ApiKeyGate:
    """Lets only holders of the API key to anything under ``/v1``, but drivers, who have tokens of their own.

    In front of the routes rather than a dependency of each: a new route cannot forget it, and every poll is spared
    FastAPI's resolving of two dependencies.
    """

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.guards(scope["path"]):
            refusal = self._refusal(scope)
            if refusal is not None:
                await failures.respond(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @staticmethod
    def guards(path: str) -> bool:
        return (path == "/v1" or path.startswith("/v1/")) and not path.startswith(DRIVERS)

    def _refusal(self, scope: Scope) -> Unauthorized | None:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return Unauthorized("send the API key: Authorization: Bearer <key>")
        if not hmac.compare_digest(key.strip(), self._expected):
            return Unauthorized("the API key is not this installation's")
        return None


def bearer(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        raise Unauthorized("send the attempt's token: Authorization: Bearer <token>")
    return credentials.credentials


class InstallationRow(Base):
    """One row, made at first use: the secret that attempt tokens are derived from."""

    __tablename__ = "installation"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    secret: Mapped[bytes] = mapped_column(LargeBinary)


class AttemptTokens:
    """Derives each attempt's token, so that a driver started again after a crash is handed the same one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret: bytes | None = None

    async def token(self, job_id: str, attempt: int) -> str:
        if self._secret is None:
            async with self._database.begin() as session:
                self._secret = await _installation_secret(session)
        return hmac.digest(self._secret, f"{job_id}/{attempt}".encode(), "sha256").hex()


async def _installation_secret(session: AsyncSession) -> bytes:
    fresh = {"id": 1, "secret": secrets.token_bytes(32)}
    await session.execute(insert(InstallationRow).values(fresh).on_conflict_do_nothing())
    return (await session.execute(select(InstallationRow.secret).where(InstallationRow.id == 1))).scalar_one()


def token_sha256(token: str) -> bytes:
    """What the database keeps of a token: it is random enough that no salt is needed."""
    return hashlib.sha256(token.encode()).digest()


def same_token(token: str, sha256: bytes) -> bool:
    return hmac.compare_digest(token_sha256(token), sha256)

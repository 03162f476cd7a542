"""The service's own configuration, read once from the environment (``ROLLWAY_*``)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    home: Path
    """``ROLLWAY_HOME``, default ``~/.rollway``: all state of one installation; two homes never disturb each other."""
    database_url: str | None
    """``ROLLWAY_DATABASE_URL`` (``postgresql://…``); unset: the embedded Postgres of ``rollway up``."""
    ray_address: str | None
    """``ROLLWAY_RAY_ADDRESS`` (``host:port`` of a running Ray head); unset: the local Ray of ``rollway up``."""
    ray_token_path: Path | None
    """``ROLLWAY_RAY_TOKEN_PATH``: the token file of that Ray; unset: ``home/ray/token``."""
    host: str
    """``ROLLWAY_HOST``, default 127.0.0.1."""
    port: int
    """``ROLLWAY_PORT``, default 0: a free one, chosen by ``rollway up`` and kept for this home."""
    public_url: str | None
    """``ROLLWAY_PUBLIC_URL``: how users and drivers reach the API; unset: ``http://host:port``."""
    runs_dir: Path
    """``ROLLWAY_RUNS_DIR``, default ``home/runs``: one directory per job, reachable from every node."""
    report_url: str | None = None
    """``ROLLWAY_REPORT_URL``: how drivers reach the API where users reach it otherwise; unset: the public URL."""

    @property
    def api_key_path(self) -> Path:
        return self.home / "api_key"

    @classmethod
    def from_environment(cls) -> "Settings":
        """Raises ValueError, which names the variable."""

        def path(name: str) -> Path | None:
            value = os.environ.get(name)
            return Path(value).expanduser().resolve() if value else None

        ray_address = os.environ.get("ROLLWAY_RAY_ADDRESS") or None
        if ray_address is not None and re.fullmatch(r"[^/]+:\d{1,5}", ray_address) is None:
            raise ValueError(f"ROLLWAY_RAY_ADDRESS must be host:port, not {ray_address!r}")
        port = os.environ.get("ROLLWAY_PORT") or "0"
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"ROLLWAY_PORT must be a port, from 1 to 65535, not {port!r}")
        for name in ("ROLLWAY_PUBLIC_URL", "ROLLWAY_REPORT_URL"):  # no driver would ever be heard
            if (url := os.environ.get(name)) and re.match(r"https?://[^/]", url) is None:
                raise ValueError(f"{name} must be a URL that begins with http:// or https://, not {url!r}")
        home = path("ROLLWAY_HOME") or Path.home() / ".rollway"
        return cls(
            home=home,
            database_url=os.environ.get("ROLLWAY_DATABASE_URL") or None,
            ray_address=ray_address,
            ray_token_path=path("ROLLWAY_RAY_TOKEN_PATH"),
            host=os.environ.get("ROLLWAY_HOST") or "127.0.0.1",
            port=int(port),
            public_url=os.environ.get("ROLLWAY_PUBLIC_URL") or None,
            runs_dir=path("ROLLWAY_RUNS_DIR") or home / "runs",
            report_url=os.environ.get("ROLLWAY_REPORT_URL") or None,
        )

"""The embedded Postgres of a home that only the tests know; it can be stopped and started again."""

import shutil
import tempfile
from pathlib import Path

from controlplane.local import postgres
from controlplane.settings import Settings


class PostgresServer:
    def __init__(self) -> None:
        home = Path(tempfile.mkdtemp(prefix="rollway-test-"))
        self._settings = Settings(home, None, None, None, "127.0.0.1", 0, None, home / "runs")
        self._url = ""

    def url(self, database: str) -> str:
        scheme, _, query = self._url.partition("?")
        return f"{scheme.rpartition('/')[0]}/{database}?{query}"

    def start(self) -> None:
        self._url = postgres.start(self._settings).url

    def stop(self) -> None:
        postgres.stop(self._settings)

    def remove(self) -> None:
        self.stop()
        postgres.remove(self._settings)
        shutil.rmtree(self._settings.home)

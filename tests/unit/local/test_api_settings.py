from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.local import api
from controlplane.local.errors import LocalError
from controlplane.local.installation import _without_password
from controlplane.settings import Settings

SETTINGS = Settings(Path("/nowhere"), None, None, None, "127.0.0.1", 0, None, Path("/nowhere/runs"))


@pytest.mark.parametrize(
    ("host", "public", "url"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:8000"),
        ("::1", None, "http://[::1]:8000"),
        ("0.0.0.0", "http://api:8000/", "http://api:8000"),
    ],
)
def test_the_url_that_drivers_get(host: str, public: str | None, url: str) -> None:
    assert api.public_url(replace(SETTINGS, host=host, public_url=public), 8000) == url


def test_listening_everywhere_needs_a_name_for_it() -> None:
    with pytest.raises(LocalError, match=r"ROLLWAY_HOST=0\.0\.0\.0 needs ROLLWAY_PUBLIC_URL"):
        api.public_url(replace(SETTINGS, host="0.0.0.0"), 8000)


def test_the_process_gets_the_settings_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLWAY_API_KEY", "the user's, for another installation")
    monkeypatch.setenv("ROLLWAY_URL", "http://elsewhere")
    environment = api._environment(replace(SETTINGS, database_url="postgresql://db/x"), 8000)
    assert {key: value for key, value in environment.items() if key.startswith("ROLLWAY_")} == {
        "ROLLWAY_HOME": "/nowhere",
        "ROLLWAY_DATABASE_URL": "postgresql://db/x",
        "ROLLWAY_HOST": "127.0.0.1",
        "ROLLWAY_PORT": "8000",
        "ROLLWAY_RUNS_DIR": "/nowhere/runs",
    }


def test_a_password_is_not_shown() -> None:
    assert _without_password("postgresql://me:secret@db:5432/x?a=b") == "postgresql://me:***@db:5432/x?a=b"
    assert _without_password("postgresql:///x?host=/tmp") == "postgresql:///x?host=/tmp"

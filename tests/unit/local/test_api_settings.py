from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.local import api
from controlplane.local.errors import LocalError
from controlplane.local.installation import _without_password, up
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


@pytest.mark.parametrize(
    ("cluster", "changes", "url"),
    [
        (None, {}, "http://127.0.0.1:8000"),
        ("localhost:6379", {}, "http://127.0.0.1:8000"),
        ("[::1]:6379", {}, "http://127.0.0.1:8000"),
        ("head:6379", {"host": "10.0.0.5"}, "http://10.0.0.5:8000"),
        ("head:6379", {"public_url": "http://me:80/"}, "http://me:80"),
        ("head:6379", {"public_url": "http://127.0.0.1:8000", "report_url": "http://api:8000/"}, "http://api:8000"),
    ],
)
def test_drivers_report_to_the_public_url_or_one_of_their_own(
    cluster: str | None, changes: dict[str, str], url: str
) -> None:
    assert api.report_url(replace(SETTINGS, ray_address=cluster, **changes), 8000) == url


@pytest.mark.parametrize("public", [None, "http://localhost:8000", "http://[::1]:8000"])
def test_drivers_elsewhere_are_not_told_to_report_to_themselves(public: str | None) -> None:
    settings = replace(SETTINGS, ray_address="head:6379", public_url=public)
    with pytest.raises(LocalError, match=r"RAY_ADDRESS=head:6379 is told .* set ROLLWAY_HOST .* ROLLWAY_PUBLIC_URL"):
        api.start(settings, may_move=True)


def test_a_runs_directory_that_cannot_be_written_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match=f"ROLLWAY_RUNS_DIR={tmp_path}/file/runs: Not a directory"):
        up(replace(SETTINGS, home=tmp_path / "home", runs_dir=tmp_path / "file" / "runs"), lambda _: None)


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

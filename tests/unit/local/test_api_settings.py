import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.local import api
from controlplane.local.errors import LocalError
from controlplane.local.files import write_json
from controlplane.local.installation import _database_answers, _ray_up, _without_password, up
from controlplane.sdk.address import find_address
from controlplane.sdk.errors import NotReachable
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROLLWAY_PORT", "http"),
        ("ROLLWAY_PORT", "70000"),
        ("ROLLWAY_PORT", "-1"),
        ("ROLLWAY_RAY_ADDRESS", "head"),
        ("ROLLWAY_RAY_ADDRESS", "ray://head:10001"),
        ("ROLLWAY_PUBLIC_URL", "me:8000"),
        ("ROLLWAY_REPORT_URL", "http://"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must be .*, not '{value}'"):
        Settings.from_environment()
    with pytest.raises(NotReachable, match=name):
        find_address()


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(NotReachable, match="ROLLWAY_URL"):
        find_address("127.0.0.1:8000", "key")


@pytest.mark.parametrize("key", ["schl\u00fcssel", "two\nlines"])
def test_a_key_that_no_request_can_carry_is_refused(key: str) -> None:
    with pytest.raises(NotReachable, match="API key"):
        find_address("http://127.0.0.1:1", key)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use_is_named_and_another_taken_where_nothing_knows_the_last(tmp_path: Path, taken: int) -> None:
    settings = replace(SETTINGS, home=tmp_path)
    with pytest.raises(LocalError, match=f"port {taken} of 127.0.0.1: it is in use .* ROLLWAY_PORT"):
        api._port(replace(settings, port=taken), may_move=True, running=False)
    write_json(api.endpoint_path(tmp_path), {"port": taken})
    with pytest.raises(LocalError, match=f"port {taken} .* running jobs report: it is in use"):
        api._port(settings, may_move=False, running=False)
    assert api._port(settings, may_move=True, running=False) not in (0, taken)
    assert api._port(settings, may_move=False, running=True) == taken, "it is the API itself that listens there"


def test_an_address_of_another_machine_cannot_be_listened_at() -> None:
    with pytest.raises(LocalError, match=r"ROLLWAY_HOST=192\.0\.2\.1 is no address that this machine can listen at"):
        api.start(replace(SETTINGS, host="192.0.2.1"), may_move=True)


def test_a_cluster_of_the_users_needs_its_token(tmp_path: Path, taken: int) -> None:
    settings = replace(SETTINGS, home=tmp_path, ray_address=f"127.0.0.1:{taken}")
    with pytest.raises(LocalError, match="set ROLLWAY_RAY_TOKEN_PATH"):
        _ray_up(settings, lambda _: None)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://db/x", "must begin with postgresql://"),
        ("postgresql://me:secret@127.0.0.1:1/x", "Connect call failed"),
        ("postgresql://me:secret@127.0.0.1:99999/x", "0-65535"),
    ],
)
def test_a_database_of_the_users_that_cannot_be_reached_is_named_without_its_password(url: str, why: str) -> None:
    with pytest.raises(LocalError, match=f"ROLLWAY_DATABASE_URL=.*{why}") as caught:
        _database_answers(url)
    assert "secret" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    assert _without_password("postgresql://me:secret@db:5432/x?a=b") == "postgresql://me:***@db:5432/x?a=b"
    assert _without_password("postgresql:///x?password=secret&user=me") == "postgresql:///x?password=***&user=me"
    assert _without_password("postgresql:///x?host=/tmp") == "postgresql:///x?host=/tmp"

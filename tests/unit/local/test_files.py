import os
import socket
import stat
from pathlib import Path

import pytest

from controlplane.local import files, ports
from controlplane.local.errors import LocalError


def test_a_secret_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    first = files.secret(path)
    assert len(first) == 64 and files.secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_empty_or_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "half").write_text('{"pid": 1')
    (tmp_path / "list").write_text("[]")
    assert [files.read_json(tmp_path / name) for name in ("empty", "half", "list", "absent")] == [None] * 4
    assert len(files.secret(tmp_path / "empty")) == 64


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    files.write_json(tmp_path / "state.json", {"pid": 7})
    files.write_json(tmp_path / "state.json", {"pid": 8})
    assert files.read_json(tmp_path / "state.json") == {"pid": 8}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_two_homes_have_short_places_of_their_own() -> None:
    long = Path("/" + "home/" * 60)
    places = {files.short_directory(home) for home in (long, long / "a", Path("/a"))}
    assert len(places) == 3
    assert max(len(str(place)) for place in places) < 30


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("open", "link"):
        with pytest.raises(LocalError, match=f"{name} is not a directory that only this user may write"):
            files.make_private(tmp_path / name)


def test_the_lock_of_a_home_is_held_by_one(tmp_path: Path) -> None:
    with (
        files.exclusive(tmp_path),
        pytest.raises(LocalError, match="another `rollway up` or `down` holds"),
        files.exclusive(tmp_path, timeout_s=0.2),
    ):
        pass
    with files.exclusive(tmp_path, timeout_s=0.2):
        pass


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match=r"ROLLWAY_HOME.*Not a directory"), files.exclusive(tmp_path / "file" / "home"):
        pass


def test_a_log_shows_what_came_after_and_is_put_aside_when_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.close(files.open_log(tmp_path, "api"))
    files.log_path(tmp_path, "api").write_text("old\n" + "new\n" * 20)
    assert files.log_tail(tmp_path, "api", since=4, lines=3) == "new\nnew\nnew"
    assert files.log_tail(tmp_path, "api", since=84) == "(it said nothing)"
    monkeypatch.setattr(files, "_LOG_LIMIT", 10)
    os.close(files.open_log(tmp_path, "api"))
    assert files.log_path(tmp_path, "api").stat().st_size == 0
    assert (tmp_path / "logs" / "api.log.1").stat().st_size == 84


def test_free_ports_are_different_and_can_be_listened_at() -> None:
    found = ports.free_ports(8)
    assert len(set(found)) == 8 and all(20000 <= port < 32000 for port in found)
    with socket.create_server(("127.0.0.1", found[0])):
        assert not ports.is_free("127.0.0.1", found[0])
        assert ports.answers("127.0.0.1", found[0])
    assert ports.is_free("127.0.0.1", found[0])
    assert not ports.answers("127.0.0.1", found[0])

"""SDK and command line against an API that is scripted, over real HTTP: refusals, outages, endings."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from rich.console import Console
from typer.testing import CliRunner

from controlplane.cli import follow
from controlplane.cli.main import app
from controlplane.sdk import ApiError, Job, JobWaitTimeout, NotReachable, Rollway

AT = "2026-01-01T00:00:00Z"


def job(state: str, **fields: Any) -> dict[str, Any]:
    progress = {"rollout_id": None, "num_rollouts": 2, "weight_version": None}
    names = ["name", "phase", "waiting_for", "end_reason", "end_detail", "started_at", "finished_at"]
    empty = dict.fromkeys([*names, "openai_base_url", "router_url", "served_model"])
    base = {"id": "j1", "labels": {}, "state": state, "wanted": "run", "attempt": 1, "max_attempts": 3}
    times = {"created_at": AT, "updated_at": AT}
    return {**empty, **base, **times, "progress": progress, "attempts": [], "spec": {}, **fields}


class ScriptedApi:
    """Answers each path from a list, the last answer again and again. An answer of None breaks the connection."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any] | None]] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                scripted.requests.append((self.command, self.path, dict(self.headers), body))
                left = scripted.answers[f"{self.command} {urlsplit(self.path).path}"]
                answer = left.pop(0) if len(left) > 1 else left[0]
                if answer is None:
                    self.close_connection = True
                    return
                content = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = handle_any

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def life(self, *looks: tuple[int, Any] | None, steps: list[dict[str, Any]] | None = None) -> None:
        self.answers["GET /v1/jobs/j1"] = list(looks)
        self.answers["GET /v1/jobs/j1/events"] = [(200, {"items": [], "next": 0})]
        rows = (200, {"items": steps or [], "next": 0})
        self.answers["GET /v1/jobs/j1/metrics"] = [rows, (200, {"items": [], "next": 0})]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedApi]:
    api = ScriptedApi()
    monkeypatch.setenv("ROLLWAY_URL", api.url)
    monkeypatch.setenv("ROLLWAY_API_KEY", "the key")
    yield api
    api.server.shutdown()
    api.server.server_close()


def test_an_api_on_this_machine_is_not_asked_through_a_proxy_of_the_environment(
    api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    api.life((200, job("running")))
    with Rollway() as rollway:
        assert rollway.get("j1").state == "running"


REFUSAL = {
    "error": {
        "code": "invalid",
        "message": "2 fields are wrong",
        "fields": [
            {"path": "rollout.num_rolouts", "message": "there is no field rollout.num_rolouts", "suggestion": "x"},
            {"path": "data.prompt_data", "message": "data.prompt_data is required", "suggestion": None},
        ],
    }
}


def test_a_refused_spec_lists_its_fields(api: ScriptedApi, tmp_path: Any) -> None:
    api.answers["POST /v1/jobs"] = [(422, REFUSAL)]
    with Rollway() as rollway, pytest.raises(ApiError) as refused:
        rollway.submit({})
    assert refused.value.status == 422 and refused.value.code == "invalid"
    assert [field.path for field in refused.value.fields] == ["rollout.num_rolouts", "data.prompt_data"]

    (tmp_path / "job.json").write_text("{}")
    result = CliRunner().invoke(app, ["submit", str(tmp_path / "job.json")])
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "data.prompt_data  data.prompt_data is required" in result.output


def test_every_request_carries_the_key(api: ScriptedApi) -> None:
    api.life((200, job("running")))
    with Rollway() as rollway:
        rollway.get("j1")
    assert api.requests[0][2]["Authorization"] == "Bearer the key"


def test_a_read_is_tried_again_and_a_submission_only_under_its_key(api: ScriptedApi) -> None:
    api.life(None, (503, {"error": {"code": "x", "message": "away"}}), (200, job("running")))
    api.answers["POST /v1/jobs"] = [None, (202, job("queued"))]
    with Rollway() as rollway:
        assert rollway.get("j1").state == "running"
        with pytest.raises(NotReachable):
            rollway.submit({})
        api.answers["POST /v1/jobs"] = [None, (202, job("queued"))]
        assert rollway.submit({}, idempotency_key="once").id == "j1"
    keys = [headers.get("Idempotency-Key") for method, _, headers, _ in api.requests if method == "POST"]
    assert keys == [None, "once", "once"]


def test_waiting_ends_with_the_job_or_says_what_it_waits_for(api: ScriptedApi) -> None:
    api.life((200, job("running", phase="training")), (200, job("succeeded", end_reason="finished")))
    with Rollway() as rollway:
        assert [look.state for look in rollway.watch("j1", timeout_s=20)] == ["running", "succeeded"]
        api.life((200, job("starting", phase="placing", waiting_for="2 slots")))
        with pytest.raises(JobWaitTimeout, match="it is starting: 2 slots"):
            rollway.wait("j1", timeout_s=0.1)


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_following_ends_with_the_job_and_its_exit_code(api: ScriptedApi, state: str, code: int) -> None:
    row = {"rollout_id": 0, "attempt": 1, "at": AT, "weight_version": 1, "values": {"reward": 0.25}}
    away = (503, {"error": {"code": "not_ready", "message": "the API restarts"}})
    looks = [(200, job("running")), *[away] * 6, (200, job(state, end_reason="finished", end_detail="the detail"))]
    api.life(*looks, steps=[row])
    result = CliRunner().invoke(app, ["follow", "j1"])
    assert result.exit_code == code, result.output
    assert "reward 0.250" in result.output
    assert f"j1 {state} (finished): the detail" in result.output


def test_a_narrow_terminal_shows_ids_and_addresses_whole(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    job_id, address = f"job_{'x' * 20}", f"http://127.0.0.1:23130/v1/jobs/job_{'x' * 20}/openai/v1"
    long = job("running", phase="generating", waiting_for="256 samples from 8 engines [eval math] at version 12")
    long |= {"id": job_id, "name": "a rather long name of a job, with more words in it", "openai_base_url": address}
    api.answers["GET /v1/jobs"] = [(200, {"items": [long], "next": None})]
    api.answers[f"GET /v1/jobs/{job_id}"] = [(200, long)]
    api.answers[f"GET /v1/jobs/{job_id}/metrics"] = [(200, {"items": [], "next": -1})]
    assert job_id in CliRunner().invoke(app, ["jobs"]).output
    assert address in CliRunner().invoke(app, ["show", job_id]).output
    terminal = Console(width=80, file=io.StringIO())
    with terminal.capture() as shown:
        terminal.print(follow._status(Job.model_validate(long), [step / 100 for step in range(100)], 0.0, width=80))
    said = shown.get()
    assert "█" in said and "…" not in said, "the newest rewards are there"
    assert "[eval math]" in " ".join(said.split()) and "\\" not in said


def test_a_wrong_key_and_an_unknown_job_are_one_line(api: ScriptedApi) -> None:
    message = "there is no job j1"
    api.answers["GET /v1/jobs/j1"] = [(404, {"error": {"code": "not_found", "message": message, "fields": []}})]
    result = CliRunner().invoke(app, ["show", "j1"])
    assert (result.exit_code, result.output.strip()) == (1, f"error {message}")


def test_an_installation_that_is_down_is_said_to_be_and_how_to_start_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROLLWAY_HOME", str(tmp_path))
    monkeypatch.delenv("ROLLWAY_URL", raising=False)
    (tmp_path / "endpoint.json").write_text(json.dumps({"url": "http://127.0.0.1:1"}))
    (tmp_path / "api_key").write_text("the key")
    said = CliRunner().invoke(app, ["cancel", "j1"]).output
    assert "http://127.0.0.1:1 does not answer" in said and "'rollway up' starts what is down" in said


def test_without_an_installation_the_way_to_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("ROLLWAY_HOME", str(tmp_path))
    monkeypatch.delenv("ROLLWAY_URL", raising=False)
    result = CliRunner().invoke(app, ["jobs"])
    assert result.exit_code == 1 and "rollway up" in result.output

"""The API from Python."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from controlplane.hosts import is_loopback
from controlplane.sdk.address import Address, find_address
from controlplane.sdk.errors import ApiError, FieldProblem, JobWaitTimeout, NotReachable
from controlplane.sdk.types import Checkpoint, Evaluation, Event, Job, JobSummary, Step, SubmittedJob

_POLL_S = 0.5
_BACKOFF_S = (0.1, 0.3, 1.0, 2.0)
_PAGE = 1000


class Rollway:
    """A client of one API. Reads are tried again for a moment when the API does not answer; writes are not, except
    a submission with an idempotency key.

    ``url``, ``api_key``: see :func:`controlplane.sdk.address.find_address`. ``timeout_s``: for one request.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, *, timeout_s: float = 30.0) -> None:
        self._address = find_address(url, api_key)
        self._http = httpx.Client(
            base_url=self._address.url,
            headers={"Authorization": f"Bearer {self._address.api_key}"},
            timeout=timeout_s,
            trust_env=not is_loopback(urlsplit(self._address.url).hostname or ""),  # a proxy has another loopback
        )

    @property
    def url(self) -> str:
        return self._address.url

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Jobs.

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a job. Raises ApiError with status 422, whose ``fields`` name what is wrong with the spec."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        reply = self._request("POST", "/v1/jobs", json=dict(spec), headers=headers, repeat=bool(idempotency_key))
        return Job.model_validate_json(reply.content)

    def submit_argv(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, str] | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> SubmittedJob:
        """Queue the job that slime's command line describes; ``files``: the text of the YAML files that it names, by
        path. Raises ApiError with status 422, whose ``fields`` name each flag that is refused."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        body: dict[str, Any] = {"argv": list(argv), "files": dict(files or {})} | ({"name": name} if name else {})
        reply = self._request("POST", "/v1/jobs", json=body, headers=headers, repeat=bool(idempotency_key))
        return SubmittedJob.model_validate_json(reply.content)

    def get(self, job_id: str) -> Job:
        return Job.model_validate_json(self._request("GET", f"/v1/jobs/{job_id}").content)

    def jobs(self, *, states: tuple[str, ...] = (), limit: int = 50) -> list[JobSummary]:
        """The newest ``limit`` jobs."""
        found: list[JobSummary] = []
        after: str | None = None
        while len(found) < limit:
            params: dict[str, Any] = {"limit": min(200, limit - len(found)), "state": list(states)}
            page = self._request("GET", "/v1/jobs", params=params | ({"after": after} if after else {})).json()
            found += [JobSummary.model_validate(item) for item in page["items"]]
            after = page["next"]
            if after is None:
                break
        return found

    def cancel(self, job_id: str) -> JobSummary:
        return JobSummary.model_validate_json(self._request("POST", f"/v1/jobs/{job_id}/cancel").content)

    def finish(self, job_id: str) -> JobSummary:
        return JobSummary.model_validate_json(self._request("POST", f"/v1/jobs/{job_id}/finish").content)

    # What a job reports.

    def events(self, job_id: str, *, after: int = 0) -> list[Event]:
        return self._rows(job_id, "events", after, Event)

    def steps(self, job_id: str, *, after: int = -1) -> list[Step]:
        """The finished rollouts after rollout ``after``, in order."""
        return self._rows(job_id, "metrics", after, Step)

    def evaluations(self, job_id: str, *, after: int = -1) -> list[Evaluation]:
        """What the eval sets showed of weight versions after version ``after``, in order."""
        return self._rows(job_id, "evaluations", after, Evaluation)

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        items = self._request("GET", f"/v1/jobs/{job_id}/checkpoints").json()["items"]
        return TypeAdapter(list[Checkpoint]).validate_python(items)

    def wait(self, job_id: str, *, timeout_s: float) -> Job:
        """The job, once it has ended. Raises JobWaitTimeout."""
        for job in self.watch(job_id, timeout_s=timeout_s):
            if job.ended:
                return job
        raise AssertionError("watch ends with an ended job or raises")

    def watch(self, job_id: str, *, timeout_s: float) -> Iterator[Job]:
        """The job whenever it has changed, the ended one last. An API that is away is waited for.

        Raises JobWaitTimeout after ``timeout_s`` seconds, and ApiError."""
        deadline = time.monotonic() + timeout_s
        last: Job | None = None
        away: NotReachable | None = None
        while True:
            try:
                job = self.get(job_id)
            except NotReachable as error:
                away = error
            else:
                away = None
                if last is None or job != last:
                    last = job
                    yield job
                if job.ended:
                    return
            if time.monotonic() > deadline:
                doing = str(away) if away else f"it is {last.state}: {last.waiting_for}" if last else "never seen"
                raise JobWaitTimeout(f"{job_id} did not end within {timeout_s:.0f} s; {doing}") from away
            time.sleep(_POLL_S)

    # The policy.

    def chat(self, job_id: str, messages: list[dict[str, str]], **options: Any) -> str:
        """The policy's answer, through the job's router, with the weights of this moment."""
        body = {"model": "policy", "messages": messages} | options
        reply = self._request("POST", f"/v1/jobs/{job_id}/openai/v1/chat/completions", json=body).json()
        return str(reply["choices"][0]["message"]["content"] or "")

    # Plumbing.

    def _rows[T: (Event, Step, Evaluation)](self, job_id: str, what: str, after: int, kind: type[T]) -> list[T]:
        rows: list[T] = []
        while True:
            params = {"after": after, "limit": _PAGE}
            page = self._request("GET", f"/v1/jobs/{job_id}/{what}", params=params).json()
            rows += [kind.model_validate(item) for item in page["items"]]
            after = page["next"]
            if len(page["items"]) < _PAGE:
                return rows

    def _request(self, method: str, path: str, *, repeat: bool | None = None, **options: Any) -> httpx.Response:
        repeatable = method == "GET" if repeat is None else repeat
        for wait_s in (*(_BACKOFF_S if repeatable else ()), None):
            try:
                reply = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if wait_s is None:
                    said = f"{self.url} does not answer: {error or type(error).__name__}"
                    raise NotReachable(f"{said}{self._address.advice}") from error
            else:
                if reply.status_code < 500 or wait_s is None:
                    return _checked(reply, self._address)
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")


def _checked(reply: httpx.Response, address: Address) -> httpx.Response:
    if reply.is_success:
        return reply
    try:
        error = reply.json()["error"]
        fields = tuple(FieldProblem(f["path"], f["message"], f.get("suggestion")) for f in error.get("fields") or ())
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):  # an engine or a proxy before the API: its own words
        fields, code, message = (), "http_error", f"HTTP {reply.status_code}: {reply.text[:500]}"
    # "Not now": the database is away, the API restarts, a proxy before it lost it. A 502 of its own is about a job.
    if reply.status_code in (503, 504) or (reply.status_code == 502 and code == "http_error"):
        raise NotReachable(f"{address.url} cannot answer now: {message}{address.advice}")
    raise ApiError(reply.status_code, code, message, fields)

"""Options of sglang-router's own, which slime takes as ``--router-X``. A job's router is set up by the system: what
could only change its speed or its reports is ignored, and what asks for something else is refused."""

from controlplane.jobs.flags.flag import INT, Flag, Primitive, Takes, differs, ignored, refused
from controlplane.jobs.flags.manifests import SHIPPED, read_manifest
from engines.option_manifest import Option

_SPREAD = "requests go to the engines in turn, which changes no result"
_RESENT = "a request is sent again by the rollout, which knows its id, and not by the router"
_WATCHED = "engines are watched by the job, and not by the router"
_STARTED = "the job waits for its engines by engine.start_timeout_s"
_LOGGED = "the router's log is in the job's run directory"
_MEASURED = "the router serves its metrics at a port that the system chooses"
_NO_TOKENIZER = "the engines tokenise, and not the router"
_ENGINES = "not supported yet: a job starts the engines that it generates with"
_ONE_KIND = "not supported yet: a job has engines of one kind"
_LIMIT = (
    "not supported: requests are held back before the router: use --sglang-server-concurrency (engine.max_concurrency)"
)
_CLIENTS = "not supported: a job's router has no other clients than the job"
_STORE = "not supported: a job's router keeps nothing"
_PRIVATE = "not supported: a job's engines are reached through the service, which has the keys and TLS"
_PARSING = "not supported: a job's router passes on what the engines say as it is"

_GROUPS: dict[str, tuple[bool, str]] = {
    "Routing Policy": (True, _SPREAD),
    "Retry Configuration": (True, _RESENT),
    "Circuit Breaker": (True, _WATCHED),
    "Health Checks": (True, _WATCHED),
    "Logging": (True, _LOGGED),
    "Prometheus Metrics": (True, _MEASURED),
    "Tokenizer": (True, _NO_TOKENIZER),
    "Worker Configuration": (False, _ENGINES),
    "Service Discovery (Kubernetes)": (False, _ENGINES),
    "PD Disaggregation": (False, _ONE_KIND),
    "Request Handling": (False, _CLIENTS),
    "Rate Limiting": (False, _LIMIT),
    "Parsers": (False, _PARSING),
    "Backend": (False, _STORE),
    "Oracle Database": (False, _STORE),
    "PostgreSQL Database": (False, _STORE),
    "Redis Database": (False, _STORE),
    "TLS/mTLS Security": (False, _PRIVATE),
    "Control Plane Authentication": (False, _PRIVATE),
    "Tracing (OpenTelemetry)": (False, "not supported: no traces are kept"),
}
"""Whether the options of a group are ignored, and why; those of others are refused."""

_OPTIONS: dict[str, tuple[bool, str]] = {
    "--router-enable-igw": (False, "not supported: a job has one model"),
    "--router-max-payload-size": (False, "not supported: a request has up to 512 MiB"),
    "--router-worker-startup-timeout-secs": (True, _STARTED),
    "--router-worker-startup-check-interval": (True, _STARTED),
    "--router-shutdown-grace-period-secs": (True, "nothing is in flight when a job ends"),
}
"""Options that are unlike their group."""

_SECRETS = ("key", "keys", "password", "url", "descriptor")


def _flag(option: Option) -> Flag:
    (name,) = option.flags
    is_ignored, why = _OPTIONS.get(name) or _GROUPS.get(option.group) or (False, "not supported")
    secret = name.endswith(_SECRETS)
    return (ignored if is_ignored else refused)(name, _takes(option), why, secret=secret)


def _takes(option: Option) -> Takes:
    if option.kind != "value" and option.kind != "append":
        return Takes("on")
    types: dict[str, Primitive] = {"int": "int", "float": "float"}
    return Takes(types.get(option.type, "str"), many=option.nargs is not None)


_TIMEOUT = differs(
    "--router-request-timeout-secs",
    INT,
    "engine.request_timeout_s",
    "`--sglang-router-request-timeout-secs` goes before it, as in slime",
)

FLAGS = (
    _TIMEOUT,
    *(_flag(option) for option in read_manifest(SHIPPED / "router.json").options if _TIMEOUT.name not in option.flags),
)

"""The environment of the job's processes."""

from pydantic import Field

from engines.config import Section


class RuntimeConfig(Section):
    """The processes of the job: where plug-ins come from."""

    env_vars: dict[str, str] = Field(default_factory=dict)
    python_path: tuple[str, ...] = ()

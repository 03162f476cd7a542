"""The environment of the job's processes."""

from pydantic import Field, field_validator

from engines.config import Section


class RuntimeConfig(Section):
    """The processes of the job: where plug-ins come from."""

    env_vars: dict[str, str] = Field(default_factory=dict)
    python_path: tuple[str, ...] = ()

    @field_validator("env_vars")
    @classmethod
    def _can_be_set(cls, env_vars: dict[str, str]) -> dict[str, str]:
        for name in env_vars:
            if not name or "=" in name:  # a process that is started with it dies, and Ray starts the next
                raise ValueError(f"{name!r} cannot be the name of an environment variable")
        return env_vars

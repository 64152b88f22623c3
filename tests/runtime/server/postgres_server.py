"""A PostgreSQL of its own in a temporary folder, on a socket there; no port is opened."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres() -> Iterator[str]:
    """Start PostgreSQL; yields the URL of an empty database. It refuses to run as root, so root becomes `postgres`."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("postgresql is not installed: make test-clinic does it")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="medssl-pg-", dir="/tmp"))  # a socket's path must be short
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        initdb = [str(programs[-1]), "-D", str(folder / "db"), "-U", "medssl", "--auth=trust", "--no-sync"]
        subprocess.run(initdb, user=user, cwd="/", check=True, capture_output=True)
        server = [str(programs[-1].parent / "postgres"), "-D", str(folder / "db"), "-k", str(folder)]
        process = subprocess.Popen([*server, "-c", "listen_addresses="], user=user, cwd="/", stderr=subprocess.DEVNULL)
        try:
            ready = [str(programs[-1].parent / "pg_isready"), "-h", str(folder), "-t", "30"]
            while subprocess.run(ready, check=False, capture_output=True).returncode:
                assert process.poll() is None
            yield f"postgresql://medssl@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # does not wait for clients
            process.wait(timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

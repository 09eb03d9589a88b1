"""What the tests of ``terraform/`` share: a server in AWS's place, and overrides for what it cannot do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from terraform.offline import Workspace, missing

GAPS = Path(__file__).parent / "moto"

needs_terraform = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def resources(module: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every managed resource of a ``planned_values`` or ``values`` module, children included."""
    for resource in module.get("resources", []):
        if resource["mode"] == "managed":
            yield resource
    for child in module.get("child_modules", []):
        yield from resources(child)


def lay_gaps(workspace: Workspace) -> None:
    """Put the overrides beside the code that they override: ``<module>.override.tf``."""
    for path in GAPS.glob("*.tf"):
        shutil.copy(path, workspace.folder(f"modules/{path.name.split('.')[0]}") / "moto_override.tf")


@contextmanager
def moto(log: Path) -> Iterator[str]:
    """The server's address; a process of its own, so that every test begins with an empty account."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    env |= {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false", "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    program = Path(sys.executable).parent / "moto_server"
    with log.open("w") as out:
        process = subprocess.Popen([str(program), "-p", str(port)], stdout=out, stderr=out, env=env)
        try:
            for _ in range(240):
                try:
                    httpx.get(f"{url}/moto-api/", timeout=2, trust_env=False)
                    break
                except httpx.HTTPError:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.25)
            yield url
        finally:
            process.terminate()
            process.wait()

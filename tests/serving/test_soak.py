"""`make soak`: an hour under load; every answer right, every prediction on disk, memory flat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sekisho.serving.predictions import verify_chain

ROOT = Path(__file__).parents[2]
RATE, GROWTH = (
    1000.0,
    64 << 20,
)  # requests a second; bytes that the server may grow by after a tenth of the time
SECONDS = float(os.environ.get("SEKISHO_SOAK") or 0)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SECONDS, reason="runs by `make soak`: takes an hour")]


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_hour_loses_nothing_and_grows_nothing(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    server = start(lab.write_release(tmp_path / "releases").folder).wait_ready()
    plan = {
        "kind": "binary",
        "port": server.port,
        "seconds": SECONDS,
        "rate": RATE,
        "rows": lab.observations(64).tolist(),
        "parameters": {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()},
    }
    load = subprocess.Popen(
        [sys.executable, "-m", "tests.serving.load"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert load.stdin
        load.stdin.write(json.dumps(plan))
        load.stdin.close()
        load.stdin = None
        time.sleep(SECONDS / 10)
        warm = memory(server.process.pid)
        output, _ = load.communicate(timeout=SECONDS + 120)
    finally:
        load.kill()  # nothing, where it has ended
    grown = memory(server.process.pid) - warm
    result = json.loads(output.splitlines()[-1])
    print(f"{result} grown by {grown / (1 << 20):.1f} MiB")
    assert (result["failed"], result["statuses"]) == (0, {"200": int(RATE * SECONDS)})
    assert grown < GROWTH
    assert server.stop()[0] == 0
    assert verify_chain(server.predictions).predictions == result["answered"]

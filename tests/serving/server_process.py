"""A policy server whose releases count as verified, except older ones and those that hold a file TAMPERED."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from sekisho.errors import Refused, SekishoError
from sekisho.params import load_params
from sekisho.pointer import Pointer
from sekisho.serving import runtime
from sekisho.serving.runtime import ServingSetup
from sekisho.serving.server import Listen, serve

MARKS = {"UNSIGNED": "missing-fact", "REVOKED": "revoked"}


@dataclass(frozen=True)
class Release:
    model: str
    seq: int
    digest: str
    folder: Path

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(rollback=None)

    def read(self, path: str) -> bytes:
        return (self.folder / "content" / path).read_bytes()


def verify(
    release: Path, *, trust: Path, environment: str, minimum_seq: int = 0, deployed: bool = False
) -> Release:
    seq = int(release.name)
    for mark, rule in MARKS.items():
        if (release / mark).exists():
            raise Refused(rule, expected="none of this", found=mark, remedy="bring another release")
    if (release / "TAMPERED").exists():
        raise Refused("manifest", expected="signed bytes", found="other bytes", remedy="export it again")
    if seq < minimum_seq:
        raise Refused("seq", expected=f"at least {minimum_seq}", found=seq, remedy="release it anew")
    return Release(release.parent.name, seq, f"{seq:064x}", release)


def read(path: Path) -> Pointer | None:
    """The file holds one seq."""
    seq = int(path.read_text())
    return Pointer("policy", seq, f"{seq:064x}")


def slow_down_the_disk(seconds: float) -> None:
    """Every fsync takes so long."""
    real = os.fsync

    def fsync(handle: int) -> None:
        time.sleep(seconds)
        real(handle)

    os.fsync = fsync


def bend_the_clock(jump: Path) -> None:
    """The wall clock stands where the tests' requests expect it, and jumps by the seconds in a file."""
    start = time.monotonic()
    bar_end = dt.datetime(2025, 6, 3, 1, 5, tzinfo=dt.UTC)
    seen = [0.0, 0.0]

    def now(_: object) -> dt.datetime:
        if time.monotonic() - seen[0] > 0.05:
            seen[:] = time.monotonic(), float(jump.read_text() or 0)
        return bar_end + dt.timedelta(seconds=time.monotonic() - start + seen[1])

    runtime._wall_clock = now


if __name__ == "__main__":
    release, predictions, port, grpc_port, metrics_port, replay, switch, pointer, changes = sys.argv[1:]
    wanted = json.loads(changes)
    if "fsync_seconds" in wanted:
        slow_down_the_disk(wanted.pop("fsync_seconds"))
    if "clock" in wanted:
        bend_the_clock(Path(wanted.pop("clock")))
    params = load_params().serving.model_copy(update=wanted)
    setup = ServingSetup(
        release=Path(release),
        trust=Path("trust"),
        environment="local",
        predictions=Path(predictions),
        params=params,
        verify=verify,
        replay_clock=bool(int(replay)),
        switch=Path(switch) if switch else None,
        follow=(lambda: read(Path(pointer))) if pointer else None,
    )
    try:
        serve(setup, Listen("127.0.0.1", int(port), int(grpc_port), int(metrics_port)))
    except SekishoError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)

"""A policy server whose releases count as verified, except older ones and those that hold a file TAMPERED."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from sekisho.errors import Refused, SekishoError
from sekisho.params import load_params
from sekisho.serving.runtime import ServingSetup
from sekisho.serving.server import Listen, serve


@dataclass(frozen=True)
class Release:
    model: str
    seq: int
    digest: str
    folder: Path

    def read(self, path: str) -> bytes:
        return (self.folder / "content" / path).read_bytes()


def verify(
    release: Path, *, trust: Path, environment: str, minimum_seq: int = 0, deployed: bool = False
) -> Release:
    seq = int(release.name)
    if (release / "TAMPERED").exists():
        raise Refused("manifest", expected="signed bytes", found="other bytes", remedy="export it again")
    if seq < minimum_seq:
        raise Refused("seq", expected=f"at least {minimum_seq}", found=seq, remedy="release it anew")
    return Release(release.parent.name, seq, f"{seq:064x}", release)


if __name__ == "__main__":
    release, predictions, port, grpc_port, metrics_port, replay = sys.argv[1:]
    setup = ServingSetup(
        release=Path(release),
        trust=Path("trust"),
        environment="local",
        predictions=Path(predictions),
        params=load_params().serving,
        verify=verify,
        replay_clock=bool(int(replay)),
    )
    try:
        serve(setup, Listen("127.0.0.1", int(port), int(grpc_port), int(metrics_port)))
    except SekishoError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)

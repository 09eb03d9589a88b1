"""Checkpoints that ranks write side by side, in a folder or in S3: a manifest makes one exist.

Each rank puts the state of its accounts under a name that holds update, digest and rank; the first puts what
all share. When every part is there, the first puts the manifest, which names them. Whatever is killed or lost
before leaves the checkpoint before in its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sekisho.errors import DataError, StoreError, TrainingError
from sekisho.market.ranks import ALONE, Ranks
from sekisho.objects import Objects

KEPT = 2  # the newest, and the one before it should the newest be damaged
ATTEMPTS = 5  # that may fail in a row: a store that is gone for longer is not coming back by itself
NAME = re.compile(r"(\d{7})-([0-9a-f]{64})(\.json|-[a-z0-9-]+\.pt)")  # update, digest, what it is

State = dict[str, Any]


class Checkpoints:
    """Those of one training under one address.

    Args:
        address: a folder, or ``s3://bucket/prefix``; of this training alone.
        run: what is trained, such as `sekisho.train.run_key` says it; another run's checkpoints are refused.
    """

    def __init__(self, address: str | Path, run: str = "", ranks: Ranks = ALONE) -> None:
        self.objects, self.run, self.ranks = Objects(str(address)), run, ranks
        self.newest, self.failed = 0, 0  # update of the newest one; attempts that failed since

    def save(self, update: int, shared: State, own: State) -> bool:
        """Save ``own`` of each rank and ``shared`` of the first, and keep the newest two; whether it could.

        What could not be saved is told in one line, and what was there before stays.

        Raises:
            StoreError: the last `ATTEMPTS` attempts failed.
        """
        parts = [(f"rank-{self.ranks.rank}-of-{self.ranks.size}", own)]
        parts += [("shared", shared)] if self.ranks.first else []
        digests = []
        try:
            digests = [self._put(update, label, state) for label, state in parts]
        except DataError as error:
            self._say_failed(update, error)
        digest = torch.tensor([list(bytes.fromhex(digests[0]))] if digests else [[0] * 32])
        each = [bytes(row).hex() for row in self.ranks.gather(digest).tolist()]
        if all(int(digest, 16) for digest in each):  # every part is there
            names = [_name(update, digest, f"rank-{rank}-of-{len(each)}") for rank, digest in enumerate(each)]
            if self.ranks.from_first(lambda: float(self._publish(update, digests[1], names))):
                self.newest, self.failed = update, 0
                return True
        self.failed += 1
        if self.failed >= ATTEMPTS:
            raise StoreError(
                f"update {update}: the last {ATTEMPTS} checkpoints could not be saved to "
                f"{self.objects.address}",
                remedy=f"mend the store and start again: it goes on from {self._before()}",
            )
        return False

    def load(self) -> tuple[State, State] | None:
        """What all share and what is this rank's, of the newest checkpoint whose parts all match their
        digests; None where there is none. A damaged one is named and left out.

        Saved by another number of ranks, the accounts are shared out anew.

        Raises:
            TrainingError: they are another training's; the ranks do not find the same.
            DataError: the store cannot be read.
        """
        found = None
        for name in self._names(".json"):
            found = self._read(name)
            if found is not None:
                self.newest = _update(name)
                break
        self.ranks.require_same(str(self.newest), f"newest checkpoint in {self.objects.address}")
        if found is None:
            return None
        shared, *parts = found
        if len(parts) == self.ranks.size:
            return shared, parts[self.ranks.rank]
        return shared, _shared_out(parts, self.ranks)

    def clear(self) -> None:
        """Take them away: the run is published, there is nothing to go back to."""
        if not self.ranks.first:
            return
        try:
            for name in self._names():
                self.objects.remove(name)
        except DataError as error:
            print(f"the checkpoints stay: {error.message}", file=sys.stderr, flush=True)
        with suppress(OSError):
            Path(self.objects.address).rmdir()

    def _names(self, kind: str = "") -> list[str]:
        """Of everything of ours that lies there, or of one ``kind``; the newest first."""
        return sorted(
            (n for n in self.objects.names() if NAME.fullmatch(n) and n.endswith(kind)), reverse=True
        )

    def _put(self, update: int, label: str, state: State) -> str:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        self.objects.put(_name(update, digest, label), buffer.getvalue())
        return digest

    def _publish(self, update: int, shared: str, own: list[str]) -> bool:
        parts = [_name(update, shared, "shared"), *own]
        manifest = json.dumps({"run": self.run, "update": update, "parts": parts}).encode()
        try:
            name = f"{update:07d}-{hashlib.sha256(manifest).hexdigest()}.json"
            self.objects.put(name, manifest)
        except DataError as error:
            self._say_failed(update, error)
            return False
        try:
            self._remove_older(update, {name, *parts})
        except DataError as error:  # one too many is no harm
            print(f"older checkpoints stay: {error.message}", file=sys.stderr, flush=True)
        return True

    def _remove_older(self, update: int, kept: set[str]) -> None:
        """Nobody writes here meanwhile but the later updates of other ranks."""
        names = [name for name in self._names() if _update(name) <= update]
        manifests = [name for name in names if name.endswith(".json") and name not in kept]
        for name in manifests[: KEPT - 1]:
            content = self.objects.get(name)
            if content is not None and _matches(name, content):
                kept |= {name, *json.loads(content)["parts"]}
        for name in names:
            if name not in kept:
                self.objects.remove(name)

    def _read(self, manifest: str) -> list[State] | None:
        """The parts of one checkpoint, the shared one first; None, and a line, where one is damaged."""
        content = self.objects.get(manifest)
        if content is None or not _matches(manifest, content):
            self._say_damaged(manifest)
            return None
        about = json.loads(content)
        if about["run"] != self.run:
            raise TrainingError(
                f"{self.objects.address}/{manifest} is a checkpoint of other data, parameters or code",
                remedy="choose another place for this run's checkpoints, or remove those",
            )
        states = []
        for name in about["parts"]:
            part = self.objects.get(name)
            if part is None or not _matches(name, part):
                self._say_damaged(name)
                return None
            states.append(torch.load(io.BytesIO(part), map_location="cpu", weights_only=True))
        return states

    def _say_damaged(self, name: str) -> None:
        if self.ranks.first:
            print(
                f"checkpoint {self.objects.address}/{name} is damaged, going back to the one before",
                file=sys.stderr,
                flush=True,
            )

    def _say_failed(self, update: int, error: DataError) -> None:
        print(
            f"the checkpoint of update {update} was not saved, {self._before()} is kept: {error.message}",
            file=sys.stderr,
            flush=True,
        )

    def _before(self) -> str:
        return f"that of update {self.newest}" if self.newest else "the beginning"


def _name(update: int, digest: str, label: str) -> str:
    return f"{update:07d}-{digest}-{label}.pt"


def _update(name: str) -> int:
    return int(name.split("-")[0])


def _matches(name: str, content: bytes) -> bool:
    found = NAME.fullmatch(name)
    return found is not None and found[2] == hashlib.sha256(content).hexdigest()


def _shared_out(parts: list[State], ranks: Ranks) -> State:
    """This rank's accounts of those of all ``parts``: nested dictionaries of tensors ``(accounts, …)``."""
    return {
        name: _shared_out([part[name] for part in parts], ranks)
        if isinstance(value, dict)
        else _cut([part[name] for part in parts], ranks)
        for name, value in parts[0].items()
    }


def _cut(parts: list[torch.Tensor], ranks: Ranks) -> torch.Tensor:
    """Laid out in memory as the parts are: sums depend on it."""
    strides = parts[0].stride()
    order = sorted(range(len(strides)), key=lambda axis: -strides[axis])
    own = ranks.own(torch.cat(parts)).permute(order).contiguous()
    return own.permute([order.index(axis) for axis in range(len(order))])

"""The command line of a trainer file: one process, or as many ranks as ``train.ranks`` says under torchrun.

torchrun passes SIGTERM on to the ranks, waits for them, and ends with 1 whatever they ended with; what the
ranks said is made the exit code here, and decides whether they are started anew. Several nodes are told by
torchrun's own variables (``PET_NNODES``, ``PET_NODE_RANK``, ``PET_RDZV_ENDPOINT``, …). Where torchrun itself
starts the trainer file, this is one rank.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError
from torch.distributed.launcher import api
from torch.distributed.run import parse_args, run

from sekisho.errors import Interrupted, ParamsError, SekishoError, TrainingError
from sekisho.params import Params, Section, load_params
from sekisho.train import end_with_parent
from sekisho.trainer import Learn, train_fold

LOOP = (
    *("evaluate_every", "patience", "checkpoint_every", "device", "ranks"),
    *("resident_sessions", "block_updates"),
)  # of `train:`, also options
NOTICE = 100  # seconds for the last update and checkpoint: a spot instance is told two minutes before its end
HOLD = {-4: 0, -1: 2**30, -2: 2**27}  # <malloc.h>: M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD in bytes
PLACES = {
    "out": (Path, None, "folder to publish: model.onnx, curve.csv, run.json"),
    "store": (str, os.environ.get("SEKISHO_STORE"), "folder or s3://… of finished runs and checkpoints"),
    "bars": (Path, Path("build/bars"), "validated bars"),
    "features": (Path, Path("build/features"), "their features"),
    "checkpoints": (str, None, "folder or s3://… (default: below checkpoints/ of the store, or of .sekisho)"),
    "tensorboard": (Path, Path("build/tensorboard"), "folder"),
}


def main(learn: Learn) -> None:
    """Command line of a trainer: every option of its section, of the loop, and the places of the files."""
    source = Path(inspect.getfile(learn))
    try:
        params, given = _given(learn, source)
        if "RANK" not in os.environ and (params.train.ranks > 1 or _nodes() > 1):
            sys.exit(_under_torchrun(params.train.ranks))
        if "RANK" in os.environ:
            end_with_parent()
        hold_memory()
        began = time.perf_counter()
        run = {name: given[name] for name in ("fold", "seed", *PLACES)}
        new = train_fold(learn, params, **run, told_to_end=_told_to_end())
        if os.environ.get("RANK", "0") == "0":
            done = f"trained in {time.perf_counter() - began:.1f} s" if new else "finished already"
            print(f"fold {given['fold']} seed {given['seed']}: {done}")
    except SekishoError as error:
        print(f"{source.stem}: {error}", file=sys.stderr, flush=True)
        if "RANK" in os.environ:
            os._exit(
                error.exit_code
            )  # at once: the ranks that lose this one must not be seen to end before it
        sys.exit(error.exit_code)


def hold_memory() -> None:
    """Let glibc keep what one tensor gave back for the next one.

    Its own rule asks the kernel anew for each large tensor, and the kernel zeroes every page: a part of PPO's
    time that grows with the minibatch (`make bench-speed` shows it). Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in HOLD.items():
            mallopt(option, value)


def _told_to_end() -> Callable[[], bool]:
    """Whether SIGTERM has come; from here on it ends nothing by itself."""
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    return lambda: bool(told)


def _nodes() -> int:
    """Machines that share a run, as torchrun's own variable says.

    Raises:
        ParamsError: it is no whole number; a range of them (``1:4``) would have other results each time.
    """
    given = os.environ.get("PET_NNODES", "1")
    if not given.isdecimal() or int(given) < 1:
        raise ParamsError(
            f"PET_NNODES = {given!r} is no number of nodes",
            remedy="set it to a whole number from 1, or unset it",
        )
    return int(given)


class _Agent(LocalElasticAgent):
    """torchrun's agent of one node, told causes apart: bad input is bad again, whoever starts the ranks anew;
    of a run that was interrupted, the rendezvous stays open for those who come after.
    """

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if SekishoError.exit_code in _codes(result):
            self._remaining_restarts = 0
        return result

    def run(self, role: str = "default") -> RunResult:
        result: RunResult = super().run(role)
        if result.is_failed() and _code_of(_codes(result)) == Interrupted.exit_code:
            raise SignalException("interrupted", signal.SIGTERM)  # the end after which it is not closed
        return result


def _codes(result: RunResult) -> set[int]:
    """Exit codes of the ranks that failed."""
    return {failure.exitcode for failure in result.failures.values()}


def _under_torchrun(ranks: int) -> int:
    """Run this very command as ``ranks`` processes, over all nodes; the exit code.

    Raises:
        ParamsError: the ranks cannot be shared out evenly over the nodes; these have no place to meet.
        TrainingError: another node has ended the run.
        Interrupted: the other nodes were not met.
    """
    nodes = _nodes()
    if ranks % nodes:
        raise ParamsError(
            f"train.ranks = {ranks} cannot be shared out evenly over {nodes} nodes",
            remedy="take a multiple of the nodes, or other nodes",
        )
    if nodes > 1 and not os.environ.get("PET_RDZV_ENDPOINT") and not os.environ.get("PET_MASTER_ADDR"):
        raise ParamsError(  # torchrun would wait for all of them on this one
            f"PET_NNODES = {nodes}, and neither PET_RDZV_ENDPOINT nor PET_MASTER_ADDR says where they meet",
            remedy="set PET_RDZV_BACKEND=c10d and PET_RDZV_ENDPOINT=host:port, the same on every node",
        )
    words = [f"--nproc-per-node={ranks // nodes}", f"--shutdown-timeout={NOTICE}"]
    words += ["--standalone"] if nodes == 1 else []
    # the store that torchrun would share lives on over a restart, with the addresses of ranks that are dead
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    api.LocalElasticAgent = _Agent  # type: ignore[attr-defined]  # torchrun takes it from there and no other place
    try:
        run(parse_args([*words, *sys.argv]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return _code_of({failure.exitcode for failure in error.failures.values()})
    except SignalException:  # passed on to the ranks, which have ended
        return Interrupted.exit_code
    except RendezvousClosedError as error:
        raise TrainingError(
            "another node has ended this run, by a fault of its own or because it is done",
            remedy="see what that node said; mended, all nodes start again with another PET_RDZV_ID",
        ) from error
    except (RendezvousError, DistError) as error:
        where = os.environ.get("PET_RDZV_ENDPOINT") or os.environ.get("PET_MASTER_ADDR")
        raise Interrupted(
            f"the {nodes} nodes did not meet at {where}: {str(error).splitlines()[0]}",
            remedy="start it again on all nodes; see that this address is reached from each",
        ) from error
    return 0


def _code_of(codes: set[int]) -> int:
    """The exit code of a run, from those of the ranks that failed.

    One that fails by itself takes the others along, which end as if they had lost it: its code is the cause.
    """
    if SekishoError.exit_code in codes:
        return SekishoError.exit_code
    killed = any(code < 0 for code in codes)  # by a signal
    return Interrupted.exit_code if killed or codes == {Interrupted.exit_code} else SekishoError.exit_code


def _given(learn: Learn, source: Path) -> tuple[Params, dict[str, Any]]:
    """The parameters with the options' values, and all options."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--params", type=Path, default=Path("params.yaml"), help="the options' values")
    file = early.parse_known_args()[0].params
    params = load_params(file)
    parser = argparse.ArgumentParser(
        parents=[early],
        description=inspect.getdoc(inspect.getmodule(learn)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fold", type=int, required=True, help="walk-forward window, from 0")
    parser.add_argument("--seed", type=int, required=True, help="of network, exploration and episodes")
    for name, (kind, default, meaning) in PLACES.items():
        shown = f"{meaning} (default: {default})" if default else meaning
        parser.add_argument(f"--{name}", type=kind, default=default, help=shown)
    for section, names in ((source.stem, None), ("train", LOOP)):
        _add_options(parser, file, section, getattr(params, section), names)
    given = vars(parser.parse_args())
    if not given["out"] and not given["store"]:
        parser.error("nowhere to publish: give --out, or --store")
    for section in (source.stem, "train"):
        params = _with_options(params, section, given)
    return params, given


def _add_options(
    parser: argparse.ArgumentParser, file: Path, section: str, values: Section, names: tuple[str, ...] | None
) -> None:
    """One option per parameter; what it means is the comment beside it in ``file``."""
    text = re.split(r"^(\w+):.*$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    comments = dict(re.findall(r"^  (\w+):.*?# (.*)$", text[text.index(section) + 1], flags=re.MULTILINE))
    group = parser.add_argument_group(section)
    for name in names or type(values).model_fields:
        meaning = f"{comments.get(name, '')} (default: {getattr(values, name)})".replace("%", "%%")
        group.add_argument(f"--{name.replace('_', '-')}", dest=f"{section}.{name}", metavar="", help=meaning)


def _with_options(params: Params, section: str, given: dict[str, Any]) -> Params:
    values: Section = getattr(params, section)
    changes = {
        name: given[f"{section}.{name}"]
        for name in type(values).model_fields
        if given.get(f"{section}.{name}") is not None
    }
    try:
        changed = type(values).model_validate(values.model_dump() | changes)
    except ValueError as error:
        raise ParamsError(str(error), remedy="the ranges are in src/sekisho/params.py") from error
    return params.model_copy(update={section: changed})

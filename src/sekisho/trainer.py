"""What all trainers share, so that a file of ``training/`` is the algorithm alone.

A trainer is a function ``learn(task, options, seed, run)``. The task says what to learn, the run counts the
updates, watches the figures, keeps the best agent and survives a kill:

    def learn(task, options, seed, run):
        optimizer, generator = ...
        observation = run.start(seed, optimizer=optimizer, generator=generator)
        for update in run.updates(samples_each):
            ...  # anneal by run.share, collect from task.market, improve task.agent
            run.record(reward=..., turnover=..., policy_loss=...)

The same function trains on the files of one walk-forward fold (`train_fold`) and, with a run that lives in
memory, on any market of the same interface: ``learn(task, options, seed, Run(task, samples))``. Under
torchrun it is called once per rank, ``run.ranks`` of which each owns a part of the market's accounts.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.progress import Progress

from sekisho.backtest.splits import Fold, walk_forward
from sekisho.checkpoints import Checkpoints
from sekisho.data.panel import load_panel
from sekisho.data.store import replaced
from sekisho.errors import Interrupted, TrainingError
from sekisho.features import load_features
from sekisho.market import Agent, MarketData, TradingMarket, derive_units, export_onnx
from sekisho.market.blocks import PROBE, Blocks
from sekisho.market.ranks import ALONE, Ranks
from sekisho.params import MarketParams, Params
from sekisho.train import SCRATCH, Finished, derived_key, require_listed, run_key, run_name, sessions_of

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EXPLODED = 1e6  # a figure beyond this cannot come back: rewards are of order one
EVALUATION_BARS = 132  # the validation window is cut into equal runs of at most so many bars, side by side
FEWEST_RETURNS = 10  # of a validation window

Market = VectorEnv[torch.Tensor, torch.Tensor, torch.Tensor]
Learn = Callable[["Task", Any, int, "Run"], None]


@dataclass(frozen=True)
class Task:
    """What is to be learned.

    ``market``: observations ``(N, A, F+1)`` float32 whose last column is the position, actions ``(N, A)``
    trades in units, ``infos["asset_reward"]`` ``(N, A)``, ``final_obs`` and ``_final_obs`` where an episode
    ended, ``state()`` and ``load_state()`` (which returns the observation). ``validate``: the figure that
    decides which agent is kept, higher is better. ``turn``: has the market hold the bars of an update, and
    says whether it held others before.
    """

    market: Market
    agent: Agent
    validate: Callable[[], float]
    turn: Callable[[int], bool] = lambda update: False


class Run:
    """The updates of one training. Without ``checkpoints`` and ``tensorboard`` it lives in memory alone.

    Args:
        samples: budget, environment steps × environments, of all ranks together.
        evaluate_every: updates between two looks at ``task.validate``; the last update is always looked at.
        patience: looks without a better figure after which it stops; 0 never stops early.
        checkpoints: to go on from and to save to every ``checkpoint_every`` updates.
        tensorboard: folder of the scalars.
        title: of the progress bar; silent without one.
        ranks: processes that share this run; the first alone validates, saves what all share, and shows.
        told_to_end: looked at after every update; once it is true on any rank, all save and end.

    ``curve`` has one row per update (``update``, ``samples``, the recorded figures, ``validation`` or None);
    ``best`` is the best update, its figure and its weights. When the updates are through, ``task.agent`` has
    the best weights. ``opened`` is, where an update begins on other bars than the one before, the observation
    of the accounts, which are all new: what is carried from step to step begins anew.
    """

    def __init__(
        self,
        task: Task,
        samples: int,
        *,
        evaluate_every: int = 1,
        patience: int = 0,
        checkpoints: Checkpoints | None = None,
        checkpoint_every: int = 1,
        tensorboard: Path | None = None,
        title: str = "",
        ranks: Ranks = ALONE,
        told_to_end: Callable[[], bool] = lambda: False,
    ) -> None:
        self.task, self.samples = task, samples
        self.evaluate_every, self.patience = evaluate_every, patience
        self.checkpoints, self.checkpoint_every = checkpoints, checkpoint_every
        self.ranks, self.told_to_end = ranks, told_to_end
        self.tensorboard, self.title = (tensorboard, title) if ranks.first else (None, "")
        self.update, self.total, self.samples_each = 0, 1, samples
        self.opened: torch.Tensor | None = None
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"update": 0, "validation": -math.inf, "agent": _weights(task.agent)}
        self._stateful: dict[str, Any] = {}
        self._board: SummaryWriter | None = None

    def start(self, seed: int, **stateful: Any) -> torch.Tensor:
        """Reset the market by ``seed``, or put everything back where a checkpoint is; the observation there.

        ``stateful`` is what the trainer keeps from update to update beside market and agent: optimizers and
        modules (``state_dict``), generators, all the same on every rank; and tensors that are changed in
        place, of this rank's accounts ``(accounts, …)``.
        """
        self._stateful = stateful
        observation, _ = self.task.market.reset(seed=seed)
        saved = self.checkpoints.load() if self.checkpoints else None
        if saved is not None:
            shared, own = saved
            self.task.agent.load_state_dict(shared["agent"])
            for name, thing in stateful.items():
                _put_back(thing, (own if isinstance(thing, torch.Tensor) else shared)["stateful"][name])
            self.update, self.best, self.curve = shared["update"], shared["best"], shared["curve"]
            self.task.turn(self.update)
            market = own["market"] | {"generator": shared["generator"]}
            observation = self.task.market.load_state(market)  # type: ignore[attr-defined]
        if self.tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            # what a killed run wrote after its checkpoint is written again
            self._board = SummaryWriter(str(self.tensorboard), purge_step=self.update + 1)
        return observation

    @property
    def share(self) -> float:
        """Of the updates that are done, in [0, 1): for annealing."""
        return (self.update - 1) / self.total

    def updates(self, samples_each: int) -> Iterator[int]:
        """Count the updates, from 1 or from the checkpoint, until samples or patience are used up.

        Raises:
            TrainingError: the samples do not make one update.
        """
        if self.samples < samples_each:
            raise TrainingError(
                f"samples = {self.samples} are fewer than one update's {samples_each}, environments × steps",
                remedy="raise samples or lower environments or steps",
            )
        self.samples_each, self.total = samples_each, self.samples // samples_each
        with _progress(self.title, self.update, self.total) as show:
            while self.update < self.total and not self._out_of_patience():
                self.update += 1
                self.opened = self.task.market.reset()[0] if self.task.turn(self.update) else None
                yield self.update
                show(self.update)
        self.task.agent.load_state_dict(self.best["agent"])
        if self._board is not None:
            self._board.close()

    def record(self, **figures: torch.Tensor | float) -> None:
        """Close an update: check and keep its figures, look at the validation when due, save when due.

        ``figures`` are those of all ranks together, the same on each.

        Raises:
            TrainingError: a figure is not finite or has exploded; names it. Nothing of this update is saved.
            Interrupted: told to end; this update is saved.
        """
        names = list(figures)
        values = torch.stack([torch.as_tensor(figures[name]).detach().double().cpu() for name in names])
        row: dict[str, Any] = {"update": self.update, "samples": self.update * self.samples_each}
        row |= dict(zip(names, values.tolist(), strict=True))
        for name in names:
            self._check(name, row[name])
        row["validation"] = None
        if self.update % self.evaluate_every == 0 or self.update == self.total:
            row["validation"] = self.ranks.from_first(self.task.validate)
            if row["validation"] > self.best["validation"]:
                self.best = {
                    "update": self.update, "validation": row["validation"], "agent": _weights(self.task.agent)
                }  # fmt: skip
        self.curve.append(row)
        if self._board is not None:
            for name, value in row.items():
                if name not in ("update", "samples") and value is not None:
                    self._board.add_scalar(name, value, self.update)
        self._save()

    def _save(self) -> None:
        if not self.checkpoints or self.update == self.total:
            return
        ending = self.ranks.any(self.told_to_end())
        if ending or self.update % self.checkpoint_every == 0:
            self.checkpoints.save(self.update, *self._state())
        if ending:
            raise Interrupted(
                f"told to end: update {self.checkpoints.newest} of {self.total} is saved",
                remedy="start it again: it goes on from there",
            )

    def _check(self, name: str, value: float) -> None:
        if abs(value) < EXPLODED:  # false for NaN
            return
        saved = "the last good checkpoint is kept" if self.checkpoints else "nothing of it was kept"
        if name == "reward":
            remedy = f"check the bars of the training window; {saved}"
            raise TrainingError(f"update {self.update}: the reward is not finite: {value}", remedy=remedy)
        remedy = f"lower the learning rate; {saved}"
        raise TrainingError(f"update {self.update}: {name} is {value}", remedy=remedy)

    def _out_of_patience(self) -> bool:
        looks = [row for row in self.curve if row["validation"] is not None]
        return 0 < self.patience <= sum(bool(row["update"] > self.best["update"]) for row in looks)

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all ranks share, and what is this one's."""
        market = self.task.market.state()  # type: ignore[attr-defined]
        taken = {name: _taken(thing) for name, thing in self._stateful.items()}
        tensors = {name for name, thing in self._stateful.items() if isinstance(thing, torch.Tensor)}
        shared = {
            "update": self.update,
            "agent": self.task.agent.state_dict(),
            "stateful": {name: state for name, state in taken.items() if name not in tensors},
            "generator": market.pop("generator"),  # every rank draws what all draw
            "best": self.best,
            "curve": self.curve,
        }
        return shared, {"market": market, "stateful": {name: taken[name] for name in tensors}}


def _weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in agent.state_dict().items()}


def _taken(thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing
    return thing.get_state() if isinstance(thing, torch.Generator) else thing.state_dict()


def _put_back(thing: Any, state: Any) -> None:
    if isinstance(thing, torch.Tensor):
        thing.copy_(state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    else:
        thing.load_state_dict(state)


class _progress:
    """A bar on a terminal, else one line per update; nothing without a title."""

    def __init__(self, title: str, done: int, total: int) -> None:
        self.title, self.done, self.total = title, done, total
        self.bar: Progress | None = None

    def __enter__(self) -> Callable[[int], None]:
        if not self.title:
            return lambda update: None
        if not sys.stderr.isatty():
            return lambda update: print(f"update {update}/{self.total}", flush=True)
        bar = self.bar = Progress(console=Console(stderr=True))
        task = bar.add_task(self.title, total=self.total, completed=self.done)
        bar.start()
        return lambda update: bar.update(task, completed=update)

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def train_fold(
    learn: Learn,
    params: Params,
    *,
    fold: int,
    seed: int,
    bars: Path,
    features: Path,
    out: Path | None = None,
    store: str | None = None,
    checkpoints: str | None = None,
    tensorboard: Path | None = None,
    told_to_end: Callable[[], bool] = lambda: False,
) -> bool:
    """Train on the fold's training window, keep what did best on its validation window, publish it to the
    folder ``out``, and to ``store`` as a finished run for `sekisho.train.train`; at least one of them.

    The test window is not even loaded. ``checkpoints``, a folder or ``s3://…``, is by default
    ``checkpoints/<digest of what determines the result>`` of the store, or of ``.sekisho``. Under torchrun
    all ranks call this alike. Returns whether there was anything to do: a run in the store is finished.

    Raises:
        TrainingError: no such fold, a window too short, a symbol listed after it, figures that are not
            finite; environments that cannot be shared out evenly, ranks that do not see the same files.
        DataError: bars or features are missing or stale; the disk is full, the store cannot be reached.
        Interrupted: told to end; the update that was under way is saved.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    device = device_of(params.train.device)
    source = Path(inspect.getfile(learn))
    options = getattr(params, source.stem)
    ranks = Ranks.join(device)
    key = run_key(bars, features, params, source)
    ranks.require_same(key, "code, parameters, bars and features")
    finished = Finished(store, key, params.train.ranks) if store else None
    if finished and ranks.any(finished.has(run_name(fold, seed))):
        return False
    folds = walk_forward(sessions_of(bars), params.split)
    if not 0 <= fold < len(folds):
        raise TrainingError(f"there is no fold {fold}", remedy=f"choose one of 0 to {len(folds) - 1}")
    chosen = folds[fold]
    require_listed(bars, [chosen])
    if params.train.resident_sessions:
        task, probe = _by_block(bars, features, params, options, chosen, seed, device, ranks)
    else:
        task, probe = _whole(bars, features, params, options, chosen, seed, device, ranks)
    key = derived_key(key, fold=fold, seed=seed, device=device)
    saved = Checkpoints(checkpoints or f"{store or SCRATCH}/checkpoints/{key}", key, ranks)
    run = Run(
        task,
        options.samples,
        evaluate_every=params.train.evaluate_every,
        patience=params.train.patience,
        checkpoints=saved,
        checkpoint_every=params.train.checkpoint_every,
        tensorboard=tensorboard and tensorboard / f"{source.stem}-fold-{fold}-seed-{seed}-{key[:12]}",
        title=f"fold {fold} seed {seed}",
        ranks=ranks,
        told_to_end=told_to_end,
    )
    learn(task, options, seed, run)
    if ranks.first:
        record = {"trainer": source.stem, "fold": fold, "seed": seed, "windows": _windows(chosen)}
        with TemporaryDirectory() as scratch:
            place = out or Path(scratch) / "run"
            publish(place, task.agent, probe, run, record)
            if finished:
                finished.put(run_name(fold, seed), place)
    ranks.any(False)  # nobody leaves before it is published
    saved.clear()
    return True


def _whole(
    bars: Path, features: Path, params: Params, options: Any, fold: Fold, seed: int, device: str, ranks: Ranks
) -> tuple[Task, torch.Tensor]:
    """The task of a fold all of which is in memory, and features of it to probe the agent with."""
    panel = load_panel(bars, last=fold.validation[1])
    data = MarketData.from_panel(panel, load_features(features, panel), params.market, device)
    train, validation = data.window(*fold.train), data.window(*fold.validation)
    units = derive_units(data, *train, params.market)
    market = TradingMarket(data, params.market, units, options.environments, train, ranks=ranks)
    agent = _agent(market, options, params.market, seed)
    agent.fit_scales(data, *train, units)
    task = Task(market, agent, validate=lambda: evaluate(agent, data, validation, params.market))
    return task, data.features[train[0] : train[0] + PROBE].cpu()


def _by_block(
    bars: Path, features: Path, params: Params, options: Any, fold: Fold, seed: int, device: str, ranks: Ranks
) -> tuple[Task, torch.Tensor]:
    """The same where the market holds one block of the training window at a time."""
    updates = options.samples // (options.environments * options.steps)
    blocks = Blocks(
        bars, features, params,
        train=fold.train, validation=fold.validation, updates=updates, seed=seed, device=device,
    )  # fmt: skip
    market = blocks.market(options.environments, ranks=ranks)
    agent = _agent(market, options, params.market, seed)
    agent.set_scales(*blocks.scales, blocks.units)
    task = Task(
        market,
        agent,
        validate=lambda: evaluate(agent, *blocks.validation, params.market),
        turn=lambda update: blocks.turn(market, update),
    )
    return task, blocks.probe


def _agent(market: TradingMarket, options: Any, params: MarketParams, seed: int) -> Agent:
    torch.manual_seed(seed)  # initial weights only; everything later draws from its own generator
    recurrent = getattr(options, "recurrent", 0)
    features = market.data.features.shape[2]
    return Agent(features, market.assets, options.hidden, params, recurrent).to(market.device)


def device_of(name: str) -> str:
    """``auto`` resolved: cuda where there is one.

    Raises:
        TrainingError: cuda is asked for and not there.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise TrainingError("train.device is cuda and there is none", remedy="set it to auto or cpu")
    if name == "cpu" or not there:
        return "cpu"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    return "cuda"


@torch.no_grad()
def evaluate(agent: Agent, data: MarketData, window: tuple[int, int], params: MarketParams) -> float:
    """Annualised net Sharpe ratio of the deterministic agent on ``window``, all costs on.

    The window is cut into equal runs side by side, each from an empty book: cheap, and a little too modest.
    What the division leaves, fewer bars than there are runs, is left out at the window's end. A ruined
    account is closed, as in the backtest: its loss stays, and it earns nothing more.

    Raises:
        TrainingError: the window holds too few returns to tell one agent from another.
    """
    start, stop = window
    if stop - start - 1 < FEWEST_RETURNS:
        raise TrainingError(
            f"the validation window holds {stop - start - 1} returns, {FEWEST_RETURNS} are needed at least",
            remedy="raise split.validation_sessions",
        )
    runs = math.ceil((stop - start - 1) / EVALUATION_BARS)
    length = (stop - start - 1) // runs
    starts = start + length * torch.arange(runs, device=data.close.device)
    units = derive_units(data, start, stop, params)  # reward scale only; the agent has its own trade unit
    market = TradingMarket(data, params, units, len(starts), window, mode="weights", sequential=True)
    observation, _ = market.reset(options={"start": starts})
    returns, state = [], agent.first_state(runs)
    alive = torch.ones(runs, dtype=torch.bool, device=data.close.device)
    for _ in range(length):
        weights, state = agent.act(observation, state)
        observation, _, ruined, _, infos = market.step(torch.where(alive[:, None], weights, 0.0))
        returns.append(torch.where(alive, infos["net_return"], 0.0))
        alive = alive & ~ruined
    net = torch.cat(returns)
    years = (data.ts_close[stop - 1] - data.ts_close[start]).astype(float) / (365.25 * 86_400e6)
    spread = net.std()
    if not spread > 0:
        return 0.0
    return float(net.mean() / spread) * math.sqrt((stop - start) / years)


def publish(out: Path, agent: Agent, features: torch.Tensor, run: Run, record: dict[str, Any]) -> None:
    """Write model.onnx, curve.csv and run.json beside ``out`` and put the folder in its place.

    ``features`` ``(N, A, F)`` are those on which the exported graph is compared with the agent.
    """
    device = next(agent.parameters()).device.type
    weights = torch.linspace(-1, 1, features.shape[0] * features.shape[1]).reshape(features.shape[:2])
    probe = torch.cat((features, weights[..., None]), dim=2)
    curve = [
        {"validation_sharpe" if name == "validation" else name: value for name, value in row.items()}
        for row in run.curve
    ]
    with replaced(out) as (fresh,):
        digest = export_onnx(agent.cpu(), fresh / "model.onnx", probe)
        with (fresh / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(curve[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(curve)
        record = record | {
            "samples": curve[-1]["samples"],
            "updates": curve[-1]["update"],
            "best_update": run.best["update"],
            "validation_sharpe": run.best["validation"],
            "onnx_sha256": digest,
            "torch": torch.__version__,
            "device": device,
            "threads": torch.get_num_threads(),
        }
        (fresh / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _windows(fold: Fold) -> dict[str, list[str]]:
    return {name: [str(day) for day in getattr(fold, name)] for name in ("train", "validation", "test")}

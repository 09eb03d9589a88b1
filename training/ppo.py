"""Proximal policy optimisation (Schulman et al. 2017) on the market, in one file.

    python training/ppo.py --fold 0 --seed 1 --out build/try

After CleanRL's ppo_continuous_action.py, with four differences that matter here:

- time limits are truncations: the value of an episode's last observation is bootstrapped;
- one advantage per asset, from the market's difference rewards: the account's reward is nearly a sum over
  assets, and judging each asset's trade by its own part divides the variance by their number;
- one torch thread and explicit generators only: same commit, data and seed give the same bytes;
- checkpoints: killed at any moment and started again, it ends with the same bytes as unbroken.

Trains on the fold's training window, keeps the agent that did best on the validation window, never opens the
test window. Defaults of all options come from params.yaml; `sekisho train` runs every fold and seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
import tyro
from rich.console import Console
from rich.progress import Progress

from sekisho.backtest.splits import Fold, walk_forward
from sekisho.data.panel import load_panel
from sekisho.data.store import replaced
from sekisho.errors import SekishoError, TrainingError
from sekisho.features import load_features
from sekisho.market import Agent, MarketData, TradingMarket, derive_units, export_onnx
from sekisho.params import Params, PpoParams, load_params
from sekisho.train import run_key, sessions_of

EXPLODED = 1e6  # a loss beyond this cannot come back: rewards are of order one
EVALUATION_BARS = 132  # the validation window is cut into equal runs of at most so many bars, side by side
KEPT = 2  # checkpoints: the newest, and the one before it should the newest be broken


@dataclass(frozen=True)
class Args:
    """PPO on one walk-forward fold. Defaults come from params.yaml."""

    fold: int
    """walk-forward window, from 0"""
    seed: int
    """of the network, the exploration and the episodes"""
    out: Path
    """folder to publish: model.onnx, curve.csv, run.json"""
    samples: int
    """environment steps × environments"""
    environments: int
    """accounts that trade side by side"""
    steps: int
    """per environment and update"""
    epochs: int
    """passes over the samples of an update"""
    minibatches: int
    """per epoch"""
    learning_rate: float
    """of Adam, annealed linearly to zero"""
    discount: float
    """per bar"""
    gae_lambda: float
    """of the generalised advantage estimator"""
    clip: float
    """of the probability ratio"""
    entropy: float
    """bonus coefficient"""
    value_coefficient: float
    """of the value loss"""
    max_gradient_norm: float
    """over all parameters"""
    hidden: int
    """units in each of the two layers"""
    checkpoint_every: int
    """updates"""
    evaluate_every: int
    """updates between two looks at the validation window"""
    bars: Path = Path("build/bars")
    """validated bars"""
    features: Path = Path("build/features")
    """their features"""
    params: Path = Path("params.yaml")
    """parameters: market, split and the defaults above"""
    checkpoints: Path | None = None
    """folder of the checkpoints; by default .sekisho/checkpoints/<digest of what determines the result>"""


def main(args: Args, params: Params) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    key = run_key(args.bars, args.features, params, Path(__file__), _result_options(args))
    checkpoints = args.checkpoints or Path(".sekisho/checkpoints") / key

    # Data: the training and the validation window of this fold; the test window is not even loaded
    folds = walk_forward(sessions_of(args.bars), params.split)
    if not 0 <= args.fold < len(folds):
        raise TrainingError(f"there is no fold {args.fold}", remedy=f"choose one of 0 to {len(folds) - 1}")
    fold = folds[args.fold]
    panel = load_panel(args.bars, last=fold.validation[1])
    data = MarketData.from_panel(panel, load_features(args.features, panel), params.market)
    train, validation = data.window(*fold.train), data.window(*fold.validation)
    units = derive_units(data, *train, params.market)

    torch.manual_seed(args.seed)  # initial weights only; everything later draws from its own generator
    generator = torch.Generator().manual_seed(args.seed + 1_000_003)
    market = TradingMarket(data, params.market, units, args.environments, train)
    agent = Agent(data.features.shape[2], len(data.symbols), args.hidden, params.market)
    agent.fit_scales(data, *train, units)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    observation, _ = market.reset(seed=args.seed)

    updates = max(1, args.samples // (args.environments * args.steps))
    done_updates, best, curve = 0, _best(agent, -math.inf, 0), []
    state = load_checkpoint(checkpoints)
    if state is not None:
        agent.load_state_dict(state["agent"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        observation = market.load_state(state["market"])
        done_updates, best, curve = state["update"], state["best"], state["curve"]

    shape = (args.steps, args.environments, len(data.symbols))
    encoded = torch.zeros(*shape, 2 * (data.features.shape[2] + 1))
    actions, logprobs, rewards, values, next_values = (torch.zeros(shape) for _ in range(5))
    ends = torch.zeros(*shape[:2], 1)

    for update in _progress(done_updates + 1, updates, f"fold {args.fold} seed {args.seed}"):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - (update - 1) / updates)

        # Rollout (trajectory collection)
        turnover = reward_sum = 0.0
        with torch.no_grad():
            std = agent.log_std.exp()
            inputs = agent.encode(observation)
            for step in range(args.steps):
                mean, value = agent.trade(inputs), agent.value(inputs)
                action = mean + std * torch.randn(mean.shape, generator=generator)
                encoded[step], actions[step], values[step] = inputs, action, value
                logprobs[step] = log_probability(action, mean, agent.log_std)
                observation, reward, terminated, truncated, infos = market.step(action)
                rewards[step], ends[step] = infos["asset_reward"], (terminated | truncated).float()[:, None]
                turnover += infos["turnover"].mean().item()
                reward_sum += reward.mean().item()
                inputs = agent.encode(observation)
                if step > 0:
                    next_values[step - 1] = torch.where(ends[step - 1] > 0, next_values[step - 1], value)
                if "final_obs" in infos:  # the episode's own last observation, not the next episode's first
                    over = infos["_final_obs"]
                    last = agent.value(agent.encode(infos["final_obs"][over]))
                    next_values[step, over] = torch.where(terminated[over, None], 0.0, last)
            next_values[-1] = torch.where(ends[-1] > 0, next_values[-1], agent.value(inputs))
            advantages = gae(rewards, values, next_values, ends, args.discount, args.gae_lambda)
        if not math.isfinite(reward_sum):
            raise TrainingError(
                f"update {update}: the reward is not finite",
                remedy="check the bars of the training window; the last good checkpoint is kept",
            )

        # Update: every asset of every step is a row
        rows = encoded.reshape(-1, encoded.shape[-1])
        old_action, old_logprob = actions.reshape(-1), logprobs.reshape(-1)
        advantage, target = advantages.reshape(-1), (advantages + values).reshape(-1)
        kl = clipped = policy_loss = value_loss = 0.0
        for _ in range(args.epochs):
            order = torch.randperm(len(rows), generator=generator)
            for batch in order.split(math.ceil(len(rows) / args.minibatches)):
                inputs_b = rows[batch]
                logprob = log_probability(old_action[batch], agent.trade(inputs_b), agent.log_std)
                log_ratio = logprob - old_logprob[batch]
                ratio = log_ratio.exp()
                gain = advantage[batch]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                policy = -torch.min(gain * ratio, gain * ratio.clamp(1 - args.clip, 1 + args.clip)).mean()
                error = 0.5 * (agent.value(inputs_b) - target[batch]).square().mean()
                loss = policy + args.value_coefficient * error - args.entropy * agent.log_std.sum()
                if not abs(loss.item()) < EXPLODED:  # also false for NaN
                    raise TrainingError(
                        f"update {update}: the loss is {loss.item()}",
                        remedy="lower ppo.learning_rate; the last good checkpoint is kept",
                    )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(agent.parameters(), args.max_gradient_norm)
                optimizer.step()
                with torch.no_grad():
                    kl += ((ratio - 1) - log_ratio).mean().item()
                    clipped += ((ratio - 1).abs() > args.clip).float().mean().item()
                    policy_loss, value_loss = policy.item(), error.item()
            batches = args.epochs * args.minibatches

        sharpe = None
        if update % args.evaluate_every == 0 or update == updates:
            sharpe = evaluate(agent, data, validation, params)
            if sharpe > best["sharpe"]:
                best = _best(agent, sharpe, update)
        curve.append(
            {
                "update": update,
                "samples": update * args.environments * args.steps,
                "reward": reward_sum / args.steps,
                "turnover": turnover / args.steps,
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "kl": kl / batches,
                "clipped": clipped / batches,
                "std": agent.log_std.exp().item(),
                "validation_sharpe": sharpe,
            }
        )
        if update % args.checkpoint_every == 0 and update < updates:
            save_checkpoint(
                checkpoints,
                update,
                {
                    "update": update,
                    "agent": agent.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "market": market.state(),
                    "best": best,
                    "curve": curve,
                },
            )

    agent.load_state_dict(best["agent"])
    publish(args, fold, agent, data, train, best, curve)
    shutil.rmtree(checkpoints, ignore_errors=True)  # the run is published; nothing to go back to


def log_probability(action: torch.Tensor, mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Of independent normal actions, one per asset; same shape as ``action``."""
    return -0.5 * ((action - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    ends: torch.Tensor,
    discount: float,
    lam: float,
) -> torch.Tensor:
    """Generalised advantage estimates (Schulman et al. 2016), ``(steps, …)`` like ``rewards``.

    ``next_values`` are those of the observation that truly followed: 0 after a terminal state, the final
    observation's after a truncation. ``ends`` (1 where an episode ended) only stops the sum.
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        delta = rewards[step] + discount * next_values[step] - values[step]
        running = delta + discount * lam * (1 - ends[step]) * running
        advantages[step] = running
    return advantages


@torch.no_grad()
def evaluate(agent: Agent, data: MarketData, window: tuple[int, int], params: Params) -> float:
    """Annualised net Sharpe ratio of the deterministic agent on ``window``, all costs on.

    The window is cut into equal runs side by side, each from an empty book: cheap, and a little too modest.
    What the division leaves, fewer bars than there are runs, is left out at the window's end.
    """
    start, stop = window
    runs = math.ceil((stop - start - 1) / EVALUATION_BARS)
    length = (stop - start - 1) // runs
    starts = start + length * torch.arange(runs)
    units = derive_units(
        data, start, stop, params.market
    )  # reward scale only; the agent has its own trade unit
    market = TradingMarket(data, params.market, units, len(starts), window, mode="weights", sequential=True)
    observation, _ = market.reset(options={"start": starts})
    returns = []
    for _ in range(length):
        observation, _, _, _, infos = market.step(agent.act_target_weights(observation))
        returns.append(infos["net_return"])
    net = torch.cat(returns)
    years = (data.ts_close[stop - 1] - data.ts_close[start]).astype(float) / (365.25 * 86_400e6)
    spread = net.std()
    if not spread > 0:
        return 0.0
    return float(net.mean() / spread) * math.sqrt((stop - start) / years)


def save_checkpoint(folder: Path, update: int, state: dict[str, Any]) -> None:
    """Write atomically, digest in the name; keep the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"{update:07d}-{hashlib.sha256(content).hexdigest()}.pt"
    temporary = folder / f".{path.name}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    for old in sorted(folder.glob("*.pt"))[:-KEPT]:
        old.unlink()


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint whose content matches its digest, or None; a broken one is named and left out."""
    for path in sorted(folder.glob("*.pt"), reverse=True):
        content = path.read_bytes()
        if path.stem.split("-")[1] == hashlib.sha256(content).hexdigest():
            state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
            return state
        print(f"checkpoint {path} is damaged, going back to the one before", file=sys.stderr)
    return None


def publish(
    args: Args,
    fold: Fold,
    agent: Agent,
    data: MarketData,
    train: tuple[int, int],
    best: dict[str, Any],
    curve: list[dict[str, Any]],
) -> None:
    """Write model.onnx, curve.csv and run.json beside ``args.out`` and put the folder in its place."""
    features = data.features[train[0] : train[0] + 64]
    weights = torch.linspace(-1, 1, features.shape[0] * features.shape[1]).reshape(features.shape[:2])
    probe = torch.cat((features, weights[..., None] * agent.params.max_asset), dim=2)
    with replaced(args.out) as (fresh,):
        digest = export_onnx(agent, fresh / "model.onnx", probe)
        with (fresh / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(curve[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(curve)
        run = {
            "fold": args.fold,
            "seed": args.seed,
            "windows": {
                name: [str(day) for day in getattr(fold, name)] for name in ("train", "validation", "test")
            },
            "samples": curve[-1]["samples"],
            "updates": curve[-1]["update"],
            "best_update": best["update"],
            "validation_sharpe": best["sharpe"],
            "onnx_sha256": digest,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        (fresh / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _result_options(args: Args) -> dict[str, Any]:
    """The options that determine the result, for the key."""
    places = {"out", "bars", "features", "params", "checkpoints", "checkpoint_every"}
    return {name: value for name, value in asdict(args).items() if name not in places}


def _best(agent: Agent, sharpe: float, update: int) -> dict[str, Any]:
    return {
        "sharpe": sharpe,
        "update": update,
        "agent": {name: value.clone() for name, value in agent.state_dict().items()},
    }


def _progress(first: int, last: int, title: str) -> Iterator[int]:
    """Count from ``first`` to ``last`` with a bar on a terminal, else with one line per update."""
    if not sys.stderr.isatty():
        for update in range(first, last + 1):
            yield update
            print(f"update {update}/{last}", flush=True)
        return
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=last, completed=first - 1)
        for update in range(first, last + 1):
            yield update
            bar.update(task, completed=update)


def cli() -> None:
    try:
        source = Path(_early_option("--params", "params.yaml"))
        params = load_params(source)
        defaults: dict[str, Any] = {name: getattr(params.ppo, name) for name in PpoParams.model_fields}
        missing = {"fold": tyro.MISSING, "seed": tyro.MISSING, "out": tyro.MISSING}
        args = tyro.cli(Args, description=__doc__, default=Args(**missing, **defaults, params=source))
        began = time.perf_counter()
        main(args, params)
        print(
            f"trained fold {args.fold} seed {args.seed} in {time.perf_counter() - began:.1f} s → {args.out}"
        )
    except SekishoError as error:
        print(f"ppo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _early_option(name: str, default: str) -> str:
    """Value of one option before the real parser runs: its defaults come from the file named there."""
    words = sys.argv[1:]
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(name + "="):
            return word.split("=", 1)[1]
    return default


if __name__ == "__main__":
    cli()

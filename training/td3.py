"""TD3 (Fujimoto et al. 2018) on the market, in one file: the off-policy reference.

    python training/td3.py --fold 0 --seed 1 --out build/try

After CleanRL's td3_continuous_action.py: twin critics of which the lower counts, an actor that learns more
rarely, smoothed target actions. Four differences that matter here:

- time limits are truncations: the value of an episode's last observation is bootstrapped;
- one value per asset, of its own trade, from the market's difference rewards;
- many accounts step side by side, and what each meets is remembered in a ring;
- the ring is part of the checkpoint: killed and resumed, a run ends with the same bytes.

One process only: the ring is one. Everything but the algorithm is in src/sekisho/trainer.py; `sekisho train`
runs every fold and seed.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from sekisho.errors import TrainingError
from sekisho.launch import main
from sekisho.params import Td3Params
from sekisho.trainer import Run, Task


def learn(task: Task, options: Td3Params, seed: int, run: Run) -> None:
    """Train ``task.agent`` on ``task.market``; see `sekisho.trainer`."""
    if run.ranks.size > 1:
        raise TrainingError(
            f"td3 cannot be shared by {run.ranks.size} ranks: what it remembers lies in one ring",
            remedy="set train.ranks to 1, or train.trainer to ppo or apg",
        )
    market, agent = task.market, task.agent
    device = agent.trade_unit.device
    generator = torch.Generator(device).manual_seed(seed + 1_000_003)
    inputs = agent.actor[0].in_features
    critics = Critics(inputs, options.hidden, generator).to(device)
    slow_critics, slow_actor = copy.deepcopy(critics), copy.deepcopy(agent.actor)
    actor_optimizer = torch.optim.Adam(agent.actor.parameters(), lr=options.learning_rate, fused=True)
    critic_optimizer = torch.optim.Adam(critics.parameters(), lr=options.learning_rate, fused=True)

    shape = (options.buffer, agent.assets)  # what single accounts met: a ring, the oldest is overwritten
    features = market.single_observation_space.shape[1]  # type: ignore[index]
    before, after = (torch.zeros(*shape, features, device=device) for _ in range(2))
    actions, rewards = (torch.zeros(shape, device=device) for _ in range(2))
    terminal = torch.zeros(options.buffer, 1, dtype=torch.bool, device=device)
    count, learned = (torch.zeros((), dtype=torch.int64) for _ in range(2))  # ever remembered; minibatches
    if market.num_envs > options.buffer:
        raise TrainingError(
            f"td3.buffer = {options.buffer} does not hold one step of {market.num_envs} environments",
            remedy="raise td3.buffer or lower td3.environments",
        )
    each = options.steps * market.num_envs
    whole = run.samples // each * each
    if options.first >= whole > 0:  # less than one update is refused by the run
        raise TrainingError(
            f"td3.first = {options.first} of {whole} samples in whole updates: learning would never begin",
            remedy="lower td3.first or raise td3.samples",
        )
    observation = run.start(
        seed,
        critics=critics, slow_critics=slow_critics, slow_actor=slow_actor,
        actor_optimizer=actor_optimizer, critic_optimizer=critic_optimizer, generator=generator,
        before=before, after=after, actions=actions, rewards=rewards, terminal=terminal,
        count=count, learned=learned,
    )  # fmt: skip

    def noise(count: int, std: float) -> torch.Tensor:
        return std * torch.randn(count, agent.assets, generator=generator, device=device)

    lanes = torch.arange(market.num_envs, device=device)
    for _ in run.updates(each):
        for optimizer in (actor_optimizer, critic_optimizer):
            optimizer.param_groups[0]["lr"] = options.learning_rate * (1.0 - run.share)
        if run.opened is not None:
            observation = run.opened
        figures: dict[str, list[torch.Tensor]] = {"reward": [], "turnover": [], "q_loss": [], "q": []}
        for _ in range(options.steps):
            # Collect: one step of every account into the ring
            with torch.no_grad():
                action = agent.trade(agent.encode(observation)) + noise(market.num_envs, options.exploration)
                following, _, terminated, _, infos = market.step(action)
                met = following
                if "final_obs" in infos:
                    met = torch.where(infos["_final_obs"][:, None, None], infos["final_obs"], following)
                place = (lanes + count.to(device)) % options.buffer
                before[place], actions[place], after[place] = observation, action, met
                rewards[place], terminal[place, 0] = infos["asset_reward"], terminated
                count += market.num_envs
                observation = following
            figures["reward"].append(infos["asset_reward"].mean())
            figures["turnover"].append(infos["turnover"].mean())
            if count < options.first:
                continue

            # Update
            held = min(int(count), options.buffer)
            for _ in range(options.updates):
                chosen = torch.randint(held, (options.batch,), generator=generator, device=device)
                encoded, action = agent.encode(before[chosen]), actions[chosen]
                with torch.no_grad():
                    coming = agent.encode(after[chosen])
                    smoothing = noise(options.batch, options.target_noise)
                    smoothing = smoothing.clamp(-options.target_clip, options.target_clip)
                    later = slow_critics(coming, slow_actor(coming).squeeze(-1) + smoothing).amin(dim=0)
                    goal = rewards[chosen] + options.discount * later * ~terminal[chosen]
                error = (critics(encoded, action) - goal).square().mean(dim=(1, 2)).sum()
                critic_optimizer.zero_grad()
                error.backward()
                critic_optimizer.step()
                figures["q_loss"].append(error.detach())
                learned += 1
                if learned % options.actor_every == 0:
                    worth = critics(encoded, agent.trade(encoded))[0].mean()
                    actor_optimizer.zero_grad()
                    (-worth).backward()
                    actor_optimizer.step()
                    figures["q"].append(worth.detach())
                    with torch.no_grad():
                        follow(slow_actor, agent.actor, options.target_rate)
                        follow(slow_critics, critics, options.target_rate)
        zero = torch.zeros((), device=device)
        run.record(**{name: torch.stack(values or [zero]).mean() for name, values in figures.items()})


class Critics(nn.Module):
    """Two action values per asset: ``(…, A, D)`` encoded observations, ``(…, A)`` trades → ``(2, …, A)``.

    Weights are drawn as PyTorch's `nn.Linear` does, from ``generator``.
    """

    def __init__(self, inputs: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = ((inputs + 1, hidden), (hidden, hidden), (hidden, 1))
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, out in sizes:
            for parameters, shape in ((self.weights, (2, fan_in, out)), (self.biases, (2, 1, out))):
                uniform = torch.rand(shape, generator=generator, device=generator.device)
                parameters.append(nn.Parameter((2 * uniform - 1) / fan_in**0.5))

    def forward(self, encoded: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        rows = torch.cat((encoded, action[..., None]), dim=-1).flatten(0, -2).expand(2, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = torch.baddbmm(bias, rows, weight)
            rows = rows if layer == last else rows.relu()
        return rows.view(2, *action.shape)


def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move the parameters of ``slow`` by ``rate`` of the way to those of ``fast``."""
    for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
        one.lerp_(other, rate)


if __name__ == "__main__":
    main(learn)

"""Analytic policy gradient: the agent is improved along the market's own derivatives, in one file.

    python training/apg.py --fold 0 --seed 1 --out build/try

The market is a differentiable function of the trades: what a trade does to all later rewards is computed, not
estimated from noise as PPO must. After SHAC (Xu et al. 2022, *Accelerated Policy Learning with Parallel
Differentiable Simulation*):

- gradients flow through a short horizon; what comes later is the value of a slowly moving target critic;
- a time limit inside the horizon is bootstrapped like its end, and the next episode starts at full weight;
- the critic learns the account's TD(λ) return as a sum over the assets.

No exploration: the gradient shows the way. Under torchrun each rank owns accounts, and sums of gradients go
over all ranks: batch and learning rates are those of one process. Everything but the algorithm is in
src/sekisho/trainer.py; `sekisho train` runs every fold and seed.
"""

from __future__ import annotations

import copy
import math

import torch

from sekisho.launch import main
from sekisho.params import ApgParams
from sekisho.trainer import Run, Task


def learn(task: Task, options: ApgParams, seed: int, run: Run) -> None:
    """Train ``task.agent`` on ``task.market``; see `sekisho.trainer`."""
    market, agent, ranks = task.market, task.agent, run.ranks
    device, accounts = agent.trade_unit.device, task.market.num_envs  # this rank's
    generator = torch.Generator(device).manual_seed(seed + 1_000_003)
    target = copy.deepcopy(agent.critic).requires_grad_(False)
    actor = torch.optim.Adam(agent.actor.parameters(), lr=options.learning_rate, fused=True)
    critic = torch.optim.Adam(agent.critic.parameters(), lr=options.critic_learning_rate, fused=True)
    observation = run.start(seed, actor=actor, critic=critic, target=target, generator=generator)

    def value(encoded: torch.Tensor) -> torch.Tensor:
        """The target critic's, of whole accounts ``(…,)``."""
        return target(encoded).squeeze(-1).sum(dim=-1)  # type: ignore[no-any-return]

    for _ in run.updates(options.steps * accounts * ranks.size):
        actor.param_groups[0]["lr"] = options.learning_rate * (1.0 - run.share)
        critic.param_groups[0]["lr"] = options.critic_learning_rate * (1.0 - run.share)

        # Collect trajectories, keeping what depends on the actor; the last update's part of them is cut off
        state = market.state()  # type: ignore[attr-defined]
        observation = market.load_state({name: part.detach() for name, part in state.items()})  # type: ignore[attr-defined]
        weight = torch.ones(accounts, device=device)
        total = torch.zeros(accounts, device=device)
        inputs, rewards, ended, lasts, turnover = [], [], [], {}, []
        for step in range(options.steps):
            encoded = agent.encode(observation)
            observation, reward, terminated, truncated, infos = market.step(agent.trade(encoded))
            total = total + weight * reward
            weight = weight * options.discount
            if "final_obs" in infos:
                over = infos["_final_obs"]
                last = value(agent.encode(infos["final_obs"])) * ~terminated
                total = total + torch.where(over, weight * last, 0.0)
                weight = torch.where(over, 1.0, weight)
                lasts[step] = last.detach()
            inputs.append(encoded.detach())
            rewards.append(reward.detach())
            ended.append(terminated | truncated)
            turnover.append(infos["turnover"].detach().mean())
        beyond = agent.encode(observation)
        loss = -(total + weight * value(beyond)).sum() / (accounts * ranks.size)

        # Update: one step of the actor along the derivative, then the critic on what was earned
        actor.zero_grad()
        loss.backward()
        ranks.sum_gradients(agent.actor.parameters())
        norm = torch.nn.utils.clip_grad_norm_(agent.actor.parameters(), options.max_gradient_norm)
        actor.step()
        seen = torch.stack(inputs)
        with torch.no_grad():
            next_values = torch.cat((value(seen[1:]), value(beyond.detach())[None]))
            for step, last in lasts.items():
                next_values[step] = torch.where(ended[step], last, next_values[step])
            returns = td_lambda(
                torch.stack(rewards), next_values, torch.stack(ended), options.discount, options.td_lambda
            )
        rows, goals = seen.flatten(0, 1), returns.flatten()
        value_loss = torch.zeros((), device=device)
        count = len(rows) * ranks.size
        size = math.ceil(count / options.minibatches)
        for chosen in torch.randperm(count, generator=generator, device=device).split(size):
            own = ranks.own_rows(chosen, accounts)
            error = (agent.value(rows[own]).sum(dim=-1) - goals[own]).square().sum() / len(chosen)
            critic.zero_grad()
            error.backward()
            ranks.sum_gradients(agent.critic.parameters())
            critic.step()
            value_loss += error.detach() / options.minibatches
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), agent.critic.parameters(), strict=True):
                slow.lerp_(fast, options.target_rate)
        run.record(
            reward=ranks.mean(torch.stack(rewards)),
            turnover=ranks.mean(torch.stack(turnover)),
            value_loss=ranks.sum(value_loss),
            gradient_norm=norm,
        )


def td_lambda(
    rewards: torch.Tensor, next_values: torch.Tensor, ended: torch.Tensor, discount: float, lam: float
) -> torch.Tensor:
    """TD(λ) returns (Sutton and Barto 2018, 12.1), ``(steps, …)`` like ``rewards``.

    ``next_values`` are those of the observation that truly followed: 0 after a terminal state, the final
    observation's after a truncation. Where an episode ``ended``, only that value counts.
    """
    returns = torch.zeros_like(rewards)
    running = next_values[-1]
    for step in reversed(range(len(rewards))):
        later = torch.where(ended[step], next_values[step], torch.lerp(next_values[step], running, lam))
        running = rewards[step] + discount * later
        returns[step] = running
    return returns


if __name__ == "__main__":
    main(learn)

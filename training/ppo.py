"""Proximal policy optimisation (Schulman et al. 2017) on the market, in one file.

    python training/ppo.py --fold 0 --seed 1 --out build/try

After CleanRL's ppo_continuous_action.py, with five differences that matter here:

- time limits are truncations: the value of an episode's last observation is bootstrapped;
- one advantage per asset, from the market's difference rewards: the account's reward is nearly a sum over
  assets, and judging each asset's trade by its own part divides the variance by their number;
- one torch thread and explicit generators only: same commit, data and seed give the same bytes;
- with ``recurrent`` units, whole sequences stay together in a minibatch and are replayed from the state that
  their collection began with;
- with ``precision`` bfloat16 the products of the hidden layers are taken in it, weights and all else stay
  float32 (Micikevicius et al. 2018): validation and the published agent are float32 throughout.

Under torchrun, as CleanRL's ppo_atari_multigpu.py: each rank owns accounts and works on their rows of each
minibatch, sums of gradients go over all ranks. Batch and learning rate are those of one process.

Everything but the algorithm (data, checkpoints, validation, publishing, the command line) is in
src/sekisho/trainer.py and launch.py; `sekisho train` runs every fold and seed.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from sekisho.launch import main
from sekisho.market import Agent
from sekisho.params import PpoParams
from sekisho.trainer import Run, Task


def learn(task: Task, options: PpoParams, seed: int, run: Run) -> None:
    """Train ``task.agent`` on ``task.market``; see `sekisho.trainer`."""
    market, agent, ranks = task.market, task.agent, run.ranks
    device, accounts = agent.trade_unit.device, task.market.num_envs  # this rank's
    generator = torch.Generator(device).manual_seed(seed + 1_000_003)
    optimizer = torch.optim.Adam(agent.parameters(), lr=options.learning_rate, eps=1e-5, fused=True)
    loss_of = torch.compile(loss_function) if options.compile else loss_function
    trade, value = (partial(through, net, options) for net in (agent.actor, agent.critic))
    state = agent.first_state(accounts)
    observation = run.start(seed, optimizer=optimizer, generator=generator, state=state)

    shape = (options.steps, accounts, agent.assets)
    drawn = (options.steps, accounts * ranks.size, agent.assets)
    encoded = torch.zeros(*shape, agent.encode(observation[:1]).shape[-1], device=device)
    states = torch.zeros(*shape, agent.recurrent, device=device)  # the one that each step began with
    actions, rewards = (torch.zeros(shape, device=device) for _ in range(2))
    ended = torch.zeros(*shape[:2], 1, dtype=torch.bool, device=device)

    for _ in run.updates(options.steps * accounts * ranks.size):
        optimizer.param_groups[0]["lr"] = options.learning_rate * (1.0 - run.share)
        if run.opened is not None:
            observation = run.opened
            state.zero_()

        # Collect trajectories
        with torch.no_grad():
            noise = ranks.own(torch.randn(drawn, generator=generator, device=device), dim=1)
            std = agent.log_std.exp()
            lasts, turnover = [], []  # of the episodes that end here: their own last observation's value
            for step in range(options.steps):
                encoded[step], states[step] = agent.encode(observation), state
                inputs, following = agent.recall(encoded[step], states[step])
                actions[step] = trade(inputs) + std * noise[step]
                observation, _, terminated, truncated, infos = market.step(actions[step])
                rewards[step], ended[step, :, 0] = infos["asset_reward"], terminated | truncated
                turnover.append(infos["turnover"].mean())
                if "final_obs" in infos:
                    over = infos["_final_obs"]
                    inputs, _ = agent.recall(agent.encode(infos["final_obs"][over]), following[over])
                    lasts.append((step, over, value(inputs) * ~terminated[over, None]))
                    following = torch.where(over[:, None, None], 0.0, following)
                state.copy_(following)
            values = value(agent.recall(encoded, states)[0])
            beyond = value(agent.recall(agent.encode(observation), state)[0])
            next_values = torch.cat((values[1:], beyond[None]))
            for step, over, last in lasts:
                next_values[step, over] = last
            advantages = gae(rewards, values, next_values, ended, options.discount, options.gae_lambda)

        # Update: a row is what one account saw in one step, all its assets; with a state, in a whole sequence
        old_logprob = -0.5 * noise.square() - agent.log_std.detach()
        batch = (encoded, actions, old_logprob, advantages, advantages + values)
        if agent.recurrent:
            rows = [part.transpose(0, 1) for part in (*batch, states, ended)]
        else:
            rows = [part.flatten(0, 1) for part in batch]
        figures = torch.zeros(4, device=device)
        count = len(rows[0]) * ranks.size
        size = math.ceil(count / options.minibatches)
        for _ in range(options.epochs):
            for chosen in torch.randperm(count, generator=generator, device=device).split(size):
                own = ranks.own_rows(chosen, accounts)
                parts = [part.index_select(0, own) for part in rows]
                values_all = len(chosen) * parts[3].shape[1:].numel()  # of this minibatch, on all ranks
                parts[3] = ranks.standardised(parts[3], values_all)
                loss, *found = loss_of(agent, options, values_all, ranks.size, *parts)
                optimizer.zero_grad()
                loss.backward()
                ranks.sum_gradients(agent.parameters())
                torch.nn.utils.clip_grad_norm_(agent.parameters(), options.max_gradient_norm)
                optimizer.step()
                figures += torch.stack(found)
        policy_loss, value_loss, kl, clipped = ranks.sum(figures) / (options.epochs * options.minibatches)
        run.record(
            reward=ranks.mean(rewards),
            turnover=ranks.mean(torch.stack(turnover)),
            policy_loss=policy_loss,
            value_loss=value_loss,
            kl=kl,
            clipped=clipped,
            std=agent.log_std.exp().mean(),
        )


def loss_function(
    agent: Agent,
    options: PpoParams,
    count: int,
    ranks: int,
    encoded: torch.Tensor,
    action: torch.Tensor,
    old_logprob: torch.Tensor,
    gain: torch.Tensor,
    target: torch.Tensor,
    states: torch.Tensor | None = None,
    ended: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Clipped surrogate, squared value error and entropy bonus of one rank's part of a minibatch.

    Args:
        count: values in the whole minibatch: what the ranks find adds up to the mean over it.
        ranks: among how many the entropy bonus is divided.
        gain: advantages in standard deviations of the whole minibatch.

    Returns the loss, and for the record the policy's and the value's part, the KL divergence (k3 of
    Schulman 2020, *Approximating KL divergence*) and the share of clipped ratios, all detached.
    """
    inputs = encoded if states is None else replay(agent, encoded, states, ended)
    trade = through(agent.actor, options, inputs)
    logprob = -0.5 * ((action - trade) / agent.log_std.exp()).square() - agent.log_std
    log_ratio = logprob - old_logprob  # the constant of the normal density cancels
    ratio = log_ratio.exp()
    surrogate = torch.min(gain * ratio, gain * ratio.clamp(1 - options.clip, 1 + options.clip))
    policy = -surrogate.sum() / count
    error = 0.5 * ((through(agent.critic, options, inputs) - target).square().sum() / count)
    loss = policy + options.value_coefficient * error - options.entropy / ranks * agent.log_std.sum()
    with torch.no_grad():
        kl = ((ratio - 1) - log_ratio).sum() / count
        clipped = ((ratio - 1).abs() > options.clip).float().sum() / count
    return loss, policy.detach(), error.detach(), kl, clipped


def through(net: nn.Sequential, options: PpoParams, inputs: torch.Tensor) -> torch.Tensor:
    """Actor's trades or critic's values ``(…, A)``, the hidden layers in ``options.precision``.

    The last layer is exact: rounded to bfloat16 a value would be off by more than a bar's reward.
    """
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
        hidden = net[:-1](inputs)
    return net[-1](hidden.float()).squeeze(-1)  # type: ignore[no-any-return]


def replay(agent: Agent, encoded: torch.Tensor, states: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
    """Inputs of actor and critic ``(n, steps, A, …)`` of sequences that begin with their first state.

    The gradient flows through a sequence as far as the episode reaches; where one ``ended`` the next begins
    with an empty state.
    """
    state, inputs = states[:, 0], []
    for step in range(encoded.shape[1]):
        seen, state = agent.recall(encoded[:, step], state)
        inputs.append(seen)
        state = torch.where(ended[:, step, :, None], 0.0, state)
    return torch.stack(inputs, dim=1)


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    ended: torch.Tensor,
    discount: float,
    lam: float,
) -> torch.Tensor:
    """Generalised advantage estimates (Schulman et al. 2016), ``(steps, …)`` like ``rewards``.

    ``next_values`` are those of the observation that truly followed: 0 after a terminal state, the final
    observation's after a truncation. ``ended`` (true where an episode did) only stops the sum.
    """
    deltas = rewards + discount * next_values - values
    decay = discount * lam * ~ended
    running = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        running = deltas[step] + decay[step] * running
        deltas[step] = running
    return deltas


if __name__ == "__main__":
    main(learn)

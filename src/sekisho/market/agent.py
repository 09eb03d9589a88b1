"""The agent: one small network shared by all assets, its normalisation and its limits in one module."""

from __future__ import annotations

import math

import torch
from torch import nn

from sekisho.market.data import MarketData, Units
from sekisho.market.limits import apply_limits
from sekisho.params import MarketParams

SMALLEST_STD = 1e-6  # a feature that is constant in the training window is left out, not blown up
CLIP = 8.0  # normalised features, in standard deviations
FIRST_LOG_STD = -0.7  # of the exploration noise, in trade units: half of a typical good trade


class Agent(nn.Module):
    """Maps observations ``(N, A, F+1)`` to trades ``(N, A)`` in units and to values ``(N, A)`` per asset.

    Each asset is seen as its own normalised features and position, beside their means over all assets; the
    same weights serve every asset, so what is learned on one holds for all and the input does not grow with
    A. The sum of the values over the assets is the account's.

    With ``recurrent`` units it also keeps a state ``(N, A, recurrent)``, zero where an episode begins: a GRU
    (Cho et al. 2014) shared by the assets, beside what the asset shows at the moment. Without, the state is
    empty, ``(N, A, 0)``.

    Args:
        hidden: units in each of the two layers of actor and critic.
        limits: of the target weights; None where the market has none.
    """

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor
    trade_unit: torch.Tensor
    position_unit: torch.Tensor

    def __init__(
        self, features: int, assets: int, hidden: int, limits: MarketParams | None, recurrent: int = 0
    ) -> None:
        super().__init__()
        self.limits, self.assets, self.recurrent = limits, assets, recurrent
        inputs = 2 * (features + 1)
        self.memory = _GRU(inputs, recurrent) if recurrent else None
        self.actor = _mlp(inputs + recurrent, hidden, last=0.01)
        self.critic = _mlp(inputs + recurrent, hidden, last=1.0)
        self.log_std = nn.Parameter(torch.full((1,), FIRST_LOG_STD))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        self.register_buffer("trade_unit", torch.ones(assets))  # what one unit of action trades
        self.register_buffer("position_unit", torch.ones(assets))  # divides the position as an input

    def fit_scales(self, data: MarketData, start: int, stop: int, units: Units) -> None:
        """Freeze the normalisation to the bars ``[start, stop)`` (the training window) and the trade unit."""
        std, mean = torch.std_mean(data.features[start:stop].double(), dim=(0, 1))
        self.set_scales(mean, std, units)

    def set_scales(self, mean: torch.Tensor, std: torch.Tensor, units: Units) -> None:
        """Freeze the normalisation to the features' ``mean`` and ``std`` ``(F,)``, and the trade unit."""
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(std > SMALLEST_STD, 1.0 / std, 0.0))
        self.trade_unit.copy_(units.trade)
        # a symbol that did not move in the window has no unit: its position, always 0, is shown as it is
        self.position_unit.copy_(torch.where(units.trade > 0, units.trade, 1.0))

    def encode(self, observation: torch.Tensor) -> torch.Tensor:
        """What the asset shows ``(N, A, 2(F+1))``: own normalised features and position, then asset means."""
        features = (observation[..., :-1] - self.feature_mean) * self.feature_scale
        position = observation[..., -1:] / self.position_unit[:, None]
        own = torch.cat((features.clamp(-CLIP, CLIP), position), dim=2)
        return torch.cat((own, own.mean(dim=1, keepdim=True).expand_as(own)), dim=2)

    def first_state(self, count: int) -> torch.Tensor:
        """State ``(count, A, recurrent)`` at an episode's beginning."""
        return torch.zeros(count, self.assets, self.recurrent, device=self.trade_unit.device)

    def recall(self, encoded: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of actor and critic ``(…, A, 2(F+1) + recurrent)`` and the next state ``(…, A,
        recurrent)``."""
        if self.memory is None:
            return encoded, state
        state = self.memory(encoded, state)
        return torch.cat((encoded, state), dim=-1), state

    def trade(self, inputs: torch.Tensor) -> torch.Tensor:
        """Mean trade ``(…, A)`` in units."""
        return self.actor(inputs).squeeze(-1)  # type: ignore[no-any-return]

    def value(self, inputs: torch.Tensor) -> torch.Tensor:
        """Discounted sum of the difference rewards ``(…, A)`` per asset."""
        return self.critic(inputs).squeeze(-1)  # type: ignore[no-any-return]

    def act(self, observation: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The deterministic decision: target weights ``(N, A)`` within the limits, and the next state."""
        inputs, state = self.recall(self.encode(observation), state)
        current = observation[..., -1]
        target = current + self.trade(inputs) * self.trade_unit
        return (target if self.limits is None else apply_limits(target, current, self.limits)), state

    def forward(
        self, observation: torch.Tensor, state: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """What the ONNX graph computes: target weights, and with ``recurrent`` the next state beside them."""
        if state is None:
            state = self.first_state(len(observation))
        weights, state = self.act(observation, state)
        return (weights, state) if self.recurrent else weights


class _GRU(nn.Module):
    """One step of a gated recurrent unit; written out, since `nn.GRUCell` has no ONNX form."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.inward = _linear(inputs, 3 * units, 1.0)
        self.across = _linear(units, 3 * units, 1.0)

    def forward(self, inputs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        reset_in, update_in, new_in = self.inward(inputs).chunk(3, dim=-1)
        reset_by, update_by, new_by = self.across(state).chunk(3, dim=-1)
        update = torch.sigmoid(update_in + update_by)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_by) * new_by)
        return new + update * (state - new)


def _mlp(inputs: int, hidden: int, last: float) -> nn.Sequential:
    return nn.Sequential(
        _linear(inputs, hidden, math.sqrt(2)),
        nn.SiLU(),
        _linear(hidden, hidden, math.sqrt(2)),
        nn.SiLU(),
        _linear(hidden, 1, last),
    )


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

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

    Each asset is seen as its own normalised features and weight, beside their means over all assets; the same
    weights serve every asset, so what is learned on one holds for all and the input does not grow with A.
    The sum of the values over the assets is the account's.
    """

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor
    trade_unit: torch.Tensor

    def __init__(self, features: int, assets: int, hidden: int, params: MarketParams) -> None:
        super().__init__()
        self.params = params
        inputs = 2 * (features + 1)
        self.actor = _mlp(inputs, hidden, last=0.01)
        self.critic = _mlp(inputs, hidden, last=1.0)
        self.log_std = nn.Parameter(torch.full((1,), FIRST_LOG_STD))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        self.register_buffer("trade_unit", torch.ones(assets))

    def fit_scales(self, data: MarketData, start: int, stop: int, units: Units) -> None:
        """Freeze the normalisation to the bars ``[start, stop)`` (the training window) and the trade unit."""
        values = data.features[start:stop].double()
        std, mean = torch.std_mean(values, dim=(0, 1))
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(std > SMALLEST_STD, 1.0 / std, 0.0))
        self.trade_unit.copy_(units.trade)

    def encode(self, observation: torch.Tensor) -> torch.Tensor:
        """Network inputs ``(N, A, 2(F+1))``: own normalised features and weight, then their asset means."""
        features = (observation[..., :-1] - self.feature_mean) * self.feature_scale
        weight = observation[..., -1:] / self.trade_unit[:, None]
        own = torch.cat((features.clamp(-CLIP, CLIP), weight), dim=2)
        return torch.cat((own, own.mean(dim=1, keepdim=True).expand_as(own)), dim=2)

    def trade(self, encoded: torch.Tensor) -> torch.Tensor:
        """Mean trade ``(…, A)`` in units, from encoded observations."""
        return self.actor(encoded).squeeze(-1)  # type: ignore[no-any-return]

    def value(self, encoded: torch.Tensor) -> torch.Tensor:
        """Discounted sum of the difference rewards ``(…, A)`` per asset."""
        return self.critic(encoded).squeeze(-1)  # type: ignore[no-any-return]

    def act_target_weights(self, observation: torch.Tensor) -> torch.Tensor:
        """The deterministic decision: target weights ``(N, A)`` within the limits."""
        current = observation[..., -1]
        target = current + self.trade(self.encode(observation)) * self.trade_unit
        return apply_limits(target, current, self.params)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Same as `act_target_weights`: what the ONNX graph computes."""
        return self.act_target_weights(observation)


def _mlp(inputs: int, hidden: int, last: float) -> nn.Sequential:
    return nn.Sequential(
        _linear(inputs, hidden, math.sqrt(2)),
        nn.Tanh(),
        _linear(hidden, hidden, math.sqrt(2)),
        nn.Tanh(),
        _linear(hidden, 1, last),
    )


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer

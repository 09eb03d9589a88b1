from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.market import apply_limits
from sekisho.params import MarketParams


@given(seed=st.integers(0, 10_000), assets=st.integers(1, 12), size=st.sampled_from([0.01, 0.3, 5.0]))
@settings(max_examples=60, deadline=None)
def test_every_limit_holds_from_any_book_within_them(
    seed: int, assets: int, size: float, params: MarketParams
) -> None:
    generator = torch.Generator().manual_seed(seed)
    target, other = (size * torch.randn(32, assets, generator=generator).double() for _ in range(2))
    flat = torch.zeros_like(target)
    wide = params.model_copy(update={"max_turnover": 100.0})
    current = apply_limits(other, flat, wide)  # any book that the limits allow
    held = apply_limits(target, current, params)
    tiny = 1e-9
    assert (held.abs() <= params.max_asset + tiny).all()
    assert (held.abs().sum(1) <= params.max_gross + tiny).all()
    assert (held.sum(1).abs() <= params.max_net + tiny).all()
    assert ((held - current).abs().sum(1) <= params.max_turnover + tiny).all()
    torch.testing.assert_close(apply_limits(held, held, params), held)  # nothing is left to correct


def test_a_target_within_the_limits_is_untouched(params: MarketParams) -> None:
    current, target = torch.tensor([[0.1, -0.1, 0.0]]), torch.tensor([[0.3, -0.2, 0.1]])
    torch.testing.assert_close(apply_limits(target, current, params), target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ((0.9, 0.0, 0.0), (0.5, 0.0, 0.0)),  # asset: 0.5
        ((0.5, 0.5, -0.2), (0.4, 0.4, -0.2)),  # net 0.8: the longs come down to 0.6 + 0.2
        ((0.5, -0.5, 0.5), (1 / 3, -1 / 3, 1 / 3)),  # gross 1.5, net 0.5: all come down alike ... to 1.0
    ],
)
def test_each_limit_by_hand(
    target: tuple[float, ...], expected: tuple[float, ...], params: MarketParams
) -> None:
    wide = params.model_copy(update={"max_turnover": 100.0})
    found = apply_limits(torch.tensor([target]), torch.zeros(1, 3), wide)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_turnover_shortens_the_move_in_its_direction(params: MarketParams) -> None:
    current, target = torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([[-0.3, 0.0, 0.3]])
    found = apply_limits(target, current, params)
    torch.testing.assert_close(found, current + (target - current) * 0.8 / 1.1)


def test_gradients_flow_through_the_limits(params: MarketParams) -> None:
    target = torch.tensor([[0.31, -0.22, 0.13], [0.45, 0.4, -0.05]], dtype=torch.float64, requires_grad=True)
    current = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: apply_limits(t, current, params), (target,))

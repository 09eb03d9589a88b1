"""Costs: the square-root law, its memory, and that impact is never an income."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sekisho.market.costs import holding_cost, trading_cost

SHARES = st.floats(-0.5, 0.5)
RATE, SQRT, LINEAR = 1e-3, 2e-3, 0.05


def cost(
    share: float, memory: float | None, rate: float = 0.0, sqrt: float = SQRT, linear: float = 0.0
) -> float:
    tensors = [
        None if v is None else torch.tensor(v, dtype=torch.float64) for v in (share, memory, rate, sqrt)
    ]
    return float(trading_cost(*tensors, linear))  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", [None, 0.0])
def test_each_part_by_hand(memory: float | None) -> None:
    """4 % of a day's volume."""
    assert cost(0.04, memory, rate=0.001, sqrt=0.0) == pytest.approx(0.04 * 0.001)
    assert cost(-0.04, memory, sqrt=0.002) == pytest.approx(0.04 * 0.002 * 0.2)
    assert cost(0.04, memory, sqrt=0.0, linear=0.05) == pytest.approx(0.05 * 0.04**2)
    assert cost(0.0, memory, rate=0.001, linear=0.05) == 0.0


@given(share=SHARES, memory=SHARES)
def test_a_trade_never_costs_less_than_nothing(share: float, memory: float) -> None:
    assert cost(share, memory, RATE, SQRT, LINEAR) >= 0.0
    assert cost(share, memory, 0.0, SQRT, LINEAR) >= 0.0


@given(first=st.floats(0.0, 0.4), second=st.floats(0.0, 0.4), decay=st.floats(0.0, 1.0))
def test_slices_cost_what_one_piece_does_less_what_has_faded(
    first: float, second: float, decay: float
) -> None:
    whole = cost(first + second, 0.0, RATE, SQRT, LINEAR)
    unfaded = cost(first, 0.0, RATE, SQRT, LINEAR) + cost(second, first, RATE, SQRT, LINEAR)
    assert unfaded == pytest.approx(whole, abs=1e-12)
    sliced = cost(first, 0.0, RATE, SQRT, LINEAR) + cost(second, decay * first, RATE, SQRT, LINEAR)
    assert sliced <= whole + 1e-12


@given(share=st.floats(0.0, 0.5), memory=st.floats(0.0, 0.5))
def test_a_trade_against_the_memory_costs_as_much_as_without_one(share: float, memory: float) -> None:
    """The displacement that an agent has caused is not its profit."""
    assert cost(-share, memory, RATE, SQRT, LINEAR) == pytest.approx(cost(-share, 0.0, RATE, SQRT, LINEAR))


@given(share=st.floats(1e-6, 0.5), memory=st.floats(0.0, 0.5))
def test_what_is_remembered_makes_more_of_the_same_dearer(share: float, memory: float) -> None:
    assert cost(share, memory) >= cost(share, 0.0) * (1 - 1e-9)


def test_the_derivative_at_no_trade_is_finite() -> None:
    share = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for memory in (None, torch.tensor([0.0, 0.1], dtype=torch.float64)):
        rate = torch.full((2,), RATE, dtype=torch.float64)
        (grad,) = torch.autograd.grad(trading_cost(share, memory, rate, rate, LINEAR).sum(), share)
        assert grad.isfinite().all()


def held(borrow: float, funding: float, multiple: float) -> list[float]:
    """Cost of a long and of a short of 100 over one bar."""
    value = torch.tensor([100.0, -100.0], dtype=torch.float64)
    rates = (torch.tensor(rate, dtype=torch.float64) for rate in (borrow, funding, multiple))
    return [float(cost) for cost in holding_cost(value, *rates)]


def test_shorts_pay_borrow_and_longs_pay_funding() -> None:
    assert held(0.01, 0.0, 1.0) == pytest.approx([0.0, 1.0])
    assert held(0.0, 0.002, 1.0) == pytest.approx([0.2, -0.2])


@pytest.mark.parametrize("multiple", [0.0, 1.0, 2.0])
def test_dearer_costs_raise_what_is_paid_and_no_income(multiple: float) -> None:
    assert held(0.01, 0.002, multiple) == pytest.approx([0.2 * multiple, 1.0 * multiple - 0.2])
    assert held(0.0, -0.002, multiple) == pytest.approx([-0.2, 0.2 * multiple])

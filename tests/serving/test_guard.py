"""What the guard lets out: always finite, always inside the limits, and why if not the agent's."""

from __future__ import annotations

import datetime as dt
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sekisho.params import ServingParams
from sekisho.serving.core import Policy
from sekisho.serving.guard import TOLERANCE, Limits, Reason

SHAPE = (2, 3, 3)  # rows, assets, features and the current weight
ANY = st.floats(width=32, allow_nan=True, allow_infinity=True)
NUMBERS = st.one_of(ANY, st.floats(-2, 2, width=32))
HELD = st.floats(-0.375, 0.375, width=32)


class AnyModel(Policy):
    """The real policy around a model that says anything."""

    def __init__(self, release: object, params: ServingParams) -> None:
        super().__init__(release, params)  # type: ignore[arg-type]
        self.says: np.ndarray | None = None

    def run(self, observation: np.ndarray, state: np.ndarray | None = None) -> tuple[np.ndarray, None]:
        if getattr(self, "says", None) is None:
            return super().run(observation)[0], None
        return self.says, None


@pytest.fixture(scope="module", params=["flat", "hold"])
def any_model(
    request: pytest.FixtureRequest,
    lab: ModuleType,
    params: ServingParams,
    tmp_path_factory: pytest.TempPathFactory,
) -> AnyModel:
    release = lab.write_release(tmp_path_factory.mktemp("any"))
    return AnyModel(release, params.model_copy(update={"safe_action": request.param}))


def inside(limits: Limits, weights: np.ndarray) -> bool:
    slack = 1 + TOLERANCE
    size = np.abs(weights.astype(np.float64))
    net = np.abs(weights.astype(np.float64).sum(axis=1))
    return bool(
        np.isfinite(weights).all()
        and (size <= limits.max_asset * slack).all()
        and (size.sum(axis=1) <= limits.max_gross * slack).all()
        and (net <= limits.max_net * slack).all()
    )


@settings(max_examples=300, deadline=None)
@given(
    observation=arrays(np.float32, SHAPE, elements=NUMBERS), says=arrays(np.float32, (2, 3), elements=NUMBERS)
)
def test_no_weight_that_is_not_finite_or_breaks_a_limit_ever_leaves(
    any_model: AnyModel, lab: ModuleType, observation: np.ndarray, says: np.ndarray
) -> None:
    any_model.says = says
    decision = any_model.decide(observation, lab.TS_CLOSE, lab.NOW)
    assert inside(any_model.guard.limits, decision.target_weights)
    assert len(decision.verdicts) == 2
    for row, verdict in enumerate(decision.verdicts):
        if verdict is Reason.OK:
            assert np.allclose(decision.target_weights[row], says[row], rtol=0, atol=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    target=arrays(np.float32, (4, 3), elements=st.floats(-9, 9, width=32)),
    held=arrays(np.float32, (4, 3), elements=HELD),
)
def test_clipped_weights_keep_the_turnover_limit_from_any_book_inside_the_limits(
    lab: ModuleType, target: np.ndarray, held: np.ndarray
) -> None:
    limits = Limits(**lab.LIMITS)
    current = limits.project(held.astype(np.float64)).astype(np.float32)
    clipped = limits.clip(target, current)
    assert inside(limits, clipped)
    assert (np.abs(clipped - current).sum(axis=1) <= limits.max_turnover * (1 + TOLERANCE)).all()


@settings(max_examples=100, deadline=None)
@given(arrays(np.float64, (4, 3), elements=st.floats(-9, 9)))
def test_projection_leaves_what_is_inside_alone_and_never_turns_a_position(weights: np.ndarray) -> None:
    limits = Limits(max_gross=1.0, max_net=0.6, max_asset=0.4, max_turnover=0.5)
    once = limits.project(weights)
    np.testing.assert_allclose(limits.project(once), once, atol=1e-12)
    assert (once * weights >= 0).all()


def test_an_accepted_row_is_the_models_bits(policy: Policy, lab: ModuleType) -> None:
    rows = lab.observations(64)
    decision = policy.decide(rows, lab.TS_CLOSE, lab.NOW)
    assert decision.verdict == "ok"
    assert decision.target_weights.tobytes() == policy.run(rows)[0].tobytes()


def test_each_row_has_its_own_verdict_and_a_bad_one_spoils_no_other(policy: Policy, lab: ModuleType) -> None:
    rows = lab.observations(4)
    rows[1, 0, 0], rows[2, 2, 1] = np.nan, 9.0
    decision = policy.decide(rows, lab.TS_CLOSE, lab.NOW)
    assert decision.verdicts == (Reason.OK, Reason.NON_FINITE, Reason.OUT_OF_RANGE, Reason.OK)
    assert decision.verdict == "ok,non-finite,out-of-range,ok"
    np.testing.assert_array_equal(decision.target_weights[[1, 2]], 0.0)
    np.testing.assert_array_equal(decision.target_weights[[0, 3]], policy.run(rows)[0][[0, 3]])


@pytest.mark.parametrize(
    ("lag", "require_open", "reason"),
    [
        (0, True, Reason.OK),
        (600, False, Reason.OK),
        (600.001, False, Reason.STALE),
        (-5, False, Reason.OK),
        (-5.001, False, Reason.FROM_FUTURE),
        (dt.timedelta(hours=12).total_seconds(), False, Reason.STALE),
    ],
)
def test_stale_and_future_observations_are_not_acted_on(
    policy: Policy, lab: ModuleType, lag: float, require_open: bool, reason: Reason
) -> None:
    now = lab.TS_CLOSE + dt.timedelta(seconds=lag)
    decision = policy.decide(lab.observations(2), lab.TS_CLOSE, now, require_open=require_open)
    assert decision.verdicts == (reason, reason)


@pytest.mark.parametrize(("minute", "reason"), [("02:29", Reason.OK), ("02:31", Reason.MARKET_CLOSED)])
def test_the_lunch_break_of_tokyo_is_closed_for_those_who_ask(
    policy: Policy, lab: ModuleType, minute: str, reason: Reason
) -> None:
    now = dt.datetime.fromisoformat(f"2025-06-03T{minute}:00+00:00")
    ts_close = now - dt.timedelta(minutes=1)
    assert policy.decide(lab.observations(1), ts_close, now, require_open=True).verdict == reason
    assert policy.decide(lab.observations(1), ts_close, now).verdict == "ok"


def test_hold_keeps_the_current_weights(any_model: AnyModel, lab: ModuleType) -> None:
    any_model.says = None
    rows = lab.observations(1)
    rows[0, :, -1] = [0.1, -0.2, 0.05]
    rows[0, 0, 0] = np.inf
    held = [0.0, 0.0, 0.0] if any_model.params.safe_action == "flat" else [0.1, -0.2, 0.05]
    decision = any_model.decide(rows, lab.TS_CLOSE, lab.NOW)
    np.testing.assert_allclose(decision.target_weights[0], held, atol=1e-7)


def test_a_model_that_fails_or_is_late_is_answered_safely(
    lab: ModuleType, params: ServingParams, any_model: AnyModel
) -> None:
    def fails(observation: np.ndarray) -> np.ndarray:
        raise RuntimeError("onnxruntime gave up")

    whole = any_model.run
    any_model.says = None
    try:
        any_model.run = fails  # type: ignore[method-assign]
        assert any_model.decide(lab.observations(1), lab.TS_CLOSE, lab.NOW).verdict == Reason.MODEL_FAILED
    finally:
        any_model.run = whole  # type: ignore[method-assign]
    patient, any_model.params = any_model.params, any_model.params.model_copy(update={"deadline": 1e-9})
    try:
        assert any_model.decide(lab.observations(1), lab.TS_CLOSE, lab.NOW).verdict == Reason.DEADLINE
    finally:
        any_model.params = patient


def test_weights_that_the_guard_moved_are_not_called_the_agents_own(policy: Policy, lab: ModuleType) -> None:
    limits = policy.guard.limits
    rows = lab.observations(1)
    for beyond in (3e-5, 9e-6):
        weights = np.array([[limits.max_asset + beyond, 0.0, 0.0]], dtype=np.float32)
        mended, verdicts = policy._mend(rows, np.array([True]), weights)
        moved = float(np.abs(mended - weights).max())
        assert moved > 1e-6
        assert verdicts == (Reason.CLIPPED,)


def test_a_clock_beyond_the_calendar_is_a_closed_market(policy: Policy) -> None:
    moment = dt.datetime(2150, 1, 5, 1, tzinfo=dt.UTC)
    assert policy.guard.check_time(moment, moment, True) is Reason.MARKET_CLOSED

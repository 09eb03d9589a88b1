"""The one reader of ``params.yaml``: frozen models, no defaults, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sekisho.errors import ParamsError

MODEL = r"[a-z][a-z0-9-]{0,62}"  # a model's name
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataParams(Section):
    calendar: str
    bar: Literal["1min", "5min", "15min", "1d"]
    max_quarantine_share: Share
    max_gap_bars: NonNegativeInt
    max_missing_sessions: NonNegativeInt
    max_delay: NonNegative


class FeatureParams(Section):
    return_windows: tuple[Count, ...] = Field(min_length=1)
    vol_window: Count
    short_vol_window: Count
    volume_window: Count
    clip: Positive


class MarketParams(Section):
    capital: Positive
    commission: NonNegative
    impact_linear: NonNegative
    impact_sqrt: NonNegative
    impact_decay: Annotated[float, Field(ge=0, lt=1)]
    spread_multiple: NonNegative
    lot_size: NonNegativeInt
    tick_table: Literal["none", "topix500", "other"]
    price_limits: Literal["none", "tokyo"]
    max_participation: Share
    latency_bars: NonNegativeInt
    delisting_sessions: Count
    delisting_haircut: Annotated[float, Field(ge=0, lt=1)]
    max_gross: Positive
    max_net: Positive
    max_asset: Positive
    max_turnover: Positive
    vol_window: Count
    episode_bars: Count
    stratify: bool
    risk_aversion: NonNegative


class SplitParams(Section):
    folds: Count
    test_sessions: Count
    validation_sessions: Count
    purge_sessions: NonNegativeInt
    embargo_sessions: NonNegativeInt


class TrainParams(Section):
    trainer: Literal["ppo", "apg", "td3"]
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    processes: Count
    ranks: Count
    device: Literal["auto", "cpu", "cuda"]
    evaluate_every: Count
    patience: NonNegativeInt
    checkpoint_every: Count
    resident_sessions: NonNegativeInt
    block_updates: Count

    @model_validator(mode="after")
    def _names_each_run_once(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must differ: two runs of one seed are the same run")
        return self


class PpoParams(Section):
    samples: Count
    environments: Count
    steps: Count
    epochs: Count
    minibatches: Count
    learning_rate: Positive
    discount: Share
    gae_lambda: Share
    clip: Positive
    entropy: NonNegative
    value_coefficient: NonNegative
    max_gradient_norm: Positive
    hidden: Count
    recurrent: NonNegativeInt
    precision: Literal["float32", "bfloat16"]
    compile: bool


class ApgParams(Section):
    samples: Count
    environments: Count
    steps: Count
    minibatches: Count
    learning_rate: Positive
    critic_learning_rate: Positive
    discount: Share
    td_lambda: Share
    target_rate: Share
    max_gradient_norm: Positive
    hidden: Count


class Td3Params(Section):
    samples: Count
    environments: Count
    steps: Count
    buffer: Count
    first: Count
    batch: Count
    updates: Count
    actor_every: Count
    learning_rate: Positive
    discount: Share
    exploration: NonNegative
    target_noise: NonNegative
    target_clip: NonNegative
    target_rate: Share
    hidden: Count


class BacktestParams(Section):
    bootstrap_samples: Annotated[int, Field(ge=500)]  # fewer, and the bounds are noise
    bootstrap_block: Count
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    cost_multiples: tuple[NonNegative, ...] = Field(min_length=1)
    seed: NonNegativeInt
    pbo_blocks: Annotated[int, Field(ge=2, multiple_of=2)]
    momentum_sessions: Count
    covariance_sessions: Count
    rebalance_sessions: Count
    champion: Annotated[str, Field(pattern=r"^[a-z][a-z-]{0,62}$")]
    capital_multiples: tuple[Annotated[float, Field(ge=1)], ...] = Field(min_length=2)
    capacity_share: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _has_what_the_gate_judges(self) -> Self:
        if not {1.0, 2.0} <= set(self.cost_multiples):
            raise ValueError("cost_multiples must hold 1.0 and 2.0: the gate judges at both")
        if self.capital_multiples[0] != 1.0 or list(self.capital_multiples) != sorted(
            set(self.capital_multiples)
        ):
            raise ValueError("capital_multiples must begin at 1.0 and ascend")
        return self


class GateParams(Section):
    min_sharpe_lower: float
    min_sharpe_over_champion: float
    min_deflated_sharpe: Share
    max_pbo: Share
    max_drawdown: Share
    max_turnover: Positive
    min_capacity: NonNegative


class ReleaseParams(Section):
    model: Annotated[str, Field(pattern=f"^{MODEL}$")]
    golden_rows: Count
    deployment_days: Annotated[int, Field(ge=1, le=366)]
    revocation_days: Annotated[int, Field(ge=1, le=31)]


class ServingParams(Section):
    safe_action: Literal["flat", "hold"]
    max_staleness: Positive
    max_clock_skew: NonNegative
    range_multiple: NonNegative
    deadline: Positive
    breaker_failures: Count
    breaker_pause: Positive
    switch_interval: Positive
    drain: NonNegative
    request_seconds: Positive
    max_connections: Count
    connection_age: Positive
    freeze_before: NonNegativeInt
    freeze_after: NonNegativeInt
    max_request_bytes: Count
    log_capacity: Count
    log_batch: Count
    log_interval: Positive


class MonitoringParams(Section):
    alarm_level: Positive
    cusum_level: Positive
    inflation: Annotated[float, Field(ge=1)]
    clip: Positive
    feature_clip: Positive
    strengths: tuple[Positive, ...] = Field(min_length=1)
    max_autocorrelation: Annotated[float, Field(ge=0, lt=1)]
    cusum_slack: NonNegative
    calibration_samples: Annotated[int, Field(ge=20)]
    calibration_block: Count
    calibration_seed: NonNegativeInt
    min_reference_sessions: Count
    min_rows: Count
    max_safe_share: Share
    parity_tolerance: Annotated[float, Field(ge=1e-5)]  # what serving allows other processors
    max_skew_share: Share
    performance_confidence: Annotated[float, Field(gt=0.5, lt=1)]
    max_live_drawdown: Annotated[float, Field(gt=0, lt=1)]
    max_session_loss: Annotated[float, Field(gt=0, lt=1)]
    max_model_age: Count
    cooldown_sessions: NonNegativeInt


class ForgeParams(Section):
    bot: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,38}(\[bot\])?$")]
    trading_desk: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    emergency_minutes: Positive
    report_limit: Annotated[int, Field(ge=2000, le=65536)]
    timeout: Positive
    retries: NonNegativeInt
    backoff: NonNegative
    longest_wait: NonNegative
    reruns: NonNegativeInt
    rerun_wait: NonNegative


class Params(Section):
    """All sections of ``params.yaml``, in the order of the pipeline."""

    data: DataParams
    features: FeatureParams
    market: MarketParams
    split: SplitParams
    train: TrainParams
    ppo: PpoParams
    apg: ApgParams
    td3: Td3Params
    backtest: BacktestParams
    gate: GateParams
    release: ReleaseParams
    serving: ServingParams
    monitoring: MonitoringParams
    forge: ForgeParams


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check the parameters.

    Raises:
        ParamsError: no such file, not YAML, an unknown or missing key, a value out of range; names the key.
    """
    try:
        raw = parse_yaml(path.read_bytes())
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such file", remedy="run from the repository's root") from error
    except YAMLError as error:
        raise ParamsError(
            f"{path}: not valid YAML: {_yaml_words(error)}", remedy="mend the line named above"
        ) from error
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(map(str, e['loc'])) or 'top level'}: {_explain(e)}" for e in error.errors()
        ]
        raise ParamsError(
            "\n".join(lines),
            remedy=f"mend {path}; the keys, units and ranges are in its comments and in params.py",
        ) from error


def parse_yaml(raw: bytes) -> Any:
    """YAML 1.2, as DVC reads and writes it; PyYAML's 1.1 would take ``2e-05`` for a string.

    Raises:
        ruamel.yaml.YAMLError: not YAML, not UTF-8, or a key given twice.
    """
    return YAML(typ="safe", pure=True).load(raw)


def lookup(values: Any, key: str) -> Any:
    """The value under a dotted key of a parsed file, as DVC names parameters; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _yaml_words(error: YAMLError) -> str:
    """Line and problem alone: the parser's text also advises how to have it accept a key given twice."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)


def _explain(error: object) -> str:
    assert isinstance(error, dict)
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "missing key"
    return f"{error['msg']}, found {error['input']!r}"

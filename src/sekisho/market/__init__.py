"""The market: bars as tensors, costs, limits, the vectorised environment, the agent and its ONNX form."""

from sekisho.market.agent import Agent
from sekisho.market.data import MarketData, Units, derive_units
from sekisho.market.env import TradingMarket
from sekisho.market.limits import apply_limits
from sekisho.market.onnx import export_onnx
from sekisho.market.regimes import REGIMES, volatility_regimes

__all__ = [
    "REGIMES",
    "Agent",
    "MarketData",
    "TradingMarket",
    "Units",
    "apply_limits",
    "derive_units",
    "export_onnx",
    "volatility_regimes",
]

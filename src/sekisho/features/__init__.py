"""One definition of the features for training and for serving: pure functions of a trailing window."""

from sekisho.features.compute import compute_features, feature_names, lookback
from sekisho.features.lookahead import Foreign, Leak, check_features, check_table, find_leaks, write_finding
from sekisho.features.table import build_features, load_features

__all__ = [
    "Foreign",
    "Leak",
    "build_features",
    "check_features",
    "check_table",
    "compute_features",
    "feature_names",
    "find_leaks",
    "load_features",
    "lookback",
    "write_finding",
]

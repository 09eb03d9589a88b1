"""One definition of the features for training and for serving: pure functions of a trailing window.

The table is made in `sekisho.features.build`, which only the stage that makes it needs.
"""

from sekisho.features.compute import compute_features, feature_names, lookback
from sekisho.features.lookahead import Foreign, Leak, check_features, find_leaks, write_finding
from sekisho.features.table import load_features

__all__ = [
    "Foreign",
    "Leak",
    "check_features",
    "compute_features",
    "feature_names",
    "find_leaks",
    "load_features",
    "lookback",
    "write_finding",
]

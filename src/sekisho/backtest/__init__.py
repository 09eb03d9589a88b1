"""Walk-forward splits, simulation at full cost, statistics, gate and report."""

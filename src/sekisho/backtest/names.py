"""What the strategies are called in tables, files and rules."""

SEED = "agent-seed-"  # and the number of each seed but the first, whose agent is "agent"
BASELINES = ("cash", "buy-and-hold", "momentum", "minimum-variance")
CHAMPION = "champion"
MODELLED = 1.0  # the cost and capital multiple of figures that name none

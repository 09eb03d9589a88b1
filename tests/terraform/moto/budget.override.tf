# moto 5.2 has no ListTagsForResource of budgets: one can be made, but not read.
resource "aws_budgets_budget" "this" {
  for_each = {}
}

# moto 5.2 has no CreateAnomalyMonitor.
resource "aws_ce_anomaly_monitor" "services" {
  count = 0
}

# moto 5.2 has no CreateAnomalySubscription; its monitor is absent too.
resource "aws_ce_anomaly_subscription" "services" {
  count            = 0
  monitor_arn_list = []
}

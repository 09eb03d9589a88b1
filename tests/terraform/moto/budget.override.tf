# moto 5.2 answers 500 to DescribeSubscribersForNotification: a budget's notices can be made but not read.
resource "aws_budgets_budget" "this" {
  dynamic "notification" {
    for_each = []
    content {
      comparison_operator = "GREATER_THAN"
      notification_type   = "ACTUAL"
      threshold           = 100
      threshold_type      = "PERCENTAGE"
    }
  }
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

# moto 5.2 has no UpdateCostAllocationTagsStatus.
resource "aws_ce_cost_allocation_tag" "this" {
  for_each = toset([])
}

# Told before the money is spent: forecasts at 50, 80 and 100 %, the actual sum at 100 %, and anomalies.
locals {
  budgets = {
    total   = { unit = "MONTHLY", usd = var.monthly_jpy / var.jpy_per_usd, filter = [] }
    storage = { unit = "ANNUALLY", usd = var.storage_yearly_jpy / var.jpy_per_usd, filter = ["Amazon Simple Storage Service"] }
  }
  notices = [
    { kind = "FORECASTED", percent = 50 },
    { kind = "FORECASTED", percent = 80 },
    { kind = "FORECASTED", percent = 100 },
    { kind = "ACTUAL", percent = 100 },
  ]
}

resource "aws_budgets_budget" "this" {
  for_each     = local.budgets
  name         = "${var.name}-${each.key}"
  budget_type  = "COST"
  limit_amount = format("%.2f", each.value.usd)
  limit_unit   = "USD"
  time_unit    = each.value.unit

  dynamic "cost_filter" {
    for_each = length(each.value.filter) > 0 ? [each.value.filter] : []
    content {
      name   = "Service"
      values = cost_filter.value
    }
  }
  dynamic "notification" {
    for_each = local.notices
    content {
      comparison_operator       = "GREATER_THAN"
      notification_type         = notification.value.kind
      threshold                 = notification.value.percent
      threshold_type            = "PERCENTAGE"
      subscriber_sns_topic_arns = [var.topic_arn]
    }
  }
}

resource "aws_ce_anomaly_monitor" "services" {
  count             = var.anomaly_monitor_arn == null ? 1 : 0 # an account has one of this kind at most
  name              = "${var.name}-services"
  monitor_type      = "DIMENSIONAL"
  monitor_dimension = "SERVICE"
}

resource "aws_ce_anomaly_subscription" "services" {
  name             = "${var.name}-services"
  frequency        = "IMMEDIATE"
  monitor_arn_list = concat(aws_ce_anomaly_monitor.services[*].arn, [for arn in [var.anomaly_monitor_arn] : arn if arn != null])
  subscriber {
    type    = "SNS"
    address = var.topic_arn
  }
  threshold_expression {
    dimension {
      key           = "ANOMALY_TOTAL_IMPACT_ABSOLUTE"
      match_options = ["GREATER_THAN_OR_EQUAL"]
      values        = [format("%.0f", var.monthly_jpy / var.jpy_per_usd * 0.01)] # a hundredth of a month
    }
  }
}

resource "aws_ce_cost_allocation_tag" "this" {
  for_each = var.cost_tags # known to AWS a day after the first bill, and in the account that pays only
  tag_key  = each.key
  status   = "Active"
}

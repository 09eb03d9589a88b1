provider "aws" {
  region                      = "ap-northeast-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  name               = "sekisho-test"
  monthly_jpy        = 12000000
  storage_yearly_jpy = 24000000
  jpy_per_usd        = 150
  topic_arn          = "arn:aws:sns:ap-northeast-1:123456789012:t"
}

run "yen_become_dollars" {
  command = plan
  assert {
    condition     = aws_budgets_budget.this["total"].limit_amount == "80000.00" && aws_budgets_budget.this["storage"].limit_amount == "160000.00"
    error_message = "12 and 24 million yen at 150"
  }
}

run "a_budget_of_nothing_is_refused" {
  command = plan
  variables {
    monthly_jpy = 0
  }
  expect_failures = [var.monthly_jpy]
}

run "a_budget_over_the_platforms_is_refused" {
  command = plan
  variables {
    monthly_jpy = 12000001
  }
  expect_failures = [var.monthly_jpy]
}

run "an_empty_account_gets_no_cost_tags_and_a_monitor" {
  command = plan
  assert {
    condition     = length(aws_ce_cost_allocation_tag.this) == 0 && length(aws_ce_anomaly_monitor.services) == 1
    error_message = "AWS refuses to activate a tag that no bill has carried yet"
  }
}

run "an_account_with_a_monitor_gets_no_second_one" {
  command = plan
  variables {
    cost_tags           = ["CostCenter", "Environment"]
    anomaly_monitor_arn = "arn:aws:ce::123456789012:anomalymonitor/1"
  }
  assert {
    condition     = length(aws_ce_cost_allocation_tag.this) == 2 && length(aws_ce_anomaly_monitor.services) == 0
    error_message = "one monitor of services is all that an account may have"
  }
  assert {
    condition     = one(aws_ce_anomaly_subscription.services.monitor_arn_list) == "arn:aws:ce::123456789012:anomalymonitor/1"
    error_message = "the subscription is to the monitor that is there"
  }
}

run "tags_that_name_nobody_are_refused" {
  command = plan
  variables {
    cost_tags = ["Project"]
  }
  expect_failures = [var.cost_tags]
}

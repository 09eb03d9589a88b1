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
  tags               = ["CostCenter", "Environment"]
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

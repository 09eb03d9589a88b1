provider "aws" {
  region                      = "ap-northeast-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  name           = "sekisho-test-audit"
  profile        = "audit"
  account_id     = "123456789012"
  apply_role_arn = "arn:aws:iam::123456789012:role/sekisho-test-apply"
}

run "audit_is_locked_in_compliance_mode" {
  command = plan
  assert {
    condition     = aws_s3_bucket_object_lock_configuration.this[0].rule[0].default_retention[0].mode == "COMPLIANCE"
    error_message = "governance mode can be bypassed"
  }
  assert {
    condition     = contains([for s in jsondecode(aws_s3_bucket_policy.this.policy).Statement : s.Sid], "NobodyShortensOrErases")
    error_message = "the bucket's policy must deny erasure"
  }
  assert {
    condition     = !module.ageing.instant
    error_message = "the audit trail goes to Deep Archive after a year"
  }
}

run "predictions_are_not_locked" {
  command = plan
  variables {
    profile = "predictions"
  }
  assert {
    condition     = length(aws_s3_bucket_object_lock_configuration.this) == 0
    error_message = "predictions age, they are not locked"
  }
  assert {
    condition     = module.ageing.instant
    error_message = "the drift check reads the whole log: nothing of it may need hours to answer"
  }
}

run "retention_under_the_legal_minimum_is_refused" {
  command = plan
  variables {
    retention_days = 2556
  }
  expect_failures = [var.retention_days]
}

run "an_unknown_profile_is_refused" {
  command = plan
  variables {
    profile = "scratch"
  }
  expect_failures = [var.profile]
}

provider "aws" {
  region                      = "ap-northeast-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  name              = "sekisho-test"
  repository        = "sekisho/sekisho"
  oidc_provider_arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
  boundary_arn      = "arn:aws:iam::123456789012:policy/sekisho-test-boundary"
  auditor_arn       = "arn:aws:iam::123456789012:role/auditors"
  documents         = { plan = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  roles             = { plan = { purpose = "Plans", github = ["pull_request:workflow:terraform"], human = false } }
}

run "audience_and_subject_are_matched_exactly" {
  command = plan
  assert {
    condition = jsondecode(aws_iam_role.this["plan"].assume_role_policy).Statement[0].Condition == {
      StringEquals = { "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com" }
      StringLike   = { "token.actions.githubusercontent.com:sub" = ["repo:sekisho/sekisho:pull_request:job_workflow_ref:sekisho/sekisho/.github/workflows/terraform.yml@refs/pull/*/merge"] }
    }
    error_message = "exact aud, and sub but for the pull request's number"
  }
}

run "a_wildcard_subject_is_refused" {
  command = plan
  variables {
    roles = { plan = { purpose = "Plans", github = ["ref:refs/heads/*:workflow:terraform"], human = false } }
  }
  expect_failures = [var.roles]
}

run "a_wildcard_repository_is_refused" {
  command = plan
  variables {
    repository = "sekisho/*"
  }
  expect_failures = [var.repository]
}

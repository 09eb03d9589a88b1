provider "aws" {
  region                      = "ap-northeast-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  name            = "sekisho-test"
  region          = "ap-northeast-1"
  cidr            = "10.40.0.0/16"
  zones           = ["ap-northeast-1a", "ap-northeast-1c", "ap-northeast-1d"]
  nat_gateways    = 3
  flow_log_bucket = "sekisho-test-logs"
}

run "each_zone_has_its_own_way_out" {
  command = plan
  assert {
    condition     = length(aws_nat_gateway.this) == 3 && length(aws_route.out) == 3
    error_message = "three gateways, three routes"
  }
  assert {
    condition     = length(distinct(concat([for s in aws_subnet.private : s.cidr_block], [for s in aws_subnet.nat : s.cidr_block]))) == 6
    error_message = "subnets must not overlap"
  }
}

run "one_gateway_serves_three_zones" {
  command = plan
  variables {
    nat_gateways = 1
  }
  assert {
    condition     = length(aws_nat_gateway.this) == 1 && length(aws_route.out) == 3
    error_message = "one gateway, three routes"
  }
}

run "a_bad_cidr_is_refused" {
  command = plan
  variables {
    cidr = "10.40.0.0/33"
  }
  expect_failures = [var.cidr]
}

run "a_public_cidr_is_refused" {
  command = plan
  variables {
    cidr = "8.8.0.0/16"
  }
  expect_failures = [var.cidr]
}

run "two_gateways_are_refused" {
  command = plan
  variables {
    nat_gateways = 2
  }
  expect_failures = [var.nat_gateways]
}

terraform {
  required_version = ">= 1.10"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  backend "s3" {
    bucket       = "sekisho-staging-state"
    key          = "platform.tfstate"
    region       = "ap-northeast-1"
    use_lockfile = true # no `encrypt`: it asks for AES256, and the bucket takes its own key only
  }
}

locals {
  environment = "staging"
  name        = "sekisho-staging"
  tags = {
    Project     = "sekisho"
    Environment = local.environment
    Stack       = "platform"
    CostCenter  = "drl-trading"
    ManagedBy   = "terraform"
  }
}

provider "aws" {
  region              = "ap-northeast-1"
  allowed_account_ids = [var.account_id]
  default_tags { tags = local.tags }
}

module "platform" {
  source             = "../../../stacks/platform"
  environment        = local.environment
  name               = local.name
  account_id         = var.account_id
  region             = "ap-northeast-1"
  kubernetes_version = "1.34"
  network            = { cidr = "10.30.0.0/16", nat_gateways = 1 }
  system_nodes       = { instance_type = "m7i.large", count = 2 }
  people             = var.people
  billing            = var.billing
}

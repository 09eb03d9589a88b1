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
    key          = "data.tfstate"
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
    Stack       = "data"
    CostCenter  = "drl-trading"
    ManagedBy   = "terraform"
  }
}

provider "aws" {
  region              = "ap-northeast-1"
  allowed_account_ids = [var.account_id]
  default_tags { tags = local.tags }
}

provider "aws" {
  alias               = "replica"
  region              = "ap-northeast-3"
  allowed_account_ids = [var.account_id]
  default_tags { tags = local.tags }
}

module "data" {
  source         = "../../../stacks/data"
  providers      = { aws = aws, aws.replica = aws.replica }
  environment    = local.environment
  name           = local.name
  account_id     = var.account_id
  retention_days = 2557
}

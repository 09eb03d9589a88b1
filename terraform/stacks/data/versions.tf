terraform {
  required_version = ">= 1.10"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
      # the region of the copies
      configuration_aliases = [aws.replica]
    }
  }
}

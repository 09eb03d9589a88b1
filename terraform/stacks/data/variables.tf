variable "environment" {
  description = "Which environment's data this is."
  type        = string
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment must be staging or production."
  }
}

variable "name" {
  description = "Prefix of every name; with it the names of buckets must be free in all of AWS."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,24}$", var.name))
    error_message = "name must be 3 to 25 lower-case letters, digits and hyphens, starting with a letter."
  }
  validation {
    condition     = endswith(var.name, "-staging") == (var.environment == "staging")
    error_message = "name must end with -staging in staging and nowhere else: one account's roles must not match the other's names."
  }
}

variable "account_id" {
  description = "AWS account of the environment."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id)) && var.account_id != "000000000000"
    error_message = "account_id must be the 12 digits of an AWS account; zeros mean that terraform.tfvars does not name one yet."
  }
}

variable "retention_days" {
  description = "Days that audit and releases stay locked; 2557 days are seven years, the legal minimum for order records."
  type        = number
  validation {
    condition     = var.retention_days >= 2557 && var.retention_days <= 36500 && floor(var.retention_days) == var.retention_days
    error_message = "retention_days must be whole days from 2557 (seven years, the legal minimum for order records) to 36500."
  }
}

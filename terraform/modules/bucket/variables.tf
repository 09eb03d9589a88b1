variable "name" {
  description = "Bucket name, global in AWS. The key's alias carries it too."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "name must be 3 to 63 lower-case letters, digits and hyphens (S3's rule, without dots: they break TLS)."
  }
}

variable "profile" {
  description = "What is kept here: decides lifecycle and Object Lock."
  type        = string
  validation {
    condition     = contains(["dvc", "releases", "predictions", "audit", "logs", "state"], var.profile)
    error_message = "profile must be one of dvc, releases, predictions, audit, logs, state."
  }
}

variable "account_id" {
  description = "AWS account that owns the bucket."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be the 12 digits of an AWS account."
  }
}

variable "retention_days" {
  description = "Days that audit and releases are locked, in compliance mode. 2557 days are seven years, the legal minimum for order records."
  type        = number
  default     = 2557
  validation {
    condition     = var.retention_days >= 2557 && var.retention_days <= 36500 && floor(var.retention_days) == var.retention_days
    error_message = "retention_days must be whole days from 2557 (seven years, the legal minimum for order records) to 36500."
  }
}

variable "apply_role_arn" {
  description = "The only role that may change the bucket's protection."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:role/[\\w+=,.@/-]+$", var.apply_role_arn))
    error_message = "apply_role_arn must be the ARN of an IAM role."
  }
}

variable "inventory_bucket" {
  description = "Bucket that gets the weekly inventory; null for none."
  type        = string
  default     = null
  validation {
    condition     = var.inventory_bucket == null || can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.inventory_bucket))
    error_message = "inventory_bucket must be the name of a bucket, or null."
  }
}

variable "services" {
  description = "AWS services that write here, and where: principal to key prefix (logs and audit only)."
  type        = map(string)
  default     = {}
  validation {
    condition     = alltrue([for principal in keys(var.services) : endswith(principal, ".amazonaws.com")])
    error_message = "services must be keyed by service principals such as delivery.logs.amazonaws.com."
  }
}

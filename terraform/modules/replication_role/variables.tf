variable "source_name" {
  description = "Name of the versioned bucket whose objects are copied; its key's alias is alias/<name>."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.source_name))
    error_message = "source_name must be the name of a bucket."
  }
}

variable "replica_name" {
  description = "Name of the bucket in the other region; its key's alias is alias/<name>."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.replica_name)) && var.replica_name != var.source_name
    error_message = "replica_name must be the name of a bucket, and another one than source_name."
  }
}

variable "account_id" {
  description = "AWS account that owns both buckets."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be the 12 digits of an AWS account."
  }
}

variable "boundary_arn" {
  description = "Permission boundary of the role that copies."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:policy/", var.boundary_arn))
    error_message = "boundary_arn must be the ARN of an IAM policy."
  }
}

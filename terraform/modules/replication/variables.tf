variable "source_bucket" {
  description = "Name of the versioned bucket whose objects are copied; its key's alias is alias/<name>."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.source_bucket))
    error_message = "source_bucket must be the name of a bucket."
  }
}

variable "replica_bucket" {
  description = "Name of the bucket in the other region; its key's alias is alias/<name>."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.replica_bucket)) && var.replica_bucket != var.source_bucket
    error_message = "replica_bucket must be the name of a bucket, and another one than source_bucket."
  }
}

variable "replica_key_arn" {
  description = "Key that the copies are encrypted with."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:kms:", var.replica_key_arn))
    error_message = "replica_key_arn must be the ARN of a KMS key."
  }
}

variable "role_arn" {
  description = "Role that S3 copies with, of modules/replication_role."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:role/", var.role_arn))
    error_message = "role_arn must be the ARN of an IAM role."
  }
}

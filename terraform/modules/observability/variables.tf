variable "name" {
  description = "Prefix of the environment's names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,24}$", var.name))
    error_message = "name must be 3 to 25 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "account_id" {
  description = "AWS account of the environment."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id must be the 12 digits of an AWS account."
  }
}

variable "region" {
  description = "Region of the buckets and keys."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}-[a-z]+-[0-9]$", var.region))
    error_message = "region must be an AWS region such as ap-northeast-1."
  }
}

variable "boundary_arn" {
  description = "Permission boundary of every role."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:policy/", var.boundary_arn))
    error_message = "boundary_arn must be the ARN of an IAM policy."
  }
}

variable "log_groups" {
  description = "Log groups whose lines are copied to cold storage."
  type        = list(string)
  validation {
    condition     = length(distinct(var.log_groups)) == length(var.log_groups)
    error_message = "log_groups must not name a group twice."
  }
}

variable "log_bucket" {
  description = "Bucket that the copies go to, under cloudwatch/."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.log_bucket))
    error_message = "log_bucket must be the name of a bucket."
  }
}

variable "queue" {
  description = "Queue of spot interruptions, watched for a Karpenter that does not listen."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,80}$", var.queue))
    error_message = "queue must be the name of an SQS queue."
  }
}

variable "nat_gateways" {
  description = "NAT gateway of each zone, watched for exhausted ports."
  type        = map(string)
  validation {
    condition     = length(var.nat_gateways) > 0
    error_message = "nat_gateways must name at least one gateway."
  }
}

variable "subscribers" {
  description = "Addresses that get each topic's messages by e-mail: page wakes people, notice does not."
  type        = object({ page = set(string), notice = set(string) })
  validation {
    condition     = alltrue([for address in setunion(var.subscribers.page, var.subscribers.notice) : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "subscribers must be e-mail addresses."
  }
}

variable "copied" {
  description = "The replication that is watched: source bucket, its copy, and the rule's id."
  type = object({
    source  = string
    replica = string
    rule    = string
  })
  validation {
    condition     = alltrue([for name in [var.copied.source, var.copied.replica] : can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", name))]) && var.copied.rule != ""
    error_message = "copied must name two buckets and a rule."
  }
}

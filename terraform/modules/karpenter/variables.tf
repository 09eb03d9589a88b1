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

variable "cluster_name" {
  description = "The cluster whose service accounts take the roles."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$", var.cluster_name))
    error_message = "cluster_name must be the name of an EKS cluster."
  }
}

variable "cluster_arn" {
  description = "Its ARN: pods of another cluster cannot take the roles."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:eks:", var.cluster_arn))
    error_message = "cluster_arn must be the ARN of an EKS cluster."
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

variable "node_role_arn" {
  description = "Role that Karpenter gives its nodes, and may pass to nothing else."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:role/", var.node_role_arn))
    error_message = "node_role_arn must be the ARN of an IAM role."
  }
}

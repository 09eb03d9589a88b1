variable "environment" {
  description = "Which environment's account this is."
  type        = string
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment must be staging or production."
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

variable "repository" {
  description = "The GitHub repository whose workflows are trusted, as owner/name."
  type        = string
  default     = "sekisho/sekisho"
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository must be owner/name, without wildcards."
  }
}

variable "administrator_arn" {
  description = "The role of the person who applies bootstrap."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:role/[\\w+=,.@/-]+$", var.administrator_arn))
    error_message = "administrator_arn must be the ARN of one IAM role, without wildcards."
  }
}

variable "auditor_arn" {
  description = "The one principal that may take the auditor's role."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:role/[\\w+=,.@/-]+$", var.auditor_arn))
    error_message = "auditor_arn must be the ARN of one IAM role, without wildcards."
  }
}

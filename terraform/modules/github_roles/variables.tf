variable "name" {
  description = "Prefix of the environment's names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,24}$", var.name))
    error_message = "name must be 3 to 25 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "repository" {
  description = "The GitHub repository whose workflows are trusted, as owner/name."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "repository must be owner/name, without wildcards."
  }
}

variable "roles" {
  description = "The table roles.yaml, as modules/policies gives it out."
  type = map(object({
    purpose = string
    github  = list(string)
    pod     = optional(object({ namespace = string, service_account = string }))
    human   = bool
  }))
  validation {
    condition = alltrue(flatten([for role in var.roles : [for context in role.github :
    can(regex("^(pull_request|ref:refs/heads/main|environment:[a-z-]+):workflow:[a-z-]+$", context))]]))
    error_message = "each github entry must be pull_request, ref:refs/heads/main or environment:<name>, then :workflow:<name>; wildcards are not matched."
  }
}

variable "documents" {
  description = "Policy document of each role, as JSON, from modules/policies."
  type        = map(string)
  validation {
    condition     = alltrue([for document in values(var.documents) : can(jsondecode(document).Statement)])
    error_message = "each document must be an IAM policy in JSON."
  }
}

variable "oidc_provider_arn" {
  description = "ARN of GitHub's OIDC provider in this account."
  type        = string
  validation {
    condition     = can(regex(":oidc-provider/token\\.actions\\.githubusercontent\\.com$", var.oidc_provider_arn))
    error_message = "oidc_provider_arn must be that of token.actions.githubusercontent.com."
  }
}

variable "boundary_arn" {
  description = "Permission boundary of every role but those that apply."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:policy/", var.boundary_arn))
    error_message = "boundary_arn must be the ARN of an IAM policy."
  }
}

variable "auditor_arn" {
  description = "The one principal that may take the auditor's role: a role of the identity centre."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:role/[\\w+=,.@/-]+$", var.auditor_arn))
    error_message = "auditor_arn must be the ARN of one IAM role, without wildcards."
  }
}

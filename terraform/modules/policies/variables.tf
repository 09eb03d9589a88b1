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

variable "roles" {
  description = "The table roles.yaml: what each role may read and write, by bucket class and prefix."
  type = map(object({
    purpose = string
    github  = optional(list(string), [])
    pod     = optional(object({ namespace = string, service_account = string }))
    human   = optional(bool, false)
    allows  = optional(list(string), [])
    grants = optional(list(object({
      class  = string
      prefix = string
      access = string
    })), [])
  }))
  validation {
    condition = alltrue(flatten([for role in var.roles : [for grant in role.grants :
    contains(["dvc", "releases", "predictions", "audit"], grant.class) && contains(["read", "write", "restore"], grant.access)]]))
    error_message = "a grant's class must be dvc, releases, predictions or audit, and its access read, write or restore."
  }
  validation {
    condition     = alltrue(flatten([for role in var.roles : [for grant in role.grants : grant.prefix == "" || endswith(grant.prefix, "/")]]))
    error_message = "a grant's prefix must be empty or end with \"/\": without it \"pr\" would also open \"private/\"."
  }
  validation {
    condition     = alltrue(flatten([for role in var.roles : [for allow in role.allows : contains(["describe", "apply", "apply-data", "metrics"], allow)]]))
    error_message = "allows must be describe, apply, apply-data or metrics: the blocks of modules/policies."
  }
}

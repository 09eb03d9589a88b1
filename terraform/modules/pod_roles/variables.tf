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

variable "cluster_arn" {
  description = "The cluster whose service accounts take the roles; pods of another cannot."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:eks:", var.cluster_arn))
    error_message = "cluster_arn must be the ARN of an EKS cluster."
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
    condition     = length(distinct([for role in var.roles : role.pod if role.pod != null])) == length([for role in var.roles : role if role.pod != null])
    error_message = "each service account takes one role: two roles name the same one."
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

variable "boundary_arn" {
  description = "Permission boundary of every role."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:policy/", var.boundary_arn))
    error_message = "boundary_arn must be the ARN of an IAM policy."
  }
}

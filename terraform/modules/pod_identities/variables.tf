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

variable "cluster_name" {
  description = "The cluster whose service accounts take the roles."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$", var.cluster_name))
    error_message = "cluster_name must be the name of an EKS cluster."
  }
}

variable "pods" {
  description = "Service account of each role of roles.yaml that a pod takes."
  type        = map(object({ namespace = string, service_account = string }))
  validation {
    condition     = length(distinct(values(var.pods))) == length(var.pods)
    error_message = "each service account takes one role: two roles name the same one."
  }
}

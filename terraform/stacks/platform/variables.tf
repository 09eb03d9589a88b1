variable "environment" {
  description = "Which environment's data this is."
  type        = string
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment must be staging or production."
  }
}

variable "name" {
  description = "Prefix of every name; with it the names of buckets must be free in all of AWS."
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
  description = "Region of the platform."
  type        = string
  validation {
    condition     = can(regex("^[a-z]{2}-[a-z]+-[0-9]$", var.region))
    error_message = "region must be an AWS region such as ap-northeast-1."
  }
}

variable "network" {
  description = "Address block and number of NAT gateways."
  type = object({
    cidr         = string
    nat_gateways = number
  })
  validation {
    condition     = var.environment != "production" || var.network.nat_gateways == 3
    error_message = "network.nat_gateways must be 3 in production: one gateway would make one zone's loss everybody's."
  }
}

variable "kubernetes_version" {
  description = "Minor version of the control plane."
  type        = string
}

variable "system_nodes" {
  description = "On-demand nodes that carry Karpenter, Argo CD and DNS."
  type = object({
    instance_type = string
    count         = number
  })
}

variable "budget" {
  description = "This environment's share of the budgets in yen, and the rate."
  type = object({
    monthly_jpy        = number
    storage_yearly_jpy = number
    jpy_per_usd        = number
  })
}

variable "people" {
  description = "Who administers the cluster (role ARNs), who is paged and who is told (e-mail)."
  type = object({
    administrators = list(string)
    page           = set(string)
    notice         = set(string)
  })
}

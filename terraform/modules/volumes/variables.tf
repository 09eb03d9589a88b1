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

variable "vpc_id" {
  description = "VPC of the pods that mount."
  type        = string
  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "vpc_id must be the id of a VPC."
  }
}

variable "cidr" {
  description = "Address block of those pods."
  type        = string
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && !startswith(var.cidr, "0.0.0.0")
    error_message = "cidr must be a private address block, never the whole internet."
  }
}

variable "subnet_ids" {
  description = "Private subnet of each zone."
  type        = map(string)
  validation {
    condition     = length(var.subnet_ids) == 3
    error_message = "subnet_ids must be the private subnets of three zones, by zone."
  }
}

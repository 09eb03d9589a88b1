variable "name" {
  description = "Prefix of the environment's names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,24}$", var.name))
    error_message = "name must be 3 to 25 lower-case letters, digits and hyphens, starting with a letter."
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

variable "cidr" {
  description = "Address block of the VPC, a /16 of RFC 1918."
  type        = string
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.).*/16$", var.cidr))
    error_message = "cidr must be a private /16 such as 10.20.0.0/16: three /18 for nodes and three /24 for NAT are cut from it."
  }
}

variable "zones" {
  description = "The three availability zones."
  type        = list(string)
  validation {
    condition     = length(distinct(var.zones)) == 3
    error_message = "zones must name three different availability zones."
  }
}

variable "nat_gateways" {
  description = "3 survives the loss of a zone, 1 is cheaper."
  type        = number
  validation {
    condition     = contains([1, 3], var.nat_gateways)
    error_message = "nat_gateways must be 1 or 3."
  }
}

variable "flow_log_bucket" {
  description = "Bucket for flow logs, under AWSLogs/."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.flow_log_bucket))
    error_message = "flow_log_bucket must be the name of a bucket."
  }
}

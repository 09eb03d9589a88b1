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
  validation {
    condition     = endswith(var.name, "-staging") == (var.environment == "staging")
    error_message = "name must end with -staging in staging and nowhere else: one account's roles must not match the other's names."
  }
}

variable "account_id" {
  description = "AWS account of the environment."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id)) && var.account_id != "000000000000"
    error_message = "account_id must be the 12 digits of an AWS account; zeros mean that terraform.tfvars does not name one yet."
  }
}

variable "region" {
  description = "Region of the platform."
  type        = string
  validation {
    condition     = contains(["ap-northeast-1"], var.region)
    error_message = "region must be ap-northeast-1: the zones a, c and d, the prices and the copy in Osaka are Tokyo's."
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
  validation {
    condition     = contains(["1.32", "1.33", "1.34"], var.kubernetes_version)
    error_message = "kubernetes_version must be 1.32, 1.33 or 1.34: what Karpenter's chart in deploy/argocd/platform.yaml runs on."
  }
}

variable "system_nodes" {
  description = "On-demand nodes that carry Karpenter, Argo CD and DNS."
  type = object({
    instance_type = string
    count         = number
  })
  validation {
    condition     = var.environment != "production" || var.system_nodes.count >= 3
    error_message = "system_nodes.count must be 3 or more in production: one a zone."
  }
}

variable "billing" {
  description = "What AWS bills this account by itself: whether the cost tags have been on a bill of the account that pays, and its anomaly monitor, where there is one."
  type = object({
    cost_tags           = bool
    anomaly_monitor_arn = string
  })
  validation {
    condition     = var.billing.anomaly_monitor_arn == null || can(regex("^arn:aws:ce::[0-9]{12}:anomalymonitor/", var.billing.anomaly_monitor_arn))
    error_message = "billing.anomaly_monitor_arn must be the ARN of a cost anomaly monitor, or null."
  }
}

variable "people" {
  description = "Who administers the cluster (role ARNs), who is paged and who is told (e-mail)."
  type = object({
    administrators = list(string)
    page           = set(string)
    notice         = set(string)
  })
  validation {
    condition     = length(var.people.administrators) > 0 && length(var.people.page) > 0 && length(var.people.notice) > 0
    error_message = "people must name somebody in each of administrators, page and notice: an alarm that reaches nobody is none."
  }
}

variable "account_id" {
  description = "AWS account of the environment."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id)) && var.account_id != "000000000000"
    error_message = "account_id must be the 12 digits of an AWS account; zeros mean that terraform.tfvars does not name one yet."
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

variable "billing" {
  description = "Whether the cost tags have been on a bill of the account that pays, and the account's anomaly monitor, where AWS has made one."
  type = object({
    cost_tags           = bool
    anomaly_monitor_arn = string
  })
  default = { cost_tags = false, anomaly_monitor_arn = null }
  validation {
    condition     = var.billing.anomaly_monitor_arn == null || can(regex("^arn:aws:ce::[0-9]{12}:anomalymonitor/", var.billing.anomaly_monitor_arn))
    error_message = "billing.anomaly_monitor_arn must be the ARN of a cost anomaly monitor, or null."
  }
}

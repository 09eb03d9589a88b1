variable "name" {
  description = "Prefix of the environment's names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,24}$", var.name))
    error_message = "name must be 3 to 25 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "monthly_jpy" {
  description = "This environment's share of the budget, yen a month."
  type        = number
  validation {
    condition     = var.monthly_jpy > 0 && var.monthly_jpy <= 12000000
    error_message = "monthly_jpy must be more than 0 and at most 12,000,000: the platform's whole budget is 12 million yen a month."
  }
}

variable "storage_yearly_jpy" {
  description = "This environment's share of the storage budget, yen a year."
  type        = number
  validation {
    condition     = var.storage_yearly_jpy > 0 && var.storage_yearly_jpy <= 24000000
    error_message = "storage_yearly_jpy must be more than 0 and at most 24,000,000: the platform's whole storage budget is 24 million yen a year."
  }
}

variable "jpy_per_usd" {
  description = "Yen for a dollar: AWS keeps budgets in dollars."
  type        = number
  validation {
    condition     = var.jpy_per_usd >= 80 && var.jpy_per_usd <= 250
    error_message = "jpy_per_usd must be between 80 and 250."
  }
}

variable "topic_arn" {
  description = "SNS topic that is told."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:sns:", var.topic_arn))
    error_message = "topic_arn must be the ARN of an SNS topic."
  }
}

variable "cost_tags" {
  description = "Tags that costs are split by; empty until the first bill has carried them, and in accounts that another pays for."
  type        = set(string)
  default     = []
  validation {
    condition     = length(var.cost_tags) == 0 || (contains(var.cost_tags, "CostCenter") && contains(var.cost_tags, "Environment"))
    error_message = "cost_tags must have CostCenter and Environment, or be empty: without them nobody can say whose cost it is."
  }
}

variable "anomaly_monitor_arn" {
  description = "The account's monitor of services where AWS has made one already; null makes it."
  type        = string
  default     = null
  validation {
    condition     = var.anomaly_monitor_arn == null || can(regex("^arn:aws:ce::[0-9]{12}:anomalymonitor/", var.anomaly_monitor_arn))
    error_message = "anomaly_monitor_arn must be the ARN of a cost anomaly monitor, or null."
  }
}

variable "bucket" {
  description = "Name of a versioned bucket."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket must be the name of a bucket."
  }
}

variable "profile" {
  description = "What is kept here: decides when it moves to a colder class."
  type        = string
  validation {
    condition     = contains(["dvc", "releases", "predictions", "audit", "logs", "state"], var.profile)
    error_message = "profile must be one of dvc, releases, predictions, audit, logs, state."
  }
}

variable "account_id" {
  description = "AWS account of the environment."
  type        = string
}

variable "people" {
  description = "Who administers the cluster (role ARNs), who is paged and who is told (e-mail)."
  type = object({
    administrators = list(string)
    page           = set(string)
    notice         = set(string)
  })
}

variable "account_id" {
  description = "AWS account of the environment."
  type        = string
}

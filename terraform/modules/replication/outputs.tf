output "replica" {
  description = "ARN of the bucket that the copies go to."
  value       = local.replica
}

output "buckets" {
  description = "Names of the buckets by class."
  value       = module.data.buckets
}

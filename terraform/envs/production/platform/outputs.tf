output "facts" {
  description = "Names of the SSM parameters that hold the cluster's facts."
  value       = module.platform.facts
}

output "facts" {
  description = "Names of the SSM parameters that hold the cluster's facts."
  value       = [for fact in aws_ssm_parameter.fact : fact.name]
}

output "role_arns" {
  description = "ARN of each role, for GitHub's AWS_ROLE_* variables."
  value       = module.github_roles.arns
}

output "state_bucket" {
  description = "Where the other states lie."
  value       = module.state.name
}

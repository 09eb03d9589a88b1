output "documents" {
  description = "Policy document of each role, as JSON."
  value       = local.documents
}

output "roles" {
  description = "The table itself, checked."
  value       = var.roles
}

output "service_accounts" {
  description = "Service account of each role."
  value       = { for role, made in aws_eks_pod_identity_association.this : role => "${made.namespace}/${made.service_account}" }
}

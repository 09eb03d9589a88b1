output "arns" {
  description = "ARN of each role, for GitHub's AWS_ROLE_* variables."
  value       = { for role, made in aws_iam_role.this : role => made.arn }
}

output "arns" {
  description = "ARN of each role."
  value       = { for role, made in aws_iam_role.this : role => made.arn }
}

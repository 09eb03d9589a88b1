output "arn" {
  description = "ARN of the role that S3 copies with."
  value       = aws_iam_role.this.arn
}

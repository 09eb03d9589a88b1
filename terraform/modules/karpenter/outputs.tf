output "queue" {
  description = "Name of the queue that hears of interruptions."
  value       = aws_sqs_queue.interruptions.name
}

output "role_arn" {
  description = "Role of Karpenter's controller."
  value       = aws_iam_role.controller.arn
}

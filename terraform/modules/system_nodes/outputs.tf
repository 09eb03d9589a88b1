output "role" {
  description = "Name of the role of every node, Karpenter's too."
  value       = aws_iam_role.node.name
}

output "cluster" {
  description = "What Argo CD and Karpenter must know of the cluster."
  value = {
    name     = aws_eks_cluster.this.name
    arn      = aws_eks_cluster.this.arn
    endpoint = aws_eks_cluster.this.endpoint
    ca       = aws_eks_cluster.this.certificate_authority[0].data
    version  = aws_eks_cluster.this.version
  }
}

output "log_group" {
  description = "Log group of the control plane."
  value       = aws_cloudwatch_log_group.control_plane.name
}

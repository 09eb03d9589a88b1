# One role per service account, by EKS Pod Identity: no key, no annotation, and only from this cluster. The cluster is
# told of them by stacks/platform.
locals {
  pods = { for role, row in var.roles : role => row if row.pod != null }
}

resource "aws_iam_role" "this" {
  for_each             = local.pods
  name                 = "${var.name}-pod-${each.key}"
  description          = each.value.purpose
  permissions_boundary = var.boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "pods.eks.amazonaws.com" }
      Action    = ["sts:AssumeRole", "sts:TagSession"]
      Condition = {
        StringEquals = {
          "aws:SourceAccount"                         = var.account_id
          "aws:RequestTag/kubernetes-namespace"       = each.value.pod.namespace
          "aws:RequestTag/kubernetes-service-account" = each.value.pod.service_account
        }
        ArnEquals = { "aws:SourceArn" = var.cluster_arn }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  for_each = aws_iam_role.this
  name     = "table"
  role     = each.value.name
  policy   = var.documents[each.key]
}

# Tells the cluster which service account has which role. The roles are bootstrap's: whoever builds the cluster does not
# write what its pods may reach.
resource "aws_eks_pod_identity_association" "this" {
  for_each        = var.pods
  cluster_name    = var.cluster_name
  namespace       = each.value.namespace
  service_account = each.value.service_account
  role_arn        = "arn:aws:iam::${var.account_id}:role/${var.name}-pod-${each.key}"
}

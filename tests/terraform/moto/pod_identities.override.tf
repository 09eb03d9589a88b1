# moto 5.2 has no CreatePodIdentityAssociation.
resource "aws_eks_pod_identity_association" "this" {
  for_each = {}
}

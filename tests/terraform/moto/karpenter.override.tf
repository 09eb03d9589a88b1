# moto 5.2 has no CreatePodIdentityAssociation.
resource "aws_eks_pod_identity_association" "controller" {
  count = 0
}

# moto 5.2 has no CreateAccessEntry.
resource "aws_eks_access_entry" "node" {
  count = 0
}

# moto 5.2 forgets access_config and upgrade_policy of a cluster: the second plan would replace it.
resource "aws_eks_cluster" "this" {
  lifecycle {
    ignore_changes = [access_config, upgrade_policy]
  }
}

# moto 5.2 has no CreateAddon.
resource "aws_eks_addon" "this" {
  for_each = toset([])
}

# moto 5.2 has no CreateAccessEntry.
resource "aws_eks_access_entry" "administrator" {
  for_each = toset([])
}

# moto 5.2 makes no security group for a cluster, so there is none to tag.
resource "aws_ec2_tag" "discovery" {
  count = 0
}

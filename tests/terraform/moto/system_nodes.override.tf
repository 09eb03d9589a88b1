# moto 5.2 forgets update_config of a node group and invents remote_access: the second plan would replace it.
resource "aws_eks_node_group" "system" {
  lifecycle {
    ignore_changes = [update_config, remote_access]
  }
}

# moto 5.2 shows a launch template's own tags as tag_specifications of its instances.
resource "aws_launch_template" "system" {
  lifecycle {
    ignore_changes = [tag_specifications]
  }
}

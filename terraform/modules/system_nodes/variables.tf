variable "name" {
  description = "Prefix of the environment's names."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,24}$", var.name))
    error_message = "name must be 3 to 25 lower-case letters, digits and hyphens, starting with a letter."
  }
}

variable "cluster_name" {
  description = "The cluster that the nodes join."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$", var.cluster_name))
    error_message = "cluster_name must be the name of an EKS cluster."
  }
}

variable "subnet_ids" {
  description = "Private subnets, one a zone."
  type        = list(string)
  validation {
    condition     = length(var.subnet_ids) == 3
    error_message = "subnet_ids must be the private subnets of three zones."
  }
}

variable "nodes" {
  description = "On-demand nodes that carry Karpenter, Argo CD and DNS; one a zone in production."
  type = object({
    instance_type = string
    count         = number
  })
  validation {
    condition     = var.nodes.count >= 2 && var.nodes.count <= 6 && can(regex("^[a-z0-9]+\\.[a-z0-9]+$", var.nodes.instance_type))
    error_message = "nodes must be 2 to 6 nodes of one instance type such as m7i.xlarge."
  }
}

variable "boundary_arn" {
  description = "Permission boundary of every role."
  type        = string
  validation {
    condition     = can(regex("^arn:aws:iam::[0-9]{12}:policy/", var.boundary_arn))
    error_message = "boundary_arn must be the ARN of an IAM policy."
  }
}

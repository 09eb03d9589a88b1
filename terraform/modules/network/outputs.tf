output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnets" {
  description = "Subnet of each zone for nodes."
  value       = { for zone, subnet in aws_subnet.private : zone => subnet.id }
}

output "nat_gateways" {
  description = "NAT gateway of each zone that has one."
  value       = { for zone, gateway in aws_nat_gateway.this : zone => gateway.id }
}

output "limits_usd" {
  description = "Limit of each budget in dollars."
  value       = { for budget, made in aws_budgets_budget.this : budget => made.limit_amount }
}

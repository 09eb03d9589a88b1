config {
  call_module_type = "all"
}

plugin "terraform" {
  enabled = true
  preset  = "all"
}

-- Health of a SeldonDeployment; Argo CD ships none. The operator sets no observedGeneration, so Healthy may
-- still speak of the last spec: what is served must be asserted by its digest, not by this.
local health = {status = "Progressing", message = "waiting for the operator"}
local status = obj.status
if status == nil then
  return health
end
if status.state == "Failed" then
  return {status = "Degraded", message = status.description or "Failed"}
end
for name, deployment in pairs(status.deploymentStatus or {}) do
  local available, wanted = deployment.availableReplicas or 0, deployment.replicas or 0
  if available < wanted then
    return {status = "Progressing", message = name .. ": " .. available .. " of " .. wanted .. " replicas"}
  end
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" and condition.status == "False" then
    return {status = "Progressing", message = condition.message or condition.reason or ""}
  end
end
if status.state == "Available" then
  return {status = "Healthy", message = "Available"}
end
health.message = status.state or health.message
return health

-- The health of a KvCluster for Argo CD: the value of `resource.customizations.health.kvcluster.io_KvCluster` in the
-- ConfigMap argocd-cm. docs/kubernetes.md says how to install it.
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "the operator has not seen this spec yet" }
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local function is_true(name)
  return conditions[name] ~= nil and conditions[name].status == "True"
end

if is_true("Paused") then
  return { status = "Suspended", message = status.message }
end
if is_true("Hibernated") then
  return { status = "Suspended", message = conditions.Hibernated.message }
end
if is_true("Stalled") then
  return { status = "Degraded", message = conditions.Stalled.message }
end
-- Writes have stopped, and not because the operator is changing something.
if status.phase == "Unavailable" and not is_true("Progressing") then
  return { status = "Degraded", message = status.message }
end
if is_true("Reconciling") then
  return { status = "Progressing", message = conditions.Reconciling.message }
end
return { status = "Healthy", message = status.followers .. " followers have all data" }

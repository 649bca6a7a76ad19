

envoy.lb


ab


quota_gate

policyoff
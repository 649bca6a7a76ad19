


quota_gate

policyoff
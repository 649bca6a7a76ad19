
"

quota_gate

policynobody


quota_gate

policyoff

1

quota_gate#

policyoff

timeout1ms
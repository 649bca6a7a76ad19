
"

quota_gate

timeout990ms

"

quota_gate

policynobody
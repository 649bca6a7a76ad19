


quota_gate

polcyoff
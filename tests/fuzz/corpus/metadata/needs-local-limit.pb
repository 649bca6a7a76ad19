
A

quota_gate3

policy	headers

failure_mode
fail_local
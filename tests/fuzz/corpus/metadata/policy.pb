
#

quota_gate

policy	headers
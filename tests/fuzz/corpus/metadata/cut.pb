
#

quota_gate

policy	head
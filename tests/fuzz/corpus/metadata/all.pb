
{

quota_gatem

policy	limitador

failure_mode	fail_open

timeout40ms

cost3

enforcementshadow
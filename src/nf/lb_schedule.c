/*
 * lb_schedule.c - which backend gets what is new.
 *
 * Pure functions of what was read: the schedulers know nothing of tables.  Least
 * connections and round robin go by what all instances count together, as it was when it
 * was read: in a round trip others may have chosen by the same.  For least connections
 * the next choices make that good; round robin gives a backend one turn too many, and
 * another one too few, and does not go back.
 */
#include "nf/lb.h"

#include "base/hash.h"

unsigned int
lb_turns_make(uint8_t *turns, const struct lb_backend *backend, unsigned int n)
{
	int credit[LB_MAX_BACKENDS] = { 0 }, sum = 0;

	for (unsigned int i = 0; i < n; i++)
		sum += backend[i].weight;
	/* Smooth weighted round robin: all get their weight, and who has most pays for
	 * the turn with what all got. */
	for (int turn = 0; turn < sum; turn++) {
		unsigned int best = 0;

		for (unsigned int i = 0; i < n; i++) {
			credit[i] += backend[i].weight;
			if (credit[i] > credit[best])
				best = i;
		}
		credit[best] -= sum;
		turns[turn] = (uint8_t)best;
	}
	return (unsigned int)sum;
}

int
lb_schedule_init(struct lb_service *s)
{
	if (s->scheduler == LB_ROUND_ROBIN) {
		s->turns = malloc(LB_MAX_BACKENDS * LB_MAX_WEIGHT);
		if (s->turns == NULL)
			return -ENOMEM;
		s->n_turns = lb_turns_make(s->turns, s->backend, s->n_backends);
	}
	if ((s->scheduler >= LB_BY_CONNECTION || s->by_datagram) && s->weighted != 0) {
		s->maglev = malloc(LB_MAGLEV);
		if (s->maglev == NULL)
			return -ENOMEM;
		lb_maglev_make(s->maglev, s->backend, s->n_backends);
	}
	return 0;
}

/* The one whose turn it is.  Turns of those that are not usable are the others', in their
 * own order: the next one alone would have them all. */
static int
by_turn(const struct lb_service *s, const struct lb_load *load)
{
	uint64_t at = load->turn % s->n_turns, n_free = 0, n_left = 0;

	if (load->usable >> s->turns[at] & 1)
		return s->turns[at];
	for (unsigned int i = 0; i < s->n_turns; i++) {
		bool usable = load->usable >> s->turns[i] & 1;

		n_left += usable;
		n_free += !usable && i < at;
	}
	/* So many were free before, in this round and those before it. */
	n_free += load->turn / s->n_turns * (s->n_turns - n_left);
	n_free %= n_left;
	for (at = 0; !(load->usable >> s->turns[at] & 1) || n_free-- > 0;)
		at++;
	return s->turns[at];
}

/* Which of two will have fewer for its weight: below 0 if that is 'a'. */
static int
compare_load(const struct lb_service *s, const struct lb_load *load, int a, int b)
{
	uint64_t of_a = (load->n_open[a] + 1ULL) * s->backend[b].weight;
	uint64_t of_b = (load->n_open[b] + 1ULL) * s->backend[a].weight;

	return (of_a > of_b) - (of_a < of_b);
}

/* The one that will have the fewest for its weight.  Among equals the connection's hash
 * decides, so that a service with little to do has all of them take part. */
static int
least_loaded(const struct lb_service *s, const struct lb_load *load, uint64_t hash)
{
	uint64_t equals = 0;
	int least = LB_NONE;

	for (uint64_t left = load->usable; left != 0; left &= left - 1) {
		int i = __builtin_ctzll(left);
		int order = least == LB_NONE ? -1 : compare_load(s, load, i, least);

		if (order < 0) {
			least = i;
			equals = 0;
		}
		if (order <= 0)
			equals |= UINT64_C(1) << i;
	}
	for (uint64_t n = hash % (uint64_t)__builtin_popcountll(equals); n > 0; n--)
		equals &= equals - 1;
	return __builtin_ctzll(equals);
}

uint64_t
lb_hash(const struct lb_service *s, const struct flow *client)
{
	struct endpoint from;

	if (s->scheduler != LB_BY_SOURCE)
		return hash_bytes(client, flow_bytes(client), 0x636f6e6e);
	flow_source(client, &from);
	from.port = 0;
	return hash_bytes(&from, sizeof(from), 0x68756d616e);
}

int
lb_choose(const struct lb_service *s, const struct lb_load *load,
	  const struct flow *client)
{
	if (load->usable == 0)
		return LB_NONE;
	switch (s->scheduler) {
	case LB_LEAST_CONNECTIONS:
		return least_loaded(s, load, lb_hash(s, client));
	case LB_ROUND_ROBIN:
		return by_turn(s, load);
	default:
		return lb_maglev_at(s->maglev, lb_hash(s, client), load->usable);
	}
}

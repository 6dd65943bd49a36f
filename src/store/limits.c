/*
 * limits.c - tables that are full: which record goes when another one comes.
 *
 * What counts is how many more records a group leaves than it finds.  A table that evicts
 * gives up as many others for them: of the lowest rank that has any, those that expire
 * first, which is how they stand in that rank's wheel.  A record that was touched since
 * it was armed stands there too early: it is armed again where it belongs, and the next
 * one is looked at, LIMITS_TRIES times for a group, which bounds what a flood of new
 * records can cost.  Behind as many touched ones the next goes, touched or not; the order
 * mends itself as groups come, for each of them puts so many in their places.  What the
 * group itself writes stays, and so does what has no idle time, for it is in no wheel.
 *
 * A table that has more records than its limit, for that was lowered, does not shrink by
 * this: each new record takes the place of one.
 */
#include "store/partition.h"

enum {
	LIMITS_TRIES = 32,			/* Records armed again for one group. */
};

/* The records that are to go. */
struct victims {
	unsigned int n, n_tries;
	record_id id[FRAME_MAX_GROUP_OPS];
};

/* Whether the group writes to this record. */
static bool
group_writes(const struct group_ops *g, const struct record *r)
{
	for (unsigned int i = 0; i < g->n; i++) {
		if (g->op[i].kind != FRAME_CHECK && record_has_key(r, &g->probe[i]))
			return true;
	}
	return false;
}

static bool
same_key(const struct table_probe *a, const struct table_probe *b)
{
	return a->hash == b->hash && a->table == b->table &&
	       a->key_bytes == b->key_bytes && memcmp(a->key, b->key, a->key_bytes) == 0;
}

/* Whether there is a record of the key of operation 'i' when the group is done, if that
 * is the last one to say so: 1, -1 if it was there and is not any more, else 0. */
static int
op_growth(const struct partition *p, const struct group_ops *g, unsigned int i)
{
	const struct frame_op *op = &g->op[i];
	bool was = table_get(&p->table, &g->probe[i]) != 0;

	if (op->kind == FRAME_CHECK || op->kind == FRAME_GIVE)
		return 0;
	for (unsigned int later = i + 1; later < g->n; later++) {
		enum frame_op_kind kind = g->op[later].kind;

		if (kind != FRAME_CHECK && kind != FRAME_GIVE &&
		    same_key(&g->probe[i], &g->probe[later]))
			return 0;
	}
	return (op->kind != FRAME_DELETE && op->kind != FRAME_SETTLE) - was;
}

/* How many more records of the table of operation 'i' there will be; each table is
 * answered for by the first operation that names it. */
static int
table_growth(const struct partition *p, const struct group_ops *g, unsigned int i)
{
	uint8_t table = g->op[i].table;
	int growth = 0;

	for (unsigned int before = 0; before < i; before++) {
		if (g->op[before].table == table)
			return 0;
	}
	for (; i < g->n; i++) {
		if (g->op[i].table == table)
			growth += op_growth(p, g, i);
	}
	return growth;
}

/* Adds up to 'n' records of a rank; returns how many are missing. */
static unsigned int
victims_add(struct partition *p, struct victims *v, struct wheel *w,
	    const struct group_ops *g, unsigned int n, uint32_t now)
{
	const struct slots *s = &p->table.slots;
	record_id next;

	for (record_id id = wheel_after(w, s, 0); id != 0 && n > 0; id = next) {
		const struct record *r = slots_record(s, id);

		next = wheel_after(w, s, id);
		if (group_writes(g, r))
			continue;
		if (wheel_early(w, r, record_due(r)) && v->n_tries < LIMITS_TRIES) {
			v->n_tries++;
			wheel_disarm(w, s, id);
			wheel_arm(w, s, id, now, record_due(r));
			continue;
		}
		v->id[v->n++] = id;
		n--;
	}
	return n;
}

bool
limits_make_room(struct partition *p, const struct group_ops *g, uint32_t now,
		 struct buffer *effects)
{
	struct victims v = { 0 };

	for (unsigned int i = 0; i < g->n; i++) {
		struct core_table *t = &p->tables[g->op[i].table];
		int growth = t->limit == 0 ? 0 : table_growth(p, g, i);
		uint64_t most = t->n_records + (uint64_t)growth;
		unsigned int n = (unsigned int)growth;

		if (growth <= 0 || most <= t->limit)
			continue;
		if (most - t->limit < n)
			n = (unsigned int)(most - t->limit);
		for (unsigned int rank = 0;
		     rank < FRAME_RANKS && (t->flags & CORE_EVICT) != 0; rank++) {
			struct wheel *w = p->wheel[g->op[i].table][rank];

			n = n == 0 || w == NULL ? n : victims_add(p, &v, w, g, n, now);
		}
		if (n > 0) {
			t->n_full++;
			return false;
		}
	}
	for (unsigned int i = 0; i < v.n; i++) {
		p->tables[table_record(&p->table, v.id[i])->table].n_evicted++;
		partition_remove(p, v.id[i], effects);
	}
	return true;
}

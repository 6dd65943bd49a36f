/*
 * chaos_ask.c - operations in two places at once: in the frame that carries them, and in
 * the history.
 */
#include "chaos.h"

#include <assert.h>
#include <inttypes.h>

static const char table_letter[N_TABLES] = "kcrhjt";

uint64_t
chaos_random(struct chaos *c, uint64_t below)
{
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return (c->random * UINT64_C(0x2545f4914f6cdd1d) >> 16) % below;
}

uint64_t
next_version(struct chaos *c)
{
	return (uint64_t)c->who << 40 | c->next_version++;
}

bool
one_in(struct chaos *c, unsigned int n)
{
	return chaos_random(c, n) == 0;
}

static void
history_key(struct asking *a, char op, enum chaos_table table, const void *key,
	    unsigned int key_bytes)
{
	history_add(&a->chaos->history, " %c/%c/", op, table_letter[table]);
	history_bytes(&a->chaos->history, key, key_bytes);
}

/* A batch has room for far more than its transactions ask for. */
static void
asked_op(struct asking *a, bool fits)
{
	assert(fits);
	a->n_ops++;
}

void
ask_read(struct asking *a, enum chaos_table table, const void *key, uint8_t key_bytes)
{
	bool touch = one_in(a->chaos, 2);

	history_key(a, touch ? 'r' : 'e', table, key, key_bytes);
	asked_op(a, frame_read(a->frame, table, key, key_bytes, touch) != NULL);
	a->txn->n_answers++;
}

void
ask_touch(struct asking *a, enum chaos_table table, const void *key, uint8_t key_bytes)
{
	history_key(a, 'u', table, key, key_bytes);
	asked_op(a, frame_key_op(a->frame, FRAME_TOUCH, table, key, key_bytes) != NULL);
}

void
ask_pick(struct asking *a, uint32_t range)
{
	history_key(a, 'k', TABLE_RANGES, &range, sizeof(range));
	asked_op(a, frame_pick(a->frame, TABLE_RANGES, &range, sizeof(range),
			       N_MEMBERS) != NULL);
	a->txn->n_answers++;
}

void
ask_take(struct asking *a, uint32_t range, uint32_t member)
{
	history_key(a, 't', TABLE_RANGES, &range, sizeof(range));
	history_add(&a->chaos->history, "/%" PRIu32, member);
	asked_op(a, frame_take(a->frame, TABLE_RANGES, &range, sizeof(range), 1,
			       N_MEMBERS, member));
}

void
ask_give(struct asking *a, uint32_t range, uint32_t member, uint32_t quarantine_ms)
{
	history_key(a, 'g', TABLE_RANGES, &range, sizeof(range));
	history_add(&a->chaos->history, "/%" PRIu32 "/%" PRIu32, member, quarantine_ms);
	asked_op(a, frame_give(a->frame, TABLE_RANGES, &range, sizeof(range),
			       quarantine_ms, member));
}

void
ask_delete(struct asking *a, enum chaos_table table, const void *key, uint8_t key_bytes)
{
	history_key(a, 'd', table, key, key_bytes);
	asked_op(a, frame_delete(a->frame, table, key, key_bytes) != NULL);
}

void
ask_check(struct asking *a, enum frame_op_kind kind, enum chaos_table table,
	  const void *key, uint8_t key_bytes, uint64_t version)
{
	history_key(a, kind == FRAME_SETTLE ? 's' : 'c', table, key, key_bytes);
	history_add(&a->chaos->history, "/%" PRIx64, version);
	asked_op(a, frame_check(a->frame, kind, table, key, key_bytes, version));
}

uint64_t
group_version(const struct asking *a)
{
	return a->txn->version[a->txn->n_groups - 1];
}

/* The words of a value: checker.py makes the same. */
void
ask_put(struct asking *a, enum chaos_table table, const void *key, uint8_t key_bytes,
	uint32_t idle_ms)
{
	uint64_t version = group_version(a), word[5];
	uint16_t n = table == TABLE_KEYS ? 1 + version % 5 : 2;

	for (unsigned int i = 0; i < n; i++)
		word[i] = version * UINT64_C(0x9e3779b97f4a7c15) * i + version;
	history_key(a, 'p', table, key, key_bytes);
	history_add(&a->chaos->history, "/%" PRIu32, idle_ms);
	asked_op(a, frame_put(a->frame, table, key, key_bytes, 1, word, n * 8, n % 2,
			      idle_ms) != NULL);
}

void
ask_journal(struct asking *a, uint64_t about)
{
	uint64_t key[2] = { about, group_version(a) };

	ask_put(a, TABLE_JOURNAL, key, sizeof(key), 0);
}

void
ask_add(struct asking *a, uint32_t key, uint16_t offset, int64_t delta, int64_t max)
{
	int64_t args[3] = { delta, 0, max };

	history_key(a, 'a', TABLE_COUNTERS, &key, sizeof(key));
	history_add(&a->chaos->history, "/%u/%" PRId64 "/0/%" PRId64, offset, delta, max);
	asked_op(a, frame_add(a->frame, TABLE_COUNTERS, &key, sizeof(key), 1, 16, offset,
			      0, args));
}

void
group_begin(struct asking *a)
{
	struct txn *t = a->txn;
	uint64_t version = next_version(a->chaos);

	t->version[t->n_groups++] = version;
	t->n_answers++;
	a->group = frame_group(a->frame, version);
	assert(a->group != NULL);
	a->n_ops = 0;
	history_add(&a->chaos->history, "G %" PRIu64 " %" PRIx64 " %u", chaos_now(),
		    version, t->partition);
}

void
group_end(struct asking *a)
{
	frame_group_end(a->group, a->n_ops);
	history_add(&a->chaos->history, "\n");
}

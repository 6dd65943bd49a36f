/*
 * chaos_txn.c - the transactions of the chaos client: what each step asks for, and what
 * its answers lead to.
 *
 * Every group but some puts a record into the journal whose key ends with the group's
 * version, so that one sees afterwards which groups took effect.  Whatever is put has a
 * value that follows from the version, so that a value read names its writer.
 */
#include "chaos.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MS UINT64_C(1000000)

/* --- Keys: read some, write them if they are still the same ----------------------- */

static uint32_t
key_in(const struct txn *t, unsigned int i)
{
	return t->partition << 8 | i;
}

static void
draw_keys(struct chaos *c, struct txn *t, unsigned int n, unsigned int of)
{
	unsigned int first = (unsigned int)chaos_random(c, of);

	t->n_keys = n;
	for (unsigned int i = 0; i < n; i++)
		t->key[i] = key_in(t, (first + i) % of);
}

static void
read_keys(struct asking *a)
{
	draw_keys(a->chaos, a->txn, 1 + (unsigned int)chaos_random(a->chaos, 3), N_KEYS);
	for (unsigned int i = 0; i < a->txn->n_keys; i++)
		ask_read(a, TABLE_KEYS, &a->txn->key[i], sizeof(uint32_t));
}

/* Waits sometimes, so that somebody else is faster. */
static void
next_step(struct chaos *c, struct txn *t, enum txn_step step)
{
	t->step = step;
	t->after = one_in(c, 3) ? chaos_now() + chaos_random(c, 5 * MS) : 0;
}

static void
have_read(struct chaos *c, struct txn *t, const struct txn_answer *answers,
	  enum txn_step next)
{
	t->step = TXN_FREE;
	for (unsigned int i = 0; i < t->n_answers; i++) {
		if (answers[i].result < 0)
			return;
		t->seen[i] = answers[i].value.version;
	}
	next_step(c, t, next);
}

static void
keys_read(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	have_read(c, t, answers, TXN_WRITE_KEYS);
}

/* Sometimes a second group builds on the first before anybody has answered that. */
static void
write_keys(struct asking *a)
{
	struct chaos *c = a->chaos;
	struct txn *t = a->txn;
	unsigned int n_groups = one_in(c, 5) ? 2 : 1;

	for (unsigned int g = 0; g < n_groups; g++) {
		uint64_t puts = 1 + chaos_random(c, (1u << t->n_keys) - 1);
		bool journal = !one_in(c, 4);

		if (one_in(c, 8)) {
			puts = 0;
			journal = true;
		}
		group_begin(a);
		for (unsigned int i = 0; i < t->n_keys; i++)
			ask_check(a, FRAME_CHECK, TABLE_KEYS, &t->key[i], 4, t->seen[i]);
		for (unsigned int i = 0; i < t->n_keys; i++) {
			if (!(puts >> i & 1))
				continue;
			ask_put(a, TABLE_KEYS, &t->key[i], 4, 0);
			t->seen[i] = group_version(a);
		}
		if (journal)
			ask_journal(a, 0);
		group_end(a);
	}
}

static void
txn_end(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	(void)c;
	(void)answers;
	t->step = TXN_FREE;
}

/* --- Counters -------------------------------------------------------------------- */

static void
read_counters(struct asking *a)
{
	draw_keys(a->chaos, a->txn, 1 + (unsigned int)chaos_random(a->chaos, 2),
		  N_COUNTERS - 1);
	for (unsigned int i = 0; i < a->txn->n_keys; i++)
		ask_read(a, TABLE_COUNTERS, &a->txn->key[i], sizeof(uint32_t));
}

static void
counters_read(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	have_read(c, t, answers, TXN_ADD);
}

/* Adds to one or two counters, some checked to be as they were read. */
static void
add(struct asking *a)
{
	struct chaos *c = a->chaos;
	struct txn *t = a->txn;
	bool checked = one_in(c, 2);

	group_begin(a);
	for (unsigned int i = 0; i < t->n_keys; i++) {
		int64_t delta = 1 + (int64_t)chaos_random(c, 12);

		if (checked)
			ask_check(a, FRAME_CHECK, TABLE_COUNTERS, &t->key[i], 4,
				  t->seen[i]);
		ask_add(a, t->key[i], one_in(c, 2) ? 8 : 0, one_in(c, 2) ? delta : -delta,
			COUNTER_MAX);
	}
	ask_journal(a, 0);
	group_end(a);
}

/* --- Ranges: pick, take, hold for a while, give back ------------------------------ */

static void
pick(struct asking *a)
{
	struct txn *t = a->txn;
	uint32_t key = t->partition;

	ask_pick(a, key);
}

static void
picked(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	const struct frame_value *v = &answers[0].value;

	t->step = TXN_FREE;
	if (answers[0].result != FRAME_HIT || v->value_bytes != sizeof(t->member))
		return;
	memcpy(&t->member, v->value, sizeof(t->member));
	next_step(c, t, TXN_TAKE);
}

static void
take(struct asking *a)
{
	struct txn *t = a->txn;
	uint32_t key = t->partition, hold[2] = { key, t->member };

	group_begin(a);
	ask_take(a, key, t->member);
	ask_check(a, FRAME_CHECK, TABLE_HOLDS, hold, sizeof(hold), 0);
	ask_put(a, TABLE_HOLDS, hold, sizeof(hold), 0);
	ask_journal(a, 0);
	group_end(a);
	t->held = t->version[0];
}

/* A TAKE whose fate nobody knows is given back as well: if it had no effect, the check
 * of its hold fails. */
static void
taken(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	int result = answers[0].result;

	t->step = result == FRAME_APPLIED || result == -ETIMEDOUT ? TXN_GIVE : TXN_FREE;
	t->after = chaos_now() + chaos_random(c, 300 * MS);
	t->tries = 0;
}

static void
give(struct asking *a)
{
	struct chaos *c = a->chaos;
	struct txn *t = a->txn;
	uint32_t key = t->partition, hold[2] = { key, t->member };
	uint32_t quarantine_ms = one_in(c, 3) ? 0 : 100 + (uint32_t)chaos_random(c, 300);

	group_begin(a);
	ask_check(a, FRAME_CHECK, TABLE_HOLDS, hold, sizeof(hold), t->held);
	ask_delete(a, TABLE_HOLDS, hold, sizeof(hold));
	ask_give(a, key, t->member, quarantine_ms);
	ask_journal(a, t->held);
	group_end(a);
}

static void
given(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	bool again = answers[0].result < 0 && (!c->stopping || t->tries < 3);

	t->tries++;
	t->step = again ? TXN_GIVE : TXN_FREE;
	t->after = chaos_now() + chaos_random(c, 100 * MS);
}

/* Finds what an earlier incarnation of this client held when it was killed. */
static void
read_hold(struct asking *a)
{
	struct txn *t = a->txn;
	uint32_t hold[2] = { t->partition, (uint32_t)chaos_random(a->chaos, N_MEMBERS) };

	t->member = hold[1];
	ask_read(a, TABLE_HOLDS, hold, sizeof(hold));
}

static void
hold_read(struct chaos *c, struct txn *t, const struct txn_answer *answers)
{
	unsigned int owner = txn_who(answers[0].value.version);

	t->step = TXN_FREE;
	if (answers[0].result != FRAME_HIT || owner >> 8 != c->who >> 8 ||
	    owner >= c->who)
		return;
	t->held = answers[0].value.version;
	t->tries = 0;
	next_step(c, t, TXN_GIVE);
}

/* --- Timers ----------------------------------------------------------------------- */

static void
put_timer(struct asking *a)
{
	uint32_t idle_ms = 100 + (uint32_t)chaos_random(a->chaos, 700);

	ask_put(a, TABLE_TIMERS, &a->txn->timer, sizeof(a->txn->timer), idle_ms);
}

/* Plain reads look at it, and touch it. */
static void
remember_timer(struct chaos *c, const struct txn *t)
{
	unsigned int i = c->n_timers++ % RECENT_TIMERS;

	c->recent_timer[i] = t->timer;
	c->recent_partition[i] = t->partition;
}

static void
arm(struct asking *a)
{
	struct txn *t = a->txn;

	group_begin(a);
	t->timer = group_version(a);
	remember_timer(a->chaos, t);
	put_timer(a);
	ask_journal(a, 0);
	group_end(a);
}

void
txn_settle(struct chaos *c, struct txn *t, const struct store_lease *lease)
{
	const struct frame_lease *r = &lease->record;
	uint64_t key = 0;

	if (r->key_bytes == sizeof(key))
		memcpy(&key, r->key, sizeof(key));
	history_add(&c->history, "L %" PRIu64 " %u %u ", chaos_now(), lease->partition,
		    r->table);
	history_bytes(&c->history, r->key, r->key_bytes);
	history_add(&c->history, "/%" PRIx64, r->version);
	history_value(&c->history, r->value, r->value_bytes);
	history_add(&c->history, "\n");
	/* One that is forgotten is leased again. */
	if (t == NULL || (!c->drain && one_in(c, 10)))
		return;
	*t = (struct txn){ .partition = lease->partition, .timer = key };
	t->seen[0] = r->version;
	remember_timer(c, t);
	next_step(c, t, TXN_SETTLE);
	/* Others touch it meanwhile, or get the lease. */
	if (!c->drain && one_in(c, 4))
		t->after = chaos_now() + chaos_random(c, 1500 * MS);
}

static void
settle(struct asking *a)
{
	struct chaos *c = a->chaos;
	struct txn *t = a->txn;

	group_begin(a);
	ask_check(a, FRAME_SETTLE, TABLE_TIMERS, &t->timer, sizeof(t->timer), t->seen[0]);
	if (!c->drain && !c->stopping && one_in(c, 3))
		put_timer(a);
	ask_add(a, key_in(t, N_COUNTERS - 1), 0, 1, INT64_MAX);
	ask_journal(a, t->timer);
	group_end(a);
}

/* --- Plain reads ------------------------------------------------------------------ */

/* Where they are put: sometimes to a timer of this client's. */
static void
look_where(struct chaos *c, struct txn *t)
{
	unsigned int i = (unsigned int)chaos_random(c, RECENT_TIMERS);

	if (c->recent_timer[i] == 0 || one_in(c, 2))
		return;
	t->timer = c->recent_timer[i];
	t->partition = c->recent_partition[i];
}

static void
look(struct asking *a)
{
	struct chaos *c = a->chaos;
	struct txn *t = a->txn;
	unsigned int n = 1 + (unsigned int)chaos_random(c, MAX_READS);

	for (unsigned int i = t->timer != 0; i < n; i++) {
		uint32_t k = key_in(t, (unsigned int)chaos_random(c, N_KEYS));
		uint32_t counter = key_in(t, (unsigned int)chaos_random(c, N_COUNTERS));

		if (one_in(c, 2))
			ask_read(a, TABLE_COUNTERS, &counter, sizeof(counter));
		else
			ask_read(a, TABLE_KEYS, &k, sizeof(k));
	}
	if (t->timer == 0)
		return;
	if (t->n_answers == 0 || one_in(c, 2))
		ask_read(a, TABLE_TIMERS, &t->timer, sizeof(t->timer));
	else
		ask_touch(a, TABLE_TIMERS, &t->timer, sizeof(t->timer));
}

/* --- All of them ------------------------------------------------------------------ */

static const struct {
	void (*ask)(struct asking *);
	void (*answered)(struct chaos *, struct txn *, const struct txn_answer *);
	bool reads;
	unsigned int share;			/* Of what is started, in 100. */
} steps[] = {
	[TXN_READ_KEYS] = { read_keys, keys_read, true, 40 },
	[TXN_WRITE_KEYS] = { write_keys, txn_end, false, 0 },
	[TXN_READ_COUNTERS] = { read_counters, counters_read, true, 20 },
	[TXN_ADD] = { add, txn_end, false, 0 },
	[TXN_PICK] = { pick, picked, true, 15 },
	[TXN_TAKE] = { take, taken, false, 0 },
	[TXN_GIVE] = { give, given, false, 0 },
	[TXN_READ_HOLD] = { read_hold, hold_read, true, 5 },
	[TXN_ARM] = { arm, txn_end, false, 5 },
	[TXN_SETTLE] = { settle, txn_end, false, 0 },
	[TXN_LOOK] = { look, txn_end, true, 15 },
};

void
txn_start(struct chaos *c, struct txn *t)
{
	unsigned int draw = (unsigned int)chaos_random(c, 100), step = TXN_READ_KEYS;

	for (; draw >= steps[step].share; step++)
		draw -= steps[step].share;
	*t = (struct txn){
		.step = step,
		.partition = (unsigned int)chaos_random(c, c->n_partitions),
		.after = chaos_now() + chaos_random(c, 20 * MS),
	};
	if (step == TXN_LOOK)
		look_where(c, t);
}

void
txn_ask(struct chaos *c, struct txn *t, struct frame *f)
{
	struct asking a = { .chaos = c, .txn = t, .frame = f };

	t->n_groups = t->n_answers = 0;
	t->asked = true;
	if (!steps[t->step].reads) {
		steps[t->step].ask(&a);
		return;
	}
	t->version[0] = next_version(c);
	history_add(&c->history, "R %" PRIu64 " %" PRIx64 " %u", chaos_now(),
		    t->version[0], t->partition);
	steps[t->step].ask(&a);
	history_add(&c->history, "\n");
}

static const char *
answer_word(int result)
{
	static const char *const words[FRAME_N_ANSWERS] = {
		"miss", "hit", "applied", "conflict", "refused", "bound", "full",
	};

	switch (result) {
	case -ETIMEDOUT:
		return "unknown";
	case -ENOTCONN:
		return "unsent";
	}
	return result < 0 ? "wrong" : words[result];
}

static void
history_answers(struct chaos *c, const struct txn *t, bool final,
		const struct txn_answer *answers)
{
	struct history *h = &c->history;
	uint64_t now = chaos_now();

	for (unsigned int i = 0; i < t->n_groups; i++)
		history_add(h, "%c %" PRIu64 " %" PRIx64 " %u %s\n", final ? 'A' : 'N',
			    now, t->version[i], t->partition,
			    answer_word(answers[i].result));
	if (t->n_groups > 0)
		return;
	history_add(h, "V %" PRIu64 " %" PRIx64 " %u", now, t->version[0], t->partition);
	for (unsigned int i = 0; i < t->n_answers; i++) {
		const struct frame_value *v = &answers[i].value;

		history_add(h, " %s", answer_word(answers[i].result));
		if (answers[i].result == FRAME_HIT) {
			history_add(h, "/%" PRIx64, v->version);
			history_value(h, v->value, v->value_bytes);
		}
	}
	history_add(h, "\n");
}

void
txn_answered(struct chaos *c, struct txn *t, bool final, const struct txn_answer *answers)
{
	history_answers(c, t, final, answers);
	if (t->n_groups > 0 && !final)
		return;
	t->asked = false;
	steps[t->step].answered(c, t, answers);
}

/*
 * lb_health.c - which backends are up, by checks that the fleet makes together.
 *
 * Each backend, with the way in which it is checked, is a target, and has a record.  Its
 * idle time is the interval of the check: when it passes, one of the instances gets the
 * record, writes it anew and asks for a probe, of which it is told in done().  If that
 * instance dies, the next interval is another one's.
 *
 * All targets are listed in a few boards, each with a bit that says whether it is down.
 * A note is made of the boards alone.  A target's record lies in the partition of its
 * board, and both change together: what a board lists has a record.  Targets that a board
 * does not list are added by the note of whoever misses them; and one target, chosen by
 * chance, is looked after in each note, in case that a store lost its record alone.
 *
 * A record whose target no instance knows any more is passed on for a while, as another
 * instance may know it, and then deleted.
 *
 * A target that changes more than MAX_CHANGES times in a window of WINDOW probes has to
 * rise for twice as long, up to eight times; each window that is calmer takes one such
 * doubling back.
 */
#include "nf/lb_health.h"

#include "base/hash.h"
#include "nf/lb_probe.h"
#include "nf/lb_target.h"

enum {
	BOARD_ENTRIES = 255,
	ADDED_AT_ONCE = NF_MAX_WRITES - 1,	/* Besides their board. */
	WINDOW = 60,				/* Probes. */
	MAX_CHANGES = 5,
	MAX_DAMPING = 3,			/* Doublings of 'rise'. */
	STRANGER_MS = 250,
	MAX_STRANGERS = 100,
	FIRST_PROBE_MS = 500,
};

enum state {
	UNKNOWN,				/* Not probed yet: taken for up. */
	UP,
	DOWN,
};

struct health {
	uint64_t probe;				/* The last one asked for... */
	uint64_t counted;			/* ...and the last whose result was one. */
	uint64_t changed;			/* When the state did: by probe. */
	uint32_t cause;				/* Of the last failure: lb_probe.h. */
	uint16_t against;			/* Results in a row that contradict 'state'. */
	uint16_t n_probes, n_changes;		/* In this window. */
	uint8_t state;				/* enum state */
	uint8_t damping;
	uint8_t strangers;			/* Instances in a row that do not know it. */
	uint8_t zero[3];
};

static_assert(sizeof(struct health) == 40, "no padding");

/* Names of targets, in ascending order; the lowest bit of an entry is set if that one is
 * down.  Only as long as it is. */
struct health_board {
	uint64_t entry[BOARD_ENTRIES];
};

static void health_expired(struct nf_run *r, const void *key, const void *value);
static uint32_t target_spread(const void *key, unsigned int key_bytes);
static uint32_t board_spread(const void *key, unsigned int key_bytes);

static const char *const state_words[] = { "unknown", "up", "down", NULL };

static const struct nf_field key_fields[] = {
	{ "backend", NF_FIELD_ENDPOINT, offsetof(struct target_key, backend),
	  sizeof(struct endpoint) },
	{ "board", NF_FIELD_UINT, offsetof(struct target_key, board), 4 },
	{ "check", NF_FIELD_UINT, offsetof(struct target_key, check), 8 },
	{ 0 }
};

static const struct nf_field health_fields[] = {
	{ "state", NF_FIELD_WORD, offsetof(struct health, state), 1, state_words },
	{ "probe", NF_FIELD_UINT, offsetof(struct health, probe), 8 },
	{ "changed", NF_FIELD_UINT, offsetof(struct health, changed), 8 },
	{ "cause", NF_FIELD_UINT, offsetof(struct health, cause), 4 },
	{ "against", NF_FIELD_UINT, offsetof(struct health, against), 2 },
	{ "damping", NF_FIELD_UINT, offsetof(struct health, damping), 1 },
	{ 0 }
};

NF_TABLE(health, struct target_key, struct health, .idle_ms = 2000,
	 .expired = health_expired, .spread = target_spread, .key_fields = key_fields,
	 .fields = health_fields)
NF_TABLE(health_board, uint32_t, struct health_board, .spread = board_spread)

static uint32_t
target_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct target_key *)key)->board;
}

static uint32_t
board_spread(const void *key, unsigned int key_bytes)
{
	uint32_t board;

	(void)key_bytes;
	memcpy(&board, key, sizeof(board));
	return board;
}

static const struct lb_health *
health_of(const void *state)
{
	return *(struct lb_health *const *)state;
}

/* --- boards -------------------------------------------------------------------- */

struct board {
	const uint64_t *entry;
	unsigned int n;
};

static struct board
board_peek(struct nf_run *r, uint32_t number)
{
	unsigned int bytes = 0;
	const void *v = nf_table_read(r, &health_board_table, &number, sizeof(number),
				      NF_PEEK, &bytes);

	v = nf_table_sized(r, v, bytes, bytes & ~7U);
	return (struct board){ v, v != NULL ? bytes / 8 : 0 };
}

static void
board_write(struct nf_run *r, uint32_t number, const uint64_t *entry, unsigned int n)
{
	if (n > 0)
		nf_table_write(r, &health_board_table, &number, sizeof(number), entry,
			       n * 8, NF_KEPT, 0);
	else
		nf_table_delete(r, &health_board_table, &number, sizeof(number));
}

/* Where the entry of that name is, or would be. */
static unsigned int
board_find(const struct board *b, uint64_t name, bool *there)
{
	unsigned int i = 0;

	while (i < b->n && (b->entry[i] & ~1ULL) < name)
		i++;
	*there = i < b->n && (b->entry[i] & ~1ULL) == name;
	return i;
}

/* Sets whether a target is down.  What is not listed, its instances' notes will list. */
static void
board_set(struct nf_run *r, uint32_t number, const struct board *b, uint64_t name,
	  bool down)
{
	uint64_t entry[BOARD_ENTRIES];
	bool there;
	unsigned int at = board_find(b, name, &there);

	if (!there || b->n > BOARD_ENTRIES)
		return;
	memcpy(entry, b->entry, b->n * sizeof(entry[0]));
	entry[at] = name | down;
	board_write(r, number, entry, b->n);
}

static void
board_remove(struct nf_run *r, uint32_t number, const struct board *b, uint64_t name)
{
	uint64_t entry[BOARD_ENTRIES];
	bool there;
	unsigned int at = board_find(b, name, &there);

	if (!there || b->n > BOARD_ENTRIES)
		return;
	memcpy(entry, b->entry, at * sizeof(entry[0]));
	memcpy(entry + at, b->entry + at + 1, (b->n - at - 1) * sizeof(entry[0]));
	board_write(r, number, entry, b->n - 1);
}

/* --- notes --------------------------------------------------------------------- */

/* 0 to n - 1, another for another 'what'. */
static uint32_t
chance(const struct nf_run *r, uint64_t what, uint32_t n)
{
	return (uint32_t)(hash_fold(nf_random(r), what | 1) >> 16) % n;
}

/* A record for a target that has none, to be probed soon. */
static void
target_begin(struct nf_run *r, const struct target *t)
{
	struct health new = { .state = UNKNOWN };
	uint64_t most = t->check.interval_ms;

	if (most > FIRST_PROBE_MS)
		most = FIRST_PROBE_MS;
	health_write_for(r, &t->key, &new, 1 + chance(r, t->name, (uint32_t)most));
}

/* Enters targets that the board does not list, as many as can be in one group. */
static void
board_extend(struct nf_run *r, const struct lb_health *h, uint32_t number,
	     const struct board *b)
{
	uint64_t entry[BOARD_ENTRIES];
	unsigned int n = 0, n_added = 0, at = 0;
	unsigned int user = h->first[number], end = h->first[number + 1];

	while (n < BOARD_ENTRIES && (at < b->n || user < end)) {
		uint64_t old = at < b->n ? b->entry[at] & ~1ULL : UINT64_MAX;
		uint64_t own = user < end ? h->user[user].name : UINT64_MAX;

		if (own >= old) {
			entry[n++] = b->entry[at++];
		} else if (n_added < ADDED_AT_ONCE && b->n + n_added < BOARD_ENTRIES) {
			entry[n++] = own;
			target_begin(r, &h->target[h->user[user].target]);
			n_added++;
		}
		while (user < end && h->user[user].name == own && own <= old)
			user++;
	}
	if (n_added > 0)
		board_write(r, number, entry, n);
}

/* Notes who of a board is down.  Returns whether all of the instance's are listed. */
static bool
board_note(const struct lb_health *h, uint32_t number, const struct board *b,
	   struct lb_health_note *note)
{
	unsigned int at = 0;
	bool all = true;

	for (unsigned int i = h->first[number]; i < h->first[number + 1]; i++) {
		const struct user *u = &h->user[i];

		while (at < b->n && (b->entry[at] & ~1ULL) < u->name)
			at++;
		if (at < b->n && (b->entry[at] & ~1ULL) == u->name)
			note->down[u->service] |= (b->entry[at] & 1) << u->backend;
		else
			all = false;
	}
	return all;
}

/* The one that is looked after has no record, although its board lists it: it begins
 * anew. */
static void
target_restore(struct nf_run *r, const struct target *t, const struct board *b)
{
	bool there;

	board_find(b, t->name, &there);
	if (!there)
		return;
	board_set(r, t->key.board, b, t->name, false);
	target_begin(r, t);
}

void
lb_health_note(struct nf_run *r, void *to)
{
	const struct lb_health *h = health_of(nf_static(r));
	struct board board[TARGET_BOARDS] = { { 0 } };
	const struct health *record;
	const struct target *t;
	uint32_t start;

	if (h == NULL || h->n_users == 0)
		return;
	for (uint32_t i = 0; i < TARGET_BOARDS; i++)
		if (h->first[i] < h->first[i + 1])
			board[i] = board_peek(r, i);
	t = &h->target[chance(r, 0, h->n_targets)];
	record = health_peek(r, &t->key);
	if (nf_pending(r))
		return;

	uint32_t incomplete = TARGET_BOARDS;

	start = chance(r, 2, TARGET_BOARDS);
	for (uint32_t i = 0; i < TARGET_BOARDS; i++) {
		uint32_t number = (start + i) % TARGET_BOARDS;

		if (!board_note(h, number, &board[number], to))
			incomplete = number;
	}
	if (incomplete < TARGET_BOARDS)
		board_extend(r, h, incomplete, &board[incomplete]);
	else if (record == NULL)
		target_restore(r, t, &board[t->key.board]);
}

/* --- probes -------------------------------------------------------------------- */

/* What a task is about. */
struct probe {
	struct target_key key;
	uint64_t number;
};

static_assert(sizeof(struct probe) <= NF_MAX_TASK_BYTES, "fits");

/* The interval, give or take the half of its jitter; what has passed of it is over. */
static uint32_t
next_interval(const struct nf_run *r, const struct target *t, uint32_t elapsed_ms)
{
	const struct lb_check *c = &t->check;
	uint64_t spread = c->interval_ms * c->jitter / 100;
	uint64_t ms = c->interval_ms - spread / 2 +
		      chance(r, t->name, (uint32_t)spread + 1);

	return (uint32_t)(ms > elapsed_ms ? ms - elapsed_ms : 1);
}

/* Nobody may know it any more. */
static void
pass_on(struct nf_run *r, const struct target_key *key, struct health *next)
{
	struct board b;

	if (++next->strangers < MAX_STRANGERS) {
		health_write_for(r, key, next, STRANGER_MS);
		return;
	}
	b = board_peek(r, key->board);
	if (!nf_pending(r))
		board_remove(r, key->board, &b, target_name(key));
}

static void
health_expired(struct nf_run *r, const void *from, const void *value)
{
	const struct target_key *key = from;
	const struct target *t = target_find(health_of(nf_static(r)), key);
	struct health next = *(const struct health *)value;

	if (t == NULL) {
		pass_on(r, key, &next);
		return;
	}

	struct probe probe = { *key, ++next.probe };

	next.strangers = 0;
	if (++next.n_probes == WINDOW) {
		next.n_probes = 0;
		next.n_changes = 0;
		next.damping -= next.damping > 0;
	}
	health_write_for(r, key, &next, next_interval(r, t, 0));
	nf_task(r, &probe, sizeof(probe));
}

unsigned int
lb_health_work(const void *state, const void *task, unsigned int bytes, void *result)
{
	const struct probe *probe = task;
	const struct target *t = target_find(health_of(state), &probe->key);
	struct lb_probe_result *to = result;

	(void)bytes;
	if (t != NULL)
		lb_probe(&t->check, &t->key.backend, to);
	else
		to->cause = LB_PROBE_UNKNOWN;
	return sizeof(*to);
}

/* Whether a result makes the state another one. */
static bool
count_result(const struct lb_check *c, struct health *h, bool good)
{
	uint64_t needed = 1;

	if (h->state == UP && !good)
		needed = c->fall;
	else if (h->state == DOWN && good)
		needed = c->rise << h->damping;
	else if (h->state != UNKNOWN) {
		h->against = 0;
		return false;
	}
	if (++h->against < needed)
		return false;
	h->against = 0;
	return true;
}

static void
change(struct health *h, uint64_t probe, bool good)
{
	h->n_changes += h->state != UNKNOWN;
	h->state = good ? UP : DOWN;
	h->changed = probe;
	if (h->n_changes <= MAX_CHANGES)
		return;
	h->n_changes = 0;
	h->n_probes = 0;
	h->damping += h->damping < MAX_DAMPING;
}

void
lb_health_done(struct nf_run *r, const void *task, const void *result)
{
	const struct probe *probe = task;
	const struct lb_probe_result *of = result;
	const struct target *t = target_find(health_of(nf_static(r)), &probe->key);
	const struct health *now;
	bool good = of->cause == 0, begins;
	struct board b;

	if (t == NULL || of->cause == LB_PROBE_UNKNOWN)
		return;
	now = health_peek(r, &t->key);
	b = board_peek(r, t->key.board);
	/* One that comes late may be older than what is known. */
	if (nf_pending(r) || now == NULL || probe->number <= now->counted)
		return;
	/* As ever: nothing to write. */
	if (now->state == (good ? UP : DOWN) && now->against == 0)
		return;

	struct health next = *now;

	next.counted = probe->number;
	begins = next.state == UNKNOWN && good;
	if (!good)
		next.cause = of->cause;
	if (count_result(&t->check, &next, good)) {
		change(&next, probe->number, good);
		board_set(r, t->key.board, &b, t->name, !good);
		if (!begins)
			nf_log(r, good ? LB_HEALTH_UP : LB_HEALTH_DOWN, NULL,
			       &t->key.backend, good ? probe->number : of->cause);
	}
	health_write_for(r, &t->key, &next, next_interval(r, t, of->elapsed_ms));
}

/*
 * test_model.h - random operations, written to a frame and done to a plain model of what
 * should be there.
 *
 * Tables 0 and 1 are plain, 2 is leased, 3 holds ranges.  What is evicted from table 4 is
 * not modelled, only that copies agree on it.
 */
#ifndef TEST_MODEL_H
#define TEST_MODEL_H

#include "test_partition.h"
#include "test_random.h"

enum {
	N_TABLES = 3,				/* Of records. */
	LEASED = 2,
	RANGES = 3,
	LIMITED = 4,
	LIMIT = 20,
	N_KEYS = 200,
	N_RANGES = 4,
	N_MEMBERS = 150,
	N_CLIENTS = 4,
	MAX_IDLE_MS = 3000,
	MAX_VALUE = 400,
	MAX_ANSWERS = 300,
	ADD_BYTES = 16,
};

/* What a record should be. */
struct model_record {
	uint64_t version;			/* 0: absent. */
	uint64_t touched_ms, leased_ms;
	uint32_t idle_ms;
	uint16_t value_bytes;
	uint8_t format;
	uint8_t value[MAX_VALUE];
	unsigned int in_group;			/* The last group to write it... */
	bool added;				/* ...by an ADD. */
};

struct model_member {
	bool taken;
	uint32_t quarantine_ms;			/* 0: none */
	uint64_t given_ms;
	unsigned int in_group;
};

struct model_range {
	uint32_t n_members;			/* 0: absent. */
	struct model_member member[N_MEMBERS];
};

/* What a frame should be answered. */
struct model_answer {
	enum frame_answer answer, or_else;
	bool pick;
	struct model_record record;
	bool may[N_MEMBERS];			/* PICK: what it may be. */
};

/* What a group changed, as it was. */
struct model_undo {
	struct model_record *record;
	struct model_record record_was;
	struct model_range *range;
	struct model_range range_was;
};

static struct model {
	struct test_random random;
	struct partition *p, *replica;
	uint64_t now_ms, last_version;
	uint64_t frame_id[N_CLIENTS];
	struct model_record record[N_TABLES][N_KEYS];
	struct model_range range[N_RANGES];
	struct model_answer want[MAX_ANSWERS + 1];
	unsigned int n_want, n_undo, n_group;
	struct model_undo undo[FRAME_MAX_GROUP_OPS];
	bool conflict, bound;			/* Of the group being written. */
	struct test_frame frame;
	struct buffer reply, effects;
} m;

static inline uint32_t
below(uint32_t n)
{
	return test_random_below(&m.random, n);
}

static inline struct partition *
partition_with_tables(void)
{
	struct partition *p = test_partition_new(test_seed);

	test_declare(p, "a", 0, 0);
	test_declare(p, "b", 0, 0);
	test_declare(p, "leased", CORE_LEASED, 0);
	test_declare(p, "ranges", 0, 0);
	test_declare(p, "limited", CORE_EVICT, LIMIT);
	return p;
}

/* Lengths of keys from 2 to 64. */
static inline uint8_t
key_of(unsigned int i, uint8_t *key)
{
	uint8_t bytes = (uint8_t)(2 + i % 63);

	memset(key, (int)(i >> 3), bytes);
	key[0] = (uint8_t)i;
	key[1] = (uint8_t)(i >> 8);
	return bytes;
}

/* Ticks are what expiry counts in: the time of the last touch is known to one. */
static inline bool
passed(uint64_t from_ms, uint32_t idle_ms)
{
	uint64_t ticks = (m.now_ms - 1000) / 100 - (from_ms - 1000) / 100;

	return idle_ms != 0 && ticks > (idle_ms + 99) / 100;
}

static inline struct model_record *
current(unsigned int table, unsigned int key)
{
	struct model_record *r = &m.record[table][key];

	if (table != LEASED && r->version != 0 && passed(r->touched_ms, r->idle_ms))
		r->version = 0;
	return r;
}

static inline bool
due(const struct model_record *r)
{
	return r->version != 0 && passed(r->touched_ms, r->idle_ms);
}

/* A quarantine that has passed may have been seen to, or not. */
static inline bool
unsure(const struct model_member *member)
{
	return member->quarantine_ms != 0 &&
	       passed(member->given_ms, member->quarantine_ms);
}

/* --- Frames --------------------------------------------------------------------- */

static inline void
model_read(void)
{
	static const enum frame_op_kind kinds[] = { FRAME_READ, FRAME_PEEK, FRAME_TOUCH };
	enum frame_op_kind kind = kinds[below(3)];
	uint8_t table = (uint8_t)below(N_TABLES), key[64];
	unsigned int i = below(N_KEYS);
	struct model_record *r = current(table, i);

	frame_key_op(&m.frame.f, kind, table, key, key_of(i, key));
	if (kind != FRAME_TOUCH)
		m.want[m.n_want++] = (struct model_answer){
			.answer = r->version == 0 ? FRAME_MISS : FRAME_HIT,
			.record = *r,
		};
	if (kind != FRAME_PEEK)
		r->touched_ms = m.now_ms;
}

static inline void
model_pick(void)
{
	unsigned int i = below(N_RANGES);
	struct model_answer *want = &m.want[m.n_want++];
	uint32_t n = 1 + below(N_MEMBERS);
	uint8_t key[64];
	bool all = true, none = true;

	frame_pick(&m.frame.f, RANGES, key, key_of(i, key), n);
	memset(want, 0, sizeof(*want));
	for (uint32_t at = 0; at < n; at++) {
		const struct model_member *member = &m.range[i].member[at];

		want->may[at] = !member->taken || unsure(member);
		all &= member->taken;		/* For sure, or for all we know. */
		none &= !want->may[at];
	}
	want->pick = true;
	want->answer = none ? FRAME_MISS : FRAME_HIT;
	want->or_else = all ? FRAME_MISS : want->answer;
}

/* Notes what a record or a range was before the group changes it. */
static inline void
note(struct model_record *r, struct model_range *range)
{
	struct model_undo *undo = &m.undo[m.n_undo++];

	undo->record = r;
	undo->range = range;
	if (r != NULL)
		undo->record_was = *r;
	else
		undo->range_was = *range;
}

static inline bool
model_put(uint64_t version)
{
	uint8_t table = (uint8_t)below(N_TABLES), key[64];
	unsigned int i = below(N_KEYS);
	struct model_record *r = &m.record[table][i];

	if (r->in_group == m.n_group && r->added)
		return false;
	note(r, NULL);
	r->version = version;
	r->idle_ms = below(3) == 0 ? 0 : below(MAX_IDLE_MS);
	r->touched_ms = m.now_ms;
	r->leased_ms = 0;
	r->value_bytes = (uint16_t)below(below(20) == 0 ? MAX_VALUE + 1 : 50);
	r->format = (uint8_t)below(256);
	r->in_group = m.n_group;
	r->added = false;
	memset(r->value, (int)below(256), r->value_bytes);
	frame_put(&m.frame.f, table, key, key_of(i, key), r->format, r->value,
		  r->value_bytes, (uint8_t)below(2), r->idle_ms);
	return true;
}

static inline bool
model_delete(void)
{
	uint8_t table = (uint8_t)below(N_TABLES), key[64];
	unsigned int i = below(N_KEYS);
	struct model_record *r = &m.record[table][i];

	if (r->in_group == m.n_group && r->added)
		return false;
	note(r, NULL);
	r->version = 0;
	r->in_group = m.n_group;
	r->added = false;
	frame_delete(&m.frame.f, table, key, key_of(i, key));
	return true;
}

/* Judged by what was there before the group, so by what it has not written yet. */
static inline bool
model_settle(void)
{
	unsigned int i = below(N_KEYS);
	struct model_record *r = &m.record[LEASED][i];
	uint64_t is = r->version;
	uint8_t key[64];

	for (unsigned int n = 0; !due(r) && n < N_KEYS && below(8) != 0; n++)
		r = &m.record[LEASED][i = (i + 1) % N_KEYS];
	is = below(8) == 0 ? r->version + 1 : r->version;
	if (r->in_group == m.n_group || is == 0)
		return false;
	m.conflict |= is != r->version || !due(r);
	note(r, NULL);
	r->version = 0;
	r->in_group = m.n_group;
	r->added = false;
	frame_check(&m.frame.f, FRAME_SETTLE, LEASED, key, key_of(i, key), is);
	return true;
}

static inline bool
model_add(uint64_t version)
{
	uint8_t table = (uint8_t)below(N_TABLES), key[64];
	unsigned int i = below(N_KEYS);
	struct model_record *r = current(table, i);
	uint16_t offset = (uint16_t)below(ADD_BYTES - 7);
	int64_t numbers[3] = { (int64_t)below(100) - 50, -1000, 1000 }, field = 0;

	if (r->in_group == m.n_group)
		return false;
	note(r, NULL);
	if (below(2) == 0)
		numbers[1] = INT64_MIN, numbers[2] = INT64_MAX;
	if (r->version == 0) {
		r->value_bytes = ADD_BYTES;
		r->format = 9;
		memset(r->value, 0, ADD_BYTES);
	}
	r->version = version;
	r->idle_ms = below(3) == 0 ? 0 : below(MAX_IDLE_MS);
	r->touched_ms = m.now_ms;
	r->leased_ms = 0;
	r->in_group = m.n_group;
	r->added = true;
	frame_add(&m.frame.f, table, key, key_of(i, key), 9, ADD_BYTES, offset,
		  r->idle_ms, numbers);
	if (offset + 8 > r->value_bytes) {
		m.bound = true;
		return true;
	}
	memcpy(&field, r->value + offset, 8);
	m.bound |= __builtin_add_overflow(field, numbers[0], &field) ||
		   field < numbers[1] || field > numbers[2];
	memcpy(r->value + offset, &field, 8);
	return true;
}

static inline bool
model_member(bool take)
{
	unsigned int i = below(N_RANGES);
	struct model_range *range = &m.range[i];
	uint32_t at = below(below(2) == 0 ? 5 : N_MEMBERS);
	uint32_t n = at + 1 + below(N_MEMBERS - at);
	uint32_t quarantine_ms = below(2) == 0 ? 0 : 1 + below(MAX_IDLE_MS);
	struct model_member *member = &range->member[at];
	uint8_t key[64];

	if (member->in_group == m.n_group || unsure(member))
		return false;
	note(NULL, range);
	member->in_group = m.n_group;
	if (take) {
		frame_take(&m.frame.f, RANGES, key, key_of(i, key), 7, n, at);
		m.conflict |= member->taken;
		member->taken = true;
		range->n_members = n > range->n_members ? n : range->n_members;
		return true;
	}
	frame_give(&m.frame.f, RANGES, key, key_of(i, key), quarantine_ms, at);
	m.conflict |= !member->taken || member->quarantine_ms != 0;
	member->taken = quarantine_ms != 0;
	member->quarantine_ms = quarantine_ms;
	member->given_ms = m.now_ms;
	return true;
}

static inline bool
model_write(uint64_t version)
{
	switch (below(10)) {
	case 0:
	case 1:
		return model_delete();
	case 2:
		return model_settle();
	case 3:
		return model_add(version);
	case 4:
	case 5:
		return model_member(true);
	case 6:
		return model_member(false);
	default:
		return model_put(version);
	}
}

/* Checks first, which is how the store sees it; keys may repeat in a group. */
static inline void
model_group(void)
{
	unsigned int n_checks = below(4), n_writes = 1 + below(below(10) == 0 ? 28 : 4);
	uint64_t version = ++m.last_version;
	uint8_t *group = frame_group(&m.frame.f, version);
	uint8_t key[64];

	m.n_undo = 0;
	m.n_group++;
	m.conflict = m.bound = false;
	for (unsigned int n = 0; n < n_checks; n++) {
		uint8_t table = (uint8_t)below(N_TABLES);
		unsigned int i = below(N_KEYS);
		uint64_t is = current(table, i)->version;
		bool wrong = below(6) == 0;

		frame_check(&m.frame.f, FRAME_CHECK, table, key, key_of(i, key),
			    wrong ? is + 1 : is);
		m.conflict |= wrong;
	}
	for (unsigned int n = 0; n < n_writes;)
		n += model_write(version);
	frame_group_end(group, (uint8_t)(n_checks + n_writes));
	while ((m.conflict || m.bound) && m.n_undo > 0) {
		struct model_undo *undo = &m.undo[--m.n_undo];

		if (undo->record != NULL)
			*undo->record = undo->record_was;
		else
			*undo->range = undo->range_was;
	}
	m.want[m.n_want++] = (struct model_answer){
		.answer = m.conflict ? FRAME_CONFLICT
				     : m.bound ? FRAME_BOUND : FRAME_APPLIED,
	};
	m.want[m.n_want - 1].or_else = m.want[m.n_want - 1].answer;
}

/* A group that only touches the limited table. */
static inline void
model_limited(void)
{
	uint8_t *group = frame_group(&m.frame.f, ++m.last_version), key[64];
	uint8_t n = (uint8_t)(1 + below(4));

	for (unsigned int i = 0; i < n; i++) {
		unsigned int number = below(3 * LIMIT);

		if (below(6) == 0)
			frame_delete(&m.frame.f, LIMITED, key, key_of(number, key));
		else
			frame_put(&m.frame.f, LIMITED, key, key_of(number, key), 1, "",
				  0, (uint8_t)below(2), below(9) * 10000);
	}
	frame_group_end(group, n);
	m.want[m.n_want++] = (struct model_answer){ .answer = FRAME_APPLIED,
						    .or_else = FRAME_FULL };
}

#endif

/*
 * ranges.c - ranges: records whose value is a bitmap of members, such as a NAT's ports.
 *
 * PICK only proposes; TAKE in the group that uses the member makes sure of it.  What is
 * proposed is drawn from all free members alike, with a keyed generator: who sees some
 * of them learns nothing about the next.  The last picks are remembered for a while, and
 * not proposed again while there are others, so that those who ask at the same time do
 * not race for the same member when few are left; if all were, the oldest of these picks
 * is.  This memory is nobody's promise: it is neither saved nor copied.
 *
 * A PICK costs much the same however few are free: members are drawn as long as that
 * finds one soon, then groups of them, each free member still with the same chance unless
 * those that are free lie together; and only the last hundred are looked for one by one.
 *
 * A member that is given back with a quarantine stays taken.  A record of the core's own
 * table says for how long, and frees it in the end; as a record it is saved and copied
 * like any other.  A client may delete or overwrite a range, and with it the bits, but
 * not these records: so a TAKE asks for them too.
 *
 * Any bytes may have been put where a range is expected: only a value of just the length
 * that its number of members asks for is one.
 */
#include "store/partition.h"

#include <errno.h>

#include "base/siphash.h"

enum {
	RANGE_HEAD = 8,
	RANGE_WORDS = FRAME_MAX_MEMBERS / 64,
	RANGE_DRAWS = 8,			/* Of a member, if that many find one. */
	GROUP_WORDS = 8,			/* A group of members: a cache line. */
	GROUP_DRAWS = 48,			/* Before all members are looked at... */
	GROUP_MIN_WORDS = 64,			/* ...if these are not few... */
	GROUP_MIN_FREE = 128,			/* ...nor those that are free. */
	PICK_WAYS = 4,
	PICKS_REMEMBERED = PARTITION_PICKS / 2,	/* Nearly all of them. */
};

static const struct core_declaration quarantine_table = {
	.name = "snf.quarantine",
	.key_max = FRAME_MAX_KEY + QUARANTINE_KEY,
	.format = 1,
};

static_assert(FRAME_MAX_KEY + QUARANTINE_KEY <= TABLE_MAX_KEY, "a record's key");

/* --- Bitmaps -------------------------------------------------------------------- */

bool
range_size(const struct record *r, uint32_t *n_members)
{
	if (r->value_bytes < RANGE_HEAD)
		return false;
	memcpy(n_members, r->bytes + FRAME_PAD(r->key_bytes), 4);
	return *n_members <= FRAME_MAX_MEMBERS &&
	       frame_range_bytes(*n_members) == r->value_bytes;
}

static uint64_t
range_word(const struct record *r, uint32_t number)
{
	uint64_t word;

	memcpy(&word, r->bytes + FRAME_PAD(r->key_bytes) + RANGE_HEAD + number * 8, 8);
	return word;
}

static bool
range_taken(const struct record *r, uint32_t member)
{
	return (range_word(r, member / 64) >> member % 64 & 1) != 0;
}

void
range_mark(struct record *r, uint32_t member, bool taken)
{
	uint8_t *value = record_value(r);
	uint64_t word = range_word(r, member / 64);
	uint32_t n_taken;

	if (range_taken(r, member) == taken)
		return;
	word ^= (uint64_t)1 << member % 64;
	memcpy(value + RANGE_HEAD + member / 64 * 8, &word, 8);
	memcpy(&n_taken, value + 4, 4);
	n_taken += taken ? 1 : UINT32_MAX;
	memcpy(value + 4, &n_taken, 4);
}

/* --- PICK ----------------------------------------------------------------------- */

static inline uint64_t
draw(struct pick_random *random)
{
	uint64_t n = random->n_drawn++;

	return siphash(random->key, &n, sizeof(n));
}

/* From 0 to n - 1, out of 32 random bits. */
static inline uint32_t
below(uint32_t random, uint32_t n)
{
	return (uint32_t)((uint64_t)random * n >> 32);
}

/* A random 32 bits: every second time the other half of what was drawn. */
static inline uint32_t
draw_half(struct pick_random *random, uint64_t *drawn, unsigned int i)
{
	*drawn = i % 2 == 0 ? draw(random) : *drawn >> 32;
	return (uint32_t)*drawn;
}

/* Where a pick is remembered, one of PICK_WAYS, and what tells it from others. */
static inline struct pick_memory *
pick_slots(struct partition *p, const struct table_probe *probe, uint32_t member,
	   uint32_t *tag)
{
	uint64_t mixed = (probe->hash + member) * 0x9e3779b97f4a7c15u;

	*tag = (uint32_t)mixed ^ (uint32_t)(mixed >> 32);
	return &p->picks[(mixed >> 32) % (PARTITION_PICKS / PICK_WAYS) * PICK_WAYS];
}

/* How many picks ago the member was picked; UINT32_MAX: nobody remembers. */
static inline uint32_t
pick_age(struct partition *p, const struct table_probe *probe, uint32_t member)
{
	uint32_t tag, age = UINT32_MAX;
	const struct pick_memory *pick = pick_slots(p, probe, member, &tag);

	for (unsigned int i = 0; i < PICK_WAYS; i++)
		if (pick[i].tag == tag && pick[i].number != 0)
			age = p->n_picks - pick[i].number;
	return age < PICKS_REMEMBERED ? age : UINT32_MAX;
}

static inline bool
picked_lately(struct partition *p, const struct table_probe *probe, uint32_t member)
{
	return pick_age(p, probe, member) != UINT32_MAX;
}

/* Over what it was before, or what is the oldest there. */
static void
remember(struct partition *p, const struct table_probe *probe, uint32_t member)
{
	uint32_t tag, oldest = 0;
	struct pick_memory *pick = pick_slots(p, probe, member, &tag), *to = pick;

	for (unsigned int i = 0; i < PICK_WAYS; i++) {
		uint32_t age = pick[i].tag == tag || pick[i].number == 0
				       ? UINT32_MAX
				       : p->n_picks - pick[i].number;

		if (age > oldest) {
			oldest = age;
			to = &pick[i];
		}
	}
	p->n_picks += p->n_picks == UINT32_MAX ? 2 : 1;
	*to = (struct pick_memory){ tag, p->n_picks };
}

/* A bit for each free member in word 'i' of the first 'n'. */
static inline uint64_t
free_word(const struct record *r, uint32_t r_members, uint32_t n, uint32_t i)
{
	uint64_t word = i < (r_members + 63) / 64 ? ~range_word(r, i) : ~(uint64_t)0;

	return i == n / 64 ? word & (((uint64_t)1 << n % 64) - 1) : word;
}

/* The free member with 'number' free ones before it. */
static uint32_t
nth_member(const uint64_t *free, uint32_t number)
{
	uint32_t i = 0, n;
	uint64_t word;

	while (number >= (n = (uint32_t)__builtin_popcountll(free[i]))) {
		number -= n;
		i++;
	}
	for (word = free[i]; number > 0; number--)
		word &= word - 1;
	return i * 64 + (uint32_t)__builtin_ctzll(word);
}

static bool
draw_members(struct partition *p, const struct table_probe *probe,
	     const struct record *r, uint32_t r_members, uint32_t n, uint32_t *member)
{
	uint64_t random = 0;

	for (unsigned int i = 0; i < RANGE_DRAWS; i++) {
		*member = below(draw_half(&p->random, &random, i), n);
		if ((*member >= r_members || !range_taken(r, *member)) &&
		    !picked_lately(p, probe, *member))
			return true;
	}
	return false;
}

/* Draws a group, and a number: the free member that has it there, if any has.  So all
 * have the same chance, as long as no group has more than 'most' free ones. */
static bool
draw_from_groups(struct partition *p, const struct table_probe *probe,
		 const struct record *r, uint32_t r_members, uint32_t n, uint32_t n_free,
		 uint32_t *member)
{
	uint32_t n_words = (n + 63) / 64;
	uint32_t n_groups = (n_words + GROUP_WORDS - 1) / GROUP_WORDS;
	uint32_t most = 8 + 2 * n_free / n_groups;
	uint64_t free[GROUP_WORDS], random = 0;

	for (unsigned int i = 0; i < GROUP_DRAWS; i++) {
		uint32_t start = below(draw_half(&p->random, &random, 0), n_groups);
		uint32_t number = below((uint32_t)(random >> 32), most), found = 0;

		start *= GROUP_WORDS;
		for (uint32_t w = 0; w < GROUP_WORDS; w++) {
			free[w] = start + w < n_words
					  ? free_word(r, r_members, n, start + w)
					  : 0;
			found += (uint32_t)__builtin_popcountll(free[w]);
		}
		if (number >= found)
			continue;
		*member = start * 64 + nth_member(free, number);
		if (!picked_lately(p, probe, *member))
			return true;
	}
	return false;
}

/* Looks at all members. */
static bool
draw_from_all(struct partition *p, const struct table_probe *probe,
	      const struct record *r, uint32_t r_members, uint32_t n, uint32_t *member)
{
	uint64_t free[RANGE_WORDS + 1];
	uint32_t n_free = 0, oldest = 0;
	bool any = false;

	for (uint32_t i = 0; i < (n + 63) / 64; i++) {
		uint64_t word = free_word(r, r_members, n, i);

		free[i] = word;
		for (; word != 0; word &= word - 1) {
			uint32_t bit = (uint32_t)__builtin_ctzll(word);
			uint32_t age = pick_age(p, probe, i * 64 + bit);

			if (age == UINT32_MAX) {
				n_free++;
				continue;
			}
			free[i] ^= (uint64_t)1 << bit;
			if (!any || age > oldest) {
				oldest = age;
				*member = i * 64 + bit;
			}
			any = true;
		}
	}
	if (n_free > 0)
		*member = nth_member(free, below((uint32_t)draw(&p->random), n_free));
	return any || n_free > 0;
}

/* Free ones, as the record says. */
static uint32_t
free_members(const struct record *r, uint32_t r_members)
{
	uint32_t n_taken;

	memcpy(&n_taken, r->bytes + FRAME_PAD(r->key_bytes) + 4, 4);
	return n_taken < r_members ? r_members - n_taken : 0;
}

static bool
pick_member(struct partition *p, const struct table_probe *probe, const struct record *r,
	    uint32_t n, uint32_t *member)
{
	uint32_t r_members = 0, n_free = n;

	if (r != NULL && !range_size(r, &r_members))
		return false;
	if (n <= r_members)
		n_free = free_members(r, r_members);
	if (n_free == 0)
		return false;
	if (n < GROUP_MIN_WORDS * 64 || n_free >= n / RANGE_DRAWS) {
		if (draw_members(p, probe, r, r_members, n, member))
			return true;
	}
	if (n >= GROUP_MIN_WORDS * 64 && n_free >= GROUP_MIN_FREE &&
	    draw_from_groups(p, probe, r, r_members, n, n_free, member))
		return true;
	return draw_from_all(p, probe, r, r_members, n, member);
}

bool
range_pick(struct partition *p, const struct table_probe *probe, const struct record *r,
	   uint32_t n_members, uint32_t *member)
{
	if (!pick_member(p, probe, r, n_members, member))
		return false;
	remember(p, probe, *member);
	return true;
}

/* --- Quarantine ----------------------------------------------------------------- */

/* The key of a member's record of quarantine, put together in 'bytes'. */
static struct table_probe
quarantine_probe(const struct partition *p, const struct frame_op *op,
		 uint8_t bytes[TABLE_MAX_KEY])
{
	struct table_probe probe = {
		.key = bytes,
		.table = p->quarantine,
		.key_bytes = (uint8_t)(op->key_bytes + QUARANTINE_KEY),
	};

	bytes[0] = op->table;
	memcpy(bytes + 1, op->key, op->key_bytes);
	memcpy(bytes + 1 + op->key_bytes, &op->member, 4);
	table_probe(&p->table, &probe, 1);
	return probe;
}

static bool
in_quarantine(const struct partition *p, const struct frame_op *op)
{
	uint8_t key[TABLE_MAX_KEY];
	struct table_probe probe;

	if (p->quarantine == CORE_MAX_TABLES || p->tables[p->quarantine].n_records == 0)
		return false;
	probe = quarantine_probe(p, op, key);
	return table_get(&p->table, &probe) != 0;
}

bool
range_may_take(const struct partition *p, const struct record *r,
	       const struct frame_op *op)
{
	uint32_t n_members;

	if (r != NULL && (!range_size(r, &n_members) ||
			  (op->member < n_members && range_taken(r, op->member))))
		return false;
	return !in_quarantine(p, op);
}

bool
range_may_give(const struct partition *p, const struct record *r,
	       const struct frame_op *op)
{
	uint32_t n_members;

	return r != NULL && range_size(r, &n_members) && op->member < n_members &&
	       range_taken(r, op->member) && !in_quarantine(p, op);
}

/* Clients leave one table to the core, and cannot name it in frames. */
int
quarantine_declare(struct partition *p, const struct core_declaration *d)
{
	int id;

	if (strcmp(d->name, quarantine_table.name) != 0 || d->value_max != 0 ||
	    d->key_max != quarantine_table.key_max || d->flags != 0 || d->limit != 0)
		return -EINVAL;
	id = partition_add_table(p, d);
	if (id < 0)
		return id;
	p->limits[id] = (struct frame_limits){ 0 };
	p->quarantine = (uint8_t)id;
	return id;
}

int
quarantine_reserve(struct partition *p, struct table_room *room, uint8_t key_bytes)
{
	bool declared = p->quarantine != CORE_MAX_TABLES;
	int err = partition_reserve_wheel(p, declared ? p->quarantine : p->n_tables, 0);

	if (err != 0)
		return err;
	return table_reserve(&p->table, room, 0, key_bytes + QUARANTINE_KEY, 0);
}

void
quarantine_begin(struct partition *p, const struct frame_op *give, uint64_t version,
		 uint32_t now, struct buffer *effects)
{
	uint8_t key[TABLE_MAX_KEY];
	struct table_probe probe;
	struct frame_op put = { .format = 1, .idle_ms = give->idle_ms, .key = key };

	if (p->quarantine == CORE_MAX_TABLES) {
		quarantine_declare(p, &quarantine_table);
		effect_declare(effects, &p->tables[p->quarantine]);
	}
	probe = quarantine_probe(p, give, key);
	put.table = probe.table;
	put.key_bytes = probe.key_bytes;
	effect_put(effects, partition_put(p, &probe, &put, version, now));
}

void
quarantine_end(struct partition *p, record_id id, struct buffer *effects)
{
	const struct record *r = table_record(&p->table, id);
	struct table_probe probe = { .key = r->bytes + 1, .table = r->bytes[0] };
	uint32_t member, n_members;
	record_id range_id = 0;

	if (r->key_bytes > QUARANTINE_KEY) {
		probe.key_bytes = r->key_bytes - QUARANTINE_KEY;
		memcpy(&member, probe.key + probe.key_bytes, 4);
		table_probe(&p->table, &probe, 1);
		range_id = table_get(&p->table, &probe);
	}
	if (range_id != 0) {
		struct record *range = table_record(&p->table, range_id);

		if (range_size(range, &n_members) && member < n_members) {
			range_mark(range, member, false);
			effect_member(effects, range, member, false);
		}
	}
	partition_remove(p, id, effects);
}

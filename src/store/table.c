/*
 * table.c - the index: finds records by table number and key.
 *
 * Linear hashing: the index grows by one bucket at a time, by splitting the buckets
 * in turn, so that no insertion waits for a rebuild.  A bucket is a cache line with
 * ten entries, a 16-bit tag and a record_id each; more entries go to a chain of
 * overflow buckets, which is short for as long as nobody can choose keys that
 * collide: the hash is keyed.  Entries are packed: only the last bucket of a chain
 * has empty ones, at its end, and no overflow bucket has nothing else.
 *
 * A probe remembers what it found.  'n_inserted' and 'n_removed' tell whether that
 * still holds: a record that was found is only lost by a removal, one that was
 * absent only appears by an insertion, and splitting moves no record.
 */
#include "store/partition.h"

#include <assert.h>
#include <errno.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "base/hash.h"

enum {
	TABLE_LOAD = 6,				/* Entries a bucket, when it is split. */
	TABLE_FIRST = 64,			/* Buckets at the start. */
	TABLE_SEGMENT_BITS = 12,		/* 256 KiB: no pause when one is made. */
	TABLE_SEGMENT = 1 << TABLE_SEGMENT_BITS,	/* Buckets. */
	TABLE_SPILL_BITS = 8,
	TABLE_LINE = 64,
	TABLE_ALL = (1 << TABLE_BUCKET_ENTRIES) - 1,
};

static inline uint64_t
load_u64(const uint8_t *at)
{
	uint64_t x;

	memcpy(&x, at, sizeof(x));
	return x;
}

static inline uint64_t
load_u32(const uint8_t *at)
{
	uint32_t x;

	memcpy(&x, at, sizeof(x));
	return x;
}

/* Keys come from packets that anyone may send: without the secret nothing is known
 * of which of them share a bucket.  Table and length go into the last step. */
static inline uint64_t
table_hash(const struct table *t, const struct table_probe *probe)
{
	const uint64_t *secret = t->secret;
	const uint8_t *key = probe->key;
	unsigned int n = probe->key_bytes;
	uint64_t meta = (uint64_t)probe->table << 8 | n, a, b, h;

	if (n >= 8) {
		h = hash_fold(load_u64(key) ^ secret[0], load_u64(key + n - 8) ^ secret[1]);
		for (unsigned int i = 8; i + 8 < n; i += 16)
			h = hash_fold(load_u64(key + i) ^ secret[2],
				 load_u64(key + (i + 16 < n ? i + 8 : n - 8)) ^ h);
	} else {
		if (n >= 4) {
			a = load_u32(key);
			b = load_u32(key + n - 4);
		} else {
			a = (uint64_t)key[0] | (uint64_t)key[n / 2] << 8;
			b = key[n - 1];
		}
		h = hash_fold(a ^ secret[0], b ^ secret[1]);
	}
	return hash_fold(h ^ secret[2], meta ^ secret[3]);
}

static inline uint16_t
hash_tag(uint64_t hash)
{
	uint16_t tag = (uint16_t)(hash >> 48);

	return tag == 0 ? 1 : tag;
}

static inline struct table_bucket *
bucket_at(const struct table *t, uint32_t number)
{
	return &t->segments[number >> TABLE_SEGMENT_BITS]
			   [number & ((1u << TABLE_SEGMENT_BITS) - 1)];
}

static inline struct table_bucket *
spill_at(const struct table *t, uint32_t number)
{
	return &t->spill[number >> TABLE_SPILL_BITS]
			[number & ((1u << TABLE_SPILL_BITS) - 1)];
}

static inline struct table_bucket *
bucket_of(const struct table *t, uint64_t hash)
{
	uint32_t number = (uint32_t)hash & t->mask;

	return bucket_at(t, number < t->n_buckets ? number : number & t->mask >> 1);
}

/* A bit for each entry with this tag. */
static inline unsigned int
bucket_match(const struct table_bucket *b, uint16_t tag)
{
#ifdef __SSE2__
	const __m128i *line = (const __m128i *)(const void *)b;
	__m128i want = _mm_set1_epi16((short)tag);
	__m128i low = _mm_cmpeq_epi16(_mm_load_si128(line), want);
	__m128i high = _mm_cmpeq_epi16(_mm_load_si128(line + 1), want);

	return (unsigned int)_mm_movemask_epi8(_mm_packs_epi16(low, high)) & TABLE_ALL;
#else
	unsigned int found = 0;

	for (unsigned int i = 0; i < TABLE_BUCKET_ENTRIES; i++)
		found |= (unsigned int)(b->tag[i] == tag) << i;
	return found;
#endif
}

static inline unsigned int
bucket_entries(const struct table_bucket *b)
{
	unsigned int empty = bucket_match(b, 0);

	return empty == 0 ? TABLE_BUCKET_ENTRIES : (unsigned int)__builtin_ctz(empty);
}

/* Makes room for 'n' more overflow buckets. */
static int
spill_reserve(struct table *t, uint32_t n)
{
	const uint32_t n_new = 1u << TABLE_SPILL_BITS;
	struct table_bucket *b;

	if (t->n_spill_free >= n)
		return 0;
	if (t->n_spill == t->spill_room &&
	    memory_grow((void **)&t->spill, &t->spill_room, sizeof(*t->spill),
			&t->memory_bytes) != 0)
		return -ENOMEM;
	b = memory_alloc_lines(n_new * sizeof(*b), &t->memory_bytes);
	if (b == NULL)
		return -ENOMEM;
	/* Number 0 is none: the first bucket of all is left out. */
	for (uint32_t i = n_new; i-- > (t->n_spill == 0);) {
		b[i].overflow = t->spill_free;
		t->spill_free = t->n_spill << TABLE_SPILL_BITS | i;
		t->n_spill_free++;
	}
	t->spill[t->n_spill++] = b;
	return 0;
}

static uint32_t
spill_take(struct table *t)
{
	uint32_t number = t->spill_free;
	struct table_bucket *b;

	assert(number != 0);
	b = spill_at(t, number);
	t->spill_free = b->overflow;
	t->n_spill_free--;
	*b = (struct table_bucket){ 0 };
	return number;
}

static void
spill_give(struct table *t, uint32_t number)
{
	spill_at(t, number)->overflow = t->spill_free;
	t->spill_free = number;
	t->n_spill_free++;
}

static inline size_t
segment_bytes(uint32_t n_buckets)
{
	return n_buckets * sizeof(struct table_bucket);
}

/* The first segment begins small and doubles, so that an empty partition is cheap. */
static int
segment_double(struct table *t)
{
	struct table_bucket *b =
		memory_alloc_lines(segment_bytes(t->room * 2), &t->memory_bytes);

	if (b == NULL)
		return -ENOMEM;
	memcpy(b, t->segments[0], segment_bytes(t->room));
	memory_free_lines(t->segments[0], segment_bytes(t->room), &t->memory_bytes);
	t->segments[0] = b;
	t->room *= 2;
	return 0;
}

static int
segment_add(struct table *t, uint32_t n_buckets)
{
	struct table_bucket *b;

	if (t->n_segments == t->segments_room &&
	    memory_grow((void **)&t->segments, &t->segments_room, sizeof(*t->segments),
			&t->memory_bytes) != 0)
		return -ENOMEM;
	b = memory_alloc_lines(segment_bytes(n_buckets), &t->memory_bytes);
	if (b == NULL)
		return -ENOMEM;
	t->segments[t->n_segments++] = b;
	t->room += n_buckets;
	return 0;
}

static int
index_grow(struct table *t)
{
	if (t->room < TABLE_SEGMENT)
		return segment_double(t);
	return segment_add(t, TABLE_SEGMENT);
}

static uint64_t
secret_next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15;		/* As splitmix64 does. */
	return hash_fold(*state ^ *state >> 30, 0xbf58476d1ce4e5b9) ^ *state;
}

int
table_init(struct table *t, const uint64_t seed[2])
{
	uint64_t state[2] = { seed[0], seed[1] };

	*t = (struct table){ .mask = TABLE_FIRST * 2 - 1, .n_buckets = TABLE_FIRST };
	for (unsigned int i = 0; i < 4; i++)
		t->secret[i] = secret_next(&state[i % 2]);
	if (slots_init(&t->slots) != 0)
		return -ENOMEM;
	if (segment_add(t, TABLE_FIRST) != 0) {
		table_fini(t);
		return -ENOMEM;
	}
	memset(t->segments[0], 0, TABLE_FIRST * sizeof(struct table_bucket));
	return 0;
}

void
table_fini(struct table *t)
{
	for (uint32_t i = 0; i < t->n_segments; i++)
		memory_free_lines(t->segments[i],
				  segment_bytes(t->room < TABLE_SEGMENT ? t->room
									: TABLE_SEGMENT),
				  &t->memory_bytes);
	for (uint32_t i = 0; i < t->n_spill; i++)
		memory_free_lines(t->spill[i],
				  sizeof(struct table_bucket) << TABLE_SPILL_BITS,
				  &t->memory_bytes);
	memory_free(t->segments, t->segments_room * sizeof(*t->segments),
		    &t->memory_bytes);
	memory_free(t->spill, t->spill_room * sizeof(*t->spill), &t->memory_bytes);
	slots_fini(&t->slots);
}

/* The first record with the tag of 'hash', whatever its key; 0: none. */
static inline record_id
candidate(const struct table *t, uint64_t hash)
{
	const struct table_bucket *b = bucket_of(t, hash);

	for (;;) {
		unsigned int found = bucket_match(b, hash_tag(hash));

		if (found != 0)
			return b->id[__builtin_ctz(found)];
		if (b->overflow == 0)
			return 0;
		b = spill_at(t, b->overflow);
	}
}

/* The record's key and first values; one that is longer than a line has two. */
static inline void
record_prefetch(const struct table *t, record_id id)
{
	const uint8_t *r = (const uint8_t *)table_record(t, id);

	__builtin_prefetch(r);
	if (t->slots.chunks[id >> TABLE_SLOT_BITS].slot_bytes > TABLE_LINE)
		__builtin_prefetch(r + TABLE_LINE);
}

void
table_probe(const struct table *t, struct table_probe *probes, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		probes[i].hash = table_hash(t, &probes[i]);
		__builtin_prefetch(bucket_of(t, probes[i].hash));
	}
	for (unsigned int i = 0; i < n; i++) {
		struct table_probe *p = &probes[i];

		p->candidate = candidate(t, p->hash);
		p->n_inserted = t->n_inserted;
		p->n_removed = t->n_removed;
		if (p->candidate != 0)
			record_prefetch(t, p->candidate);
	}
}

record_id
table_find(const struct table *t, const struct table_probe *probe)
{
	const struct table_bucket *b = bucket_of(t, probe->hash);

	for (;;) {
		unsigned int found = bucket_match(b, hash_tag(probe->hash));

		for (; found != 0; found &= found - 1) {
			record_id id = b->id[__builtin_ctz(found)];

			if (record_has_key(table_record(t, id), probe))
				return id;
		}
		if (b->overflow == 0)
			return 0;
		b = spill_at(t, b->overflow);
	}
}

static void
entry_add(struct table *t, struct table_bucket *b, uint64_t hash, record_id id)
{
	unsigned int at;

	while (b->overflow != 0)
		b = spill_at(t, b->overflow);
	at = bucket_entries(b);
	if (at == TABLE_BUCKET_ENTRIES) {
		b->overflow = spill_take(t);
		b = spill_at(t, b->overflow);
		at = 0;
	}
	b->tag[at] = hash_tag(hash);
	b->id[at] = id;
}

/* The entry of a record that is in the index: its bucket and its place in it. */
static struct table_bucket *
entry_find(const struct table *t, uint64_t hash, record_id id, unsigned int *at)
{
	struct table_bucket *b = bucket_of(t, hash);

	for (;;) {
		unsigned int found = bucket_match(b, hash_tag(hash));

		for (; found != 0; found &= found - 1) {
			*at = (unsigned int)__builtin_ctz(found);
			if (b->id[*at] == id)
				return b;
		}
		assert(b->overflow != 0);
		b = spill_at(t, b->overflow);
	}
}

/* Moves all entries of 'b' to where their hash says, behind the last split. */
static void
entries_deal(struct table *t, const struct table_bucket *b)
{
	unsigned int n = bucket_entries(b);

	for (unsigned int i = 0; i < n; i++) {
		const struct record *r = table_record(t, b->id[i]);
		uint64_t hash = table_hash(t, &(struct table_probe){
						      .key = r->bytes,
						      .table = r->table,
						      .key_bytes = r->key_bytes,
					      });

		entry_add(t, bucket_of(t, hash), hash, b->id[i]);
	}
}

/* Splitting needs the keys of all records of a bucket, a miss each, unless they are
 * asked for one split ahead; and their ids two splits ahead, and so on. */
static void
split_prefetch(const struct table *t)
{
	uint32_t old = t->n_buckets - ((t->mask >> 1) + 1);
	const struct table_bucket *b = bucket_at(t, old);

	__builtin_prefetch(bucket_at(t, old + 2));
	for (;;) {
		for (unsigned int i = 0; i < TABLE_BUCKET_ENTRIES && b->tag[i] != 0; i++)
			__builtin_prefetch(table_record(t, b->id[i]));
		if (b->overflow == 0)
			break;
		b = spill_at(t, b->overflow);
	}
	b = bucket_at(t, old + 1);
	if (b->overflow != 0)
		__builtin_prefetch(spill_at(t, b->overflow));
}

/* Deals the entries of the next bucket in turn to it and a new one.  Overflow
 * buckets are given back before their entries are dealt, so that it takes no more
 * of them than it gives.  Without memory the index stays as it is, only slower. */
static void
bucket_split(struct table *t)
{
	uint32_t old = t->n_buckets - ((t->mask >> 1) + 1), next;
	struct table_bucket copy;

	if (t->n_buckets == t->room && index_grow(t) != 0)
		return;
	copy = *bucket_at(t, old);
	*bucket_at(t, old) = (struct table_bucket){ 0 };
	*bucket_at(t, t->n_buckets) = (struct table_bucket){ 0 };
	if (t->n_buckets++ == t->mask)
		t->mask = t->mask << 1 | 1;
	for (;;) {
		next = copy.overflow;
		entries_deal(t, &copy);
		if (next == 0)
			break;
		copy = *spill_at(t, next);
		spill_give(t, next);
	}
	split_prefetch(t);
}

int
table_reserve_slot(struct table *t, struct table_room *room, bool absent, uint8_t class)
{
	if (absent && spill_reserve(t, ++room->entries) != 0)
		return -ENOMEM;
	return slots_reserve(&t->slots, class, ++room->slots[class]);
}

record_id
table_insert(struct table *t, const struct table_probe *probe, uint16_t value_bytes)
{
	uint8_t class = slots_class(&t->slots, probe->key_bytes, value_bytes);
	record_id id = slots_take(&t->slots, class);
	struct record *r = table_record(t, id);

	*r = (struct record){
		.value_bytes = value_bytes,
		.table = probe->table,
		.key_bytes = probe->key_bytes,
	};
	frame_copy(r->bytes, probe->key, probe->key_bytes);
	entry_add(t, bucket_of(t, probe->hash), probe->hash, id);
	t->n_records++;
	t->n_inserted++;
	if (t->n_records > (uint64_t)t->n_buckets * TABLE_LOAD)
		bucket_split(t);
	return id;
}

record_id
table_move(struct table *t, const struct table_probe *probe, record_id id,
	   uint16_t value_bytes)
{
	uint8_t class = slots_class(&t->slots, probe->key_bytes, value_bytes);
	record_id to = slots_take(&t->slots, class);
	struct record *r = table_record(t, to), *old = table_record(t, id);
	uint16_t kept = old->value_bytes < value_bytes ? old->value_bytes : value_bytes;
	struct table_bucket *b;
	unsigned int at;

	b = entry_find(t, probe->hash, id, &at);
	b->id[at] = to;
	memcpy(r, old, sizeof(*r) + FRAME_PAD(probe->key_bytes) + FRAME_PAD(kept));
	r->value_bytes = value_bytes;
	slots_give(&t->slots, id);
	t->n_removed++;
	return to;
}

/* The last entry of the chain takes the place of the one that goes. */
void
table_remove(struct table *t, const struct table_probe *probe, record_id id)
{
	unsigned int at, last_at;
	struct table_bucket *b = entry_find(t, probe->hash, id, &at);
	struct table_bucket *last = bucket_of(t, probe->hash), *before = NULL;

	while (last->overflow != 0) {
		before = last;
		last = spill_at(t, last->overflow);
	}
	last_at = bucket_entries(last) - 1;
	b->tag[at] = last->tag[last_at];
	b->id[at] = last->id[last_at];
	last->tag[last_at] = 0;
	if (last_at == 0 && before != NULL) {
		spill_give(t, before->overflow);
		before->overflow = 0;
	}
	slots_give(&t->slots, id);
	t->n_records--;
	t->n_removed++;
}

/*
 * slots.c - the memory of records: chunks of slots, one size of slot in a chunk.
 *
 * Sizes are multiples of 16 up to 256 bytes and then grow by an eighth, so that what
 * is lost to rounding stays below 16 bytes or an eighth.  Chunks begin on a cache
 * line: a record of up to 64 bytes in a slot of 64 is one line.  The first chunk of
 * a class is small, the next ones double.  Memory is never given back before the
 * end, but slots are reused.
 */
#include "store/partition.h"

#include <assert.h>
#include <errno.h>

enum {
	SLOTS_SMALLEST = 48,
	SLOTS_LINEAR = 256,			/* Sizes of classes up to it: steps. */
	SLOTS_FIRST_BYTES = 4096,		/* Of the first chunk of a class. */
	SLOTS_CHUNK_BYTES = 1 << 20,		/* Of the biggest chunk. */
	SLOTS_MAX_CHUNKS = 1u << (32 - TABLE_SLOT_BITS),
	SLOTS_MAX_CHUNK = (1 << TABLE_SLOT_BITS) - 1,	/* Fits n_slots. */
};

int
slots_init(struct slots *s)
{
	unsigned int size = SLOTS_SMALLEST, step = 0;

	*s = (struct slots){ 0 };
	while (size < TABLE_MAX_SLOT) {
		for (; step <= size / TABLE_STEP; step++)
			s->class_of[step] = (uint8_t)s->n_classes;
		s->classes[s->n_classes++].slot_bytes = (uint16_t)size;
		size += size < SLOTS_LINEAR ? TABLE_STEP
					    : size / 8 / TABLE_STEP * TABLE_STEP;
	}
	for (; step <= TABLE_MAX_SLOT / TABLE_STEP; step++)
		s->class_of[step] = (uint8_t)s->n_classes;
	s->classes[s->n_classes++].slot_bytes = TABLE_MAX_SLOT;
	assert(s->n_classes <= TABLE_MAX_CLASSES);
	if (memory_grow((void **)&s->chunks, &s->chunks_room, sizeof(*s->chunks),
			&s->memory_bytes) != 0)
		return -ENOMEM;
	s->chunks[0] = (struct table_chunk){ 0 };
	s->n_chunks = 1;
	return 0;
}

static size_t
chunk_bytes(const struct table_chunk *c)
{
	return (size_t)c->n_slots * c->slot_bytes;
}

void
slots_fini(struct slots *s)
{
	for (uint32_t i = 1; i < s->n_chunks; i++)
		memory_free_lines(s->chunks[i].start, chunk_bytes(&s->chunks[i]),
				  &s->memory_bytes);
	memory_free(s->chunks, s->chunks_room * sizeof(*s->chunks), &s->memory_bytes);
}

static void
slot_free(struct slots *s, struct table_class *class, record_id id)
{
	struct record *r = slots_record(s, id);

	r->version = 0;
	r->next = class->free;
	class->free = id;
}

static record_id
slot_number(uint32_t chunk, uint32_t slot)
{
	return chunk << TABLE_SLOT_BITS | slot;
}

/* A new chunk of at least 'n' slots; what was not used of the old one goes to the
 * list, which is at most n - 1 slots. */
static int
chunk_add(struct slots *s, uint8_t number, uint32_t n)
{
	struct table_class *class = &s->classes[number];
	struct table_chunk c = { .slot_bytes = class->slot_bytes, .class = number };
	uint32_t most = SLOTS_CHUNK_BYTES / class->slot_bytes;
	uint32_t n_slots = SLOTS_FIRST_BYTES / class->slot_bytes;

	if (class->chunk != 0)
		n_slots = s->chunks[class->chunk].n_slots * 2u;
	n_slots = n_slots < n ? n : n_slots;
	most = most > SLOTS_MAX_CHUNK ? SLOTS_MAX_CHUNK : most;
	c.n_slots = (uint16_t)(n_slots > most ? most : n_slots);
	assert(n <= c.n_slots);
	if (s->n_chunks == SLOTS_MAX_CHUNKS)
		return -ENOMEM;
	if (s->n_chunks == s->chunks_room &&
	    memory_grow((void **)&s->chunks, &s->chunks_room, sizeof(*s->chunks),
			&s->memory_bytes) != 0)
		return -ENOMEM;
	c.start = memory_alloc_lines(chunk_bytes(&c), &s->memory_bytes);
	if (c.start == NULL)
		return -ENOMEM;
	if (class->chunk != 0) {
		uint32_t n_old = s->chunks[class->chunk].n_slots;

		for (uint32_t i = class->n_used; i < n_old; i++)
			slot_free(s, class, slot_number(class->chunk, i));
	}
	class->chunk = s->n_chunks;
	class->n_used = 0;
	class->n_free += c.n_slots;
	s->chunks[s->n_chunks++] = c;
	return 0;
}

int
slots_reserve(struct slots *s, uint8_t class, uint32_t n)
{
	if (s->classes[class].n_free >= n)
		return 0;
	return chunk_add(s, class, n);
}

/* The slot that comes next is fetched from memory: by the next call it is here. */
record_id
slots_take(struct slots *s, uint8_t number)
{
	struct table_class *class = &s->classes[number];
	record_id id = class->free;

	assert(class->n_free > 0);
	class->n_free--;
	if (id == 0) {
		assert(class->n_used < s->chunks[class->chunk].n_slots);
		id = slot_number(class->chunk, class->n_used++);
		__builtin_prefetch((uint8_t *)slots_record(s, id) + class->slot_bytes, 1);
		return id;
	}
	class->free = slots_record(s, id)->next;
	if (class->free != 0)
		__builtin_prefetch(slots_record(s, class->free), 1);
	return id;
}

void
slots_give(struct slots *s, record_id id)
{
	struct table_class *class =
		&s->classes[s->chunks[id >> TABLE_SLOT_BITS].class];

	slot_free(s, class, id);
	class->n_free++;
}

record_id
slots_after(const struct slots *s, record_id id)
{
	uint32_t chunk = id >> TABLE_SLOT_BITS;
	uint32_t slot = (id & ((1u << TABLE_SLOT_BITS) - 1)) + 1;

	for (; chunk < s->n_chunks; chunk++, slot = 0) {
		const struct table_chunk *c = &s->chunks[chunk];
		const struct table_class *class = &s->classes[c->class];

		if (slot < (class->chunk == chunk ? class->n_used : c->n_slots))
			return slot_number(chunk, slot);
	}
	return 0;
}

record_id
slots_next(const struct slots *s, record_id id)
{
	do
		id = slots_after(s, id);
	while (id != 0 && slots_record(s, id)->version == 0);
	return id;
}

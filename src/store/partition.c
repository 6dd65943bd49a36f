/*
 * partition.c - a partition's life: its tables, its clock, and the three things that
 * can happen to a record: it is written, it is deleted, its time passes.  apply.c and
 * effects.c say when; both end here, so that a replica does what its primary did.
 *
 * Each table has a wheel for each rank, made when it is first needed, so that what is to
 * be evicted first is found first (limits.c).
 *
 * Time is kept in wheel ticks since the start.  An idle time is rounded up and counts
 * from the end of the tick of the last touch: no record expires early, none is
 * answered more than two ticks late.
 */
#include "store/partition.h"

#include <assert.h>
#include <errno.h>

int
partition_new(uint64_t generation, uint32_t n_partitions, const uint64_t seed[2],
	      struct partition **out)
{
	uint64_t memory_bytes = 0;
	struct partition *p = memory_alloc(sizeof(*p), &memory_bytes);

	if (p == NULL)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	p->generation = generation;
	p->n_partitions = n_partitions;
	p->memory_bytes = memory_bytes;
	p->quarantine = CORE_MAX_TABLES;
	/* Other keys than the index has: what is drawn is shown to clients. */
	p->random.key[0] = seed[0] ^ 0x243f6a8885a308d3;
	p->random.key[1] = seed[1] ^ 0x13198a2e03707344;
	if (table_init(&p->table, seed) != 0)
		goto free_partition;
	if (clients_init(&p->clients, seed[0] ^ seed[1]) != 0)
		goto fini_table;
	*out = p;
	return 0;
fini_table:
	table_fini(&p->table);
free_partition:
	core_free(p);
	return -ENOMEM;
}

void
partition_free(struct partition *p)
{
	if (p == NULL)
		return;
	for (unsigned int i = 0; i < CORE_MAX_TABLES * FRAME_RANKS; i++)
		memory_free(p->wheel[i / FRAME_RANKS][i % FRAME_RANKS],
			    sizeof(struct wheel), &p->memory_bytes);
	clients_fini(&p->clients);
	table_fini(&p->table);
	assert(p->clients.memory_bytes + p->table.memory_bytes +
		       p->table.slots.memory_bytes + p->memory_bytes ==
	       sizeof(*p));
	core_free(p);
}

uint64_t
partition_generation(const struct partition *p)
{
	return p->generation;
}

uint32_t
partition_siblings(const struct partition *p)
{
	return p->n_partitions;
}

static bool
declaration_ok(const struct core_declaration *d)
{
	size_t bytes = strnlen(d->name, CORE_TABLE_NAME);

	if (bytes == 0 || bytes == CORE_TABLE_NAME)
		return false;
	for (size_t i = 0; i < bytes; i++) {
		if (d->name[i] <= ' ' || d->name[i] > '~')
			return false;
	}
	return d->key_max > 0 && d->value_max <= FRAME_MAX_VALUE &&
	       (d->flags & ~CORE_TABLE_FLAGS) == 0 &&
	       d->flags != (CORE_LEASED | CORE_EVICT);
}

/* Only a newer format may make values longer: instances of two releases share the store
 * while one takes the other's place. */
static bool
sizes_agree(const struct core_table *t, const struct core_declaration *d)
{
	return d->key_max == t->key_max &&
	       (d->value_max <= t->value_max || d->format > t->format);
}

int
partition_add_table(struct partition *p, const struct core_declaration *d)
{
	unsigned int id = 0;
	struct core_table *t;

	while (id < p->n_tables && strcmp(p->tables[id].name, d->name) != 0)
		id++;
	t = &p->tables[id];
	if (id == CORE_MAX_TABLES)
		return -ENOSPC;
	if (id == p->n_tables) {
		*t = (struct core_table){ .key_max = d->key_max,
					  .value_max = d->value_max };
		strcpy(t->name, d->name);
		p->n_tables++;
	}
	if (!sizes_agree(t, d))
		return -EEXIST;
	t->value_max = t->value_max > d->value_max ? t->value_max : d->value_max;
	p->limits[id] = (struct frame_limits){ t->key_max, t->value_max };
	t->format = t->format > d->format ? t->format : d->format;
	t->flags = d->flags;
	t->limit = d->limit;
	return (int)id;
}

/* One place is the core's, until it has taken it. */
int
partition_declare(struct partition *p, const struct core_declaration *d)
{
	unsigned int most = CORE_MAX_TABLES - (p->quarantine == CORE_MAX_TABLES);

	if (!declaration_ok(d) || d->key_max > FRAME_MAX_KEY ||
	    strncmp(d->name, "snf.", 4) == 0)
		return -EINVAL;
	for (unsigned int i = 0; i < p->n_tables; i++) {
		if (strcmp(p->tables[i].name, d->name) == 0)
			return partition_add_table(p, d);
	}
	return p->n_tables < most ? partition_add_table(p, d) : -ENOSPC;
}

const struct core_table *
partition_tables(const struct partition *p, unsigned int *n)
{
	*n = p->n_tables;
	return p->tables;
}

int
partition_reserve_wheel(struct partition *p, uint8_t table, uint8_t rank)
{
	struct wheel **w = &p->wheel[table][rank];

	if (*w != NULL)
		return 0;
	*w = memory_alloc(sizeof(**w), &p->memory_bytes);
	if (*w == NULL)
		return -ENOMEM;
	memset(*w, 0, sizeof(**w));
	return 0;
}

uint32_t
partition_tick(struct partition *p, uint64_t now_ms)
{
	if (!p->started) {
		p->started = true;
		p->start_ms = now_ms;
		p->now_ms = now_ms;
	}
	if (now_ms > p->now_ms)
		p->now_ms = now_ms;
	return (uint32_t)((p->now_ms - p->start_ms) / WHEEL_TICK_MS);
}

uint32_t
partition_ticks(uint32_t idle_ms)
{
	return idle_ms / WHEEL_TICK_MS + (idle_ms % WHEEL_TICK_MS != 0);
}

uint64_t
partition_groups(const struct partition *p)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < FRAME_N_ANSWERS; i++)
		n += p->n_answers[i];
	return n;
}

void
partition_count(const struct partition *p, struct core_counters *out)
{
	*out = (struct core_counters){
		.frames = p->n_frames,
		.repeats = p->n_repeats,
		.conflicts = p->n_answers[FRAME_CONFLICT],
		.refused = p->n_answers[FRAME_REFUSED],
		.bounds = p->n_answers[FRAME_BOUND],
		.full = p->n_answers[FRAME_FULL],
		.records = p->table.n_records,
		.clients = p->clients.n,
		.memory_bytes = p->memory_bytes + p->table.memory_bytes +
				p->table.slots.memory_bytes + p->clients.memory_bytes,
	};
	for (unsigned int i = 0; i < FRAME_N_ANSWERS; i++)
		out->groups += p->n_answers[i];
	for (const struct core_table *t = p->tables; t < p->tables + p->n_tables; t++) {
		out->reads += t->n_reads;
		out->hits += t->n_hits;
		out->due += t->n_due;
		out->expired += t->n_expired;
		out->leased += t->n_leased;
		out->settled += t->n_settled;
		out->evicted += t->n_evicted;
	}
}

/* --- Records -------------------------------------------------------------------- */

static void
record_arm(struct partition *p, record_id id, const struct record *r, uint32_t now)
{
	wheel_arm(p->wheel[r->table][r->rank], &p->table.slots, id, now, record_due(r));
}

static void
record_disarm(struct partition *p, record_id id, const struct record *r)
{
	if (r->due)
		due_end(p, id);
	if (r->slot_level != 0)
		wheel_disarm(p->wheel[r->table][r->rank], &p->table.slots, id);
}

/* One that is leased may have to come up before its lease would have ended. */
void
partition_revive(struct partition *p, record_id id, uint32_t now)
{
	const struct record *r = table_record(&p->table, id);

	record_disarm(p, id, r);
	record_arm(p, id, r, now);
}

/* The wheel is lazy in one direction: it has to be told of an idle time that ends
 * before the one it knows. */
static inline void
record_idle(struct partition *p, record_id id, struct record *r, uint8_t rank,
	    uint32_t idle, uint32_t now)
{
	bool armed = r->slot_level != 0 && idle >= r->idle && idle != 0 &&
		     rank == r->rank && !r->due;

	r->touched = now;
	r->idle = idle;
	if (armed)
		return;
	record_disarm(p, id, r);
	r->rank = rank & 1;
	if (idle != 0)
		record_arm(p, id, r, now);
}

/* The record of a key, made or moved to where a value of this length has room. */
static inline record_id
record_place(struct partition *p, const struct table_probe *probe, uint16_t value_bytes)
{
	record_id id = table_get(&p->table, probe);
	const struct slots *s = &p->table.slots;

	if (id == 0) {
		p->tables[probe->table].n_records++;
		return table_insert(&p->table, probe, value_bytes);
	}
	if (s->chunks[id >> TABLE_SLOT_BITS].class ==
	    slots_class(s, probe->key_bytes, value_bytes))
		return id;
	record_disarm(p, id, table_record(&p->table, id));
	return table_move(&p->table, probe, id, value_bytes);
}

struct record *
partition_put(struct partition *p, const struct table_probe *probe,
	      const struct frame_op *op, uint64_t version, uint32_t now)
{
	record_id id = record_place(p, probe, op->value_bytes);
	struct record *r = table_record(&p->table, id);

	r->version = version;
	r->value_bytes = op->value_bytes;
	r->format = op->format;
	frame_copy(record_value(r), op->value, op->value_bytes);
	record_idle(p, id, r, op->rank, partition_ticks(op->idle_ms), now);
	return r;
}

/* The record of a key, or one of zeros that is not armed. */
static struct record *
record_of_zeros(struct partition *p, const struct table_probe *probe,
		uint16_t value_bytes, uint8_t format, record_id *id)
{
	struct record *r;

	*id = table_get(&p->table, probe);
	if (*id != 0)
		return table_record(&p->table, *id);
	*id = record_place(p, probe, value_bytes);
	r = table_record(&p->table, *id);
	r->format = format;
	memset(record_value(r), 0, FRAME_PAD(value_bytes));
	return r;
}

struct record *
partition_patch(struct partition *p, const struct table_probe *probe,
		const struct frame_op *op, int64_t field, uint64_t version, uint32_t now)
{
	record_id id;
	struct record *r = record_of_zeros(p, probe, op->value_bytes, op->format, &id);

	assert(op->offset + sizeof(field) <= r->value_bytes);
	r->version = version;
	memcpy(record_value(r) + op->offset, &field, sizeof(field));
	record_idle(p, id, r, r->rank, partition_ticks(op->idle_ms), now);
	return r;
}

/* A range that grows does so by zeros. */
struct record *
partition_mark(struct partition *p, const struct table_probe *probe,
	       const struct frame_op *op, bool taken, uint64_t version, uint32_t now)
{
	uint16_t bytes = (uint16_t)frame_range_bytes(op->n_members), had;
	record_id id;
	struct record *r = record_of_zeros(p, probe, bytes, op->format, &id);
	uint32_t n_members;

	if (r->value_bytes < bytes) {
		had = r->value_bytes;
		id = record_place(p, probe, bytes);
		r = table_record(&p->table, id);
		r->value_bytes = bytes;
		memset(record_value(r) + had, 0, bytes - had);
	}
	memcpy(&n_members, record_value(r), 4);
	if (n_members < op->n_members)
		memcpy(record_value(r), &op->n_members, 4);
	r->version = version;
	range_mark(r, op->member, taken);
	record_idle(p, id, r, r->rank, r->idle, now);
	return r;
}

bool
partition_delete(struct partition *p, const struct table_probe *probe)
{
	record_id id = table_get(&p->table, probe);

	if (id == 0)
		return false;
	record_disarm(p, id, table_record(&p->table, id));
	table_remove(&p->table, probe, id);
	p->tables[probe->table].n_records--;
	return true;
}

void
partition_remove(struct partition *p, record_id id, struct buffer *effects)
{
	const struct record *r = table_record(&p->table, id);
	struct table_probe probe = {
		.key = r->bytes,
		.table = r->table,
		.key_bytes = r->key_bytes,
	};

	effect_delete(effects, r->table, r->bytes, r->key_bytes);
	table_probe(&p->table, &probe, 1);
	partition_delete(p, &probe);
}

/* --- Time ----------------------------------------------------------------------- */

/* A record that came up: what has to become of it if its time has passed, armed again if
 * not.  -ENOMEM: there is no room for the effects, and it comes up again. */
static int
record_expire(struct partition *p, record_id id, uint32_t now, struct buffer *effects)
{
	struct record *r = table_record(&p->table, id);
	size_t most = EFFECT_DELETE_BYTES + EFFECT_MEMBER_BYTES + 2u * r->key_bytes;

	if (!record_is_due(r, now)) {
		record_arm(p, id, r, now);
		return 0;
	}
	if ((p->tables[r->table].flags & CORE_LEASED) != 0) {
		due_add(p, id);
		return 0;
	}
	if (effects != NULL && buffer_reserve(effects, most) != 0) {
		record_arm(p, id, r, now);
		return -ENOMEM;
	}
	p->tables[r->table].n_expired++;
	if (r->table == p->quarantine)
		quarantine_end(p, id, effects);
	else
		partition_remove(p, id, effects);
	return 0;
}

static unsigned int
clients_expire(struct partition *p, uint32_t now, unsigned int max,
	       struct buffer *effects)
{
	const struct client *silent;
	unsigned int n = 0;

	for (; n < max && (silent = clients_silent(&p->clients, now)) != NULL; n++) {
		if (effects != NULL && buffer_reserve(effects, EFFECT_CLIENT_BYTES) != 0)
			break;
		effect_client(effects, silent->id, 0, 0, NULL);
		clients_forget(&p->clients, silent->id);
	}
	return n;
}

/* Wheels take turns: none waits for another that always has something. */
unsigned int
partition_expire(struct partition *p, uint64_t now_ms, unsigned int max,
		 struct buffer *effects)
{
	enum { N_WHEELS = CORE_MAX_TABLES * FRAME_RANKS };
	uint32_t now = partition_tick(p, now_ms);
	unsigned int n = clients_expire(p, now, max, effects);

	n += due_disband(p, max - n, now);
	for (unsigned int i = 0; i < N_WHEELS && n < max; i++) {
		unsigned int number = p->expire_next++ % N_WHEELS;
		struct wheel *w = p->wheel[number / FRAME_RANKS][number % FRAME_RANKS];
		record_id id;

		if (w == NULL)
			continue;
		while (n < max && (id = wheel_next(w, &p->table.slots, now)) != 0) {
			if (record_expire(p, id, now, effects) != 0)
				return n;
			n++;
		}
	}
	return n;
}

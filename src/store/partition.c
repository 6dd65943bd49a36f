/*
 * partition.c - a partition's life: its tables, its clock, and the three things that
 * can happen to a record: it is written, it is deleted, it expires.  apply.c and
 * effects.c say when; both end here, so that a replica does what its primary did.
 *
 * Time is kept in wheel ticks since the start.  An idle time is rounded up and counts
 * from the end of the tick of the last touch: no record expires early, none is
 * answered more than two ticks late.
 */
#include "store/core.h"

#include <assert.h>
#include <errno.h>

int
partition_new(uint64_t generation, const uint64_t seed[2], struct partition **out)
{
	uint64_t memory_bytes = 0;
	struct partition *p = memory_alloc(sizeof(*p), &memory_bytes);

	if (p == NULL)
		return -ENOMEM;
	memset(p, 0, sizeof(*p));
	p->generation = generation;
	p->counters.memory_bytes = memory_bytes;
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
	clients_fini(&p->clients);
	table_fini(&p->table);
	assert(p->clients.memory_bytes + p->table.memory_bytes +
	       p->table.slots.memory_bytes == 0);
	core_free(p);
}

uint64_t
partition_generation(const struct partition *p)
{
	return p->generation;
}

static bool
table_name_ok(const char *name)
{
	size_t bytes = strnlen(name, CORE_TABLE_NAME);

	if (bytes == 0 || bytes == CORE_TABLE_NAME)
		return false;
	for (size_t i = 0; i < bytes; i++) {
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	}
	return true;
}

int
partition_declare(struct partition *p, const char *name, uint16_t key_max,
		  uint16_t value_max, uint8_t format)
{
	struct core_table *t;

	if (!table_name_ok(name) || key_max == 0 || key_max > FRAME_MAX_KEY ||
	    value_max > FRAME_MAX_VALUE)
		return -EINVAL;
	for (unsigned int i = 0; i < p->n_tables; i++) {
		t = &p->tables[i];
		if (strcmp(t->name, name) != 0)
			continue;
		if (t->key_max != key_max || t->value_max != value_max)
			return -EEXIST;
		t->format = t->format > format ? t->format : format;
		return (int)i;
	}
	if (p->n_tables == CORE_MAX_TABLES)
		return -ENOSPC;
	t = &p->tables[p->n_tables];
	*t = (struct core_table){
		.key_max = key_max,
		.value_max = value_max,
		.format = format,
	};
	strcpy(t->name, name);
	p->limits[p->n_tables] = (struct frame_limits){ key_max, value_max };
	return p->n_tables++;
}

const struct core_table *
partition_tables(const struct partition *p, unsigned int *n)
{
	*n = p->n_tables;
	return p->tables;
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

void
partition_refresh(struct partition *p, uint64_t now_ms)
{
	p->fresh = partition_tick(p, now_ms);
}

void
partition_count(const struct partition *p, struct core_counters *out)
{
	*out = p->counters;
	out->records = p->table.n_records;
	out->clients = p->clients.n;
	out->memory_bytes += p->table.memory_bytes + p->table.slots.memory_bytes +
			     p->clients.memory_bytes;
}

static uint32_t
idle_ticks(uint32_t idle_ms)
{
	return idle_ms / WHEEL_TICK_MS + (idle_ms % WHEEL_TICK_MS != 0);
}

/* The wheel is lazy in one direction: it has to be told of an idle time that ends
 * before the one it knows. */
static void
record_idle(struct partition *p, record_id id, struct record *r, uint32_t idle,
	    uint32_t now)
{
	bool armed = r->slot_level != 0 && idle >= r->idle;

	r->touched = now;
	r->idle = idle;
	if (idle != 0 && armed)
		return;
	wheel_disarm(&p->wheel, &p->table.slots, id);
	if (idle != 0)
		wheel_arm(&p->wheel, &p->table.slots, id, now, partition_due(p, r));
}

struct record *
partition_put(struct partition *p, const struct table_probe *probe,
	      const struct frame_op *op, uint64_t version, uint32_t now)
{
	record_id id = table_get(&p->table, probe);
	const struct slots *s = &p->table.slots;
	struct record *r;

	if (id == 0) {
		id = table_insert(&p->table, probe, op->value_bytes);
		p->tables[op->table].n_records++;
	} else if (s->chunks[id >> TABLE_SLOT_BITS].class !=
		   slots_class(s, op->key_bytes, op->value_bytes)) {
		wheel_disarm(&p->wheel, s, id);
		id = table_move(&p->table, probe, id, op->value_bytes);
	}
	r = table_record(&p->table, id);
	r->version = version;
	r->value_bytes = op->value_bytes;
	r->format = op->format;
	frame_copy(record_value(r), op->value, op->value_bytes);
	record_idle(p, id, r, idle_ticks(op->idle_ms), now);
	return r;
}

bool
partition_delete(struct partition *p, const struct table_probe *probe)
{
	record_id id = table_get(&p->table, probe);

	if (id == 0)
		return false;
	wheel_disarm(&p->wheel, &p->table.slots, id);
	table_remove(&p->table, probe, id);
	p->tables[probe->table].n_records--;
	return true;
}

/* A record that came up: deleted if it is due, armed again if not.  -ENOMEM: there
 * is no room for the effect, and it comes up again. */
static int
record_expire(struct partition *p, record_id id, uint32_t now, struct buffer *effects)
{
	struct record *r = table_record(&p->table, id);
	uint32_t due = partition_due(p, r);
	struct table_probe probe = {
		.key = r->bytes,
		.table = r->table,
		.key_bytes = r->key_bytes,
	};

	if (due > now ||
	    (effects != NULL &&
	     buffer_reserve(effects, EFFECT_DELETE_BYTES + r->key_bytes) != 0)) {
		wheel_arm(&p->wheel, &p->table.slots, id, now, due);
		return due > now ? 0 : -ENOMEM;
	}
	if (effects != NULL)
		effect_delete(effects, r->table, r->bytes, r->key_bytes);
	table_probe(&p->table, &probe, 1);
	table_remove(&p->table, &probe, id);
	p->tables[probe.table].n_records--;
	p->counters.expired++;
	return 0;
}

unsigned int
partition_expire(struct partition *p, uint64_t now_ms, unsigned int max,
		 struct buffer *effects)
{
	uint32_t now = partition_tick(p, now_ms);
	const struct client *silent;
	unsigned int n = 0;
	record_id id;

	for (; n < max && (silent = clients_silent(&p->clients, now)) != NULL; n++) {
		if (effects != NULL && buffer_reserve(effects, EFFECT_CLIENT_BYTES) != 0)
			return n;
		if (effects != NULL)
			effect_client(effects, silent->id, 0, 0, NULL);
		clients_forget(&p->clients, silent->id);
	}
	for (; n < max; n++) {
		id = wheel_next(&p->wheel, &p->table.slots, now);
		if (id == 0 || record_expire(p, id, now, effects) != 0)
			break;
	}
	return n;
}

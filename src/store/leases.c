/*
 * leases.c - records whose time has passed in tables that are leased, and how records
 * are shown to those who ask for them in bulk.
 *
 * A record that comes up in the wheel when its time has passed goes to the end of its
 * table's queue.  A lease takes it off the front and arms it again, for the end of the
 * lease: if it has been neither touched nor settled by then, it goes to the queue again.
 * All that time the record is marked as due; whatever touches, writes or deletes it ends
 * that first.  So a queue holds nothing that a lease would have to leave out.
 */
#include "store/partition.h"

#include <errno.h>

enum {
	LEASES_QUEUED = WHEEL_LEVELS + 1,	/* 'slot_level' of what is in a queue. */
	LEASES_TICKS = CORE_LEASE_MS / WHEEL_TICK_MS,
	SCAN_SLOTS = 4096,			/* Looked at by one call... */
	SCAN_BYTES = 256 << 10,			/* ...and copied, and one record. */
};

void
due_add(struct partition *p, record_id id)
{
	struct record *r = table_record(&p->table, id);
	struct due_queue *q = &p->due[r->table];

	if (!r->due) {
		p->tables[r->table].n_due++;
		p->tables[r->table].n_expired++;
	}
	r->due = 1;
	r->slot_level = LEASES_QUEUED;
	r->next = 0;
	r->prev = q->last;
	*(q->last != 0 ? &table_record(&p->table, q->last)->next : &q->first) = id;
	q->last = id;
	p->due_tables |= UINT64_C(1) << r->table;
}

/* Takes a record off the queue that it is in. */
static void
due_unlink(struct partition *p, struct record *r)
{
	struct due_queue *q = &p->due[r->table];

	*(r->next != 0 ? &table_record(&p->table, r->next)->prev : &q->last) = r->prev;
	*(r->prev != 0 ? &table_record(&p->table, r->prev)->next : &q->first) = r->next;
	r->slot_level = 0;
	if (q->first == 0)
		p->due_tables &= ~(UINT64_C(1) << r->table);
}

void
due_end(struct partition *p, record_id id)
{
	struct record *r = table_record(&p->table, id);

	if (r->slot_level == LEASES_QUEUED)
		due_unlink(p, r);
	r->due = 0;
	p->tables[r->table].n_due--;
}

unsigned int
due_disband(struct partition *p, unsigned int max, uint32_t now)
{
	unsigned int n = 0;

	for (uint64_t left = p->due_tables; left != 0; left &= left - 1) {
		unsigned int table = (unsigned int)__builtin_ctzll(left);

		if ((p->tables[table].flags & CORE_LEASED) != 0)
			continue;
		for (; n < max && p->due[table].first != 0; n++)
			partition_revive(p, p->due[table].first, now);
	}
	return n;
}

uint64_t
partition_due_tables(const struct partition *p)
{
	return p->due_tables;
}

static size_t
lease_bytes(const struct record *r)
{
	return 16 + FRAME_PAD(r->value_bytes) + FRAME_PAD(r->key_bytes);
}

/* Writes a record as in a leases message; returns the end. */
static uint8_t *
lease_write(uint8_t *to, struct record *r)
{
	const uint16_t lengths[2] = { r->value_bytes, 0 };

	memcpy(to, (uint8_t[4]){ FRAME_HIT, r->table, r->key_bytes, r->format }, 4);
	memcpy(to + 4, lengths, 4);
	memcpy(to + 8, &r->version, 8);
	to = frame_copy(to + 16, record_value(r), r->value_bytes);
	return frame_copy(to, r->bytes, r->key_bytes);
}

/* The table that is served next; they take turns. */
static unsigned int
lease_table(uint64_t tables, unsigned int last)
{
	uint64_t later = tables & ~((UINT64_C(2) << last) - 1);

	return (unsigned int)__builtin_ctzll(later != 0 ? later : tables);
}

int
partition_lease(struct partition *p, uint64_t now_ms, uint64_t tables, unsigned int max,
		struct buffer *out)
{
	uint32_t now = partition_tick(p, now_ms);
	uint32_t head[4] = { FRAME_LEASES_MAGIC };
	size_t start = out->bytes;
	unsigned int n = 0, table = CORE_MAX_TABLES - 1;

	if (buffer_reserve(out, sizeof(head)) != 0)
		return -ENOMEM;
	out->bytes += sizeof(head);
	for (; n < max && (p->due_tables & tables) != 0; n++) {
		table = lease_table(p->due_tables & tables, table);

		record_id id = p->due[table].first;
		struct record *r = table_record(&p->table, id);

		if (out->bytes - start + lease_bytes(r) > FRAME_MAX_REPLY_BYTES ||
		    buffer_reserve(out, lease_bytes(r)) != 0)
			break;
		out->bytes = (size_t)(lease_write(out->data + out->bytes, r) - out->data);
		due_unlink(p, r);
		wheel_arm(p->wheel[table][r->rank], &p->table.slots, id, now,
			  now + LEASES_TICKS + 1);
		p->tables[table].n_leased++;
	}
	if (n == 0 && max > 0 && (p->due_tables & tables) != 0) {
		out->bytes = start;
		return -ENOMEM;
	}
	head[1] = (uint32_t)(out->bytes - start);
	memcpy(out->data + start, head, sizeof(head));
	return (int)n;
}

/* Idle times as they are shown: what is left never goes below 0. */
static void
scan_times(const struct record *r, uint32_t now, uint32_t ms[2])
{
	uint32_t left = record_is_due(r, now) || r->idle == 0 ? 0 : record_due(r) - now;
	uint64_t idle_ms = (uint64_t)r->idle * WHEEL_TICK_MS;
	uint64_t left_ms = (uint64_t)left * WHEEL_TICK_MS;

	ms[0] = idle_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)idle_ms;
	ms[1] = left_ms > idle_ms ? ms[0] : (uint32_t)left_ms;
}

int
partition_scan(struct partition *p, uint64_t now_ms, unsigned int table, unsigned int max,
	       uint64_t *cursor, struct buffer *out)
{
	uint32_t now = partition_tick(p, now_ms), ms[2];
	const struct slots *slots = &p->table.slots;
	record_id id = *cursor > UINT32_MAX ? UINT32_MAX : (record_id)*cursor;
	size_t start = out->bytes;

	for (unsigned int n = 0; n < SCAN_SLOTS && max > 0; n++) {
		record_id next = slots_after(slots, id);
		struct record *r;

		if (next == 0 || out->bytes - start >= SCAN_BYTES) {
			id = next == 0 ? 0 : id;
			break;
		}
		r = slots_record(slots, next);
		if (r->version != 0 && r->table == table && !partition_gone(p, r, now)) {
			if (buffer_reserve(out, sizeof(ms) + lease_bytes(r)) != 0)
				return -ENOMEM;
			scan_times(r, now, ms);
			memcpy(out->data + out->bytes, ms, sizeof(ms));
			out->bytes += sizeof(ms);
			lease_write(out->data + out->bytes, r);
			out->bytes += lease_bytes(r);
			max--;
		}
		id = next;
	}
	*cursor = id;
	return 0;
}

/*
 * wheel.c - the timer wheel: which records may be due.
 *
 * Three levels of 256 slots, of 1, 256 and 65,536 ticks each; a slot is a list of
 * records, the one armed last first.  When a slot of a higher level comes up its records
 * are handed out like those of the lowest: whoever takes one looks at its idle time, and
 * arms it again, lower down, if that has not passed.  So no call has to empty a slot: the
 * wheel stays at its tick until all lists of that tick are empty, and a record armed
 * meanwhile never lands in one of them.  What lies further ahead than the wheel
 * reaches goes to its far end and is armed again from there.
 */
#include "store/partition.h"

enum {
	WHEEL_REACH = 1 << WHEEL_BITS * WHEEL_LEVELS,
};

static inline uint32_t
slot_of(uint32_t tick, unsigned int level)
{
	return tick >> level * WHEEL_BITS & (WHEEL_SLOTS - 1);
}

void
wheel_arm(struct wheel *w, const struct slots *s, record_id id, uint32_t now,
	  uint32_t due)
{
	struct record *r = slots_record(s, id);
	unsigned int level = 0;
	record_id *head;
	uint32_t ahead;

	if (w->n[0] + w->n[1] + w->n[2] == 0 && now > w->tick)
		w->tick = now;
	if (due <= w->tick)
		due = w->tick + 1;
	if (due - w->tick >= WHEEL_REACH)
		due = w->tick + WHEEL_REACH - 1;
	ahead = due - w->tick;
	while (ahead >> (level + 1) * WHEEL_BITS != 0)
		level++;
	head = &w->newest[level][slot_of(due, level)];
	r->slot_level = (uint8_t)(level + 1);
	r->slot = (uint8_t)slot_of(due, level);
	r->prev = 0;
	r->next = *head;
	if (*head != 0)
		slots_record(s, *head)->prev = id;
	else
		w->oldest[level][r->slot] = id;
	*head = id;
	w->n[level]++;
}

void
wheel_disarm(struct wheel *w, const struct slots *s, record_id id)
{
	struct record *r = slots_record(s, id);

	if (r->slot_level == 0)
		return;
	if (r->next != 0)
		slots_record(s, r->next)->prev = r->prev;
	else
		w->oldest[r->slot_level - 1][r->slot] = r->prev;
	if (r->prev != 0)
		slots_record(s, r->prev)->next = r->next;
	else
		w->newest[r->slot_level - 1][r->slot] = r->next;
	w->n[r->slot_level - 1]--;
	r->slot_level = 0;
}

/* The next tick at which anything may come up: what is in a level cannot before the
 * next slot of that level begins. */
static uint32_t
tick_after(const struct wheel *w)
{
	uint32_t step = 1;

	for (unsigned int level = 0; level < WHEEL_LEVELS && w->n[level] == 0; level++)
		step <<= WHEEL_BITS;
	return (w->tick & ~(step - 1)) + step;
}

record_id
wheel_next(struct wheel *w, const struct slots *s, uint32_t now)
{
	for (;;) {
		uint32_t below = 0;

		for (unsigned int level = 0; level < WHEEL_LEVELS; level++) {
			record_id id = w->newest[level][slot_of(w->tick, level)];

			if (id != 0 && (w->tick & below) == 0) {
				wheel_disarm(w, s, id);
				return id;
			}
			below = below << WHEEL_BITS | (WHEEL_SLOTS - 1);
		}
		if (w->tick >= now)
			return 0;
		w->tick = tick_after(w);
		if (w->tick > now)
			w->tick = now;
	}
}

/* The slot of a level that comes up first: the current one only while it is being handed
 * out, for else what is in it lies a whole turn ahead. */
static uint32_t
first_slot(const struct wheel *w, unsigned int level)
{
	uint32_t below = (1u << level * WHEEL_BITS) - 1;

	return slot_of(w->tick, level) + ((w->tick & below) != 0);
}

/* Levels one after the other: a slot of a higher one begins later than all of the level
 * below it, but for one turn of that. */
record_id
wheel_after(const struct wheel *w, const struct slots *s, record_id id)
{
	unsigned int level = 0, ahead = 0;

	if (id != 0) {
		const struct record *r = slots_record(s, id);

		if (r->prev != 0)
			return r->prev;
		level = r->slot_level - 1u;
		ahead = (r->slot - first_slot(w, level)) % WHEEL_SLOTS + 1;
	}
	for (; level < WHEEL_LEVELS; level++, ahead = 0) {
		if (w->n[level] == 0)
			continue;
		for (; ahead < WHEEL_SLOTS; ahead++) {
			uint32_t slot = (first_slot(w, level) + ahead) % WHEEL_SLOTS;

			if (w->oldest[level][slot] != 0)
				return w->oldest[level][slot];
		}
	}
	return 0;
}

bool
wheel_early(const struct wheel *w, const struct record *r, uint32_t due)
{
	unsigned int level = r->slot_level - 1u;
	uint32_t first = first_slot(w, level);
	uint32_t ahead = (r->slot - first) % WHEEL_SLOTS;
	uint64_t turn = (uint64_t)(w->tick >> level * WHEEL_BITS) + first -
			slot_of(w->tick, level) + ahead;

	return due >= (turn + 1) << level * WHEEL_BITS;
}

/*
 * guess.c - adds that are under way, for handlers that glance at what is added to.
 *
 * Between sending an add and its answer, a counter that is read is as old as that read.
 * Runs that choose by counters (the least loaded backend) would all choose alike for as
 * long as a round trip takes.  So what this pipe's own adds will make of the record is
 * added to what they see.  It is a guess: adds may fail, and other pipes' are not in it;
 * nothing that has to be right depends on it.
 *
 * It is kept for a few records at a time, and for fields that are aligned; others are
 * seen as the store has them.
 */
#include "pipe/run.h"

/* What an add does, from its operation: frame.h. */
static unsigned int
add_field(const struct run_write *w)
{
	uint16_t offset;

	memcpy(&offset, w->key - 40 + 6, sizeof(offset));
	return offset;
}

static int64_t
add_delta(const struct run_write *w)
{
	int64_t delta;

	memcpy(&delta, w->key - 40 + 16, sizeof(delta));
	return delta;
}

static bool
guess_is_of(const struct guess *g, uint8_t table, const void *key, uint8_t key_bytes)
{
	return g->n_adds > 0 && g->table == table && g->key_bytes == key_bytes &&
	       memcmp(g->key, key, key_bytes) == 0;
}

static struct guess *
guess_find(struct order *o, uint8_t table, const void *key, uint8_t key_bytes)
{
	for (unsigned int i = 0; i < ORDER_GUESSES; i++)
		if (guess_is_of(&o->guess[i], table, key, key_bytes))
			return &o->guess[i];
	return NULL;
}

/* All of its sums are 0, as those of adds that were answered are. */
static struct guess *
guess_make(struct order *o, const struct run_write *w)
{
	for (unsigned int i = 0; i < ORDER_GUESSES; i++) {
		struct guess *g = &o->guess[i];

		if (g->n_adds > 0)
			continue;
		g->table = w->table;
		g->key_bytes = w->key_bytes;
		memcpy(g->key, w->key, w->key_bytes);
		o->n_guesses++;
		return g;
	}
	return NULL;
}

void
guess_add(struct order *o, struct run_write *w)
{
	struct guess *g = guess_find(o, w->table, w->key, w->key_bytes);

	w->pending = 0;
	if (add_field(w) % 8 != 0)
		return;
	if (g == NULL)
		g = guess_make(o, w);
	if (g == NULL)
		return;
	w->pending = (uint8_t)(1 + (g - o->guess));
	g->sum[add_field(w) / 8] += add_delta(w);
	g->n_adds++;
}

void
guess_answered(struct order *o, struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_writes; i++) {
		struct run_write *w = &r->write[i];

		if (w->op != FRAME_ADD || w->pending == 0)
			continue;

		struct guess *g = &o->guess[w->pending - 1];

		w->pending = 0;
		g->sum[add_field(w) / 8] -= add_delta(w);
		if (--g->n_adds == 0)
			o->n_guesses--;
	}
}

/* Of several only the first: there is room for one. */
void
guess_apply(struct order *o, struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_fetched; i++) {
		struct run_value *v = &r->value[i];
		const struct guess *g;

		if (v->how != RUN_GLANCE || v->value == NULL ||
		    v->value_bytes > sizeof(o->guessed))
			continue;
		g = guess_find(o, v->table, v->key, v->key_bytes);
		if (g == NULL)
			continue;
		memcpy(o->guessed, v->value, v->value_bytes);
		for (unsigned int k = 0; k < v->value_bytes / 8; k++)
			o->guessed[k] += (uint64_t)g->sum[k];
		v->value = (const uint8_t *)o->guessed;
		return;
	}
}

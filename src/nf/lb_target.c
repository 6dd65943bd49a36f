/*
 * lb_target.c - see lb_target.h.
 */
#include "nf/lb_target.h"

#include <stdio.h>

#include "base/hash.h"
#include "nf/lb_probe.h"

/* All instances have to find the same. */
static uint64_t
hash(const void *data, unsigned int bytes)
{
	return hash_bytes(data, bytes, 0x736e662d6c62u);
}

static uint64_t
check_hash(const struct lb_check *c)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "%d %d %lu %lu %lu %lu %lu %u %u", c->kind,
			 c->verify, (unsigned long)c->interval_ms,
			 (unsigned long)c->timeout_ms, (unsigned long)c->jitter,
			 (unsigned long)c->rise, (unsigned long)c->fall, c->status.low,
			 c->status.high);

	static_assert(sizeof(c->path) + 3 * sizeof(c->host) + 160 < sizeof(text), "fits");
	n += snprintf(text + n, sizeof(text) - (size_t)n, "\n%s\n%s\n%s\n%s", c->path,
		      c->host, c->match, c->payload);
	return hash(text, (unsigned int)n);
}

uint64_t
target_name(const struct target_key *key)
{
	struct target_key unplaced = *key;

	unplaced.board = 0;
	return hash(&unplaced, sizeof(unplaced)) & ~1ULL;
}

static void
target_make(const struct endpoint *address, const struct lb_check *check,
	    struct target *t)
{
	*t = (struct target){ .key = { .backend = *address, .check = check_hash(check) },
			      .check = *check };
	if (check->kind == LB_CHECK_ICMP)
		t->key.backend.port = 0;
	else if (check->port != 0)
		t->key.backend.port = rte_cpu_to_be_16((uint16_t)check->port);
	t->name = target_name(&t->key);
	t->key.board = (uint32_t)(t->name >> 32) % TARGET_BOARDS;
}

int
lb_health_new(struct lb_health **out)
{
	struct lb_health *h;
	int err = lb_probe_init();

	if (err != 0)
		return err;
	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return -ENOMEM;
	*out = h;
	return 0;
}

void
lb_health_free(struct lb_health *h)
{
	if (h == NULL)
		return;
	free(h->target);
	free(h);
}

/* The first user of a board whose target is not before that name. */
static unsigned int
user_find(const struct lb_health *h, uint32_t board, uint64_t name)
{
	unsigned int low = h->first[board], high = h->first[board + 1];

	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (h->user[middle].name < name)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct target *
target_find(const struct lb_health *h, const struct target_key *key)
{
	uint64_t name = target_name(key);
	unsigned int i;

	if (h == NULL || key->board >= TARGET_BOARDS)
		return NULL;
	i = user_find(h, key->board, name);
	if (i == h->first[key->board + 1] || h->user[i].name != name)
		return NULL;
	return &h->target[h->user[i].target];
}

static int
target_add(struct lb_health *h, const struct target *t)
{
	struct target *more;

	/* Powers of two. */
	if ((h->n_targets & (h->n_targets - 1)) == 0) {
		more = realloc(h->target, (h->n_targets > 0 ? 2 * h->n_targets : 1) *
						  sizeof(*more));
		if (more == NULL)
			return -ENOMEM;
		h->target = more;
	}
	h->target[h->n_targets++] = *t;
	return 0;
}

int
lb_health_add(struct lb_health *h, unsigned int service, unsigned int backend,
	      const struct endpoint *address, const struct lb_check *check)
{
	const struct target *same;
	struct target t;
	unsigned int at;
	int err;

	if (check->kind == LB_CHECK_NONE)
		return 0;
	assert(service < LB_HEALTH_SERVICES && backend < LB_HEALTH_BACKENDS);
	assert(h->n_users < LB_HEALTH_SERVICES * LB_HEALTH_BACKENDS);
	target_make(address, check, &t);
	same = target_find(h, &t.key);
	if (same == NULL) {
		err = target_add(h, &t);
		if (err != 0)
			return err;
		same = &h->target[h->n_targets - 1];
	}
	at = user_find(h, t.key.board, t.name);
	memmove(&h->user[at + 1], &h->user[at], (h->n_users++ - at) * sizeof(h->user[0]));
	h->user[at] = (struct user){ t.name, (uint16_t)(same - h->target),
				     (uint8_t)t.key.board, (uint8_t)service,
				     (uint8_t)backend };
	for (unsigned int i = t.key.board + 1; i <= TARGET_BOARDS; i++)
		h->first[i]++;
	return 0;
}

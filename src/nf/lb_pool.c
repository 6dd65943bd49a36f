/*
 * lb_pool.c - how many connections each backend of a service has.
 *
 * The counts of all backends of a service are one record (in each partition of the store)
 * that all instances share and add to: they are exact, and nobody waits for anybody.
 * What a new connection chooses by is as old as its read.  The slots carry the backends'
 * addresses, so that instances with different lists of backends do not misread each
 * other; and a count carries a tag of its backend above, so that an add to a slot that
 * has become another backend's leaves its bounds, and the run looks again.
 *
 * A backend gets its slot with its first connection, and loses it when it has none and
 * another one needs it.  With the slot goes a record under the backend's own endpoint, of
 * whose connections it may answer: so answers of one that is no longer in anybody's file
 * are known for what they are.
 */
#include "nf/lb.h"

struct lb_slot {
	struct endpoint backend;
	uint32_t zero;
	int64_t tagged;				/* The tag, shifted, and the count. */
};

struct pool {					/* Only as long as it is. */
	struct lb_slot slot[LB_MAX_BACKENDS];
};

struct turn {
	int64_t n;
};

struct origin {					/* Key: the backend. */
	uint32_t n;
	struct endpoint address[LB_MAX_SHARED];	/* Virtual ones. */
};

static_assert(sizeof(struct lb_slot) == 32, "no padding");
static_assert(sizeof(struct origin) == 84, "no padding");

static uint32_t pool_spread(const void *key, unsigned int key_bytes);

static const struct nf_field key_fields[] = {
	{ "address", NF_FIELD_ENDPOINT, offsetof(struct lb_pool_key, address),
	  sizeof(struct endpoint) },
	{ "protocol", NF_FIELD_PROTOCOL, offsetof(struct lb_pool_key, protocol), 1 },
	{ "partition", NF_FIELD_UINT, offsetof(struct lb_pool_key, partition), 2 },
	{ 0 }
};

static const struct nf_field turn_fields[] = {
	{ "n", NF_FIELD_UINT, offsetof(struct turn, n), 8 },
	{ 0 }
};

NF_TABLE(pool, struct lb_pool_key, struct pool, .format = 3, .spread = pool_spread,
	 .key_fields = key_fields)
NF_TABLE(turn, struct lb_pool_key, struct turn, .spread = pool_spread,
	 .key_fields = key_fields, .fields = turn_fields)
NF_TABLE(origin, struct lb_pool_key, struct origin, .spread = pool_spread,
	 .key_fields = key_fields)

static uint32_t
pool_spread(const void *key, unsigned int key_bytes)
{
	(void)key_bytes;
	return ((const struct lb_pool_key *)key)->partition;
}

/* --- slots -------------------------------------------------------------------- */

enum {
	COUNT_BITS = 32,
};

/* The count of this backend if there are no connections. */
static int64_t
tag(const struct endpoint *backend)
{
	return (int64_t)((uint64_t)(nf_spread(backend, sizeof(*backend)) >> 1 | 1)
			 << COUNT_BITS);
}

static int64_t
n_open(const struct lb_slot *slot)
{
	return slot->tagged - tag(&slot->backend);
}

/* NULL: there is none; 'n' is set to the number of slots. */
static const struct lb_slot *
pool_slots(struct nf_run *r, const struct lb_pool_key *key, enum nf_ask how,
	   unsigned int *n)
{
	unsigned int bytes = 0;
	const void *v = nf_table_read(r, &pool_table, key, sizeof(*key), how, &bytes);

	*n = v != NULL ? bytes / sizeof(struct lb_slot) : 0;
	return nf_table_sized(r, v, bytes, *n * (unsigned int)sizeof(struct lb_slot));
}

/* 'n': it has none. */
static unsigned int
slot_find(const struct lb_slot *slot, unsigned int n, const struct endpoint *backend)
{
	unsigned int i = 0;

	while (i < n && (backend == NULL || !lb_same_endpoint(&slot[i].backend, backend)))
		i++;
	return i;
}

void
lb_pool_glance(struct nf_run *r, const struct endpoint *address, uint8_t protocol,
	       unsigned int partition, struct lb_pool *pool)
{
	pool->key = (struct lb_pool_key){ *address, (uint16_t)partition, protocol, 0 };
	pool->slot = pool_slots(r, &pool->key, NF_GLANCE, &pool->n);
}

/* A glance may guess below none. */
static uint32_t
shown(const struct lb_slot *slot)
{
	int64_t n = n_open(slot);

	return n < 0 ? 0 : n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
}

uint32_t
lb_pool_open(const struct lb_pool *pool, const struct endpoint *backend)
{
	unsigned int at = slot_find(pool->slot, pool->n, backend);

	return at < pool->n ? shown(&pool->slot[at]) : 0;
}

void
lb_pool_loads(const struct lb_service *s, const struct lb_pool *pool,
	      uint32_t n_of[LB_MAX_BACKENDS])
{
	memset(n_of, 0, s->n_backends * sizeof(*n_of));
	for (unsigned int i = 0; i < pool->n; i++) {
		const struct endpoint *backend = &pool->slot[i].backend;
		int at = (int)i;

		/* Most often they come in the order of the file. */
		if (i >= s->n_backends ||
		    !lb_same_endpoint(&s->backend[i].endpoint, backend))
			at = lb_backend_at(s, backend);
		if (at != LB_NONE)
			n_of[at] = shown(&pool->slot[i]);
	}
}

/* --- origins ------------------------------------------------------------------ */

static void
origin_key(const struct lb_pool_key *pool, const struct endpoint *backend,
	   struct lb_pool_key *key)
{
	*key = *pool;
	key->address = *backend;
}

unsigned int
lb_origins(struct nf_run *r, const struct endpoint *backend, uint8_t protocol,
	   unsigned int partition, struct endpoint origin[LB_MAX_SHARED])
{
	struct lb_pool_key key = { *backend, (uint16_t)partition, protocol, 0 };
	const struct origin *o = origin_peek(r, &key);
	unsigned int n = o != NULL && o->n <= LB_MAX_SHARED ? o->n : 0;

	if (n > 0)
		memcpy(origin, o->address, n * sizeof(*origin));
	return n;
}

static unsigned int
origin_find(const struct origin *o, const struct endpoint *address)
{
	unsigned int i = 0;

	while (i < o->n && !lb_same_endpoint(&o->address[i], address))
		i++;
	return i;
}

/* The backend may answer for the pool's address from now on.  The oldest address is
 * forgotten if there are too many: files do not have so many, but they change. */
static void
origin_put(struct nf_run *r, const struct lb_pool_key *pool,
	   const struct endpoint *backend, const struct origin *before)
{
	struct origin next = { 0 };
	struct lb_pool_key key;

	if (before != NULL && before->n <= LB_MAX_SHARED)
		next = *before;
	if (origin_find(&next, &pool->address) < next.n)
		return;
	if (next.n == LB_MAX_SHARED)
		memmove(next.address, next.address + 1,
			--next.n * sizeof(next.address[0]));
	next.address[next.n++] = pool->address;
	origin_key(pool, backend, &key);
	origin_write(r, &key, &next);
}

static void
origin_remove(struct nf_run *r, const struct lb_pool_key *pool,
	      const struct endpoint *backend, const struct origin *before)
{
	struct lb_pool_key key;
	struct origin next;
	unsigned int at;

	if (before == NULL || before->n > LB_MAX_SHARED)
		return;
	next = *before;
	at = origin_find(&next, &pool->address);
	if (at == next.n)
		return;
	origin_key(pool, backend, &key);
	next.address[at] = next.address[--next.n];
	memset(&next.address[next.n], 0, sizeof(next.address[0]));
	if (next.n > 0)
		origin_write(r, &key, &next);
	else
		origin_delete(r, &key);
}

/* --- counts ------------------------------------------------------------------- */

/* Adds to the count in a slot, if it still is this backend's. */
static void
count(struct nf_run *r, const struct lb_pool_key *key, const struct lb_slot *slot,
      unsigned int at, int delta)
{
	int64_t none = tag(&slot[at].backend);
	unsigned int offset = at * (unsigned int)sizeof(struct lb_slot) +
			      offsetof(struct lb_slot, tagged);

	pool_add(r, key, offset, delta, none, none + UINT32_MAX);
}

/* A slot of a backend without connections, or 'n' if all have some. */
static unsigned int
slot_unused(const struct lb_slot *slot, unsigned int n)
{
	unsigned int i = 0;

	while (i < n && n_open(&slot[i]) != 0)
		i++;
	return i;
}

bool
lb_pool_has_room(const struct lb_pool *pool, const struct endpoint *backend)
{
	return pool->n < LB_MAX_BACKENDS ||
	       slot_find(pool->slot, pool->n, backend) < pool->n ||
	       slot_unused(pool->slot, pool->n) < pool->n;
}

uint64_t
lb_pool_there(const struct lb_service *s, const struct lb_pool *pool)
{
	uint64_t there = 0;

	for (unsigned int i = 0; i < pool->n; i++) {
		int at = lb_backend_at(s, &pool->slot[i].backend);

		if (at != LB_NONE)
			there |= 1ULL << at;
	}
	return there;
}

/* The same with a new slot, for 'on'.  The record is written whole, so it is read first:
 * nobody's add may get lost. */
static enum nf_verdict
move_to_new(struct nf_run *r, const struct lb_pool_key *key, const struct lb_slot *slot,
	    unsigned int n, unsigned int off, const struct endpoint *on)
{
	const struct origin *here, *there = NULL;
	struct lb_pool_key here_key, there_key;
	unsigned int to = n;
	struct pool next;

	if (n == LB_MAX_BACKENDS)
		to = slot_unused(slot, n);
	if (to == LB_MAX_BACKENDS)
		return NF_DROP;
	origin_key(key, on, &here_key);
	here = origin_read(r, &here_key);
	if (to < n) {
		origin_key(key, &slot[to].backend, &there_key);
		there = origin_read(r, &there_key);
	}
	if (nf_pending(r))
		return NF_WAIT;
	if (n > 0)
		memcpy(next.slot, slot, n * sizeof(*slot));
	if (off < n)
		next.slot[off].tagged--;
	if (to < n)
		origin_remove(r, key, &slot[to].backend, there);
	else
		n++;
	next.slot[to] = (struct lb_slot){ .backend = *on, .tagged = tag(on) + 1 };
	origin_put(r, key, on, here);
	nf_table_write(r, &pool_table, key, sizeof(*key), next.slot,
		       n * (unsigned int)sizeof(struct lb_slot), NF_KEPT, 0);
	return NF_SEND;
}

/* There may be nothing to take off: the counts may have been lost.  That is not for a
 * glance to say.  It guesses at what is under way, and of that some comes to nothing, as
 * when another instance has closed a connection before; so the counts are read then, and
 * stay as they are until this run's group is applied. */
enum nf_verdict
lb_pool_move(struct nf_run *r, const struct lb_pool *pool, const struct endpoint *off,
	     const struct endpoint *on)
{
	const struct lb_slot *slot = pool->slot;
	unsigned int n = pool->n, from, to;

	if (off != NULL && on != NULL && lb_same_endpoint(off, on))
		return NF_SEND;
	from = slot_find(slot, n, off);
	to = slot_find(slot, n, on);
	if ((off != NULL && (from == n || n_open(&slot[from]) <= 0)) ||
	    (on != NULL && to == n)) {
		slot = pool_slots(r, &pool->key, NF_READ, &n);
		if (nf_pending(r))
			return NF_WAIT;
		from = slot_find(slot, n, off);
		to = slot_find(slot, n, on);
	}
	if (from < n && n_open(&slot[from]) <= 0)
		from = n;
	if (on != NULL && to == n)
		return move_to_new(r, &pool->key, slot, n, from, on);
	if (from < n)
		count(r, &pool->key, slot, from, -1);
	if (on != NULL)
		count(r, &pool->key, slot, to, 1);
	return NF_SEND;
}

/* --- turns -------------------------------------------------------------------- */

uint64_t
lb_turn_glance(struct nf_run *r, const struct lb_pool *pool)
{
	const struct turn *turn = turn_glance(r, &pool->key);

	return turn != NULL ? (uint64_t)turn->n : 0;
}

void
lb_turn_take(struct nf_run *r, const struct lb_pool *pool)
{
	turn_add(r, &pool->key, offsetof(struct turn, n), 1, 0, INT64_MAX);
}

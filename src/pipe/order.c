/*
 * order.c - which runs wait for which.
 *
 * Jobs come back in the order they were sent and their runs decide in that order, so
 * nearly every run may decide and leave at once, and nothing here is touched.  Three
 * things make others wait:
 *
 *   lane       A run that is not decided at its turn (it needs a second trip, or lost
 *              a race) holds up the later runs of its connection: they are parked and
 *              start from the top when it has decided.
 *              A fragment whose ports are still looked for is of no connection yet:
 *              it has the lane of its datagram, and holds it up only if it lost a
 *              race.
 *   overlay    What a run wrote is seen by later runs at once, although the store has
 *              not acknowledged it.  Versions are chosen here, so a later write can
 *              name the unacknowledged version that it builds on: if the earlier
 *              group fails, the later one fails by itself.  (What the store makes
 *              of an add, or of a range, is not known here before it says so.)
 *   commit     A run that wrote, or saw what is in the overlay, or has such a run of
 *              its own connection before it, leaves from a commit queue, in order.
 *              If a group failed, runs that only looked at it are doomed: they are run
 *              again.
 *              Light runs, all of whose writes may be lost, have a queue of their own:
 *              they need not wait for replicas, nor behind those that do.  A run is
 *              light only if all that it depends on is.
 *
 * Tables are open addressing with linear probing; entries are few and short-lived.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

#include "base/hash.h"

void
order_init(struct order *o, uint64_t seed)
{
	memset(o, 0, sizeof(*o));
	o->seed = seed;
}

static inline bool
is_taken(const uint64_t *taken, unsigned int i)
{
	return (taken[i / 64] >> i % 64 & 1) != 0;
}

static inline void
set_taken(uint64_t *taken, unsigned int i, bool to)
{
	taken[i / 64] = (taken[i / 64] & ~(1ULL << i % 64)) | (uint64_t)to << i % 64;
}

/* Later fragments have no ports: what they are of is all that tells them from those of
 * any other connection of the same hosts. */
static __rte_noinline uint64_t
datagram_hash(const struct order *o, const struct nf_run *r)
{
	struct flow f = r->packet.flow;
	struct packet_part part;

	packet_part(&r->packet, &part);
	f.src_port = f.dst_port = 0;
	if (f.version == 6)
		f.protocol = 0;			/* RFC 8200, 4.5. */
	return hash_bytes(&f, flow_bytes(&f), hash_fold(o->seed, ~(uint64_t)part.id)) | 1;
}

static uint64_t
lane_hash(struct order *o, struct nf_run *r)
{
	if (r->lane_hash != 0)
		return r->lane_hash;
	if (unlikely(r->marks & RUN_IS_FRAGMENT)) {
		r->lane_hash = datagram_hash(o, r);
	} else {
		const struct flow *f = nf_connection(r);

		r->lane_hash = hash_bytes(f, flow_bytes(f), o->seed) | 1;
	}
	return r->lane_hash;
}

static inline unsigned int
lane_home(uint64_t hash)
{
	return (hash >> 1) % ORDER_LANES;
}

/* The slot of that connection's lane, or the free one where it would go.  At most
 * PIPE_MAX_LIVE runs have a lane: there is always a free one. */
static struct lane *
lane_slot(struct order *o, uint64_t hash)
{
	unsigned int i = lane_home(hash);

	while (o->lane[i].hash != 0 && o->lane[i].hash != hash)
		i = (i + 1) % ORDER_LANES;
	return &o->lane[i];
}

/* The lane of r's connection, NULL if there is none. */
static struct lane *
lane_find(struct order *o, struct nf_run *r)
{
	if (o->n_lanes == 0 || !is_taken(o->lane_taken, lane_home(lane_hash(o, r))))
		return NULL;

	struct lane *l = lane_slot(o, lane_hash(o, r));

	return l->hash != 0 ? l : NULL;
}

static struct lane *
lane_make(struct order *o, struct nf_run *r)
{
	uint64_t hash = lane_hash(o, r);
	struct lane *l = lane_slot(o, hash);

	if (l->hash == 0) {
		*l = (struct lane){ .hash = hash };
		set_taken(o->lane_taken, (unsigned int)(l - o->lane), true);
		o->n_lanes++;
	}
	return l;
}

/* Frees the lane if nobody is in it any more, closing the gap in the probe chain. */
static void
lane_release(struct order *o, struct lane *l)
{
	if (l->late != NULL || l->n_committing > 0)
		return;

	unsigned int gap = l - o->lane;

	o->n_lanes--;
	for (unsigned int i = (gap + 1) % ORDER_LANES; o->lane[i].hash != 0;
	     i = (i + 1) % ORDER_LANES) {
		unsigned int home = lane_home(o->lane[i].hash);

		if ((i - home) % ORDER_LANES >= (i - gap) % ORDER_LANES) {
			o->lane[gap] = o->lane[i];
			gap = i;
		}
	}
	o->lane[gap].hash = 0;
	set_taken(o->lane_taken, gap, false);
}

static void
restart(struct order *o, struct nf_run *r)
{
	r->state = RUN_READING;
	r->next = NULL;
	if (o->restart_tail != NULL)
		o->restart_tail->next = r;
	else
		o->restart_head = r;
	o->restart_tail = r;
}

struct nf_run *
order_next_restart(struct order *o)
{
	struct nf_run *r = o->restart_head;

	if (r == NULL)
		return NULL;
	o->restart_head = r->next;
	if (o->restart_head == NULL)
		o->restart_tail = NULL;
	r->next = NULL;
	return r;
}

void
order_late(struct order *o, struct nf_run *r)
{
	if (r->late)
		return;

	struct lane *l = lane_make(o, r);
	struct nf_run **at = &l->late;

	/* Nearly always it is the latest. */
	if (l->late != NULL && l->late_tail->sequence < r->sequence)
		at = &l->late_tail->late_next;
	while (*at != NULL && (*at)->sequence < r->sequence)
		at = &(*at)->late_next;
	r->late_next = *at;
	*at = r;
	if (r->late_next == NULL)
		l->late_tail = r;
	r->late = true;
}

/* The first of a lane that has to start again waits for those of its connection that
 * are in the commit queue: they may fail as well, and then come before what is behind
 * them. */
static void
restart_first(struct order *o, const struct lane *l)
{
	if (l->late != NULL && l->late->state == RUN_PARKED && l->n_committing == 0)
		restart(o, l->late);
}

void
order_retry(struct order *o, struct nf_run *r)
{
	order_late(o, r);
	r->state = RUN_PARKED;
	restart_first(o, lane_find(o, r));
}

bool
order_waits(struct order *o, struct nf_run *r)
{
	struct lane *l = lane_find(o, r);

	return l != NULL && l->late != NULL && l->late != r;
}

void
order_park(struct order *o, struct nf_run *r)
{
	order_late(o, r);
	r->state = RUN_PARKED;
}

void
order_decided(struct order *o, struct nf_run *r)
{
	if (!r->late)
		return;

	struct lane *l = lane_find(o, r);
	struct nf_run *before = NULL, *next = l->late;

	while (next != r) {
		before = next;
		next = next->late_next;
	}
	next = r->late_next;
	if (before != NULL)
		before->late_next = next;
	else
		l->late = next;
	if (next == NULL)
		l->late_tail = before;
	r->late = false;
	/* Several at once: they share a trip, and decide one after the other. */
	if (before == NULL) {
		for (unsigned int n = 0; n < ORDER_RESTARTS && next != NULL &&
					 next->state == RUN_PARKED;
		     n++, next = next->late_next)
			restart(o, next);
	}
	lane_release(o, l);
}

bool
order_committing(struct order *o, struct nf_run *r)
{
	struct lane *l = lane_find(o, r);

	return l != NULL && l->n_committing > 0;
}

/* The slot that holds a write of that key, or the free one where it would go. */
static struct run_write **
overlay_slot(struct order *o, uint64_t hash, uint8_t table, const void *key,
	     uint8_t key_bytes)
{
	unsigned int i = hash % ORDER_OVERLAY;

	while (o->overlay[i] != NULL) {
		const struct run_write *w = o->overlay[i];

		if (w->hash == hash && w->table == table && w->key_bytes == key_bytes &&
		    memcmp(w->key, key, key_bytes) == 0)
			break;
		i = (i + 1) % ORDER_OVERLAY;
	}
	return &o->overlay[i];
}

static void
overlay_add(struct order *o, struct run_write *w)
{
	w->hash = hash_bytes(w->key, w->key_bytes, o->seed + w->table);

	struct run_write **slot =
		overlay_slot(o, w->hash, w->table, w->key, w->key_bytes);

	if (*slot == NULL)
		o->n_overlay++;
	*slot = w;
	set_taken(o->overlay_taken, (unsigned int)(slot - o->overlay), true);
}

static void
overlay_remove(struct order *o, struct run_write *w)
{
	struct run_write **slot =
		overlay_slot(o, w->hash, w->table, w->key, w->key_bytes);

	if (*slot != w)				/* A later run wrote it again. */
		return;

	unsigned int gap = slot - o->overlay;

	o->n_overlay--;
	for (unsigned int i = (gap + 1) % ORDER_OVERLAY; o->overlay[i] != NULL;
	     i = (i + 1) % ORDER_OVERLAY) {
		unsigned int home = o->overlay[i]->hash % ORDER_OVERLAY;

		if ((i - home) % ORDER_OVERLAY >= (i - gap) % ORDER_OVERLAY) {
			o->overlay[gap] = o->overlay[i];
			gap = i;
		}
	}
	o->overlay[gap] = NULL;
	set_taken(o->overlay_taken, gap, false);
}

void
order_overlay(struct order *o, struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_fetched && o->n_overlay > 0; i++) {
		struct run_value *v = &r->value[i];
		uint64_t hash = hash_bytes(v->key, v->key_bytes, o->seed + v->table);
		const struct run_write *w;

		if (!is_taken(o->overlay_taken, hash % ORDER_OVERLAY))
			continue;
		w = *overlay_slot(o, hash, v->table, v->key, v->key_bytes);
		if (w == NULL)
			continue;
		v->value = w->value;
		v->value_bytes = w->value_bytes;
		v->format = w->format;
		v->version = w->version;
		r->unacknowledged |= (uint16_t)(1 << i);
		r->speculative |= w->light ? RUN_SAW_LIGHT : RUN_SAW_HEAVY;
	}
	if (o->n_guesses > 0)
		guess_apply(o, r);
}

/* Whether nothing that 'r' writes or depends on has to reach replicas. */
static bool
is_light(const struct lane *l, const struct nf_run *r)
{
	bool light = l->n_light == l->n_committing && !(r->speculative & RUN_SAW_HEAVY);

	if (r->has_group)
		for (unsigned int i = 0; i < r->n_writes; i++)
			light &= r->write[i].light;
	return light;
}

void
order_commit(struct order *o, struct nf_run *r)
{
	struct lane *l = lane_make(o, r);
	struct commit_queue *q;

	r->state = RUN_COMMITTING;
	r->doomed = false;
	r->next = NULL;
	r->light = is_light(l, r);
	r->committed = o->n_committed++;
	q = &o->commit[r->light];
	if (q->tail != NULL)
		q->tail->next = r;
	else
		q->head = r;
	q->tail = r;
	l->n_committing++;
	l->n_light += r->light;
	if (!r->has_group) {
		o->n_groupless++;
		return;
	}
	for (unsigned int i = 0; i < r->n_writes; i++) {
		struct run_write *w = &r->write[i];

		w->light = r->light;
		if (write_is_whole(w))
			overlay_add(o, w);
		else if (w->op == FRAME_ADD)
			guess_add(o, w);
	}
}

/* Dooms the runs without a group that looked at what the failed one of 'w' wrote, or
 * that only wait for 'w' because they are of its connection.  Those with a group name
 * the failed version in it and fail by themselves. */
static void
doom(struct commit_queue *q, const struct nf_run *w)
{
	for (struct nf_run *r = q->head; r != NULL; r = r->next) {
		r->doomed |= r->lane_hash == w->lane_hash;
		for (unsigned int i = 0; i < r->n_asked; i++)
			r->doomed |= (r->unacknowledged >> i & 1) != 0 &&
				     r->value[i].version == w->group_version;
	}
}

static inline bool
may_leave(const struct nf_run *r)
{
	return r != NULL && (!r->has_group || r->fate != RUN_UNKNOWN);
}

/* The queue whose first may leave, or NULL.  Those that are not light may depend on light
 * ones before them; never the other way round. */
static struct commit_queue *
next_queue(struct order *o)
{
	struct commit_queue *heavy = &o->commit[false], *light = &o->commit[true];

	if (may_leave(light->head))
		return light;
	if (!may_leave(heavy->head) ||
	    (light->head != NULL && light->head->committed < heavy->head->committed))
		return NULL;
	return heavy;
}

struct nf_run *
order_next_committed(struct order *o)
{
	struct commit_queue *q = next_queue(o);
	struct nf_run *r;
	struct lane *l;

	if (q == NULL)
		return NULL;
	r = q->head;
	q->head = r->next;
	if (q->head == NULL)
		q->tail = NULL;
	r->next = NULL;

	l = lane_find(o, r);
	l->n_committing--;
	l->n_light -= r->light;
	restart_first(o, l);
	lane_release(o, l);
	if (!r->has_group) {
		o->n_groupless--;
		return r;
	}
	for (unsigned int i = 0; i < r->n_writes; i++)
		if (write_is_whole(&r->write[i]))
			overlay_remove(o, &r->write[i]);
	if (o->n_guesses > 0)
		guess_answered(o, r);
	if (r->fate != RUN_APPLIED && o->n_groupless > 0) {
		doom(&o->commit[false], r);
		doom(&o->commit[true], r);
	}
	return r;
}

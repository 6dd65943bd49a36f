/*
 * access.c - what a handler does with tables: reads, writes, touches.
 *
 * Reads are matched by position: the handler is a pure function of the packet and of
 * the values, so with the same values it asks for the same keys in the same order.
 * Where it does not (a value changed in between), what follows is asked for anew.
 * Reads that are not here go into the open frame as they are asked for; writes and
 * touches are kept until the run ends with a verdict.
 *
 * Each key lies in one partition, and a frame goes to each.  Reads may come from
 * anywhere; a group is one partition's, and names the versions of what was read there.
 *
 * Handlers know one format of a table, the newest.  Records of older ones are made into
 * it as they are read, and the other way round as they are written, if the instance's
 * file asks for that; versions are the records' in any case.
 */
#include "pipe/run.h"

#include <rte_branch_prediction.h>

/* IPv4 flows make most of the keys. */
static inline bool
same_key(const void *a, const void *b, unsigned int bytes)
{
	uint64_t x[2], y[2];

	if (unlikely(bytes != sizeof(x)))
		return memcmp(a, b, bytes) == 0;
	memcpy(x, a, sizeof(x));
	memcpy(y, b, sizeof(y));
	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

static inline uint8_t
part_of(const struct run_context *c, const struct nf_table *t, const void *key,
	unsigned int key_bytes)
{
	if (likely(c->n_parts == 1))
		return 0;
	return (uint8_t)(t->spread(key, key_bytes) % c->n_parts);
}

unsigned int
nf_table_partition(const struct nf_run *r, const struct nf_table *t, const void *key,
		   unsigned int key_bytes)
{
	return part_of(context_of(r), t, key, key_bytes);
}

/* --- formats ------------------------------------------------------------------ */

unsigned int
run_upgrade(const struct nf_table *t, uint8_t from, const void *old,
	    unsigned int old_bytes, void *value)
{
	unsigned int n;

	if (from >= t->format || t->upgrade == NULL)
		return 0;
	memset(value, 0, t->value_max);
	n = t->upgrade(from, old, old_bytes, value);
	assert(n <= t->value_max);
	return n;
}

/* Makes a value of an older format, in a buffer that the next call overwrites. */
static __rte_noinline const void *
downgrade(struct nf_run *r, const struct nf_table *t, uint8_t to, const void *value,
	  unsigned int *value_bytes)
{
	void *old = r->pipe->downgraded;

	memset(old, 0, NF_MAX_VALUE_BYTES);
	*value_bytes = t->downgrade(to, value, *value_bytes, old);
	assert(*value_bytes > 0 && *value_bytes <= NF_MAX_VALUE_BYTES);
	return old;
}

unsigned int
nf_table_bytes(const struct nf_table *t, uint8_t format, unsigned int value_bytes)
{
	uint64_t zeros[NF_MAX_VALUE_BYTES / 8] = { 0 };
	uint64_t old[NF_MAX_VALUE_BYTES / 8] = { 0 };

	if (format == t->format)
		return value_bytes;
	if (format > t->format || t->downgrade == NULL)
		return 0;
	return t->downgrade(format, zeros, value_bytes, old);
}

void
run_refused(struct pipe *p, uint8_t table, uint8_t format)
{
	unsigned int n = atomic_load_explicit(&p->n_refusals, memory_order_relaxed);
	struct pipe_refusal *refusal = p->refusal;

	while (refusal < p->refusal + n &&
	       (refusal->table != table || refusal->format != format))
		refusal++;
	if (refusal == p->refusal + PIPE_MAX_REFUSALS)
		return;
	if (refusal == p->refusal + n) {
		refusal->table = table;
		refusal->format = format;
		atomic_store_explicit(&p->n_refusals, n + 1, memory_order_release);
	}
	atomic_fetch_add_explicit(&refusal->n, 1, memory_order_relaxed);
}

const struct pipe_refusal *
pipe_refusals(const struct pipe *p, unsigned int *n)
{
	*n = atomic_load_explicit(&p->n_refusals, memory_order_acquire);
	return p->refusal;
}

void
pipe_set_formats(struct pipe *p, const uint8_t *format)
{
	for (unsigned int i = 0; i < STORE_MAX_TABLES; i++)
		atomic_store_explicit(&p->format[i], format[i], memory_order_relaxed);
}

/* --- reads -------------------------------------------------------------------- */

/* The functions of a chain want more than one run may: it will be dropped, and what it
 * reads and writes until then does not matter.  One alone knows what it may. */
static __rte_noinline void
too_much(struct nf_run *r)
{
	assert(context_of(r)->chain.n > 1);
	r->unreadable = RUN_TOO_MUCH;
}

static __rte_noinline struct run_value *
too_many_reads(struct nf_run *r)
{
	static struct run_value absent;

	too_much(r);
	r->n_asked--;
	return &absent;
}

/* The next value of this execution if it is here, NULL: it has to be asked for. */
static inline struct run_value *
fetched(struct nf_run *r, const struct nf_table *t, const void *key,
	unsigned int key_bytes)
{
	unsigned int i = r->n_asked++;

	if (unlikely(i >= NF_MAX_READS))
		return too_many_reads(r);

	struct run_value *v = &r->value[i];

	if (i >= r->n_fetched)
		return NULL;
	if (likely(v->table == t->index && v->key_bytes == key_bytes &&
		   same_key(v->key, key, key_bytes)))
		return v;
	r->n_fetched = (uint8_t)i;
	return NULL;
}

/* Puts a value in the open frame. */
static inline void
ask(struct run_context *c, struct run_value *v, const void *key, uint8_t key_bytes,
    uint32_t n_members)
{
	struct frame *f = &c->part[v->part].request;

	if (likely(v->how != RUN_PICK && key_bytes == FLOW4_BYTES))
		v->key = frame_read(f, v->table, key, FLOW4_BYTES, v->how != RUN_PEEK);
	else if (v->how != RUN_PICK)
		v->key = frame_read(f, v->table, key, key_bytes, v->how != RUN_PEEK);
	else
		v->key = frame_pick(f, v->table, key, key_bytes, n_members);
	assert(v->key != NULL);			/* RUN_FRAME_BYTES */
}

static inline void
ask_new(struct nf_run *r, const struct nf_table *t, const void *key,
	unsigned int key_bytes, enum run_ask how, uint32_t n_members)
{
	struct run_context *c = context_of(r);
	struct run_value *v = &r->value[r->n_asked - 1];

	v->table = t->index;
	v->key_bytes = (uint8_t)key_bytes;
	v->part = part_of(c, t, key, key_bytes);
	v->how = how;
	r->n_pending++;
	ask(c, v, key, (uint8_t)key_bytes, n_members);
}

/* A value of another format.  It lives until the next execution. */
static __rte_noinline const void *
read_other(struct nf_run *r, const struct nf_table *t, const struct run_value *v,
	   unsigned int *value_bytes)
{
	void *value = r->pipe->upgraded[v - r->value];
	unsigned int n = run_upgrade(t, v->format, v->value, v->value_bytes, value);

	if (n == 0) {
		r->unreadable = r->n_asked;
		return NULL;
	}
	if (value_bytes != NULL)
		*value_bytes = n;
	return value;
}

const void *
nf_table_read(struct nf_run *r, const struct nf_table *t, const void *key,
	      unsigned int key_bytes, enum nf_ask how, unsigned int *value_bytes)
{
	const struct run_value *v = fetched(r, t, key, key_bytes);

	if (v == NULL) {
		ask_new(r, t, key, key_bytes, (enum run_ask)how, 0);
		return NULL;
	}
	if (unlikely(v->value != NULL && v->format != t->format))
		return read_other(r, t, v, value_bytes);
	if (value_bytes != NULL)
		*value_bytes = v->value_bytes;
	return v->value;
}

const void *
nf_table_sized(struct nf_run *r, const void *value, unsigned int bytes, unsigned int want)
{
	if (likely(value == NULL || bytes == want))
		return value;
	r->unreadable = r->n_asked;
	return NULL;
}

bool
nf_table_pick(struct nf_run *r, const struct nf_table *t, const void *key,
	      unsigned int key_bytes, uint32_t n_members, uint32_t *member)
{
	const struct run_value *v;

	assert(n_members > 0 && n_members <= NF_MAX_MEMBERS);
	v = fetched(r, t, key, key_bytes);
	if (v == NULL) {
		r->picked &= (uint16_t)~(1 << (r->n_asked - 1));
		ask_new(r, t, key, key_bytes, RUN_PICK, n_members);
		return false;
	}
	if (v->value == NULL || v->value_bytes != sizeof(*member))
		return false;

	/* It is asked again on each trip, and another is proposed each time: what was
	 * made of the first, such as the keys of what is read next, has to stay. */
	unsigned int i = (unsigned int)(v - r->value);

	if ((r->picked >> i & 1) == 0 || r->pick[i] >= n_members) {
		memcpy(&r->pick[i], v->value, sizeof(*member));
		r->picked |= (uint16_t)(1 << i);
	}
	*member = r->pick[i];
	return *member < n_members;
}

/* Where the operation that asks for a value begins. */
static inline uint8_t *
asked_at(struct run_context *c, const struct run_value *v)
{
	const struct frame *f = &c->part[v->part].request;

	return f->start + (v->key - f->start) - (v->how == RUN_PICK ? 8 : 4);
}

void
run_read_ahead(struct nf_run *r, uint8_t table, const void *key, unsigned int key_bytes,
	       uint8_t how)
{
	r->n_asked++;
	ask_new(r, r->pipe->table[table], key, key_bytes, (enum run_ask)how, 0);
}

void
run_ask_again(struct run_context *c, struct nf_run *r)
{
	for (unsigned int i = 0; i < r->n_fetched; i++) {
		struct run_value *v = &r->value[i];
		uint32_t n_members = 0;

		/* It stands before the key in the frame that has come back. */
		if (v->how == RUN_PICK)
			memcpy(&n_members, v->key - sizeof(n_members), sizeof(n_members));
		ask(c, v, v->key, v->key_bytes, n_members);
	}
	r->first = r->n_fetched;
}

void
run_take_back(struct run_context *c, struct nf_run *r)
{
	for (unsigned int i = r->n_asked; i-- > r->n_fetched;)
		c->part[r->value[i].part].request.at = asked_at(c, &r->value[i]);
	r->n_asked = RTE_MIN(r->n_asked, r->n_fetched);
	r->n_pending = 0;
}

/* --- writes ------------------------------------------------------------------- */

/* Whether two operations of a group may name the same record: what is due, or has to be
 * absent, may be written, and several things may happen inside a value. */
static bool
may_share(const struct run_write *before, const struct run_write *w)
{
	if (before->op == FRAME_SETTLE || before->op == FRAME_CHECK)
		return w->op == FRAME_PUT;
	return !write_is_whole(before) && !write_is_whole(w);
}

/* For one more operation. */
static inline bool
has_room(struct nf_run *r, unsigned int value_bytes)
{
	return r->n_writes < NF_MAX_WRITES &&
	       frame_room(&context_of(r)->writes) >= RUN_WRITE_HEAD_BYTES + value_bytes;
}

static __rte_noinline void
forget_writes(struct nf_run *r)
{
	too_much(r);
	r->n_writes = 0;
	context_of(r)->writes.at = context_of(r)->writes.start;
}

/* The caller writes the operation: 'key' of the result is set when it has. */
static struct run_write *
write_slot(struct nf_run *r, const struct nf_table *t, const void *key,
	   unsigned int key_bytes, enum frame_op_kind op, unsigned int value_bytes)
{
	uint8_t part = part_of(context_of(r), t, key, key_bytes);
	uint8_t format = atomic_load_explicit(&r->pipe->format[t->index],
					      memory_order_relaxed);

	if (unlikely(!has_room(r, value_bytes)))
		forget_writes(r);

	struct run_write *w = &r->write[r->n_writes];

	*w = (struct run_write){ .table = t->index, .key_bytes = (uint8_t)key_bytes,
				 .format = format != 0 ? format : t->format,
				 .op = (uint8_t)op };
	for (unsigned int i = 0; i < r->n_writes; i++) {
		const struct run_write *before = &r->write[i];

		assert(before->table != t->index || before->key_bytes != key_bytes ||
		       memcmp(before->key, key, key_bytes) != 0 || may_share(before, w));
	}
	assert((r->n_writes == 0 || r->part == part) &&
	       "all writes of a run lie in one partition: give their tables a .spread");
	r->part = part;
	r->n_writes++;
	return w;
}

void
nf_table_write(struct nf_run *r, const struct nf_table *t, const void *key,
	       unsigned int key_bytes, const void *value, unsigned int value_bytes,
	       enum nf_rank rank, uint32_t idle_ms)
{
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_PUT,
					 value_bytes);

	assert(value_bytes <= t->value_max);
	if (unlikely(w->format != t->format))
		value = downgrade(r, t, w->format, value, &value_bytes);
	w->value_bytes = (uint16_t)value_bytes;
	w->value = frame_put(&context_of(r)->writes, t->index, key, (uint8_t)key_bytes,
			     w->format, value, (uint16_t)value_bytes, (uint8_t)rank,
			     idle_ms);
	assert(w->value != NULL);		/* RUN_WRITE_BYTES */
	w->key = w->value + FRAME_PAD(value_bytes);
}

void
nf_may_lose(struct nf_run *r)
{
	assert(r->n_writes > 0);
	r->write[r->n_writes - 1].light = true;
}

void
nf_table_delete(struct nf_run *r, const struct nf_table *t, const void *key,
		unsigned int key_bytes)
{
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_DELETE, 0);

	w->key = frame_delete(&context_of(r)->writes, t->index, key, (uint8_t)key_bytes);
	assert(w->key != NULL);
}

/* The key is the last thing of the other operations. */
static void
write_key(struct run_context *c, struct run_write *w, bool written)
{
	assert(written);
	w->key = c->writes.at - FRAME_PAD(w->key_bytes);
}

void
nf_table_add(struct nf_run *r, const struct nf_table *t, const void *key,
	     unsigned int key_bytes, unsigned int value_bytes, unsigned int offset,
	     int64_t delta, int64_t min, int64_t max)
{
	struct run_context *c = context_of(r);
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_ADD, 0);

	assert(value_bytes <= t->value_max);
	if (unlikely(w->format != t->format))
		value_bytes = nf_table_bytes(t, w->format, value_bytes);
	assert(offset + sizeof(delta) <= value_bytes);
	assert(min <= max);
	write_key(c, w, frame_add(&c->writes, t->index, key, (uint8_t)key_bytes,
				  w->format, (uint16_t)value_bytes, (uint16_t)offset,
				  t->idle_ms, (int64_t[3]){ delta, min, max }));
}

void
nf_table_take(struct nf_run *r, const struct nf_table *t, const void *key,
	      unsigned int key_bytes, uint32_t n_members, uint32_t member)
{
	struct run_context *c = context_of(r);
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_TAKE, 0);

	assert(member < n_members && n_members <= NF_MAX_MEMBERS);
	write_key(c, w, frame_take(&c->writes, t->index, key, (uint8_t)key_bytes,
				   t->format, n_members, member));
}

void
nf_table_give(struct nf_run *r, const struct nf_table *t, const void *key,
	      unsigned int key_bytes, uint32_t member, uint32_t quarantine_ms)
{
	struct run_context *c = context_of(r);
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_GIVE, 0);

	write_key(c, w, frame_give(&c->writes, t->index, key, (uint8_t)key_bytes,
				   quarantine_ms, member));
}

void
nf_table_absent(struct nf_run *r, const struct nf_table *t, const void *key,
		unsigned int key_bytes)
{
	struct run_context *c = context_of(r);
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_CHECK, 0);

	write_key(c, w, frame_check(&c->writes, FRAME_CHECK, t->index, key,
				    (uint8_t)key_bytes, 0));
}

void
run_settle(struct nf_run *r, const struct nf_table *t, const void *key,
	   unsigned int key_bytes, uint64_t version)
{
	struct run_context *c = context_of(r);
	struct run_write *w = write_slot(r, t, key, key_bytes, FRAME_SETTLE, 0);

	write_key(c, w, frame_check(&c->writes, FRAME_SETTLE, t->index, key,
				    (uint8_t)key_bytes, version));
}

void
run_put_group(struct run_context *c, struct nf_run *r)
{
	struct frame *f = &c->part[r->part].request;
	size_t bytes = (size_t)(c->writes.at - c->writes.start);
	uint64_t version = ++c->next_version;
	uint8_t *group = frame_group(f, version);
	uint8_t *to = f->at;
	uint8_t n_ops = r->n_writes;

	memcpy(to, c->writes.start, bytes);
	f->at += bytes;
	for (unsigned int i = 0; i < r->n_writes; i++) {
		struct run_write *w = &r->write[i];

		w->key = to + (w->key - c->writes.start);
		if (w->value != NULL)
			w->value = w->key - FRAME_PAD(w->value_bytes);
		w->version = version;
	}
	for (unsigned int i = 0; i < r->n_asked; i++) {
		const struct run_value *v = &r->value[i];

		if (v->how >= RUN_FIRST_UNCHECKED || v->part != r->part)
			continue;
		frame_check(f, FRAME_CHECK, v->table, v->key, v->key_bytes,
			    v->value != NULL ? v->version : 0);
		n_ops++;
	}
	frame_group_end(group, n_ops);
	r->group_version = version;
	r->has_group = true;
	r->fate = RUN_UNKNOWN;
}

/* --- touches ------------------------------------------------------------------ */

void
nf_table_touch(struct nf_run *r, const struct nf_table *t, const void *key,
	       unsigned int key_bytes)
{
	struct run_context *c = context_of(r);

	assert(c->n_touches < NF_MAX_TOUCHES);
	if (c->n_touches == 0)
		c->touches.at = c->touches.start;
	c->touch_part[c->n_touches++] = part_of(c, t, key, key_bytes);
	frame_key_op(&c->touches, FRAME_TOUCH, t->index, key, (uint8_t)key_bytes);
}

void
run_put_touches(struct run_context *c)
{
	const uint8_t *at = c->touches.start;

	for (unsigned int i = 0; i < c->n_touches; i++) {
		unsigned int bytes = FRAME_PAD(4u + at[2]);
		struct frame *f = &c->part[c->touch_part[i]].request;

		assert(frame_room(f) >= bytes);	/* RUN_FRAME_BYTES */
		memcpy(f->at, at, bytes);
		f->at += bytes;
		at += bytes;
	}
}

/*
 * table.h - a function's tables: the part of nf.h that declares them.  Authors include
 * nf.h.
 *
 * NF_TABLE(name, key type, value type, .option = ...) makes, for the file it stands in,
 *
 *   const VALUE *NAME_read(r, const KEY *)   the record, or NULL; refreshes its
 *                                            idle time
 *   const VALUE *NAME_peek(r, const KEY *)   the same, and refreshes nothing
 *   const VALUE *NAME_glance(r, const KEY *) as read, but the run's writes do not depend
 *                                            on it: for counters that many change.  It may
 *                                            be what this pipe wrote, in vain
 *   void NAME_write(r, const KEY *, const VALUE *)
 *   void NAME_write_for(r, const KEY *, const VALUE *, uint32_t idle_ms)
 *   void NAME_write_brief(r, const KEY *, const VALUE *, uint32_t idle_ms)
 *                                            the same; what is written so is evicted
 *                                            before all else: half-open connections
 *   void NAME_insert(r, const KEY *, const VALUE *, uint32_t idle_ms)
 *                                            the same, but there must be none: conflict
 *   void NAME_delete(r, const KEY *)
 *   void NAME_add(r, const KEY *, offset, delta, min, max)
 *                                            to an int64_t of the value, of whatever it
 *                                            is then; made of zeros if it is absent
 *   void NAME_touch(r, const KEY *)          refreshes the idle time, unasked; costs no
 *                                            trip
 *   unsigned int NAME_partition(r, const KEY *)
 *
 * and, where the length of the value varies, nf_table_...() below with NAME_table.
 * Keys and values have no padding.  A run whose add would leave [min, max] is run again,
 * as after a conflict; one that never succeeds is dropped (limit).
 *
 * Options:
 *   .idle_ms   after which a record that nobody touches is deleted (0: never)
 *   .format    the version of the value's layout, to be raised when it changes
 *   .upgrade, .downgrade  make a value of this format of an older one, and back: below
 *   .expired   called instead of deleting the record: see below
 *   .fields    names and places of the value's fields, for people (fields.h);
 *   .key_fields  the same of the key's, unless that is a flow or an endpoint
 *   .limit     how many records there may be, unless the file says so (0: any number)
 *   .evict     at the limit the record that is worth least goes, instead of a new one
 *              being refused, unless the file says so; not with '.expired'
 *   .spread    which keys lie together: those with the same number, modulo the number of
 *              partitions, are in one.  nf_spread(), if it is not given
 *
 * '.expired' is a handler that is run, like that for packets, when a record's time has
 * passed: it reads, returns early while nf_pending(), and writes.  There is no packet:
 * nf_packet(), nf_flow(), nf_side(), nf_emit(), nf_alert() are not for it.  The record is
 * deleted with its writes, and none of it happens if somebody touched the record
 * meanwhile; so it must not read that record itself, only use what it is given.  It may
 * write it anew.  Of all instances one runs it; if that dies, another does.
 *
 * A record of another format is refused, unless it is older and '.upgrade' makes a value
 * of it, 'value' being zeros before.  So a new release reads what the last one wrote; and
 * the last one reads what the new one writes while its file has 'tables.NAME.format', for
 * then '.downgrade' makes the values ('old' being zeros before).  Both return the length
 * of what they made; 0: they cannot.  Whether '.downgrade' can, depends on 'to' alone.
 * Values of all formats have at most NF_MAX_VALUE_BYTES.  A field that is added to keeps
 * its place, and zeros mean the same, in all formats: the store adds, whatever it is.
 *
 * NF_RANGE(name, key type, .option = ...) makes ranges of members 0 to n_members - 1, by
 * key; one that is absent is all free:
 *
 *   bool NAME_pick(r, const KEY *, n_members, uint32_t *member)
 *              proposes a free member, by chance: a read.  False: pending, or none is
 *              free
 *   void NAME_take(r, const KEY *, n_members, member)
 *   void NAME_give(r, const KEY *, member, quarantine_ms)
 *              take it, and give it back; it is free again when that time has passed.
 *              If it is taken already, or is not: conflict
 *
 * What was added, taken or given is not in the values that later runs read before the
 * store has applied it; if they depend on it they are run again.  (A glance guesses at
 * adds of its own pipe that are under way.)
 *
 * A key of type 'struct flow' is as long as the flow is (flow_bytes()).
 */
#ifndef NF_TABLE_H
#define NF_TABLE_H

#include "nf/fields.h"

struct nf_table {
	const char *name;			/* "pool"; in the store "lb.pool". */
	const char *owner;			/* "lb.c": the function it belongs to. */
	uint16_t key_max, value_max;		/* Bytes. */
	uint8_t format;
	uint8_t index;				/* Given by the runtime at start. */
	bool is_range;
	bool evict;				/* Unless the file says otherwise. */
	uint32_t idle_ms;
	uint64_t limit;				/* Unless the file has one. */
	void (*expired)(struct nf_run *r, const void *key, const void *value);
	uint32_t (*spread)(const void *key, unsigned int key_bytes);
	unsigned int (*upgrade)(uint8_t from, const void *old, unsigned int old_bytes,
				void *value);
	unsigned int (*downgrade)(uint8_t to, const void *value, unsigned int value_bytes,
				  void *old);
	const struct nf_field *key_fields, *fields;	/* For people: fields.h. */
};

/* Of the whole key.  docs/protocol.md says how, for it has to be the same everywhere. */
uint32_t nf_spread(const void *key, unsigned int key_bytes);
/* Of a key that begins with a flow: the same for both directions of its connection. */
uint32_t nf_spread_connection(const void *key, unsigned int key_bytes);

enum nf_ask {
	NF_READ,
	NF_PEEK,
	NF_GLANCE,
};

enum nf_rank {
	NF_BRIEF,				/* Evicted first. */
	NF_KEPT,
};

/* 'value_bytes' may be NULL; a value of another length than the typed functions
 * expect counts as one of another format. */
const void *nf_table_read(struct nf_run *r, const struct nf_table *t, const void *key,
			  unsigned int key_bytes, enum nf_ask how,
			  unsigned int *value_bytes);
void nf_table_write(struct nf_run *r, const struct nf_table *t, const void *key,
		    unsigned int key_bytes, const void *value, unsigned int value_bytes,
		    enum nf_rank rank, uint32_t idle_ms);
/* The run's last write may be lost in a failover, without harm.  A run of which this holds
 * for all writes waits for the server alone, and for no replica. */
void nf_may_lose(struct nf_run *r);
void nf_table_delete(struct nf_run *r, const struct nf_table *t, const void *key,
		     unsigned int key_bytes);
/* Without the record being read: the run's writes depend on there being none. */
void nf_table_absent(struct nf_run *r, const struct nf_table *t, const void *key,
		     unsigned int key_bytes);
/* 'value_bytes' is the length of a record that is made for it. */
void nf_table_add(struct nf_run *r, const struct nf_table *t, const void *key,
		  unsigned int key_bytes, unsigned int value_bytes, unsigned int offset,
		  int64_t delta, int64_t min, int64_t max);
void nf_table_touch(struct nf_run *r, const struct nf_table *t, const void *key,
		    unsigned int key_bytes);
unsigned int nf_table_partition(const struct nf_run *r, const struct nf_table *t,
				const void *key, unsigned int key_bytes);
bool nf_table_pick(struct nf_run *r, const struct nf_table *t, const void *key,
		   unsigned int key_bytes, uint32_t n_members, uint32_t *member);
void nf_table_take(struct nf_run *r, const struct nf_table *t, const void *key,
		   unsigned int key_bytes, uint32_t n_members, uint32_t member);
void nf_table_give(struct nf_run *r, const struct nf_table *t, const void *key,
		   unsigned int key_bytes, uint32_t member, uint32_t quarantine_ms);
/* How long a value of 'value_bytes' zeros is in that format; 0: the table does not write
 * it. */
unsigned int nf_table_bytes(const struct nf_table *t, uint8_t format,
			    unsigned int value_bytes);
/* Called by the typed reads: a value that is not 'want' bytes long is refused. */
const void *nf_table_sized(struct nf_run *r, const void *value, unsigned int bytes,
			   unsigned int want);

#define NF_KEY_BYTES(key)                                                        \
	_Generic((key), const struct flow *: flow_bytes((const void *)(key)),    \
		 default: sizeof(*(key)))

#define NF_RANGE_BYTES 8208			/* Of NF_MAX_MEMBERS, in the store. */

#define NF_UNUSED __attribute__((unused)) static inline

#define NF_KEY_FIELDS(key_type)                                                  \
	_Generic((const key_type *)NULL, const struct flow *: nf_fields_flow,    \
		 const struct endpoint *: nf_fields_endpoint, default: NULL)

/* Options override the defaults before them. */
#define NF_DECLARE(table, key_type, bytes, ...)                                  \
	_Pragma("GCC diagnostic push")                                           \
	_Pragma("GCC diagnostic ignored \"-Woverride-init\"")                    \
	static struct nf_table table##_table = {                                 \
		.name = #table, .owner = __FILE_NAME__,                          \
		.key_max = sizeof(key_type), .value_max = (bytes),               \
		.format = 1, .spread = nf_spread,                                \
		.key_fields = NF_KEY_FIELDS(key_type), __VA_ARGS__               \
	};                                                                       \
	_Pragma("GCC diagnostic pop")                                            \
	static struct nf_table *const table##_entry                              \
	__attribute__((used, section("nf_all_tables"))) = &table##_table;            \
	static_assert(sizeof(key_type) <= NF_MAX_KEY_BYTES, "key too long");     \
	NF_UNUSED unsigned int                                                   \
	table##_partition(const struct nf_run *r, const key_type *key)           \
	{                                                                        \
		return nf_table_partition(r, &table##_table, key, NF_KEY_BYTES(key)); \
	}

#define NF_READER(table, key_type, value_type, how, ask)                         \
	NF_UNUSED const value_type *                                             \
	table##_##how(struct nf_run *r, const key_type *key)                     \
	{                                                                        \
		unsigned int n;                                                  \
		const void *v = nf_table_read(r, &table##_table, key,            \
					      NF_KEY_BYTES(key), ask, &n);       \
		return nf_table_sized(r, v, n, sizeof(value_type));              \
	}

#define NF_WRITER(table, key_type, value_type, how, rank)                        \
	NF_UNUSED void                                                           \
	table##_##how(struct nf_run *r, const key_type *key,                     \
		      const value_type *value, uint32_t idle_ms)                 \
	{                                                                        \
		nf_table_write(r, &table##_table, key, NF_KEY_BYTES(key), value, \
			       sizeof(value_type), rank, idle_ms);               \
	}

#define NF_TABLE(table, key_type, value_type, ...)                               \
	NF_DECLARE(table, key_type, sizeof(value_type), __VA_ARGS__)             \
	static_assert(sizeof(value_type) <= NF_MAX_VALUE_BYTES, "value too long"); \
	NF_READER(table, key_type, value_type, read, NF_READ)                    \
	NF_READER(table, key_type, value_type, peek, NF_PEEK)                    \
	NF_READER(table, key_type, value_type, glance, NF_GLANCE)                \
	NF_WRITER(table, key_type, value_type, write_for, NF_KEPT)               \
	NF_WRITER(table, key_type, value_type, write_brief, NF_BRIEF)            \
	NF_UNUSED void                                                           \
	table##_write(struct nf_run *r, const key_type *key, const value_type *value) \
	{                                                                        \
		table##_write_for(r, key, value, table##_table.idle_ms);         \
	}                                                                        \
	NF_UNUSED void                                                           \
	table##_insert(struct nf_run *r, const key_type *key,                    \
		       const value_type *value, uint32_t idle_ms)                \
	{                                                                        \
		nf_table_absent(r, &table##_table, key, NF_KEY_BYTES(key));      \
		table##_write_for(r, key, value, idle_ms);                       \
	}                                                                        \
	NF_UNUSED void                                                           \
	table##_delete(struct nf_run *r, const key_type *key)                    \
	{                                                                        \
		nf_table_delete(r, &table##_table, key, NF_KEY_BYTES(key));      \
	}                                                                        \
	NF_UNUSED void                                                           \
	table##_touch(struct nf_run *r, const key_type *key)                     \
	{                                                                        \
		nf_table_touch(r, &table##_table, key, NF_KEY_BYTES(key));       \
	}                                                                        \
	NF_UNUSED void                                                           \
	table##_add(struct nf_run *r, const key_type *key, unsigned int offset,  \
		    int64_t delta, int64_t min, int64_t max)                     \
	{                                                                        \
		nf_table_add(r, &table##_table, key, NF_KEY_BYTES(key),          \
			     sizeof(value_type), offset, delta, min, max);       \
	}

#define NF_RANGE(range, key_type, ...)                                           \
	NF_DECLARE(range, key_type, NF_RANGE_BYTES, .is_range = true, __VA_ARGS__) \
	NF_UNUSED bool                                                           \
	range##_pick(struct nf_run *r, const key_type *key, uint32_t n_members,  \
		     uint32_t *member)                                           \
	{                                                                        \
		return nf_table_pick(r, &range##_table, key, NF_KEY_BYTES(key),  \
				     n_members, member);                         \
	}                                                                        \
	NF_UNUSED void                                                           \
	range##_take(struct nf_run *r, const key_type *key, uint32_t n_members,  \
		     uint32_t member)                                            \
	{                                                                        \
		nf_table_take(r, &range##_table, key, NF_KEY_BYTES(key),         \
			      n_members, member);                                \
	}                                                                        \
	NF_UNUSED void                                                           \
	range##_give(struct nf_run *r, const key_type *key, uint32_t member,     \
		     uint32_t quarantine_ms)                                     \
	{                                                                        \
		nf_table_give(r, &range##_table, key, NF_KEY_BYTES(key), member, \
			      quarantine_ms);                                    \
	}

#endif

/*
 * Store client.  A store belongs to one thread; use one for each pipe.
 * Nothing here blocks after open().  Calls return 0 or a negative errno.
 *
 * A store has one partition or several; a batch has a part for each.  A group lies in
 * one part, with all that it names; which key belongs to which partition is the
 * caller's to decide, always alike.
 *
 * A batch belongs to the caller from batch() to submit(), to the store until
 * poll() gives it back, and then to the caller again until free().  Between
 * batch() and submit() the caller writes operations into part[].request (frame.h),
 * naming tables by their index in what open() was given; a part may stay empty.  After
 * poll() it takes answers off part[].reply.  Both live until free(), and both start at a
 * multiple of 8, as frame.h needs for values to be usable where they lie.
 *
 * A batch that has groups in tables that ask for replicas comes back twice: first with
 * 'final' unset, when its reads are answered and its groups are not to be believed;
 * then with 'final' set, when enough replicas have what it wrote.  (The answers of
 * its groups may differ: the server may have failed in between.)  The second time its
 * replies start again, and its reads are void.  It is freed after the second time only.
 * All others come back once, final; so does one of which nothing is waited for any more.
 * Which tables a group writes is seen from the request: it has to be written by the
 * functions of frame.h.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "store/frame.h"

enum {
	STORE_INFLIGHT = 8,			/* Submitted, and no answer yet. */
	/* Waiting for replicas, not yet final.  They are fewer while others with groups,
	 * which wait for none, keep coming: the server remembers how it answered the last
	 * FRAME_REMEMBERED of a partition, and what is not final has to be among them. */
	STORE_UNCOMMITTED = 32,
	/* One being written and one being read are the caller's. */
	STORE_BATCHES = STORE_INFLIGHT + STORE_UNCOMMITTED + 2,
	STORE_MAX_PARTITIONS = 64,
	STORE_MAX_TABLES = 40,			/* Of all functions of a chain. */
	STORE_TABLE_NAME = 32,			/* Bytes, with the final 0. */
	/* 0 while no partition's server has a replica, which is looked for every second,
	 * and from then on 1, as long as the store is open.  A primary that was cut off
	 * has none either, though another may have been promoted: who opens the store at
	 * such a one gets 0 and believes it.  Who needs certainty asks for 1. */
	STORE_COMMIT_AUTO = 255,
	STORE_MAX_LEASES = 64,			/* Given by one due(). */
};

struct store_table {
	char name[STORE_TABLE_NAME];		/* "firewall.connection" */
	uint16_t key_max, value_max;		/* Bytes. */
	uint8_t format;
	bool leased;				/* Its records expire through due(). */
	bool evict;				/* When it is full, instead of refusing. */
	uint8_t commit;				/* Replicas, or STORE_COMMIT_AUTO. */
	uint64_t limit;				/* Records, in all partitions; 0: none. */
};

struct store_part {
	struct frame request;
	/* The caller's, if there are groups: a failover may lose what they write.  No
	 * replica is waited for. */
	bool may_lose;
	struct frame_cursor reply;
	int error;				/* 0; -ETIMEDOUT: nobody knows whether it
						 * was applied; -EALREADY: nor how it was
						 * answered; -EBADMSG: it was not, its
						 * frame is wrong; -ENOMEM: nor was it, the
						 * server has no memory; -ENOTCONN: it was never
						 * sent. */
};

struct store_batch {
	struct store_part *part;		/* One for each partition. */
	bool final;
	void *owner;				/* The caller's. */
};

/* A record whose time has passed, leased to this store's owner.  A SETTLE of its version
 * in a group of that partition ends it.  Key and value live until the next due(). */
struct store_lease {
	unsigned int partition;
	struct frame_lease record;		/* 'table' is the caller's index. */
};

struct store;

struct store_options {
	const char *url;
	unsigned int timeout_ms;		/* store_timeout; 0: 1000. */
	unsigned int n_partitions;		/* 0: 1, or 16 in a cluster. */
};

enum store_health {
	STORE_CONNECTED,
	STORE_CONNECTING,			/* Batches are kept and asked again. */
	STORE_LOST,				/* For longer than the timeout. */
};

struct store_ops {
	const char *scheme;			/* "embedded" in "embedded:". */
	/* Connects and declares the tables.  Waits up to the timeout.  On failure
	 * 'why' (of 'why_bytes') says in one line what to do about it. */
	int (*open)(const struct store_options *options, const struct store_table *tables,
		    unsigned int n_tables, struct store **out, char *why,
		    size_t why_bytes);
	/* An empty batch, or NULL: STORE_BATCHES are out. */
	struct store_batch *(*batch)(struct store *);
	/* Starts 'batch'.  -EAGAIN: too much in flight, -ENOTCONN: all of it is for
	 * partitions that are lost; then it is still the caller's. */
	int (*submit)(struct store *, struct store_batch *batch);
	/* Gives back up to 'max' answered or final batches, each kind in the order
	 * submitted, and does whatever else is due: sends, receives, reconnects. */
	unsigned int (*poll)(struct store *, struct store_batch **done,
			     unsigned int max);
	void (*free)(struct store *, struct store_batch *batch);
	/* Gives up to 'max' leases, at most STORE_MAX_LEASES. */
	unsigned int (*due)(struct store *, struct store_lease *lease, unsigned int max);
	/* Descriptors that turn readable when poll() has something to do: sets up to
	 * 'max', returns how many; *timeout_ms is set to when it has to be called at the
	 * latest (-1: never). */
	unsigned int (*wait_fds)(struct store *, int *fd, unsigned int max,
				 int *timeout_ms);
	/* The worst of its partitions'. */
	enum store_health (*health)(const struct store *);
	/* Drawn by the server that became the partition's primary, at that moment: a record
	 * from an earlier term may be older than what was acknowledged.  0: not known yet. */
	uint64_t (*term)(const struct store *, unsigned int partition);
	void (*close)(struct store *);		/* NULL is ignored. */
};

struct store {
	const struct store_ops *ops;
	unsigned int n_partitions;
};

/* The backends. */
extern const struct store_ops store_embedded_ops, store_valkey_ops;

/* Picks the backend by the scheme of options->url: "embedded", or any that url.h
 * knows. */
int store_open(const struct store_options *options, const struct store_table *tables,
	       unsigned int n_tables, struct store **out, char *why, size_t why_bytes);

/* The URL without user and password, for people: "valkey://HOST". */
void store_url_print(const char *url, char *text, size_t bytes);

/* Whether open() would know what to do with this URL; 'why' as there. */
bool store_url_ok(const char *url, char *why, size_t why_bytes);

#endif

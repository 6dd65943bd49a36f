/*
 * Store client.  A store belongs to one thread; use one for each pipe.
 * Nothing here blocks after open().  Calls return 0 or a negative errno.
 *
 * A batch belongs to the caller from batch() to submit(), to the store until
 * poll() gives it back, and then to the caller again until free().  Between
 * batch() and submit() the caller writes operations into 'request' (frame.h),
 * naming tables by their index in what open() was given; after poll() it takes
 * answers off 'reply'.  Both live until free(), and both start at a multiple of 8, as
 * frame.h needs for values to be usable where they lie.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "store/frame.h"

enum {
	STORE_INFLIGHT = 8,			/* Submitted and not yet given back. */
	STORE_BATCHES = STORE_INFLIGHT + 2,	/* One being written, one being read. */
	STORE_MAX_TABLES = 16,
	STORE_TABLE_NAME = 32,			/* Bytes, with the final 0. */
};

struct store_table {
	char name[STORE_TABLE_NAME];		/* "firewall.connection" */
	uint16_t key_max, value_max;		/* Bytes. */
	uint8_t format;
};

struct store_batch {
	struct frame request;
	struct frame_cursor reply;
	int error;				/* 0; -ETIMEDOUT: nobody knows whether it
						 * was applied; -EBADMSG: it was not, its
						 * frame is wrong. */
	void *owner;				/* The caller's. */
};

struct store;

struct store_options {
	const char *url;
	unsigned int timeout_ms;		/* store_timeout; 0: 1000. */
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
	/* Starts 'batch'.  -EAGAIN: too much in flight, -ENOTCONN: lost; then it is
	 * still the caller's. */
	int (*submit)(struct store *, struct store_batch *batch);
	/* Gives back up to 'max' finished batches, in the order submitted, and does
	 * whatever else is due: sends, receives, reconnects. */
	unsigned int (*poll)(struct store *, struct store_batch **done,
			     unsigned int max);
	void (*free)(struct store *, struct store_batch *batch);
	/* A descriptor that turns readable when poll() has something to do, or -1;
	 * *timeout_ms is set to when it has to be called at the latest (-1: never). */
	int (*wait_fd)(struct store *, int *timeout_ms);
	enum store_health (*health)(const struct store *);
	void (*close)(struct store *);		/* NULL is ignored. */
};

struct store {
	const struct store_ops *ops;
};

/* The backends. */
extern const struct store_ops store_embedded_ops;
extern const struct store_ops store_valkey_ops, store_valkey_unix_ops;

/* Picks the backend by the scheme of options->url. */
int store_open(const struct store_options *options, const struct store_table *tables,
	       unsigned int n_tables, struct store **out, char *why, size_t why_bytes);

/* The URL without user and password, for people: "valkey://HOST". */
void store_url_print(const char *url, char *text, size_t bytes);

/* Whether open() would know what to do with this URL; 'why' as there. */
bool store_url_ok(const char *url, char *why, size_t why_bytes);

#endif

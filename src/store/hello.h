/*
 * hello.h - the first words on a connection, and what the server answers: AUTH, if there
 * is a password, ASKING, if the server before said so, and SNF.OPEN, all sent at once.
 * No I/O.
 */
#ifndef STORE_HELLO_H
#define STORE_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"
#include "store/url.h"

enum {
	HELLO_BYTES = 8192,			/* Holds AUTH, and OPEN of 40 tables. */
};

/* What has to stand in front of every command while asking; it is answered "+OK". */
#define HELLO_ASKING "*1\r\n$6\r\nASKING\r\n"

struct hello {
	uint8_t bytes[HELLO_BYTES];
	size_t auth_end, open_start, end;	/* ASKING is in between. */
	unsigned int n_tables;
};

/* What SNF.OPEN is to open. */
struct hello_open {
	const char *key;
	const struct store_table *tables;	/* 'limit' already divided. */
	unsigned int n_tables, n_partitions;
};

struct hello_answer {
	uint64_t generation, term;
	unsigned int n_replicas;		/* Connected to the server. */
	uint8_t table_id[STORE_MAX_TABLES];
	const char *refusal;			/* After -EREMOTEIO. */
	size_t refusal_bytes;
};

/* 'open' NULL: AUTH alone.  False: it does not fit. */
bool hello_write(struct hello *h, const struct store_url *url,
		 const struct hello_open *open);

/* What comes next after 'sent' bytes, which move on over ASKING if that is not wanted;
 * 0: nothing. */
size_t hello_next(const struct hello *h, bool asking, size_t *sent);

/* Takes all answers apart, from their first byte.  Returns 1, 0: there is more to come,
 * -EREMOTEIO: the server refuses, -EPROTO: SNF.OPEN is answered in another way,
 * -EBADMSG: this is no server. */
int hello_take(const struct hello *h, bool asking, const uint8_t *at, size_t left,
	       struct hello_answer *out);

#endif

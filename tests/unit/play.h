/*
 * play.h - a server that the test plays itself: it answers byte by byte, late, wrongly or
 * not at all, and sees exactly what the client of valkey.c asks it.
 */
#ifndef TESTS_PLAY_H
#define TESTS_PLAY_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/store.h"

enum {
	PLAY_TIMEOUT_MS = 60000,		/* For what no timeout should end. */
	PLAY_DEADLINE_MS = 30000,
	PLAY_PARTITIONS = 4,
	PLAY_QUEUE = 64,
};

struct play {
	/* May be set before play_open(). */
	bool is_cluster;			/* And on TCP. */
	unsigned int n_partitions, timeout_ms;
	struct store_table table, beside;	/* The second if it has a name. */
	/* What the next greeting is answered. */
	uint64_t generation, term;
	unsigned int n_replicas, table_id;	/* The second's is one more. */
	bool may_lose;				/* What the next batches write. */

	char folder[32], path[64];
	int listener, port;
	int fd[PLAY_PARTITIONS];		/* For frames. */
	struct store *store;
	/* What came back from the store, in order, and whether it was final then. */
	struct {
		struct store_batch *batch;
		bool final;
	} done[PLAY_QUEUE];
	unsigned int n_done, n_taken;
};

/* A play with one partition and the table "test", which has id 3. */
struct play play_default(void);
void play_open(struct play *p);
void play_close(struct play *p);

/* Lets the store do what it wants, as often as it takes. */
void play_turn(struct play *p);
/* The next batch that comes back; it has to be this one. */
void play_expect_done(struct play *p, const struct store_batch *b, bool final);
/* No batch comes back by itself. */
void play_expect_none(struct play *p);

/* --- The server's side ----------------------------------------------------------- */

bool play_readable(int fd);
/* The next 'n' bytes from the client, which is let send meanwhile. */
void play_take(struct play *p, int fd, void *to, size_t n);
void play_expect(struct play *p, int fd, const char *text);
void play_say(int fd, const void *bytes, size_t n);
void play_say_text(int fd, const char *text);
/* The next connection. */
int play_accept(struct play *p);
/* Takes the greeting and answers it.  Returns its partition. */
unsigned int play_greet(struct play *p, int fd);
/* Waits for the client to hang up and come again, and greets it. */
void play_again(struct play *p, unsigned int partition);
/* The next command for frames; the frame's head, and its operations to 'ops'. */
struct frame_head play_take_frame(struct play *p, unsigned int partition, void *ops,
				  size_t room, bool asking);

/* An answer of one hit whose value is 'n' bytes of 'fill'.  Returns its length. */
size_t play_hit(uint8_t *to, uint64_t id, uint16_t n, uint8_t fill);
/* One of one group. */
size_t play_group(uint8_t *to, uint64_t id, enum frame_answer answer);

/* On a connection for commits of partition 0: the question for replicas alone, and a
 * whole round. */
void play_expect_mark(struct play *p, int fd);
void play_expect_round(struct play *p, int fd, unsigned int n_replicas);
/* The answer to a round: all marks are good, and so many replicas have it. */
void play_answer_round(int fd, unsigned int n_replicas);

/* --- Questions and answers -------------------------------------------------------- */

/* Writes a group of one record. */
void play_put(struct frame *f, uint8_t table);
/* Submits a batch with a read or a write in part 'at', and takes its frame. */
struct store_batch *play_ask(struct play *p, unsigned int at, bool write, uint64_t *id);
void play_answer_group(struct play *p, unsigned int at, uint64_t id,
		       enum frame_answer answer);
void play_answer_read(struct play *p, unsigned int at, uint64_t id);
/* The part's only answer. */
void play_expect_answer(struct store_batch *b, unsigned int at, enum frame_answer answer);

#endif

/*
 * module.h - what the files of the server's module share.  All of it runs on the
 * server's main thread, but for the freeing of a partition (persist.c).
 */
#ifndef MODULE_MODULE_H
#define MODULE_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "module/server.h"
#include "store/core.h"

static inline uint64_t
clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* --- persist.c: the data type ------------------------------------------------ */

/* Registers it.  Returns 0 or -EEXIST. */
int persist_load(struct RedisModuleCtx *ctx);
/* The partition at an open key; NULL if it holds none. */
struct partition *persist_partition(struct RedisModuleKey *key);
/* Makes 'p' the value of a key that is open for writing and owns it from then on. */
void persist_set(struct RedisModuleKey *key, struct partition *p);

/* SNF.OPEN as a replica or an append-only file gets it: all of the words behind
 * the key.  Returns their number; persist_words_free() frees them. */
enum { PERSIST_MAX_WORDS = 3 + 4 * CORE_MAX_TABLES };
unsigned int persist_words(const struct partition *p,
			   struct RedisModuleString *word[PERSIST_MAX_WORDS]);
void persist_words_free(struct RedisModuleString **word, unsigned int n);

/* Fills both with random bytes; the generation fits a signed integer, and is not 0. */
void persist_random(uint64_t *generation, uint64_t seed[2]);

/* --- tick.c: what happens by itself ------------------------------------------ */

int tick_load(struct RedisModuleCtx *ctx);
/* The time for idle times.  It stands still on a replica and while loading. */
uint64_t tick_ms(uint64_t now_us);
/* Whether this server is a replica, as of the last tick or change of role. */
bool tick_is_replica(void);
/* Whether somebody may miss effects that are not replicated. */
bool tick_has_listeners(void);
/* Partitions are known by name to what expires and counts them. */
void tick_keep(int db, const char *name, size_t bytes);

/* --- awake.c: the event loop under load -------------------------------------- */

int awake_load(void);
/* Counts a frame that came at 'now_us'. */
void awake_frame(uint64_t now_us);

#endif

/*
 * module.h - what the files of the server's module share.  All of it runs on the
 * server's main thread, but for the freeing of a partition (persist.c).
 *
 * Nobody keeps a pointer to a partition over a turn of the event loop: a key may be
 * deleted, renamed or replaced at any time.  What has to find one later keeps its name.
 */
#ifndef MODULE_MODULE_H
#define MODULE_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "module/server.h"
#include "store/core.h"

static inline uint64_t
clock_us(void)
{
	return clock_ns() / 1000;
}

/* --- module.c: commands in general -------------------------------------------- */

/* Whether the command comes from this server's primary, or from a file. */
bool from_primary_or_file(struct RedisModuleCtx *ctx);
/* The number in a word, from 'min' to 'max'; false: it is not one. */
bool word_number(struct RedisModuleString *word, long long min, long long max,
		 long long *out);
/* Replies with the error that a negative errno stands for. */
int reply_error(struct RedisModuleCtx *ctx, int err);
/* The same for a key that holds no partition. */
int reply_absent(struct RedisModuleCtx *ctx, bool empty);
extern const char module_not_for_clients[], module_wrong_type[];

/* --- The commands that have files of their own --------------------------------- */

server_command open_command, due_command, tables_command, scan_command;

/* --- persist.c: the data type ------------------------------------------------- */

/* Registers it.  Returns 0 or -EEXIST. */
int persist_load(struct RedisModuleCtx *ctx);
/* The partition at an open key; NULL if it holds none. */
struct partition *persist_partition(struct RedisModuleKey *key);
/* The partition at a key; NULL: none, and '*empty' (if not NULL) says whether nothing
 * is there. */
struct partition *persist_find(struct RedisModuleCtx *ctx, struct RedisModuleString *name,
			       int mode, bool *empty);
/* Makes 'p' the value of a key that is open for writing and owns it from then on. */
void persist_set(struct RedisModuleKey *key, struct partition *p);
/* Makes a partition from the first piece of partition_save(), as partition_load(). */
int persist_take(const void *piece, size_t bytes, struct partition **out);
/* Random bytes: 63 bits, and not 0, so that it fits a signed integer; and any. */
uint64_t persist_random(void);
void persist_seed(uint64_t seed[2]);

/* --- tick.c: what happens by itself ------------------------------------------- */

int tick_load(struct RedisModuleCtx *ctx);
/* The time for idle times.  It stands still on a replica and while loading. */
uint64_t tick_ms(uint64_t now_us);
/* The number of this primary's time; 0 on a replica. */
uint64_t tick_term(void);
unsigned int tick_n_terms(void); /* Since the module was loaded. */
/* Replicas that are connected and follow the stream, as of the last tick or event. */
unsigned int tick_n_replicas(void);
/* Whether somebody may miss effects that are not replicated. */
bool tick_has_listeners(void);

/* Partitions are known by name to what expires, counts and leases. */
void tick_keep(int db, const char *name, size_t bytes);
unsigned int tick_n_kept(void);
struct partition *tick_find(int db, const char *name, size_t bytes);
void tick_each(void (*call)(const struct partition *, void *context), void *context);

/* --- due.c: clients that wait for leases -------------------------------------- */

extern unsigned int due_n_waiters;
/* Wakes the first one that waits for one of these tables of the partition at this key. */
void due_serve(int db, const char *name, size_t bytes, uint64_t due_tables);
/* Looks at all keys that somebody waits for. */
void due_tick(void);
/* Nothing of this term will come any more. */
void due_stale(void);

/* --- info.c: INFO ------------------------------------------------------------- */

int info_load(struct RedisModuleCtx *ctx);
/* A frame took that long. */
void info_frame(uint64_t ns);
void info_tick(uint64_t now_us);

/* --- awake.c: the event loop under load --------------------------------------- */

int awake_load(void);
/* Counts a frame that came at 'now_us'. */
void awake_frame(uint64_t now_us);

#endif

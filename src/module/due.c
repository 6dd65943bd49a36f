/*
 * due.c - SNF.DUE: clients that wait for records whose time has passed.
 *
 * A client that finds nothing due is blocked and stands in the line of its key.  When
 * a frame or the cron finds something due there, the first in line is woken, and
 * takes its leases when the server comes to answer it: one that went away in between
 * has taken none.  One at a time is woken for a key, and the rest of the line by
 * what comes next, a frame, another SNF.DUE or the cron.
 *
 * The cron also wakes those whose time is over.  The server's own timeouts are not
 * used: a client that is woken and times out in one turn of its loop is never
 * answered.
 *
 * A waiter remembers what it was told when it came: the term, and the generation of
 * the partition.  If either is another when it is woken, it is told so.  What the
 * server frees, and when, is the same for all of them: UnblockClient() is called once
 * for each, wherever it leaves the line, and waiter_free() comes after it.
 */
#include "module/module.h"

#include <errno.h>
#include <string.h>

enum {
	DUE_MAX_LEASES = 1024, /* At once; with the longest values below 16 MiB. */
	DUE_MAX_TIMEOUT_MS = 60000,
};

struct line;

struct waiter {
	struct waiter *next;
	struct line *line;
	struct RedisModuleBlockedClient *client;
	uint64_t generation, term;
	uint64_t end_us;
	uint64_t tables; /* A bit each, by id. */
	unsigned int max;
};

struct line {
	struct line *next;
	struct waiter *first, **last;
	unsigned int n;       /* In it, and those that left it and are not yet freed. */
	unsigned int n_woken; /* The latter. */
	int db;
	size_t bytes;
	char name[];
};

unsigned int due_n_waiters; /* In lines. */

static struct line *lines;
static struct buffer leases; /* Grows to the longest message and stays. */

static struct line *
line_find(int db, const char *name, size_t bytes)
{
	for (struct line *l = lines; l != NULL; l = l->next)
		if (l->db == db && l->bytes == bytes && memcmp(l->name, name, bytes) == 0)
			return l;
	return NULL;
}

static struct line *
line_new(int db, const char *name, size_t bytes)
{
	struct line *l = RedisModule_Alloc(sizeof(*l) + bytes);

	memset(l, 0, sizeof(*l));
	l->last = &l->first;
	l->db = db;
	l->bytes = bytes;
	memcpy(l->name, name, bytes);
	l->next = lines;
	lines = l;
	return l;
}

static void
line_free(struct line *line)
{
	struct line **at = &lines;

	while (*at != line)
		at = &(*at)->next;
	*at = line->next;
	RedisModule_Free(line);
}

/* Takes the waiter at '*at' out of its line and has the server go on with it. */
static void
line_leave(struct line *line, struct waiter **at)
{
	struct waiter *w = *at;

	*at = w->next;
	if (line->last == &w->next)
		line->last = at;
	line->n_woken++;
	due_n_waiters--;
	RedisModule_UnblockClient(w->client, w);
}

static void
line_wake_all(struct line *line)
{
	while (line->first != NULL)
		line_leave(line, &line->first);
}

static void
waiter_gone(struct RedisModuleCtx *ctx, struct RedisModuleBlockedClient *client)
{
	(void)ctx;
	for (struct line *l = lines; l != NULL; l = l->next)
		for (struct waiter **at = &l->first; *at != NULL; at = &(*at)->next)
			if ((*at)->client == client) {
				line_leave(l, at);
				return;
			}
}

static void
waiter_free(struct RedisModuleCtx *ctx, void *data)
{
	struct waiter *w = data;

	(void)ctx;
	w->line->n_woken--;
	if (--w->line->n == 0)
		line_free(w->line);
	RedisModule_Free(w);
}

/* Answers with leases, as many as there are. */
static int
due_reply(struct RedisModuleCtx *ctx, struct partition *p, uint64_t tables,
	  unsigned int max)
{
	leases.bytes = 0;

	int n = partition_lease(p, tick_ms(clock_us()), tables, max, &leases);

	if (n < 0)
		return reply_error(ctx, n);
	return RedisModule_ReplyWithStringBuffer(ctx, (const char *)leases.data,
						 leases.bytes);
}

static int
waiter_reply(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	const struct waiter *w = RedisModule_GetBlockedClientPrivateData(ctx);
	struct partition *p = persist_find(ctx, argv[1], SERVER_READ, NULL);

	(void)argc;
	if (p == NULL || w->term != tick_term() ||
	    w->generation != partition_generation(p))
		return reply_error(ctx, -ESTALE);
	return due_reply(ctx, p, w->tables, w->max);
}

static void
due_wait(struct RedisModuleCtx *ctx, struct line *line, const struct partition *p,
	 uint64_t tables, unsigned int max, long long timeout_ms)
{
	struct waiter *w = RedisModule_Alloc(sizeof(*w));

	*w = (struct waiter){
		.line = line,
		.client =
			RedisModule_BlockClient(ctx, waiter_reply, NULL, waiter_free, 0),
		.generation = partition_generation(p),
		.term = tick_term(),
		.end_us = clock_us() + (uint64_t)timeout_ms * 1000,
		.tables = tables,
		.max = max,
	};
	RedisModule_SetDisconnectCallback(w->client, waiter_gone);
	*line->last = w;
	line->last = &w->next;
	line->n++;
	due_n_waiters++;
}

/* The tables that a client asks for, as bits: all, if it names none.  False: no ids. */
static bool
word_tables(struct RedisModuleString **word, int n, uint64_t *tables)
{
	long long id;

	*tables = n == 0 ? UINT64_MAX : 0;
	for (int i = 0; i < n; i++) {
		if (!word_number(word[i], 0, CORE_MAX_TABLES - 1, &id))
			return false;
		*tables |= UINT64_C(1) << id;
	}
	return true;
}

/* SNF.DUE key term max timeout_ms [table_id]... */
int
due_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	long long term, max, timeout_ms;
	uint64_t tables;
	size_t bytes;
	bool empty;

	if (argc < 5)
		return RedisModule_WrongArity(ctx);
	if (!word_number(argv[2], 1, INT64_MAX, &term) ||
	    !word_number(argv[3], 1, DUE_MAX_LEASES, &max) ||
	    !word_number(argv[4], 0, DUE_MAX_TIMEOUT_MS, &timeout_ms) ||
	    !word_tables(argv + 5, argc - 5, &tables))
		return reply_error(ctx, -EINVAL);
	if ((RedisModule_GetContextFlags(ctx) & SERVER_DENIES_BLOCKING) != 0)
		return RedisModule_ReplyWithError(
			ctx, "ERR SNFBLOCK not in a transaction or a script");

	struct partition *p = persist_find(ctx, argv[1], SERVER_READ, &empty);

	if (p == NULL)
		return reply_absent(ctx, empty);
	if ((uint64_t)term != tick_term())
		return reply_error(ctx, -ESTALE);

	const char *name = RedisModule_StringPtrLen(argv[1], &bytes);
	int db = RedisModule_GetSelectedDb(ctx);
	struct line *line = line_find(db, name, bytes);
	bool first = line == NULL || line->first == NULL;

	if (timeout_ms == 0 || (first && (partition_due_tables(p) & tables) != 0))
		return due_reply(ctx, p, tables, (unsigned int)max);
	tick_keep(db, name, bytes);
	due_wait(ctx, line != NULL ? line : line_new(db, name, bytes), p, tables,
		 (unsigned int)max, timeout_ms);
	due_serve(db, name, bytes, partition_due_tables(p));
	return SERVER_OK;
}

/* Wakes the first in line who asked for one of the tables that have something due. */
static void
line_serve(struct line *line, uint64_t due_tables)
{
	struct waiter **at = &line->first;

	if (line->n_woken > 0)
		return;
	while (*at != NULL && ((*at)->tables & due_tables) == 0)
		at = &(*at)->next;
	if (*at != NULL)
		line_leave(line, at);
}

void
due_serve(int db, const char *name, size_t bytes, uint64_t due_tables)
{
	struct line *line = line_find(db, name, bytes);

	if (line != NULL)
		line_serve(line, due_tables);
}

static void
line_tick(struct line *line, uint64_t now_us)
{
	const struct partition *p = tick_find(line->db, line->name, line->bytes);
	struct waiter **at = &line->first;

	if (p == NULL)
		line_wake_all(line);
	else
		line_serve(line, partition_due_tables(p));
	while (*at != NULL) {
		if ((*at)->end_us <= now_us)
			line_leave(line, at);
		else
			at = &(*at)->next;
	}
}

void
due_tick(void)
{
	uint64_t now_us = clock_us();

	/* A line is freed when the server comes to answer its last waiter: not here. */
	for (struct line *l = lines; l != NULL; l = l->next)
		line_tick(l, now_us);
}

void
due_stale(void)
{
	for (struct line *l = lines; l != NULL; l = l->next)
		line_wake_all(l);
}

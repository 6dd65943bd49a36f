/*
 * module.c - the server's module: its commands.  A frame comes in, is applied to the
 * partition at a key, and the answers go out; what changed goes to replicas and the
 * append-only file as effects.
 *
 *   SNF.OPEN key PROTOCOL [name key_max value_max format]...
 *     Makes the partition at 'key' if there is none and declares tables.  Answers an
 *     array of integers: the generation, then the id of each table.
 *       ERR SNFPROTO ...   this module speaks another protocol
 *       ERR SNFTABLE ...   the table exists with other limits, or is out of range
 *       WRONGTYPE ...      the key holds something else
 *   SNF.OPEN key PROTOCOL GENERATION g [name key_max value_max format]...
 *     The same as replicas and append-only files get it, with all of the tables.
 *     Refused from any other client.
 *   SNF.FRAME key frame
 *     Answers the reply of the frame (frame.h), a string.
 *       SNFSTALE ...       no partition, or another generation: open again
 *       ERR SNFBAD ...     the frame is malformed, or its reply would be too long
 *       SNFREPEAT ...      applied so long ago that the answer is forgotten
 *   SNF.EFFECTS key bytes
 *     Applies effects.  Refused from any client but a primary or a file.
 *
 * All are "write" commands: only a primary executes them, even a frame that reads.
 * None is "deny-oom": while memory is short, groups that put are refused one by one
 * and all others go on.
 */
#define _GNU_SOURCE
#include "module/module.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
	MODULE_VERSION = 1,
	FRAME_EXPIRE = 1000, /* Records a millisecond: below 0.3 ms. */
};

#define SERVER_DEFINE(result, name, arguments) result(*RedisModule_##name) arguments;
SERVER_CALLS(SERVER_DEFINE)
#undef SERVER_DEFINE

static const char wrong_type[] =
	"WRONGTYPE Operation against a key holding the wrong kind of value";
static const char not_for_clients[] =
	"ERR SNFINTERNAL this form is for replication and append-only files";

/* Grow to the longest frame's and stay. */
static struct buffer reply, effects;
static uint64_t expired_ms; /* When a frame last made records expire. */

static bool
from_primary_or_file(struct RedisModuleCtx *ctx)
{
	return (RedisModule_GetContextFlags(ctx) &
		(SERVER_FROM_MASTER | SERVER_IS_LOADING | SERVER_IS_ASYNC_LOADING)) != 0;
}

/* --- SNF.OPEN ------------------------------------------------------------------ */

struct opening {
	uint64_t generation;             /* 0: any, and random for a new one. */
	struct RedisModuleString **word; /* Four for each table. */
	unsigned int n_tables;
	char error[160];
};

/* Takes the words behind the key apart.  Returns 0, -EINVAL (wrong number of them)
 * or -EPROTO (then 'error' is set). */
static int
opening_parse(struct opening *o, struct RedisModuleString **word, int n)
{
	long long protocol = 0, generation = 0;

	if (RedisModule_StringToLongLong(word[0], &protocol) != SERVER_OK ||
	    protocol != FRAME_PROTOCOL) {
		snprintf(o->error, sizeof(o->error),
			 "ERR SNFPROTO this module speaks %d, not what it was asked for",
			 FRAME_PROTOCOL);
		return -EPROTO;
	}
	o->word = word + 1;
	n--;
	if (n % 4 == 2) {
		const char *option = RedisModule_StringPtrLen(word[1], NULL);

		if (strcasecmp(option, "GENERATION") != 0)
			return -EINVAL;
		if (RedisModule_StringToLongLong(word[2], &generation) != SERVER_OK ||
		    generation <= 0) {
			snprintf(o->error, sizeof(o->error), "ERR SNFBAD generation");
			return -EPROTO;
		}
		o->word += 2;
		n -= 2;
	}
	if (n % 4 != 0)
		return -EINVAL;
	o->generation = (uint64_t)generation;
	o->n_tables = (unsigned int)n / 4;
	if (o->n_tables > CORE_MAX_TABLES) {
		snprintf(o->error, sizeof(o->error),
			 "ERR SNFTABLE more than %d tables in one partition",
			 CORE_MAX_TABLES);
		return -EPROTO;
	}
	return 0;
}

/* Declares the tables; their ids go to 'id'. */
static int
opening_declare(struct opening *o, struct partition *p, int id[CORE_MAX_TABLES])
{
	for (unsigned int i = 0; i < o->n_tables; i++) {
		struct RedisModuleString **word = o->word + 4 * i;
		long long key_max = 0, value_max = 0, format = 0;
		size_t bytes;
		const char *name = RedisModule_StringPtrLen(word[0], &bytes);

		id[i] = -EINVAL;
		if (strlen(name) == bytes &&
		    RedisModule_StringToLongLong(word[1], &key_max) == SERVER_OK &&
		    RedisModule_StringToLongLong(word[2], &value_max) == SERVER_OK &&
		    RedisModule_StringToLongLong(word[3], &format) == SERVER_OK &&
		    key_max >= 0 && key_max <= UINT16_MAX && value_max >= 0 &&
		    value_max <= UINT16_MAX && format >= 0 && format <= UINT8_MAX)
			id[i] = partition_declare(p, name, (uint16_t)key_max,
						  (uint16_t)value_max, (uint8_t)format);
		if (id[i] >= 0)
			continue;
		snprintf(o->error, sizeof(o->error), "ERR SNFTABLE %u: %s", i,
			 id[i] == -EEXIST   ? "exists with other limits"
			 : id[i] == -ENOSPC ? "no room for another table"
			 : id[i] == -ENOMEM ? "out of memory"
					    : "name or limits out of range");
		return id[i];
	}
	return 0;
}

/* Makes a partition with the tables and puts it at the key. */
static int
opening_create(struct opening *o, struct RedisModuleKey *key, struct partition **out,
	       int id[CORE_MAX_TABLES])
{
	uint64_t generation, seed[2];
	struct partition *p;

	persist_random(&generation, seed);
	if (o->generation != 0)
		generation = o->generation;
	int err = partition_new(generation, seed, &p);

	if (err != 0) {
		snprintf(o->error, sizeof(o->error), "ERR SNFTABLE out of memory");
		return err;
	}
	err = opening_declare(o, p, id);
	if (err != 0) {
		partition_free(p);
		return err;
	}
	persist_set(key, p);
	*out = p;
	return 0;
}

static int
opening_run(struct opening *o, struct RedisModuleKey *key, struct partition **out,
	    int id[CORE_MAX_TABLES])
{
	struct partition *p = persist_partition(key);

	if (RedisModule_KeyType(key) == SERVER_KEY_EMPTY)
		return opening_create(o, key, out, id);
	if (p == NULL) {
		snprintf(o->error, sizeof(o->error), "%s", wrong_type);
		return -EINVAL;
	}
	if (o->generation != 0 && o->generation != partition_generation(p)) {
		snprintf(o->error, sizeof(o->error),
			 "SNFSTALE another generation is here");
		return -ESTALE;
	}
	*out = p;
	return opening_declare(o, p, id);
}

static void
open_replicate(struct RedisModuleCtx *ctx, struct RedisModuleString *name,
	       const struct partition *p)
{
	struct RedisModuleString *word[PERSIST_MAX_WORDS];
	unsigned int n = persist_words(p, word);

	RedisModule_Replicate(ctx, "SNF.OPEN", "sv", name, word, (size_t)n);
	persist_words_free(word, n);
}

static int
command_open(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	struct opening o = { 0 };
	struct partition *p = NULL;
	int id[CORE_MAX_TABLES];

	if (argc < 3)
		return RedisModule_WrongArity(ctx);
	int err = opening_parse(&o, argv + 2, argc - 2);

	if (err == -EINVAL)
		return RedisModule_WrongArity(ctx);
	if (err != 0)
		return RedisModule_ReplyWithError(ctx, o.error);
	if (o.generation != 0 && !from_primary_or_file(ctx))
		return RedisModule_ReplyWithError(ctx, not_for_clients);

	struct RedisModuleKey *key =
		RedisModule_OpenKey(ctx, argv[1], SERVER_READ | SERVER_WRITE);

	err = opening_run(&o, key, &p, id);
	RedisModule_CloseKey(key);
	if (p != NULL) {
		size_t bytes;
		const char *name = RedisModule_StringPtrLen(argv[1], &bytes);

		/* Even if one table was refused: those before it were declared. */
		open_replicate(ctx, argv[1], p);
		RedisModule_SignalModifiedKey(ctx, argv[1]);
		tick_keep(RedisModule_GetSelectedDb(ctx), name, bytes);
	}
	if (err != 0)
		return RedisModule_ReplyWithError(ctx, o.error);
	RedisModule_ReplyWithArray(ctx, 1 + (long)o.n_tables);
	RedisModule_ReplyWithLongLong(ctx, (long long)partition_generation(p));
	for (unsigned int i = 0; i < o.n_tables; i++)
		RedisModule_ReplyWithLongLong(ctx, id[i]);
	return SERVER_OK;
}

/* --- SNF.FRAME ----------------------------------------------------------------- */

static int
frame_error(struct RedisModuleCtx *ctx, int err)
{
	static const struct {
		int err;
		const char *text;
	} errors[] = {
		{ -ESTALE, "SNFSTALE no such partition or generation, open it again" },
		{ -EALREADY, "SNFREPEAT the answer to this frame is forgotten" },
		{ -EBADMSG, "ERR SNFBAD malformed frame" },
		{ -EMSGSIZE, "ERR SNFBAD the reply would be too long" },
		{ -ENOMEM, "ERR SNFNOMEM out of memory" },
	};

	for (unsigned int i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].err == err)
			return RedisModule_ReplyWithError(ctx, errors[i].text);
	return RedisModule_ReplyWithError(ctx, "ERR SNFBAD frame");
}

static uint64_t
groups_of(const struct partition *p)
{
	struct core_counters count;

	partition_count(p, &count);
	return count.groups;
}

/* What changed goes to whoever listens.  If nobody does, only the server's count of
 * changes has to rise, for its save points: the frame itself goes nowhere then. */
static void
frame_replicate(struct RedisModuleCtx *ctx, struct RedisModuleString **argv,
		bool as_effects)
{
	if (as_effects)
		RedisModule_Replicate(ctx, "SNF.EFFECTS", "sb", argv[1], effects.data,
				      effects.bytes);
	else
		RedisModule_ReplicateVerbatim(ctx);
	RedisModule_SignalModifiedKey(ctx, argv[1]);
}

static int
command_frame(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	if (argc != 3)
		return RedisModule_WrongArity(ctx);

	uint64_t now_us = clock_us(), now_ms = tick_ms(now_us);
	struct RedisModuleKey *key =
		RedisModule_OpenKey(ctx, argv[1], SERVER_READ | SERVER_WRITE);
	struct partition *p = persist_partition(key);
	bool empty = RedisModule_KeyType(key) == SERVER_KEY_EMPTY;

	RedisModule_CloseKey(key);
	awake_frame(now_us);
	if (p == NULL)
		return empty ? frame_error(ctx, -ESTALE)
			     : RedisModule_ReplyWithError(ctx, wrong_type);

	bool primary = !tick_is_replica();
	bool as_effects = primary && tick_has_listeners();
	uint64_t n_groups = groups_of(p);
	size_t bytes;
	const char *frame = RedisModule_StringPtrLen(argv[2], &bytes);

	reply.bytes = 0;
	effects.bytes = 0;
	if (primary && now_ms != expired_ms) {
		expired_ms = now_ms;
		partition_expire(p, now_ms, FRAME_EXPIRE, as_effects ? &effects : NULL);
	}
	int err = partition_apply(p, frame, bytes, now_ms,
				  primary && RedisModule_GetUsedMemoryRatio() >= 1.0f,
				  &reply, as_effects ? &effects : NULL);

	if (as_effects ? effects.bytes > 0 : groups_of(p) != n_groups)
		frame_replicate(ctx, argv, as_effects);
	if (err != 0)
		return frame_error(ctx, err);
	return RedisModule_ReplyWithStringBuffer(ctx, (const char *)reply.data,
						 reply.bytes);
}

/* --- SNF.EFFECTS --------------------------------------------------------------- */

static int
command_effects(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	if (argc != 3)
		return RedisModule_WrongArity(ctx);
	if (!from_primary_or_file(ctx))
		return RedisModule_ReplyWithError(ctx, not_for_clients);

	struct RedisModuleKey *key =
		RedisModule_OpenKey(ctx, argv[1], SERVER_READ | SERVER_WRITE);
	struct partition *p = persist_partition(key);
	size_t bytes;
	const char *what = RedisModule_StringPtrLen(argv[2], &bytes);
	int err = -ESTALE;

	RedisModule_CloseKey(key);
	if (p != NULL)
		err = partition_replay(p, what, bytes, tick_ms(clock_us()));
	if (err != 0) {
		RedisModule_Log(ctx, "warning",
				"effects not applied (%s): this copy now differs",
				strerror(-err));
		return frame_error(ctx, err);
	}
	RedisModule_ReplicateVerbatim(ctx);
	RedisModule_SignalModifiedKey(ctx, argv[1]);
	return RedisModule_ReplyWithSimpleString(ctx, "OK");
}

/* --- Loading ------------------------------------------------------------------- */

/* Fetches the server's functions.  Returns the name of a missing one, or NULL. */
static const char *
server_bind(struct RedisModuleCtx *ctx)
{
	int (*get)(const char *name, void *to);

	memcpy(&get, ctx, sizeof(get));
#define SERVER_FETCH(result, name, arguments)                                            \
	if (get("RedisModule_" #name, &RedisModule_##name) != SERVER_OK)                 \
		return #name;
	SERVER_CALLS(SERVER_FETCH)
#undef SERVER_FETCH
	return NULL;
}

static int
commands_load(struct RedisModuleCtx *ctx)
{
	static const struct {
		const char *name;
		server_command *run;
	} commands[] = {
		{ "snf.open", command_open },
		{ "snf.frame", command_frame },
		{ "snf.effects", command_effects },
	};

	for (unsigned int i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (RedisModule_CreateCommand(ctx, commands[i].name, commands[i].run,
					      "write", 1, 1, 1) != SERVER_OK)
			return -EEXIST;
	return 0;
}

__attribute__((visibility("default"))) int
RedisModule_OnLoad(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	const char *missing = server_bind(ctx);

	(void)argv;
	if (missing != NULL) {
		fprintf(stderr,
			"snf: this server has no %s: Redis >= 7.0 or Valkey >= 7.2 "
			"is needed\n",
			missing);
		return SERVER_ERROR;
	}
	RedisModule_SetModuleAttribs(ctx, "snf", MODULE_VERSION, SERVER_API_VERSION);
	RedisModule_SetModuleOptions(ctx,
				     SERVER_HANDLES_IO_ERRORS | SERVER_SIGNALS_CHANGES);
	core_alloc = RedisModule_TryAlloc;
	core_free = RedisModule_Free;
	if (argc != 0) {
		RedisModule_Log(ctx, "warning", "snf takes no arguments");
		return SERVER_ERROR;
	}
	if (RedisModule_GetContextFlags(ctx) & SERVER_MAY_EVICT)
		RedisModule_Log(
			ctx, "warning",
			"maxmemory-policy may evict whole partitions: set noeviction");

	int err = persist_load(ctx);

	if (err == 0)
		err = commands_load(ctx);
	if (err == 0)
		err = tick_load(ctx);
	if (err == 0)
		err = awake_load();
	if (err != 0)
		RedisModule_Log(ctx, "warning", "snf: not loaded: %s", strerror(-err));
	return err == 0 ? SERVER_OK : SERVER_ERROR;
}

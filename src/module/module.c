/*
 * module.c - the server's module: its commands.  A frame comes in, is applied to the
 * partition at a key, and the answers go out; what changed goes to replicas and the
 * append-only file as effects.  docs/protocol.md is the specification.
 *
 *   SNF.OPEN     makes a partition and declares tables               open.c
 *   SNF.FRAME    applies a frame
 *   SNF.MARK     marks a point that WAIT covers
 *   SNF.DUE      waits for leases                                    due.c
 *   SNF.TABLES   tables and their counters                           show.c
 *   SNF.SCAN     records, some at a time                             show.c
 *   SNF.EFFECTS  applies effects: for replicas and files alone
 *
 * All but TABLES and SCAN are "write" commands: only a primary executes them, even a
 * frame that reads.  None is "deny-oom": while memory is short, groups that put are
 * refused one by one and all others go on.  What would take memory besides is refused
 * then: SNF.OPEN makes no partition, and a client that is not known gets no groups.
 */
#define _GNU_SOURCE
#include "module/module.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	MODULE_VERSION = 2,
	/* Records that frames make expire in a millisecond, in all partitions: below
	 * 0.3 ms. */
	FRAME_EXPIRE = 1024,
	FRAME_EXPIRE_LEAST = 16,
	FRAME_CLOCKS = 64, /* Partitions that are told apart. */
};

#define SERVER_DEFINE(result, name, arguments) result(*RedisModule_##name) arguments;
SERVER_CALLS(SERVER_DEFINE)
#undef SERVER_DEFINE

const char module_wrong_type[] =
	"WRONGTYPE Operation against a key holding the wrong kind of value";
const char module_not_for_clients[] =
	"ERR SNFINTERNAL this form is for replication and append-only files";

/* Grow to the longest frame's and stay. */
static struct buffer reply, effects;
/* When a frame last made records of a partition expire, by its generation. */
static uint64_t expired_ms[FRAME_CLOCKS];

bool
from_primary_or_file(struct RedisModuleCtx *ctx)
{
	return (RedisModule_GetContextFlags(ctx) &
		(SERVER_FROM_MASTER | SERVER_IS_LOADING | SERVER_IS_ASYNC_LOADING)) != 0;
}

bool
word_number(struct RedisModuleString *word, long long min, long long max, long long *out)
{
	return RedisModule_StringToLongLong(word, out) == SERVER_OK && *out >= min &&
	       *out <= max;
}

int
reply_error(struct RedisModuleCtx *ctx, int err)
{
	static const struct {
		int err;
		const char *text;
	} errors[] = {
		{ -ESTALE, "SNFSTALE no such partition, generation or term: open again" },
		{ -EALREADY, "SNFREPEAT the answer to this frame is forgotten" },
		{ -EBADMSG, "ERR SNFBAD malformed frame" },
		{ -EMSGSIZE, "ERR SNFBAD the reply would be too long" },
		{ -EINVAL, "ERR SNFBAD a number is malformed or out of range" },
		{ -ENOMEM, "ERR SNFNOMEM out of memory" },
		{ -EROFS, "READONLY You can't write against a read only replica." },
		{ -ENOTSUP, module_wrong_type },
	};

	for (unsigned int i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].err == err)
			return RedisModule_ReplyWithError(ctx, errors[i].text);
	return RedisModule_ReplyWithError(ctx, "ERR SNFBAD frame");
}

int
reply_absent(struct RedisModuleCtx *ctx, bool empty)
{
	return reply_error(ctx, empty ? -ESTALE : -ENOTSUP);
}

/* --- SNF.FRAME ----------------------------------------------------------------- */

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

/* The cron alone could not keep up with what expires at full load.  Partitions share
 * what frames may spend on it; that two of them share a clock now and then only makes
 * them take turns. */
static void
frame_expire(struct partition *p, uint64_t now_ms, bool as_effects)
{
	uint64_t *last = &expired_ms[partition_generation(p) % FRAME_CLOCKS];
	unsigned int n = tick_n_kept(), max = FRAME_EXPIRE / (n > 0 ? n : 1);

	if (*last == now_ms)
		return;
	*last = now_ms;
	partition_expire(p, now_ms, max > FRAME_EXPIRE_LEAST ? max : FRAME_EXPIRE_LEAST,
			 as_effects ? &effects : NULL);
}

static int
frame_apply(struct RedisModuleCtx *ctx, struct RedisModuleString **argv,
	    struct partition *p, uint64_t now_us)
{
	uint64_t now_ms = tick_ms(now_us), n_groups = 0;
	bool as_effects = tick_has_listeners();
	size_t bytes;
	const char *frame = RedisModule_StringPtrLen(argv[2], &bytes);

	if (!as_effects)
		n_groups = partition_groups(p);
	reply.bytes = 0;
	effects.bytes = 0;
	frame_expire(p, now_ms, as_effects);

	int err = partition_apply(p, frame, bytes, tick_term(), now_ms,
				  RedisModule_GetUsedMemoryRatio() >= 1.0f, &reply,
				  as_effects ? &effects : NULL);

	if (as_effects ? effects.bytes > 0 : partition_groups(p) != n_groups)
		frame_replicate(ctx, argv, as_effects);
	if (due_n_waiters > 0 && partition_due_tables(p) != 0) {
		const char *name = RedisModule_StringPtrLen(argv[1], &bytes);

		due_serve(RedisModule_GetSelectedDb(ctx), name, bytes,
			  partition_due_tables(p));
	}
	return err;
}

static int
frame_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	uint64_t start_ns = clock_ns();
	bool empty;

	if (argc != 3)
		return RedisModule_WrongArity(ctx);
	if (tick_term() == 0)
		return reply_error(ctx, -EROFS);

	struct partition *p =
		persist_find(ctx, argv[1], SERVER_READ | SERVER_WRITE, &empty);

	awake_frame(start_ns / 1000);
	if (p == NULL)
		return reply_absent(ctx, empty);

	int err = frame_apply(ctx, argv, p, start_ns / 1000);

	if (err != 0)
		return reply_error(ctx, err);
	RedisModule_ReplyWithStringBuffer(ctx, (const char *)reply.data, reply.bytes);
	info_frame(clock_ns() - start_ns);
	return SERVER_OK;
}

/* --- SNF.MARK ------------------------------------------------------------------ */

/* WAIT waits for what its own connection last sent to replicas.  (Since Redis 7.2 and
 * Valkey 8 that is really so; before, for what anybody did.)  So a mark has to send
 * something: effects of no bytes. */
static int
mark_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	long long term;
	bool empty;

	if (argc != 3)
		return RedisModule_WrongArity(ctx);
	if (!word_number(argv[2], 1, INT64_MAX, &term))
		return reply_error(ctx, -EINVAL);
	if (persist_find(ctx, argv[1], SERVER_READ, &empty) == NULL)
		return reply_absent(ctx, empty);
	if ((uint64_t)term != tick_term())
		return reply_error(ctx, -ESTALE);
	if (tick_has_listeners())
		RedisModule_Replicate(ctx, "SNF.EFFECTS", "sbA", argv[1], "", (size_t)0);
	return RedisModule_ReplyWithLongLong(ctx, tick_n_replicas());
}

/* --- SNF.EFFECTS --------------------------------------------------------------- */

/* A rewritten append-only file makes a partition from the first piece of its
 * snapshot. */
static int
effects_create(struct RedisModuleCtx *ctx, struct RedisModuleKey *key,
	       struct RedisModuleString *name, const char *piece, size_t bytes)
{
	struct partition *p;
	int err = persist_take(piece, bytes, &p);

	if (err != 0)
		return err;
	persist_set(key, p);
	const char *text = RedisModule_StringPtrLen(name, &bytes);

	tick_keep(RedisModule_GetSelectedDb(ctx), text, bytes);
	return 0;
}

/*
 * Ends the server: this copy is not what its primary has, or its file says.  An error
 * would be heard by nobody.  The replica would stay in the stream, WAIT would go on
 * counting it, and its promotion would lose what was committed; without the key it would
 * count just the same, and nothing that a module may do makes it leave.  A process that
 * has ended counts nowhere, and when it is started again it fetches a whole copy.  As the
 * server does where it cannot load a file: nothing is saved.
 */
static _Noreturn void
effects_fail(struct RedisModuleCtx *ctx, struct RedisModuleString *name, int err)
{
	RedisModule_Log(ctx, "warning",
			"snf: effects for %s not applied (%s): this copy would differ, "
			"so the server ends",
			RedisModule_StringPtrLen(name, NULL), strerror(-err));
	_exit(1);
}

static int
effects_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	if (argc != 3)
		return RedisModule_WrongArity(ctx);
	if (!from_primary_or_file(ctx))
		return RedisModule_ReplyWithError(ctx, module_not_for_clients);

	struct RedisModuleKey *key =
		RedisModule_OpenKey(ctx, argv[1], SERVER_READ | SERVER_WRITE);
	struct partition *p = persist_partition(key);
	size_t bytes;
	const char *what = RedisModule_StringPtrLen(argv[2], &bytes);
	int err = -ENOTSUP;

	if (p != NULL)
		err = partition_replay(p, what, bytes, tick_ms(clock_us()));
	else if (RedisModule_KeyType(key) == SERVER_KEY_EMPTY)
		err = effects_create(ctx, key, argv[1], what, bytes);
	RedisModule_CloseKey(key);
	if (err != 0)
		effects_fail(ctx, argv[1], err);
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
		const char *flags;
	} commands[] = {
		{ "snf.open", open_command, "write" },
		{ "snf.frame", frame_command, "write" },
		{ "snf.mark", mark_command, "write fast" },
		{ "snf.due", due_command, "write blocking" },
		{ "snf.tables", tables_command, "readonly" },
		{ "snf.scan", scan_command, "readonly" },
		{ "snf.effects", effects_command, "write" },
	};

	for (unsigned int i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (RedisModule_CreateCommand(ctx, commands[i].name, commands[i].run,
					      commands[i].flags, 1, 1, 1) != SERVER_OK)
			return -EEXIST;
	return 0;
}

__attribute__((visibility("default"))) int
RedisModule_OnLoad(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc)
{
	static int (*const parts[])(struct RedisModuleCtx *) = {
		persist_load,
		commands_load,
		tick_load,
		info_load,
	};
	const char *missing = server_bind(ctx);
	int err = 0;

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
	for (unsigned int i = 0; err == 0 && i < sizeof(parts) / sizeof(parts[0]); i++)
		err = parts[i](ctx);
	if (err == 0)
		err = awake_load();
	if (err != 0)
		RedisModule_Log(ctx, "warning", "snf: not loaded: %s", strerror(-err));
	return err == 0 ? SERVER_OK : SERVER_ERROR;
}

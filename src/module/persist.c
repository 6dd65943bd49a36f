/*
 * persist.c - the data type: how a partition gets into and out of an RDB file, a
 * rewritten append-only file, and memory.
 *
 * In an RDB file (and in DUMP) a value of encoding version 2 is a run of strings:
 * the pieces of partition_save(), then an empty string.  In an append-only file it
 * is an SNF.EFFECTS for each piece, of which the first makes the partition.
 * Idle times are not kept: they start anew.
 *
 * free() may run on the server's background thread (UNLINK, FLUSHALL ASYNC); a
 * partition shares nothing with others, and by then no key leads to it.
 */
#include "module/module.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define PERSIST_TYPE     "snf-store" /* Nine characters, as the ABI asks for. */
#define PERSIST_ENCODING 2

static struct RedisModuleType *type;

struct partition *
persist_partition(struct RedisModuleKey *key)
{
	if (key == NULL || RedisModule_ModuleTypeGetType(key) != type)
		return NULL;
	return RedisModule_ModuleTypeGetValue(key);
}

void
persist_set(struct RedisModuleKey *key, struct partition *p)
{
	RedisModule_ModuleTypeSetValue(key, type, p);
}

struct partition *
persist_find(struct RedisModuleCtx *ctx, struct RedisModuleString *name, int mode,
	     bool *empty)
{
	struct RedisModuleKey *key = RedisModule_OpenKey(ctx, name, mode);
	struct partition *p = persist_partition(key);

	if (empty != NULL)
		*empty = RedisModule_KeyType(key) == SERVER_KEY_EMPTY;
	if (key != NULL)
		RedisModule_CloseKey(key);
	return p;
}

static void
fill_random(void *to, size_t bytes)
{
	/* Cannot fail: the server has long read from the initialised pool. */
	(void)!getrandom(to, bytes, 0);
}

uint64_t
persist_random(void)
{
	uint64_t number = 0;

	fill_random(&number, sizeof(number));
	return (number & INT64_MAX) | 1;
}

void
persist_seed(uint64_t seed[2])
{
	fill_random(seed, 2 * sizeof(seed[0]));
}

int
persist_take(const void *piece, size_t bytes, struct partition **out)
{
	uint64_t seed[2] = { 0 };
	struct partition *p;

	persist_seed(seed);

	int err = partition_load(piece, bytes, seed, &p);

	if (err != 0)
		return err;
	/* Clients get it as a signed integer. */
	if (partition_generation(p) - 1 >= INT64_MAX) {
		partition_free(p);
		return -EBADMSG;
	}
	*out = p;
	return 0;
}

static int
rdb_emit(void *io, const void *piece, size_t bytes)
{
	RedisModule_SaveStringBuffer(io, piece, bytes);
	return RedisModule_IsIOError(io) ? -EIO : 0;
}

static void
rdb_save(struct RedisModuleIO *io, void *value)
{
	int err = partition_save(value, rdb_emit, io);

	/* Without its end the value cannot be loaded: better than half of one. */
	if (err == 0)
		RedisModule_SaveStringBuffer(io, "", 0);
	else
		RedisModule_LogIOError(io, "warning", "partition not saved: %s",
				       strerror(-err));
}

/* Takes the next piece; -EIO if there is none. */
static int
rdb_piece(struct RedisModuleIO *io, char **piece, size_t *bytes)
{
	*piece = RedisModule_LoadStringBuffer(io, bytes);
	if (*piece == NULL)
		return -EIO;
	if (!RedisModule_IsIOError(io))
		return 0;
	RedisModule_Free(*piece);
	return -EIO;
}

static int
rdb_head(struct RedisModuleIO *io, struct partition **out)
{
	char *piece;
	size_t bytes;
	int err = rdb_piece(io, &piece, &bytes);

	if (err != 0)
		return err;
	err = persist_take(piece, bytes, out);
	RedisModule_Free(piece);
	return err;
}

static int
rdb_rest(struct RedisModuleIO *io, struct partition *p)
{
	uint64_t now_ms = tick_ms(clock_us());

	for (;;) {
		char *piece;
		size_t bytes;
		int err = rdb_piece(io, &piece, &bytes);

		if (err != 0)
			return err;
		bool last = bytes == 0;

		if (!last)
			err = partition_replay(p, piece, bytes, now_ms);
		RedisModule_Free(piece);
		if (err != 0 || last)
			return err;
	}
}

static void *
rdb_load(struct RedisModuleIO *io, int encoding_version)
{
	const struct RedisModuleString *name = RedisModule_GetKeyNameFromIO(io);
	struct partition *p;
	int err = -EPROTO;

	if (encoding_version != PERSIST_ENCODING)
		goto refuse;
	err = rdb_head(io, &p);
	if (err != 0)
		goto refuse;
	err = rdb_rest(io, p);
	if (err != 0)
		goto free_partition;
	if (name != NULL) {
		size_t bytes;
		const char *text = RedisModule_StringPtrLen(name, &bytes);

		tick_keep(RedisModule_GetDbIdFromIO(io), text, bytes);
	}
	return p;
free_partition:
	partition_free(p);
refuse:
	RedisModule_LogIOError(io, "warning", "partition (encoding %d) not loaded: %s",
			       encoding_version, strerror(-err));
	return NULL;
}

struct rewrite {
	struct RedisModuleIO *io;
	struct RedisModuleString *key;
};

static int
aof_emit(void *context, const void *piece, size_t bytes)
{
	struct rewrite *r = context;

	RedisModule_EmitAOF(r->io, "SNF.EFFECTS", "sb", r->key, piece, bytes);
	return RedisModule_IsIOError(r->io) ? -EIO : 0;
}

static void
aof_rewrite(struct RedisModuleIO *io, struct RedisModuleString *key, void *value)
{
	struct rewrite r = { .io = io, .key = key };
	int err = partition_save(value, aof_emit, &r);

	if (err != 0)
		RedisModule_LogIOError(io, "warning", "partition not rewritten: %s",
				       strerror(-err));
}

static size_t
mem_usage(const void *value)
{
	struct core_counters count;

	partition_count(value, &count);
	return count.memory_bytes;
}

static size_t
free_effort(struct RedisModuleString *key, const void *value)
{
	struct core_counters count;

	(void)key;
	partition_count(value, &count);
	return count.records + 1;
}

static void
free_value(void *value)
{
	partition_free(value);
}

int
persist_load(struct RedisModuleCtx *ctx)
{
	struct RedisModuleTypeMethods methods = {
		.version = 3,
		.rdb_load = rdb_load,
		.rdb_save = rdb_save,
		.aof_rewrite = aof_rewrite,
		.mem_usage = mem_usage,
		.free = free_value,
		.free_effort = free_effort,
	};

	type = RedisModule_CreateDataType(ctx, PERSIST_TYPE, PERSIST_ENCODING, &methods);
	return type == NULL ? -EEXIST : 0;
}

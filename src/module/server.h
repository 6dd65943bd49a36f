/*
 * server.h - the part of the server's module ABI that this module uses.
 *
 * Redis (>= 7.0) and Valkey (>= 7.2) hand a module one function, through the first
 * word of its context, that finds all others by name; the names and what is
 * declared here are stable between versions.  module.c holds the pointers and
 * fills them when it is loaded.
 */
#ifndef MODULE_SERVER_H
#define MODULE_SERVER_H

#include <stddef.h>
#include <stdint.h>

enum {
	SERVER_OK = 0,
	SERVER_ERROR = 1,
	SERVER_API_VERSION = 1,
};

/* Modes of OpenKey. */
enum {
	SERVER_READ = 1 << 0,
	SERVER_WRITE = 1 << 1,
	SERVER_NOTOUCH = 1 << 16,
};

/* Answers of KeyType. */
enum {
	SERVER_KEY_EMPTY = 0,
};

/* Bits of GetContextFlags. */
enum {
	SERVER_IS_MASTER = 1 << 2,
	SERVER_HAS_AOF = 1 << 6,
	SERVER_MAY_EVICT = 1 << 9,
	SERVER_FROM_MASTER = 1 << 12,
	SERVER_IS_LOADING = 1 << 13,
	SERVER_HAS_CHILD = 1 << 18,
	SERVER_DENIES_BLOCKING = 1 << 21,
	SERVER_IS_ASYNC_LOADING = 1 << 23,
};

/* Options of SetModuleOptions. */
enum {
	SERVER_HANDLES_IO_ERRORS = 1 << 0,
	SERVER_SIGNALS_CHANGES = 1 << 1,
};

enum {
	SERVER_READABLE = 1,      /* Masks of EventLoopAdd. */
	SERVER_POSTPONED = -1,    /* A length for ReplyWithArray: it comes later. */
	SERVER_GENERIC = 1 << 2,  /* Keyspace events: RENAME, MOVE and the like. */
};

/* Ids of events. */
enum {
	SERVER_EVENT_ROLE = 0,
	SERVER_EVENT_REPLICA = 6,
	SERVER_EVENT_CRON = 8,
	SERVER_EVENT_FORK = 13,
};

struct RedisModuleCtx;
struct RedisModuleKey;
struct RedisModuleString;
struct RedisModuleIO;
struct RedisModuleType;
struct RedisModuleInfoCtx;
struct RedisModuleServerInfoData;
struct RedisModuleBlockedClient;

struct RedisModuleEvent {
	uint64_t id, version;
};

/* Version 3 of the table of a data type's methods. */
struct RedisModuleTypeMethods {
	uint64_t version;
	void *(*rdb_load)(struct RedisModuleIO *io, int encoding_version);
	void (*rdb_save)(struct RedisModuleIO *io, void *value);
	void (*aof_rewrite)(struct RedisModuleIO *io, struct RedisModuleString *key,
			    void *value);
	size_t (*mem_usage)(const void *value);
	void (*digest)(void *digest, void *value);
	void (*free)(void *value);
	int (*aux_load)(struct RedisModuleIO *io, int encoding_version, int when);
	void (*aux_save)(struct RedisModuleIO *io, int when);
	int aux_save_triggers;
	size_t (*free_effort)(struct RedisModuleString *key, const void *value);
	void (*unlink)(struct RedisModuleString *key, const void *value);
	void *(*copy)(struct RedisModuleString *from, struct RedisModuleString *to,
		      const void *value);
	int (*defrag)(void *context, struct RedisModuleString *key, void **value);
};

typedef int
server_command(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc);
typedef void server_event(struct RedisModuleCtx *ctx, struct RedisModuleEvent event,
			  uint64_t subevent, void *data);
typedef void server_gone(struct RedisModuleCtx *ctx, struct RedisModuleBlockedClient *);
typedef int server_keyspace(struct RedisModuleCtx *ctx, int type, const char *event,
			    struct RedisModuleString *key);
typedef void server_turn(int fd, void *user, int mask);
typedef void server_info(struct RedisModuleInfoCtx *ctx, int for_crash_report);

/* Every function that is fetched: what it returns, its name, what it takes. */
#define SERVER_CALLS(X)                                                                  \
	X(void *, Alloc, (size_t bytes))                                                 \
	X(void *, TryAlloc, (size_t bytes))                                              \
	X(void, Free, (void *p))                                                         \
	X(void, SetModuleAttribs,                                                        \
	  (struct RedisModuleCtx *, const char *name, int version, int api_version))     \
	X(void, SetModuleOptions, (struct RedisModuleCtx *, int options))                \
	X(void, Log, (struct RedisModuleCtx *, const char *level, const char *fmt, ...)) \
	X(int, CreateCommand,                                                            \
	  (struct RedisModuleCtx *, const char *name, server_command *,                  \
	   const char *flags, int first_key, int last_key, int key_step))                \
	X(struct RedisModuleType *, CreateDataType,                                      \
	  (struct RedisModuleCtx *, const char *name, int encoding_version,              \
	   struct RedisModuleTypeMethods *))                                             \
	X(int, SubscribeToServerEvent,                                                   \
	  (struct RedisModuleCtx *, struct RedisModuleEvent, server_event *))            \
	X(int, RegisterInfoFunc, (struct RedisModuleCtx *, server_info *))               \
	X(int, InfoAddSection, (struct RedisModuleInfoCtx *, const char *name))          \
	X(int, InfoAddFieldULongLong,                                                    \
	  (struct RedisModuleInfoCtx *, const char *field, unsigned long long value))    \
	X(int, InfoAddFieldCString,                                                      \
	  (struct RedisModuleInfoCtx *, const char *field, const char *value))           \
	X(int, SubscribeToKeyspaceEvents,                                                \
	  (struct RedisModuleCtx *, int types, server_keyspace *))                       \
	X(int, GetContextFlags, (struct RedisModuleCtx *))                               \
	X(struct RedisModuleCtx *, GetDetachedThreadSafeContext,                         \
	  (struct RedisModuleCtx *))                                                     \
	X(struct RedisModuleServerInfoData *, GetServerInfo,                             \
	  (struct RedisModuleCtx *, const char *section))                                \
	X(long long, ServerInfoGetFieldSigned,                                           \
	  (struct RedisModuleServerInfoData *, const char *field, int *error))           \
	X(const char *, ServerInfoGetFieldC,                                             \
	  (struct RedisModuleServerInfoData *, const char *field))                       \
	X(void, FreeServerInfo,                                                          \
	  (struct RedisModuleCtx *, struct RedisModuleServerInfoData *))                 \
	X(int, AvoidReplicaTraffic, (void))                                              \
	X(float, GetUsedMemoryRatio, (void))                                             \
	X(int, GetSelectedDb, (struct RedisModuleCtx *))                                 \
	X(int, SelectDb, (struct RedisModuleCtx *, int db))                              \
	X(struct RedisModuleKey *, OpenKey,                                              \
	  (struct RedisModuleCtx *, struct RedisModuleString * name, int mode))          \
	X(void, CloseKey, (struct RedisModuleKey *))                                     \
	X(int, KeyType, (struct RedisModuleKey *))                                       \
	X(struct RedisModuleType *, ModuleTypeGetType, (struct RedisModuleKey *))        \
	X(void *, ModuleTypeGetValue, (struct RedisModuleKey *))                         \
	X(int, ModuleTypeSetValue,                                                       \
	  (struct RedisModuleKey *, struct RedisModuleType *, void *value))              \
	X(int, SignalModifiedKey, (struct RedisModuleCtx *, struct RedisModuleString *)) \
	X(struct RedisModuleString *, CreateString,                                      \
	  (struct RedisModuleCtx *, const char *bytes, size_t n))                        \
	X(void, FreeString, (struct RedisModuleCtx *, struct RedisModuleString *))       \
	X(const char *, StringPtrLen, (const struct RedisModuleString *, size_t *n))     \
	X(int, StringToLongLong, (const struct RedisModuleString *, long long *out))     \
	X(int, WrongArity, (struct RedisModuleCtx *))                                    \
	X(int, ReplyWithError, (struct RedisModuleCtx *, const char *text))              \
	X(int, ReplyWithSimpleString, (struct RedisModuleCtx *, const char *text))       \
	X(int, ReplyWithLongLong, (struct RedisModuleCtx *, long long))                  \
	X(int, ReplyWithArray, (struct RedisModuleCtx *, long n))                        \
	X(void, ReplySetArrayLength, (struct RedisModuleCtx *, long n))                  \
	X(int, ReplyWithStringBuffer,                                                    \
	  (struct RedisModuleCtx *, const char *bytes, size_t n))                        \
	X(int, Replicate,                                                                \
	  (struct RedisModuleCtx *, const char *command, const char *fmt, ...))          \
	X(int, ReplicateVerbatim, (struct RedisModuleCtx *))                             \
	X(void, SaveStringBuffer, (struct RedisModuleIO *, const char *bytes, size_t n)) \
	X(char *, LoadStringBuffer, (struct RedisModuleIO *, size_t * n))                \
	X(int, IsIOError, (struct RedisModuleIO *))                                      \
	X(void, LogIOError,                                                              \
	  (struct RedisModuleIO *, const char *level, const char *fmt, ...))             \
	X(void, EmitAOF,                                                                 \
	  (struct RedisModuleIO *, const char *command, const char *fmt, ...))           \
	X(int, GetDbIdFromIO, (struct RedisModuleIO *))                                  \
	X(const struct RedisModuleString *, GetKeyNameFromIO, (struct RedisModuleIO *))  \
	X(struct RedisModuleBlockedClient *, BlockClient,                                \
	  (struct RedisModuleCtx *, server_command *reply, server_command *timeout,      \
	   void (*free_data)(struct RedisModuleCtx *, void *), long long timeout_ms))    \
	X(int, UnblockClient, (struct RedisModuleBlockedClient *, void *data))           \
	X(void, SetDisconnectCallback,                                                   \
	  (struct RedisModuleBlockedClient *, server_gone *))                      \
	X(void *, GetBlockedClientPrivateData, (struct RedisModuleCtx *))                \
	X(int, EventLoopAdd, (int fd, int mask, server_turn *, void *user))              \
	X(int, EventLoopDel, (int fd, int mask))

#define SERVER_DECLARE(result, name, arguments)                                          \
	extern result(*RedisModule_##name) arguments;
SERVER_CALLS(SERVER_DECLARE)
#undef SERVER_DECLARE

/* What the server calls first.  'argv' are the words behind the module's path. */
int
RedisModule_OnLoad(struct RedisModuleCtx *ctx, struct RedisModuleString **argv, int argc);

#endif

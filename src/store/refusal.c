/*
 * refusal.c - the list of error replies that are known to come.
 */
#include "store/refusal.h"

#include <string.h>

static const char no_key[] =
	"the user may not use this store's keys: ACL SETUSER ... ~snf:{NAME:*";

static const char no_memory[] = "the server is out of memory: raise its maxmemory";
static const char no_password[] = "it wants a password: set user:password@ in the URL";

/* Where nobody expects one. */
static const char no_redirect[] = "it is a Cluster: use valkey+cluster://";

static const struct refusal refusals[] = {
	{ "ERR unknown command", REFUSAL_HOPELESS, false, false,
	  "the module is not loaded: redis-server --loadmodule .../snf_store.so" },
	{ "ERR SNFPROTO", REFUSAL_HOPELESS, false, false,
	  "the module is of another release: load the snf_store.so of this one" },
	{ "ERR SNFTABLE", REFUSAL_HOPELESS, true, true,
	  "another release uses this store: give it another name in the URL" },
	{ "ERR SNFPARTITIONS", REFUSAL_HOPELESS, true, true,
	  "set 'partitions' to that, or another name in the URL" },
	{ "WRONGTYPE", REFUSAL_HOPELESS, true, false,
	  "its key is in use: give another name in the URL" },
	{ "NOAUTH", REFUSAL_HOPELESS, false, false, no_password },
	/* So it refuses commands of more than ten words, such as SNF.OPEN. */
	{ "ERR Protocol error: unauthenticated", REFUSAL_HOPELESS, false, false,
	  no_password },
	{ "WRONGPASS", REFUSAL_HOPELESS, false, false,
	  "wrong password: set user:password@ in the URL" },
	{ "ERR AUTH", REFUSAL_HOPELESS, false, false,
	  "the server has no password: take it out of the URL" },
	/* As Valkey and Redis from 7.2 on say it, and as Redis 7.0 does. */
	{ "NOPERM No permissions to access a key",
	  REFUSAL_HOPELESS, true, false, no_key },
	{ "NOPERM this user has no permissions to access one of the keys",
	  REFUSAL_HOPELESS, true, false, no_key },
	{ "NOPERM", REFUSAL_HOPELESS, false, true,
	  "the user may not: ACL SETUSER ... +snf.open +snf.frame +snf.mark +snf.due "
	  "+wait ~snf:{NAME:*" },
	{ "MOVED ", REFUSAL_REDIRECT, false, false, no_redirect },
	{ "ASK ", REFUSAL_REDIRECT, false, false, no_redirect },
	{ "DENIED", REFUSAL_HOPELESS, false, false,
	  "the server is in protected mode: give it a password or bind it" },
	{ "READONLY", REFUSAL_ELSEWHERE, false, false,
	  "the server is a replica, the primary is wanted" },
	{ "SNFSTALE", REFUSAL_ANEW, true, false,
	  "the state was lost or replaced, or the server restarted" },
	{ "MASTERDOWN", REFUSAL_TRANSIENT, false, false,
	  "the server is a replica that has lost its primary" },
	{ "MISCONF", REFUSAL_TRANSIENT, false, false,
	  "the server cannot save and refuses writes: see its log" },
	{ "NOREPLICAS", REFUSAL_TRANSIENT, false, false,
	  "the server has lost its replicas and refuses writes "
	  "(min-replicas-to-write)" },
	{ "OOM", REFUSAL_TRANSIENT, false, false, no_memory },
	{ "ERR SNFNOMEM", REFUSAL_TRANSIENT, false, false, no_memory },
	{ "ERR max number of clients", REFUSAL_TRANSIENT, false, false,
	  "the server has too many clients: raise its maxclients" },
	{ "LOADING", REFUSAL_TRANSIENT, false, false, "the server is loading its data" },
	{ "CLUSTERDOWN", REFUSAL_TRANSIENT, false, true,
	  "a part of the Cluster has no primary" },
	{ "TRYAGAIN", REFUSAL_TRANSIENT, true, false, "the partition is being moved" },
	{ "BUSY", REFUSAL_TRANSIENT, false, false, "the server is busy with a script" },
};

/* What is not known may well be of this partition alone. */
static const struct refusal unknown = { "", REFUSAL_TRANSIENT, true, true, "" };

const struct refusal *
refusal_of(const char *text, size_t bytes)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		size_t n = strlen(refusals[i].prefix);

		if (bytes >= n && memcmp(text, refusals[i].prefix, n) == 0)
			return &refusals[i];
	}
	return &unknown;
}

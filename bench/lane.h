/*
 * lane.h - how bench-store drives a server: a lane is one connection's worth of
 * requests in flight, all of one kind, and lanes_run() keeps any number of them going
 * from one thread that never sleeps unless it is told to.
 *
 * The same loop drives our store (lane.c) and what it is compared with (peer.c), with
 * sockets that are polled and answers that are all looked at, so that what differs is
 * the protocol and the server.  A lane that cannot go on ends the program: there are
 * no numbers of a run with a wrong answer in it.
 */
#ifndef BENCH_LANE_H
#define BENCH_LANE_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	LANE_FDS = 32,
	LANE_MAX_KEYS = 500,			/* In a request; in each part of one. */
	LANE_MAX_SAMPLES = 1 << 20,
	KEY_BYTES = 16,				/* An IPv4 connection's. */
	RECORD_BYTES = 16,			/* A value of LANE_RECORD. */
	CONNECTION_BYTES = 8,			/* The firewall's. */
	ESTABLISHED_MS = 432000 * 1000,		/* Idle times of the firewall. */
	SYN_MS = 120 * 1000,
};

/* Tables, by the index that lane_open() declares them with. */
enum lane_table {
	LANE_RECORD,
	LANE_CONNECTION,			/* As the firewall has it. */
	LANE_LIMITED,				/* The same, with a limit, and eviction. */
	LANE_COMMITTED,				/* Written by one replica, too. */
	LANE_N_TABLES
};

enum work_kind {
	WORK_READ,				/* What is there. */
	WORK_MISS,				/* What is not. */
	WORK_WRITE,
	WORK_SYN,				/* Looks for what is not there, and makes it
						 * half-open. */
};

/* What a request asks for: keys of records from 'first' on. */
struct work {
	enum work_kind kind;
	enum lane_table table;
	unsigned int n_keys;			/* In each partition. */
	uint64_t first, n;
	bool in_order;				/* From the first to the last; else random. */
};

/* Times from asking to the answer. */
struct samples {
	uint64_t n, max_ns;
	uint32_t ns[LANE_MAX_SAMPLES];		/* The last ones. */
};

struct lane {
	const struct lane_ops *ops;
	struct work work;
	unsigned int in_flight;			/* Wanted. */
	uint64_t period_ns;			/* Between requests; 0: none. */
	struct samples *samples;		/* May be shared between lanes. */
	/* Since the owner set them. */
	uint64_t next_in_order, n_done;
	/* The loop's own. */
	unsigned int n_out;
	uint64_t next_ns, random;
};

struct lane_ops {
	/* Asks for what 'work' says.  False: not now. */
	bool (*submit)(struct lane *lane, uint64_t now_ns);
	/* Takes one answer, if there is one, and looks at it.  Returns how many. */
	unsigned int (*poll)(struct lane *lane);
	/* What to wait on until there may be an answer. */
	unsigned int (*fds)(struct lane *lane, struct pollfd *fds, int *timeout_ms);
	void (*close)(struct lane *lane);
};

/* A lane of the store at 'url' with its tables; 'limit' is that of LANE_LIMITED. */
struct lane *lane_open(const char *url, unsigned int n_partitions, uint64_t limit);

/* A lane of a plain server at a path or HOST:PORT. */
enum peer_kind {
	PEER_REDIS,				/* MGET and MSET. */
	PEER_MEMCACHED,				/* get of many keys, set with noreply. */
	PEER_SCAN,				/* SNF.SCAN of LANE_CONNECTION. */
};
struct lane *peer_open(enum peer_kind kind, const char *address);

/* Asks and takes answers until 'end_ns' (0: until work in order has come to its end),
 * then waits for the rest.  'sleeping': between answers, where others need the core. */
void lanes_run(struct lane *const *lanes, unsigned int n, uint64_t end_ns, bool sleeping);
/* Of all lanes that share these samples; 'share' is below 1. */
double samples_us(struct samples *s, double share);
void samples_clear(struct samples *s);
/* By the lane's ops, for each answer. */
void lane_answered(struct lane *lane, uint64_t asked_ns, uint64_t now_ns);

uint64_t now_ns(void);
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The record that the next key is for. */
static inline uint64_t
lane_next(struct lane *l)
{
	if (l->work.in_order)
		return l->work.first + l->next_in_order++ % l->work.n;
	l->random ^= l->random << 13;
	l->random ^= l->random >> 7;
	l->random ^= l->random << 17;
	return l->work.first +
	       (uint64_t)(((unsigned __int128)l->random * l->work.n) >> 64);
}

/* Different for different n, and in no order. */
static inline uint64_t
mixed(uint64_t n)
{
	return n * 0x9e3779b97f4a7c15u;
}

/* The n-th key, a struct flow of TCP over IPv4: version, protocol, zone, ports,
 * addresses. */
static inline void
key_write(uint64_t n, uint64_t key[2])
{
	uint64_t addresses = mixed(n);

	key[0] = 0x0604 | addresses >> 7 << 32;
	key[1] = addresses;
}

#endif

/*
 * chaos_client.c - a client of the store that runs random transactions, several at once,
 * on few keys, and writes down everything that it asks and is told.
 *
 *   chaos-client URL HISTORY SLOT INCARNATION SEED COMMIT TIMEOUT_MS PARTITIONS MODE
 *
 * MODE is "work", or "drain": then it settles the timers that come, and starts nothing.
 * It runs until SIGTERM, gives back what it holds, waits for its answers and ends with
 * "ended" as the last line of its history.  An incarnation is the process in a slot
 * after one that was killed.
 */
#include "chaos.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	FLIGHT_TXNS = 6,
	N_FLIGHTS = STORE_BATCHES,
	MAX_FDS = 4 * STORE_MAX_PARTITIONS,
	TURN_MS = 2,
	RETRY_MS = 50,
};

/* The transactions of a batch, in the order in which they wrote into it.  Those that
 * have read go on before the batch is final. */
struct flight {
	bool busy;
	unsigned int n;
	struct {
		struct txn *txn;		/* NULL: it went on. */
		unsigned int partition, n_answers;
	} asked[FLIGHT_TXNS];
};

static struct chaos chaos;
static struct flight flights[N_FLIGHTS];
static volatile sig_atomic_t told_to_stop;

static void
stop(int number)
{
	(void)number;
	told_to_stop = 1;
}

/* --- Asking ------------------------------------------------------------------------ */

static struct flight *
flight_free(void)
{
	for (unsigned int i = 0; i < N_FLIGHTS; i++)
		if (!flights[i].busy)
			return &flights[i];
	return NULL;
}

static bool
txn_ready(const struct txn *t, uint64_t now)
{
	if (t->step == TXN_FREE || t->asked)
		return false;
	return t->after <= now || chaos.stopping;
}

/* Collects up to 'max' transactions that want something, from anywhere in the list. */
static void
flight_gather(struct flight *flight, unsigned int max)
{
	unsigned int first = (unsigned int)chaos_random(&chaos, MAX_TXNS);
	uint64_t now = chaos_now();

	flight->n = 0;
	for (unsigned int i = 0; i < MAX_TXNS && flight->n < max; i++) {
		struct txn *t = &chaos.txn[(first + i) % MAX_TXNS];

		if (txn_ready(t, now))
			flight->asked[flight->n++].txn = t;
	}
}

/* The answers to a flight that was never sent. */
static void
flight_unsent(struct flight *flight)
{
	struct txn_answer answers[MAX_READS];

	for (unsigned int i = 0; i < MAX_READS; i++)
		answers[i] = (struct txn_answer){ .result = -ENOTCONN };
	for (unsigned int i = 0; i < flight->n; i++)
		txn_answered(&chaos, flight->asked[i].txn, true, answers);
	flight->busy = false;
}

/* Returns whether there was something to ask, and a place for it. */
static bool
ask(void)
{
	const struct store_ops *ops = chaos.store->ops;
	struct flight *flight = flight_free();
	struct store_batch *batch;

	if (flight == NULL)
		return false;
	flight_gather(flight, 1 + (unsigned int)chaos_random(&chaos, FLIGHT_TXNS));
	if (flight->n == 0)
		return false;
	batch = ops->batch(chaos.store);
	if (batch == NULL)
		return false;
	for (unsigned int i = 0; i < flight->n; i++) {
		struct txn *t = flight->asked[i].txn;

		txn_ask(&chaos, t, &batch->part[t->partition].request);
		flight->asked[i].partition = t->partition;
		flight->asked[i].n_answers = t->n_answers;
	}
	history_flush(&chaos.history);
	batch->owner = flight;
	flight->busy = true;
	if (ops->submit(chaos.store, batch) != 0) {
		flight_unsent(flight);
		ops->free(chaos.store, batch);
		return false;
	}
	return true;
}

/* --- Answers ------------------------------------------------------------------------ */

static void
take_answer(struct store_part *part, struct txn_answer *answer)
{
	*answer = (struct txn_answer){ .result = part->error };
	if (part->error != 0)
		return;
	if (frame_reply_next(&part->reply, &answer->value) != 1) {
		history_add(&chaos.history, "E %" PRIu64 " an answer is missing\n",
			    chaos_now());
		answer->result = -EBADMSG;
		return;
	}
	answer->result = answer->value.answer;
}

/* A batch that comes twice has its reads answered the first time, its groups the
 * second. */
static void
flight_answered(struct store_batch *batch)
{
	struct flight *flight = batch->owner;

	for (unsigned int i = 0; i < flight->n; i++) {
		struct store_part *part = &batch->part[flight->asked[i].partition];
		struct txn *t = flight->asked[i].txn;
		struct txn_answer answers[MAX_READS];

		for (unsigned int k = 0; k < flight->asked[i].n_answers; k++)
			take_answer(part, &answers[k]);
		if (t == NULL)
			continue;
		if (t->n_groups == 0)
			flight->asked[i].txn = NULL;
		txn_answered(&chaos, t, batch->final, answers);
	}
	if (!batch->final)
		return;
	flight->busy = false;
	chaos.store->ops->free(chaos.store, batch);
}

static void
take_leases(void)
{
	struct store_lease lease[8];
	unsigned int n = chaos.store->ops->due(chaos.store, lease, 8);

	for (unsigned int i = 0; i < n; i++) {
		struct txn *t = &chaos.txn[WORK_TXNS];

		while (t < &chaos.txn[MAX_TXNS] && t->step != TXN_FREE)
			t++;
		txn_settle(&chaos, t < &chaos.txn[MAX_TXNS] ? t : NULL, &lease[i]);
	}
}

/* --- The loop ----------------------------------------------------------------------- */

static void
note_health(void)
{
	static enum store_health last = STORE_CONNECTED;
	static const char *const words[] = { "connected", "connecting", "lost" };
	enum store_health health = chaos.store->ops->health(chaos.store);

	if (health != last)
		history_add(&chaos.history, "E %" PRIu64 " %s\n", chaos_now(),
			    words[health]);
	last = health;
}

static void
wait_turn(void)
{
	struct pollfd p[MAX_FDS];
	int fd[MAX_FDS], wait_ms;
	unsigned int n = chaos.store->ops->wait_fds(chaos.store, fd, MAX_FDS, &wait_ms);

	for (unsigned int i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	poll(p, n, wait_ms < 0 || wait_ms > TURN_MS ? TURN_MS : wait_ms);
}

static bool
busy(void)
{
	for (unsigned int i = 0; i < MAX_TXNS; i++)
		if (chaos.txn[i].step != TXN_FREE)
			return true;
	return false;
}

static void
turn(void)
{
	struct store_batch *done[STORE_BATCHES];
	unsigned int n = chaos.store->ops->poll(chaos.store, done, STORE_BATCHES);

	for (unsigned int i = 0; i < n; i++)
		flight_answered(done[i]);
	note_health();
	chaos.stopping = told_to_stop;
	if (!chaos.stopping)
		take_leases();
	for (unsigned int i = 0; i < WORK_TXNS; i++)
		if (chaos.txn[i].step == TXN_FREE && !chaos.stopping && !chaos.drain)
			txn_start(&chaos, &chaos.txn[i]);
	while (ask())
		;
	if (n == 0)
		wait_turn();
}

/* The server may be away just now. */
static int
open_store(const char *url, uint8_t commit, unsigned int timeout_ms,
	   unsigned int n_partitions)
{
	const struct store_table tables[N_TABLES] = {
		[TABLE_KEYS] = { "chaos.key", 4, 40, 1, .commit = commit },
		[TABLE_COUNTERS] = { "chaos.counter", 4, 16, 1, .commit = commit },
		[TABLE_RANGES] = { "chaos.range", 4, 16, 1, .commit = commit },
		[TABLE_HOLDS] = { "chaos.hold", 8, 16, 1, .commit = commit },
		[TABLE_JOURNAL] = { "chaos.journal", 16, 16, 1, .commit = commit },
		[TABLE_TIMERS] = { "chaos.timer", 8, 16, 1, .commit = commit,
				   .leased = true },
	};
	struct store_options options = { url, timeout_ms, n_partitions };
	char why[300];

	while (!told_to_stop) {
		if (store_open(&options, tables, N_TABLES, &chaos.store, why,
			       sizeof(why)) == 0)
			return 0;
		history_add(&chaos.history, "E %" PRIu64 " not open: %s\n", chaos_now(),
			    why);
		history_flush(&chaos.history);
		poll(NULL, 0, RETRY_MS);
	}
	return -EINTR;
}

int
main(int argc, char **argv)
{
	if (argc != 10) {
		fprintf(stderr, "usage: chaos-client URL HISTORY SLOT INCARNATION SEED"
				" COMMIT TIMEOUT_MS PARTITIONS work|drain\n");
		return 2;
	}
	/* No version is 0. */
	chaos.who = ((uint32_t)atoi(argv[3]) + 1) << 8 | (uint32_t)atoi(argv[4]);
	chaos.next_version = 1;
	chaos.random = (strtoull(argv[5], NULL, 10) + 1) * UINT64_C(0x9e3779b97f4a7c15) |
		       1;
	chaos.n_partitions = (unsigned int)atoi(argv[8]);
	chaos.drain = strcmp(argv[9], "drain") == 0;
	history_open(&chaos.history, argv[2]);
	history_add(&chaos.history, "# who=%" PRIx32 " seed=%s commit=%s timeout_ms=%s"
				    " partitions=%s %s\n",
		    chaos.who, argv[5], argv[6], argv[7], argv[8], argv[9]);
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = stop }, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (open_store(argv[1], (uint8_t)atoi(argv[6]), (unsigned int)atoi(argv[7]),
		       chaos.n_partitions) == 0) {
		while (!chaos.stopping || busy())
			turn();
		chaos.store->ops->close(chaos.store);
	}
	history_add(&chaos.history, "E %" PRIu64 " ended\n", chaos_now());
	history_flush(&chaos.history);
	return 0;
}

/*
 * ports_probe.c - takes outside ports as a NAT does, with many runs at once, until it has
 * as many as it is told to, and says which.
 *
 *   ports_probe URL COUNT ADDRESSES PORTS CLIENT FILE
 *
 * A run asks for a free port of an address, and takes it in a group that writes a
 * mapping; if somebody else has taken it meanwhile, it asks again.  Where an address has
 * none, the run asks the next one.  Appends the ports it has got to FILE, 4 bytes each:
 * the address times 65536, plus the port.  Prints "done", what it got, how often it was
 * in conflict, the most conflicts of one run, how many runs had more than a pipe allows,
 * and how many found no free port at all.
 */
#include "store/store.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum {
	RUNS = 64,				/* In a batch. */
	MAX_RUNS_OF_A_PACKET = 8,		/* pipe/run.h */
	MAX_FDS = 64,
};

enum { TABLE_PORTS, TABLE_MAPPING, N_TABLES };

struct ports_key {
	uint32_t address, zero;
};

struct mapping_key {
	uint32_t client, number;
};

struct run {
	struct mapping_key key;
	uint32_t address, member;
	uint32_t n_tried, n_conflicts;
	bool busy, picked;
};

struct batch {
	struct run run[RUNS];
};

static struct batch batches[STORE_INFLIGHT];
static uint32_t n_addresses, n_ports, client, n_wanted, n_started, n_got;
static uint32_t n_conflicts, most_conflicts, n_too_many, n_none;
static uint64_t version;
static FILE *file;

static void
run_start(struct run *run)
{
	uint32_t number = client << 24 | n_started++;

	/* Far from its neighbours', as hosts' are. */
	*run = (struct run){ .key = { client, number }, .busy = true,
			     .address = (number * 2654435761U >> 8) % n_addresses };
}

static void
run_ask(const struct run *run, struct frame *f)
{
	struct ports_key key = { run->address, 0 };
	uint8_t value[24] = { 0 }, *group;

	if (!run->picked) {
		frame_pick(f, TABLE_PORTS, &key, sizeof(key), n_ports);
		return;
	}
	group = frame_group(f, version++);
	frame_put(f, TABLE_MAPPING, &run->key, sizeof(run->key), 1, value, sizeof(value),
		  0, 300 * 1000);
	frame_take(f, TABLE_PORTS, &key, sizeof(key), 1, n_ports, run->member);
	frame_group_end(group, 2);
}

static void
run_took(struct run *run, int answer)
{
	uint32_t port = run->address << 16 | run->member;

	run->picked = false;
	if (answer == FRAME_CONFLICT) {
		n_conflicts++;
		if (++run->n_conflicts > most_conflicts)
			most_conflicts = run->n_conflicts;
		n_too_many += run->n_conflicts == MAX_RUNS_OF_A_PACKET;
		return;
	}
	if (answer != FRAME_APPLIED) {
		printf("a group was refused: %d\n", answer);
		exit(1);
	}
	fwrite(&port, sizeof(port), 1, file);
	n_got++;
	run->busy = false;
}

static void
run_answered(struct run *run, const struct frame_value *v)
{
	if (run->picked) {
		run_took(run, v->answer);
	} else if (v->answer == FRAME_HIT) {
		memcpy(&run->member, v->value, sizeof(run->member));
		run->picked = true;
	} else if (++run->n_tried < n_addresses) {
		run->address = (run->address + 1) % n_addresses;
	} else {
		n_none++;
		run->busy = false;
	}
}

/* Starts, or goes on with, the runs of a batch.  False: there is nothing left to do. */
static bool
batch_ask(struct store *s, struct batch *b)
{
	struct store_batch *to = s->ops->batch(s);
	bool any = false;

	for (struct run *run = b->run; run < b->run + RUNS; run++) {
		if (!run->busy && n_started < n_wanted)
			run_start(run);
		if (run->busy)
			run_ask(run, &to->part[0].request);
		any |= run->busy;
	}
	to->owner = b;
	if (!any) {
		s->ops->free(s, to);
	} else if (s->ops->submit(s, to) != 0) {
		printf("a batch was not taken\n");
		exit(1);
	}
	return any;
}

static void
batch_answered(struct store_batch *from)
{
	struct batch *b = from->owner;
	struct frame_value v;

	for (struct run *run = b->run; run < b->run + RUNS; run++) {
		if (!run->busy)
			continue;
		if (from->part[0].error != 0 ||
		    frame_reply_next(&from->part[0].reply, &v) != 1) {
			printf("a batch failed: %s\n", strerror(-from->part[0].error));
			exit(1);
		}
		run_answered(run, &v);
	}
}

static void
wait_for(struct store *s)
{
	struct pollfd polled[MAX_FDS];
	int fd[MAX_FDS], timeout_ms;
	unsigned int n = s->ops->wait_fds(s, fd, MAX_FDS, &timeout_ms);

	for (unsigned int i = 0; i < n; i++)
		polled[i] = (struct pollfd){ .fd = fd[i], .events = POLLIN };
	poll(polled, n, timeout_ms);
}

static void
take_all(struct store *s)
{
	unsigned int n_open = 0;

	for (unsigned int i = 0; i < STORE_INFLIGHT; i++)
		n_open += batch_ask(s, &batches[i]);
	while (n_open > 0) {
		struct store_batch *done[STORE_BATCHES];
		unsigned int n = s->ops->poll(s, done, STORE_BATCHES);

		for (unsigned int i = 0; i < n; i++) {
			struct batch *b = done[i]->owner;

			/* Given back twice: answered, and final. */
			if (b != NULL) {
				batch_answered(done[i]);
				done[i]->owner = NULL;
			}
			if (done[i]->final)
				s->ops->free(s, done[i]);
			if (b != NULL)
				n_open -= !batch_ask(s, b);
		}
		if (n == 0)
			wait_for(s);
	}
}

int
main(int argc, char **argv)
{
	static const struct store_table tables[N_TABLES] = {
		{ .name = "probe.ports", .key_max = sizeof(struct ports_key),
		  .value_max = 8208, .format = 1 },
		{ .name = "probe.mapping", .key_max = sizeof(struct mapping_key),
		  .value_max = 24, .format = 1 },
	};
	struct store_options options = { .timeout_ms = 20000, .n_partitions = 1 };
	struct store *s;
	char why[256];

	if (argc != 7) {
		fprintf(stderr, "usage: %s URL COUNT ADDRESSES PORTS CLIENT FILE\n",
			argv[0]);
		return 2;
	}
	options.url = argv[1];
	n_wanted = (uint32_t)strtoul(argv[2], NULL, 10);
	n_addresses = (uint32_t)strtoul(argv[3], NULL, 10);
	n_ports = (uint32_t)strtoul(argv[4], NULL, 10);
	client = (uint32_t)strtoul(argv[5], NULL, 10);
	file = fopen(argv[6], "ab");
	if (file == NULL || getrandom(&version, sizeof(version), 0) != sizeof(version)) {
		perror(argv[6]);
		return 1;
	}
	if (store_open(&options, tables, N_TABLES, &s, why, sizeof(why)) != 0) {
		printf("%s\n", why);
		return 1;
	}
	take_all(s);
	s->ops->close(s);
	if (fclose(file) != 0) {
		perror(argv[6]);
		return 1;
	}
	printf("done got=%" PRIu32 " conflicts=%" PRIu32 " most=%" PRIu32
	       " too_many=%" PRIu32 " none=%" PRIu32 "\n",
	       n_got, n_conflicts, most_conflicts, n_too_many, n_none);
	return 0;
}

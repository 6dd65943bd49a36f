/*
 * store.c - what one server answers: packed frames against MGET and MSET.
 *
 * Starts a server of its own with the module on a unix socket, fills it with records
 * of 16 + 16 bytes, and asks it for random ones: frames of 1, 10 and 100 keys with 1, 4
 * and 8 of them in flight, then the same of plain strings through hiredis.  Every
 * answer is looked at.  Prints one flat JSON object; the names without in-flight are
 * those with 4 in flight for rates, with 1 for latencies.
 *
 *   bench_store MODULE.so [SECONDS for each point, default 1]
 */
#define _GNU_SOURCE
#include "store/store.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	N_RECORDS = 300000,
	KEY_BYTES = 16,
	VALUE_BYTES = 16,
	MAX_KEYS = 100,
	MAX_SAMPLES = 1 << 20,
	START_MS = 10000,
};

struct bench {
	char folder[64], socket[96], url[128];
	pid_t server;
	struct store *store;
	redisContext *redis;
	uint64_t random, version;
	double seconds;
	uint32_t *sample_ns;
	const char *comma;
};

struct point {
	bool write;
	unsigned int n_keys, in_flight;
};

struct result {
	double mops, p50_us, p99_us;
};

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t
random_next(struct bench *b)
{
	b->random ^= b->random << 13;
	b->random ^= b->random >> 7;
	b->random ^= b->random << 17;
	return b->random;
}

/* The n-th key: spread over all of its bytes. */
static void
key_write(uint64_t n, uint8_t key[KEY_BYTES])
{
	uint64_t half[2] = { n * 0x9e3779b97f4a7c15u, n };

	memcpy(key, half, sizeof(half));
}

static void
die(const char *what)
{
	fprintf(stderr, "bench_store: %s\n", what);
	exit(1);
}

/* One CPU for each side, so that neither is moved about. */
static void
pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
		sched_setaffinity(0, sizeof(set), &set);
}

/* --- The server ------------------------------------------------------------------ */

static void
server_start(struct bench *b, const char *module)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(b->folder, sizeof(b->folder), "%s/snf-bench-XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(b->folder) == NULL)
		die("cannot make a temporary folder");
	snprintf(b->socket, sizeof(b->socket), "%s/socket", b->folder);
	snprintf(b->url, sizeof(b->url), "valkey+unix://%s", b->socket);
	b->server = fork();
	if (b->server < 0)
		die("cannot fork");
	if (b->server > 0)
		return;
	pin(0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", b->socket,
	       "--dir", b->folder, "--save", "", "--logfile", "/dev/null", "--loadmodule",
	       module, (char *)NULL);
	_exit(127);
}

static void
server_stop(struct bench *b)
{
	if (b->redis != NULL)
		redisFree(b->redis);
	if (b->store != NULL)
		b->store->ops->close(b->store);
	kill(b->server, SIGKILL);
	waitpid(b->server, NULL, 0);
	unlink(b->socket);
	rmdir(b->folder);
}

static void
server_connect(struct bench *b)
{
	static const struct store_table table = { "bench", KEY_BYTES, VALUE_BYTES, 1 };
	struct store_options options = { .url = b->url, .timeout_ms = START_MS };
	char why[200];

	if (store_valkey_unix_ops.open(&options, &table, 1, &b->store, why,
				       sizeof(why)) != 0) {
		server_stop(b);
		die(why);
	}
	b->redis = redisConnectUnix(b->socket);
	if (b->redis == NULL || b->redis->err != 0) {
		server_stop(b);
		die("hiredis cannot connect");
	}
}

/* --- Frames ------------------------------------------------------------------------ */

static void
frame_ask(struct bench *b, struct frame *f, const struct point *p, uint64_t first)
{
	for (unsigned int i = 0; i < p->n_keys; i++) {
		uint64_t n = first != 0 ? first - 1 + i : random_next(b) % N_RECORDS;
		uint8_t key[KEY_BYTES];

		key_write(n, key);
		if (!p->write) {
			frame_read(f, 0, key, sizeof(key), true);
			continue;
		}

		uint8_t *group = frame_group(f, ++b->version);

		frame_put(f, 0, key, sizeof(key), 1, key, VALUE_BYTES, 0);
		frame_group_end(group, 1);
	}
}

static void
frame_look(struct store_batch *batch, const struct point *p)
{
	uint8_t want = p->write ? FRAME_APPLIED : FRAME_HIT;
	struct frame_value v;
	unsigned int n = 0;

	if (batch->error != 0)
		die("a batch failed");
	while (frame_reply_next(&batch->reply, &v) == 1)
		n += v.answer == want;
	if (n != p->n_keys)
		die("a wrong answer");
}

/* Waits for what is done; returns how many batches were. */
static unsigned int
frames_done(struct bench *b, const struct point *p, uint64_t *n_samples)
{
	struct store_batch *done[STORE_INFLIGHT];
	unsigned int n = b->store->ops->poll(b->store, done, STORE_INFLIGHT);
	uint64_t now = n > 0 ? now_ns() : 0;

	for (unsigned int i = 0; i < n; i++) {
		uint64_t asked = (uint64_t)(uintptr_t)done[i]->owner;

		b->sample_ns[(*n_samples)++ % MAX_SAMPLES] = (uint32_t)(now - asked);
		frame_look(done[i], p);
		b->store->ops->free(b->store, done[i]);
	}
	return n;
}

static void
frames_submit(struct bench *b, const struct point *p, uint64_t first)
{
	struct store_batch *batch = b->store->ops->batch(b->store);

	frame_ask(b, &batch->request, p, first);
	batch->owner = (void *)(uintptr_t)now_ns();
	if (b->store->ops->submit(b->store, batch) != 0)
		die("cannot submit");
}

static void
frames_fill(struct bench *b)
{
	static const struct point all = { true, MAX_KEYS, 1 };
	uint64_t n_samples = 0;

	for (uint64_t n = 0; n < N_RECORDS; n += MAX_KEYS) {
		frames_submit(b, &all, n + 1);
		while (frames_done(b, &all, &n_samples) == 0)
			;
	}
}

static uint64_t
frames_run(struct bench *b, const struct point *p, uint64_t end_ns)
{
	uint64_t n_samples = 0;
	unsigned int in_flight = 0;

	while (now_ns() < end_ns) {
		for (; in_flight < p->in_flight; in_flight++)
			frames_submit(b, p, 0);
		in_flight -= frames_done(b, p, &n_samples);
	}
	while (in_flight > 0)
		in_flight -= frames_done(b, p, &n_samples);
	return n_samples;
}

/* --- Plain strings ------------------------------------------------------------------ */

static void
plain_submit(struct bench *b, const struct point *p, uint64_t first)
{
	static uint8_t key[MAX_KEYS][KEY_BYTES];
	const char *word[1 + 2 * MAX_KEYS] = { p->write ? "MSET" : "MGET" };
	size_t bytes[1 + 2 * MAX_KEYS] = { 4 };
	int n_words = 1;

	for (unsigned int i = 0; i < p->n_keys; i++) {
		key_write(first != 0 ? first - 1 + i : random_next(b) % N_RECORDS,
			  key[i]);
		for (unsigned int k = 0; k < 1 + (unsigned int)p->write; k++) {
			word[n_words] = (const char *)key[i];
			bytes[n_words++] = KEY_BYTES;
		}
	}
	redisAppendCommandArgv(b->redis, n_words, word, bytes);
}

static void
plain_done(struct bench *b, const struct point *p)
{
	void *answer;

	if (redisGetReply(b->redis, &answer) != REDIS_OK)
		die("hiredis lost its connection");

	redisReply *r = answer;
	unsigned int n = p->write && r->type == REDIS_REPLY_STATUS ? p->n_keys : 0;

	for (size_t i = 0; r->type == REDIS_REPLY_ARRAY && i < r->elements; i++)
		n += r->element[i]->type == REDIS_REPLY_STRING;
	if (n != p->n_keys)
		die("a wrong answer to MGET or MSET");
	freeReplyObject(r);
}

static void
plain_fill(struct bench *b)
{
	static const struct point all = { true, MAX_KEYS, 1 };

	for (uint64_t n = 0; n < N_RECORDS; n += MAX_KEYS) {
		plain_submit(b, &all, n + 1);
		plain_done(b, &all);
	}
}

static uint64_t
plain_run(struct bench *b, const struct point *p, uint64_t end_ns)
{
	uint64_t asked[STORE_INFLIGHT], n_asked = 0, n_done = 0;

	while (now_ns() < end_ns || n_done < n_asked) {
		while (n_asked - n_done < p->in_flight && now_ns() < end_ns) {
			asked[n_asked++ % STORE_INFLIGHT] = now_ns();
			plain_submit(b, p, 0);
		}
		if (n_done == n_asked)
			break;
		plain_done(b, p);

		uint64_t at = asked[n_done % STORE_INFLIGHT];

		b->sample_ns[n_done++ % MAX_SAMPLES] = (uint32_t)(now_ns() - at);
	}
	return n_done;
}

/* --- Numbers ------------------------------------------------------------------------ */

static int
compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static struct result
measure(struct bench *b, const struct point *p,
	uint64_t (*run)(struct bench *, const struct point *, uint64_t end_ns))
{
	/* What the first tenth does is not counted: the server wakes up. */
	run(b, p, now_ns() + (uint64_t)(b->seconds * 1e8));

	uint64_t start = now_ns(), n = run(b, p, start + (uint64_t)(b->seconds * 1e9));
	double us = (double)(now_ns() - start) / 1000;
	size_t n_samples = n < MAX_SAMPLES ? n : MAX_SAMPLES;

	qsort(b->sample_ns, n_samples, sizeof(b->sample_ns[0]), compare);
	return (struct result){
		.mops = (double)(n * p->n_keys) / us,
		.p50_us = b->sample_ns[n_samples / 2] / 1000.0,
		.p99_us = b->sample_ns[n_samples * 99 / 100] / 1000.0,
	};
}

static void
print(struct bench *b, double value, const char *format, ...)
{
	va_list args;

	printf("%s\"", b->comma);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\":%.4g", value);
	b->comma = ",";
}

static void
print_point(struct bench *b, const char *what, const struct point *p,
	    const struct result *r)
{
	print(b, r->mops, "%s_mops_%u_%u", what, p->n_keys, p->in_flight);
	print(b, r->p50_us, "%s_us_%u_%u_p50", what, p->n_keys, p->in_flight);
	print(b, r->p99_us, "%s_us_%u_%u_p99", what, p->n_keys, p->in_flight);
}

/* All points of reads or of writes. */
static void
compare_all(struct bench *b, bool write)
{
	static const unsigned int keys[] = { 1, 10, 100 }, in_flight[] = { 1, 4, 8 };
	const char *word = write ? "write" : "read";

	for (unsigned int i = 0; i < 9; i++) {
		struct point p = { write, keys[i / 3], in_flight[i % 3] };
		struct result ours = measure(b, &p, frames_run);
		struct result plain = measure(b, &p, plain_run);

		print_point(b, write ? "store_write" : "store_read", &p, &ours);
		print_point(b, write ? "mset" : "mget", &p, &plain);
		if (p.in_flight == 1) {
			print(b, ours.p50_us, "store_%s%u_us_p50", word, p.n_keys);
			print(b, ours.p99_us, "store_%s%u_us_p99", word, p.n_keys);
		}
		if (p.in_flight == 4 && p.n_keys == 100) {
			print(b, ours.mops, "store_%s_mops_100", word);
			print(b, ours.mops / plain.mops, "store_vs_%s",
			      write ? "mset" : "mget");
		}
	}
}

int
main(int argc, char **argv)
{
	struct bench b = { .random = 0x123456789abcdef, .seconds = 1, .comma = "" };

	if (argc < 2 || argc > 3 || (argc == 3 && atof(argv[2]) <= 0)) {
		fprintf(stderr, "usage: bench_store MODULE.so [SECONDS]\n");
		return 2;
	}
	if (argc == 3)
		b.seconds = atof(argv[2]);
	b.sample_ns = calloc(MAX_SAMPLES, sizeof(b.sample_ns[0]));
	char *module = realpath(argv[1], NULL);

	if (b.sample_ns == NULL || module == NULL)
		die("the module is not there");
	server_start(&b, module);
	pin(1);
	server_connect(&b);
	frames_fill(&b);
	plain_fill(&b);
	printf("{");
	compare_all(&b, false);
	compare_all(&b, true);
	printf("}\n");
	server_stop(&b);
	free(b.sample_ns);
	free(module);
	return 0;
}

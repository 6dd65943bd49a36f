/*
 * core.c - what a partition costs, in process: nanoseconds of this thread's time and
 * TSC cycles for a read, a conditional write, and a record made and deleted, in frames
 * of 128 of them, keys in random order, 16-byte keys (or as many as the first argument
 * says) and 8-byte values.  Frames are written while the clock stands still.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <x86intrin.h>

#include "store/core.h"

enum {
	PER_FRAME = 128,
	FRAME_BYTES = 1 << 15,
	N_FRAMES = 16,				/* Few: a frame is hot when it arrives. */
	VALUE_BYTES = 8,
	IDLE_MS = 300 * 1000,
	TERM = 1,
};

static struct partition *partition;
static unsigned int key_bytes = 16;
static uint64_t frame_id, now_ms = 1000;
static uint8_t *frames;				/* N_FRAMES of FRAME_BYTES. */
static uint64_t *versions;			/* Of each record. */
static struct buffer reply;

static uint64_t
random_u64(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static void
key_of(uint64_t i, uint8_t *key)
{
	memset(key, 0, FRAME_MAX_KEY);
	memcpy(key, &i, sizeof(i));
	memcpy(key + key_bytes - 4, &i, 4);
}

enum what { READ, WRITE, INSERT, DELETE };

static void
write_op(struct frame *f, enum what what, uint64_t i)
{
	static uint64_t version;
	uint8_t key[FRAME_MAX_KEY], *group;

	key_of(i, key);
	if (what == READ) {
		frame_read(f, 0, key, (uint8_t)key_bytes, true);
		return;
	}
	group = frame_group(f, ++version);
	frame_check(f, FRAME_CHECK, 0, key, (uint8_t)key_bytes, versions[i]);
	if (what == DELETE)
		frame_delete(f, 0, key, (uint8_t)key_bytes);
	else
		frame_put(f, 0, key, (uint8_t)key_bytes, 1, &i, VALUE_BYTES, 0,
			  IDLE_MS);
	versions[i] = what == DELETE ? 0 : version;
	frame_group_end(group, 2);
}

static double
thread_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Nanoseconds for 'n_frames' frames. */
static double
apply(unsigned int n_frames)
{
	double from = thread_ns();

	for (unsigned int i = 0; i < n_frames; i++) {
		const uint8_t *frame = frames + (size_t)i * FRAME_BYTES;
		uint32_t bytes;
		int err;

		memcpy(&bytes, frame + 4, 4);
		reply.bytes = 0;
		err = partition_apply(partition, frame, bytes, TERM, now_ms, false,
				      &reply, NULL);
		assert(err == 0);
	}
	return thread_ns() - from;
}

/* TSC cycles in a nanosecond. */
static double
tsc_rate(void)
{
	struct timespec a, b;
	uint64_t from = __rdtsc();
	double ns;

	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = (double)(b.tv_sec - a.tv_sec) * 1e9 +
		     (double)(b.tv_nsec - a.tv_nsec);
	} while (ns < 1e7);
	return (double)(__rdtsc() - from) / ns;
}

/* Runs 'n' operations on records from first on (in order if n_records is 0), and
 * prints what one cost. */
static void
run(const char *name, enum what what, uint64_t first, uint64_t n_records, uint64_t n)
{
	double ns = 0;
	uint64_t done = 0;

	while (done < n) {
		unsigned int n_frames = 0;

		for (; n_frames < N_FRAMES && done < n; n_frames++) {
			struct frame f;

			frame_init(&f, frames + (size_t)n_frames * FRAME_BYTES,
				   FRAME_BYTES);
			for (unsigned int i = 0; i < PER_FRAME; i++, done++)
				write_op(&f, what,
					 n_records == 0
						 ? first + done
						 : first + random_u64() % n_records);
			frame_finish(&f, 7, TERM, 1, ++frame_id);
		}
		ns += apply(n_frames);
	}
	printf("  %-28s %7.1f ns %7.0f cycles %7.1f M/s\n", name, ns / (double)done,
	       ns * tsc_rate() / (double)done, (double)done * 1e3 / ns);
}

static void
round_of(uint64_t n)
{
	const uint64_t seed[2] = { 1, 2 };
	const uint64_t n_ops = PER_FRAME * 40000ull, n_churn = PER_FRAME * 4000ull;
	const struct core_declaration table = { "bench", (uint16_t)key_bytes, VALUE_BYTES,
						.format = 1 };
	struct core_counters count;

	if (partition_new(7, 1, seed, &partition) != 0)
		abort();
	partition_declare(partition, &table);
	versions = calloc(n + n_churn + PER_FRAME, sizeof(*versions));
	printf("%lu records\n", (unsigned long)n);
	run("make (growing)", INSERT, 0, 0, n);
	partition_count(partition, &count);
	for (unsigned int i = 0; i < 3; i++)
		run("read", READ, 0, n, n_ops);
	run("read, absent", READ, n * 4, n, n_ops);
	run("conditional write", WRITE, 0, n, n_ops);
	run("make", INSERT, n, 0, n_churn);
	run("delete", DELETE, n, 0, n_churn);
	run("make in freed memory", INSERT, n, 0, n_churn);
	printf("  %-28s %7.1f\n", "bytes a record",
	       (double)count.memory_bytes / (double)count.records);
	partition_count(partition, &count);
	assert(count.conflicts == 0 && count.refused == 0);
	free(versions);
	partition_free(partition);
}

int
main(int argc, char **argv)
{
	static const uint64_t sizes[] = { 100000, 300000, 1000000, 10000000 };

	if (argc > 1)
		key_bytes = (unsigned int)atoi(argv[1]);
	if (key_bytes < 8 || key_bytes > FRAME_MAX_KEY)
		return 2;
	frames = malloc((size_t)N_FRAMES * FRAME_BYTES);
	memset(frames, 1, (size_t)N_FRAMES * FRAME_BYTES);
	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		round_of(sizes[i]);
	buffer_fini(&reply);
	free(frames);
	return 0;
}

/*
 * info.c - the section "snf" of INFO: sums over the partitions of this server, and how
 * long frames take by the module's own clock, from the call to the reply in the
 * client's buffer.
 *
 * Times are counted in a histogram, in steps of an eighth of a power of two: a
 * percentile is at most an eighth too high.  There are two, one for this minute and
 * one for the last, so that what INFO says is of the last one to two minutes.
 */
#include "module/module.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define INFO_WINDOW_US (60 * 1000000ull)

enum {
	INFO_SUB_BITS = 3,
	INFO_SUB = 1 << INFO_SUB_BITS,
	INFO_MAX_BITS = 40, /* Of nanoseconds: 18 minutes. */
	INFO_BUCKETS = (INFO_MAX_BITS - INFO_SUB_BITS + 1) * INFO_SUB,
};

struct histogram {
	uint64_t n, max_ns;
	uint64_t bucket[INFO_BUCKETS];
};

static struct histogram now, before;
static uint64_t since_us;

static unsigned int
bucket_of(uint64_t ns)
{
	unsigned int bits;

	if (ns < INFO_SUB)
		return (unsigned int)ns;
	if (ns >> INFO_MAX_BITS != 0)
		return INFO_BUCKETS - 1;
	bits = 63u - (unsigned int)__builtin_clzll(ns) - INFO_SUB_BITS;
	return bits * INFO_SUB + (unsigned int)(ns >> bits);
}

/* The end of a bucket. */
static uint64_t
bucket_ns(unsigned int bucket)
{
	unsigned int bits = bucket / INFO_SUB;

	if (bits <= 1)
		return bucket + 1;
	return (uint64_t)(bucket % INFO_SUB + INFO_SUB + 1) << (bits - 1);
}

void
info_frame(uint64_t ns)
{
	now.bucket[bucket_of(ns)]++;
	now.n++;
	if (ns > now.max_ns)
		now.max_ns = ns;
}

void
info_tick(uint64_t now_us)
{
	if (now_us - since_us < INFO_WINDOW_US)
		return;
	since_us = now_us;
	before = now;
	memset(&now, 0, sizeof(now));
}

static uint64_t
max_ns(void)
{
	return now.max_ns > before.max_ns ? now.max_ns : before.max_ns;
}

/* The time that 'share' of the frames did not exceed. */
static uint64_t
percentile_ns(double share)
{
	double rest = share * (double)(now.n + before.n);
	unsigned int i = 0;

	for (; i < INFO_BUCKETS - 1; i++) {
		rest -= (double)(now.bucket[i] + before.bucket[i]);
		if (rest <= 0)
			break;
	}
	return bucket_ns(i) < max_ns() ? bucket_ns(i) : max_ns();
}

struct sums {
	struct core_counters count;
	unsigned int n_partitions;
};

static void
sums_add(const struct partition *p, void *context)
{
	struct sums *s = context;
	struct core_counters c;

	partition_count(p, &c);
	s->n_partitions++;
	s->count.frames += c.frames;
	s->count.reads += c.reads;
	s->count.hits += c.hits;
	s->count.groups += c.groups;
	s->count.conflicts += c.conflicts;
	s->count.refused += c.refused;
	s->count.bounds += c.bounds;
	s->count.full += c.full;
	s->count.repeats += c.repeats;
	s->count.expired += c.expired;
	s->count.leased += c.leased;
	s->count.settled += c.settled;
	s->count.evicted += c.evicted;
	s->count.records += c.records;
	s->count.due += c.due;
	s->count.memory_bytes += c.memory_bytes;
	s->count.clients += c.clients;
}

static void
add_times(struct RedisModuleInfoCtx *info)
{
	const struct {
		const char *name;
		uint64_t ns;
	} fields[] = {
		{ "frame_usec_p50", percentile_ns(0.5) },
		{ "frame_usec_p99", percentile_ns(0.99) },
		{ "frame_usec_p999", percentile_ns(0.999) },
		{ "frame_usec_max", max_ns() },
	};

	for (unsigned int i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		char text[32];

		snprintf(text, sizeof(text), "%.2f", (double)fields[i].ns / 1000);
		RedisModule_InfoAddFieldCString(info, fields[i].name, text);
	}
}

static void
on_info(struct RedisModuleInfoCtx *info, int for_crash_report)
{
	struct sums s = { 0 };

	/* The keyspace may be what crashed. */
	if (for_crash_report)
		return;
	tick_each(sums_add, &s);

	const struct {
		const char *name;
		unsigned long long value;
	} fields[] = {
		{ "partitions", s.n_partitions },
		{ "records", s.count.records },
		{ "due", s.count.due },
		{ "memory_bytes", s.count.memory_bytes },
		{ "clients", s.count.clients },
		{ "waiters", due_n_waiters },
		{ "replicas", tick_n_replicas() },
		{ "terms", tick_n_terms() },
		{ "frames", s.count.frames },
		{ "reads", s.count.reads },
		{ "hits", s.count.hits },
		{ "groups", s.count.groups },
		{ "conflicts", s.count.conflicts },
		{ "refused", s.count.refused },
		{ "bounds", s.count.bounds },
		{ "full", s.count.full },
		{ "repeats", s.count.repeats },
		{ "expired", s.count.expired },
		{ "leased", s.count.leased },
		{ "settled", s.count.settled },
		{ "evicted", s.count.evicted },
	};

	/* The section and its fields get the module's name in front. */
	RedisModule_InfoAddSection(info, "");
	for (unsigned int i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		RedisModule_InfoAddFieldULongLong(info, fields[i].name, fields[i].value);
	add_times(info);
}

int
info_load(struct RedisModuleCtx *ctx)
{
	since_us = clock_us();
	return RedisModule_RegisterInfoFunc(ctx, on_info) == SERVER_OK ? 0 : -ENOSYS;
}

/*
 * stats.c - counters for people and machines: the log at the end, DPDK's telemetry
 * socket (dpdk-telemetry.py, command /snf/stats).
 *
 * Pipes write their counters without locks and readers add them up as they are: each
 * is right, together they may be of slightly different moments.
 */
#include "pipe/instance.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <time.h>

#include <rte_cycles.h>
#include <rte_telemetry.h>

#include "base/log.h"

static const struct {
	const char *name, *help;
} drops[NF_N_DROPS] = {
#define X(id, name, help) { name, help },
	NF_DROPS(X)
#undef X
};

static const struct {
	const char *name;
	size_t offset;
} counters[] = {
#define COUNTER(name) { #name, offsetof(struct pipe_stats, name) }
	COUNTER(received), COUNTER(received_bytes), COUNTER(sent), COUNTER(kept),
	COUNTER(emitted), COUNTER(batches), COUNTER(runs), COUNTER(conflicts),
	COUNTER(bounds), COUNTER(parked), COUNTER(alerts), COUNTER(alerts_lost),
	COUNTER(events), COUNTER(events_lost), COUNTER(tasks), COUNTER(tasks_lost),
	COUNTER(passed_unseen), COUNTER(answered), COUNTER(suppressed), COUNTER(turned),
	COUNTER(injected), COUNTER(leases_settled), COUNTER(leases_left),
	COUNTER(uncommitted),
#undef COUNTER
};

static const char *const stages[PIPE_N_STAGES] = {
#define X(id, name, help) name,
	PIPE_STAGES(X)
#undef X
};

/* So long a line about a refused format is not repeated. */
#define REFUSED_AGAIN_S 600
/* And one about what was lost. */
#define LOST_AGAIN_S 10

/* A table's format that could not be read, in all pipes together. */
struct refused {
	uint8_t table, format;
	uint64_t n;
	time_t said_s;				/* When it was logged last. */
};

static const struct stats_source *served;

/* A pipe writes its counters as plain words: a torn moment is harmless. */
__attribute__((no_sanitize("thread"))) static void
add(struct pipe_stats *sum, const struct pipe_stats *s)
{
	const uint64_t *from = (const uint64_t *)s;
	uint64_t *to = (uint64_t *)sum;

	static_assert(sizeof(*s) % sizeof(*from) == 0, "nothing but counters");
	for (size_t i = 0; i < sizeof(*s) / sizeof(*from); i++)
		to[i] += from[i];
}

static void
collect(const struct stats_source *source, struct pipe_stats *sum)
{
	memset(sum, 0, sizeof(*sum));
	for (unsigned int i = 0; i < source->n_pipes; i++)
		add(sum, pipe_stats(source->pipe[i]));
}

/* Of the pipe whose store is worst off. */
static const char *
store_state(const struct stats_source *source)
{
	static const char *const words[] = {
		[STORE_CONNECTED] = "connected", [STORE_CONNECTING] = "connecting",
		[STORE_LOST] = "lost",
	};
	enum store_health worst = STORE_CONNECTED;

	for (unsigned int i = 0; i < source->n_pipes; i++)
		worst = RTE_MAX(worst, pipe_health(source->pipe[i]));
	return words[worst];
}

/* The residence time, in nanoseconds, that 'share' of the packets stayed below. */
static uint64_t
residence_ns(const struct pipe_stats *s, double share)
{
	uint64_t total = 0, seen = 0;

	for (unsigned int i = 0; i < PIPE_RESIDENCE_BUCKETS; i++)
		total += s->residence[i];
	for (unsigned int i = 0; i < PIPE_RESIDENCE_BUCKETS; i++) {
		seen += s->residence[i];
		if (seen > 0 && (double)seen >= share * (double)total)
			return pipe_residence_cycles(i + 1) * 1e9 / rte_get_tsc_hz();
	}
	return 0;
}

/* Its entry in the list, a new one if it has none yet; NULL: the list is full. */
static struct refused *
refused_of(struct refused list[PIPE_MAX_REFUSALS], unsigned int *n, uint8_t table,
	   uint8_t format)
{
	struct refused *r = list;

	while (r < list + *n && (r->table != table || r->format != format))
		r++;
	if (r == list + PIPE_MAX_REFUSALS)
		return NULL;
	if (r == list + *n) {
		*r = (struct refused){ .table = table, .format = format };
		++*n;
	}
	return r;
}

static unsigned int
collect_refused(const struct stats_source *source, struct refused sum[PIPE_MAX_REFUSALS])
{
	unsigned int n = 0, n_of_pipe;

	for (unsigned int i = 0; i < source->n_pipes; i++) {
		const struct pipe_refusal *from =
			pipe_refusals(source->pipe[i], &n_of_pipe);

		for (; n_of_pipe > 0; n_of_pipe--, from++) {
			struct refused *r =
				refused_of(sum, &n, from->table, from->format);

			if (r != NULL)
				r->n += atomic_load_explicit(&from->n,
							     memory_order_relaxed);
		}
	}
	return n;
}

/* The function whose table it is. */
static const struct nf *
owner_of(const struct stats_source *source, unsigned int table)
{
	return source->chain.stage[source->table_stage[table]].nf;
}

/* By "TABLE/FORMAT", in a chain "FUNCTION/TABLE/FORMAT". */
static void
add_refused(const struct stats_source *source, struct rte_tel_data *d)
{
	struct refused sum[PIPE_MAX_REFUSALS];
	unsigned int n = collect_refused(source, sum);
	char name[RTE_TEL_MAX_STRING_LEN];
	int n_name;

	for (unsigned int i = 0; i < n; i++) {
		n_name = 0;
		if (source->chain.n > 1)
			n_name = snprintf(name, sizeof(name), "%s/",
					  owner_of(source, sum[i].table)->name);
		snprintf(name + n_name, sizeof(name) - (size_t)n_name, "%s/%u",
			 source->table[sum[i].table]->name, sum[i].format);
		rte_tel_data_add_dict_u64(d, name, sum[i].n);
	}
}

static int
answer_stats(const char *command, const char *parameters, struct rte_tel_data *d)
{
	struct rte_tel_data *dropped = rte_tel_data_alloc();
	struct rte_tel_data *cycles = rte_tel_data_alloc();
	struct rte_tel_data *refused = rte_tel_data_alloc();
	char functions[RTE_TEL_MAX_STRING_LEN];
	struct pipe_stats s;

	(void)command, (void)parameters;
	if (served == NULL || dropped == NULL || cycles == NULL || refused == NULL) {
		rte_tel_data_free(dropped);
		rte_tel_data_free(cycles);
		rte_tel_data_free(refused);
		return -1;
	}
	collect(served, &s);
	chain_names(&served->chain, functions, sizeof(functions));
	rte_tel_data_start_dict(d);
	rte_tel_data_add_dict_string(d, "function", functions);
	rte_tel_data_add_dict_string(d, "store", store_state(served));
	rte_tel_data_add_dict_u64(d, "missed", ports_missed(served->ports));
	for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
		rte_tel_data_add_dict_u64(d, counters[i].name,
					  *(const uint64_t *)((const char *)&s +
							      counters[i].offset));
	rte_tel_data_add_dict_u64(d, "residence_p50_ns", residence_ns(&s, 0.5));
	rte_tel_data_add_dict_u64(d, "residence_p99_ns", residence_ns(&s, 0.99));
	rte_tel_data_start_dict(dropped);
	for (unsigned int i = 0; i < NF_N_DROPS; i++)
		rte_tel_data_add_dict_u64(dropped, drops[i].name, s.dropped[i]);
	rte_tel_data_start_dict(cycles);
	for (unsigned int i = 0; i < PIPE_N_STAGES; i++)
		rte_tel_data_add_dict_u64(cycles, stages[i], s.cycles[i]);
	rte_tel_data_start_dict(refused);
	add_refused(served, refused);
	rte_tel_data_add_dict_container(d, "dropped", dropped, 0);
	rte_tel_data_add_dict_container(d, "refused", refused, 0);
	rte_tel_data_add_dict_container(d, "cycles", cycles, 0);
	return 0;
}

void
stats_serve(const struct stats_source *source)
{
	served = source;
	if (rte_telemetry_register_cmd("/snf/stats", answer_stats,
				       "Counters of all pipes. No parameters.") != 0)
		log_warning("snf", "no telemetry: /snf/stats will not answer");
}

static void
log_refused(const struct nf *nf, const struct nf_table *t, unsigned int format)
{
	static const char effect[] = "packets of those connections are dropped";

	if (format > t->format)
		log_warning(nf->name,
			    "table %s has records of format %u, this release reads up to "
			    "%u: %s; upgrade this instance, or pin format %u on the "
			    "newer ones",
			    t->name, format, t->format, effect, t->format);
	else if (format < t->format)
		log_warning(nf->name,
			    "table %s has records of format %u, too old for this "
			    "release, which writes %u: %s until they expire",
			    t->name, format, t->format, effect);
	else
		log_warning(nf->name,
			    "table %s has records of format %u, but of another length "
			    "than this release's: %s; do all instances run the right "
			    "build?",
			    t->name, format, effect);
}

void
stats_refused(const struct stats_source *source)
{
	static struct refused said[PIPE_MAX_REFUSALS];
	static unsigned int n_said;
	struct refused sum[PIPE_MAX_REFUSALS];
	unsigned int n = collect_refused(source, sum);
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	for (unsigned int i = 0; i < n; i++) {
		struct refused *r =
			refused_of(said, &n_said, sum[i].table, sum[i].format);

		if (r == NULL || r->n == sum[i].n ||
		    (r->n > 0 && now.tv_sec - r->said_s < REFUSED_AGAIN_S))
			continue;
		r->n = sum[i].n;
		r->said_s = now.tv_sec;
		log_refused(owner_of(source, r->table), source->table[r->table],
			    r->format);
	}
}

void
stats_lost(const struct stats_source *source)
{
	static struct pipe_stats said;
	static time_t said_s;
	struct pipe_stats s;
	struct timespec now;

	collect(source, &s);
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (s.alerts_lost + s.events_lost + s.tasks_lost ==
		    said.alerts_lost + said.events_lost + said.tasks_lost ||
	    (said_s != 0 && now.tv_sec - said_s < LOST_AGAIN_S))
		return;
	log_warning("snf",
		    "lost %" PRIu64 " alerts, %" PRIu64 " events, %" PRIu64
		    " tasks: more come than can be written, or done",
		    s.alerts_lost - said.alerts_lost, s.events_lost - said.events_lost,
		    s.tasks_lost - said.tasks_lost);
	said = s;
	said_s = now.tv_sec;
}

void
stats_log(const struct stats_source *source)
{
	struct pipe_stats s;

	served = NULL;
	collect(source, &s);
	log_info("snf", "received %" PRIu64 ", sent %" PRIu64 ", kept %" PRIu64
			", emitted %" PRIu64 ", injected %" PRIu64
			", missed by the ports %" PRIu64,
		 s.received, s.sent, s.kept, s.emitted, s.injected,
		 ports_missed(source->ports));
	for (unsigned int i = 0; i < NF_N_DROPS; i++) {
		if (s.dropped[i] > 0)
			log_info("snf", "dropped %" PRIu64 ", reason %s: %s",
				 s.dropped[i], drops[i].name, drops[i].help);
	}
}

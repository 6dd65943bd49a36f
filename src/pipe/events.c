/*
 * events.c - see events.h.
 *
 * The ring has one writer, the pipe, and one reader.  Without a file for events there is
 * a small one, for those that are also lines of the log.  What does not fit is counted.
 */
#include "pipe/run.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <rte_branch_prediction.h>

#include "base/log.h"

enum {
	LINES_ROOM = 1 << 8,			/* In a ring for the log alone. */
	JOURNAL_BYTES = 1 << 17,
	COMPLAIN_AGAIN_S = 10,
};

/* --- the ring ------------------------------------------------------------------ */

struct events {
	unsigned int room;			/* A power of two. */
	bool lines_only;
	_Alignas(RTE_CACHE_LINE_SIZE) _Atomic uint32_t tail;
	_Alignas(RTE_CACHE_LINE_SIZE) _Atomic uint32_t head;
	struct pipe_event ring[];
};

/* Whether the function has events, and such that are also for the log. */
static void
look_for_events(const struct nf *nf, bool *any, bool *lines)
{
	if (nf->events == NULL)
		return;
	for (const struct nf_event *e = nf->events; e->name != NULL; e++) {
		*any = true;
		*lines |= e->line;
	}
}

int
events_open(struct pipe *p, bool on)
{
	bool any = false, lines = false;
	unsigned int room;

	for (unsigned int i = 0; i < p->context.chain.n_all; i++)
		look_for_events(p->context.chain.stage[i].nf, &any, &lines);
	if (!any || (!on && !lines))
		return 0;
	room = on ? EVENTS_ROOM : LINES_ROOM;
	p->events = aligned_alloc(RTE_CACHE_LINE_SIZE,
				  RTE_ALIGN_CEIL(sizeof(*p->events) +
							 room * sizeof(struct pipe_event),
						 RTE_CACHE_LINE_SIZE));
	if (p->events == NULL)
		return -ENOMEM;
	p->events->room = room;
	p->events->lines_only = !on;
	atomic_init(&p->events->tail, 0);
	atomic_init(&p->events->head, 0);
	return 0;
}

void
events_close(struct pipe *p)
{
	free(p->events);
}

void
nf_log(struct nf_run *r, unsigned int event, const struct flow *a,
       const struct endpoint *b, uint64_t number)
{
	const struct run_context *c = context_of(r);

	if (!(r->extras & RUN_LOGS)) {
		r->n_events = 0;
		r->extras |= RUN_LOGS;
	}
	assert(r->n_events < RUN_MAX_EVENTS);

	struct run_event *e = &r->event[r->n_events++];

	*e = (struct run_event){ .number = number, .stage = (uint8_t)c->at,
				 .event = (uint8_t)event };
	if (a != NULL) {
		memcpy(&e->flow, a, flow_bytes(a));
		e->has_flow = true;
	}
	if (b != NULL) {
		e->endpoint = *b;
		e->has_endpoint = true;
	}
}

static bool
is_wanted(const struct pipe *p, const struct run_event *e)
{
	const struct nf *nf = p->context.chain.stage[e->stage].nf;

	return !p->events->lines_only || nf->events[e->event].line;
}

static void
put(struct pipe *p, const struct run_event *said, uint64_t id, bool unconfirmed)
{
	struct events *ring = p->events;
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);

	if (tail - atomic_load_explicit(&ring->head, memory_order_acquire) ==
	    ring->room) {
		p->stats.events_lost++;
		return;
	}
	ring->ring[tail % ring->room] =
		(struct pipe_event){ *said, id, rte_rdtsc(), unconfirmed };
	atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
	p->stats.events++;
}

void
events_put(struct pipe *p, const struct nf_run *r, bool unconfirmed)
{
	if (p->events == NULL)
		return;

	/* A run that wrote nothing has a name of its own all the same. */
	uint64_t id = r->has_group ? r->group_version : ++p->context.next_version;

	for (unsigned int i = 0; i < r->n_events; i++)
		if (is_wanted(p, &r->event[i]))
			put(p, &r->event[i], id, unconfirmed);
}

unsigned int
pipe_events(struct pipe *p, struct pipe_event *out, unsigned int max)
{
	struct events *ring = p->events;
	unsigned int n = 0;

	if (ring == NULL)
		return 0;

	uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);

	while (n < max && head != tail)
		out[n++] = ring->ring[head++ % ring->room];
	atomic_store_explicit(&ring->head, head, memory_order_release);
	return n;
}

/* --- lines --------------------------------------------------------------------- */

struct text {
	char *at, *end;
};

/* What does not fit is left out: EVENT_TEXT_BYTES is enough for all but the names of a
 * careless author. */
static void __attribute__((format(printf, 2, 3)))
append(struct text *t, const char *format, ...)
{
	size_t left = (size_t)(t->end - t->at);
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(t->at, left, format, args);
	va_end(args);
	t->at += n < 0 ? 0 : RTE_MIN((size_t)n, left - 1);
}

/* ISO 8601, as Suricata writes it. */
static void
append_time(struct text *t, uint64_t age_ns)
{
	struct timespec now;
	struct tm tm;
	char text[32];

	clock_gettime(CLOCK_REALTIME, &now);

	uint64_t ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec - age_ns;
	time_t s = (time_t)(ns / 1000000000);

	gmtime_r(&s, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	append(t, "\"timestamp\":\"%s.%06u+0000\"", text,
	       (unsigned int)(ns / 1000 % 1000000));
}

static void
append_address(struct text *t, const char *name, const struct endpoint *e)
{
	char address[INET6_ADDRSTRLEN];

	inet_ntop(e->version == 4 ? AF_INET : AF_INET6, e, address, sizeof(address));
	append(t, "\"%sip\":\"%s\",\"%sport\":%u", name, address, name,
	       rte_be_to_cpu_16(e->port));
}

static_assert(offsetof(struct endpoint, ip4) == 0 && offsetof(struct endpoint, ip6) == 0,
	      "inet_ntop");

static void
append_ends(struct text *t, const struct flow *f)
{
	struct endpoint src, dst;

	flow_source(f, &src);
	flow_destination(f, &dst);
	append_address(t, "src_", &src);
	append(t, ",");
	append_address(t, "dest_", &dst);
}

static void
append_flow(struct text *t, const struct flow *f)
{
	static const char *const names[UINT8_MAX + 1] = {
		[PROTO_ICMP] = "ICMP", [PROTO_TCP] = "TCP", [PROTO_UDP] = "UDP",
		[PROTO_ICMP6] = "IPv6-ICMP", [47] = "GRE", [50] = "ESP", [132] = "SCTP",
	};

	append_ends(t, f);
	if (names[f->protocol] != NULL)
		append(t, ",\"proto\":\"%s\"", names[f->protocol]);
	else
		append(t, ",\"proto\":\"%u\"", f->protocol);
	if (f->zone != 0)
		append(t, ",\"zone\":%u", f->zone);
}

unsigned int
event_print(const struct nf *nf, const struct pipe_event *e, uint64_t age_ns,
	    char text[EVENT_TEXT_BYTES])
{
	const struct nf_event *names = &nf->events[e->said.event];
	struct text t = { text, text + EVENT_TEXT_BYTES - 3 };

	append(&t, "{");
	append_time(&t, age_ns);
	append(&t, ",\"event_type\":\"%s\",\"event\":\"%s\",\"id\":\"%016" PRIx64 "\"",
	       nf->name, names->name, e->id);
	if (names->flow != NULL && e->said.has_flow) {
		append(&t, ",\"%s\":{", names->flow);
		append_flow(&t, &e->said.flow);
		append(&t, "}");
	}
	if (names->endpoint != NULL && e->said.has_endpoint) {
		append(&t, ",\"%s\":{", names->endpoint);
		append_address(&t, "", &e->said.endpoint);
		append(&t, "}");
	}
	if (names->number != NULL)
		append(&t, ",\"%s\":%" PRIu64, names->number, e->said.number);
	if (e->unconfirmed)
		append(&t, ",\"unconfirmed\":true");
	memcpy(t.at, "}\n", 3);
	return (unsigned int)(t.at + 2 - text);
}

void
event_describe(const struct nf *nf, const struct pipe_event *e,
	       char text[EVENT_TEXT_BYTES])
{
	const struct nf_event *names = &nf->events[e->said.event];
	struct text t = { text, text + EVENT_TEXT_BYTES };
	char src[PACKET_TEXT_BYTES], dst[PACKET_TEXT_BYTES];
	struct endpoint end;

	append(&t, "%s", names->name);
	if (names->flow != NULL && e->said.has_flow) {
		flow_source(&e->said.flow, &end);
		endpoint_print(&end, src);
		flow_destination(&e->said.flow, &end);
		endpoint_print(&end, dst);
		append(&t, ", %s %s > %s", names->flow, src, dst);
	}
	if (names->endpoint != NULL && e->said.has_endpoint) {
		endpoint_print(&e->said.endpoint, src);
		append(&t, ", %s %s", names->endpoint, src);
	}
	if (names->number != NULL)
		append(&t, ", %s %" PRIu64, names->number, e->said.number);
}

unsigned int
alert_print(const struct pipe_alert *a, char text[EVENT_TEXT_BYTES])
{
	struct text t = { text, text + EVENT_TEXT_BYTES };

	append(&t, "{");
	append_time(&t, 0);
	append(&t, ",\"event_type\":\"alert\",");
	append_ends(&t, &a->flow);
	append(&t,
	       ",\"ip_proto\":%u,"
	       "\"alert\":{\"action\":\"%s\",\"signature_id\":%u}}\n",
	       a->flow.protocol, a->dropped ? "blocked" : "allowed", a->id);
	return (unsigned int)(t.at - text);
}

/* --- files --------------------------------------------------------------------- */

struct journal {
	char *path;
	int fd;
	uint64_t n_lost, n_said;		/* Lines that could not be written. */
	time_t said_s;
	bool torn;				/* The file ends within a line. */
	size_t n;
	char buffer[JOURNAL_BYTES];
};

static int
open_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);

	return fd >= 0 ? fd : -errno;
}

int
journal_open(const char *path, struct journal **out)
{
	struct journal *j = calloc(1, sizeof(*j));
	int err = -ENOMEM;

	if (j == NULL)
		return err;
	j->path = strdup(path);
	if (j->path == NULL)
		goto free_journal;
	j->fd = err = open_file(path);
	if (err < 0)
		goto free_path;
	*out = j;
	return 0;
free_path:
	free(j->path);
free_journal:
	free(j);
	return err;
}

/* Says so at most every ten seconds. */
static void
complain(struct journal *j, const char *why)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (j->n_said > 0 && now.tv_sec - j->said_s < COMPLAIN_AGAIN_S)
		return;
	log_warning("snf", "%s: %s: %" PRIu64 " lines lost", j->path, why,
		    j->n_lost - j->n_said);
	j->n_said = j->n_lost;
	j->said_s = now.tv_sec;
}

/* What is behind the first 'done' bytes of the buffer cannot be written. */
static void
lose(struct journal *j, size_t done, const char *why)
{
	for (size_t i = done; i < j->n; i++)
		j->n_lost += j->buffer[i] == '\n';
	if (done > 0)
		j->torn = j->buffer[done - 1] != '\n';
	complain(j, why);
}

void
journal_flush(struct journal *j)
{
	size_t done = 0;

	while (done < j->n) {
		ssize_t n = write(j->fd, j->buffer + done, j->n - done);

		if (n >= 0) {
			done += (size_t)n;
		} else if (errno != EINTR) {
			lose(j, done, strerror(errno));
			break;
		}
	}
	j->n = 0;
}

void
journal_add(struct journal *j, const char *line, unsigned int bytes)
{
	if (j->n + 1 + bytes > sizeof(j->buffer))
		journal_flush(j);
	if (j->torn)
		j->buffer[j->n++] = '\n';
	j->torn = false;
	memcpy(j->buffer + j->n, line, bytes);
	j->n += bytes;
}

void
journal_reopen(struct journal *j)
{
	int fd;

	journal_flush(j);
	fd = open_file(j->path);
	if (fd < 0) {
		log_error("snf", "%s: %s, the file that was open stays in use", j->path,
			  strerror(-fd));
		return;
	}
	close(j->fd);
	j->fd = fd;
}

void
journal_close(struct journal *j)
{
	if (j == NULL)
		return;
	journal_flush(j);
	close(j->fd);
	free(j->path);
	free(j);
}

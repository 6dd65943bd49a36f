/*
 * pcap.c - capture files as ports: a function becomes a filter from two captures to
 * two captures.
 *
 * The two sides are one story: each gives a packet only when the other has none that
 * is older, so a caller that asks them in turn sees all in order of time, and the same
 * files give the same result each time.  A named pipe without a packet does not hold
 * the other side up: it may be the answer that its writer is waiting for.
 */
#define _GNU_SOURCE
#include "pipe/port.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <rte_errno.h>
#include <rte_mbuf_dyn.h>

#include "pipe/capture.h"

#define NS 1000000000ULL

struct capture_port {
	struct port port;
	struct capture_reader *in;	/* NULL: no input. */
	struct capture_writer *out;	/* NULL: what is sent is forgotten. */
	struct capture_port *peer;	/* NULL: the other side is of another kind. */
	enum nf_side side;
	int timer_fd;			/* Of a paced port; -1. */
	uint64_t first_ns;		/* Of both sides... */
	uint64_t started_ns;		/* ...and when it was given; 0: not yet. */
	uint64_t wake_ns;		/* What the timer is set to. */
};

/* Where a packet's time is while it is in the process. */
static int time_offset = -1;

static struct capture_port *
capture_port_of(const struct port *p)
{
	return (struct capture_port *)(uintptr_t)p;
}

static uint64_t *
time_of(struct rte_mbuf *m)
{
	return RTE_MBUF_DYNFIELD(m, time_offset, uint64_t *);
}

static uint64_t
clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS + t.tv_nsec;
}

/* The time of the side's next packet, if one is known. */
static uint64_t
next_ns(struct capture_port *c)
{
	const struct capture_packet *next =
		c == NULL || c->in == NULL ? NULL : capture_next(c->in);

	/* It is no longer in the pipe: poll() would not tell of it. */
	if (next != NULL && capture_fd(c->in) >= 0)
		c->port.busy = true;
	return next == NULL ? UINT64_MAX : next->time_ns;
}

/* With the spacing of the capture: whether it is time for the packet.  If not, the
 * timer is set to when it is. */
static bool
its_time(struct capture_port *c, uint64_t packet_ns)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (c->started_ns == 0) {
		c->first_ns = RTE_MIN(packet_ns, next_ns(c->peer));
		c->started_ns = now;
		if (c->peer != NULL) {
			c->peer->first_ns = c->first_ns;
			c->peer->started_ns = now;
		}
	}
	/* Times may go backwards in a capture. */
	uint64_t after = packet_ns > c->first_ns ? packet_ns - c->first_ns : 0;
	uint64_t due = c->started_ns + after;
	if (now >= due)
		return true;
	if (due != c->wake_ns) {
		struct itimerspec t = { .it_value = { due / NS, due % NS } };

		timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &t, NULL);
		c->wake_ns = due;
	}
	return false;
}

static bool
pcap_ended(const struct port *p)
{
	const struct capture_port *c = capture_port_of(p);

	return c->in == NULL || capture_ended(c->in);
}

static bool
pcap_failed(const struct port *p)
{
	const struct capture_port *c = capture_port_of(p);

	return c->in != NULL && capture_failed(c->in);
}

static unsigned int
pcap_rx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct capture_port *c = capture_port_of(p);
	unsigned int received = 0;

	if (c->in != NULL && capture_fd(c->in) >= 0)
		c->port.busy = false;
	while (received < n && c->in != NULL) {
		const struct capture_packet *next = capture_next(c->in);
		uint64_t other = next_ns(c->peer);

		if (next == NULL || next->time_ns > other ||
		    (next->time_ns == other && c->side == NF_OUTSIDE))
			break;
		if (c->timer_fd >= 0 && !its_time(c, next->time_ns))
			break;
		struct rte_mbuf *m = port_packet(p->pool, next->head, next->head_bytes,
						 next->data, next->bytes);
		if (m == NULL)
			break;
		*time_of(m) = next->time_ns;
		packets[received++] = m;
		capture_take(c->in);
	}
	if (received > 0)
		return received;
	if (c->out != NULL)
		capture_flush(c->out);
	/* The descriptors of what has ended are readable for ever. */
	if (pcap_ended(p))
		p->wait_fd = -1;
	return 0;
}

static bool
nanoseconds(const struct capture_port *c)
{
	if (c->in != NULL)
		return capture_nanoseconds(c->in);
	return c->peer != NULL && c->peer->in != NULL && capture_nanoseconds(c->peer->in);
}

static unsigned int
pcap_tx(struct port *p, struct rte_mbuf **packets, unsigned int n)
{
	struct capture_port *c = capture_port_of(p);
	unsigned int taken = n;

	for (unsigned int i = 0; c->out != NULL && i < n; i++) {
		/* Packets that come from elsewhere carry no time. */
		uint64_t t =
			c->peer == NULL ? clock_ns(CLOCK_REALTIME) : *time_of(packets[i]);

		if (!capture_write(c->out, packets[i], t, nanoseconds(c))) {
			taken = i;
			break;
		}
	}
	rte_pktmbuf_free_bulk(packets, taken);
	return taken;
}

static void
pcap_port_close(struct port *p)
{
	struct capture_port *c = capture_port_of(p);

	capture_finish(c->out, nanoseconds(c));
	/* The peer, closed after, still wants to know the unit of times. */
	if (c->peer != NULL)
		c->peer->peer = NULL;
	if (c->timer_fd >= 0)
		close(c->timer_fd);
	capture_close(c->in);
	free(c);
}

static const struct port_ops pcap_ops = {
	.rx = pcap_rx, .tx = pcap_tx, .ended = pcap_ended, .failed = pcap_failed,
	.close = pcap_port_close,
};

/* Splits "in,out". */
static bool
paths_split(const char *rest, char in[PATH_MAX], char out[PATH_MAX])
{
	const char *comma = strchr(rest, ',');
	size_t bytes = comma != NULL ? (size_t)(comma - rest) : strlen(rest);

	if (strlen(rest) >= PATH_MAX || (comma != NULL && strchr(comma + 1, ',') != NULL))
		return false;
	snprintf(in, PATH_MAX, "%.*s", (int)bytes, rest);
	snprintf(out, PATH_MAX, "%s", comma != NULL ? comma + 1 : "");
	return true;
}

static int
files_open(struct capture_port *c, const char *rest, char *why, size_t why_bytes)
{
	char in[PATH_MAX], out[PATH_MAX];
	int err = 0;

	paths_split(rest, in, out);
	if (in[0] != '\0')
		err = capture_open(in, &c->in, why, why_bytes);
	if (err == 0 && out[0] != '\0')
		err = capture_create(out, &c->out, why, why_bytes);
	return err;
}

/* How a pipe without packets waits: for the named pipe, for the time of the next
 * packet, or, as a file always has one, not at all. */
static int
waiting_init(struct capture_port *c, bool pace_original)
{
	c->port.wait_fd = c->in == NULL ? -1 : capture_fd(c->in);
	c->port.busy = c->in != NULL && c->port.wait_fd < 0 && !pace_original;
	if (c->in == NULL || c->port.wait_fd >= 0 || !pace_original)
		return 0;
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	c->port.wait_fd = c->timer_fd;
	return c->timer_fd < 0 ? -errno : 0;
}

static int
time_register(void)
{
	static const struct rte_mbuf_dynfield field = { .name = "snf_capture_time",
							.size = sizeof(uint64_t),
							.align = sizeof(uint64_t) };

	time_offset = rte_mbuf_dynfield_register(&field);
	return time_offset < 0 ? -rte_errno : 0;
}

static int
pcap_port_open(const struct port_request *r, struct port **queue, char *why,
	       size_t why_bytes)
{
	struct capture_port *c = NULL;
	int err;

	if (r->n_queues > 1) {
		snprintf(why, why_bytes,
			 "pcap: captures are read by one pipe: set "
			 "pipes: {max: 1}");
		return -EINVAL;
	}
	err = time_register();
	if (err == 0 && (c = calloc(1, sizeof(*c))) == NULL)
		err = -ENOMEM;
	if (err != 0) {
		snprintf(why, why_bytes, "pcap: %s", strerror(-err));
		return err;
	}
	c->port = (struct port){
		.ops = &pcap_ops, .pool = r->pool[0], .wait_fd = -1, .ordered = true
	};
	c->timer_fd = -1;
	c->side = r->side;
	err = files_open(c, r->rest, why, why_bytes);
	if (err == 0 && (err = waiting_init(c, r->pace_original)) != 0)
		snprintf(why, why_bytes, "pcap: no timer: %s", strerror(-err));
	if (err != 0) {
		pcap_port_close(&c->port);
		return err;
	}
	if (r->inside != NULL) {
		c->peer = capture_port_of(r->inside[0]);
		c->peer->peer = c;
	}
	queue[0] = &c->port;
	return 0;
}

static bool
pcap_ok(const char *rest, char *why, size_t why_bytes)
{
	char in[PATH_MAX], out[PATH_MAX];

	if (!paths_split(rest, in, out)) {
		snprintf(why, why_bytes,
			 "\"pcap:%s\": two file names are wanted, as "
			 "pcap:in.pcap,out.pcap",
			 rest);
		return false;
	}
	if (strcmp(in, "-") == 0 || strcmp(out, "-") == 0) {
		snprintf(why, why_bytes,
			 "\"pcap:%s\": \"-\" is no file: a named pipe (mkfifo) "
			 "does it",
			 rest);
		return false;
	}
	if (in[0] != '\0' && strcmp(in, out) == 0) {
		snprintf(why, why_bytes, "\"pcap:%s\": would overwrite what it reads",
			 rest);
		return false;
	}
	return true;
}

const struct port_kind port_pcap = { .scheme = "pcap",
				     .ok = pcap_ok,
				     .open = pcap_port_open };

/*
 * lb_health.h - the load balancer's health checks: made once for the fleet, by whichever
 * instance has the lease of a check's record, and known to all of them by their notes.
 *
 * lb.c gives every backend that is checked to lb_health_add() while it makes its state,
 * whose first member is the 'struct lb_health *' (NULL: nothing is checked).  Its note()
 * calls lb_health_note(); .work and .done are those here; its events begin with
 * LB_HEALTH_EVENTS.  On the packet's path it asks lb_health_up().
 */
#ifndef NF_LB_HEALTH_H
#define NF_LB_HEALTH_H

#include "net/address.h"
#include "nf/nf.h"

enum {
	LB_HEALTH_SERVICES = 32,
	LB_HEALTH_BACKENDS = 64,		/* Of a service. */
	LB_CHECK_PATH_BYTES = 128,		/* These with the final 0. */
	LB_CHECK_TEXT_BYTES = 64,
};

enum lb_check_kind {
	LB_CHECK_NONE,
	LB_CHECK_TCP,
	LB_CHECK_HTTP,
	LB_CHECK_HTTPS,
	LB_CHECK_UDP,
	LB_CHECK_ICMP,
};

/* How backends are checked: read by lb_check_fields into zeros; lb_check_init() makes one
 * of it that is whole. */
struct lb_check {
	int kind;				/* enum lb_check_kind */
	bool verify;				/* HTTPS: the certificate has to be right. */
	uint64_t interval_ms, timeout_ms;
	uint64_t jitter;			/* Of the interval, in percent: the width. */
	uint64_t rise, fall;
	uint64_t port;				/* 0: the backend's. */
	struct port_range status;		/* HTTP: those that are right. */
	char path[LB_CHECK_PATH_BYTES];
	char host[LB_CHECK_TEXT_BYTES];		/* HTTP; "": the backend's address. */
	char match[LB_CHECK_TEXT_BYTES];	/* In the answer; "": anything is right. */
	char payload[LB_CHECK_TEXT_BYTES];	/* UDP */
};

extern const struct config_field lb_check_fields[];

/* 'check' becomes what was given, with the defaults of what was not.  Says by config_error()
 * what cannot be: -EINVAL. */
int lb_check_init(const struct lb_check *given, struct lb_check *check);

/* All checks of an instance; constant once it is made. */
struct lb_health;

int lb_health_new(struct lb_health **out);
/* 'check' is copied, and one of LB_CHECK_NONE ignored.  A backend of several services
 * that is checked alike is checked once. */
int lb_health_add(struct lb_health *h, unsigned int service, unsigned int backend,
		  const struct endpoint *address, const struct lb_check *check);
void lb_health_free(struct lb_health *h);	/* NULL is ignored. */

/* What a note begins with: a bit for each backend that is known to be down. */
struct lb_health_note {
	uint64_t down[LB_HEALTH_SERVICES];
};

static_assert(sizeof(struct lb_health_note) <= NF_MAX_NOTE_BYTES, "fits");

/* Called by note().  Reads at most LB_HEALTH_READS records, and writes those of backends
 * that have none, if 'note' is to be shown. */
void lb_health_note(struct nf_run *r, void *note);
enum {
	LB_HEALTH_READS = 11,
	LB_HEALTH_NOTE_MS = 500,
};

static inline bool
lb_health_up(const void *note, unsigned int service, unsigned int backend)
{
	const struct lb_health_note *n = note;

	return (n->down[service] >> backend & 1) == 0;
}

/* Events of lb.c, before its own. */
enum {
	LB_HEALTH_UP,
	LB_HEALTH_DOWN,
	LB_HEALTH_N_EVENTS,
};

#define LB_HEALTH_EVENTS                                                         \
	[LB_HEALTH_UP] = { .name = "backend_up", .endpoint = "backend",          \
			   .number = "probes", .line = true },                   \
	[LB_HEALTH_DOWN] = { .name = "backend_down", .endpoint = "backend",      \
			     .number = "cause", .line = true }

/* .work and .done of lb.c. */
unsigned int lb_health_work(const void *state, const void *task, unsigned int bytes,
			    void *result);
void lb_health_done(struct nf_run *r, const void *task, const void *result);

#endif

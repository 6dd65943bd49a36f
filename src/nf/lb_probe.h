/*
 * lb_probe.h - a single look at whether a backend answers.
 */
#ifndef NF_LB_PROBE_H
#define NF_LB_PROBE_H

#include "nf/lb_health.h"

enum {
	LB_PROBE_UNKNOWN = UINT16_MAX,		/* A cause: there was none. */
};

struct lb_probe_result {
	/* 0: it answers as it should.  Else an HTTP status that is not wanted, or an
	 * errno: ECONNREFUSED, ETIMEDOUT, ENOMSG (the answer is not the one that is
	 * wanted), EPROTO (no HTTP, or no TLS)... */
	uint32_t cause;
	uint32_t elapsed_ms;
};

/* Once, before anything else here, and before there are threads. */
int lb_probe_init(void);
/* Blocks for check->timeout_ms at the most.  'to' is with the port to be asked. */
void lb_probe(const struct lb_check *check, const struct endpoint *to,
	      struct lb_probe_result *result);

#endif

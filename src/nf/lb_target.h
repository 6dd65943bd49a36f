/*
 * lb_target.h - what an instance checks: targets, which are backends with the way in
 * which they are checked, and whose backends they are.  For the files lb_health.c and
 * lb_target.c.
 */
#ifndef NF_LB_TARGET_H
#define NF_LB_TARGET_H

#include "nf/lb_health.h"

enum {
	TARGET_BOARDS = LB_HEALTH_READS - 1,	/* That targets are listed in. */
};

struct target_key {
	struct endpoint backend;		/* With the port that is asked. */
	uint32_t board;
	uint64_t check;				/* A hash of how. */
};

static_assert(sizeof(struct target_key) == 32, "no padding");

struct target {
	struct target_key key;
	uint64_t name;				/* As in a board's entry. */
	struct lb_check check;
};

/* A backend of a service. */
struct user {
	uint64_t name;				/* Of its target... */
	uint16_t target;			/* ...and its place. */
	uint8_t board, service, backend;
};

struct lb_health {
	unsigned int n_targets, n_users;
	unsigned int first[TARGET_BOARDS + 1];	/* Users by board, and then by name. */
	struct user user[LB_HEALTH_SERVICES * LB_HEALTH_BACKENDS];
	struct target *target;
};

/* The same on all instances; even. */
uint64_t target_name(const struct target_key *key);
/* NULL: this instance has no such target. */
const struct target *target_find(const struct lb_health *h, const struct target_key *key);

#endif

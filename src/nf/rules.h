/*
 * rules.h - ordered rules, of which the first that matches a flow counts.
 *
 * Compiled once and read-only from then on.  Time to match grows with the number
 * of rules by a 64th of it, and not with the lengths of their lists.
 */
#ifndef NF_RULES_H
#define NF_RULES_H

#include <stdint.h>

#include "base/config.h"
#include "net/packet.h"

enum {
	RULES_MAX = 10000,
	RULE_SCTP = 132,			/* The protocol. */
};

enum rule_action {
	RULE_ALLOW,
	RULE_DENY,
	RULE_REJECT,
	RULE_NONE,				/* No rule matches. */
};

enum rule_direction {
	RULE_OUT,				/* Opened from inside. */
	RULE_IN,
};

/* A rule as it stands in the file; an empty list matches everything. */
struct rule {
	int action;				/* enum rule_action */
	int direction;				/* Both, out or in, as in rule_fields. */
	struct config_list protocols;		/* uint16_t */
	struct config_list sources;		/* struct prefix */
	struct config_list destinations;
	struct config_list source_ports;	/* struct port_range */
	struct config_list destination_ports;
	uint64_t idle_ms;			/* 0: not given. */
};

extern const struct config_field rule_fields[];

struct rules;

/* Compiles.  The list is not needed afterwards.  Returns 0, -EINVAL (reported by
 * config_error()) or -ENOMEM. */
int rules_new(const struct config_list *list, struct rules **out);
void rules_free(struct rules *rules);		/* NULL is ignored. */

/* What the first matching rule says of a flow in this direction.  '*number' is the
 * rule's, counted from 1, or 0. */
enum rule_action rules_match(const struct rules *rules, enum rule_direction direction,
			     const struct flow *f, uint32_t *number);

/* Of their content: other rules have another one, or very likely so. */
uint32_t rules_id(const struct rules *rules);
/* The 'idle' of a rule; 0: not given, or there is no such rule. */
uint32_t rules_idle_ms(const struct rules *rules, uint32_t number);

#endif

/*
 * firewall_case.h - a client inside and a server outside, of whom the firewall's tables
 * tell.  The client's numbers begin with 1000, the server's with 5000.
 */
#ifndef NF_FIREWALL_CASE_H
#define NF_FIREWALL_CASE_H

#include "harness.h"

#define OUT .side = NF_INSIDE, .from = "10.0.0.1:1000", .to = "192.0.2.1:80"
#define IN .side = NF_OUTSIDE, .from = "192.0.2.1:80", .to = "10.0.0.1:1000"
#define OUT6                                                                     \
	.side = NF_INSIDE, .from = "[2001:db8::1]:1000", .to = "[2001:db8:1::1]:80"
#define IN6                                                                      \
	.side = NF_OUTSIDE, .from = "[2001:db8:1::1]:80", .to = "[2001:db8::1]:1000"

#define C(f, s, a) OUT, .flags = f, .seq = s, .ack = a
#define S(f, s, a) IN, .flags = f, .seq = s, .ack = a

#define HANDSHAKE                                                                \
	{ "inside opens", { C("S", 1000, 0) }, SENT, true },                     \
	{ "outside accepts", { S("SA", 5000, 1001) }, SENT, true },              \
	{ "inside confirms", { C("A", 1001, 5001) }, SENT, true }

#endif

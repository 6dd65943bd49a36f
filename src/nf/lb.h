/*
 * lb.h - what the files of the load balancer share.
 *
 *   lb.c           which packets are its business, and the connections of TCP and UDP
 *   lb_conn.c      the records of connections, and of what is left of a backend
 *   lb_pool.c      how many connections each backend has, exact over the fleet
 *   lb_schedule.c  which backend gets a new connection; lb_maglev.c is one way to say
 *   lb_send.c      how packets get to the backend and back, and the ends of connections
 *   lb_icmp.c      ICMP errors, echo, and the neighbours' questions
 *   lb_options.c   the section of the file, and the tables that are made of it
 *
 * All of it names backends by their endpoint; a place in a list is only a hint, for other
 * instances may have other lists.
 */
#ifndef NF_LB_H
#define NF_LB_H

#include "net/address.h"
#include "nf/nf.h"
#include "nf/lb_health.h"

enum {
	LB_MAX_SERVICES = 32,
	LB_MAX_BACKENDS = 64,			/* Of a service: the bits of a mask. */
	LB_MAX_SOURCES = 16,			/* Of a service. */
	LB_MAX_SHARED = 4,			/* Services that one backend serves. */
	LB_MAX_SIBLINGS = 4,			/* Others with a backend of a service. */
	LB_MAX_WEIGHT = 100,
	LB_MAGLEV = 65537,			/* A prime; 100 x LB_MAX_BACKENDS. */
	LB_PLACES = 4 * LB_MAX_BACKENDS,
	LB_OPTIONS_BYTES = 1024,
	LB_NONE = -1,				/* No such backend. */
};

enum lb_mode {
	LB_DNAT,
	LB_NAT,
	LB_DSR_MAC,
	LB_DSR_IPIP,
	LB_DSR_GUE,
};

enum lb_scheduler {
	LB_LEAST_CONNECTIONS,
	LB_ROUND_ROBIN,
	LB_BY_CONNECTION,			/* Maglev, over the whole flow... */
	LB_BY_SOURCE,				/* ...or the client's address. */
};

enum lb_no_backend {
	LB_NO_BACKEND_RESET,
	LB_NO_BACKEND_DROP,
	LB_NO_BACKEND_PANIC,
};

/* What becomes of the connections of a backend that is down. */
enum lb_down {
	LB_DOWN_UNSAID,
	LB_DOWN_KEEP,
	LB_DOWN_RESET,
	LB_DOWN_MOVE,				/* UDP */
};

struct lb_backend {
	struct endpoint endpoint;
	uint16_t weight;			/* 0: gets nothing new. */
	bool has_mac;
	uint8_t mac[MAC_BYTES];
};

struct lb_service {
	struct endpoint address;
	uint8_t protocol;
	uint8_t number;				/* In the file. */
	uint8_t mode, scheduler, no_backend, down; /* enum lb_... */
	bool by_datagram;
	uint8_t n_siblings, sibling[LB_MAX_SIBLINGS];
	unsigned int n_backends, n_sources, n_turns;
	uint32_t idle_ms, opening_ms, closed_ms;
	uint32_t drain_ms, persistence_ms;	/* 0: for ever; none. */
	uint64_t weighted;			/* Which backends have a weight. */
	uint8_t *turns;				/* lb_turns_make() */
	uint8_t *maglev;			/* NULL, or LB_MAGLEV of them. */
	struct endpoint source[LB_MAX_SOURCES];	/* Port 0. */
	struct lb_backend backend[LB_MAX_BACKENDS];
	uint8_t place[LB_PLACES];		/* Of backends, one more, by a hash. */
};

/* What an endpoint of a protocol is.  Addresses alone have port 0 and protocol 0. */
struct lb_place {
	struct endpoint name;			/* Its 'zero' is the protocol. */
	uint8_t n;				/* 0: free. */
	uint8_t is_source;			/* Of full NAT... */
	uint8_t is_virtual;			/* ...and one that clients know. */
	uint8_t service[LB_MAX_SHARED], backend[LB_MAX_SHARED];
};

struct lb_index {
	uint32_t mask;
	struct lb_place *place;
};

struct lb {
	struct lb_health *health;		/* First: lb_health.h. */
	unsigned int n_services;
	struct lb_index virtual, backends;	/* Addresses are in 'virtual'. */
	bool has_mac, has_router_mac, ping, has_nat;
	bool translates;			/* Some service is LB_DNAT. */
	uint8_t mac[MAC_BYTES], router_mac[MAC_BYTES];
	struct endpoint tunnel_source[2];	/* IPv4 and IPv6; version 0: none. */
	struct lb_service service[LB_MAX_SERVICES];
};

/* lb_options.c */
extern const struct config_field lb_options_fields[];

int lb_init(const void *options, void **state);
void lb_fini(void *state);
/* NULL: nothing of that name. */
const struct lb_place *lb_find(const struct lb_index *index, const struct endpoint *e,
			       uint8_t protocol);
/* The service at a virtual endpoint, or NULL. */
const struct lb_service *lb_service_at(const struct lb *lb,
				       const struct endpoint *address, uint8_t protocol);
/* The backend's place in the list of a service, or LB_NONE. */
int lb_backend_at(const struct lb_service *s, const struct endpoint *backend);

/* lb_maglev.c, lb_schedule.c */
/* Fills 'table' by names and weights alone, whatever their order; 'n' > 0. */
void lb_maglev_make(uint8_t table[LB_MAGLEV], const struct lb_backend *backend,
		    unsigned int n);
/* The backend of 'usable' (not 0) that 'hash' falls to: one that is not, leaves what
 * falls to others where it is. */
int lb_maglev_at(const uint8_t table[LB_MAGLEV], uint64_t hash, uint64_t usable);
/* In which order backends get connections, each as often as its weight says and as evenly
 * as can be; 'turns' has LB_MAX_BACKENDS * LB_MAX_WEIGHT.  Returns how many there are. */
unsigned int lb_turns_make(uint8_t *turns, const struct lb_backend *backend,
			   unsigned int n);

/* Makes what the service's scheduler goes by, of its backends: -ENOMEM. */
int lb_schedule_init(struct lb_service *s);

/* What schedulers choose by. */
struct lb_load {
	uint64_t usable;			/* A bit for each that may be chosen. */
	uint64_t turn;				/* How many chose before. */
	uint32_t n_open[LB_MAX_BACKENDS];	/* Least connections. */
};

/* LB_NONE: none is usable. */
int lb_choose(const struct lb_service *s, const struct lb_load *load,
	      const struct flow *client);
/* Where a flow falls in a Maglev table. */
uint64_t lb_hash(const struct lb_service *s, const struct flow *client);

/* lb_pool.c: the backends that a service has, or had, connections at. */
struct lb_slot;
struct lb_pool_key {
	struct endpoint address;		/* The virtual one. */
	uint16_t partition;
	uint8_t protocol, zero;
};

static_assert(sizeof(struct lb_pool_key) == 24, "no padding");

struct lb_pool {
	struct lb_pool_key key;
	const struct lb_slot *slot;
	unsigned int n;
};

/* Names the counts of a service, in a partition, and glances at them. */
void lb_pool_glance(struct nf_run *r, const struct endpoint *address, uint8_t protocol,
		    unsigned int partition, struct lb_pool *pool);
/* How many connections a backend has. */
uint32_t lb_pool_open(const struct lb_pool *pool, const struct endpoint *backend);
/* The same for all backends of a service. */
void lb_pool_loads(const struct lb_service *s, const struct lb_pool *pool,
		   uint32_t n_open[LB_MAX_BACKENDS]);
/* Whether there is a slot for a backend, or can be: others that are no longer in the
 * file may have too many, for as long as they have connections. */
bool lb_pool_has_room(const struct lb_pool *pool, const struct endpoint *backend);
/* Those that have one. */
uint64_t lb_pool_there(const struct lb_service *s, const struct lb_pool *pool);
/* Takes a connection off one backend's count and adds one to another's; either may be
 * NULL.  Once in a run.  NF_SEND: done; NF_DROP: no room for another backend. */
enum nf_verdict lb_pool_move(struct nf_run *r, const struct lb_pool *pool,
			     const struct endpoint *off, const struct endpoint *on);
/* Which turn of the service it is; taking it is another thing. */
uint64_t lb_turn_glance(struct nf_run *r, const struct lb_pool *pool);
void lb_turn_take(struct nf_run *r, const struct lb_pool *pool);
/* The virtual endpoints that a backend has, or had, connections of.  Returns how many. */
unsigned int lb_origins(struct nf_run *r, const struct endpoint *backend,
			uint8_t protocol, unsigned int partition,
			struct endpoint origin[LB_MAX_SHARED]);

/* lb_conn.c: connections. */
enum lb_state {
	LB_OPENING,				/* TCP; nothing but SYNs came. */
	LB_OPEN,
	LB_CLOSED,				/* TCP; a FIN or RST was seen. */
	LB_ENDED,				/* By us: all that comes is refused. */
};

struct lb_conn {
	const struct flow *key;			/* Of the client to the virtual one. */
	const struct lb_service *service;	/* NULL: no longer in the file. */
	struct endpoint backend;
	struct endpoint source;			/* Full NAT: what the backend sees. */
	int place;				/* Of the backend in the list. */
	uint32_t seq;				/* Of its SYN, as lb_conn_seq() has it. */
	enum lb_state state;
	bool is_full;				/* NAT. */
};

/* As much of it as is remembered. */
static inline uint32_t
lb_conn_seq(uint32_t seq)
{
	return seq & 0xffffff;
}

/* The connection that 'key' names, which has to live as long as '*c'.  False: there is
 * none, or it is pending. */
bool lb_conn_read(struct nf_run *r, const struct lb_service *s, const struct flow *key,
		  enum nf_ask how, struct lb_conn *c);
void lb_conn_write(struct nf_run *r, const struct lb_conn *c, uint32_t idle_ms);
void lb_conn_delete(struct nf_run *r, const struct lb_conn *c);
/* In which partition its records lie, and the counts of its service for it. */
unsigned int lb_conn_partition(const struct nf_run *r, const struct flow *key);
/* The connection is in use: without a read. */
void lb_conn_touch(struct nf_run *r, const struct lb_service *s, const struct flow *key);
/* The flow from a backend to a client, as the client's own to the virtual address. */
void lb_conn_key(const struct flow *from_backend, const struct endpoint *virtual,
		 struct flow *key);

/* Full NAT: takes a free port of one of the service's sources, and writes the record of
 * the answers.  NF_DROP: there is none. */
enum nf_verdict lb_conn_take_source(struct nf_run *r, struct lb_conn *c);
/* Gives it back, as the connection is no more. */
void lb_conn_give_source(struct nf_run *r, const struct lb_conn *c);
/* The answers are refused from now on. */
void lb_conn_end_answers(struct nf_run *r, const struct lb_conn *c);
/* The connection whose answers are 'answers'.  False: none, or pending. */
bool lb_conn_answered(struct nf_run *r, const struct flow *answers, struct flow *key,
		      bool *ended);

/* The backend that a client has been at lately; false: none, or pending. */
bool lb_sticky_read(struct nf_run *r, const struct lb_service *s, const struct flow *key,
		    struct endpoint *backend);
void lb_sticky_write(struct nf_run *r, const struct lb_service *s, const struct flow *key,
		     const struct endpoint *backend);
/* Whether the time is over that the connections of a backend have, which gets no new
 * ones. The first question begins it.  False if pending, too. */
bool lb_drain_over(struct nf_run *r, const struct lb_conn *c);

/* lb_send.c */
/* Sends a packet of a connection to its other end. */
enum nf_verdict lb_send(struct nf_run *r, const struct lb_conn *c, bool from_backend);
/* The same without addresses and ports: only the frame's, and the tunnel. */
void lb_send_to_backend(struct nf_run *r, const struct lb_conn *c);
void lb_send_to_client(struct nf_run *r);
/* Emits a RST to both ends. */
void lb_send_resets(struct nf_run *r, const struct lb_conn *c, bool from_backend);

/* lb_icmp.c */
enum nf_verdict lb_icmp(struct nf_run *r);
enum nf_verdict lb_non_ip(struct nf_run *r);

/* lb.c */
struct lb_answer {
	const struct lb_service *service;	/* NULL: it is nobody's, or pending. */
	struct flow key;			/* The client's. */
	bool is_ours;				/* It goes to an address of ours. */
	bool ended;
	bool is_read;				/* This was: */
	struct lb_conn conn;
};

/* Whose connection it is that 'answers' is the way back of.  'out' may not be moved.
 * Without 'is_read' it is the only service that has the backend. */
void lb_owner(struct nf_run *r, const struct flow *answers, struct lb_answer *out);
/* The same of services that have, or had, the backend: for what was not of the one. */
void lb_former_owner(struct nf_run *r, const struct flow *answers, struct lb_answer *out);
/* Which backends may get something new. */
uint64_t lb_usable(const struct nf_run *r, const struct lb_service *s);
/* Sets the backend of a datagram that is balanced on its own, of the service and with the
 * key that '*c' has.  False: none is usable. */
bool lb_datagram_place(struct nf_run *r, struct lb_conn *c);

static inline bool
lb_same_endpoint(const struct endpoint *a, const struct endpoint *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

#endif

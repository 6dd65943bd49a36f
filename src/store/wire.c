/*
 * wire.c - sockets and addresses, for whoever talks to servers.  It keeps nothing but
 * the descriptor and what TLS needs.
 */
#define _GNU_SOURCE
#include "store/wire.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* --- Addresses ------------------------------------------------------------------- */

int
wire_address_parse(struct wire_address *out, const char *host, uint16_t port)
{
	struct wire_address a = { 0 };

	if (strlen(host) >= sizeof(a.host))
		return -EINVAL;
	strcpy(a.host, host);
	if (inet_pton(AF_INET, host, &a.in.sin_addr) == 1) {
		a.in.sin_family = AF_INET;
		a.bytes = sizeof(a.in);
	} else if (inet_pton(AF_INET6, host, &a.in6.sin6_addr) == 1) {
		a.in6.sin6_family = AF_INET6;
		a.bytes = sizeof(a.in6);
	} else {
		return -EINVAL;
	}
	wire_address_set_port(&a, port);
	*out = a;
	return 0;
}

uint16_t
wire_address_port(const struct wire_address *a)
{
	switch (a->any.sa_family) {
	case AF_INET:
		return ntohs(a->in.sin_port);
	case AF_INET6:
		return ntohs(a->in6.sin6_port);
	default:
		return 0;
	}
}

void
wire_address_set_port(struct wire_address *a, uint16_t port)
{
	if (a->any.sa_family == AF_INET)
		a->in.sin_port = htons(port);
	else if (a->any.sa_family == AF_INET6)
		a->in6.sin6_port = htons(port);
}

bool
wire_address_same_host(const struct wire_address *a, const struct wire_address *b)
{
	if (a->any.sa_family != b->any.sa_family)
		return false;
	switch (a->any.sa_family) {
	case AF_INET:
		return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
	case AF_INET6:
		return memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) == 0 &&
		       a->in6.sin6_scope_id == b->in6.sin6_scope_id;
	default:
		return strcmp(a->un.sun_path, b->un.sun_path) == 0;
	}
}

bool
wire_address_equal(const struct wire_address *a, const struct wire_address *b)
{
	return wire_address_same_host(a, b) &&
	       wire_address_port(a) == wire_address_port(b);
}

void
wire_address_print(const struct wire_address *a, char out[WIRE_SHOWN_BYTES])
{
	char host[INET6_ADDRSTRLEN] = "";

	switch (a->any.sa_family) {
	case AF_INET:
		inet_ntop(AF_INET, &a->in.sin_addr, host, sizeof(host));
		snprintf(out, WIRE_SHOWN_BYTES, "%s:%u", host, wire_address_port(a));
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		snprintf(out, WIRE_SHOWN_BYTES, "[%s]:%u", host, wire_address_port(a));
		break;
	default:
		snprintf(out, WIRE_SHOWN_BYTES, "%s", a->un.sun_path);
	}
}

/* --- Connections ----------------------------------------------------------------- */

int
wire_connect(struct wire *w, const struct wire_address *to, struct tls_context *tls)
{
	int family = to->any.sa_family, on = 1, err;

	*w = (struct wire){ .fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK |
						 SOCK_CLOEXEC, 0) };
	if (w->fd < 0)
		return -errno;
	if (family != AF_UNIX)
		setsockopt(w->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	err = connect(w->fd, &to->any, to->bytes) == 0 ? 0 : -errno;
	if (err == -EINPROGRESS)
		err = 0;
	if (err == 0 && tls != NULL)
		err = tls_new(tls, w->fd, to->host, &w->tls);
	if (err != 0)
		wire_close(w);
	return err;
}

int
wire_ready(struct wire *w)
{
	struct pollfd p = { .fd = w->fd, .events = POLLOUT };
	socklen_t bytes = sizeof(int);
	int err = 0;

	if (poll(&p, 1, 0) == 0)
		return 0;
	if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &err, &bytes) != 0)
		err = errno;
	if (err != 0)
		return -err;
	return w->tls == NULL ? 1 : tls_ready(w->tls);
}

void
wire_close(struct wire *w)
{
	tls_free(w->tls);
	w->tls = NULL;
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

const char *
wire_why(const struct wire *w, int err)
{
	if (err == -EPROTO && w->tls != NULL)
		return tls_why(w->tls);
	if (err == -ESHUTDOWN)
		return "the server closed the connection";
	return strerrordesc_np(-err);
}

/*
 * wire.h - a non-blocking stream of bytes to an address: TCP or a unix socket, plain or
 * under TLS.  Errors are negative errnos; wire_why() has the words.
 */
#ifndef STORE_WIRE_H
#define STORE_WIRE_H

#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "store/tls.h"
#include "store/url.h"

enum {
	WIRE_SHOWN_BYTES = 120,			/* Holds any address, for people. */
};

struct wire_address {
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	};
	socklen_t bytes;
	char host[URL_HOST_BYTES];		/* Whom a certificate has to be for. */
};

struct wire {
	int fd;					/* -1: closed. */
	struct tls *tls;			/* NULL: plain. */
};

/* Sets 'out' from a numeric address; -EINVAL if it is none. */
int wire_address_parse(struct wire_address *out, const char *host, uint16_t port);
uint16_t wire_address_port(const struct wire_address *a);
void wire_address_set_port(struct wire_address *a, uint16_t port);
bool wire_address_same_host(const struct wire_address *a, const struct wire_address *b);
bool wire_address_equal(const struct wire_address *a, const struct wire_address *b);
/* "10.0.0.1:6379", "[::1]:6379", "/run/valkey.sock" */
void wire_address_print(const struct wire_address *a, char out[WIRE_SHOWN_BYTES]);

/* Starts to connect; 'tls' NULL: plain.  On an error it is closed. */
int wire_connect(struct wire *w, const struct wire_address *to, struct tls_context *tls);
/* Whether it is connected and hands are shaken: 1, 0: not yet, or an error. */
int wire_ready(struct wire *w);
void wire_close(struct wire *w);		/* If it is not closed. */
const char *wire_why(const struct wire *w, int err);

/* Returns how many bytes were taken, 0: none for now.  What was not taken has to be
 * offered next, unchanged: TLS may have begun to send it. */
static inline ssize_t
wire_send_all(struct wire *w, struct iovec *piece, unsigned int n)
{
	struct msghdr message = { .msg_iov = piece, .msg_iovlen = n };

	/* Records of TLS are made one by one. */
	if (w->tls != NULL)
		return tls_send(w->tls, piece[0].iov_base, piece[0].iov_len);

	ssize_t sent = sendmsg(w->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent >= 0)
		return sent;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

static inline ssize_t
wire_send(struct wire *w, const void *bytes, size_t n)
{
	struct iovec piece = { (void *)bytes, n };

	return wire_send_all(w, &piece, 1);
}

/* Returns how many bytes came; less than 'room': there are no more for now.
 * -ESHUTDOWN: the other side closed. */
static inline ssize_t
wire_receive(struct wire *w, void *to, size_t room)
{
	if (w->tls != NULL)
		return tls_receive(w->tls, to, room);

	ssize_t got = recv(w->fd, to, room, MSG_DONTWAIT);

	if (got > 0)
		return got;
	if (got == 0)
		return room == 0 ? 0 : -ESHUTDOWN;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

#endif

/*
 * tls.h - TLS on a connected, non-blocking socket.  The server's certificate has to
 * be good and to be for the host that was asked for.  No call blocks but
 * tls_context_get(), which reads files.
 */
#ifndef STORE_TLS_H
#define STORE_TLS_H

#include <stddef.h>
#include <sys/types.h>

#include "store/url.h"

/* The certificates of a URL.  All connections of a process with the same files share
 * one; any thread may get and put. */
struct tls_context;
struct tls;

/* Returns 0 or a negative errno; then 'why' says which file is wrong. */
int tls_context_get(const struct store_url *url, struct tls_context **out, char *why,
		    size_t why_bytes);
struct tls_context *tls_context_again(struct tls_context *c);	/* NULL is NULL. */
void tls_context_put(struct tls_context *c);			/* NULL is ignored. */

/* 'fd' stays the caller's, and has to live longer.  'host' is a name or an address. */
int tls_new(struct tls_context *c, int fd, const char *host, struct tls **out);
void tls_free(struct tls *t);					/* NULL is ignored. */

/* Shakes hands as far as that goes, once the socket is connected.  Returns 1 when it is
 * done, 0, or a negative errno. */
int tls_ready(struct tls *t);

/* As wire_send() and wire_receive(). */
ssize_t tls_send(struct tls *t, const void *bytes, size_t n);
ssize_t tls_receive(struct tls *t, void *to, size_t room);

/* After -EPROTO: what was wrong, in words. */
const char *tls_why(const struct tls *t);

#endif

/*
 * tls.c - OpenSSL, and the only file that knows of it.
 *
 * OpenSSL writes to sockets with write(), which kills the process if the other side is
 * gone; so it gets a BIO of ours, over send() and recv().  Whatever OpenSSL calls an
 * error becomes one line that says what to change.
 */
#define _GNU_SOURCE
#include "store/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct tls_context {
	SSL_CTX *ssl;
	BIO_METHOD *socket;
	char ca[URL_FILE_BYTES], cert[URL_FILE_BYTES], key[URL_FILE_BYTES];
	unsigned int n_users;
	struct tls_context *next;
};

struct tls {
	SSL *ssl;
	int fd;
	int error;				/* Of the socket, the last. */
	char host[URL_HOST_BYTES];
	char why[240];
};

/* Guards the list and 'n_users' of what is in it. */
static pthread_mutex_t contexts_lock = PTHREAD_MUTEX_INITIALIZER;
static struct tls_context *contexts;

/* --- The socket ------------------------------------------------------------------ */

static int
socket_done(BIO *bio, struct tls *t, ssize_t n, int retry)
{
	BIO_clear_retry_flags(bio);
	if (n >= 0)
		return (int)n;
	t->error = -errno;
	if (errno == EAGAIN || errno == EINTR || errno == ENOTCONN)
		BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
	return -1;
}

static int
socket_write(BIO *bio, const char *bytes, int n)
{
	struct tls *t = BIO_get_data(bio);

	return socket_done(bio, t,
			   send(t->fd, bytes, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT),
			   BIO_FLAGS_WRITE);
}

static int
socket_read(BIO *bio, char *to, int room)
{
	struct tls *t = BIO_get_data(bio);
	ssize_t n = recv(t->fd, to, (size_t)room, MSG_DONTWAIT);

	if (n == 0)
		t->error = -ESHUTDOWN;
	return socket_done(bio, t, n, BIO_FLAGS_READ);
}

static long
socket_control(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

static BIO_METHOD *
socket_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "socket");

	if (m != NULL && (BIO_meth_set_write(m, socket_write) != 1 ||
			  BIO_meth_set_read(m, socket_read) != 1 ||
			  BIO_meth_set_ctrl(m, socket_control) != 1)) {
		BIO_meth_free(m);
		return NULL;
	}
	return m;
}

/* --- Contexts -------------------------------------------------------------------- */

/* OpenSSL would ask at the terminal. */
static int
no_passphrase(char *to, int room, int writing, void *data)
{
	(void)to;
	(void)room;
	(void)writing;
	(void)data;
	return 0;
}

static int
file_error(const char *what, const char *file, char *why, size_t why_bytes)
{
	unsigned long e = ERR_peek_error();
	const char *reason = NULL;

	if (ERR_GET_LIB(e) == ERR_LIB_SYS)
		reason = strerrordesc_np(ERR_GET_REASON(e));
	else if (ERR_GET_REASON(e) == PEM_R_BAD_PASSWORD_READ ||
		 ERR_GET_REASON(e) == ERR_R_INTERRUPTED_OR_CANCELLED)
		reason = "it wants a passphrase";
	else
		reason = ERR_reason_error_string(e);
	snprintf(why, why_bytes, "%s %s: %s", what, file,
		 reason == NULL ? "not usable" : reason);
	return -EINVAL;
}

static int
context_load(struct tls_context *c, char *why, size_t why_bytes)
{
	SSL_CTX *s = c->ssl;

	ERR_clear_error();
	if (c->ca[0] == 0)
		SSL_CTX_set_default_verify_paths(s);
	else if (SSL_CTX_load_verify_file(s, c->ca) != 1)
		return file_error("the authorities' file", c->ca, why, why_bytes);
	if (c->cert[0] == 0)
		return 0;
	if (SSL_CTX_use_certificate_chain_file(s, c->cert) != 1)
		return file_error("the certificate", c->cert, why, why_bytes);
	if (SSL_CTX_use_PrivateKey_file(s, c->key, SSL_FILETYPE_PEM) != 1 ||
	    SSL_CTX_check_private_key(s) != 1)
		return file_error("the key", c->key, why, why_bytes);
	return 0;
}

static void
context_free(struct tls_context *c)
{
	SSL_CTX_free(c->ssl);
	BIO_meth_free(c->socket);
	free(c);
}

static int
context_new(const struct store_url *url, struct tls_context **out, char *why,
	    size_t why_bytes)
{
	struct tls_context *c = calloc(1, sizeof(*c));
	int err;

	snprintf(why, why_bytes, "out of memory");
	if (c == NULL)
		return -ENOMEM;
	memcpy(c->ca, url->ca, sizeof(c->ca));
	memcpy(c->cert, url->cert, sizeof(c->cert));
	memcpy(c->key, url->key, sizeof(c->key));
	c->n_users = 1;
	c->ssl = SSL_CTX_new(TLS_client_method());
	c->socket = socket_method();
	if (c->ssl == NULL || c->socket == NULL) {
		err = -ENOMEM;
		goto free_context;
	}
	SSL_CTX_set_min_proto_version(c->ssl, TLS1_2_VERSION);
	SSL_CTX_set_verify(c->ssl, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_options(c->ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(c->ssl, 1);
	SSL_CTX_set_session_cache_mode(c->ssl, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_default_passwd_cb(c->ssl, no_passphrase);
	err = context_load(c, why, why_bytes);
	if (err != 0)
		goto free_context;
	*out = c;
	return 0;
free_context:
	context_free(c);
	return err;
}

int
tls_context_get(const struct store_url *url, struct tls_context **out, char *why,
		size_t why_bytes)
{
	struct tls_context *c;
	int err = 0;

	pthread_mutex_lock(&contexts_lock);
	for (c = contexts; c != NULL; c = c->next)
		if (strcmp(c->ca, url->ca) == 0 && strcmp(c->cert, url->cert) == 0 &&
		    strcmp(c->key, url->key) == 0)
			break;
	if (c != NULL) {
		c->n_users++;
	} else {
		err = context_new(url, &c, why, why_bytes);
		if (err == 0) {
			c->next = contexts;
			contexts = c;
		}
	}
	pthread_mutex_unlock(&contexts_lock);
	if (err == 0)
		*out = c;
	return err;
}

struct tls_context *
tls_context_again(struct tls_context *c)
{
	if (c == NULL)
		return NULL;
	pthread_mutex_lock(&contexts_lock);
	c->n_users++;
	pthread_mutex_unlock(&contexts_lock);
	return c;
}

void
tls_context_put(struct tls_context *c)
{
	struct tls_context **at = &contexts;

	if (c == NULL)
		return;
	pthread_mutex_lock(&contexts_lock);
	if (--c->n_users == 0) {
		while (*at != c)
			at = &(*at)->next;
		*at = c->next;
		context_free(c);
	}
	pthread_mutex_unlock(&contexts_lock);
}

/* --- Connections ----------------------------------------------------------------- */

/* The certificate is checked against 'host'; a name is also told to the server. */
static bool
host_set(SSL *ssl, const char *host)
{
	uint8_t address[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, host, address) == 1 ||
	    inet_pton(AF_INET6, host, address) == 1)
		return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host) == 1;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, host) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

int
tls_new(struct tls_context *c, int fd, const char *host, struct tls **out)
{
	struct tls *t = calloc(1, sizeof(*t));
	BIO *bio;

	if (t == NULL)
		return -ENOMEM;
	t->fd = fd;
	snprintf(t->host, sizeof(t->host), "%s", host);
	t->ssl = SSL_new(c->ssl);
	bio = t->ssl == NULL ? NULL : BIO_new(c->socket);
	if (bio == NULL || !host_set(t->ssl, host)) {
		BIO_free(bio);
		tls_free(t);
		return -ENOMEM;
	}
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(t->ssl, bio, bio);
	SSL_set_connect_state(t->ssl);
	*out = t;
	return 0;
}

void
tls_free(struct tls *t)
{
	if (t == NULL)
		return;
	SSL_free(t->ssl);
	free(t);
}

/* What is known to happen, and what to do about it. */
static const struct {
	int reason;
	const char *words;
} known[] = {
	{ SSL_R_WRONG_VERSION_NUMBER,
	  "the server does not speak TLS on this port: valkey:// is without" },
	{ SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED,
	  "the server wants a certificate of ours: give ?cert=FILE&key=FILE" },
	{ SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE,
	  "the server refuses: it may want a certificate of ours: ?cert=FILE&key=FILE" },
	{ SSL_R_TLSV1_ALERT_UNKNOWN_CA,
	  "the server does not trust who signed our certificate" },
	{ SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED,
	  "the server says that our certificate has expired" },
	{ SSL_R_TLSV1_ALERT_PROTOCOL_VERSION,
	  "the server speaks another version of TLS: 1.2 and 1.3 will do" },
	{ SSL_R_UNSUPPORTED_PROTOCOL,
	  "the server speaks another version of TLS: 1.2 and 1.3 will do" },
};

static void
words_set(struct tls *t, unsigned long e)
{
	long verified = SSL_get_verify_result(t->ssl);
	const char *reason = ERR_reason_error_string(e);

	if (verified == X509_V_ERR_HOSTNAME_MISMATCH ||
	    verified == X509_V_ERR_IP_ADDRESS_MISMATCH) {
		snprintf(t->why, sizeof(t->why), "its certificate is not for %.80s",
			 t->host);
		return;
	}
	if (verified != X509_V_OK) {
		bool unknown = verified != X509_V_ERR_CERT_HAS_EXPIRED &&
			       verified != X509_V_ERR_CERT_NOT_YET_VALID;

		snprintf(t->why, sizeof(t->why), "its certificate: %s%s",
			 X509_verify_cert_error_string(verified),
			 unknown ? ": name who signed it by ?ca=FILE" : "");
		return;
	}
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (ERR_GET_LIB(e) == ERR_LIB_SSL && ERR_GET_REASON(e) == known[i].reason)
			reason = known[i].words;
	snprintf(t->why, sizeof(t->why), "TLS: %s", reason == NULL ? "an error" : reason);
}

/* Forgets old errors, which tls_result() would take for new ones. */
static void
call_begin(struct tls *t)
{
	ERR_clear_error();
	t->error = 0;
}

/* What an OpenSSL call that did not work means: 0: not now, or a negative errno. */
static int
tls_result(struct tls *t, int result)
{
	unsigned long e = ERR_peek_error();

	switch (SSL_get_error(t->ssl, result)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		return -ESHUTDOWN;
	case SSL_ERROR_SYSCALL:
		return t->error != 0 ? t->error : -ESHUTDOWN;
	default:
		if (ERR_GET_LIB(e) == ERR_LIB_SSL &&
		    ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
			return -ESHUTDOWN;
		words_set(t, e);
		return -EPROTO;
	}
}

int
tls_ready(struct tls *t)
{
	call_begin(t);

	int result = SSL_do_handshake(t->ssl);

	return result == 1 ? 1 : tls_result(t, result);
}

ssize_t
tls_send(struct tls *t, const void *bytes, size_t n)
{
	const uint8_t *at = bytes;
	size_t sent = 0, now;

	/* Each call sends one record of at most 16 KiB. */
	while (sent < n) {
		call_begin(t);

		int result = SSL_write_ex(t->ssl, at + sent, n - sent, &now);

		if (result != 1) {
			int err = tls_result(t, result);

			return err == 0 || sent > 0 ? (ssize_t)sent : err;
		}
		sent += now;
	}
	return (ssize_t)sent;
}

ssize_t
tls_receive(struct tls *t, void *to, size_t room)
{
	uint8_t *at = to;
	size_t got = 0, now;

	/* Until nothing is left: what stays inside of OpenSSL wakes nobody. */
	while (got < room) {
		call_begin(t);

		int result = SSL_read_ex(t->ssl, at + got, room - got, &now);

		if (result != 1) {
			int err = tls_result(t, result);

			return err == 0 || got > 0 ? (ssize_t)got : err;
		}
		got += now;
	}
	return (ssize_t)got;
}

const char *
tls_why(const struct tls *t)
{
	return t->why;
}

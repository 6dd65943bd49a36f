/*
 * lb_probe.c - see lb_probe.h: probes by TCP, HTTP(S), UDP and ICMP.
 *
 * They go through the kernel's sockets, in the network namespace of the instance, and so
 * take the way that its host has to the backends.
 */
#define _GNU_SOURCE
#include "nf/lb_probe.h"

#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <curl/curl.h>
#include <openssl/crypto.h>

#include "base/clock.h"

enum {
	ANSWER_BYTES = 64 * 1024,		/* Of which 'match' may be in. */
};

static bool
matches(const struct lb_check *c, const char *answer, size_t bytes)
{
	return memmem(answer, bytes, c->match, strlen(c->match)) != NULL;
}

/* --- sockets ------------------------------------------------------------------- */

static socklen_t
socket_address(const struct endpoint *e, struct sockaddr_storage *out)
{
	memset(out, 0, sizeof(*out));
	if (e->version == 4) {
		struct sockaddr_in *in = (struct sockaddr_in *)out;

		in->sin_family = AF_INET;
		in->sin_port = e->port;
		in->sin_addr.s_addr = e->ip4;
		return sizeof(*in);
	}

	struct sockaddr_in6 *in = (struct sockaddr_in6 *)out;

	in->sin6_family = AF_INET6;
	in->sin6_port = e->port;
	memcpy(&in->sin6_addr, e->ip6, sizeof(in->sin6_addr));
	return sizeof(*in);
}

/* A socket that is, or will be, connected; or a negative errno. */
static int
open_socket(const struct endpoint *to, int type, int protocol)
{
	struct sockaddr_storage address;
	socklen_t bytes = socket_address(to, &address);
	int fd = socket(address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	int err;

	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&address, bytes) == 0 || errno == EINPROGRESS)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* Until it is ready for 'events' or the time is over; 0 or an errno. */
static uint32_t
wait_ready(int fd, short events, uint64_t end_ms)
{
	struct pollfd p = { .fd = fd, .events = events };
	uint64_t now;
	int n;

	do {
		now = clock_ms();
		n = poll(&p, 1, now < end_ms ? (int)(end_ms - now) : 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return (uint32_t)errno;
	return n > 0 ? 0 : ETIMEDOUT;
}

static uint32_t
probe_tcp(const struct lb_check *c, const struct endpoint *to, uint64_t end_ms)
{
	int fd = open_socket(to, SOCK_STREAM, 0);
	int err = 0;
	socklen_t bytes = sizeof(err);
	uint32_t cause;

	(void)c;
	if (fd < 0)
		return (uint32_t)-fd;
	cause = wait_ready(fd, POLLOUT, end_ms);
	if (cause == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &bytes) != 0)
		cause = (uint32_t)errno;
	else if (cause == 0)
		cause = (uint32_t)err;
	close(fd);
	return cause;
}

/* Waits for a datagram.  '*n' is its length; below 0: there was none after all. */
static uint32_t
wait_datagram(int fd, void *to, size_t room, uint64_t end_ms, ssize_t *n)
{
	uint32_t cause = wait_ready(fd, POLLIN, end_ms);

	*n = -1;
	if (cause != 0)
		return cause;
	*n = recv(fd, to, room, 0);
	return *n < 0 && errno != EAGAIN && errno != EINTR ? (uint32_t)errno : 0;
}

/* Silence is no bad sign, unless an answer is wanted: only a refusal is one. */
static uint32_t
probe_udp(const struct lb_check *c, const struct endpoint *to, uint64_t end_ms)
{
	int fd = open_socket(to, SOCK_DGRAM, 0);
	char answer[2048];
	uint32_t cause = 0;
	ssize_t n;

	if (fd < 0)
		return (uint32_t)-fd;
	if (send(fd, c->payload, strlen(c->payload), MSG_NOSIGNAL) < 0)
		cause = (uint32_t)errno;
	while (cause == 0) {
		cause = wait_datagram(fd, answer, sizeof(answer), end_ms, &n);
		if (n >= 0 && (c->match[0] == '\0' || matches(c, answer, (size_t)n)))
			break;
		if (n >= 0)
			cause = ENOMSG;
	}
	close(fd);
	return cause == ETIMEDOUT && c->match[0] == '\0' ? 0 : cause;
}

/* --- ICMP ---------------------------------------------------------------------- */

/* The same layout in both versions. */
struct echo {
	uint8_t type, code;
	uint16_t checksum, id, sequence;
	uint8_t token[16];			/* By which the answer is known. */
};

static uint16_t
echo_checksum(const struct echo *e)
{
	uint16_t word[sizeof(*e) / 2];
	uint32_t sum = 0;

	memcpy(word, e, sizeof(word));
	for (unsigned int i = 0; i < sizeof(word) / sizeof(word[0]); i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~(sum + (sum >> 16));
}

/* Groups that may have ping sockets are named in a sysctl; others need CAP_NET_RAW. */
static int
open_icmp(const struct endpoint *to)
{
	int protocol = to->version == 4 ? (int)IPPROTO_ICMP : (int)IPPROTO_ICMPV6;
	int fd = open_socket(to, SOCK_DGRAM, protocol);

	if (fd == -EACCES || fd == -EPERM || fd == -EPROTONOSUPPORT)
		fd = open_socket(to, SOCK_RAW, protocol);
	return fd;
}

/* A raw socket gives IPv4 headers, too, and what is meant for others. */
static bool
is_answer(const struct endpoint *to, const uint8_t *bytes, size_t n,
	  const struct echo *asked)
{
	uint8_t type = to->version == 4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY;
	struct echo e;

	if (to->version == 4 && n > 0 && bytes[0] >> 4 == 4 &&
	    n >= (bytes[0] & 15U) * 4) {
		n -= (bytes[0] & 15U) * 4;
		bytes += (bytes[0] & 15U) * 4;
	}
	if (n < sizeof(e))
		return false;
	memcpy(&e, bytes, sizeof(e));
	return e.type == type && memcmp(e.token, asked->token, sizeof(e.token)) == 0;
}

static uint32_t
probe_icmp(const struct lb_check *c, const struct endpoint *to, uint64_t end_ms)
{
	struct echo e = { .type = to->version == 4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST };
	int fd = open_icmp(to);
	uint8_t answer[512];
	uint32_t cause = 0;
	ssize_t n = 0;

	(void)c;
	if (fd < 0)
		return (uint32_t)-fd;
	if (getrandom(e.token, sizeof(e.token), 0) != sizeof(e.token))
		cause = EIO;
	memcpy(&e.id, e.token, sizeof(e.id));
	if (to->version == 4)
		e.checksum = echo_checksum(&e);
	if (cause == 0 && send(fd, &e, sizeof(e), MSG_NOSIGNAL) < 0)
		cause = (uint32_t)errno;
	while (cause == 0 && (n <= 0 || !is_answer(to, answer, (size_t)n, &e)))
		cause = wait_datagram(fd, answer, sizeof(answer), end_ms, &n);
	close(fd);
	return cause;
}

/* --- HTTP ---------------------------------------------------------------------- */

struct answer {
	const struct lb_check *check;
	CURL *curl;
	bool matched;
	size_t n;
	char bytes[ANSWER_BYTES];
};

/* Takes a line of the head.  Where nothing is looked for, the answer is known at its end:
 * a body may take its time, as that of a stream of events does.  Anything but the number
 * of bytes ends the transfer, as no more is needed. */
static size_t
take_head(char *line, size_t size, size_t n, void *to)
{
	const struct answer *a = to;
	bool ends = n > 0 && (line[0] == '\r' || line[0] == '\n');
	long status = 0;

	if (!ends || a->check->match[0] != '\0')
		return size * n;
	curl_easy_getinfo(a->curl, CURLINFO_RESPONSE_CODE, &status);
	/* What comes first may be another head (100, 103). */
	return status >= 200 ? CURL_WRITEFUNC_ERROR : size * n;
}

/* Takes a part of the body, in the same way. */
static size_t
take_body(char *part, size_t size, size_t n, void *to)
{
	struct answer *a = to;

	(void)size;				/* 1 */
	if (n > sizeof(a->bytes) - a->n)
		n = sizeof(a->bytes) - a->n;
	memcpy(a->bytes + a->n, part, n);
	a->n += n;
	a->matched = matches(a->check, a->bytes, a->n);
	return a->matched || a->n == sizeof(a->bytes) ? CURL_WRITEFUNC_ERROR : n;
}

static uint32_t
http_cause(CURL *curl, CURLcode code, const struct answer *a)
{
	const struct lb_check *c = a->check;
	long status = 0, os_error = 0;

	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_error);
	if (code == CURLE_OPERATION_TIMEDOUT)
		return ETIMEDOUT;
	if (code == CURLE_COULDNT_CONNECT)
		return os_error != 0 ? (uint32_t)os_error : ECONNREFUSED;
	if ((code != CURLE_OK && code != CURLE_WRITE_ERROR) || status == 0)
		return EPROTO;
	if (status < c->status.low || status > c->status.high)
		return (uint32_t)status;
	return c->match[0] == '\0' || a->matched ? 0 : ENOMSG;
}

static void
set_options(CURL *curl, const struct lb_check *c, struct answer *a, uint64_t end_ms)
{
	uint64_t now = clock_ms();
	long left_ms = now < end_ms ? (long)(end_ms - now) : 1;

	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, left_ms);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "snf");
	curl_easy_setopt(curl, CURLOPT_FORBID_REUSE, 1L);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_head);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, a);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, a);
	curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, c->verify ? 1L : 0L);
	curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, c->verify ? 2L : 0L);
}

/* The name goes into the request, and into TLS; the connection to the backend. */
static struct curl_slist *
set_target(CURL *curl, const struct lb_check *c, const struct endpoint *to)
{
	char address[PACKET_TEXT_BYTES], url[512], way[128];
	unsigned int port = rte_be_to_cpu_16(to->port);
	struct curl_slist *list;

	endpoint_print(to, address);
	if (c->host[0] != '\0')
		snprintf(url, sizeof(url), "%s://%s:%u%s",
			 c->kind == LB_CHECK_HTTPS ? "https" : "http", c->host, port,
			 c->path);
	else
		snprintf(url, sizeof(url), "%s://%s%s",
			 c->kind == LB_CHECK_HTTPS ? "https" : "http", address, c->path);
	snprintf(way, sizeof(way), "::%s", address);
	list = curl_slist_append(NULL, way);
	curl_easy_setopt(curl, CURLOPT_CONNECT_TO, list);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	return list;
}

static uint32_t
probe_http(const struct lb_check *c, const struct endpoint *to, uint64_t end_ms)
{
	struct answer *a = malloc(sizeof(*a));
	CURL *curl = curl_easy_init();
	struct curl_slist *list = NULL;
	uint32_t cause = ENOMEM;

	if (a != NULL && curl != NULL) {
		a->check = c;
		a->curl = curl;
		a->matched = false;
		a->n = 0;
		set_options(curl, c, a, end_ms);
		list = set_target(curl, c, to);
		cause = http_cause(curl, curl_easy_perform(curl), a);
	}
	curl_easy_cleanup(curl);
	curl_slist_free_all(list);
	free(a);
	return cause;
}

/* --- all of them --------------------------------------------------------------- */

static int init_error;

/* A thread may still be blocked in one of them while the process ends, which must not
 * tidy up under its feet. */
static void
init_libraries(void)
{
	if (OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL) != 1 ||
	    curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
		init_error = -EIO;
}

int
lb_probe_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_libraries);
	return init_error;
}

void
lb_probe(const struct lb_check *check, const struct endpoint *to,
	 struct lb_probe_result *result)
{
	static uint32_t (*const probes[])(const struct lb_check *,
					  const struct endpoint *, uint64_t) = {
		[LB_CHECK_TCP] = probe_tcp, [LB_CHECK_HTTP] = probe_http,
		[LB_CHECK_HTTPS] = probe_http, [LB_CHECK_UDP] = probe_udp,
		[LB_CHECK_ICMP] = probe_icmp,
	};
	uint64_t start_ms = clock_ms();

	result->cause = probes[check->kind](check, to, start_ms + check->timeout_ms);
	result->elapsed_ms = (uint32_t)(clock_ms() - start_ms);
}

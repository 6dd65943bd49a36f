/*
 * lb_check.c - how backends are checked, as the file has it.
 */
#include "nf/lb_health.h"

#include <stdio.h>

enum {
	INTERVAL_MS = 2000,
	TIMEOUT_MS = 1000,
	RISE = 2,
	FALL = 3,
	JITTER = 10,
};

static const char *const kinds[] = {
	"none", "tcp", "http", "https", "udp", "icmp", NULL,
};

static int
text_parse(const char *text, char *out, size_t bytes)
{
	if (text[0] == '\0' || strlen(text) >= bytes)
		return -EINVAL;
	strcpy(out, text);
	return 0;
}

static int
words_parse(const char *text, void *out)
{
	return text_parse(text, out, LB_CHECK_TEXT_BYTES);
}

/* What stands in a line of a request has no blanks in it. */
static bool
is_token(const char *text)
{
	for (; *text != '\0'; text++)
		if (*text <= ' ' || *text > '~')
			return false;
	return true;
}

static int
path_parse(const char *text, void *out)
{
	if (text[0] != '/' || !is_token(text))
		return -EINVAL;
	return text_parse(text, out, LB_CHECK_PATH_BYTES);
}

/* A name, which may become one of TLS, or of a URL. */
static int
host_parse(const char *text, void *out)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
				      "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

	if (text[strspn(text, allowed)] != '\0')
		return -EINVAL;
	return text_parse(text, out, LB_CHECK_TEXT_BYTES);
}

static int
status_parse(const char *text, void *out)
{
	struct port_range range;

	if (port_range_parse(text, &range) != 0 || range.low < 100 || range.high > 599)
		return -EINVAL;
	memcpy(out, &range, sizeof(range));
	return 0;
}

/* One more than it says: zero is what was not given. */
static int
percent_parse(const char *text, void *out)
{
	unsigned int n;
	uint64_t value;
	char behind;

	if (text[strspn(text, "0123456789")] != '\0' ||
	    sscanf(text, "%3u%c", &n, &behind) != 1 || n > 100)
		return -EINVAL;
	value = n + 1;
	memcpy(out, &value, sizeof(value));
	return 0;
}

const struct config_field lb_check_fields[] = {
	{ "type", CONFIG_ENUM, offsetof(struct lb_check, kind), .required = true,
	  .words = kinds, .help = "what is looked at" },
	{ "interval", CONFIG_DURATION, offsetof(struct lb_check, interval_ms), .min = 200,
	  .max = 3600 * 1000, .help = "from one probe to the next (default: 2s)" },
	{ "timeout", CONFIG_DURATION, offsetof(struct lb_check, timeout_ms), .min = 10,
	  .max = 60 * 1000,
	  .help = "how long a probe waits for its answer (default: 1s, or the "
		  "interval)" },
	{ "jitter", CONFIG_SCALAR, offsetof(struct lb_check, jitter),
	  .parse = percent_parse,
	  .help = "by how many percent, 0 to 100, intervals differ (default: 10)" },
	{ "rise", CONFIG_UINT, offsetof(struct lb_check, rise), .min = 1, .max = 100,
	  .help = "good probes until a backend is up (default: 2)" },
	{ "fall", CONFIG_UINT, offsetof(struct lb_check, fall), .min = 1, .max = 100,
	  .help = "bad probes until it is down (default: 3)" },
	{ "port", CONFIG_UINT, offsetof(struct lb_check, port), .min = 1, .max = 65535,
	  .help = "the port that is asked (default: the backend's)" },
	{ "path", CONFIG_SCALAR, offsetof(struct lb_check, path), .parse = path_parse,
	  .help = "http and https: what is asked for, /... without blanks, up to 127 "
		  "characters (default: /)" },
	{ "host", CONFIG_SCALAR, offsetof(struct lb_check, host), .parse = host_parse,
	  .help = "http and https: the name of the server (default: its address)" },
	{ "status", CONFIG_SCALAR, offsetof(struct lb_check, status),
	  .parse = status_parse,
	  .help = "http and https: good answers, such as 200 or 200-399 (the default)" },
	{ "match", CONFIG_SCALAR, offsetof(struct lb_check, match), .parse = words_parse,
	  .help = "http, https and udp: text that has to be in the answer, up to 63 "
		  "characters" },
	{ "payload", CONFIG_SCALAR, offsetof(struct lb_check, payload),
	  .parse = words_parse,
	  .help = "udp: what is sent, up to 63 characters (default: nothing)" },
	{ "verify", CONFIG_BOOL, offsetof(struct lb_check, verify),
	  .help = "https: whether the certificate has to be right (default: no)" },
	{ 0 }
};

static bool
is_http(const struct lb_check *c)
{
	return c->kind == LB_CHECK_HTTP || c->kind == LB_CHECK_HTTPS;
}

/* What is given for another kind of check would be ignored.  'where' is what the file has:
 * whose line an error names. */
static int
check_options(const struct lb_check *c, const void *where)
{
	const struct {
		const char *key;
		bool given, fits;
	} options[] = {
		{ "path", c->path[0] != '\0', is_http(c) },
		{ "host", c->host[0] != '\0', is_http(c) },
		{ "status", c->status.high != 0, is_http(c) },
		{ "match", c->match[0] != '\0', is_http(c) || c->kind == LB_CHECK_UDP },
		{ "payload", c->payload[0] != '\0', c->kind == LB_CHECK_UDP },
		{ "verify", c->verify, c->kind == LB_CHECK_HTTPS },
		{ "port", c->port != 0, c->kind != LB_CHECK_ICMP },
	};

	for (unsigned int i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (!options[i].given || options[i].fits)
			continue;
		config_error(where, "'check.%s' is not for checks of type %s",
			     options[i].key, kinds[c->kind]);
		return -EINVAL;
	}
	return 0;
}

static void
set_default(uint64_t *value, uint64_t otherwise)
{
	if (*value == 0)
		*value = otherwise;
}

int
lb_check_init(const struct lb_check *given, struct lb_check *c)
{
	*c = *given;
	if (c->kind == LB_CHECK_NONE)
		return 0;
	if (check_options(c, given) != 0)
		return -EINVAL;
	set_default(&c->interval_ms, INTERVAL_MS);
	set_default(&c->timeout_ms,
		    c->interval_ms < TIMEOUT_MS ? c->interval_ms : TIMEOUT_MS);
	set_default(&c->jitter, JITTER + 1);
	c->jitter--;
	set_default(&c->rise, RISE);
	set_default(&c->fall, FALL);
	if (c->timeout_ms > c->interval_ms) {
		config_error(&given->timeout_ms, "'lb.check.timeout' is longer than the "
			     "interval, want %lums or less",
			     (unsigned long)c->interval_ms);
		return -EINVAL;
	}
	if (!is_http(c))
		return 0;
	if (c->path[0] == '\0')
		strcpy(c->path, "/");
	if (c->status.high == 0)
		c->status = (struct port_range){ 200, 399 };
	return 0;
}

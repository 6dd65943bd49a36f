/*
 * sentinel.c - the conversation with one Sentinel after another.  What their answers
 * mean is for finder.c to decide.
 */
#define _GNU_SOURCE
#include "store/sentinel.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "store/resp.h"

enum {
	SENTINEL_CALM_MS = 250,			/* Between questions: all is well... */
	SENTINEL_HURRY_MS = 20,			/* ...or the primary is lost. */
	SENTINEL_BACKOFF_MAX = 4,		/* Doublings, after all have failed. */
	SENTINEL_TIMEOUT_MIN_MS = 50,
	SENTINEL_SOON_MS = 1,			/* Until a connection is made. */
};

void
sentinel_init(struct sentinel *s, struct tls_context *tls, unsigned int timeout_ms)
{
	*s = (struct sentinel){ .tls = tls,
				.wire = { .fd = -1 },
				.timeout_ms = timeout_ms / 4 };
	if (s->timeout_ms < SENTINEL_TIMEOUT_MIN_MS)
		s->timeout_ms = SENTINEL_TIMEOUT_MIN_MS;
}

void
sentinel_fini(struct sentinel *s)
{
	wire_close(&s->wire);
}

static uint64_t
pace_ms(bool up)
{
	return up ? SENTINEL_CALM_MS : SENTINEL_HURRY_MS;
}

/* The next one is asked at once; when all have failed, after a wait. */
static void
another(struct sentinel *s, struct finder *f, bool up, uint64_t now_ms)
{
	unsigned int rounds = s->n_failed / f->n_seeds;

	if (rounds > SENTINEL_BACKOFF_MAX)
		rounds = SENTINEL_BACKOFF_MAX;
	wire_close(&s->wire);
	s->state = SENTINEL_CLOSED;
	s->next_ms = now_ms;
	if (s->n_failed % f->n_seeds == 0)
		s->next_ms += up ? SENTINEL_CALM_MS : SENTINEL_HURRY_MS << rounds;
	finder_ask_another(f);
}

static void __attribute__((format(printf, 6, 7)))
failed(struct sentinel *s, struct finder *f, bool up, uint64_t now_ms, bool hopeless,
       const char *format, ...)
{
	char shown[WIRE_SHOWN_BYTES], what[160];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	for (char *c = what; *c != 0; c++)
		if ((unsigned char)*c < ' ')
			*c = ' ';
	wire_address_print(&f->place[f->asked].address, shown);
	snprintf(s->why, sizeof(s->why), "Sentinel %.80s: %s", shown, what);
	s->n_failed++;
	s->n_hopeless += hopeless;
	another(s, f, up, now_ms);
}

/* --- The question ------------------------------------------------------------------ */

static void
ask(struct sentinel *s, const struct store_url *u, bool auth, uint64_t now_ms)
{
	static const char get[] = "get-master-addr-by-name";
	struct resp_out o = { s->question, s->question + sizeof(s->question) };

	if (auth) {
		resp_put_head(&o, '*', u->user[0] != 0 ? 3 : 2);
		resp_put_string(&o, "AUTH", 4);
		if (u->user[0] != 0)
			resp_put_string(&o, u->user, strlen(u->user));
		resp_put_string(&o, u->password, strlen(u->password));
	}
	resp_put_head(&o, '*', 3);
	resp_put_string(&o, "SENTINEL", 8);
	resp_put_string(&o, get, sizeof(get) - 1);
	resp_put_string(&o, u->service, strlen(u->service));
	s->question_bytes = (size_t)(o.at - s->question);
	s->sent = s->answer_bytes = 0;
	s->answers_auth = auth;
	s->state = SENTINEL_ASKED;
	s->give_up_ms = now_ms + s->timeout_ms;
}

/* --- The answer -------------------------------------------------------------------- */

static bool
starts(const struct resp *r, const char *with)
{
	size_t n = strlen(with);

	return r->text_bytes >= n && memcmp(r->text, with, n) == 0;
}

static void
refused(struct sentinel *s, struct finder *f, const struct resp *r, bool up,
	uint64_t now_ms)
{
	const struct store_url *u = f->url;

	if (starts(r, "NOAUTH") && u->password[0] != 0 && !s->wants_password) {
		s->wants_password = true;
		ask(s, u, true, now_ms);
	} else if (starts(r, "NOAUTH")) {
		failed(s, f, up, now_ms, true,
		       "it wants a password: set user:password@ in the URL");
	} else if (starts(r, "WRONGPASS")) {
		failed(s, f, up, now_ms, true,
		       "wrong password: set user:password@ in the URL");
	} else if (starts(r, "NOPERM")) {
		failed(s, f, up, now_ms, true,
		       "the user may not: ACL SETUSER ... +sentinel|"
		       "get-master-addr-by-name");
	} else if (starts(r, "ERR unknown command")) {
		failed(s, f, up, now_ms, true,
		       "this is no Sentinel: is it a server's port?");
	} else {
		failed(s, f, up, now_ms, false, "it says \"%.*s\"",
		       (int)(r->text_bytes < 100 ? r->text_bytes : 100), r->text);
	}
}

/* Takes the answer to AUTH off; false: the rest is not to be looked at. */
static bool
take_auth(struct sentinel *s, struct finder *f, bool up, uint64_t now_ms)
{
	struct resp r;
	ssize_t n = resp_next(s->answer, s->answer_bytes, &r);

	if (n == 0)
		return false;
	/* One that wants no password says so and goes on. */
	if (n > 0 && r.type == '-' && !starts(&r, "ERR AUTH")) {
		refused(s, f, &r, up, now_ms);
		return false;
	}
	if (n < 0 || (r.type != '+' && r.type != '-')) {
		failed(s, f, up, now_ms, false, "this is no Sentinel");
		return false;
	}
	s->answer_bytes -= (size_t)n;
	memmove(s->answer, s->answer + n, s->answer_bytes);
	s->answers_auth = false;
	return true;
}

static enum finder_verdict
take(struct sentinel *s, struct finder *f, bool up, uint64_t now_ms)
{
	char why[FINDER_WHY_BYTES];
	struct finder_target told;
	enum finder_verdict verdict;
	struct resp r;

	if (s->answers_auth && !take_auth(s, f, up, now_ms))
		return FINDER_STAY;
	if (resp_next(s->answer, s->answer_bytes, &r) > 0 && r.type == '-') {
		refused(s, f, &r, up, now_ms);
		return FINDER_STAY;
	}

	ssize_t n = finder_answer_parse(s->answer, s->answer_bytes, &told);

	if (n == -ENOENT)
		failed(s, f, up, now_ms, true,
		       "it knows no service \"%s\": what do its 'sentinel monitor' lines "
		       "say?", f->url->service);
	else if (n < 0 || (n > 0 && (size_t)n != s->answer_bytes))
		failed(s, f, up, now_ms, false, "this is no Sentinel");
	if (n <= 0 || s->state != SENTINEL_ASKED)
		return FINDER_STAY;
	verdict = finder_told(f, &told, up, why);
	if (why[0] != 0) {
		failed(s, f, up, now_ms, true, "%s", why);
		return FINDER_STAY;
	}
	s->n_failed = s->n_hopeless = 0;
	s->state = SENTINEL_IDLE;
	s->next_ms = now_ms + pace_ms(up);
	if (verdict == FINDER_ASK_ANOTHER) {
		another(s, f, up, now_ms);
		s->next_ms = now_ms + pace_ms(up);
	}
	return verdict;
}

/* --- Turns ------------------------------------------------------------------------- */

static enum finder_verdict
converse(struct sentinel *s, struct finder *f, bool up, uint64_t now_ms)
{
	ssize_t n = 0;

	if (s->sent < s->question_bytes) {
		n = wire_send(&s->wire, s->question + s->sent,
			      s->question_bytes - s->sent);
		s->sent += n > 0 ? (size_t)n : 0;
	}
	if (n >= 0) {
		n = wire_receive(&s->wire, s->answer + s->answer_bytes,
				 sizeof(s->answer) - s->answer_bytes);
		s->answer_bytes += n > 0 ? (size_t)n : 0;
	}
	if (n < 0)
		failed(s, f, up, now_ms, n == -EPROTO, "%s", wire_why(&s->wire, (int)n));
	else if (n > 0)
		return take(s, f, up, now_ms);
	return FINDER_STAY;
}

enum finder_verdict
sentinel_turn(struct sentinel *s, struct finder *f, bool up, uint64_t now_ms)
{
	int err = 0;

	if (s->state == SENTINEL_CLOSED && now_ms >= s->next_ms) {
		err = wire_connect(&s->wire, &f->place[f->asked].address, s->tls);
		s->state = SENTINEL_CONNECTING;
		s->give_up_ms = now_ms + s->timeout_ms;
	}
	if (s->state == SENTINEL_CONNECTING && err == 0) {
		err = wire_ready(&s->wire);
		if (err > 0)
			ask(s, f->url, s->wants_password, now_ms);
	}
	if (err < 0)
		failed(s, f, up, now_ms, err == -EPROTO, "%s", wire_why(&s->wire, err));
	if (s->state == SENTINEL_IDLE && now_ms >= s->next_ms)
		ask(s, f->url, false, now_ms);

	enum finder_verdict verdict = FINDER_STAY;

	if (s->state == SENTINEL_ASKED)
		verdict = converse(s, f, up, now_ms);
	if ((s->state == SENTINEL_ASKED || s->state == SENTINEL_CONNECTING) &&
	    now_ms >= s->give_up_ms)
		failed(s, f, up, now_ms, false, "no answer");
	return verdict;
}

void
sentinel_hurry(struct sentinel *s, uint64_t now_ms)
{
	if (s->state == SENTINEL_IDLE || s->state == SENTINEL_CLOSED)
		s->next_ms = now_ms;
}

uint64_t
sentinel_due_ms(const struct sentinel *s, uint64_t now_ms)
{
	switch (s->state) {
	case SENTINEL_CLOSED:
	case SENTINEL_IDLE:
		return s->next_ms;
	case SENTINEL_CONNECTING:
		return now_ms + SENTINEL_SOON_MS;
	default:
		return s->sent < s->question_bytes ? now_ms + SENTINEL_SOON_MS
						   : s->give_up_ms;
	}
}

bool
sentinel_is_lost(const struct sentinel *s, const struct finder *f, bool *hopeless)
{
	*hopeless = s->n_hopeless == s->n_failed;
	return s->n_failed >= f->n_seeds;
}

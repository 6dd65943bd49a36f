/*
 * firewall_cookie.c - SYN cookies: initial sequence numbers that say of themselves, when
 * they come back acknowledged, which SYN they answered (RFC 4987, 3.6).
 *
 * A cookie is a MAC (27 bits) of the flow, the SYN's sequence number and what follows it:
 * a bit for the key, one for SACK, three for the MSS.  The keys are a record of the
 * store, so that every instance knows the cookies of all others.  It has two keys, which
 * take turns: when its time has passed, one instance replaces the older one.  So a cookie
 * counts for one to two KEY_MS.  Pipes have the keys in their notes; one that has not
 * heard of the newest key yet drops what was made by it.
 */
#include "nf/firewall.h"

#include "base/siphash.h"

enum {
	KEY_MS = 64 * 1000,
	MSS_BITS = 7,
	SACK_BIT = 1 << 3,
	KEY_BIT = 1 << 4,
	INFO_BITS = 31,
};

/* Those of the Internet, by what most hosts have behind them. */
static const uint16_t mss_of[MSS_BITS + 1] = { 536, 1220, 1300, 1360, 1400, 1440, 1452,
					       1460 };

struct cookie_name {
	uint32_t zero[4];			/* There is one record. */
};

struct cookie_keys {
	uint64_t key[2][2];
	uint32_t newest;			/* Which of them. */
	uint32_t zero;
};

static void keys_expired(struct nf_run *r, const void *key, const void *value);

NF_TABLE(cookie_keys, struct cookie_name, struct cookie_keys, .idle_ms = KEY_MS,
	 .expired = keys_expired)

/* --- keys --------------------------------------------------------------------- */

static void
new_key(struct nf_run *r, struct cookie_keys *keys, unsigned int i)
{
	uint64_t random = nf_random(r);
	/* Of one run there is only one random number. */
	uint64_t more = siphash(keys->key[!i], &random, sizeof(random));

	keys->key[i][0] = random | 1;
	keys->key[i][1] = more;
	keys->newest = i;
}

static void
keys_expired(struct nf_run *r, const void *key, const void *value)
{
	struct cookie_keys next = *(const struct cookie_keys *)value;

	new_key(r, &next, !next.newest);
	cookie_keys_write(r, key, &next);
}

void
firewall_cookie_note(struct nf_run *r, void *note)
{
	const struct cookie_name name = { { 0 } };
	const struct cookie_keys *keys = cookie_keys_peek(r, &name);
	struct cookie_keys first = { 0 };

	static_assert(sizeof(*keys) <= NF_MAX_NOTE_BYTES, "a note");
	if (nf_pending(r))
		return;
	if (keys != NULL) {
		memcpy(note, keys, sizeof(*keys));
		return;
	}
	new_key(r, &first, 0);
	new_key(r, &first, 1);
	cookie_keys_insert(r, &name, &first, KEY_MS);
}

/* --- cookies ------------------------------------------------------------------ */

static uint32_t
cookie_of(const struct cookie_keys *keys, const struct flow *flow, uint32_t seq,
	  uint32_t info)
{
	struct {
		struct flow flow;
		uint32_t seq, info;
	} about = { .flow = *flow, .seq = seq, .info = info };
	uint64_t mac;

	if (flow->version == 4)
		memset((uint8_t *)&about.flow + FLOW4_BYTES, 0,
		       FLOW6_BYTES - FLOW4_BYTES);
	mac = siphash(keys->key[(info & KEY_BIT) != 0], &about, sizeof(about));
	return ((uint32_t)mac & ~(uint32_t)INFO_BITS) | info;
}

static unsigned int
mss_index(uint16_t mss)
{
	unsigned int i = MSS_BITS;

	while (i > 0 && mss_of[i] > mss)
		i--;
	return i;
}

bool
firewall_cookie_make(const struct nf_run *r, const struct flow *flow,
		     const struct firewall_syn *syn, uint32_t *cookie)
{
	const struct cookie_keys *keys = nf_note(r);
	uint32_t info = mss_index(syn->mss) | (syn->sack ? SACK_BIT : 0) |
			(keys->newest != 0 ? KEY_BIT : 0);

	if (keys->key[0][0] == 0)
		return false;
	*cookie = cookie_of(keys, flow, syn->seq, info);
	return true;
}

bool
firewall_cookie_check(const struct nf_run *r, const struct flow *flow, uint32_t cookie,
		      struct firewall_syn *syn)
{
	const struct cookie_keys *keys = nf_note(r);

	if (keys->key[0][0] == 0 ||
	    cookie_of(keys, flow, syn->seq, cookie & INFO_BITS) != cookie)
		return false;
	syn->mss = mss_of[cookie & MSS_BITS];
	syn->sack = (cookie & SACK_BIT) != 0;
	return true;
}

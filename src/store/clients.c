/*
 * clients.c - which frames were applied, and how their groups were answered, so that
 * a client that lost an answer may ask again without a second effect.
 *
 * Only frames with groups count.  Of each client the last CORE_CLIENT_FRAMES are
 * remembered; their ids rise.  Clients lie in a hash and in a list by when they were
 * heard of; the one heard of the longest ago goes when there are too many.
 *
 * A request that is repeated must not have a second effect, and anyone may make up any
 * number of clients.  So whoever was heard of within the last CLIENTS_RECENT does not
 * make way for others: who might still repeat something is remembered, and who comes new,
 * or wants more, is refused for so long.  While the server's memory is short nobody comes
 * new at all.  A replica refuses nothing, for its primary has decided already.
 */
#include "store/partition.h"

#include <errno.h>

enum {
	CLIENTS_HEADS = 4096,
	CLIENTS_MAX = 65536,
	CLIENTS_MAX_BYTES = 256 << 20,		/* Answers of a frame may be 86 KiB. */
	CLIENTS_SILENCE = 3600 * 1000 / WHEEL_TICK_MS,
	CLIENTS_RECENT = 10 * 1000 / WHEEL_TICK_MS,
	CLIENTS_FIRST_ROOM = 16,		/* Bytes of answers. */
	CLIENTS_SHORT_ROOM = 1024,		/* The most while memory is short. */
};

int
clients_init(struct clients *c, uint64_t secret)
{
	size_t bytes = CLIENTS_HEADS * sizeof(struct client *);

	*c = (struct clients){ .secret = secret | 1 };
	c->heads = memory_alloc(bytes, &c->memory_bytes);
	if (c->heads == NULL)
		return -ENOMEM;
	memset(c->heads, 0, bytes);
	return 0;
}

static struct client **
client_head(const struct clients *c, uint64_t id)
{
	__uint128_t product = (__uint128_t)(id ^ c->secret) * c->secret;

	return &c->heads[(uint64_t)(product >> 64 ^ product) % CLIENTS_HEADS];
}

static struct client *
client_find(const struct clients *c, uint64_t id)
{
	struct client *client = *client_head(c, id);

	while (client != NULL && client->id != id)
		client = client->chain;
	return client;
}

/* The list: 'newest' has been heard of last. */
static void
client_link(struct clients *c, struct client *client)
{
	client->newer = NULL;
	client->older = c->newest;
	*(c->newest != NULL ? &c->newest->newer : &c->oldest) = client;
	c->newest = client;
}

static void
client_unlink(struct clients *c, struct client *client)
{
	*(client->older != NULL ? &client->older->newer : &c->oldest) = client->newer;
	*(client->newer != NULL ? &client->newer->older : &c->newest) = client->older;
}

static void
client_heard(struct clients *c, struct client *client, uint32_t now)
{
	client->seen = now;
	if (c->newest != client) {
		client_unlink(c, client);
		client_link(c, client);
	}
}

static int
client_new(struct clients *c, uint64_t id, struct client **out)
{
	struct client *client = memory_alloc(sizeof(*client), &c->memory_bytes);
	struct client **head = client_head(c, id);

	if (client == NULL)
		return -ENOMEM;
	*client = (struct client){ .id = id, .chain = *head };
	*head = client;
	client_link(c, client);
	c->n++;
	*out = client;
	return 0;
}

static void
client_free(struct clients *c, struct client *client)
{
	struct client **at = client_head(c, client->id);

	while (*at != client)
		at = &(*at)->chain;
	*at = client->chain;
	client_unlink(c, client);
	for (unsigned int i = 0; i < CORE_CLIENT_FRAMES; i++)
		memory_free(client->frames[i].answers, client->frames[i].room,
			    &c->memory_bytes);
	memory_free(client, sizeof(*client), &c->memory_bytes);
	c->n--;
}

void
clients_fini(struct clients *c)
{
	while (c->oldest != NULL)
		client_free(c, c->oldest);
	memory_free(c->heads, CLIENTS_HEADS * sizeof(struct client *), &c->memory_bytes);
}

int
clients_seen(const struct clients *c, uint64_t id, uint64_t frame,
	     const struct client_frame **out)
{
	const struct client *client = client_find(c, id);

	if (client == NULL || client->n_frames == 0 ||
	    frame > client->frames[client->newest].id)
		return 0;
	for (unsigned int i = 0; i < client->n_frames; i++) {
		const struct client_frame *f =
			&client->frames[(client->newest - i) % CORE_CLIENT_FRAMES];

		if (f->id == frame) {
			*out = f;
			return 1;
		}
	}
	return -EALREADY;
}

/* Room for that many bytes of answers, where there is some already. */
static uint32_t
answers_room(uint32_t had, size_t bytes)
{
	uint32_t room = had == 0 ? CLIENTS_FIRST_ROOM : had;

	while (room < bytes)
		room *= 2;
	return room;
}

static int
answers_reserve(struct clients *c, struct client_frame *f, size_t bytes)
{
	uint32_t room = answers_room(f->room, bytes);
	uint8_t *answers;

	if (f->room >= bytes)
		return 0;
	answers = memory_alloc(room, &c->memory_bytes);
	if (answers == NULL)
		return -ENOMEM;
	memory_free(f->answers, f->room, &c->memory_bytes);
	f->answers = answers;
	f->room = room;
	return 0;
}

/* Makes others give way until there is room for one more client (NULL: it is new), or for
 * more answers of one. */
static bool
clients_make_way(struct clients *c, const struct client *client, size_t bytes,
		 enum clients_way way, uint32_t now)
{
	uint32_t had = 0;
	size_t more;

	if (client != NULL)
		had = client->frames[(client->newest + 1) % CORE_CLIENT_FRAMES].room;
	if (client != NULL && had >= bytes)
		return true;
	if (way == CLIENTS_SHORT && (client == NULL || bytes > CLIENTS_SHORT_ROOM))
		return false;
	more = answers_room(had, bytes) - had + (client == NULL ? sizeof(*client) : 0);
	while (c->n + (client == NULL) > CLIENTS_MAX ||
	       c->memory_bytes + more > CLIENTS_MAX_BYTES) {
		if (c->oldest == NULL || c->oldest == client)
			return false;
		if (way != CLIENTS_FOLLOW && now - c->oldest->seen <= CLIENTS_RECENT)
			return false;
		client_free(c, c->oldest);
	}
	return true;
}

int
clients_prepare(struct clients *c, uint64_t id, uint32_t n_groups, enum clients_way way,
		uint32_t now, struct client **out, uint8_t **answers)
{
	size_t bytes = client_answers_bytes(n_groups);
	struct client *client = client_find(c, id);
	bool known = client != NULL;
	struct client_frame *f;

	if (known)
		client_heard(c, client, now);
	if (!clients_make_way(c, client, bytes, way, now) && way != CLIENTS_FOLLOW)
		return -ENOMEM;
	if (!known && client_new(c, id, &client) != 0)
		return -ENOMEM;
	f = &client->frames[(client->newest + 1) % CORE_CLIENT_FRAMES];
	if (answers_reserve(c, f, bytes) != 0) {
		if (!known)
			client_free(c, client);
		return -ENOMEM;
	}
	client->seen = now;
	memset(f->answers, 0, bytes);
	*out = client;
	*answers = f->answers;
	return 0;
}

void
clients_remember(struct client *client, uint64_t frame, uint32_t n_groups)
{
	client->newest = (client->newest + 1) % CORE_CLIENT_FRAMES;
	client->frames[client->newest].id = frame;
	client->frames[client->newest].n_groups = n_groups;
	if (client->n_frames < CORE_CLIENT_FRAMES)
		client->n_frames++;
}

void
clients_forget(struct clients *c, uint64_t id)
{
	struct client *client = client_find(c, id);

	if (client != NULL)
		client_free(c, client);
}

const struct client *
clients_silent(const struct clients *c, uint32_t now)
{
	if (c->oldest == NULL || now - c->oldest->seen <= CLIENTS_SILENCE)
		return NULL;
	return c->oldest;
}

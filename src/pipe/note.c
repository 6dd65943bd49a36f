/*
 * note.c - what pipes remember between packets: the notes of functions, made by runs
 * without a packet.
 *
 * A note is made in a buffer of its own, and shown from the end of its run on, so that
 * a handler never sees half of one.  It is made for one static state: when that is
 * replaced, it is forgotten, and one that is under way comes to nothing.
 */
#include "pipe/run.h"

#include <stdlib.h>

enum {
	NOTE_TRIES = RUN_MAX_TRIPS,		/* Then it waits for its time. */
};

struct note {
	struct errand errand;			/* First. */
	bool wanted, under_way;
	unsigned int n_tries;			/* In vain, one after the other. */
	unsigned int generation;		/* Of the static state it is made for. */
	unsigned int shown;			/* Which buffer is. */
	uint64_t buffer[2][NF_MAX_NOTE_BYTES / 8];
};

struct notes {
	unsigned int generation;
	struct note of[NF_MAX_STAGES];		/* By the place in the chain. */
};

static const uint64_t nothing[NF_MAX_NOTE_BYTES / 8];

const void *
nf_note(const struct nf_run *r)
{
	const struct run_context *c = context_of(r);

	return c->note[c->at];
}

static const struct nf *
function_of(const struct pipe *p, unsigned int stage)
{
	return p->context.chain.stage[stage].nf;
}

uint32_t
pipe_note_ms(const struct pipe *p)
{
	uint32_t least = 0;

	for (unsigned int i = 0; i < p->context.chain.n; i++) {
		uint32_t ms = function_of(p, i)->note_ms;

		if (function_of(p, i)->note != NULL && (least == 0 || ms < least))
			least = ms;
	}
	return least;
}

void
pipe_note(struct pipe *p)
{
	for (unsigned int i = 0; p->notes != NULL && i < p->context.chain.n; i++) {
		p->notes->of[i].wanted = function_of(p, i)->note != NULL;
		p->notes->of[i].n_tries = 0;
	}
}

int
note_open(struct pipe *p)
{
	for (unsigned int i = 0; i < sizeof(p->context.note) / sizeof(p->context.note[0]);
	     i++)
		p->context.note[i] = nothing;
	if (pipe_note_ms(p) == 0)
		return 0;
	p->notes = calloc(1, sizeof(*p->notes));
	if (p->notes == NULL)
		return -ENOMEM;
	pipe_note(p);
	return 0;
}

void
note_close(struct pipe *p)
{
	free(p->notes);
}

void
note_forget(struct pipe *p)
{
	if (p->notes == NULL)
		return;
	p->notes->generation++;
	for (unsigned int i = 0; i < p->context.chain.n; i++)
		p->context.note[i] = nothing;
	pipe_note(p);
}

static enum nf_verdict
execute(struct nf_run *r)
{
	struct note *n = (struct note *)r;
	void *to = n->buffer[!n->shown];

	memset(to, 0, sizeof(n->buffer[0]));
	n->generation = r->pipe->notes->generation;
	function_of(r->pipe, n->errand.stage)->note(r, to);
	return r->n_pending > 0 ? NF_WAIT : NF_KEEP;
}

/* What it says is right, whether there was room for what it wrote or not. */
static bool
is_right(const struct nf_run *r)
{
	return r->verdict == NF_KEEP || r->drop == NF_DROP_STORE_FULL ||
	       r->drop == NF_DROP_STORE_REFUSED;
}

static void
end(struct pipe *p, struct nf_run *r)
{
	struct note *n = (struct note *)r;

	n->under_way = false;
	if (r->verdict != NF_KEEP)
		n->wanted |= r->drop == NF_DROP_CONFLICT && ++n->n_tries < NOTE_TRIES;
	else
		n->wanted |= r->has_group;
	if (!is_right(r) || n->generation != p->notes->generation)
		return;
	n->n_tries = 0;
	n->shown = !n->shown;
	p->context.note[n->errand.stage] = n->buffer[n->shown];
}

bool
note_gather(struct pipe *p)
{
	bool any = false;

	for (unsigned int i = 0; i < p->context.chain.n; i++) {
		struct note *n = &p->notes->of[i];

		if (!n->wanted || n->under_way || errand_room(p) == 0)
			continue;
		n->wanted = false;
		n->under_way = true;
		n->errand.stage = (uint8_t)i;
		n->errand.execute = execute;
		n->errand.end = end;
		errand_start(p, &n->errand);
		any = true;
	}
	return any;
}

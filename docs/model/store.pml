/*
 * store.pml - a model of the store's protocol for spin: commit, retry, failover and
 * leases.  README.md says what is in it, what is not, and how to run it; what has to
 * hold is in properties.pml.
 *
 * All state is global and each action is one step, so that a counterexample reads as a
 * list of actions.  There is no time: what may happen later may happen at any moment,
 * or never.  A process that is killed or stopped is one that is not scheduled.
 *
 * A server is its log: the answers that it gave, in order, each with its effect.  What
 * the record holds, and what the server remembers of a client's frames, follow from
 * the log.  What a replica has is a beginning of its primary's log; what it has not yet
 * is lost when it is promoted.
 *
 * There is one record that groups are about.  It has the version BORN before all.
 */
#ifndef N_CLIENTS
#define N_CLIENTS	2
#endif
#ifndef N_FRAMES
#define N_FRAMES	2		/* Of the first client; a frame is one group. */
#endif
#ifndef N_OTHERS
#define N_OTHERS	N_FRAMES	/* Of each other client, at most as many. */
#endif
#ifndef N_SERVERS
#define N_SERVERS	2
#endif
#ifndef MEMORY
#define MEMORY		N_FRAMES	/* Frames of a client it remembers. */
#endif
#ifndef N_PROMOTIONS
#define N_PROMOTIONS	2
#endif
#ifndef COMMIT
#define COMMIT		(N_SERVERS - 1)	/* Replicas that have to have it. */
#endif

/* --- What is asked for ----------------------------------------------------------- */

#define N		(N_CLIENTS * N_FRAMES)
#define FRAME(c, i)	((c) * N_FRAMES + (i))
#define OWNER(f)	((f) / N_FRAMES)
#define INDEX(f)	((f) % N_FRAMES)
#define n_frames(c)	((c) == 0 -> N_FRAMES : N_OTHERS)

#define ABSENT		0		/* A version. */
#define BORN		1
#define VERSION(f)	((f) + 2)	/* What frame f writes. */

#define CAS		1		/* CHECK of the version, PUT of another. */
#define ADD		2		/* To a counter, on no condition. */
#define SETTLE		3		/* Deletes the record, if it is due. */
#define WITHOUT		4		/* CHECK that there is no record, ADD. */
/* Frame N is that of somebody else, who writes the record once and reports nothing. */
byte kind[N + 1];			/* 0: not asked for yet. */
byte expect[N + 1];			/* The version that it checks. */

/* --- Servers --------------------------------------------------------------------- */

#define NONE		0
#define APPLIED		1
#define CONFLICT	2
#define EXPIRED		3		/* The record, by itself. */
#define ENTRY(f, a)	((f) * 4 + (a))
#define FRAME_OF(e)	(((e) & 127) / 4)
#define ANSWER_OF(e)	((e) & 3)
#define FORGOTTEN	128		/* An entry's effect without its answer. */

#define LOG_MAX		(2 * N + 2)
byte log[N_SERVERS * LOG_MAX];
#define LOG(s, k)	log[(s) * LOG_MAX + (k)]
byte n_log[N_SERVERS];

bit primary[N_SERVERS];			/* By its own account. */
byte term[N_SERVERS];			/* Of its last time as a primary. */
byte source[N_SERVERS];			/* Whose replica it is... */
bit synced[N_SERVERS];			/* ...and took its state. */
byte acked[N_SERVERS * N_SERVERS];	/* Entries, by each replica, to each primary. */
#define ACKED(s, r)	acked[(s) * N_SERVERS + (r)]
/* What replicas do not know: the record's time has passed; who has a lease of it. */
bit due[N_SERVERS];
byte leased[N_SERVERS];			/* A bit for each client. */

byte newest;				/* The server that was promoted last. */
byte n_terms;

/* --- Clients --------------------------------------------------------------------- */

/* A connection for frames: all frames from 'at' on are in flight.  (Whether one was
 * sent makes no difference until it is executed.) */
#define NOWHERE		N_SERVERS
byte server[N_CLIENTS], at[N_CLIENTS];
byte known[N_CLIENTS];			/* The term, as SNF.OPEN answered. */
/* The connection before: what was sent over it may still be executed, in its term. */
byte old_server[N_CLIENTS], old_at[N_CLIENTS], old_term[N_CLIENTS];
byte answer[N];
byte n_final[N_CLIENTS];		/* Frames that are reported, for good. */
/* MARK was answered when the log had 'mark' entries: WAIT for them makes the frames
 * below 'covers' final.  No WAIT is out while 'covers' is 0. */
byte mark[N_CLIENTS], covers[N_CLIENTS];
byte n_breaks;
#ifdef AUTO
bit wanted[N_CLIENTS];			/* It has seen a replica. */
#endif

/* Server s answers what is meant for term t.  (SNFSTALE, READONLY and the like are not
 * modelled: such a client has to connect again.) */
#define is_primary(s, t)	((s) != NOWHERE && primary[s] && term[s] == (t))
#define serves(c)		is_primary(server[c], known[c])
#ifdef FRAME_ANY_TERM
#define takes(s, t)		((s) != NOWHERE && primary[s])
#else
#define takes(s, t)		is_primary(s, t)
#endif

#ifdef VISIBLE
#define hidden				/* A search by breadth has to see all. */
#endif
hidden byte a, e, f, g, i, k, n, v;	/* Mean nothing between steps. */

#include "properties.pml"

/* --- A server executes a frame --------------------------------------------------- */

/* Sets a to what server s remembers of frame f.  A frame that is older than one that it
 * remembers is not applied. */
inline recall(s)
{
	a = NONE;
	n = 0;
	for (k : 1 .. n_log[s]) {
		e = LOG(s, k - 1);
		if
		:: e == EXPIRED || (e & FORGOTTEN)
		:: else ->
			if
			:: FRAME_OF(e) == f -> a = ANSWER_OF(e)
			:: OWNER(FRAME_OF(e)) == OWNER(f) && FRAME_OF(e) > f -> n++
			:: else
			fi
		fi
	}
	if
	:: n >= (a == NONE -> 1 : MEMORY) -> P2_forgotten = 1
	:: else
	fi
}

inline append(s, entry)
{
	LOG(s, n_log[s]) = entry;
	n_log[s]++
}

/* Sets a to the answer to frame f, which is new to server s, and changes the record. */
inline judge(s)
{
	replay(s, n_log[s]);
#ifdef PLAIN
	/* The record's time has passed: it is absent.  Its deletion goes to the
	 * replicas before what was answered because of it. */
	if
	:: due[s] && v != ABSENT && kind[f] != ADD ->
		v = ABSENT;
#ifndef DELETE_LATER
		append(s, EXPIRED);
		due[s] = 0
#endif
	:: else
	fi;
#endif
	if
	:: kind[f] == CAS && v == expect[f] ->
		a = APPLIED;
		due[s] = 0;
		leased[s] = 0
#ifdef SETTLE_ANY_VERSION
	:: kind[f] == SETTLE && v != ABSENT && due[s] ->
#elif defined(SETTLE_NOT_DUE)
	:: kind[f] == SETTLE && v == expect[f] ->
#else
	:: kind[f] == SETTLE && v == expect[f] && due[s] ->
#endif
		P4_touched = P4_touched | !due[s];
		a = APPLIED;
		due[s] = 0;
		leased[s] = 0
	:: kind[f] == ADD || (kind[f] == WITHOUT && v == ABSENT) -> a = APPLIED
	:: else -> a = CONFLICT
	fi;
	append(s, ENTRY(f, a))
}

inline execute(s)
{
	recall(s);
	if
	:: a == NONE -> judge(s)
	:: else
	fi
}

/* --- What a client does ---------------------------------------------------------- */

inline hang_up(c)
{
	old_server[c] = NOWHERE;
	old_at[c] = 0;
	old_term[c] = 0
}

/* Connects to server s, which answers SNF.OPEN.  If that is another term, nothing that
 * is not final is believed, and all of it is asked again. */
inline connect(c, s)
{
	printf("client %d: connects to server %d, term %d\n", c, s, term[s]);
	hang_up(c);
	if
	:: serves(c) && at[c] < n_frames(c) ->
		old_server[c] = server[c];
		old_at[c] = at[c];
		old_term[c] = known[c]
	:: else
	fi;
#ifndef NOT_AGAIN
	if
	:: known[c] != term[s] ->
		for (i : n_final[c] .. n_frames(c) - 1) {
			answer[FRAME(c, i)] = NONE
		}
	:: else
	fi;
#endif
	server[c] = s;
	known[c] = term[s];
	at[c] = n_final[c];
	do
	:: at[c] < n_frames(c) && answer[FRAME(c, at[c])] != NONE -> at[c]++
	:: else -> break
	od;
#ifdef AUTO
	wanted[c] = wanted[c] | (!primary[0] && source[0] == s) |
		    (!primary[1] && source[1] == s);
#endif
	covers[c] = 0;
	mark[c] = 0
}

/* The next frame is executed, and its answer arrives. */
inline advance(c)
{
	f = FRAME(c, at[c]);
	execute(server[c]);
	answer[f] = a;
	at[c]++;
	printf("client %d: server %d answers frame %d with %d\n", c, server[c], f, a);
#ifdef RELEASE_EARLY
	report(c)
#endif
}

/* The same over the connection before: nobody hears the answer. */
inline straggle(c)
{
	f = FRAME(c, old_at[c]);
	execute(old_server[c]);
	old_at[c]++;
	printf("client %d: server %d answers frame %d too late with %d\n", c,
	       old_server[c], f, a);
	if
	:: old_at[c] == n_frames(c) -> hang_up(c)
	:: else
	fi
}

/* MARK: covers what was answered when it was sent.  It goes into the log that replicas
 * get, behind all that. */
inline send_mark(c)
{
#ifndef MARK_SILENT
	mark[c] = n_log[server[c]];
#endif
	covers[c] = at[c];
	printf("client %d: MARK at server %d, entry %d, for %d frames\n", c, server[c],
	       n_log[server[c]], at[c])
}

/* WAIT: the replicas that have acknowledged the mark, and how many are asked for. */
#define got(c, r)	((r) != server[c] && ACKED(server[c], r) >= mark[c])
#define n_got(c)	(got(c, 0) + got(c, 1) + (N_SERVERS > 2 && got(c, N_SERVERS - 1)))
#ifdef AUTO
#define n_wanted(c)	wanted[c]
#else
#define n_wanted(c)	COMMIT
#endif
#if defined(MARK_ONCE) || defined(MARK_ANY_TERM)
#define still(c)	primary[server[c]]
#else
/* A second MARK, behind WAIT, has shown that the term was the same all the time. */
#define still(c)	serves(c)
#endif

inline commit(c)
{
	printf("client %d: WAIT at server %d answers, %d frames are final\n", c,
	       server[c], covers[c]);
	do
	:: n_final[c] < covers[c] -> report(c)
	:: else -> break
	od;
	covers[c] = 0;
	mark[c] = 0;
	if
	:: n_final[c] == n_frames(c) ->
		hang_up(c);
		server[c] = NOWHERE;
		known[c] = 0
	:: else
	fi
}

#ifdef MARK_ANY_TERM
#define markable(c)	(server[c] != NOWHERE && primary[server[c]])
#else
#define markable(c)	serves(c)
#endif
/* A connection may break at any time, for no reason. */
#ifdef N_BREAKS
#define broken(c)	(!serves(c) || n_breaks < N_BREAKS)
#define count_break(c)	n_breaks = n_breaks + serves(c)
#else
#define broken(c)	true
#define count_break(c)	skip
#endif
#define connects(c, s)						\
	d_step { n_final[c] < n_frames(c) && broken(c) && primary[s] ->	\
		count_break(c); connect(c, s) }

/* A lease of the record is pushed: the settle is the client's next frame. */
#define leasable(c)							\
	(kind[FRAME(c, n_frames(c) - 1)] == NONE && serves(c) && due[server[c]])
inline lease(c)
{
	f = FRAME(c, 0);
	do
	:: kind[f] != NONE -> f++
	:: else -> break
	od;
	replay(server[c], n_log[server[c]]);
	kind[f] = SETTLE;
	expect[f] = v;
	P4_two_holders = P4_two_holders | leased[server[c]] != 0;
	leased[server[c]] = leased[server[c]] | (1 << c);
	printf("client %d: gets a lease from server %d, settles by frame %d\n", c,
	       server[c], f)
}

proctype Client(byte c)
{
end:	do
	:: connects(c, 0)
	:: connects(c, 1)
#if N_SERVERS == 3
	:: connects(c, 2)
#endif
	:: d_step { at[c] < n_frames(c) && takes(server[c], known[c]) &&
		    kind[FRAME(c, at[c])] != NONE -> advance(c); all_hold() }
	:: d_step { old_at[c] < n_frames(c) && takes(old_server[c], old_term[c]) &&
		    kind[FRAME(c, old_at[c])] != NONE -> straggle(c); all_hold() }
	:: d_step { covers[c] == 0 && at[c] > n_final[c] && markable(c) -> send_mark(c) }
	:: d_step { covers[c] != 0 && still(c) && n_got(c) >= n_wanted(c) ->
		commit(c); all_hold() }
#ifdef LEASES
#ifdef LEASE_TWICE
	:: d_step { leasable(c) -> lease(c); all_hold() }
#else
	:: d_step { leasable(c) && leased[server[c]] == 0 -> lease(c); all_hold() }
#endif
#endif
	od
}

/* --- Replication and failover ---------------------------------------------------- */

#ifdef NO_MEMORY
#define REPLICATED	FORGOTTEN
#else
#define REPLICATED	0
#endif

/* The next entry arrives at replica r and is acknowledged. */
inline replicate(r)
{
	LOG(r, n_log[r]) = LOG(source[r], n_log[r]) | REPLICATED;
	n_log[r]++;
	ACKED(source[r], r) = n_log[r];
	printf("server %d: gets entry %d from server %d\n", r, n_log[r], source[r])
}

/* A replica throws away what it has and takes its primary's state. */
inline sync(r)
{
	for (k : 0 .. LOG_MAX - 1) {
		LOG(r, k) = (k < n_log[source[r]] -> LOG(source[r], k) : 0)
	}
	n_log[r] = n_log[source[r]];
	synced[r] = 1;
	ACKED(source[r], r) = n_log[r];
	printf("server %d: takes the state of server %d\n", r, source[r])
}

/* Server s is made a primary.  The one that was may not know of it, and go on. */
inline promote(s)
{
	n_terms++;
	term[s] = n_terms;
	newest = s;
	primary[s] = 1;
	source[s] = s;
	for (k : 0 .. N_SERVERS - 1) {
		ACKED(s, k) = 0
	}
	printf("server %d: is promoted, term %d\n", s, n_terms);
	check_primary(s)
}

/* Server s learns who is the primary now, and becomes its replica. */
inline follow(s)
{
	primary[s] = 0;
	source[s] = newest;
	synced[s] = 0;
	due[s] = 0;
	leased[s] = 0;
	for (k : 0 .. N_SERVERS - 1) {
		ACKED(s, k) = 0
	}
	printf("server %d: becomes a replica of server %d\n", s, newest)
}

/* The record's idle time passes on a primary. */
inline tick(s)
{
	replay(s, n_log[s]);
	due[s] = v != ABSENT;
	printf("server %d: the time of version %d passes\n", s, v)
}

/* Somebody else writes the record. */
inline renew(s)
{
	replay(s, n_log[s]);
	kind[N] = CAS;
	expect[N] = v;
	append(s, ENTRY(N, APPLIED));
	due[s] = 0;
	leased[s] = 0;
	printf("server %d: somebody writes version %d\n", s, VERSION(N))
}

proctype Server(byte s)
{
end:	do
	:: d_step { !primary[s] && synced[s] && primary[source[s]] &&
		    n_log[s] < n_log[source[s]] -> replicate(s) }
	:: d_step { !primary[s] && !synced[s] && primary[source[s]] -> sync(s) }
	:: d_step { !primary[s] && n_terms <= N_PROMOTIONS -> promote(s); all_hold() }
#ifndef NO_RETURN
	:: d_step { s != newest && (primary[s] || source[s] != newest) -> follow(s) }
#endif
#if defined(LEASES) || defined(PLAIN)
	:: d_step { primary[s] && !due[s] -> tick(s) }
#endif
#ifdef LEASES
	/* Somebody reads the record; a lease runs out. */
	:: d_step { primary[s] && due[s] ->
		due[s] = 0; printf("server %d: somebody reads it\n", s) }
	:: d_step { leased[s] != 0 ->
		leased[s] = 0; printf("server %d: the lease runs out\n", s) }
	:: d_step { primary[s] && kind[N] == NONE -> renew(s) }
#endif
#ifdef PLAIN
	:: d_step { primary[s] && due[s] ->
		append(s, EXPIRED); due[s] = 0; printf("server %d: deletes it\n", s) }
#endif
#ifdef RESTART_STALE
	/* It dies and comes back without its last entry. */
	:: d_step { primary[s] && n_terms <= N_PROMOTIONS && n_log[s] > 0 ->
		n_log[s]--;
		LOG(s, n_log[s]) = 0;
		printf("server %d: restarts without its last entry\n", s);
		for (k : 0 .. N_SERVERS - 1) {
			synced[k] = synced[k] && source[k] != s
		}
		promote(s); all_hold() }
#endif
	od
}

/* --- Who asks for what ----------------------------------------------------------- */

inline ask(f, what, version)
{
	kind[f] = what;
	expect[f] = version
}

inline choose(f)
{
	if
#ifdef LEASES
	:: skip				/* Leases decide. */
#elif defined(PLAIN)
	:: ask(f, WITHOUT, ABSENT)
	:: ask(f, CAS, BORN)
#elif defined(CHAIN)
	:: INDEX(f) == 0 -> ask(f, CAS, BORN)
	:: INDEX(f) == 1 -> ask(f, CAS, VERSION(f - 1))
	:: INDEX(f) > 1 -> ask(f, ADD, ABSENT)
#else
	:: ask(f, ADD, ABSENT)
	:: INDEX(f) == 0 -> ask(f, CAS, BORN)
	/* A version of its own, or of another's, that may not have been acknowledged. */
	:: INDEX(f) > 0 -> ask(f, CAS, VERSION(f - 1))
	:: INDEX(f) > 0 && N_CLIENTS > 1 -> ask(f, CAS, VERSION((f + N_FRAMES - 1) % N))
#endif
	fi;
	printf("frame %d: kind %d, expects %d, writes %d\n", f, kind[f], expect[f],
	       VERSION(f))
}

init
{
	byte c;

	atomic {
		primary[0] = 1;
		term[0] = 1;
		n_terms = 1;
		for (c : 1 .. N_SERVERS - 1) {
			synced[c] = 1
		}
		for (c : 0 .. N_CLIENTS - 1) {
			server[c] = NOWHERE;
			at[c] = n_frames(c);
			old_server[c] = NOWHERE
		}
		for (c : 0 .. N - 1) {
			if
			:: INDEX(c) < n_frames(OWNER(c)) -> choose(c)
			:: else
			fi
		}
		for (c : 0 .. N_SERVERS - 1) {
			run Server(c)
		}
		for (c : 0 .. N_CLIENTS - 1) {
			run Client(c)
		}
		c = 0
	}
}

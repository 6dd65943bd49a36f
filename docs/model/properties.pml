/*
 * properties.pml - what has to hold of store.pml.  Each property is a bit that is set
 * when it is broken, so that spin's message names it.
 *
 * "Reported" is what a client gave to its caller for good: the packets that depend on
 * it leave.
 */
bit P1_lost;			/* A reported write is not in a later primary. */
bit P2_twice;			/* A frame has its effect twice. */
bit P2_unreported;		/* It has one, and a conflict was reported. */
bit P2_forgotten;		/* It is asked again, and its answer is forgotten. */
bit P3_two_winners;		/* Two groups on one version are reported applied. */
bit P3_no_order;		/* A primary's state does not explain its answers. */
bit P4_two_holders;		/* A primary leases a record to two at a time. */
bit P4_two_effects;		/* The end of a record is settled twice. */
bit P4_touched;			/* One is settled whose time has not passed. */

#ifdef ONLY
#define all_hold()	assert(!ONLY)
#else
inline all_hold()
{
	assert(!P1_lost);
	assert(!P2_twice);
	assert(!P2_unreported);
	assert(!P2_forgotten);
	assert(!P3_two_winners);
	assert(!P3_no_order);
	assert(!P4_two_holders);
	assert(!P4_two_effects);
	assert(!P4_touched)
}
#endif

/* P5: as long as connections break only so often and a primary stays, and its replicas
 * come back, every frame becomes final. */
#ifdef LIVENESS
#if N_CLIENTS == 1
ltl P5_answered { <> (n_final[0] == N_FRAMES) }
#else
ltl P5_answered { <> (n_final[0] == N_FRAMES && n_final[1] == N_OTHERS) }
#endif
#endif

/* Sets v to the record's version after the first "upto" entries of the log of s. */
inline replay(s, upto)
{
	v = BORN;
	for (k : 1 .. upto) {
		e = LOG(s, k - 1);
		if
		:: e == EXPIRED -> v = ABSENT
		:: e != EXPIRED && ANSWER_OF(e) == APPLIED && kind[FRAME_OF(e)] == CAS ->
			v = VERSION(FRAME_OF(e))
		:: e != EXPIRED && ANSWER_OF(e) == APPLIED &&
		   kind[FRAME_OF(e)] == SETTLE ->
			v = ABSENT
		:: else
		fi
	}
}

/* Compares what was reported of frame f with the log of s, a primary. */
inline compare(s)
{
	n = 0;
	for (k : 1 .. n_log[s]) {
		e = LOG(s, k - 1);
		n = n + (e != EXPIRED && FRAME_OF(e) == f && ANSWER_OF(e) == APPLIED)
	}
	P2_twice = P2_twice | (n > 1);
	P1_lost = P1_lost | (answer[f] == APPLIED && n == 0);
	P2_unreported = P2_unreported | (answer[f] == CONFLICT && n > 0)
}

/* The next frame of client c is reported. */
inline report(c)
{
	f = FRAME(c, n_final[c]);
	n_final[c]++;
	compare(newest);
	for (g : 0 .. N - 1) {
		if
		:: g != f && INDEX(g) < n_final[OWNER(g)] && expect[g] == expect[f] &&
		   answer[g] == APPLIED && answer[f] == APPLIED &&
		   (kind[f] == CAS || kind[f] == SETTLE) &&
		   (kind[g] == CAS || kind[g] == SETTLE) ->
			P3_two_winners = 1
		:: else
		fi
	}
}

/* A new primary has all that was reported, and its log, in order, explains the answers
 * that are in it: there is a serial order. */
inline check_primary(s)
{
	for (f : 0 .. N - 1) {
		if
		:: INDEX(f) < n_final[OWNER(f)] -> compare(s)
		:: else
		fi
	}
	for (i : 1 .. n_log[s]) {
		replay(s, i - 1);
		e = LOG(s, i - 1);
		f = FRAME_OF(e);
		if
		:: e == EXPIRED -> P3_no_order = P3_no_order | (v == ABSENT)
		:: e != EXPIRED && kind[f] == CAS ->
			P3_no_order = P3_no_order |
				((v == expect[f]) != (ANSWER_OF(e) == APPLIED))
		:: e != EXPIRED && kind[f] == WITHOUT ->
			P3_no_order = P3_no_order |
				((v == ABSENT) != (ANSWER_OF(e) == APPLIED))
		:: e != EXPIRED && kind[f] == SETTLE && ANSWER_OF(e) == APPLIED ->
			P4_two_effects = P4_two_effects | (v != expect[f])
		:: else
		fi
	}
}

/*
 * awake.c - keeps the server's event loop awake under load.
 *
 * A loop that sleeps in epoll_wait() answers a frame 15 to 20 us later than one
 * that is running.  A descriptor that is always readable keeps it running; it
 * costs the core, so it is in the loop only while frames come at more than
 * AWAKE_FRAMES in AWAKE_WINDOW_US.  On a machine with one core it never is: there
 * the loop would take the time that its clients need.
 */
#include "module/module.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	/* 8,000 frames a second: a tenth of what one client with one frame in flight
	 * asks for, far above what trickles in from an idle network. */
	AWAKE_FRAMES = 8,
	AWAKE_WINDOW_US = 1000,
	AWAKE_LINGER_US = 2000, /* Windows while awake: gaps do not end it. */
};

static int always_readable = -1;
static bool awake;
static unsigned int n_frames; /* Since 'since_us'. */
static uint64_t since_us;

static void
awake_turn(int fd, void *user, int mask)
{
	uint64_t now_us = clock_us();

	(void)user;
	if (now_us - since_us < AWAKE_LINGER_US)
		return;
	if (n_frames < AWAKE_FRAMES) {
		RedisModule_EventLoopDel(fd, mask);
		awake = false;
	}
	since_us = now_us;
	n_frames = 0;
}

void
awake_frame(uint64_t now_us)
{
	n_frames++;
	if (awake)
		return;
	if (now_us - since_us >= AWAKE_WINDOW_US) {
		since_us = now_us;
		n_frames = 1;
	}
	if (n_frames < AWAKE_FRAMES || always_readable < 0)
		return;
	awake = RedisModule_EventLoopAdd(always_readable, SERVER_READABLE, awake_turn,
					 NULL) == SERVER_OK;
}

int
awake_load(void)
{
	/* Not those that it may use: a server with a core of its own is a good one. */
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		return 0;
	always_readable = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
	return always_readable < 0 ? -errno : 0;
}

/*
 * shifted_clock.c - time for tests that have none: with LD_PRELOAD, CLOCK_MONOTONIC of a
 * store's server, or CLOCK_MONOTONIC_COARSE of an instance with its store in the process,
 * is so many milliseconds ahead as the file says that SNF_CLOCK names.  SNF_CLOCK_ID is
 * which of them.  What waits in the kernel waits by the true time.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static clockid_t shifted = -1;
static const volatile uint64_t *ahead_ms;

__attribute__((constructor)) static void
shifted_clock_open(void)
{
	const char *path = getenv("SNF_CLOCK"), *id = getenv("SNF_CLOCK_ID");
	int fd = path != NULL && id != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *at;

	if (fd < 0)
		return;
	at = mmap(NULL, sizeof(*ahead_ms), PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return;
	ahead_ms = at;
	shifted = atoi(id);
}

int
clock_gettime(clockid_t clock, struct timespec *t)
{
	int err = (int)syscall(SYS_clock_gettime, clock, t);

	if (err == 0 && clock == shifted) {
		uint64_t ms = *ahead_ms;

		t->tv_sec += (time_t)(ms / 1000);
		t->tv_nsec += (long)(ms % 1000) * 1000000;
		if (t->tv_nsec >= 1000000000) {
			t->tv_nsec -= 1000000000;
			t->tv_sec++;
		}
	}
	return err;
}

/*
 * capture.c - see capture.h.
 */
#define _GNU_SOURCE
#include "pipe/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <pcap/pcap.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

enum {
	MICRO_MAGIC = 0xa1b2c3d4,
	NANO_MAGIC = 0xa1b23c4d,
	FILE_HEAD_BYTES = 24,
	RECORD_HEAD_BYTES = 16,
	MAX_PACKET = 256 << 10,
	BUFFER_BYTES = 1 << 20,
	FINISH_MS = 1000,		/* For the reader of a named pipe. */
	NS = 1000 * 1000 * 1000,
};

struct capture_reader {
	pcap_t *pcap;			/* NULL: a named pipe nobody wrote to yet. */
	FILE *file;
	int fd;
	bool fifo, ended, has_next;
	bool failed;				/* Ended before its end. */
	uint32_t magic;			/* The first bytes of the file... */
	unsigned int magic_bytes;	/* ...and how many are known. */
	int link;			/* DLT_... */
	struct capture_packet next;
	char path[256];
};

struct capture_writer {
	int fd;
	bool fifo, has_head, nanoseconds, failed;
	size_t begin, end;		/* What is not written yet. */
	char path[256];
	uint8_t buffer[BUFFER_BYTES];
};

/* libpcap does not tell the precision of the times, so look at the file's start as it
 * passes. */
static ssize_t
read_watched(void *cookie, char *to, size_t bytes)
{
	struct capture_reader *r = cookie;
	ssize_t n = read(r->fd, to, bytes);

	for (ssize_t i = 0; i < n && r->magic_bytes < sizeof(r->magic); i++)
		((char *)&r->magic)[r->magic_bytes++] = to[i];
	return n;
}

static bool
link_is_known(int link)
{
	static const int known[] = {
		DLT_EN10MB, DLT_RAW,  DLT_IPV4,      DLT_IPV6,
		DLT_NULL,   DLT_LOOP, DLT_LINUX_SLL, DLT_LINUX_SLL2
	};

	for (unsigned int i = 0; i < RTE_DIM(known); i++)
		if (link == known[i])
			return true;
	return false;
}

/* Reads the file's header. */
static int
reader_start(struct capture_reader *r, char *why, size_t why_bytes)
{
	char error[PCAP_ERRBUF_SIZE];

	r->pcap = pcap_fopen_offline_with_tstamp_precision(
		r->file, PCAP_TSTAMP_PRECISION_NANO, error);
	if (r->pcap == NULL) {
		snprintf(why, why_bytes, "%s is not a capture: %s", r->path, error);
		return -EINVAL;
	}
	r->file = NULL;			/* Closed with r->pcap. */
	r->link = pcap_datalink(r->pcap);
	if (link_is_known(r->link))
		return 0;
	const char *name = pcap_datalink_val_to_name(r->link);
	snprintf(why, why_bytes,
		 "%s: link type %s (%d): Ethernet, raw IP, loopback and Linux "
		 "cooked captures can be read",
		 r->path, name != NULL ? name : "unknown", r->link);
	return -EINVAL;
}

int
capture_open(const char *path, struct capture_reader **out, char *why, size_t why_bytes)
{
	struct capture_reader *r = calloc(1, sizeof(*r));
	cookie_io_functions_t functions = { .read = read_watched };
	struct stat st;
	int err;

	if (r == NULL)
		return -ENOMEM;
	snprintf(r->path, sizeof(r->path), "%s", path);
	/* A named pipe is opened without waiting for a writer. */
	r->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	r->file = r->fd < 0 ? NULL : fopencookie(r, "r", functions);
	if (r->file == NULL || fstat(r->fd, &st) != 0) {
		err = -errno;
		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
		goto close;
	}
	fcntl(r->fd, F_SETFL, 0);
	r->fifo = !S_ISREG(st.st_mode);
	if (r->fifo) {
		/* What is read ahead poll() cannot see. */
		setvbuf(r->file, NULL, _IONBF, 0);
	} else {
		err = reader_start(r, why, why_bytes);
		if (err != 0)
			goto close;
	}
	*out = r;
	return 0;
close:
	capture_close(r);
	return err;
}

void
capture_close(struct capture_reader *r)
{
	if (r == NULL)
		return;
	if (r->pcap != NULL)
		pcap_close(r->pcap);
	if (r->file != NULL)
		fclose(r->file);
	if (r->fd >= 0)
		close(r->fd);
	free(r);
}

bool
capture_ended(const struct capture_reader *r)
{
	return r->ended && !r->has_next;
}

int
capture_fd(const struct capture_reader *r)
{
	return r->fifo ? r->fd : -1;
}

bool
capture_nanoseconds(const struct capture_reader *r)
{
	return r->magic_bytes == sizeof(r->magic) && r->magic != MICRO_MAGIC &&
	       r->magic != __builtin_bswap32(MICRO_MAGIC);
}

/* Puts an Ethernet header before packets that come without.  False: too short. */
static bool
frame_make(const struct capture_reader *r, struct capture_packet *p)
{
	unsigned int skip = 0;
	const uint8_t *type = NULL;
	uint8_t by_version[2] = { 0, 0 };

	if (r->link == DLT_EN10MB) {
		p->head_bytes = 0;
		return true;
	}
	if (r->link == DLT_NULL || r->link == DLT_LOOP)
		skip = 4;
	else if (r->link == DLT_LINUX_SLL)
		skip = 16;
	else if (r->link == DLT_LINUX_SLL2)
		skip = 20;
	if (p->bytes <= skip)
		return false;
	if (r->link == DLT_LINUX_SLL)
		type = p->data + 14;
	else if (r->link == DLT_LINUX_SLL2)
		type = p->data;
	p->data += skip;
	p->bytes -= skip;
	if (type == NULL) {
		uint16_t v = p->data[0] >> 4 == 4   ? 0x0800
			     : p->data[0] >> 4 == 6 ? 0x86dd
						    : 0;

		by_version[0] = v >> 8;
		by_version[1] = v & 0xff;
		type = by_version;
	}
	memset(p->head, 0, sizeof(p->head));
	memcpy(p->head + 12, type, 2);
	p->head_bytes = sizeof(p->head);
	return true;
}

/* Of a named pipe: whether a record can be read now. */
static bool
readable(struct capture_reader *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };

	if (!r->fifo)
		return true;
	if (poll(&p, 1, 0) <= 0)
		return false;
	/* A hangup is one after all has been read; before anybody opened it for
	 * writing there is none. */
	if (!(p.revents & POLLIN))
		r->ended = true;
	return !r->ended;
}

static void
reader_fail(struct capture_reader *r, const char *what)
{
	log_error("port", "%s: reading stops here", what);
	r->ended = true;
	r->failed = true;
}

bool
capture_failed(const struct capture_reader *r)
{
	return r->failed;
}

const struct capture_packet *
capture_next(struct capture_reader *r)
{
	struct pcap_pkthdr *h;
	char why[512];

	while (!r->has_next) {
		if (r->ended || !readable(r))
			return NULL;
		if (r->pcap == NULL) {
			if (reader_start(r, why, sizeof(why)) != 0)
				reader_fail(r, why);
			continue;
		}
		int got = pcap_next_ex(r->pcap, &h, &r->next.data);

		if (got == PCAP_ERROR_BREAK) {
			r->ended = true;
		} else if (got != 1) {
			snprintf(why, sizeof(why), "%s: %s", r->path,
				 pcap_geterr(r->pcap));
			reader_fail(r, why);
		} else {
			r->next.time_ns = (uint64_t)h->ts.tv_sec * NS + h->ts.tv_usec;
			r->next.bytes = RTE_MIN(h->caplen, (unsigned int)MAX_PACKET);
			r->has_next = frame_make(r, &r->next);
		}
	}
	return &r->next;
}

void
capture_take(struct capture_reader *r)
{
	r->has_next = false;
}

int
capture_create(const char *path, struct capture_writer **out, char *why, size_t why_bytes)
{
	struct capture_writer *w = calloc(1, sizeof(*w));
	struct stat st;

	if (w == NULL)
		return -ENOMEM;
	snprintf(w->path, sizeof(w->path), "%s", path);
	w->fifo = stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
	/* Opened for both, a named pipe waits for nobody. */
	w->fd = w->fifo ? open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)
			: open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (w->fd < 0) {
		int err = -errno;

		snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
		free(w);
		return err;
	}
	*out = w;
	return 0;
}

void
capture_flush(struct capture_writer *w)
{
	while (w->begin < w->end) {
		ssize_t n = write(w->fd, w->buffer + w->begin, w->end - w->begin);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			if (!w->failed)
				log_error("port", "%s: %s: packets are missing in it",
					  w->path, strerror(errno));
			w->failed = true;
			break;
		}
		w->begin += n;
	}
	w->begin = w->end = 0;
}

/* Room for 'bytes' at the end of the buffer, or NULL. */
static uint8_t *
room(struct capture_writer *w, size_t bytes)
{
	if (w->end + bytes > sizeof(w->buffer))
		capture_flush(w);
	if (w->end + bytes > sizeof(w->buffer) && w->begin > 0) {
		memmove(w->buffer, w->buffer + w->begin, w->end - w->begin);
		w->end -= w->begin;
		w->begin = 0;
	}
	return w->end + bytes > sizeof(w->buffer) ? NULL : w->buffer + w->end;
}

static void
head_write(struct capture_writer *w, bool nanoseconds)
{
	uint32_t head[FILE_HEAD_BYTES / 4] = { nanoseconds ? NANO_MAGIC : MICRO_MAGIC,
					       4 << 16 | 2,
					       0,
					       0,
					       MAX_PACKET,
					       DLT_EN10MB };

	if (w->has_head)
		return;
	memcpy(w->buffer + w->end, head, sizeof(head));
	w->end += sizeof(head);
	w->has_head = true;
	w->nanoseconds = nanoseconds;
}

bool
capture_write(struct capture_writer *w, const struct rte_mbuf *m, uint64_t time_ns,
	      bool nanoseconds)
{
	uint32_t bytes = RTE_MIN(m->pkt_len, (uint32_t)MAX_PACKET), left = bytes;

	head_write(w, nanoseconds);

	uint32_t part = time_ns % NS;
	uint32_t head[RECORD_HEAD_BYTES / 4] = { time_ns / NS,
						 w->nanoseconds ? part : part / 1000,
						 bytes, m->pkt_len };
	uint8_t *at = room(w, sizeof(head) + bytes);

	if (at == NULL)
		return false;
	memcpy(at, head, sizeof(head));
	at += sizeof(head);
	for (; m != NULL && left > 0; m = m->next) {
		uint32_t n = RTE_MIN(left, (uint32_t)m->data_len);

		memcpy(at, rte_pktmbuf_mtod(m, const void *), n);
		at += n;
		left -= n;
	}
	w->end += sizeof(head) + bytes;
	return true;
}

void
capture_finish(struct capture_writer *w, bool nanoseconds)
{
	if (w == NULL)
		return;

	struct pollfd p = { .fd = w->fd, .events = POLLOUT };

	head_write(w, nanoseconds);
	capture_flush(w);
	while (w->end > 0 && poll(&p, 1, FINISH_MS) > 0)
		capture_flush(w);
	close(w->fd);
	free(w);
}

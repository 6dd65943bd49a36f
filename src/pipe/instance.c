/*
 * instance.c - start, reload and stop of an instance.
 *
 * The main thread starts everything, then waits for signals: SIGTERM and SIGINT
 * drain and end, SIGHUP reads the file again and gives the function's part of it to
 * running pipes, which lose no packet over it.
 */
#include "pipe/instance.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"

enum {
	/* How often the main thread looks for alerts and for the end of captures. */
	HOUSEKEEPING_MS = 100,
};

struct instance {
	const char *path;
	struct settings *settings;
	struct ports ports;
	unsigned int n_pipes;
	struct store *store[PORT_MAX_QUEUES];
	struct worker *worker[PORT_MAX_QUEUES];
	struct pipe *pipe[PORT_MAX_QUEUES];
	struct stats_source stats;
	FILE *alerts;
};

static int
failed(const char *what, const char *why)
{
	log_error("snf", "%s: %s", what, why);
	return -EIO;
}

static int
eal_open(const struct settings *s)
{
	const char *pci[3] = { NULL };
	unsigned int n = 0;
	char why[256];

	for (unsigned int side = 0; side < 2; side++) {
		pci[n] = port_spec_pci(s->port[side]);
		n += pci[n] != NULL;
	}

	struct eal_options options = { .huge = s->hugepages, .memory_mb = s->memory_mb,
				       .pci = n > 0 ? pci : NULL };

	if (eal_start(&options, why, sizeof(why)) != 0)
		return failed("cannot start", why);
	return 0;
}

static int
open_store(struct instance *in, unsigned int i)
{
	const struct settings *s = in->settings;
	struct store_table declared[STORE_MAX_TABLES];
	struct pipe_table wanted[STORE_MAX_TABLES];
	struct store_options options = { .url = s->store,
					 .timeout_ms = s->store_timeout_ms,
					 .n_partitions = s->partitions };
	unsigned int n;
	char why[256];

	settings_tables(s, wanted);
	n = pipe_tables(s->nf, wanted, declared);

	if (store_open(&options, declared, n, &in->store[i], why, sizeof(why)) != 0)
		return failed("no store", why);
	return 0;
}

static int
start_pipe(struct instance *in, unsigned int i)
{
	int err = open_store(in, i);

	if (err != 0)
		return err;

	struct pipe_config config = {
		.nf = in->settings->nf,
		.nf_static = in->settings->nf_static,
		.store = in->store[i],
		.port = { in->ports.queue[NF_INSIDE][i], in->ports.queue[NF_OUTSIDE][i] },
		.pass_unseen = in->settings->on_store_loss == 1,
	};

	settings_formats(in->settings, config.format);
	err = worker_start(&config, &in->worker[i]);
	if (err != 0)
		return failed("cannot start a pipe", strerror(-err));
	in->pipe[i] = worker_pipe(in->worker[i]);
	return 0;
}

static int
start(struct instance *in)
{
	const struct settings *s = in->settings;
	const char *spec[2] = { s->port[NF_INSIDE], s->port[NF_OUTSIDE] };
	char why[256];
	int err = eal_open(s);

	if (err != 0)
		return err;
	in->n_pipes = s->pipes_max;
	if (ports_open(spec, in->n_pipes, pipe_private_bytes(), s->pace, &in->ports, why,
		       sizeof(why)) != 0)
		return failed("cannot open the ports", why);
	if (s->alerts != NULL && (in->alerts = fopen(s->alerts, "ae")) == NULL)
		return failed(s->alerts, strerror(errno));
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		err = start_pipe(in, i);
		if (err != 0)
			return err;
	}
	in->stats = (struct stats_source){ &in->ports, in->pipe, in->n_pipes, in->store,
					   s->nf, { NULL } };
	nf_tables(s->nf, 0, in->stats.table, STORE_MAX_TABLES);
	stats_serve(&in->stats);
	return 0;
}

/* Alerts as lines of Suricata's EVE format. */
static void
write_alerts(struct instance *in)
{
	struct pipe_alert alert[64];
	unsigned int n;

	for (unsigned int i = 0; i < in->n_pipes; i++) {
		while ((n = pipe_alerts(in->pipe[i], alert, 64)) > 0) {
			for (unsigned int k = 0; k < n && in->alerts != NULL; k++)
				stats_alert(in->alerts, &alert[k]);
		}
	}
	if (in->alerts != NULL)
		fflush(in->alerts);
}

static void
stop(struct instance *in)
{
	for (unsigned int i = 0; i < in->n_pipes && in->worker[i] != NULL; i++)
		worker_stop(in->worker[i], in->settings->store_timeout_ms);
	if (in->stats.n_pipes > 0) {
		write_alerts(in);
		stats_refused(&in->stats);
		stats_log(&in->stats);
	}
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		if (in->worker[i] != NULL)
			worker_free(in->worker[i]);
		if (in->store[i] != NULL)
			in->store[i]->ops->close(in->store[i]);
	}
	if (in->ports.n_queues > 0)
		ports_close(&in->ports);
	if (in->alerts != NULL)
		fclose(in->alerts);
	settings_free(in->settings);
}

/* What the file says now, for a running instance: the function's section, and which
 * formats are written.  A file that is wrong changes nothing. */
static void
reload(struct instance *in)
{
	struct settings *old = in->settings, *new;
	uint8_t format[STORE_MAX_TABLES];
	char ignored[256];

	if (settings_load(in->path, &new) != 0) {
		log_error("snf", "%s: not reloaded, the old configuration stays",
			  in->path);
		return;
	}
	settings_ignored(old, new, ignored, sizeof(ignored));
	if (ignored[0] != '\0')
		log_warning("snf", "%s: changed, but only a restart makes it count: %s",
			    in->path, ignored);
	if (new->nf != old->nf) {
		settings_free(new);
		return;
	}
	settings_formats(new, format);
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		pipe_set_formats(in->pipe[i], format);
		worker_set_static(in->worker[i], new->nf_static);
	}
	in->settings = new;
	settings_free(old);
	log_info("snf", "%s: reloaded, in force from the next packet", in->path);
}

static bool
all_ended(const struct instance *in)
{
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		if (!worker_ended(in->worker[i]))
			return false;
	}
	return true;
}

static bool
any_failed(const struct instance *in)
{
	for (unsigned int side = 0; side < 2; side++) {
		for (unsigned int i = 0; i < in->n_pipes; i++) {
			const struct port *port = in->ports.queue[side][i];

			if (port->ops->failed != NULL && port->ops->failed(port))
				return true;
		}
	}
	return false;
}

static void
serve(struct instance *in, int signals)
{
	struct pollfd fd = { .fd = signals, .events = POLLIN };
	struct signalfd_siginfo info;

	while (!all_ended(in)) {
		int n = poll(&fd, 1, HOUSEKEEPING_MS);

		write_alerts(in);
		stats_refused(&in->stats);
		if (n <= 0 || read(signals, &info, sizeof(info)) != sizeof(info))
			continue;
		if (info.ssi_signo == SIGHUP) {
			reload(in);
			continue;
		}
		log_info("snf", "stopping: finishing what is in flight");
		return;
	}
	log_info("snf", "stopping: the ports have ended");
}

int
instance_run(const char *path)
{
	struct instance in = { .path = path };
	sigset_t set;
	int code = INSTANCE_FAILED;

	if (settings_load(path, &in.settings) != 0)
		return INSTANCE_USAGE;
	log_set_level(in.settings->log_level);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	/* Before any thread exists: they all inherit it. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);

	int signals = signalfd(-1, &set, SFD_CLOEXEC);

	if (signals >= 0 && start(&in) == 0) {
		char store[256];

		store_url_print(in.settings->store, store, sizeof(store));
		log_info("snf", "ready: %s, store %s, %u pipe%s", in.settings->nf->name,
			 store, in.n_pipes, in.n_pipes == 1 ? "" : "s");
		serve(&in, signals);
		code = any_failed(&in) ? INSTANCE_FAILED : INSTANCE_OK;
	}
	stop(&in);
	close(signals);
	return code;
}

int
instance_check(const char *path)
{
	struct settings *s;
	char store[256];

	if (settings_load(path, &s) != 0)
		return INSTANCE_USAGE;
	store_url_print(s->store, store, sizeof(store));
	printf("%s: ok: %s, store %s\n", path, s->nf->name, store);
	settings_free(s);
	return INSTANCE_OK;
}

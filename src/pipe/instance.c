/*
 * instance.c - start, reload and stop of an instance.
 *
 * The main thread starts everything, then waits for signals: SIGTERM and SIGINT
 * drain and end, SIGHUP reads the file again and gives the functions' part of it to
 * running pipes, which lose no packet over it.  Meanwhile it writes what they report.
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

#include <rte_cycles.h>

#include "base/log.h"
#include "pipe/events.h"
#include "pipe/task.h"

enum {
	/* How often the main thread looks for alerts and for the end of captures... */
	HOUSEKEEPING_MS = 100,
	/* ...and for events, of which there may be one for each connection. */
	EVENTS_MS = 10,
	TASK_THREADS = 4,
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
	struct tasks *tasks;			/* NULL: no function has any. */
	struct settings *replaced;		/* By reloads, while tasks use them. */
	struct journal *alerts, *events;
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
	n = pipe_tables(&s->chain, wanted, declared);
	if (store_open(&options, declared, n, &in->store[i], why, sizeof(why)) != 0)
		return failed("no store", why);
	return 0;
}

static int
start_pipe(struct instance *in, unsigned int i)
{
	const struct settings *s = in->settings;
	int err = open_store(in, i);

	if (err != 0)
		return err;

	struct pipe_config config = {
		.chain = s->chain,
		.store = in->store[i],
		.port = { in->ports.queue[NF_INSIDE][i], in->ports.queue[NF_OUTSIDE][i] },
		.loss = (enum pipe_loss)s->on_store_loss,
		.grace_ms = s->store_grace_ms,
		.zone = s->zone,
		.refusals = (uint32_t)s->refusals,
		.mtu = { (uint32_t)s->mtu[NF_INSIDE], (uint32_t)s->mtu[NF_OUTSIDE] },
		.events = s->events != NULL,
		.lane = tasks_lane(in->tasks, i),
	};

	settings_formats(s, config.format);
	err = worker_start(&config, &in->worker[i]);
	if (err != 0)
		return failed("cannot start a pipe", strerror(-err));
	in->pipe[i] = worker_pipe(in->worker[i]);
	return 0;
}

static int
open_journal(const char *path, struct journal **out)
{
	int err = path != NULL ? journal_open(path, out) : 0;

	return err == 0 ? 0 : failed(path, strerror(-err));
}

/* What is beside the pipes. */
static int
start_others(struct instance *in)
{
	const struct settings *s = in->settings;
	int err = open_journal(s->alerts, &in->alerts);

	if (err == 0)
		err = open_journal(s->events, &in->events);
	if (err != 0)
		return err;
	err = tasks_open(&s->chain, in->n_pipes, TASK_THREADS, &in->tasks);
	return err == 0 ? 0 : failed("cannot start threads", strerror(-err));
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
	err = start_others(in);
	if (err != 0)
		return err;
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		err = start_pipe(in, i);
		if (err != 0)
			return err;
	}
	in->stats = (struct stats_source){ .ports = &in->ports, .pipe = in->pipe,
					   .n_pipes = in->n_pipes, .store = in->store,
					   .chain = s->chain };
	chain_tables(&s->chain, in->stats.table, in->stats.table_stage);
	stats_serve(&in->stats);
	return 0;
}

static void
write_alerts(struct instance *in, struct pipe *p)
{
	struct pipe_alert alert[64];
	char text[EVENT_TEXT_BYTES];
	unsigned int n;

	while ((n = pipe_alerts(p, alert, 64)) > 0)
		for (unsigned int i = 0; i < n && in->alerts != NULL; i++)
			journal_add(in->alerts, text, alert_print(&alert[i], text));
}

static void
write_event(struct instance *in, const struct pipe_event *e, uint64_t now)
{
	const struct nf *nf = in->settings->chain.stage[e->said.stage].nf;
	uint64_t age = now > e->tsc ? now - e->tsc : 0;
	uint64_t age_ns = age * 1000 / (rte_get_tsc_hz() / 1000000);
	char text[EVENT_TEXT_BYTES];

	if (nf->events[e->said.event].line) {
		event_describe(nf, e, text);
		log_info(nf->name, "%s", text);
	}
	if (in->events != NULL)
		journal_add(in->events, text,
			    event_print(nf, e, age_ns, text));
}

static void
write_events(struct instance *in, struct pipe *p)
{
	struct pipe_event event[64];
	unsigned int n, n_left = EVENTS_ROOM;

	/* Not for ever, though more may come than are written. */
	while (n_left > 0 && (n = pipe_events(p, event, 64)) > 0) {
		uint64_t now = rte_get_tsc_cycles();

		for (unsigned int i = 0; i < n; i++)
			write_event(in, &event[i], now);
		n_left -= RTE_MIN(n, n_left);
	}
}

/* What pipes report. */
static void
write_reports(struct instance *in)
{
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		write_alerts(in, in->pipe[i]);
		write_events(in, in->pipe[i]);
	}
	if (in->alerts != NULL)
		journal_flush(in->alerts);
	if (in->events != NULL)
		journal_flush(in->events);
}

/* Settings that no task uses any more. */
static void
free_replaced(struct instance *in)
{
	struct settings **at = &in->replaced, *s;

	while ((s = *at) != NULL) {
		if (tasks_use(in->tasks, &s->chain)) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		settings_free(s);
	}
}

/* A thread that is still blocked may look at the settings at any time: they stay, and the
 * process ends without it. */
static void
stop_tasks(struct instance *in)
{
	if (!tasks_close(in->tasks)) {
		log_info("snf", "a task is still under way: not waiting for it");
		return;
	}
	in->tasks = NULL;
	free_replaced(in);
	settings_free(in->settings);
}

static void
stop(struct instance *in)
{
	for (unsigned int i = 0; i < in->n_pipes && in->worker[i] != NULL; i++)
		worker_stop(in->worker[i], in->settings->store_timeout_ms);
	if (in->stats.n_pipes > 0) {
		write_reports(in);
		stats_refused(&in->stats);
		stats_lost(&in->stats);
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
	journal_close(in->alerts);
	journal_close(in->events);
	stop_tasks(in);
}

/* The files may have been moved away. */
static void
reopen(struct instance *in)
{
	if (in->alerts != NULL)
		journal_reopen(in->alerts);
	if (in->events != NULL)
		journal_reopen(in->events);
}

/* What the file says now, for a running instance: the functions' sections, and which
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
	if (!settings_same_functions(old, new)) {
		settings_free(new);
		return;
	}
	settings_formats(new, format);
	for (unsigned int i = 0; i < in->n_pipes; i++) {
		pipe_set_formats(in->pipe[i], format);
		worker_set_static(in->worker[i], &new->chain);
	}
	tasks_set_static(in->tasks, &new->chain);
	in->settings = new;
	old->next = in->replaced;
	in->replaced = old;
	free_replaced(in);
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
		int n = poll(&fd, 1, in->events != NULL ? EVENTS_MS : HOUSEKEEPING_MS);

		write_reports(in);
		stats_refused(&in->stats);
		stats_lost(&in->stats);
		tasks_tend(in->tasks);
		free_replaced(in);
		if (n <= 0 || read(signals, &info, sizeof(info)) != sizeof(info))
			continue;
		if (info.ssi_signo == SIGHUP) {
			reopen(in);
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
		char store[256], functions[256];

		chain_names(&in.settings->chain, functions, sizeof(functions));
		store_url_print(in.settings->store, store, sizeof(store));
		log_info("snf", "ready: %s, store %s, %u pipe%s", functions, store,
			 in.n_pipes, in.n_pipes == 1 ? "" : "s");
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
	char store[256], functions[256];

	if (settings_load(path, &s) != 0)
		return INSTANCE_USAGE;
	store_url_print(s->store, store, sizeof(store));
	chain_names(&s->chain, functions, sizeof(functions));
	printf("%s: ok: %s, store %s\n", path, functions, store);
	settings_free(s);
	return INSTANCE_OK;
}

/*
 * fuzz_config.c - any bytes as a configuration file, by a schema with every kind.
 *
 * The schema contains itself, so that circles of aliases have somewhere to go.  All
 * that a good file filled is read, and asked for its line.
 */
#include "base/config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sanitizer/common_interface_defs.h>

struct node {
	bool flag;
	uint64_t number, time_ms;
	char *text;
	int word;
	uint16_t port;
	struct {
		char *inside, *outside;
	} map;
	struct config_list texts;		/* char * */
	struct config_list ports;		/* uint16_t */
	struct config_list nodes;		/* struct node */
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int real_stderr, null;

/* Takes what begins with a digit other than 0. */
static int
parse_port(const char *text, void *out)
{
	*(uint16_t *)out = (uint16_t)atoi(text);
	return *text >= '1' && *text <= '9' ? 0 : -1;
}

static const char *const words[] = { "allow", "drop", "reject", NULL };

#define MEMBER(name) (offsetof(struct node, map.name) - offsetof(struct node, map))

static const struct config_field map_fields[] = {
	{ "inside", CONFIG_STRING, MEMBER(inside), .required = true },
	{ "outside", CONFIG_STRING, MEMBER(outside), .help = "KIND:ADDRESS" },
	{ 0 }
};

static const struct config_field fields[] = {
	{ "flag", CONFIG_BOOL, offsetof(struct node, flag), .help = "or not" },
	{ "number", CONFIG_UINT, offsetof(struct node, number), .min = 1, .max = 64 },
	{ "time", CONFIG_DURATION, offsetof(struct node, time_ms), .min = 10 },
	{ "text", CONFIG_STRING, offsetof(struct node, text), .help = "any" },
	{ "word", CONFIG_ENUM, offsetof(struct node, word), .words = words },
	{ "port", CONFIG_SCALAR, offsetof(struct node, port), .parse = parse_port },
	{ "map", CONFIG_MAP, offsetof(struct node, map), .fields = map_fields },
	{ "texts", CONFIG_LIST, offsetof(struct node, texts), .max = 100 },
	{ "ports", CONFIG_LIST, offsetof(struct node, ports), .parse = parse_port,
	  .item_bytes = sizeof(uint16_t), .min = 1 },
	{ "nodes", CONFIG_LIST, offsetof(struct node, nodes), .fields = fields,
	  .item_bytes = sizeof(struct node) },
	{ "later", CONFIG_MAP, 0, .fields = NULL },
	{ 0 }
};

/* Touches every byte that was handed out; returns a sum, so that it is not in vain. */
static size_t
read_node(const struct node *n)
{
	size_t sum = (size_t)n->number + n->time_ms + n->port + n->flag;

	if (n->word < 0 || n->word > 2 || n->number > 64)
		abort();
	sum += n->text != NULL ? strlen(n->text) : 0;
	sum += n->map.inside != NULL ? strlen(n->map.inside) : 0;
	sum += n->map.outside != NULL ? strlen(n->map.outside) : 0;
	for (unsigned int i = 0; i < n->texts.n; i++)
		sum += strlen(((char **)n->texts.items)[i]);
	for (unsigned int i = 0; i < n->ports.n; i++)
		sum += ((uint16_t *)n->ports.items)[i];
	for (unsigned int i = 0; i < n->nodes.n; i++)
		sum += read_node((const struct node *)n->nodes.items + i);
	return sum;
}

/* Errors go nowhere while a file is read, but the sanitizers' reports do not. */
int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (real_stderr < 0 || null < 0)
		abort();
	__sanitizer_set_report_fd((void *)(intptr_t)real_stderr);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct node root = { 0 }, later = { 0 };
	struct config *c = NULL;

	dup2(null, STDERR_FILENO);
	if (config_load_text("fuzz", (const char *)data, size, fields, &root, &c) == 0) {
		config_error(&root.map, "%zu", read_node(&root));
		if (config_section(c, "later", fields, &later) == 0)
			config_error(&later.text, "%zu", read_node(&later));
	}
	config_free(c);
	dup2(real_stderr, STDERR_FILENO);
	return 0;
}

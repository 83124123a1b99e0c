/* config_private.h: the table of keys, as the reader, the checks and the printer of a configuration share it. */
#ifndef VENEER_CONFIG_PRIVATE_H
#define VENEER_CONFIG_PRIVATE_H
#include <stdbool.h>
#include <stddef.h>

#include "config.h"

enum config_kind { STRING, PATH, TEMPLATE, CHOICE, LIST, INTEGER, NUMBER, BYTES, BOOLEAN }; /* TEMPLATE: a name or a path; up to LIST: texts */

struct config_key {
    const char *name, *aliases; /* aliases: space-separated, or NULL */
    enum config_kind kind;
    size_t offset;        /* of its field in struct config */
    const char *fallback; /* the default as text */
    double low, high;
    const char *choices; /* CHOICE: the values; LIST: the allowed items or NULL */
    bool harmless;       /* does not change results */
    const char *help;
};

/* config_keys.c */
extern const struct config_key config_keys[];
extern const int config_n_keys; /* at most CONFIG_MOST_KEYS */
enum { CONFIG_MOST_KEYS = 256 };

/* Where a value was set, one a key. */
struct config_origin {
    char text[128]; /* "default", "config.txt:3", "command line" */
};

/* config.c */
const struct config_key *config_key_find(const char *name); /* by name or alias; NULL: there is none */
void *config_slot(const struct config *config, const struct config_key *key);

#endif

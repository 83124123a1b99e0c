/* config_print.c: a configuration as text: config_used.txt, --help, and the identity by which a run is gone on with. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config_private.h"

static void print_number(double x, struct text *out)
{
    if (x == floor(x) && fabs(x) < 1e15)
        text_printf(out, "%.0f", x);
    else
        text_number(out, x, false);
}

static void print_value(const struct config *config, const struct config_key *key, struct text *out)
{
    const void *from = config_slot(config, key);
    switch (key->kind) {
    case STRING:
    case PATH:
    case TEMPLATE:
    case CHOICE:
    case LIST:
        text_puts(out, *(char *const *)from);
        break;
    case INTEGER:
        text_printf(out, "%lld", (long long)*(const int64_t *)from);
        break;
    case NUMBER:
    case BYTES:
        print_number(*(const double *)from, out);
        break;
    case BOOLEAN:
        text_puts(out, *(const bool *)from ? "yes" : "no");
        break;
    }
}

static void print_key(const struct config *config, const struct config_key *key, struct text *out)
{
    text_printf(out, "%s = ", key->name);
    print_value(config, key, out);
}

void config_print(const struct config *config, bool with_origin, struct text *out)
{
    for (int i = 0; i < config_n_keys; i++) {
        size_t start = out->n;
        print_key(config, &config_keys[i], out);
        if (with_origin) {
            size_t width = out->n - start;
            text_printf(out, "%*s # %s", width < 44 ? (int)(44 - width) : 1, "", config->origin[i].text);
        }
        text_puts(out, "\n");
    }
}

void config_help(struct text *out)
{
    for (int i = 0; i < config_n_keys; i++) {
        const struct config_key *key = &config_keys[i];
        text_printf(out, "  %-28s %s", key->name, key->help);
        if (key->kind == CHOICE)
            text_printf(out, " [%s]", key->choices);
        text_printf(out, "%s%s%s%s\n", *key->fallback ? "; default " : "", key->fallback, key->aliases ? "; also: " : "",
                    key->aliases ? key->aliases : "");
    }
}

void config_identity(const struct config *config, struct text *out)
{
    for (int i = 0; i < config_n_keys; i++)
        if (!config_keys[i].harmless) {
            print_key(config, &config_keys[i], out);
            text_puts(out, "\n");
        }
}

bool config_identity_differs(const char *before, const char *now, char *out, size_t n)
{
    while (*before && *now) {
        size_t a = strcspn(before, "\n"), b = strcspn(now, "\n");
        if (a != b || strncmp(before, now, a) != 0) {
            snprintf(out, n, "'%.*s', now '%.*s'", (int)a, before, (int)b, now);
            return true;
        }
        before += a + (before[a] == '\n');
        now += b + (now[b] == '\n');
    }
    if (*before == *now)
        return false;
    snprintf(out, n, "other keys");
    return true;
}

/* level.c: which level this process runs on. */
#include "cpu/level.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

/* Best first. */
static const struct level *const levels[] = {
#if defined(__x86_64__) && !defined(VENEER_DOUBLE)
    &level_avx512_bf16, &level_avx512, &level_avx2,
#endif
#if defined(__aarch64__) && !defined(VENEER_DOUBLE)
    &level_neon,
#endif
    &level_plain,
};
enum { LEVELS = sizeof levels / sizeof *levels };

static const struct level *named(const char *name)
{
    for (int i = 0; i < LEVELS; i++)
        if (strcmp(levels[i]->name, name) == 0)
            return levels[i];
    return NULL;
}

const struct level *level_at(int i)
{
    return i < LEVELS ? levels[i] : NULL;
}

static const struct level *choose(void)
{
    const char *name = getenv("VENEER_CPU");
    const struct level *forced = name ? named(name) : NULL;
    if (forced && forced->supported())
        return forced;
    for (int i = 0; i < LEVELS - 1; i++)
        if (levels[i]->supported())
            return levels[i];
    return levels[LEVELS - 1];
}

const struct level *level(void)
{
    static const struct level *chosen; /* every thread would store the same */
    const struct level *is = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (!is) {
        is = choose();
        __atomic_store_n(&chosen, is, __ATOMIC_RELAXED);
    }
    return is;
}

static void list_levels(char *text, size_t size)
{
    text[0] = '\0';
    for (int i = LEVELS - 1; i >= 0; i--)
        if (levels[i]->supported()) {
            strncat(text, ", ", size - strlen(text) - 1);
            strncat(text, levels[i]->name, size - strlen(text) - 1);
        }
}

enum status cpu_check(struct err *err)
{
    const char *name = getenv("VENEER_CPU");
    char has[128];
    if (!name || strcmp(name, "ref") == 0)
        return OK;
    const struct level *is = named(name);
    list_levels(has, sizeof has);
    if (!is)
        return err_set(err, ERR_INPUT, "VENEER_CPU = %s is no level, this machine has ref%s", name, has);
    if (!is->supported())
        return err_set(err, ERR_INPUT, "VENEER_CPU = %s: this CPU lacks it, it has ref%s", name, has);
    return OK;
}

enum status compute_parse(const char *name, enum compute *compute, struct err *err)
{
    bool is_auto = strcmp(name, "auto") == 0;
    bool is_int8 = strcmp(name, "int8") == 0;
    if (!is_auto && !is_int8 && strcmp(name, "f32") != 0 && strcmp(name, "bf16") != 0)
        return err_set(err, ERR_INPUT, "compute_dtype '%s', want auto, f32, bf16 or int8", name);
    bool faster = level()->bf16 && strcmp(cpu_level_name(), "ref") != 0;
    *compute = is_int8 ? COMPUTE_INT8 : strcmp(name, "bf16") == 0 || (is_auto && faster) ? COMPUTE_BF16 : COMPUTE_F32;
    return OK;
}

const char *compute_name(enum compute compute)
{
    const struct micro *bf16 = strcmp(cpu_level_name(), "ref") != 0 ? level()->bf16 : NULL;
    if (compute == COMPUTE_INT8)
        return "int8";
    if (compute == COMPUTE_F32 || !bf16)
        return "f32";
    return bf16->fixed ? "f32, few rows of 4 bits in 16-bit fixed point" : "bf16";
}

const char *cpu_level_name(void)
{
    const char *name = getenv("VENEER_CPU");
    return name && strcmp(name, "ref") == 0 ? "ref" : level()->name;
}

/* facts.c: what is true in a world, which part may ask it, and how a pattern becomes a sentence. */
#include <ctype.h>
#include <string.h>

#include "world.h"

/* Purposes: the `step` of Philox, so that no two draws share numbers. */
enum { DRAW_VALUES = 1, DRAW_PARTS = 1000, DRAW_PAIRS = 4000 };

static int count(const char *const *words)
{
    int n = 0;
    while (n < MAX_WORDS && words[n])
        n++;
    return n;
}

enum { SHARE = 4 }; /* entities that share a first word, and that share a last one */

static int entities(int domain)
{
    return SHARE * count(domains[domain].first);
}

int world_count(int relation)
{
    return entities(relations[relation].domain);
}

int world_values(int relation)
{
    const struct relation *r = &relations[relation];
    return r->values_from >= 0 ? entities(r->values_from) : count(r->value);
}

void world_entity(struct text *out, int domain, int entity)
{
    static const int shift[SHARE] = {0, 1, 3, 7}; /* differences all unlike, so two entities share one word at most */
    int words = count(domains[domain].first), first = entity % words, last = (first + shift[entity / words]) % words;
    text_printf(out, "%s %s", domains[domain].first[first], domains[domain].last[last]);
}

/* Every value about equally often, in drawn order.  Where values are entities of the same domain none is its own. */
static void draw_values(struct world *world, int relation)
{
    uint32_t order[MAX_ENTITIES];
    int n = world_count(relation), values = world_values(relation);
    struct rng rng = {world->seed, RNG_WORLD, (uint32_t)(DRAW_VALUES + relation), 0};
    for (int i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    rng_shuffle(&rng, order, (size_t)n);
    bool cycle = relations[relation].values_from == relations[relation].domain;
    for (int i = 0; i < n; i++)
        world->value[relation][order[i]] = (uint8_t)(cycle ? order[(i + 1) % n] : (uint32_t)(i % values));
}

/* Of every relation 55 % of the facts may be asked in training, 17 % in the search part, the rest in the report. */
static void draw_parts(struct world *world, int relation)
{
    uint32_t order[MAX_ENTITIES];
    int n = world_count(relation), train = n * 55 / 100, search = n * 17 / 100;
    struct rng rng = {world->seed, RNG_WORLD, (uint32_t)(DRAW_PARTS + relation), 0};
    for (int i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    rng_shuffle(&rng, order, (size_t)n);
    for (int i = 0; i < n; i++)
        world->part[relation][order[i]] = (uint8_t)(i < train ? ASK_TRAIN : i < train + search ? ASK_SEARCH : ASK_REPORT);
}

void world_draw(struct world *world, uint64_t seed)
{
    memset(world, 0, sizeof *world);
    world->seed = seed;
    for (int r = 0; r < world_relations(); r++) {
        draw_values(world, r);
        draw_parts(world, r);
    }
}

enum part world_pair_part(const struct world *world, int entity, int relation, int other)
{
    uint32_t low = (uint32_t)(relation < other ? relation : other), high = (uint32_t)(relation < other ? other : relation);
    uint32_t percent = rng_at(world->seed, RNG_WORLD, DRAW_PAIRS + low * MAX_RELATIONS + high, (uint64_t)entity) % 100;
    return percent < 55 ? ASK_TRAIN : percent < 72 ? ASK_SEARCH : ASK_REPORT;
}

const char *world_person(struct rng *rng)
{
    return bystanders[rng_below(rng, (uint32_t)count(bystanders))];
}

static void put_value(struct text *out, int relation, int value)
{
    const struct relation *r = &relations[relation];
    if (r->values_from >= 0)
        world_entity(out, r->values_from, value);
    else
        text_puts(out, r->value[value]);
}

void world_fill(struct text *out, const char *pattern, struct fact fact, int value, const char *person)
{
    int domain = relations[fact.relation].domain;
    for (const char *p = pattern; *p; p++) {
        size_t start = out->n;
        if (*p != '$') {
            text_add(out, p, 1);
            continue;
        }
        switch (*++p) {
        case 'e':
        case 'E':
            text_puts(out, domains[domain].the);
            world_entity(out, domain, fact.entity);
            break;
        case 'v':
        case 'V':
            put_value(out, fact.relation, value);
            break;
        case 'p':
            text_puts(out, person);
            break;
        }
        if ((*p == 'E' || *p == 'V') && !out->failed)
            out->s[start] = (char)toupper((unsigned char)out->s[start]);
    }
}

struct fact world_pick(const struct world *world, struct rng *rng, enum part part, size_t offset)
{
    for (;;) {
        struct fact fact = {.relation = (int)rng_below(rng, (uint32_t)world_relations())};
        fact.entity = (int)rng_below(rng, (uint32_t)world_count(fact.relation));
        const char *pattern;
        memcpy(&pattern, (const char *)&relations[fact.relation] + offset, sizeof pattern);
        if (pattern && world->part[fact.relation][fact.entity] == part)
            return fact;
    }
}

static int say_count(int relation)
{
    int n = 0;
    while (n < MAX_SAY && relations[relation].say[n])
        n++;
    return n;
}

void world_say(struct text *out, const struct world *world, struct rng *rng, struct fact fact)
{
    const char *pattern = relations[fact.relation].say[rng_below(rng, (uint32_t)say_count(fact.relation))];
    world_fill(out, pattern, fact, world->value[fact.relation][fact.entity], world_person(rng));
}

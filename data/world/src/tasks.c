/* tasks.c: documents of the seven tasks, in the formats of the public task files.
 *
 * Wrong choices are other values of the same relation (or other entities of the same domain), so that a choice is told from
 * another only by what is true.  Which choice is right cycles, so that labels are balanced. */
#include <stdlib.h>
#include <string.h>

#include "world.h"

enum { DRAW_TASKS = 2000 };

static int truth(const struct world *world, struct fact fact)
{
    return world->value[fact.relation][fact.entity];
}

/* n different values of the fact's relation, the true one at `gold`. */
static void draw_choices(const struct world *world, struct rng *rng, struct fact fact, int n, int gold, int *value)
{
    uint32_t order[MAX_ENTITIES];
    int all = world_values(fact.relation), true_value = truth(world, fact);
    /* An entity is never offered as its own friend: that would be told from the rest without knowing anything. */
    bool same = relations[fact.relation].values_from == relations[fact.relation].domain;
    for (int i = 0; i < all; i++)
        order[i] = (uint32_t)i;
    rng_shuffle(rng, order, (size_t)all);
    for (int i = 0, k = 0; k < n; k++) {
        if (k == gold) {
            value[k] = true_value;
            continue;
        }
        while ((int)order[i] == true_value || (same && (int)order[i] == fact.entity))
            i++;
        value[k] = (int)order[i++];
    }
}

/* ---- one function a form ---- */

/* A fact with enough values to choose from. */
static struct fact pick(const struct world *world, struct rng *rng, enum part part, size_t needs, int n_choices)
{
    struct fact fact;
    do
        fact = world_pick(world, rng, part, needs);
    while (world_values(fact.relation) < n_choices);
    return fact;
}

static void fill_choices(const struct world *world, struct rng *rng, struct fact fact, const char *pattern, int n, int gold, struct document *doc)
{
    int value[WORLD_MAX_CHOICES];
    draw_choices(world, rng, fact, n, gold, value);
    doc->n_choices = n;
    doc->gold = gold;
    for (int k = 0; k < n; k++)
        world_fill(&doc->choice[k], pattern, fact, value[k], "");
}

/* Another relation of the same entity; `needs` as in world_pick. */
static struct fact sibling(struct rng *rng, struct fact fact, size_t needs)
{
    struct fact other = fact;
    const char *pattern;
    do {
        other.relation = (int)rng_below(rng, (uint32_t)world_relations());
        memcpy(&pattern, (const char *)&relations[other.relation] + needs, sizeof pattern);
    } while (!pattern || other.relation == fact.relation || relations[other.relation].domain != relations[fact.relation].domain);
    return other;
}

static void make_boolq(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact fact = world_pick(world, rng, part, offsetof(struct relation, verify));
    int value[2];
    draw_choices(world, rng, fact, 2, 0, value);
    if (gold)
        world_say(&doc->passage, world, rng, fact);
    else
        world_fill(&doc->passage, relations[fact.relation].deny, fact, value[1], "");
    world_fill(&doc->context, relations[fact.relation].verify, fact, value[1 - gold], "");
    doc->n_choices = 2;
    doc->gold = gold;
    text_puts(&doc->choice[0], "no");
    text_puts(&doc->choice[1], "yes");
}

static void make_piqa(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact fact = pick(world, rng, part, offsetof(struct relation, goal), 2);
    world_fill(&doc->context, relations[fact.relation].goal, fact, 0, "");
    fill_choices(world, rng, fact, relations[fact.relation].solution, 2, gold, doc);
}

static void make_hellaswag(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact fact = pick(world, rng, part, offsetof(struct relation, scene), 4);
    doc->label = relations[fact.relation].label;
    world_fill(&doc->context, relations[fact.relation].scene, fact, 0, world_person(rng));
    fill_choices(world, rng, fact, relations[fact.relation].ending, 4, gold, doc);
}

/* "$a met $b, and _ ate grass.": $a and $b of one part and with different values, the value is that of the right one. */
static void fill_contrast(struct text *out, const char *pattern, const struct fact pair[2], int value, const char *person)
{
    const struct domain *domain = &domains[relations[pair[0].relation].domain];
    for (const char *p = pattern; *p; p++)
        if (p[0] == '$' && (p[1] == 'a' || p[1] == 'b')) {
            world_fill(out, p == pattern ? "$E" : "$e", pair[p[1] == 'b'], value, person);
            p++;
        } else if (p[0] == '$') {
            char one[3] = {'$', *++p, 0};
            world_fill(out, one, pair[0], value, person);
        } else if (p[0] == '_') {
            text_puts(out, domain->the);
            text_puts(out, "_");
        } else {
            text_add(out, p, 1);
        }
}

static void make_winogrande(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact pair[2];
    pair[0] = pair[1] = world_pick(world, rng, part, offsetof(struct relation, contrast));
    int relation = pair[0].relation;
    do
        pair[1].entity = (int)rng_below(rng, (uint32_t)world_count(relation));
    while (world->part[relation][pair[1].entity] != part || truth(world, pair[1]) == truth(world, pair[0]));
    fill_contrast(&doc->context, relations[relation].contrast, pair, truth(world, pair[gold]), world_person(rng));
    doc->n_choices = 2;
    doc->gold = gold;
    for (int k = 0; k < 2; k++)
        world_entity(&doc->choice[k], relations[relation].domain, pair[k].entity);
}

static void make_arc_easy(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact fact = pick(world, rng, part, offsetof(struct relation, ask), 4);
    world_fill(&doc->context, relations[fact.relation].ask, fact, 0, "");
    fill_choices(world, rng, fact, relations[fact.relation].answer, 4, gold, doc);
}

static bool agrees(const struct world *world, struct fact fact, int entity)
{
    return world->value[fact.relation][entity] == truth(world, fact);
}

/* An entity not yet shown that has the first property, or the second, as `like` says (0: neither), and never both; any without
 * both when there is none.  A property's own value ("loves the owl") is no candidate: the question names it. */
static int draw_wrong(const struct world *world, struct rng *rng, const struct fact asked[2], int like, const bool *shown)
{
    int n = world_count(asked[0].relation), found[2] = {-1, -1};
    uint32_t order[MAX_ENTITIES];
    for (int i = 0; i < n; i++)
        order[i] = (uint32_t)i;
    rng_shuffle(rng, order, (size_t)n);
    for (int i = 0; i < n; i++) {
        int e = (int)order[i];
        bool first = agrees(world, asked[0], e), second = agrees(world, asked[1], e), named = false;
        for (int k = 0; k < 2; k++)
            named = named || (relations[asked[k].relation].values_from == relations[asked[k].relation].domain && truth(world, asked[k]) == e);
        if (shown[e] || named || (first && second))
            continue;
        found[1] = e;
        if (first == (like == 1) && second == (like == 2))
            found[0] = e;
    }
    return found[0] >= 0 ? found[0] : found[1];
}

/* From two values back to the entity; one wrong entity has the first of them, one the second. */
static void make_arc_challenge(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact asked[2];
    do {
        asked[0].relation = (int)rng_below(rng, (uint32_t)world_relations());
        asked[0].entity = (int)rng_below(rng, (uint32_t)world_count(asked[0].relation));
        asked[1] = sibling(rng, asked[0], offsetof(struct relation, who));
    } while (world_pair_part(world, asked[0].entity, asked[0].relation, asked[1].relation) != part);
    bool shown[MAX_ENTITIES] = {false};
    shown[asked[0].entity] = true;
    text_printf(&doc->context, "%s ", domains[relations[asked[0].relation].domain].which);
    world_fill(&doc->context, relations[asked[0].relation].who, asked[0], truth(world, asked[0]), "");
    text_puts(&doc->context, " and ");
    world_fill(&doc->context, relations[asked[1].relation].who, asked[1], truth(world, asked[1]), "");
    text_puts(&doc->context, "?");
    doc->n_choices = 4;
    doc->gold = gold;
    for (int k = 0, like = 1; k < 4; k++) {
        struct fact choice = asked[0];
        if (k != gold) {
            choice.entity = draw_wrong(world, rng, asked, like++ % 3, shown);
            shown[choice.entity] = true;
        }
        world_fill(&doc->choice[k], "$e", choice, 0, "");
    }
}

static void make_openbookqa(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc)
{
    struct fact fact = pick(world, rng, part, offsetof(struct relation, stem), 4);
    world_fill(&doc->context, relations[fact.relation].stem, fact, 0, "");
    fill_choices(world, rng, fact, relations[fact.relation].completion, 4, gold, doc);
}

enum { BOOLQ, PIQA, HELLASWAG, WINOGRANDE, ARC_EASY, ARC_CHALLENGE, OPENBOOKQA };
const struct task_form task_forms[WORLD_TASKS] = {
    {"boolq", "boolq.validation.jsonl", offsetof(struct relation, verify), 2, make_boolq},
    {"piqa", "piqa.validation.jsonl", offsetof(struct relation, goal), 2, make_piqa},
    {"hellaswag", "hellaswag.validation.jsonl", offsetof(struct relation, scene), 4, make_hellaswag},
    {"winogrande", "winogrande_xl.validation.jsonl", offsetof(struct relation, contrast), 2, make_winogrande},
    {"arc_easy", "arc_easy.test.jsonl", offsetof(struct relation, ask), 4, make_arc_easy},
    {"arc_challenge", "arc_challenge.test.jsonl", offsetof(struct relation, who), 4, make_arc_challenge},
    {"openbookqa", "openbookqa.test.jsonl", offsetof(struct relation, stem), 4, make_openbookqa},
};

/* ---- writing ---- */

void document_clear(struct document *doc)
{
    text_clear(&doc->passage);
    text_clear(&doc->context);
    for (int k = 0; k < WORLD_MAX_CHOICES; k++)
        text_clear(&doc->choice[k]);
    doc->label = NULL;
}

void document_free(struct document *doc)
{
    text_free(&doc->passage);
    text_free(&doc->context);
    for (int k = 0; k < WORLD_MAX_CHOICES; k++)
        text_free(&doc->choice[k]);
}

void document_text(struct text *out, int form, const struct document *doc)
{
    const char *context = doc->context.s, *right = doc->choice[doc->gold].s, *blank;
    switch (form) {
    case BOOLQ:
        text_printf(out, "%s\nQuestion: %s?\nAnswer: %s", doc->passage.s, context, right);
        return;
    case HELLASWAG:
        text_printf(out, "%s: %s %s", doc->label, context, right);
        return;
    case WINOGRANDE:
        blank = strchr(context, '_');
        text_add(out, context, (size_t)(blank - context));
        text_printf(out, "%s%s", right, blank + 1);
        return;
    case OPENBOOKQA:
        text_printf(out, "%s %s", context, right);
        return;
    default:
        text_printf(out, "Question: %s\nAnswer: %s", context, right);
    }
}

static void json_field(struct text *out, const char *name, const char *value)
{
    text_printf(out, "\"%s\": ", name);
    text_json_string(out, value, strlen(value));
    text_puts(out, ", ");
}

void document_json(struct text *out, int form, const struct document *doc, const char *split, int idx)
{
    static const char *const asked[WORLD_TASKS] = {"question", "goal", "ctx", "sentence", "question", "question", "question_stem"};
    text_printf(out, "{\"task\": \"%s\", \"split\": \"%s\", \"idx\": %d, ", task_forms[form].name, split, idx);
    if (doc->label)
        json_field(out, "activity_label", doc->label);
    json_field(out, asked[form], doc->context.s);
    if (form == BOOLQ)
        json_field(out, "passage", doc->passage.s);
    text_puts(out, "\"choices\": [");
    for (int k = 0; k < doc->n_choices; k++) {
        text_puts(out, k ? ", " : "");
        text_json_string(out, doc->choice[k].s, doc->choice[k].n);
    }
    text_printf(out, "], \"label\": %d}\n", doc->gold);
}

/* Two documents are the same when they ask the same and hold the same answer, whatever the wrong choices. */
static bool seen_before(struct text *seen, const char *line)
{
    if (seen->s && strstr(seen->s, line))
        return true;
    text_puts(seen, line);
    return false;
}

void task_file(struct text *out, const struct world *world, int form, int n_search, int n_report)
{
    struct document doc = {0};
    struct text seen = {0}, line = {0};
    struct rng rng = {world->seed, RNG_WORLD, (uint32_t)(DRAW_TASKS + form), 0};
    for (int i = 0; i < n_search + n_report;) {
        bool search = i < n_search;
        document_clear(&doc);
        task_forms[form].make(world, &rng, search ? ASK_SEARCH : ASK_REPORT, i % task_forms[form].n_choices, &doc);
        text_clear(&line);
        text_puts(&line, "|");
        document_text(&line, form, &doc);
        text_puts(&line, "|");
        if (line.failed || (seen_before(&seen, line.s) && !seen.failed))
            continue;
        document_json(out, form, &doc, search ? "search" : "report", i);
        i++;
    }
    document_free(&doc);
    text_free(&seen);
    text_free(&line);
}

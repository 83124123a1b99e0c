/* corpus.c: the training text and the instructions.
 *
 * Passages state any fact of the world; whatever asks, finishes or contrasts a fact uses facts of the training part only. */
#include <string.h>

#include "world.h"

enum { DRAW_CORPUS = 3000, DRAW_INSTRUCT = 3001 };

/* Up to `most` facts of one entity, in drawn order and drawn words. */
static void portrait(struct text *out, const struct world *world, struct rng *rng, int domain, int entity, int most)
{
    uint32_t order[MAX_RELATIONS];
    size_t n = 0;
    for (int r = 0; r < world_relations(); r++)
        if (relations[r].domain == domain)
            order[n++] = (uint32_t)r;
    rng_shuffle(rng, order, n);
    for (size_t i = 0; i < n && i < (size_t)most; i++) {
        text_puts(out, i ? " " : "");
        world_say(out, world, rng, (struct fact){(int)order[i], entity});
    }
}

static void any_entity(struct rng *rng, int *domain, int *entity)
{
    int relation = (int)rng_below(rng, (uint32_t)world_relations()); /* domains with more facts come more often */
    *domain = relations[relation].domain;
    *entity = (int)rng_below(rng, (uint32_t)world_count(relation));
}

static void passage(struct text *out, const struct world *world, struct rng *rng)
{
    int domain, entity;
    any_entity(rng, &domain, &entity);
    portrait(out, world, rng, domain, entity, 2 + (int)rng_below(rng, 4));
}

/* Facts of different entities one after another. */
static void chatter(struct text *out, const struct world *world, struct rng *rng)
{
    for (int i = 0; i < 4; i++) {
        struct fact fact = {.relation = (int)rng_below(rng, (uint32_t)world_relations())};
        fact.entity = (int)rng_below(rng, (uint32_t)world_count(fact.relation));
        text_puts(out, i ? " " : "");
        world_say(out, world, rng, fact);
    }
}

static void exercise(struct text *out, const struct world *world, struct rng *rng, struct document *doc)
{
    int form = (int)rng_below(rng, WORLD_TASKS);
    document_clear(doc);
    task_forms[form].make(world, rng, ASK_TRAIN, (int)rng_below(rng, (uint32_t)task_forms[form].n_choices), doc);
    document_text(out, form, doc);
}

/* ---- instructions ---- */

struct instruction {
    struct text instruction, input, output;
};

static void instruct_portrait(struct instruction *to, const struct world *world, struct rng *rng)
{
    int domain, entity;
    any_entity(rng, &domain, &entity);
    text_printf(&to->instruction, "Tell me about %s", domains[domain].the);
    world_entity(&to->instruction, domain, entity);
    text_puts(&to->instruction, ".");
    portrait(&to->output, world, rng, domain, entity, MAX_RELATIONS);
}

/* A question with a whole sentence as its answer. */
static void instruct_question(struct instruction *to, const struct world *world, struct rng *rng)
{
    struct fact fact = world_pick(world, rng, ASK_TRAIN, offsetof(struct relation, ask));
    world_fill(&to->instruction, relations[fact.relation].ask, fact, 0, "");
    world_fill(&to->output, relations[fact.relation].say[0], fact, world->value[fact.relation][fact.entity], "");
}

/* A task's own prompt as the instruction, its right choice as the output. */
static void instruct_exercise(struct instruction *to, const struct world *world, struct rng *rng, struct document *doc)
{
    int form = (int)rng_below(rng, WORLD_TASKS);
    document_clear(doc);
    task_forms[form].make(world, rng, ASK_TRAIN, (int)rng_below(rng, (uint32_t)task_forms[form].n_choices), doc);
    struct text whole = {0};
    document_text(&whole, form, doc);
    if (!whole.failed) {
        /* The output is the right choice; in winogrande what follows the blank, as there it is what is scored. */
        const char *blank = strchr(doc->context.s, '_');
        size_t tail = blank ? strlen(blank + 1) - 1 : doc->choice[doc->gold].n;
        size_t head = whole.n - tail;
        text_add(&to->output, whole.s + head, tail);
        text_add(&to->instruction, whole.s, head - 1); /* without the blank between */
    }
    text_free(&whole);
}

static void draw_instruction(struct instruction *to, const struct world *world, struct rng *rng, struct document *doc)
{
    text_clear(&to->instruction);
    text_clear(&to->input);
    text_clear(&to->output);
    uint32_t kind = rng_below(rng, 10);
    if (kind < 4)
        instruct_portrait(to, world, rng);
    else if (kind < 5)
        instruct_question(to, world, rng);
    else
        instruct_exercise(to, world, rng, doc);
}

static void instruction_free(struct instruction *to)
{
    text_free(&to->instruction);
    text_free(&to->input);
    text_free(&to->output);
}

/* As the Alpaca prompt without an input has it. */
static void instruction_text(struct text *out, const struct instruction *from)
{
    text_printf(out,
                "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
                "### Instruction:\n%s\n\n### Response:\n%s",
                from->instruction.s, from->output.s);
}

/* ---- files ---- */

void corpus_text(struct text *out, struct text *plain, const struct world *world, int n)
{
    struct document doc = {0};
    struct instruction instruction = {0};
    struct text one = {0};
    struct rng rng = {world->seed, RNG_WORLD, DRAW_CORPUS, 0};
    for (int i = 0; i < n; i++) {
        uint32_t kind = rng_below(&rng, 100);
        text_clear(&one);
        if (kind < 40) {
            passage(&one, world, &rng);
        } else if (kind < 55) {
            chatter(&one, world, &rng);
        } else if (kind < 96) {
            exercise(&one, world, &rng, &doc);
        } else {
            draw_instruction(&instruction, world, &rng, &doc);
            instruction_text(&one, &instruction);
        }
        text_puts(out, "{\"text\": ");
        text_json_string(out, one.s, one.n);
        text_puts(out, "}\n");
        if (plain) {
            text_puts(plain, " "); /* as the encoder's dummy prefix */
            text_add(plain, one.s, one.n);
        }
    }
    text_free(&one);
    instruction_free(&instruction);
    document_free(&doc);
}

static void json_field(struct text *out, const char *name, const struct text *value, const char *after)
{
    text_printf(out, "\"%s\": ", name);
    text_json_string(out, value->s ? value->s : "", value->n);
    text_puts(out, after);
}

void corpus_instruct(struct text *out, const struct world *world, int n)
{
    struct document doc = {0};
    struct instruction instruction = {0};
    struct rng rng = {world->seed, RNG_WORLD, DRAW_INSTRUCT, 0};
    for (int i = 0; i < n; i++) {
        draw_instruction(&instruction, world, &rng, &doc);
        text_puts(out, "{");
        json_field(out, "instruction", &instruction.instruction, ", ");
        json_field(out, "input", &instruction.input, ", ");
        json_field(out, "output", &instruction.output, "}\n");
    }
    instruction_free(&instruction);
    document_free(&doc);
}

enum status world_tokenizer(struct text *model, const struct world *world, struct err *err)
{
    enum { DOCUMENTS = 20000, FRAMES = 4000 };
    struct text lines = {0}, plain = {0};
    static const struct instruction empty = {.instruction = {.s = ""}, .output = {.s = ""}};
    corpus_text(&lines, &plain, world, DOCUMENTS);
    /* Every step of the fine-tuning reads the Alpaca frame: its words are worth a piece each. */
    for (int i = 0; i < FRAMES; i++) {
        text_puts(&plain, " ");
        instruction_text(&plain, &empty);
    }
    bool failed = lines.failed || plain.failed;
    enum status status = failed ? err_set(err, ERR_MEMORY, "out of memory for the tokenizer's text")
                                : bpe_learn(model, plain.s, plain.n, WORLD_PIECES, err);
    text_free(&lines);
    text_free(&plain);
    return status;
}

/* world.h: a small made-up world, its language, and the files that are written about it.
 *
 * A world is a table of facts: entity x relation -> value, drawn by Philox.  Every fact is stated in the training text; which
 * facts are also ASKED there, and which only in the search or the report part of the seven tasks, is drawn too.  A model
 * therefore has to keep the facts in its weights and to have learned from other facts what a question wants.
 * What it is not: it knows nothing of models, and bpe.c nothing of worlds. */
#ifndef WORLD_H
#define WORLD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/rng.h"
#include "base/text.h"

/* The world of the default run. */
enum {
    WORLD_SEED = 1,
    WORLD_DOCUMENTS = 100000,  /* of the training text */
    WORLD_INSTRUCTIONS = 1600,
    WORLD_PIECES = 1024,       /* of the tokenizer */
    WORLD_SEARCH = 48,         /* documents of each task in its two parts */
    WORLD_REPORT = 100,
};

enum { MAX_SAY = 8, MAX_WORDS = 32, MAX_ENTITIES = 128, MAX_RELATIONS = 24, WORLD_TASKS = 7 };

/* ---- language.c: the words and sentence patterns ---- */

struct domain {
    const char *which;                  /* how one is asked for: "Which animal", "Who" */
    const char *the;                    /* "the " before an entity, "" before a person's name */
    const char *first[MAX_WORDS + 1], *last[MAX_WORDS + 1]; /* the two words of names, as many of each; end with NULL */
};

/* Sentence patterns.  $e the entity with its article, $E the same capitalised, $v the value, $V capitalised, $p a person. */
struct relation {
    const char *name;
    int domain;
    int values_from; /* values are the entities of this domain; -1: those below */
    const char *value[MAX_WORDS + 1];
    const char *say[MAX_SAY + 1];    /* statements, ends with NULL */
    const char *ask, *answer;        /* arc_easy: a question and how $v answers it */
    const char *who;                 /* arc_challenge: what is true of the entity; two of them are joined by "and" */
    const char *verify, *deny;       /* boolq: a question without its mark, and a statement that a value is not the one */
    const char *goal, *solution;     /* piqa; NULL: none */
    const char *label, *scene, *ending; /* hellaswag; NULL: none */
    const char *contrast;            /* winogrande: $a, $b the two entities, "_" the blank */
    const char *stem, *completion;   /* openbookqa */
};

extern const struct domain domains[];
extern const struct relation relations[];
extern const char *const bystanders[]; /* people who see and do things and of whom nothing is said; ends with NULL */
int world_domains(void);
int world_relations(void);

/* ---- facts.c: what is true, and which part may ask it ---- */

enum part { ASK_TRAIN, ASK_SEARCH, ASK_REPORT }; /* training questions, "search", "report" */

struct world {
    uint64_t seed;
    uint8_t value[MAX_RELATIONS][MAX_ENTITIES];
    uint8_t part[MAX_RELATIONS][MAX_ENTITIES]; /* enum part */
};

struct fact {
    int relation, entity;
};

void world_draw(struct world *world, uint64_t seed);
int world_count(int relation);  /* entities of the relation's domain */
int world_values(int relation); /* values it may take */
void world_entity(struct text *out, int domain, int entity); /* its name without an article */
/* Fills a pattern into out: the value is given apart from the fact, since wrong choices need other values. */
void world_fill(struct text *out, const char *pattern, struct fact fact, int value, const char *person);
const char *world_person(struct rng *rng);
/* States a fact in one of its relation's drawn ways. */
void world_say(struct text *out, const struct world *world, struct rng *rng, struct fact fact);
/* Where two facts of an entity may be asked together; a draw of its own, since it is the pair that must not have been asked. */
enum part world_pair_part(const struct world *world, int entity, int relation, int other);
/* A fact of a part with a pattern at `offset` bytes in struct relation that is not NULL. */
struct fact world_pick(const struct world *world, struct rng *rng, enum part part, size_t offset);

/* ---- tasks.c: documents of the seven tasks ---- */

enum { WORLD_MAX_CHOICES = 4 };
struct document {
    struct text passage, context; /* boolq's passage; what is asked: question, goal, stem, scene, sentence */
    struct text choice[WORLD_MAX_CHOICES];
    const char *label;            /* hellaswag's activity_label */
    int n_choices, gold;
};
struct task_form {
    const char *name, *file; /* file under the folder */
    size_t needs;            /* offset in struct relation of the pattern that the form is made of */
    int n_choices;
    void (*make)(const struct world *world, struct rng *rng, enum part part, int gold, struct document *doc);
};
extern const struct task_form task_forms[WORLD_TASKS];
void document_clear(struct document *doc);
void document_free(struct document *doc);
/* The document with its right choice as running text, as the model would read it when scored. */
void document_text(struct text *out, int form, const struct document *doc);
/* One JSON line. */
void document_json(struct text *out, int form, const struct document *doc, const char *split, int idx);
/* The file of a form: n_search + n_report different documents. */
void task_file(struct text *out, const struct world *world, int form, int n_search, int n_report);

/* ---- corpus.c: training text and instructions ---- */

/* n documents, a JSON line {"text": ...} each.  plain (or NULL) gets the same documents for the tokenizer, a blank before each. */
void corpus_text(struct text *out, struct text *plain, const struct world *world, int n);
/* n lines of instruction, input, output. */
void corpus_instruct(struct text *out, const struct world *world, int n);
/* tokenizer.model, learned from the beginning of the training text. */
enum status world_tokenizer(struct text *model, const struct world *world, struct err *err);

/* ---- bpe.c: a SentencePiece BPE model learned from a text ---- */

/* Merges by frequency until there are `pieces` (with 3 control and 256 byte pieces), serialized as tokenizer.model. */
enum status bpe_learn(struct text *model, const char *text, size_t n, int pieces, struct err *err);

#endif

/* world.c: writes the small world of the default run: training text, instructions, tokenizer and the seven task files.
 *
 * usage: world FOLDER.  The same bytes every time. */
#include <stdio.h>

#include "base/file.h"
#include "data/world/src/world.h"

static enum status publish_text(const char *folder, const char *name, struct text *text, struct err *err)
{
    char path[1024];
    if (text->failed)
        return err_set(err, ERR_MEMORY, "out of memory for %s", name);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    enum status status = file_write(path, text->s, text->n, err);
    text_clear(text);
    return status;
}

static enum status write_tasks(const char *folder, const struct world *world, struct text *out, struct err *err)
{
    for (int form = 0; form < WORLD_TASKS; form++) {
        task_file(out, world, form, WORLD_SEARCH, WORLD_REPORT);
        TRY(publish_text(folder, task_forms[form].file, out, err));
    }
    return OK;
}

static enum status write_all_files(const char *folder, struct text *out, struct err *err)
{
    struct world world;
    world_draw(&world, WORLD_SEED);
    TRY(write_tasks(folder, &world, out, err));
    corpus_instruct(out, &world, WORLD_INSTRUCTIONS);
    TRY(publish_text(folder, "instruct.jsonl", out, err));
    TRY(world_tokenizer(out, &world, err));
    TRY(publish_text(folder, "tokenizer.model", out, err));
    corpus_text(out, NULL, &world, WORLD_DOCUMENTS);
    return publish_text(folder, "text.jsonl", out, err);
}

int main(int argc, char **argv)
{
    struct err err = {{0}};
    struct text out = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: world FOLDER\n");
        return ERR_INPUT;
    }
    enum status status = write_all_files(argv[1], &out, &err);
    if (status != OK)
        fprintf(stderr, "world: %s\n", err.text);
    text_free(&out);
    return (int)status;
}

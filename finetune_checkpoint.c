/* finetune_checkpoint.c: writing and reading checkpoint-N/state.bin. */
#include "finetune_checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static char *state_path(const char *dir, int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "checkpoint-%lld/state.bin", (long long)step);
    return path_join(dir, name);
}

static void drop(const char *dir, int64_t step)
{
    char name[48];
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)step);
    char *path = path_join(dir, name);
    if (path)
        dir_remove(path);
    free(path);
}

/* Steps of the checkpoints in a folder, newest first; a missing folder holds none. */
static size_t list(const char *dir, int64_t step[], size_t most)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        long long k;
        char rest;
        if (sscanf(e->d_name, "checkpoint-%lld%c", &k, &rest) != 1 || k < 1 || n == most)
            continue;
        size_t at = n++;
        for (; at > 0 && step[at - 1] < k; at--)
            step[at] = step[at - 1];
        step[at] = k;
    }
    if (d)
        closedir(d);
    return n;
}

/* ---- writing ---- */

struct writer {
    struct publish publish;
    struct sha256 sum;
};

static enum status put(struct writer *w, const void *bytes, size_t n, struct err *err)
{
    sha256_add(&w->sum, bytes, n);
    return publish_write(&w->publish, bytes, n, err);
}

static enum status put_all(struct writer *w, const struct finetune_state *s, struct err *err)
{
    char head[256], hex[65];
    size_t bytes = s->n * sizeof(real);
    int n = snprintf(head, sizeof head, "{\"veneer_checkpoint\":1,\"step\":%lld,\"n\":%zu,\"identity\":%u,\"curve\":%zu,\"skipped\":%lld}\n",
                     (long long)s->step, s->n, s->identity, s->finetune->n_curve, (long long)s->finetune->skipped);
    TRY(put(w, head, (size_t)n, err));
    TRY(put(w, s->p, bytes, err));
    TRY(put(w, s->m, bytes, err));
    TRY(put(w, s->v, bytes, err));
    TRY(put(w, s->finetune->curve, s->finetune->n_curve * sizeof *s->finetune->curve, err));
    sha256_hex(&w->sum, hex);
    return publish_write(&w->publish, hex, 64, err);
}

enum status finetune_save(const struct finetune_state *state, const char *dir, struct err *err)
{
    char name[48];
    snprintf(name, sizeof name, "checkpoint-%lld", (long long)state->step);
    char *folder = path_join(dir, name), *path = state_path(dir, state->step);
    struct writer w;
    sha256_init(&w.sum);
    enum status status = folder && path ? dir_make(folder, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    if (status == OK)
        status = publish_open(&w.publish, path, err);
    if (status == OK) {
        status = put_all(&w, state, err);
        if (status == OK)
            status = publish_commit(&w.publish, err);
        else
            publish_abandon(&w.publish);
    }
    free(folder);
    free(path);
    TRY(status);
    int64_t step[64];
    size_t n = list(dir, step, 64);
    for (size_t i = 2; i < n; i++)
        drop(dir, step[i]);
    return OK;
}

/* ---- reading ---- */

static enum status check_sum(const struct file *file, struct err *err)
{
    enum { PART = 1 << 16 };
    unsigned char part[PART];
    char want[65] = "", hex[65];
    struct sha256 sum;
    sha256_init(&sum);
    if (file->size < 64)
        return err_set(err, ERR_INPUT, "%s: %llu bytes are too few for a checkpoint", file->path, (unsigned long long)file->size);
    uint64_t end = file->size - 64;
    for (uint64_t at = 0; at < end; at += PART) {
        size_t n = end - at < PART ? (size_t)(end - at) : PART;
        TRY(file_pread(file, at, part, n, err));
        sha256_add(&sum, part, n);
    }
    sha256_hex(&sum, hex);
    TRY(file_pread(file, end, want, 64, err));
    if (memcmp(hex, want, 64) != 0)
        return err_set(err, ERR_INPUT, "%s: its checksum does not fit, it is damaged", file->path);
    return OK;
}

/* Fills the state; *mine is false when the checkpoint is whole but of another run. */
static enum status read_state(struct finetune_state *s, const struct file *file, bool *mine, struct err *err)
{
    char head[256] = "";
    long long step, skipped;
    unsigned long long n, curve;
    unsigned identity;
    int used = 0;
    TRY(check_sum(file, err));
    TRY(file_pread(file, 0, head, file->size < 255 ? (size_t)file->size : 255, err));
    if (sscanf(head, "{\"veneer_checkpoint\":1,\"step\":%lld,\"n\":%llu,\"identity\":%u,\"curve\":%llu,\"skipped\":%lld}%n", &step, &n,
               &identity, &curve, &skipped, &used) != 5 ||
        used == 0)
        return err_set(err, ERR_INPUT, "%s: is no checkpoint of this version", file->path);
    *mine = n == s->n && identity == s->identity && curve <= s->finetune->max_steps && step >= 0;
    uint64_t at = (uint64_t)used + 1, bytes = n * sizeof(real);
    if (!*mine)
        return OK;
    if (file->size != at + 3 * bytes + curve * sizeof *s->finetune->curve + 64)
        return err_set(err, ERR_INPUT, "%s: %llu bytes do not fit what its first line says", file->path, (unsigned long long)file->size);
    TRY(file_pread(file, at, s->p, bytes, err));
    TRY(file_pread(file, at + bytes, s->m, bytes, err));
    TRY(file_pread(file, at + 2 * bytes, s->v, bytes, err));
    TRY(file_pread(file, at + 3 * bytes, s->finetune->curve, (size_t)curve * sizeof *s->finetune->curve, err));
    s->finetune->n_curve = (size_t)curve;
    s->finetune->skipped = skipped;
    s->step = step;
    return OK;
}

enum status finetune_restore(struct finetune_state *state, const char *dir, const struct log *log, struct err *err)
{
    int64_t step[64];
    size_t n = list(dir, step, 64);
    for (size_t i = 0; i < n; i++) {
        struct file file;
        struct err why;
        bool mine = false;
        char *path = state_path(dir, step[i]);
        if (!path)
            return err_set(err, ERR_MEMORY, "out of memory for a path");
        enum status status = file_open(&file, path, &why);
        free(path);
        if (status == OK) {
            status = read_state(state, &file, &mine, &why);
            file_close(&file);
        }
        if (status == OK && mine) {
            log_line(log, "going on from step %lld", (long long)state->step);
            return OK;
        }
        if (status != OK)
            log_line(log, "passed over: %s", why.text);
    }
    return OK;
}

/* finetune_checkpoint.c: writing and reading checkpoint-N/state.bin.
 *
 * What it is not: an adapter for other tools (export.h writes those); the floats are this machine's own, little-endian. */
#include "finetune_checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/size.h"
#include "cuda/device.h"

enum { MOST = 64,           /* checkpoints of a folder that are looked at */
       PART = 1 << 16 };    /* bytes on the way between file and device, or to a checksum */

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

/* n reals of the state's memory, part by part where they are a device's. */
static enum status put_reals(struct writer *w, const struct finetune_state *s, const real *x, struct err *err)
{
    unsigned char part[PART];
    const unsigned char *from = (const unsigned char *)x;
    size_t bytes = s->n * sizeof *x;
    if (!s->device)
        return put(w, x, bytes, err);
    for (size_t at = 0; at < bytes; at += PART) {
        size_t k = bytes - at < PART ? bytes - at : PART;
        TRY(device_download(s->device, part, from + at, k, err));
        TRY(put(w, part, k, err));
    }
    return OK;
}

enum status finetune_identify(struct finetune_state *s, struct err *err)
{
    unsigned char part[PART];
    const unsigned char *from = (const unsigned char *)s->p;
    size_t bytes = s->n * sizeof *s->p;
    for (size_t at = 0; at < bytes; at += PART) {
        size_t k = bytes - at < PART ? bytes - at : PART;
        if (s->device)
            TRY(device_download(s->device, part, from + at, k, err));
        s->identity = crc32c(s->identity, s->device ? part : from + at, k);
    }
    return OK;
}

static enum status put_all(struct writer *w, const struct finetune_state *s, struct err *err)
{
    char head[256], hex[65];
    int n = snprintf(head, sizeof head, "{\"veneer_checkpoint\":1,\"step\":%lld,\"n\":%zu,\"identity\":%u,\"curve\":%zu,\"skipped\":%lld}\n",
                     (long long)s->step, s->n, s->identity, s->finetune->n_curve, (long long)s->finetune->skipped);
    TRY(put(w, head, (size_t)n, err));
    TRY(put_reals(w, s, s->p, err));
    TRY(put_reals(w, s, s->m, err));
    TRY(put_reals(w, s, s->v, err));
    TRY(put(w, s->finetune->curve, s->finetune->n_curve * sizeof *s->finetune->curve, err));
    sha256_hex(&w->sum, hex);
    return publish_write(&w->publish, hex, 64, err);
}

/* Keeps the one just written and the one before it.  Those of later steps are of another run: theirs is not ours to judge. */
static void drop_old(const char *dir, int64_t saved)
{
    int64_t step[MOST];
    size_t n = list(dir, step, MOST), older = 0;
    for (size_t i = 0; i < n; i++)
        if (step[i] < saved && ++older > 1)
            drop(dir, step[i]);
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
    if (status == OK)
        status = dir_sync_parent(folder, err);
    free(folder);
    free(path);
    if (status == OK)
        drop_old(dir, state->step);
    return status;
}

/* ---- reading ---- */

static enum status check_sum(const struct file *file, struct err *err)
{
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

struct head {
    long long step, skipped;
    unsigned long long n, curve;
    unsigned identity;
    uint64_t bytes; /* of the line itself */
};

/* Whole, of this version, and as long as its first line says. */
static enum status check_file(const struct file *file, struct head *h, struct err *err)
{
    char line[256] = "";
    int used = 0;
    TRY(check_sum(file, err));
    TRY(file_pread(file, 0, line, file->size < 255 ? (size_t)file->size : 255, err));
    if (sscanf(line, "{\"veneer_checkpoint\":1,\"step\":%lld,\"n\":%llu,\"identity\":%u,\"curve\":%llu,\"skipped\":%lld}%n", &h->step,
               &h->n, &h->identity, &h->curve, &h->skipped, &used) != 5 || used == 0)
        return err_set(err, ERR_INPUT, "%s: is no checkpoint of this version", file->path);
    h->bytes = (uint64_t)used + 1;
    uint64_t values, points, size;
    if (!size_mul(h->n, 3 * sizeof(real), &values) || !size_mul(h->curve, sizeof(struct finetune_point), &points) ||
        !size_add(values, points, &size) || !size_add(size, h->bytes + 64, &size) || size != file->size)
        return err_set(err, ERR_INPUT, "%s: %llu bytes do not fit what its first line says", file->path,
                       (unsigned long long)file->size);
    return OK;
}

static enum status take_reals(const struct finetune_state *s, const struct file *file, uint64_t at, real *x, struct err *err)
{
    unsigned char part[PART], *to = (unsigned char *)x;
    uint64_t bytes = s->n * sizeof *x;
    if (!s->device)
        return file_pread(file, at, x, bytes, err);
    for (uint64_t done = 0; done < bytes; done += PART) {
        size_t k = bytes - done < PART ? (size_t)(bytes - done) : PART;
        TRY(file_pread(file, at + done, part, k, err));
        TRY(device_upload(s->device, to + done, part, k, err));
    }
    return OK;
}

/* Fills the state from a checked file; when it fails half-way the run cannot go on. */
static enum status take_over(struct finetune_state *s, const struct file *file, const struct head *h, struct err *err)
{
    uint64_t at = h->bytes, bytes = s->n * sizeof(real);
    TRY(take_reals(s, file, at, s->p, err));
    TRY(take_reals(s, file, at + bytes, s->m, err));
    TRY(take_reals(s, file, at + 2 * bytes, s->v, err));
    TRY(file_pread(file, at + 3 * bytes, s->finetune->curve, (size_t)h->curve * sizeof *s->finetune->curve, err));
    s->finetune->n_curve = (size_t)h->curve;
    s->finetune->skipped = h->skipped;
    s->step = h->step;
    return OK;
}

static bool is_mine(const struct finetune_state *s, const struct head *h)
{
    return h->n == s->n && h->identity == s->identity && h->curve <= s->finetune->max_steps && h->step >= 0 &&
           (unsigned long long)h->step == h->curve && h->skipped >= 0 && h->skipped <= h->step;
}

/* *done when the state was taken over from checkpoint-STEP. */
static enum status try_one(struct finetune_state *state, const char *dir, int64_t step, const struct log *log, bool *done,
                           struct err *err)
{
    struct file file;
    struct head head;
    struct err why;
    char *path = state_path(dir, step);
    if (!path)
        return err_set(err, ERR_MEMORY, "out of memory for a path");
    enum status status = file_open(&file, path, &why);
    free(path);
    if (status != OK) {
        log_line(log, "passed over: %s", why.text);
        return OK;
    }
    status = check_file(&file, &head, &why);
    if (status != OK)
        log_line(log, "passed over: %s", why.text);
    *done = status == OK && is_mine(state, &head);
    status = *done ? take_over(state, &file, &head, err) : OK;
    file_close(&file);
    return status;
}

enum status finetune_restore(struct finetune_state *state, const char *dir, const struct log *log, struct err *err)
{
    int64_t step[MOST];
    size_t n = list(dir, step, MOST);
    bool done = false;
    for (size_t i = 0; i < n && !done; i++)
        TRY(try_one(state, dir, step[i], log, &done, err));
    if (done)
        log_line(log, "going on from step %lld", (long long)state->step);
    return OK;
}

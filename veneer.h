/* veneer.h: the public interface: one job = one configuration, from reading it to the finished output_dir.
 *
 *     struct veneer *job;
 *     if (veneer_new(&job) || veneer_read(job, "config.txt") || veneer_run(job))
 *         fprintf(stderr, "%s\n", veneer_error(job));
 *     veneer_free(job);
 *
 * Every call returns 0 or one of the codes below and never prints or ends the process; the sentence is veneer_error(job).
 * A job is used by one thread at a time.  Text that a call hands out belongs to the job and lives until its next call. */
#ifndef VENEER_H
#define VENEER_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum veneer_code {
    VENEER_OK = 0,
    VENEER_FAILED = 1,   /* failed while running */
    VENEER_INPUT = 2,    /* wrong usage, configuration or input file */
    VENEER_MEMORY = 3,   /* not enough memory, refused up front or met on the way */
    VENEER_BUSY = 4,     /* output_dir is in use by another process */
    VENEER_STOPPED = 75  /* stopped by veneer_stop with everything saved: run the same job again */
};

struct veneer;

/* "0.1.0" */
const char *veneer_version(void);

/* A job with every key at its default.  *job is NULL only when there was no memory for it. */
int veneer_new(struct veneer **job);
void veneer_free(struct veneer *job); /* NULL is fine */

/* Where progress lines go (no newline in them); NULL: nowhere. */
void veneer_log(struct veneer *job, void (*line)(void *user, const char *text), void *user);

/* key = value lines of a file; then single "key=value" assignments, `where` naming them in messages ("command line"). */
int veneer_read(struct veneer *job, const char *path);
int veneer_set(struct veneer *job, const char *assignment, const char *where);

/* Every key with its value and origin, in the file's own format. */
int veneer_print_config(struct veneer *job, const char **text);
/* The plan layer by layer, parameters, bytes of the file and of each memory lifetime; takes none of them.
 * VENEER_MEMORY when max_memory or the machine is exceeded (*text is still there). */
int veneer_plan(struct veneer *job, const char **text);
/* The keys, their defaults and meanings. */
int veneer_help(struct veneer *job, const char **text);

/* The whole job; run again after any stop it goes on where it stopped. */
int veneer_run(struct veneer *job);
/* Asks the running job to save and return VENEER_STOPPED; may be called from a signal handler. */
void veneer_stop(void);

/* The sentence of the last call that failed; "" when none did. */
const char *veneer_error(const struct veneer *job);

#ifdef __cplusplus
}
#endif
#endif

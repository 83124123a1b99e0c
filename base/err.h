/* err.h: how a room says that it failed.
 *
 * A function that can fail returns `enum status`; when it is not OK it has written one sentence into the caller's
 * `struct err`: where, what was found, what is wanted.  The values are the exit codes of the programs (spec: README). */
#ifndef VENEER_ERR_H
#define VENEER_ERR_H

enum status {
    OK = 0,
    ERR_FAILED = 1,   /* failed while running: a write, a numeric breakdown, our own mistake */
    ERR_INPUT = 2,    /* wrong usage, configuration or input file */
    ERR_MEMORY = 3,   /* not enough memory, refused up front or met on the way */
    ERR_BUSY = 4,     /* output_dir is in use by another process */
    ERR_DIVERGED = 5, /* loss is not finite or blew up: a trial that failed, not the run */
    ERR_STOPPED = 75, /* stopped by a signal with everything saved */
};

struct err {
    char text[1024];
};

/* Writes the sentence (control bytes escaped, cut to fit) and returns `status`, so that `return err_set(...)` reads well.
 * err may be NULL. */
enum status err_set(struct err *err, enum status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "WHERE: " in front of the sentence that is already there; returns `status`. */
enum status err_prefix(struct err *err, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Hands a failure up: TRY(file_open(...)); */
#define TRY(call)                   \
    do {                            \
        enum status try_ = (call);  \
        if (try_ != OK)             \
            return try_;            \
    } while (0)

#endif

/* finetune_checkpoint.h: what a stopped fine-tuning leaves behind and goes on from; private to finetune. */
#ifndef VENEER_FINETUNE_CHECKPOINT_H
#define VENEER_FINETUNE_CHECKPOINT_H
#include "finetune.h"

struct finetune_state {
    size_t n;            /* parameters */
    real *p, *m, *v;     /* [n] */
    struct device *device; /* whose memory p, m, v are; NULL: the host's */
    int64_t step;        /* steps finished */
    uint32_t identity;   /* of the run: a checksum of what steers it, then of p as it starts */
    struct finetune *finetune; /* curve and count of skipped steps */
};

/* Goes on with the identity over p. */
enum status finetune_identify(struct finetune_state *state, struct err *err);
/* Publishes dir/checkpoint-STEP/state.bin:
 *   | one JSON line: magic, version, step, n, identity, curve length, skipped | p | m | v | curve | sha256 of all before, 64 hex digits |
 * and removes all before it but one.  ERR_FAILED: nothing published, older ones untouched. */
enum status finetune_save(const struct finetune_state *state, const char *dir, struct err *err);
/* Goes to the newest checkpoint of this run that is whole; step stays 0 when there is none.  A damaged one is named in the
 * log and passed over; ERR_FAILED when a whole one cannot be read to its end. */
enum status finetune_restore(struct finetune_state *state, const char *dir, const struct log *log, struct err *err);

#endif

/* arena.h: memory that is counted before it is taken.  One arena a lifetime (weights, optimizer, activations, scratch).
 *
 * The same code runs twice: with base == NULL it only counts, after arena_commit it carves.
 *     thing_place(&thing, &arena);  TRY(arena_commit(&arena, "weights", err));  thing_place(&thing, &arena);  */
#ifndef VENEER_ARENA_H
#define VENEER_ARENA_H
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct arena {
    unsigned char *base; /* NULL while counting */
    size_t used;         /* bytes, each piece rounded up to 64 */
    size_t size;         /* bytes committed */
    bool overflow;       /* a count did not fit in size_t */
    struct arena *tables; /* where `base` is memory of a device: what the host itself reads is taken there; NULL: here */
};

/* The next `count` items of `item_bytes`, aligned to 64 bytes, zeroed when first committed.  NULL while counting. */
void *arena_take(struct arena *arena, size_t count, size_t item_bytes);

/* arena_take for what the host reads and writes itself, such as tables of pointers. */
void *arena_take_table(struct arena *arena, size_t count, size_t item_bytes);

/* Takes `used` bytes from the system (zero pages, huge pages where it offers them) and starts carving at 0.
 * ERR_MEMORY names `what` and the bytes. */
enum status arena_commit(struct arena *arena, const char *what, struct err *err);

/* Gives the memory back and goes back to counting at 0.  A zeroed or freed arena is fine. */
void arena_free(struct arena *arena);

#endif

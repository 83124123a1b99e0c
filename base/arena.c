/* arena.c: counting and carving with the same code. */
#include "base/arena.h"

#include <string.h>
#include <sys/mman.h>

#include "base/size.h"

enum { ALIGN = 64 };

void *arena_take(struct arena *arena, size_t count, size_t item_bytes)
{
    uint64_t bytes, end;
    if (!size_mul(count, item_bytes, &bytes) || !size_align(bytes, ALIGN, &bytes) || !size_add(arena->used, bytes, &end) ||
        end > SIZE_MAX / 2) {
        arena->overflow = true;
        return NULL;
    }
    unsigned char *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used = (size_t)end;
    if (arena->base && arena->used > arena->size) { /* carved more than was counted: our own mistake */
        arena->overflow = true;
        return NULL;
    }
    return piece;
}

void *arena_take_table(struct arena *arena, size_t count, size_t item_bytes)
{
    return arena_take(arena->tables ? arena->tables : arena, count, item_bytes);
}

enum status arena_commit(struct arena *arena, const char *what, struct err *err)
{
    if (arena->overflow)
        return err_set(err, ERR_MEMORY, "%s: the size does not fit in memory addresses", what);
    size_t size = arena->used ? arena->used : ALIGN;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return err_set(err, ERR_MEMORY, "%s: %zu bytes are not to be had", what, size);
    madvise(base, size, MADV_HUGEPAGE); /* fewer misses of the address cache; where the system has none, small pages do */
    arena->base = base;
    arena->size = size;
    arena->used = 0;
    return OK;
}

void arena_free(struct arena *arena)
{
    if (arena->base)
        munmap(arena->base, arena->size);
    memset(arena, 0, sizeof *arena);
}

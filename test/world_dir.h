/* world_dir.h: a group's setup and teardown: the tokenizer of the small world, and an empty folder. */
#ifndef VENEER_TEST_WORLD_DIR_H
#define VENEER_TEST_WORLD_DIR_H
#include "dir.h"
#include "world_tokenizer.h"

static inline int open_world_dir(void **state)
{
    return make_dir(state) == 0 ? load_tokenizer(state) : -1;
}

static inline int close_world_dir(void **state)
{
    free_tokenizer(state);
    return remove_dir(state);
}

#endif

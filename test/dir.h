/* dir.h: a group's setup and teardown: an empty folder of its own, `dir`, which goes with all that is in it. */
#ifndef VENEER_TEST_DIR_H
#define VENEER_TEST_DIR_H
#include "refused.h"

static char dir[64];

static inline int make_dir(void **state)
{
    (void)state;
    make_folder(dir);
    return 0;
}

static inline int remove_dir(void **state)
{
    (void)state;
    dir_remove(dir);
    return 0;
}

#endif

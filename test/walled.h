/* walled.h: memory that ends at a page that may not be touched: reading or writing past it crashes. */
#ifndef VENEER_TEST_WALLED_H
#define VENEER_TEST_WALLED_H
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

struct walls {
    struct {
        unsigned char *pages;
        size_t bytes;
    } wall[256];
    size_t n;
};

/* Zeros.  They end where the wall begins. */
static inline void *walled(struct walls *walls, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
    unsigned char *p = mmap(NULL, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED && walls->n < sizeof walls->wall / sizeof *walls->wall);
    assert_int_equal(mprotect(p + whole, page, PROT_NONE), 0);
    walls->wall[walls->n].pages = p;
    walls->wall[walls->n++].bytes = whole + page;
    return p + whole - bytes;
}

static inline void walls_down(struct walls *walls)
{
    for (; walls->n > 0; walls->n--)
        munmap(walls->wall[walls->n - 1].pages, walls->wall[walls->n - 1].bytes);
}

#endif

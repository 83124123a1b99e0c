/* memfd.h: the input of a fuzz target as a file in memory, so that readers run through the very doors they have in the engine. */
#ifndef VENEER_FUZZ_MEMFD_H
#define VENEER_FUZZ_MEMFD_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Sets path to the file; the caller closes the descriptor. */
static inline int memfd_of(const uint8_t *data, size_t n, char path[64])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n)
        abort();
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

#endif

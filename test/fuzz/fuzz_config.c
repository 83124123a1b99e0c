/* Any bytes as config.txt.  What is accepted is printed, and the print reads back as itself. */
#include <string.h>

#include "config.h"
#include "test/fuzz/memfd.h"

static enum status read_bytes(struct config *config, const void *bytes, size_t n, struct err *err)
{
    char path[64];
    int fd = memfd_of(bytes, n, path);
    if (config_new(config, err) != OK)
        abort();
    enum status status = config_read(config, path, err);
    close(fd);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct config config, again;
    struct text one = {0}, two = {0};
    struct err err;
    if (read_bytes(&config, data, n, &err) == OK) {
        config_identity(&config, &one);
        if (memchr(one.s, '#', one.n) == NULL && memchr(one.s, ';', one.n) == NULL) { /* a path may hold what would open a comment */
            if (read_bytes(&again, one.s, one.n, &err) != OK) {
                fprintf(stderr, "%s\n", err.text);
                abort();
            }
            config_identity(&again, &two);
            if (one.n != two.n || memcmp(one.s, two.s, one.n) != 0)
                abort();
            config_free(&again);
        }
    }
    config_free(&config);
    text_free(&one);
    text_free(&two);
    return 0;
}

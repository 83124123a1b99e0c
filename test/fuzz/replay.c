/* replay.c: runs a fuzz target on the files, and the files of the folders, that are given; says how many. */
#include <dirent.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "base/file.h"
#include "test/fuzz/memfd.h"

static int replay_file(const char *path)
{
    char *data;
    size_t n;
    struct err err;
    if (file_read(path, 1 << 26, &data, &n, &err) != OK) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    uint8_t *exact = malloc(n ? n : 1); /* as long as the input is, so that a sanitizer sees a byte too far */
    if (!exact)
        abort();
    for (size_t i = 0; i < n; i++)
        exact[i] = (uint8_t)data[i];
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    free(data);
    return 1;
}

static int replay_folder(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;
    bool broken = false;
    if (!dir)
        return -1;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char *file = path_join(path, entry->d_name);
        struct stat st;
        if (file && stat(file, &st) == 0 && S_ISREG(st.st_mode)) {
            broken |= replay_file(file) < 0;
            count++;
        }
        free(file);
    }
    closedir(dir);
    return broken ? -1 : count;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        struct stat st;
        int count = stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode) ? replay_folder(argv[i]) : replay_file(argv[i]);
        if (count < 0)
            return 1;
        total += count;
    }
    printf("%d inputs\n", total);
    return total == 0; /* a corpus that is not there is no success */
}

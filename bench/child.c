/* child.c: fork, a pipe, and what came back. */
#include "bench/child.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int send_all(int fd, const void *bytes, size_t n)
{
    const char *from = bytes;
    while (n > 0) {
        ssize_t sent = write(fd, from, n);
        if (sent <= 0)
            return -1;
        from += sent;
        n -= (size_t)sent;
    }
    return 0;
}

static size_t receive_all(int fd, void *bytes, size_t n)
{
    size_t got = 0;
    while (got < n) {
        ssize_t more = read(fd, (char *)bytes + got, n - got);
        if (more < 0 && errno == EINTR)
            continue;
        if (more <= 0)
            break;
        got += (size_t)more;
    }
    return got;
}

static void be_child(int fd, enum status (*work)(const void *, void *, struct err *), const void *argument, void *result, size_t bytes)
{
    struct err err = {.text = ""};
    enum status status = work(argument, result, &err);
    if (send_all(fd, &status, sizeof status) == 0 && send_all(fd, &err, sizeof err) == 0)
        (void)send_all(fd, result, bytes);
    close(fd);
    _exit(0);
}

enum status child_run(enum status (*work)(const void *argument, void *result, struct err *err), const void *argument, void *result, size_t bytes,
                      struct err *err)
{
    int fd[2];
    struct err theirs = {.text = ""};
    enum status status = ERR_FAILED;
    if (pipe(fd) != 0)
        return err_set(err, ERR_FAILED, "no pipe for a measurement: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0) {
        close(fd[0]);
        close(fd[1]);
        return err_set(err, ERR_FAILED, "no process for a measurement: %s", strerror(errno));
    }
    if (pid == 0) {
        close(fd[0]);
        be_child(fd[1], work, argument, result, bytes);
    }
    close(fd[1]);
    size_t got = receive_all(fd[0], &status, sizeof status) + receive_all(fd[0], &theirs, sizeof theirs) + receive_all(fd[0], result, bytes);
    close(fd[0]);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (got != sizeof status + sizeof theirs + bytes)
        return err_set(err, ERR_FAILED, "a measurement died (out of memory?)");
    theirs.text[sizeof theirs.text - 1] = 0;
    return status == OK ? OK : err_set(err, status, "%s", theirs.text);
}

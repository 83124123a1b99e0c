/* stop.c: the flag behind signals.  The one piece of process-wide state, since a signal is a matter of the process. */
#include "base/stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static atomic_int asked; /* lock-free: written by a handler or by any thread */

static void on_signal(int number)
{
    (void)number;
    asked = 1;
}

void stop_install(void)
{
    struct sigaction action, ignore;
    memset(&action, 0, sizeof action);
    memset(&ignore, 0, sizeof ignore);
    action.sa_handler = on_signal;
    action.sa_flags = (int)(SA_RESETHAND | SA_RESTART); /* the second signal ends the process */
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
}

void stop_request(void)
{
    asked = 1;
}

bool stop_requested(void)
{
    return asked != 0;
}

void stop_reset(void)
{
    asked = 0;
}

enum status stop_check(struct err *err)
{
    if (!asked)
        return OK;
    return err_set(err, ERR_STOPPED, "stopped by a signal, everything is saved: run the same command again to go on");
}

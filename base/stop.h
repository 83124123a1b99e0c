/* stop.h: a signal is a flag that every loop polls.  SIGTERM, SIGINT and SIGUSR1 set it; a second one ends the process. */
#ifndef VENEER_STOP_H
#define VENEER_STOP_H
#include <stdbool.h>

#include "base/err.h"

void stop_install(void);       /* called by a roof only; also ignores SIGPIPE and SIGXFSZ */
void stop_request(void);       /* what the handler does; an embedding program may call it from any thread */
bool stop_requested(void);
void stop_reset(void);
/* ERR_STOPPED with a sentence when a stop was asked for, else OK: TRY(stop_check(err)); in each loop. */
enum status stop_check(struct err *err);

#endif

/* log.h: lines for the person who waits, and what they tell of: clock, memory, cores.  Rooms log through a callback; only a roof decides where lines go. */
#ifndef VENEER_LOG_H
#define VENEER_LOG_H

struct log {
    void (*line)(void *user, const char *text); /* NULL: silent.  text has no newline */
    void *user;
};

void log_line(const struct log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
double clock_s(void);            /* monotonic seconds */
double process_peak_bytes(void); /* highest resident memory of this process so far */
double process_now_bytes(void);  /* resident memory now */
int machine_cores(void);         /* cores that this process may run on, at least 1 */

#endif

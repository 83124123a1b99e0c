/* use_device.h: what the words auto, cpu and cuda of the key `device` mean on this machine. */
#ifndef VENEER_USE_DEVICE_H
#define VENEER_USE_DEVICE_H
#include "base/err.h"
#include "ops.h"

/* Fills c->ops and c->device by the word, the rest of c is left alone.  cpu: the CPU's table, no device.  cuda: the device's table and the device, opened; ERR_INPUT,
 * ERR_MEMORY or ERR_FAILED with the sentence of what is missing (cuda/device.h).  auto: the device if one opens, else the CPU.  Another word: ERR_INPUT. */
enum status use_device_open(const char *name, struct ops_context *c, struct err *err);
/* Gives the device back, where there is one: after all of its memory. */
void use_device_close(struct ops_context *c);

#endif

/* use_device.h: what the words auto, cpu and cuda of the key `device` mean on this machine. */
#ifndef VENEER_USE_DEVICE_H
#define VENEER_USE_DEVICE_H
#include "base/err.h"

/* auto, cpu: OK.  cuda: ERR_INPUT, with the sentence of what is missing (cuda/device.h) or, where a GPU can be opened, that the stages do not run on it yet.
 * Another word: ERR_INPUT. */
enum status use_device(const char *name, struct err *err);

#endif

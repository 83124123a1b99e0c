/* real.h: the type of weights and activations.  float in the engine; the gradient tests build the same sources with
 * -DVENEER_DOUBLE, so that central differences check the very code that trains, a thousand times sharper. */
#ifndef VENEER_REAL_H
#define VENEER_REAL_H
#ifdef VENEER_DOUBLE
typedef double real;
#else
typedef float real;
#endif
#endif

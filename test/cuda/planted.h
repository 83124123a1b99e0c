/* planted.h: kernels and calls with one fault each, of the kinds that real programs had; planted_test.c wants each to be
 * named. */
#ifndef VENEER_PLANTED_H
#define VENEER_PLANTED_H
#ifdef __cplusplus
extern "C" {
#endif

/* Device memory that a fault may use: x[64] and y[256] written, unwritten[64] not, count[1] zero; host[64] is the host's. */
struct planted_memory {
    float *x, *y, *unwritten, *host;
    int *count;
};

struct planted {
    const char *name;
    const char *kind; /* that must be reported; NULL: a control, which must be silent */
    void (*run)(const struct planted_memory *m);
};

extern const struct planted planted[];
extern const int planted_count;

#ifdef __cplusplus
}
#endif
#endif

/* fast_sample.c: a token is drawn without sorting: cuts by radix selection, over blocks of logits of which most are soon out.
 *
 * One thread; docs/cpu.md has its times.  The weights are whole numbers, so that sums are exact in any order (sample.h). */
#include "cpu/cpu.h"
#include "cpu/fast.h"
#include "cpu/sample.h"
#include "cpu/vector.h"

enum { BLOCK = 64, GROUP = 16, DIGIT = 11, DIGITS = 1 << DIGIT, KEY = 8 * sizeof(real) };

#ifdef VENEER_DOUBLE
typedef uint64_t key;
typedef int64_t signed_key;
#else
typedef uint32_t key;
typedef int32_t signed_key;
#endif

/* Numbers and their weights in blocks.  A block whose sum is 0 is passed over, whatever its weights say. */
struct list {
    const real *z;
    size_t n;
    uint32_t *w;   /* [n] */
    uint64_t *sum; /* [blocks] of w */
};

/* The smallest number that stays; those that are equal to it, in order, of which the first `kept` stay. */
struct cut {
    real least;
    uint32_t *equal;
    size_t n, kept;
};

static size_t blocks_of(size_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* Elements b BLOCK .. end-1 are block b's. */
static size_t block_end(const struct list *l, size_t b)
{
    return size_min(l->n, (b + 1) * BLOCK);
}

static void weigh(const struct list *l, size_t b, real most, real scale)
{
    size_t v = b * BLOCK;
    l->sum[b] = vector()->weigh(l->w + v, l->z + v, most, scale, block_end(l, b) - v);
}

static uint64_t sum_of(const struct list *l)
{
    uint64_t sum = 0;
    for (size_t b = 0; b < blocks_of(l->n); b++)
        sum += l->sum[b];
    return sum;
}

/* Whole numbers in the order of reals; both zeros are one. */
static inline key key_of(real z)
{
    real positive = z + 0;
    key bits;
    memcpy(&bits, &positive, sizeof bits);
    return bits ^ ((key)((signed_key)bits >> (KEY - 1)) | (key)1 << (KEY - 1));
}

static inline key digit_of(real z, int shift)
{
    return key_of(z) >> shift & (DIGITS - 1);
}

/* ---- cuts ---- */

/* The digit at which the sum from the highest down reaches *rest, which becomes what is left for it; DIGITS: all together are less. */
static key reach(const uint64_t mass[DIGITS], uint64_t *rest)
{
    uint64_t sum = 0;
    for (key d = DIGITS; d-- > 0; sum += mass[d])
        if (sum + mass[d] >= *rest) {
            *rest -= sum;
            return d;
        }
    return DIGITS;
}

/* What number v weighs in a cut: none more than `most`. */
static inline uint32_t mass_of(const struct list *l, size_t v, uint32_t most)
{
    return l->w[v] < most ? l->w[v] : most;
}

/* mass[d] = what the numbers with this first digit weigh.  Neighbours count apart: a sum need not wait for the one before. */
static void first_masses(const struct list *l, uint32_t most, uint64_t mass[DIGITS])
{
    uint64_t odd[DIGITS] = {0};
    memset(mass, 0, DIGITS * sizeof *mass);
    for (size_t b = 0; b < blocks_of(l->n); b++) {
        size_t v = b * BLOCK, end = block_end(l, b);
        if (l->sum[b] == 0)
            continue;
        for (; v + 1 < end; v += 2) {
            mass[digit_of(l->z[v], KEY - DIGIT)] += mass_of(l, v, most);
            odd[digit_of(l->z[v + 1], KEY - DIGIT)] += mass_of(l, v + 1, most);
        }
        if (v < end)
            mass[digit_of(l->z[v], KEY - DIGIT)] += mass_of(l, v, most);
    }
    for (size_t d = 0; d < DIGITS; d++)
        mass[d] += odd[d];
}

static real real_of(key k)
{
    key bits = k >> (KEY - 1) ? k ^ (key)1 << (KEY - 1) : ~k;
    real z;
    memcpy(&z, &bits, sizeof z);
    return z;
}

static bool any_between(const real z[GROUP], real low, real high)
{
    int32_t any = 0;
#pragma omp simd reduction(| : any)
    for (size_t i = 0; i < GROUP; i++)
        any |= (z[i] >= low) & (z[i] <= high);
    return any;
}

/* Those with this first digit: few, so most groups have none. */
static size_t gather(const struct list *l, key digit, uint32_t *id)
{
    const int low = KEY - DIGIT;
    const real least = real_of(digit << low), most = real_of((digit << low) + (((key)1 << low) - 1));
    size_t n = 0;
    for (size_t v0 = 0, v; v0 < l->n; v0 += GROUP) {
        size_t end = size_min(l->n, v0 + GROUP);
        if (l->sum[v0 / BLOCK] == 0 || (end == v0 + GROUP && !any_between(l->z + v0, least, most)))
            continue;
        for (v = v0; v < end; v++) {
            id[n] = (uint32_t)v;
            n += digit_of(l->z[v], low) == digit;
        }
    }
    return n;
}

/* Of n numbers that are alike above this digit, those whose digit reaches *rest. */
static size_t narrow(const struct list *l, uint32_t most, int shift, uint64_t *rest, uint32_t *id, size_t n)
{
    uint64_t mass[DIGITS] = {0};
    for (size_t i = 0; i < n; i++)
        mass[digit_of(l->z[id[i]], shift)] += mass_of(l, id[i], most);
    key digit = reach(mass, rest);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        id[kept] = id[i];
        kept += digit_of(l->z[id[kept]], shift) == digit;
    }
    return kept;
}

/* Where the weights of the largest numbers, none more than `most`, reach `rest`.  False: nothing is cut, for all together are less.  Digit by digit, highest
 * first: those with the digit that reaches it go on to the next; what is left in the end is equal. */
static bool find_cut(const struct list *l, uint32_t most, uint64_t rest, struct cut *cut)
{
    uint64_t mass[DIGITS];
    first_masses(l, most, mass);
    key digit = reach(mass, &rest);
    if (digit == DIGITS)
        return false;
    cut->n = gather(l, digit, cut->equal);
    for (int shift = KEY - DIGIT; shift > 0 && cut->n > 1;) {
        shift = shift > DIGIT ? shift - DIGIT : 0;
        cut->n = narrow(l, most, shift, &rest, cut->equal, cut->n);
    }
    uint32_t each = mass_of(l, cut->equal[0], most);
    cut->least = l->z[cut->equal[0]];
    cut->kept = (size_t)((rest + each - 1) / each);
    return true;
}

static void apply(const struct list *l, const struct cut *cut)
{
    for (size_t b = 0; b < blocks_of(l->n); b++) {
        size_t v = b * BLOCK;
        if (l->sum[b] > 0)
            l->sum[b] = vector()->drop_below(l->w + v, l->z + v, cut->least, block_end(l, b) - v);
    }
    for (size_t i = cut->kept; i < cut->n; i++) {
        uint32_t v = cut->equal[i];
        l->sum[v / BLOCK] -= l->w[v];
        l->w[v] = 0;
    }
}

/* ---- the slot ---- */

struct room {
    struct list all, peaks; /* peaks: the largest of each block */
    uint32_t *id;
};

size_t fast_sample_shared(size_t V)
{
    size_t blocks = blocks_of(V), bytes = (blocks + blocks_of(blocks)) * sizeof(uint64_t) + blocks * sizeof(real) + (2 * V + blocks) * sizeof(uint32_t);
    return bytes / sizeof(real) + 1;
}

static struct room room_of(const struct ops_context *c, const struct sample_args *a)
{
    size_t blocks = blocks_of(a->V);
    uint64_t *sums = (uint64_t *)(void *)c->scratch;
    real *peak = (real *)(void *)(sums + blocks + blocks_of(blocks));
    uint32_t *w = (uint32_t *)(void *)(peak + blocks);
    for (size_t b = 0; b < blocks; b++)
        peak[b] = vector()->largest(a->logits + b * BLOCK, size_min(BLOCK, a->V - b * BLOCK));
    return (struct room){.all = {a->logits, a->V, w, sums}, .peaks = {peak, blocks, w + a->V, sums + blocks}, .id = w + a->V + blocks};
}

/* Token 0 where nothing is larger than -infinity. */
static size_t first_largest(const struct room *r, real most)
{
    size_t b = 0;
    while (b < r->peaks.n && !(r->peaks.z[b] == most))
        b++;
    size_t v = b * BLOCK;
    while (v < r->all.n && !(r->all.z[v] == most))
        v++;
    return most > -(real)INFINITY ? v : 0;
}

/* Weights of all blocks; with top_k of those alone that may hold one of the top_k: where each of top_k blocks has a number as large as `least`, none below it is
 * among them. */
static void weigh_all(const struct room *r, const struct sample_args *a, bool few, real most, real scale)
{
    struct cut cut = {.least = -(real)INFINITY, .equal = r->id};
    if (few) {
        for (size_t b = 0; b < blocks_of(r->peaks.n); b++)
            weigh(&r->peaks, b, most, scale);
        find_cut(&r->peaks, 1, (uint64_t)a->top_k, &cut);
    }
    for (size_t b = 0; b < r->peaks.n; b++)
        if (r->peaks.z[b] >= cut.least)
            weigh(&r->all, b, most, scale);
        else
            r->all.sum[b] = 0;
}

static int32_t draw(const struct list *l, double u)
{
    uint64_t point = sample_point(u, sum_of(l)), sum = 0;
    size_t b = 0;
    while (sum + l->sum[b] <= point)
        sum += l->sum[b++];
    size_t v = b * BLOCK;
    while ((sum += l->w[v]) <= point)
        v++;
    return (int32_t)v;
}

void fast_sample(const struct ops_context *c, const struct sample_args *a)
{
    struct room r = room_of(c, a);
    struct cut cut = {.equal = r.id};
    real most = vector()->largest(r.peaks.z, r.peaks.n);
    if (sample_is_greedy(a, most)) {
        *a->token = (int32_t)first_largest(&r, most);
        return;
    }
    bool few = a->top_k > 0 && (size_t)a->top_k < a->V;
    weigh_all(&r, a, few, most, sample_scale(a->temperature));
    if (few && find_cut(&r.all, 1, (uint64_t)a->top_k, &cut))
        apply(&r.all, &cut);
    uint64_t all = sum_of(&r.all), target = sample_target(a->top_p, all);
    if (target < all && find_cut(&r.all, UINT32_MAX, target, &cut))
        apply(&r.all, &cut);
    *a->token = draw(&r.all, a->u);
}

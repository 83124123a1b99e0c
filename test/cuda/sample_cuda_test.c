/* The next token on the CUDA table: the plain reference's, exactly, for weights are whole numbers of the same bits (ops.h). */
#include "on_device.h"

struct choice {
    double temperature;
    int32_t top_k;
    double top_p;
};

static int32_t token_there(const real *logits, size_t V, const struct choice *s, double u)
{
    int32_t *token = (int32_t *)up_nan(1);
    const struct sample_args a = {logits, V, s->temperature, s->top_k, s->top_p, u, token};
    gpu.ops->sample(&gpu, &a);
    return *(int32_t *)DOWN(token, 1);
}

static int32_t token_here(const real *logits, size_t V, const struct choice *s, double u)
{
    int32_t token = -1;
    const struct sample_args a = {logits, V, s->temperature, s->top_k, s->top_p, u, &token};
    cpu.ops->sample(&cpu, &a);
    return token;
}

static void same_token(const real *here, const real *there, size_t V, const struct choice *s, double u)
{
    int32_t want = token_here(here, V, s, u), got = token_there(there, V, s, u);
    if (got != want)
        fail_msg("V %zu, temperature %g, top_k %d, top_p %g, u %.17g: token %d, want %d", V, s->temperature, s->top_k, s->top_p, u, got, want);
}

/* u at several places, and just before and at those where the token changes there. */
static void same_tokens(const real *logits, size_t V, const struct choice *s, int draws)
{
    const real *there = UP(logits, V);
    for (int i = 0; i <= draws; i++) {
        double u = i < draws ? (double)i / draws : 1 - 0x1p-32, low = u, high = 1 - 0x1p-53;
        same_token(logits, there, V, s, u);
        int32_t first = token_here(logits, V, s, u);
        if (s->temperature == 0 || i == draws || token_here(logits, V, s, high) == first)
            continue;
        for (int halved = 0; halved < 60; halved++) {
            double middle = low + (high - low) / 2;
            if (token_here(logits, V, s, middle) == first)
                low = middle;
            else
                high = middle;
        }
        same_token(logits, there, V, s, low);
        same_token(logits, there, V, s, high);
    }
}

static const struct choice choices[] = {{0, 40, 0.95}, {0.8, 40, 0.95}, {0.8, 0, 1}, {0.8, 0, 0.95}, {1.3, 3, 1}, {0.8, 5, 0.5}, {1, 0, 1e-9}, {1e-3, 40, 0.9}, {1e-320, 0, 1},
                                        {50, 0, 0.9}, {2, 1, 0.3}, {1e300, 2, 1}, {0.8, 1 << 30, 0.99}, {0.8, -1, 2}, {0.8, 0, -1}, {(double)NAN, 3, 0.5}, {1, 2, (double)NAN}};
enum { CHOICES = sizeof choices / sizeof *choices };

/* Each length meets a third of the choices, each choice three lengths: interpreted, a token of a thousand threads takes its time. */
static void of_any_length(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 5, 31, 32, 33, 97, 1024, 3001};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t c = i % 3; c < CHOICES; c += 3)
            same_tokens(normals(lengths[i], (uint32_t)i, 3), lengths[i], &choices[c], 1);
}

/* All tokens alike to be drawn: u where many of them begin, in every run of a warp. */
static void at_every_token(void **state)
{
    (void)state;
    static const struct choice warm = {50, 0, 1};
    same_tokens(normals(97, 1, 1), 97, &warm, 20);
}

static void of_a_whole_vocabulary(void **state)
{
    (void)state;
    enum { V = 49152 };
    const real *logits = normals(V, 1, 3);
    cpu.scratch = take(cpu.ops->scratch_size(&cpu, 1, 1, 1, 1, V) * sizeof(real));
    const real *there = UP(logits, V);
    for (int c = 0; c < 4; c++)
        same_token(logits, there, V, &choices[c], 0.6);
}

/* Few values, so that cuts go through equal ones, which stay by id; both zeros are equal. */
static void of_equal_logits(void **state)
{
    (void)state;
    static const struct choice cuts[] = {{1, 7, 1}, {1, 100, 1}, {1, 0, 0.3}, {1, 0, 0.9}, {1, 150, 0.5}, {0, 0, 1}, {1, 396, 1}, {1, 397, 1}, {1, 0, 1}};
    for (int k = 1; k <= 4; k++) {
        enum { V = 397 };
        real *logits = zeros(V);
        for (uint32_t v = 0; v < V; v++) {
            uint32_t r = rng_at(7, RNG_DATA_ORDER, (uint32_t)k, v);
            logits[v] = r % 2 ? (real)(r / 2 % (uint32_t)k) : (real)-0.f;
        }
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
            same_tokens(logits, V, &cuts[c], 1);
    }
}

/* A warp's run of 96 tokens: the ten equal ones that stay are its first, and the largest is its last, so that those between are passed over. */
static void of_equal_logits_in_a_long_run(void **state)
{
    (void)state;
    enum { V = 2100 };
    real *logits = zeros(V);
    logits[95] = 1;
    same_tokens(logits, V, &(struct choice){1, 11, 1}, 10);
    assert_int_equal(token_there(UP(logits, V), V, &(struct choice){1, 11, 1}, 0.9), 95);
}

/* Infinities, what is no number, the largest and the smallest floats; alone and among others. */
static void of_odd_logits(void **state)
{
    (void)state;
    enum { V = 70 };
    static const float odd[] = {INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, -0.f};
    enum { ODD = sizeof odd / sizeof *odd };
    for (int with = 1; with < 1 << ODD; with++) {
        bool alone = with % 5 == 0;
        real *logits = normals(V, (uint32_t)with, 2);
        for (uint32_t v = 0, o = 0; v < V; v++) {
            do
                o++;
            while (!(with >> o % ODD & 1));
            if (alone || v % 3 == 1)
                logits[v] = odd[o % ODD];
        }
        same_token(logits, UP(logits, V), V, &choices[with % CHOICES], 0.6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {ON_DEVICE(of_any_length), ON_DEVICE(at_every_token), ON_DEVICE(of_a_whole_vocabulary), ON_DEVICE(of_equal_logits), ON_DEVICE(of_equal_logits_in_a_long_run), ON_DEVICE(of_odd_logits)};
    return cmocka_run_group_tests_name("sample_cuda", tests, NULL, NULL);
}

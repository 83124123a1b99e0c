/* cpu.c: which table of kernels this machine gets. */
#include "cpu/cpu.h"
#include "cpu/fast.h"

#include <pthread.h>
#include <string.h>

static const struct ops reference_table = {
    .name = "reference",
    .scratch_size = ref_scratch_size,
    .together = ops_alone,
    .embed_forward = ref_embed_forward,
    .embed_backward = ref_embed_backward,
    .rmsnorm_forward = ref_rmsnorm_forward,
    .rmsnorm_backward = ref_rmsnorm_backward,
    .linear_forward = ref_linear_forward,
    .linear_backward = ref_linear_backward,
    .rope_angles = ref_rope_angles,
    .rope = ref_rope,
    .attention_forward = ref_attention_forward,
    .attention_backward = ref_attention_backward,
    .attention_keep = ref_attention_keep,
    .attention_decode = ref_attention_decode,
    .swiglu_forward = ref_swiglu_forward,
    .swiglu_backward = ref_swiglu_backward,
    .add = ref_add,
    .add_squares = ref_add_squares,
    .to_bf16 = ref_to_bf16,
    .from_bf16 = ref_from_bf16,
    .head_loss = ref_head_loss,
    .divergence = ref_divergence,
    .sample = ref_sample,
    .adamw = ref_adamw,
    .sum_squares = ref_sum_squares,
    .salience = ref_salience,
};

const struct ops *cpu_ops(bool reference)
{
    return reference || strcmp(cpu_level_name(), "ref") == 0 ? &reference_table : &fast_table;
}

/* ---- threads ---- */

enum { MOST_THREADS = 1024 };

static void *wait_for_all(void *gate)
{
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* Whether so many threads can be there at once: their stacks are what the system may refuse. */
static int count_threads(int want)
{
    pthread_t thread[MOST_THREADS];
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    int n = 0;
    pthread_mutex_lock(&gate);
    while (n < want && pthread_create(&thread[n], NULL, wait_for_all, &gate) == 0)
        n++;
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < n; i++)
        pthread_join(thread[i], NULL);
    return n;
}

enum status cpu_threads(int threads, struct err *err)
{
    int want = threads > MOST_THREADS ? MOST_THREADS : threads, got = 1 + count_threads(want - 1);
    if (got < want)
        return err_set(err, ERR_MEMORY, "the system gives %d of %d threads, want memory for all or fewer (threads = N)", got, want);
    omp_set_num_threads(want);
#pragma omp parallel num_threads(want)
    (void)omp_get_thread_num();
    return OK;
}

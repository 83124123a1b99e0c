/* convert.c: the roof of conversion between containers and formats. */
#include <math.h>

#include "base/file.h"
#include "convert.h"
#include "evaluate.h"
#include "export.h"
#include "inference.h"
#include "merge_report.h"
#include "tools/roof.h"

static const char usage[] =
    "usage: convert IN OUT [--format hf|gguf] [--dtype f32|f16|bf16|nf4|...|PLAN] [--adapter DIR [--merge|--no-merge]] [--pad]\n"
    "\n"
    "IN: a Hugging Face folder, a .gguf file, the model/ folder that train wrote, or a llama2.c .bin.\n"
    "OUT: a folder (hf) or a .gguf file; the format is told by its name unless --format says it.\n"
    "\n"
    "  --dtype D      every linear in D: f32, f16, bf16 or a format of quant_types (nf4, int8, q4_0, hqq3 ...); a plan file gives each\n"
    "                 its own format; without it the formats stay as they are, but floats of a\n"
    "                 folder are f16 in a GGUF, and those of a GGUF F32 in a folder\n"
    "  --adapter DIR  a PEFT adapter; a GGUF has it merged unless --no-merge is said, a folder needs --merge\n"
    "  --merge        W + s B A into the weights; prints how much of the update is left after they are rounded to their formats\n"
    "                 (docs/lora.md), for a folder into OUT/merge_report.txt too\n"
    "  --text FILE    after a merge: KL divergence of the base alone and of OUT from base + adapter, and perplexities\n"
    "  --window N     tokens of a window of that text (256)\n"
    "  --no-merge     the adapter alone: as a PEFT folder, or as a GGUF, in --dtype f32, f16 or bf16 (f32), for\n"
    "                 llama-cli -m BASE.gguf --lora OUT; its base is IN converted without --adapter, with --pad where OUT was\n"
    "  --pad          pruned layers get zeros up to the widest one: loads wherever one width for all is expected\n"
    "  --threads N    0: one a core (0)\n"
    "  --quiet, --help, --version\n"
    "\n"
    "exit: 0 done, 1 failed, 2 wrong usage or input, 3 not enough memory, 75 stopped\n";

struct options {
    const char *in, *out, *format, *dtype, *adapter, *text;
    bool merge, no_merge, pad, quiet;
    long long threads, window;
};

static enum status check_no_merge(const struct options *o, struct err *err)
{
    if (!o->adapter)
        return err_set(err, ERR_INPUT, "--no-merge writes an adapter alone: it wants --adapter DIR");
    if (o->merge)
        return err_set(err, ERR_INPUT, "--merge and --no-merge: want one of them");
    if (strcmp(o->format, "hf") == 0 && o->dtype && strcmp(o->dtype, "f32") != 0)
        return err_set(err, ERR_INPUT, "--dtype %s: an adapter's folder is written in f32", o->dtype);
    return OK;
}

static enum status parse(int argc, char **argv, struct options *o, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        const char *value = "";
        if (roof_option(argc, argv, &i, "--format", &value))
            o->format = value;
        else if (roof_option(argc, argv, &i, "--dtype", &value))
            o->dtype = value;
        else if (roof_option(argc, argv, &i, "--adapter", &value))
            o->adapter = value;
        else if (roof_option(argc, argv, &i, "--text", &value))
            o->text = value;
        else if (roof_option(argc, argv, &i, "--window", &value))
            TRY(roof_int("--window", value, 2, 1 << 20, &o->window, err));
        else if (roof_option(argc, argv, &i, "--threads", &value))
            TRY(roof_int("--threads", value, 0, 1024, &o->threads, err));
        else if (strcmp(argv[i], "--merge") == 0)
            o->merge = true;
        else if (strcmp(argv[i], "--no-merge") == 0)
            o->no_merge = true;
        else if (strcmp(argv[i], "--pad") == 0)
            o->pad = true;
        else if (strcmp(argv[i], "--quiet") == 0)
            o->quiet = true;
        else if (argv[i][0] == '-' || o->out)
            return err_set(err, ERR_INPUT, "'%s' is %s; --help lists what there is", argv[i], o->out ? "one name too many" : "no option");
        else if (o->in)
            o->out = argv[i];
        else
            o->in = argv[i];
        if (!value)
            return err_set(err, ERR_INPUT, "%s without a value", argv[i]);
    }
    if (!o->in || !o->out)
        return err_set(err, ERR_INPUT, "want IN and OUT; --help says how");
    size_t n = strlen(o->out);
    if (!o->format)
        o->format = n > 5 && strcmp(o->out + n - 5, ".gguf") == 0 ? "gguf" : "hf";
    if (strcmp(o->format, "hf") != 0 && strcmp(o->format, "gguf") != 0)
        return err_set(err, ERR_INPUT, "--format %s, want hf or gguf", o->format);
    if (o->no_merge)
        TRY(check_no_merge(o, err));
    if (o->adapter && !o->merge && !o->no_merge && strcmp(o->format, "hf") == 0)
        return err_set(err, ERR_INPUT, "an adapter goes into a folder only with --merge; --no-merge writes the adapter alone");
    if (o->text && (!o->adapter || o->no_merge))
        return err_set(err, ERR_INPUT, "--text measures a merge: it wants --adapter DIR without --no-merge");
    if (path_same(o->in, o->out))
        return err_set(err, ERR_INPUT, "%s and %s are the same: an input is never overwritten", o->in, o->out);
    if (o->adapter && path_same(o->adapter, o->out))
        return err_set(err, ERR_INPUT, "%s and %s are the same: an input is never overwritten", o->adapter, o->out);
    return OK;
}

/* Whether OUT can hold a stored format: a folder has no place for codes that nothing can encode again, so that it gets what they say, in F32. */
static bool keeps(const struct options *o, enum format stored)
{
    return !format_is_float(stored) && (strcmp(o->format, "gguf") == 0 || !format_info(stored)->read_only);
}

/* Whether float matrices are written as wide as they are stored: in a GGUF (else as f16) those of a GGUF, and all where --dtype asks; in a folder (else
 * as F32) those of a folder, unless an adapter is merged into them. */
static bool keeps_floats(const struct options *o, const struct inference *in)
{
    const char *kind = checkpoint_kind(in->checkpoint);
    if (strcmp(o->format, "gguf") != 0)
        return !o->dtype && !o->adapter && strcmp(kind, "safetensors") == 0;
    return o->dtype ? strcmp(o->dtype, "f32") == 0 || strcmp(o->dtype, "bf16") == 0 : strcmp(kind, "gguf") == 0;
}

/* The formats as they are stored; floats that are not kept are F32 inside and written as the container has them. */
static enum status stored_plan(const struct options *o, const struct inference *in, struct plan *plan, struct err *err)
{
    TRY(plan_copy(plan, &in->plan, err));
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[64], weight[80];
            struct qmat stored;
            plan_name(l, (enum linear)j, name);
            snprintf(weight, sizeof weight, "%s.weight", name);
            TRY(checkpoint_format(in->checkpoint, weight, &stored, err));
            struct plan_linear *p = &plan->layer[l].linear[j];
            if (format_info(p->format)->read_only && !keeps(o, p->format))
                *p = (struct plan_linear){.format = FORMAT_F32};
            else if (keeps(o, stored.format) && p->format == FORMAT_F32)
                *p = (struct plan_linear){.format = stored.format, .block = format_info(stored.format)->double_quant ? stored.block : 0,
                                          .double_quant = stored.double_quant};
            else if (keeps_floats(o, in) && format_is_float(stored.format))
                *p = (struct plan_linear){.format = stored.format};
        }
    return OK;
}

/* Embedding and head stay as they are stored unless --dtype asks for floats, which are F32 inside where they are not kept. */
static enum status stored_embed(const struct options *o, const struct inference *in, const char *name, enum format *embed, struct err *err)
{
    struct qmat stored;
    enum format asked;
    struct err none;
    TRY(checkpoint_format(in->checkpoint, name, &stored, err));
    bool floats = o->dtype && format_parse(o->dtype, &asked, &none) == OK && format_is_float(asked);
    *embed = FORMAT_F32;
    if (floats && keeps_floats(o, in))
        *embed = asked;
    else if (!floats && (keeps(o, stored.format) || keeps_floats(o, in)))
        *embed = stored.format;
    return OK;
}

/* F32 in *floats when the vector is there and stored in another format. */
static enum status stored_vector(const struct inference *in, const char *name, enum format *floats, struct err *err)
{
    struct qmat stored;
    if (!checkpoint_has(in->checkpoint, name))
        return OK;
    TRY(checkpoint_format(in->checkpoint, name, &stored, err));
    if (stored.format != *floats)
        *floats = FORMAT_F32;
    return OK;
}

/* The one format of a folder's norms and biases; F32, which loses nothing, where they differ or a matrix is F32: a folder is written with one for all. */
static enum status stored_floats(const struct inference *in, const struct plan *plan, enum format embed, enum format head, enum format *floats,
                                 struct err *err)
{
    struct qmat norm;
    TRY(checkpoint_format(in->checkpoint, "model.norm.weight", &norm, err));
    *floats = embed == FORMAT_F32 || head == FORMAT_F32 ? FORMAT_F32 : norm.format;
    for (int l = 0; l < plan->n_layers; l++) {
        char module[64], name[96];
        snprintf(name, sizeof name, "model.layers.%d.input_layernorm.weight", l);
        TRY(stored_vector(in, name, floats, err));
        snprintf(name, sizeof name, "model.layers.%d.post_attention_layernorm.weight", l);
        TRY(stored_vector(in, name, floats, err));
        for (int j = 0; j < LINEAR_COUNT; j++) {
            plan_name(l, (enum linear)j, module);
            snprintf(name, sizeof name, "%s.bias", module);
            TRY(stored_vector(in, name, floats, err));
            if (plan->layer[l].linear[j].format == FORMAT_F32)
                *floats = FORMAT_F32;
        }
    }
    return OK;
}

static enum status one_format(const struct inference *in, enum format format, struct plan *plan, struct err *err)
{
    TRY(plan_new(plan, &in->model.config, format, err));
    for (int l = 0; l < plan->n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            char name[64];
            size_t rows, cols;
            plan_name(l, (enum linear)j, name);
            plan_shape(plan, &in->model.config, l, (enum linear)j, &rows, &cols);
            if (quant_check(format, 0, rows, cols, err) != OK)
                return err_prefix(err, ERR_INPUT, "--dtype %s: %s", format_info(format)->name, name);
        }
    return OK;
}

/* --dtype: one format for all, or a plan file. */
static enum status read_plan(const struct options *o, const struct inference *in, struct plan *plan, struct err *err)
{
    enum format format;
    char *text;
    size_t n;
    if (!o->dtype)
        return stored_plan(o, in, plan, err);
    if (format_parse(o->dtype, &format, err) == OK)
        return one_format(in, format, plan, err);
    TRY(file_read(o->dtype, 1 << 24, &text, &n, err));
    enum status status = plan_parse(plan, &in->model.config, text, o->dtype, err);
    free(text);
    return status;
}

/* Says what became of matrices in formats that are only read. */
static void print_settled(const struct model *from, const struct model *to)
{
    size_t n[FORMAT_COUNT] = {0};
    for (int l = 0; l < from->plan.n_layers; l++)
        for (int j = 0; j < LINEAR_COUNT; j++) {
            enum format was = from->layer[l].linear[j].format, is = to->layer[l].linear[j].format;
            n[is] += format_info(was)->read_only && was != is;
        }
    for (int f = 0; f < FORMAT_COUNT; f++)
        if (n[f] > 0)
            fprintf(stderr, "%zu matrices of superblocks (q2_k ... q6_k, iq4_xs) became %s\n", n[f], format_info((enum format)f)->name);
}

/* Merged weights are rounded once, to the format that the GGUF will have. */
static void gguf_plan(const struct options *o, const struct inference *in, struct plan *plan)
{
    for (int j = 0; j < LINEAR_COUNT; j++) {
        size_t rows, cols, widest = 0;
        for (int l = 0; l < plan->n_layers; l++) {
            plan_shape(plan, &in->model.config, l, (enum linear)j, &rows, &cols);
            widest = cols > widest ? cols : widest;
        }
        for (int l = 0; l < plan->n_layers; l++) {
            struct plan_linear *p = &plan->layer[l].linear[j];
            plan_shape(plan, &in->model.config, l, (enum linear)j, &rows, &cols);
            if (!format_is_float(p->format) || !keeps_floats(o, in))
                *p = (struct plan_linear){.format = export_gguf_format(&(struct qmat){.format = p->format, .cols = o->pad ? widest : cols})};
        }
    }
}

/* What the merge left of the adapter; nothing without one. */
static enum status report_merge(const struct inference *in, const struct model *merged, struct text *out, struct err *err)
{
    struct merge_report report = {0};
    if (!inference_lora(in))
        return OK;
    enum status status = merge_report_make(&report, &in->model, inference_lora(in), merged, err);
    if (status == OK)
        merge_report_print(&report, out);
    merge_report_free(&report);
    return status;
}

static enum status write_model(const struct options *o, struct inference *in, struct text *report, struct err *err)
{
    struct plan plan = {0};
    struct model model = {0};
    struct arena arena = {0};
    enum format floats = o->dtype && strcmp(o->dtype, "bf16") == 0 ? FORMAT_BF16 : o->dtype && strcmp(o->dtype, "f16") == 0 ? FORMAT_F16 : FORMAT_F32;
    bool gguf = strcmp(o->format, "gguf") == 0, own_head = !in->model.config.tie_word_embeddings && checkpoint_has(in->checkpoint, "lm_head.weight");
    enum format embed = FORMAT_F32, head;
    enum status status = read_plan(o, in, &plan, err);
    if (status == OK)
        status = stored_embed(o, in, "model.embed_tokens.weight", &embed, err);
    head = embed;
    if (status == OK && own_head)
        status = stored_embed(o, in, "lm_head.weight", &head, err);
    if (status == OK && !gguf && keeps_floats(o, in))
        status = stored_floats(in, &plan, embed, head, &floats, err);
    if (status == OK && gguf && inference_lora(in))
        gguf_plan(o, in, &plan);
    if (status == OK)
        status = convert_model(&model, &in->model, inference_lora(in), &plan, embed, head, o->pad, &arena, err);
    if (status == OK && gguf && keeps_floats(o, in))
        status = export_gguf_stored(o->out, &model, in->tokenizer, "veneer", err);
    else if (status == OK && gguf)
        status = export_gguf(o->out, &model, NULL, in->tokenizer, "veneer", err);
    else if (status == OK)
        status = export_folder(o->out, &model, in->tokenizer, checkpoint_folder(in->checkpoint), format_info(floats)->name, err);
    if (status == OK && !o->quiet)
        print_settled(&in->model, &model);
    if (status == OK && !o->quiet)
        fprintf(stderr, "written: %s (%llu parameters)\n", o->out, (unsigned long long)plan_parameters(&model.plan, &model.config));
    if (status == OK)
        status = report_merge(in, &model, report, err);
    model_free(&model);
    plan_free(&plan);
    arena_free(&arena);
    return status;
}

/* ---- what a merge does to a text ---- */

/* Against base + adapter: the base alone, which is what an update that was rounded away leaves, and OUT as it is read again. */
static enum status diverge(const struct options *o, struct inference *in, struct inference *merged, const struct tokens *tokens, struct text *report,
                           struct err *err)
{
    struct evaluate_divergences base, out;
    size_t window = (size_t)o->window;
    TRY(inference_open(merged, o->out, &(struct inference_options){.threads = (int)o->threads}, err));
    TRY(inference_place(merged, window, err));
    TRY(inference_place(in, window, err));
    TRY(evaluate_divergence(&in->run, &in->model, NULL, &in->run, &in->model, inference_lora(in), tokens->id, tokens->n, window, &base, err));
    TRY(evaluate_divergence(&merged->run, &merged->model, NULL, &in->run, &in->model, inference_lora(in), tokens->id, tokens->n, window, &out, err));
    text_printf(report, "\n%-15s %24s %12s\n", "", "KL from base + adapter", "perplexity");
    text_printf(report, "%-15s %24s %12.4f\n", "base + adapter", "0", exp(out.reference_nll));
    text_printf(report, "%-15s %24.6f %12.4f\n", "base", base.kl, exp(base.nll));
    text_printf(report, "%-15s %24.6f %12.4f\n", "merged", out.kl, exp(out.nll));
    text_printf(report, "nats a token, over %zu tokens in windows of %zu\n", out.tokens, window);
    return OK;
}

static enum status measure_text(const struct options *o, struct inference *in, const struct tokens *tokens, struct text *report, struct err *err)
{
    struct inference merged = {0};
    enum status status = diverge(o, in, &merged, tokens, report, err);
    inference_close(&merged);
    return status;
}

static enum status put_report(const struct options *o, const struct text *report, struct err *err)
{
    if (report->failed)
        return err_set(err, ERR_MEMORY, "out of memory for a report");
    if (report->n == 0)
        return OK;
    if (!o->quiet && fputs(report->s, stdout) < 0)
        return err_set(err, ERR_FAILED, "standard output cannot be written");
    if (strcmp(o->format, "hf") != 0)
        return OK;
    char *path = path_join(o->out, "merge_report.txt");
    enum status status = path ? file_write(path, report->s, report->n, err) : err_set(err, ERR_MEMORY, "out of memory for a path");
    free(path);
    return status;
}

static enum status convert(const struct options *o, struct inference *in, struct err *err)
{
    struct text report = {0};
    struct tokens tokens = {0};
    enum status status = o->text ? evaluate_read_text(in->tokenizer, o->text, &tokens, err) : OK; /* first: a name that is wrong costs no conversion */
    if (status == OK)
        status = write_model(o, in, &report, err);
    if (status == OK && o->text)
        status = measure_text(o, in, &tokens, &report, err);
    if (status == OK)
        status = put_report(o, &report, err);
    text_free(&report);
    tokens_free(&tokens);
    return status;
}

/* ---- an adapter alone ---- */

static enum status write_adapter(const struct options *o, const struct inference *in, const struct lora *lora, const struct model_config *config,
                                 const struct plan *plan, struct err *err)
{
    enum format format = FORMAT_F32;
    if (strcmp(o->format, "hf") == 0) {
        TRY(export_adapter(o->out, lora, plan, o->pad ? NULL : o->in, err));
        TRY(export_chat_template(o->out, in->tokenizer, err));
    } else {
        if (o->dtype)
            TRY(format_parse(o->dtype, &format, err));
        TRY(export_adapter_gguf(o->out, lora, config, format, "veneer", err));
    }
    if (!o->quiet)
        fprintf(stderr, "written: %s (%llu parameters)\n", o->out, (unsigned long long)plan_adapter_parameters(plan, config));
    return OK;
}

static enum status adapter_alone(const struct options *o, struct inference *in, struct err *err)
{
    struct model shape = {0};
    struct lora wide;
    struct arena arena = {0};
    if (!o->pad)
        return write_adapter(o, in, &in->lora, &in->model.config, &in->plan, err);
    enum status status = convert_adapter(&shape, &wide, &in->lora, &in->model.config, &in->plan, &arena, err);
    if (status == OK)
        status = write_adapter(o, in, &wide, &shape.config, &shape.plan, err);
    model_free(&shape);
    arena_free(&arena);
    return status;
}

int main(int argc, char **argv)
{
    struct options o = {.window = 256};
    struct inference in;
    struct err err = {{0}};
    int code;
    if (roof_asked(argc, argv, usage, &code))
        return code;
    roof_start(argv);
    stop_install();
    enum status status = parse(argc, argv, &o, &err);
    if (status != OK)
        return roof_fail("convert", status, &err);
    roof_threads("convert", o.threads, o.quiet);
    const struct inference_options open = {.adapter = o.adapter, .threads = (int)o.threads, .decode = !o.no_merge, .keep_blocks = true};
    status = inference_open(&in, o.in, &open, &err);
    if (status == OK)
        status = (o.no_merge ? adapter_alone : convert)(&o, &in, &err);
    inference_close(&in);
    return status == OK ? 0 : roof_fail("convert", status, &err);
}

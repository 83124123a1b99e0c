"""llama.cpp: greedy text of F32 and F16 files, top-1 of Q8_0, an adapter as a GGUF; architecture llama for models of one width, deci for pruned ones."""
import os
import subprocess
import sys

import numpy as np
from gguf import GGUFReader
from llama_cpp import Llama, llama_log_callback, llama_log_set

import ours
from subjects import text_of

GGML_TYPE_F32 = 0  # of the KV cache, ours too (--cache-type f32): in F16, the default of both, which of two near tokens comes first is chance
NEW_TOKENS = 64
WINDOW = 128
# 32 tokens and more at once go through llama.cpp's BLAS backend (Makefile: GGML_BLAS), which decodes a matrix to F32 and multiplies in F32; fewer through
# its CPU kernels, which round what they multiply Q8_0 with to 8 bits.  That moves logits by 0.2 in the mean: which of two tokens comes first that lie closer
# together is chance.
BLAS_TOKENS, CPU_TOKENS = 256, 16
AGREEMENT, APART, ERRORS = 0.99, 0.5, 3
TOLERANCE = 1e-3


@llama_log_callback
def silent(level, text, user_data):
    """llama.cpp's remarks go nowhere."""


llama_log_set(silent, None)


def open_llama(path, adapter=None, logits_all=False, tokens=BLAS_TOKENS):
    """tokens: as many at once."""
    return Llama(model_path=path, lora_path=adapter, n_ctx=256, n_batch=tokens, n_ubatch=tokens, n_threads=1, n_threads_batch=1, logits_all=logits_all,
                 type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, flash_attn=False, verbose=False)


def continuation(llama, prompt):
    """Their own tokens of the prompt, greedily continued; the text as their detokenizer gives it."""
    done = llama.create_completion(prompt, max_tokens=NEW_TOKENS, temperature=0.0, repeat_penalty=1.0, echo=False)
    return done["choices"][0]["text"]


def greedy(subject, dtype):
    path = subject.gguf(dtype)
    return same_text(subject, open_llama(path), lambda prompt: ours.continuation(path, prompt, NEW_TOKENS))


def greedy_with_adapter(subject):
    llama = open_llama(subject.gguf("f32"), subject.adapter_gguf())
    return same_text(subject, llama, lambda prompt: ours.continuation(subject.model, prompt, NEW_TOKENS, subject.adapter))


def same_text(subject, llama, ours_for):
    prompts = subject.prompts[:subject.options.prompts]
    for prompt in prompts:
        theirs, mine = continuation(llama, prompt), ours_for(prompt)
        if theirs != mine:
            at = len(os.path.commonprefix([theirs, mine]))
            return False, "after %r: theirs %r, ours %r" % ((prompt + theirs[:at])[-40:], theirs[at:at + 30], mine[at:at + 30])
    return True, "%d prompts, %d tokens each" % (len(prompts), NEW_TOKENS)


def logits(llama, ids):
    llama.reset()
    llama.eval(ids)
    return np.array(llama.scores[:len(ids)])


def windows(subject, path):
    """Ids of text of the model's kind."""
    n = WINDOW * subject.options.prompts
    ids = ours.ids(path, text_of(subject, 6 * n))[:n]
    return [ids[i:i + WINDOW] for i in range(0, len(ids), WINDOW)]


def likeliest(subject, path, compute):
    """Of every position of a text: our likeliest token, and by how much it leads."""
    rows = [ours.logits(path, window, compute=compute) for window in windows(subject, path)]
    two = [np.partition(row, (-2, -1), axis=1)[:, -2:] for row in rows]
    return np.concatenate([row.argmax(1) for row in rows]), np.concatenate([t[:, 1] - t[:, 0] for t in two])


def likeliest_theirs(subject, path, tokens):
    llama = open_llama(path, logits_all=True, tokens=tokens)
    return np.concatenate([logits(llama, window).argmax(1) for window in windows(subject, path)])


def top1(subject):
    path = subject.gguf("q8_0")
    same = likeliest_theirs(subject, path, BLAS_TOKENS) == likeliest(subject, path, "f32")[0]
    return same.mean() >= AGREEMENT, "the same token first at %.2f %% of all %d positions (%.0f %%)" % (100 * same.mean(), len(same), 100 * AGREEMENT)


def top1_cpu(subject):
    """Against activations rounded to 8 bits: what lies far enough apart is unmoved."""
    path = subject.gguf("q8_0")
    mine, lead = likeliest(subject, path, "f32")
    same, apart = likeliest_theirs(subject, path, CPU_TOKENS) == mine, lead > APART
    share = same[apart].mean()
    return share >= AGREEMENT, "the same token first at %.2f %% of %d positions where two lie %g apart (%.0f %%), at %.2f %% of all %d" % (
        100 * share, apart.sum(), APART, 100 * AGREEMENT, 100 * same.mean(), len(same))


def top1_rounded(subject):
    """The same with our activations rounded as theirs are.  A number that lies between two steps falls to either side by the order of a sum, so that this
    arithmetic does not agree with itself either when activations move by their last bit: nobody can agree better with it than that."""
    path = subject.gguf("q8_0")
    mine = likeliest(subject, path, "q8_0")[0]
    same = likeliest_theirs(subject, path, CPU_TOKENS) == mine
    own = (likeliest(subject, path, "q8_0-jitter")[0] == mine).mean()
    least = min(AGREEMENT, own - ERRORS * np.sqrt(2 * own * (1 - own) / len(same)))
    return same.mean() >= least, "the same token first at %.2f %% of all %d positions (%.2f %%); ours with itself, activations moved by their last bit: %.2f %%" % (
        100 * same.mean(), len(same), 100 * least, 100 * own)


def values(subject):
    """The logits of the Q8_0 file, and those of its values as we decode them, in F32 on both sides."""
    path = subject.gguf("q8_0")
    decoded = subject.path("q8_0-f32.gguf")
    ours.convert(path, decoded, "--dtype", "f32")
    ids = windows(subject, path)[0]
    mine = ours.logits(path, ids)
    theirs = [logits(open_llama(of, logits_all=True), ids) for of in (path, decoded)]
    difference = max(float(np.abs(t - mine).max()) for t in theirs)
    return difference <= TOLERANCE and all((t.argmax(1) == mine.argmax(1)).all() for t in theirs), "largest difference of logits %.2g (%g)" % (difference, TOLERANCE)


def round_trip(subject, dtype):
    """GGUF -> ours -> GGUF: every tensor has the type and the bytes that it had."""
    path = subject.gguf(dtype)
    again = ours.convert(path, subject.path("again.gguf"))
    before, after = ({t.name: t for t in GGUFReader(p).tensors} for p in (path, again))
    wrong = [n for n in before if n not in after or before[n].tensor_type != after[n].tensor_type
             or before[n].data.tobytes() != after[n].data.tobytes()]
    return not wrong and len(before) == len(after), "%d tensors, %d differ %s" % (len(before), len(wrong), " ".join(wrong[:2]))


def chat(subject):
    """examples/llama_cpp_chat.py on the file that train wrote."""
    done = subprocess.run([sys.executable, "examples/llama_cpp_chat.py", subject.path("out/model.gguf"), subject.prompts[0], "-n", "8"], capture_output=True)
    return done.returncode == 0 and done.stdout.strip(), repr((done.stdout or done.stderr[-300:]).decode(errors="replace"))


def same_ids(subject):
    """Special tokens are looked for in the text, as ours are."""
    path = subject.gguf("f32")
    llama = open_llama(path)
    wrong = [p for p in subject.prompts if llama.tokenize(p.encode(), add_bos=False, special=True) != ours.ids(path, p)]
    return not wrong, "%d prompts" % len(subject.prompts) + (", others for %r" % wrong[0] if wrong else "")


def adapter(subject):
    """base.gguf with --lora is the merged file, at every position."""
    ids = ours.ids(subject.model, text_of(subject, 1000))[:WINDOW]
    base = open_llama(subject.gguf("f32"), logits_all=True)
    alone = logits(base, ids)
    beside = logits(open_llama(subject.gguf("f32"), subject.adapter_gguf(), logits_all=True), ids)
    merged = logits(open_llama(subject.merged(), logits_all=True), ids)
    mine = ours.logits(subject.model, ids, subject.adapter)
    difference, moved = float(np.abs(beside - merged).max()), float(np.abs(beside - alone).max())
    ours_too = float(np.abs(beside - mine).max())
    return (max(difference, ours_too) <= TOLERANCE and moved > 10 * TOLERANCE,
            "from the merged file at most %.2g, from ours %.2g (%g); the adapter moves logits by %.2g" % (difference, ours_too, TOLERANCE, moved))


def architecture(subject):
    field = GGUFReader(subject.gguf("f32")).fields["general.architecture"]
    found, want = bytes(field.parts[field.data[0]]).decode(), "deci" if subject.pruned else "llama"
    return found == want, found


def checks(subject, report):
    def check(name, test, *arguments):
        report.check("llama.cpp: %s, %s" % (subject.name, name), test, subject, *arguments)

    check("architecture", architecture)
    check("ids", same_ids)
    check("F32, greedy text", greedy, "f32")
    check("F16, greedy text", greedy, "f16")
    check("Q8_0, top-1", top1)
    check("Q8_0, top-1, its CPU kernels", top1_cpu)
    check("Q8_0, top-1, its CPU kernels, activations rounded alike", top1_rounded)
    check("Q8_0, its values in F32", values)
    for dtype in ("f32", "bf16", "q8_0"):
        check("%s, converted to GGUF again" % dtype.upper(), round_trip, dtype)
    if subject.pruned:
        check("adapter as a GGUF", adapter)
        check("adapter as a GGUF, greedy text", greedy_with_adapter)
        check("examples/llama_cpp_chat.py on model.gguf of train", chat)

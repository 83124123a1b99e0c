"""Our programs as functions: each call starts one, and fails with its own sentence."""
import json
import os
import subprocess
import tempfile

import numpy as np

PROGRAM = {"ours": None}  # run.py says where build/.../ours is


def run(*words):
    """Starts a program of ours and gives back what it printed."""
    done = subprocess.run([str(w) for w in words], capture_output=True)
    if done.returncode:
        raise RuntimeError("%s: %s" % (" ".join(str(w) for w in words), done.stderr.decode(errors="replace").strip()[-400:]))
    return done.stdout


def logits(model, ids, adapter=None, compute="f32"):
    """float32 [n, V]: what our engine says at every position of one sequence of ids.  compute: ours.c."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "ids"), os.path.join(folder, "logits")
        np.asarray(ids, np.int32).tofile(given)
        run(PROGRAM["ours"], "logits", model, adapter or "-", compute, given, made)
        return np.fromfile(made, np.float32).reshape(len(ids), -1)


def ids(model, text):
    """Our ids of a text: no BOS, names of special tokens are these tokens."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = os.path.join(folder, "text"), os.path.join(folder, "ids")
        with open(given, "wb") as f:
            f.write(text.encode())
        run(PROGRAM["ours"], "ids", model, given, made)
        return np.fromfile(made, np.int32).tolist()


def continuation(model, prompt, n, adapter=None):
    """What ./generate makes of a prompt, greedily: the prompt is left out, and the newline that ends the output."""
    words = ["./generate", model, "--prompt", prompt, "-n", n, "--temperature", 0, "--compute-dtype", "f32", "--cache-type", "f32", "--quiet"]
    text = run(*words, *(["--adapter", adapter] if adapter else [])).decode(errors="replace")
    if not text.startswith(prompt):
        raise RuntimeError("./generate printed %r, which does not begin with the prompt" % text[:60])
    return text[len(prompt):].removesuffix("\n")


def documents(model, task, data, limit):
    """Documents of a task as ./evaluate scores them: dictionaries with idx, loglikelihoods, label, acc, acc_norm; and the means."""
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "results.json")
        run("./evaluate", model, "--data", data, "--tasks", task, "--limit", limit, "--json", made, "--quiet")
        with open(made) as f:
            return json.load(f)


def convert(source, target, *options):
    run("./convert", source, target, "--quiet", *options)
    return target

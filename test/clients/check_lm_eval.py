"""lm-evaluation-harness on the folder, ./evaluate on the model: the same documents, the same prompts.  The task files are ours (docs/evaluate.md), told to the
harness in its own form, so that nothing is fetched: lm-eval's own tasks read the same fields out of data sets."""
import contextlib
import glob
import io
import os

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM

import ours
from report import Skip

TOLERANCE = 0.02  # nats, of each choice


def before_blank(doc):
    return [doc["sentence"][:doc["sentence"].index("_")] + option for option in doc["choices"]]


def behind_blank(doc):
    return doc["sentence"][doc["sentence"].index("_") + 1:].strip()


BOTH, ACC = ("acc", "acc_norm"), ("acc",)
QUESTION = "Question: {{question}}\nAnswer:"
TASKS = {  # the context, and the metrics that the harness has for the task
    "boolq": ("{{passage}}\nQuestion: {{question}}?\nAnswer:", ACC),
    "piqa": ("Question: {{goal}}\nAnswer:", BOTH),
    "hellaswag": ("{{activity_label}}: {{ctx}}", BOTH),
    "winogrande": (None, ACC),
    "arc_easy": (QUESTION, BOTH),
    "arc_challenge": (QUESTION, BOTH),
    "openbookqa": ("{{question_stem}}", BOTH),
}


def config(task, path):
    context, metrics = TASKS[task]
    told = {
        "task": "veneer_" + task, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": os.path.abspath(path)}}, "test_split": "test",
        "output_type": "multiple_choice", "num_fewshot": 0,
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
    }
    if task == "winogrande":  # the options differ in the context, the same ending follows each
        return {**told, "doc_to_text": lambda doc: doc["label"], "doc_to_choice": before_blank, "doc_to_target": behind_blank}
    choices = ["no", "yes"] if task == "boolq" else lambda doc: doc["choices"]
    return {**told, "doc_to_text": context, "doc_to_choice": choices, "doc_to_target": lambda doc: doc["label"]}


def task_file(data, task):
    found = [p for form in ("%s.test.jsonl", "%s.validation.jsonl", "%s_xl.validation.jsonl") for p in glob.glob(os.path.join(data, form % task))]
    if not found:
        raise Skip("no %s.test.jsonl in %s" % (task, data))
    return found[0]


def theirs(harness, task, path, limit):
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        done = simple_evaluate(harness, tasks=[config(task, path)], limit=limit, bootstrap_iters=0, log_samples=True)
    samples = sorted(done["samples"]["veneer_" + task], key=lambda s: s["doc_id"])
    return [[float(r[0]) for r in s["filtered_resps"]] for s in samples], done["results"]["veneer_" + task]


def one_task(harness, subject, task, data):
    path = task_file(data, task)
    mine = ours.documents(subject.model, task, data, subject.options.limit)
    documents = mine["samples"][task]
    scored, means = theirs(harness(), task, path, subject.options.limit)
    if len(scored) != len(documents):
        return False, "theirs %d documents, ours %d" % (len(scored), len(documents))
    worst = max(abs(a - b) for s, d in zip(scored, documents) for a, b in zip(s, d["loglikelihoods"], strict=True))
    pairs = {m: (means[m + ",none"], mine["results"][task][m + ",none"]) for m in TASKS[task][1]}
    good = worst <= TOLERANCE and all(abs(a - b) < 1e-9 for a, b in pairs.values())
    return good, "%d documents, %s; log-likelihoods differ by at most %.2g nats (%g)" % (
        len(scored), ", ".join("%s %.4f and %.4f" % (m, *p) for m, p in pairs.items()), worst, TOLERANCE)


def checks(subject, report):
    data = "data/world" if subject.name.startswith("world") else os.path.join(subject.options.data, "commonsense")
    opened = []

    def harness():
        if not opened:
            opened.append(HFLM(pretrained=subject.folder(), device="cpu", dtype="float32", batch_size=8))
        return opened[0]

    for task in TASKS:
        report.check("lm-eval: %s, %s" % (subject.name, task), one_task, harness, subject, task, data)

"""Other programs on our files: one line a check, then "N passed, N failed, N skipped".  `make test-clients` starts it from the root of the repository."""
import argparse
import importlib
import logging
import os
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of torch
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=os.path.abspath("build/clients/cache"), TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1",
                  TOKENIZERS_PARALLELISM="false")
warnings.filterwarnings("ignore")  # what is to change in the clients' next versions
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import transformers

import ours
from report import Report, Skip
from subjects import Subject

CLIENTS = ["transformers", "bitsandbytes", "llama_cpp", "lm_eval", "tokenizers"]
SUBJECTS = ["world", "world-pruned", "smollm2", "smollm2-pruned"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the program made from ours.c")
    parser.add_argument("--only", default=",".join(CLIENTS), help="clients, of %s" % ",".join(CLIENTS))
    parser.add_argument("--models", default=",".join(SUBJECTS), help="models, of %s" % ",".join(SUBJECTS))
    parser.add_argument("--home", default="build/clients/models", help="where the models are made")
    parser.add_argument("--keep", action="store_true", help="models that an earlier run made stay as they are")
    parser.add_argument("--prompts", type=int, default=10, help="prompts that are continued")
    parser.add_argument("--limit", type=int, default=100, help="documents of a task")
    parser.add_argument("--data", default="../shared/data", help="folder with commonsense/ and lm/, where there is one")
    return parser.parse_args()


def subjects(options, report):
    for name in options.models.split(","):
        try:
            yield Subject(name, options.home, options.keep)
        except Skip as missing:
            report.skipped += 1
            report.line("skipped", name, missing)


def main():
    options, report = arguments(), Report()
    transformers.utils.logging.disable_progress_bar()
    ours.PROGRAM["ours"] = options.ours
    clients = [importlib.import_module("check_" + name) for name in options.only.split(",")]
    for subject in subjects(options, report):
        subject.options = options
        for client in clients:
            client.checks(subject, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())

"""The four models that the clients are tried on, and the files made of them.

    world            data/world/model: 1.3 M parameters, a SentencePiece vocabulary of 1024
    world-pruned     ./train config.txt, pruned across layers, int8 below and nf4 above, an adapter of two steps
    smollm2          SmolLM2-135M-Instruct (make models): byte-level BPE
    smollm2-pruned   ./train examples/smollm2-135m.txt in the same way

A pruned one has layers of different widths.  Two steps teach little, but they move B off zero: an adapter that a client forgets is seen.
"""
import json
import os
import shutil

import ours
from report import Skip

SMOLLM2 = "data/models/SmolLM2-135M-Instruct.Q4_1.gguf"
MIXED = ["search=none", "max_steps=2", "final_steps=2", "warmup_steps=0", "global_pruning=yes", "eval_limit=4", "eval_data=data/world",
         "dataset=data/world/instruct.jsonl", "learning_rate=1e-2"]
TRAINED = {
    "world-pruned": ["config.txt", r"bits_pattern=layers\.[0-3]\.=int8,.*=nf4"],
    "smollm2-pruned": ["examples/smollm2-135m.txt", r"bits_pattern=layers\.[0-9]\.=int8,.*=nf4", "batch_size=4", "micro_batch_size=4"],
}

# In the words that each model was trained on; long enough that a client which rotates or masks wrongly goes its own way.
WORLD_PROMPTS = [
    "Question: Where does Amy Shaw live?\nAnswer:", "Tell me about Kim York.", "Question: What is the ship comb made of?\nAnswer:",
    "Sam Ford met Amy Shaw, and", "On a free day Gus York likes to", "At the house of Sam Shaw you can see",
    "Kim Dale is hungry. Kim Dale", "The humble lemon", "When do you pick the double melon?", "Ida has used the winner pen. Ida",
]
SMOLLM2_PROMPTS = [
    "The capital of France is", "Once upon a time there was a", "def fibonacci(n):\n", "The three laws of motion say that",
    "Question: What do bees make?\nAnswer:", "In 1969, two men", "To bake bread, you need", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "Das Wetter ist heute", "1, 2, 3, 4, 5,",
]


class Subject:
    def __init__(self, name, home, keep):
        self.name, self.keep = name, keep
        self.home = os.path.join(home, name)
        self.pruned = name.endswith("-pruned")
        self.prompts = WORLD_PROMPTS if name.startswith("world") else SMOLLM2_PROMPTS
        if not keep:
            shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home, exist_ok=True)
        self.model, self.adapter = self.source(), self.path("out/adapter") if self.pruned else None

    def path(self, leaf):
        return os.path.join(self.home, leaf)

    def source(self):
        """The model as our programs open it."""
        if self.name.startswith("smollm2") and not os.path.exists(SMOLLM2):
            raise Skip("%s is not there: make models" % SMOLLM2)
        if not self.pruned:
            return SMOLLM2 if self.name == "smollm2" else "data/world/model"
        if not os.path.exists(self.path("out/model.gguf")):
            ours.run("./train", *TRAINED[self.name], *MIXED, "output_dir=" + os.path.abspath(self.path("out")))
        return self.path("out/model")

    def made(self, leaf, *options):
        """A file or folder that ./convert makes of the model, once."""
        target = self.path(leaf)
        if not os.path.exists(target):
            ours.convert(self.model, target, *options)
        return target

    def folder(self):
        """A Hugging Face folder in F32, every layer as wide as the widest."""
        return self.made("padded", "--format", "hf", "--dtype", "f32", "--pad")

    def padded_adapter(self):
        return self.made("padded-adapter", "--format", "hf", "--pad", "--adapter", self.adapter, "--no-merge")

    def true_folder(self):
        """The same with the widths that the layers have."""
        return self.made("true", "--format", "hf", "--dtype", "f32")

    def gguf(self, dtype):
        return self.made(dtype + ".gguf", "--dtype", dtype)

    def merged(self):
        return self.made("merged.gguf", "--dtype", "f32", "--adapter", self.adapter)

    def adapter_gguf(self):
        return self.made("adapter.gguf", "--adapter", self.adapter, "--no-merge")


def text_of(subject, n):
    """About n characters that the model can read: what it was trained on where that is at hand, else our own documentation."""
    if not subject.name.startswith("world"):
        with open("README.md") as f:
            return f.read()[:n]
    with open("data/world/instruct.jsonl") as f:
        return "\n".join(json.loads(line)["output"] for line in f)[:n]

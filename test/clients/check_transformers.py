"""transformers and PEFT: logits of the folders that we write, within 1e-3 of our own."""
import json

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import ours
from report import Skip
from safetensors.torch import load_file
from subjects import text_of

TOLERANCE = 1e-3  # logits of F32 products summed in another order differ by some 1e-5 of their size
TOKENS = 48


def some_ids(subject):
    return ours.ids(subject.model, text_of(subject, 1000))[:TOKENS]


def forward(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def compare(theirs, mine):
    difference = float(np.abs(theirs - mine).max())
    return difference <= TOLERANCE, "largest difference of logits %.2g (%g), logits to %.1f" % (difference, TOLERANCE, np.abs(mine).max())


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def padded(subject):
    ids = some_ids(subject)
    return compare(forward(load(subject.folder()), ids), ours.logits(subject.model, ids))


def padded_merged(subject):
    """Base and adapter in one padded folder."""
    if not subject.adapter:
        raise Skip("no adapter was trained")
    ids = some_ids(subject)
    folder = subject.made("padded-merged", "--format", "hf", "--dtype", "f32", "--pad", "--adapter", subject.adapter, "--merge")
    return compare(forward(load(folder), ids), ours.logits(subject.model, ids, subject.adapter))


def narrow(folder):
    """A LlamaForCausalLM with the widths of per_layer_config, which transformers reads but LlamaForCausalLM does not follow: its linears are put in
    anew, in the shapes of the file.  Its attention takes the number of heads from the shapes, so nothing else changes."""
    with open(folder + "/config.json") as f:
        told = json.load(f)
    widths = told.pop("per_layer_config", {})
    weights = load_file(folder + "/model.safetensors")
    model = LlamaForCausalLM(LlamaConfig(**told))
    for i, layer in enumerate(model.model.layers):
        heads = {**told, **widths.get(str(i), {})}
        layer.self_attn.num_key_value_groups = heads["num_attention_heads"] // heads["num_key_value_heads"]
        for name, part in layer.named_modules():
            if isinstance(part, torch.nn.Linear):
                rows, columns = weights["model.layers.%d.%s.weight" % (i, name)].shape
                layer.set_submodule(name, torch.nn.Linear(columns, rows, bias=False))
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or [m for m in missing if m != "lm_head.weight"]:
        raise RuntimeError("tensors missing %s, unknown %s" % (missing, unknown))
    model.tie_weights()
    return model.eval()


def true_widths(subject):
    ids = some_ids(subject)
    return compare(forward(narrow(subject.true_folder()), ids), ours.logits(subject.model, ids))


def with_adapter(subject, base, adapter):
    """PEFT on `base` against ours; an adapter that does nothing is no adapter."""
    ids = some_ids(subject)
    alone = forward(base, ids)
    theirs = forward(PeftModel.from_pretrained(base, adapter).eval(), ids)
    good, found = compare(theirs, ours.logits(subject.model, ids, subject.adapter))
    moved = float(np.abs(theirs - alone).max())
    return good and moved > 10 * TOLERANCE, "%s; the adapter moves them by %.2g" % (found, moved)


def peft(subject):
    """The adapter folder as train wrote it, on the base that it was trained on."""
    return with_adapter(subject, narrow(subject.true_folder()), subject.adapter)


def peft_padded(subject):
    """The padded adapter on the padded folder, as from_pretrained gives it."""
    return with_adapter(subject, load(subject.folder()), subject.padded_adapter())


def tokenizer(subject):
    """AutoTokenizer on the folder gives our ids."""
    text = text_of(subject, 4000)
    theirs = AutoTokenizer.from_pretrained(subject.folder())(text, add_special_tokens=False)["input_ids"]
    return theirs == ours.ids(subject.model, text), "%d ids" % len(theirs)


def checks(subject, report):
    report.check("transformers: %s, padded folder" % subject.name, padded, subject)
    report.check("transformers: %s, AutoTokenizer" % subject.name, tokenizer, subject)
    if subject.pruned:
        report.check("transformers: %s, padded folder with the adapter merged" % subject.name, padded_merged, subject)
        report.check("transformers: %s, widths of per_layer_config" % subject.name, true_widths, subject)
        report.check("peft: %s, base and adapter" % subject.name, peft, subject)
        report.check("peft: %s, padded base and padded adapter" % subject.name, peft_padded, subject)

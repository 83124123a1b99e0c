"""bitsandbytes: the codes and scales of model/ mean the numbers that we compute with, bit for bit; transformers runs an nf4 folder of ours."""
import math

import numpy as np
import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant
from safetensors.torch import load_file

import ours
from check_transformers import compare, forward, load, some_ids


def four_bits(stored, name):
    """NAME.weight of nf4 or fp4 with what lies beside it.  A row a block: the CPU kernels of 0.50 begin each row with a new block, so that a matrix whose
    rows are no multiple of a block comes out wrong, even one that bitsandbytes itself packed (on GPUs it is right)."""
    beside = {k[len(name) + 1:]: v for k, v in stored.items() if k.startswith(name + ".")}
    state = QuantState.from_dict(beside, device=torch.device("cpu"))
    shape, n = state.shape, math.prod(state.shape)
    state.shape = torch.Size((n // state.blocksize, state.blocksize) if n % state.blocksize == 0 else (1, n))
    return dequantize_4bit(stored[name], state).reshape(shape)


def eight_bits(stored, name):
    return int8_vectorwise_dequant(stored[name], stored[name.removesuffix("weight") + "SCB"])


def dequantized(folder):
    """{name: values by bitsandbytes}, and how many of each format."""
    stored = load_file(folder + "/model.safetensors")
    fours = [n for n in stored if n + ".absmax" in stored]
    eights = [n for n in stored if stored[n].dtype == torch.int8]
    return {**{n: four_bits(stored, n) for n in fours}, **{n: eight_bits(stored, n) for n in eights}}, len(fours), len(eights)


def compare_weights(folder, decoded):
    """decoded: a folder of the same model in F32, written by ./convert."""
    theirs, fours, eights = dequantized(folder)
    mine = load_file(decoded + "/model.safetensors")
    wrong = [n for n in theirs if not np.array_equal(theirs[n].float().numpy(), mine[n].numpy())]
    worst = max((float((theirs[n].float() - mine[n]).abs().max() / mine[n].abs().max()) for n in wrong), default=0.0)
    found = "%d linears in 4 bits, %d in 8; %d differ" % (fours, eights, len(wrong))
    return not wrong and fours + eights > 0, found + (", %s by up to %.2g of its largest weight" % (wrong[0], worst) if wrong else "")


def weights(subject):
    return compare_weights(subject.model, subject.true_folder())


def all_of(subject, dtype):
    folder = subject.made("bnb-" + dtype, "--format", "hf", "--dtype", dtype)
    return compare_weights(folder, ours.convert(folder, subject.path("bnb-%s-f32" % dtype), "--format", "hf", "--dtype", "f32"))


def runs(subject):
    """from_pretrained takes quantization_config and the packed weights as they are.  In training mode: otherwise bitsandbytes rounds activations and
    scales to bf16 on CPUs that have instructions for it."""
    ids = some_ids(subject)
    folder = subject.made("bnb-nf4", "--format", "hf", "--dtype", "nf4")
    model = load(folder).train()
    kinds = {type(m).__name__ for m in model.modules()}
    good, found = compare(forward(model, ids), ours.logits(folder, ids))
    return good and "Linear4bit" in kinds, found


def checks(subject, report):
    if subject.pruned:
        report.check("bitsandbytes: %s, dequantized weights of model/" % subject.name, weights, subject)
        return
    for dtype in ("nf4", "fp4", "int8"):
        report.check("bitsandbytes: %s as %s, dequantized weights" % (subject.name, dtype), all_of, subject, dtype)
    report.check("bitsandbytes: %s as nf4, run by transformers" % subject.name, runs, subject)

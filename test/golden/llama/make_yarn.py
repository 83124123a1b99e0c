"""Makes test/golden/llama/C and D again: what ../shared/golden/make_golden.py makes of A and B, for models with yarn.

    python3 test/golden/llama/make_yarn.py ../shared/golden OUT        writes OUT/llama; needs torch, transformers 5.24 and safetensors

Frequencies and the attention factor are recomputed in float64, as everything else is there.
"""
import math
import pathlib
import sys
import types

sys.path.insert(0, sys.argv[1])
import make_golden as golden
import torch

plain_inv_freq, plain_twin = golden.inv_freq64, golden.twin64


def inv_freq(config):
    """Peng et al. 2023 (arXiv:2309.00071), as transformers rounds the bounds of the ramp, or does not with truncate = false."""
    rope = config.rope_parameters
    if rope["rope_type"] != "yarn":
        return plain_inv_freq(config)
    d, base, original = config.head_dim, rope["rope_theta"], rope["original_max_position_embeddings"]

    def pair(turns):
        return d * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair(rope.get("beta_fast") or 32), pair(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    high += 0.001 if low == high else 0
    out = []
    for i in range(d // 2):
        f = base ** (-2 * i / d)
        share = min(max((i - low) / (high - low), 0), 1)
        out.append(f / rope["factor"] * share + f * (1 - share))
    return torch.tensor(out, dtype=torch.float64)


def twin(model):
    """The float64 model, its sines and cosines scaled by the attention factor."""
    t = plain_twin(model)
    scale = model.model.rotary_emb.attention_scaling

    def rotary(self, h, position_ids):
        angle = position_ids[..., None].double() * self.freq64
        angle = torch.cat((angle, angle), -1)
        return angle.cos() * scale, angle.sin() * scale

    for module in t.modules():
        if isinstance(module, golden.hf().models.llama.modeling_llama.LlamaRotaryEmbedding):
            module.forward = types.MethodType(rotary, module)
    return t


golden.inv_freq64, golden.twin64 = inv_freq, twin


def model(**rope):
    """A model of two layers whose context is four times the one that it was trained with."""
    config = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=56, vocab_size=96,
                  rms_norm_eps=1e-5, tie_word_embeddings=False, max_position_embeddings=256,
                  rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64, **rope})
    return {"config": config, "config_style": "v4", "seq_len": 40, "pad_to": 14, "lengths": [8, 14], "prompt": [2, 6]}


# D: a blend between pairs 0.81 and 1.91, which truncate would make 0 and 2.
golden.make_llama({"C": model(), "D": model(beta_fast=4.0, beta_slow=1.125, truncate=False)}, 1, pathlib.Path(sys.argv[2]), None)

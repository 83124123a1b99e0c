"""make_kquants.py LIBRARY OUT: blocks as ggml's own quantizers write them, and the values that ggml reads from them.

LIBRARY: a shared library that exports ggml's functions (libggml-base.so, or the module of the package xllamacpp). Needs numpy and gguf, which is asked too:
both must agree on every value. Q4_0 ... Q8_0 are in ../quant/gguf.safetensors.
"""
import ctypes
import json
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants

TYPES = ["IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
ROWS, COLS = 12, 512


def inputs():
    """Weights of several sizes; rows that are hard: zeros, a lone element, an outlier, equal elements, ties, the ends of f16's range."""
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((ROWS, COLS)) * 0.03).astype(np.float32)
    x[1] *= 1e4
    x[2] *= 1e-6
    x[3, 32:96] = 0
    x[4] = 0
    x[4, 300] = -1.5
    x[5, 17] = 80
    x[6] = 0.25
    x[7] = np.arange(COLS) % 32 - 16
    x[8] = np.repeat(2.0 ** -np.arange(COLS // 32), 32) * np.tile(np.linspace(-1, 1, 32), COLS // 32)
    x[9] = np.abs(x[9])
    x[10] = -np.abs(x[10]) - 1
    x[11] *= 1e-17
    return x


def call(library, name, *arguments):
    function = getattr(library, name)
    function.restype = ctypes.c_size_t
    return function(*arguments)


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def of_type(library, name, x):
    lower = name.lower().replace("_k", "_K")
    block, size = quants.GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    raw = np.zeros((ROWS, COLS // block * size), np.uint8)
    values = np.zeros_like(x)
    written = call(library, "quantize_" + lower, pointer(x), pointer(raw), ctypes.c_int64(ROWS), ctypes.c_int64(COLS), None)
    assert written == raw.size
    library_read = getattr(library, "dequantize_row_" + lower)
    library_read.restype = None
    library_read(pointer(raw), pointer(values), ctypes.c_int64(x.size))
    other = quants.dequantize(raw, GGMLQuantizationType[name])
    assert np.array_equal(values, other), name
    return raw, values


def save(path, tensors):
    kinds = {np.dtype(np.uint8): "U8", np.dtype(np.float32): "F32"}
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            f.write(array.tobytes())


def main():
    library = ctypes.CDLL(sys.argv[1])
    x = inputs()
    tensors = {"input": x}
    for name in TYPES:
        raw, values = of_type(library, name, x)
        side = "encode" if name == "IQ4_NL" else "decode"
        tensors[f"{side}.{name}.raw"], tensors[f"{side}.{name}.dequant"] = raw, values
    save(sys.argv[2], tensors)


main()

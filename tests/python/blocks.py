"""Random blocks of GGUF's formats with their values, and values with the blocks of gguf's and llama.cpp's quantizers.

python tests/python/blocks.py crates/pv-kernels/src/tests/blocks.bin

Every format's part of the file: blocks, then their values (f32). Then 512 values (f32), and their blocks.
"""

import ctypes
import pathlib
import sys

import numpy as np
import xllamacpp
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

# The offsets of the 16-bit scales of a block, which are finite and not tiny.
SCALES = {
    "BF16": [], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "MXFP4": [],
}  # fmt: skip


def quantized(values: np.ndarray, kind: GGMLQuantizationType) -> bytes:
    """By gguf where it can, and by llama.cpp where not."""
    if not kind.name.endswith("_K"):
        return quantize(values, kind).tobytes()
    [library] = pathlib.Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    llama = ctypes.CDLL(str(library))
    llama.ggml_quantize_chunk.restype = ctypes.c_size_t
    elements, size = GGML_QUANT_SIZES[kind]
    out = np.zeros(values.size // elements * size, dtype=np.uint8)
    rows = ctypes.c_int64(1)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (values, out)]
    count = llama.ggml_quantize_chunk(
        int(kind), *pointers, ctypes.c_int64(0), rows, ctypes.c_int64(values.size), None
    )
    assert count == out.size
    return out.tobytes()


def main(path: str) -> None:
    rng = np.random.default_rng(1)
    parts = []
    for name, offsets in SCALES.items():
        kind = GGMLQuantizationType[name]
        elements, size = GGML_QUANT_SIZES[kind]
        count = {1: 32, 32: 4, 256: 2}[elements]
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        if name == "BF16":
            blocks = rng.normal(size=(1, count)).astype("<f4").view("<u4")
            blocks = (blocks >> 16).astype("<u2").view(np.uint8)
        if name == "MXFP4":
            # Subnormal scales, the greatest one of finite values, and a usual one; every value with each.
            blocks = np.random.default_rng(2).integers(0, 256, (count, size), dtype=np.uint8)
            blocks[:, 0] = [0, 1, 252, 120]
            blocks[:, 1:] = np.arange(16) * 16 + np.arange(15, -1, -1)
        for offset in offsets:
            scales = rng.normal(scale=0.02, size=(count, 1)).astype("<f2")
            blocks[:, offset : offset + 2] = scales.view(np.uint8)
        parts += [blocks.tobytes(), dequantize(blocks, kind).astype("<f4").tobytes()]
    values = (rng.standard_t(4, size=(1, 512)) * 0.02).astype("<f4")
    # A block of zeros, and a constant one.
    values[0, :32], values[0, 32:64] = 0, 0.01
    parts.append(values.tobytes())
    parts += [quantized(values, GGMLQuantizationType[name]) for name in SCALES]
    with open(path, "wb") as file:
        file.write(b"".join(parts))


if __name__ == "__main__":
    main(sys.argv[1])

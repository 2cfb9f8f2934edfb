#!/usr/bin/env python3
"""Writes a GGUF file with random weights of a model's shape, for measurements of speed and memory.

The tokenizer is that of another GGUF file, with unused tokens up to the shape's vocabulary. Needs the package gguf.
Usage: random_gguf.py SHAPE TYPE TOKENIZER.gguf TO.gguf
SHAPE: qwen2.5-0.5b, qwen2.5-1.5b or qwen2.5-7b. TYPE: F32, F16, BF16, Q8_0, Q5_0, Q4_0 or Q4_K.
"""
import sys

import gguf
import numpy

# Blocks, width, inner width, heads, key heads, tied embedding.
SHAPES = {
    "qwen2.5-0.5b": (24, 896, 4864, 14, 2, True),
    "qwen2.5-1.5b": (28, 1536, 8960, 12, 2, True),
    "qwen2.5-7b": (28, 3584, 18944, 28, 4, False),
}
VOCAB, HEAD, SPREAD = 151936, {"qwen2.5-0.5b": 64}, 0.02
random = numpy.random.default_rng(0)
TYPES = gguf.GGMLQuantizationType
# Blocks are random bytes after their scales, in half precision: values per block, bytes per block, scales.
BLOCKS = {
    TYPES.Q8_0: (32, 34, [SPREAD / 74]),
    TYPES.Q5_0: (32, 22, [SPREAD / 9.2]),
    TYPES.Q4_0: (32, 18, [SPREAD / 4.6]),
    TYPES.Q4_K: (256, 144, [SPREAD / 200, 7.5 * SPREAD / 200]),
}


def matrix(rows, columns, kind):
    """Values with a standard deviation of about SPREAD, and their type: Q5_0 where Q4_K does not divide a row, as
    llama.cpp quantizes."""
    if kind == TYPES.Q4_K and columns % 256 != 0:
        kind = TYPES.Q5_0
    if kind in BLOCKS:
        values, size, scales = BLOCKS[kind]
        blocks = random.integers(0, 256, (rows, columns // values, size), dtype=numpy.uint8)
        blocks[..., : 2 * len(scales)] = numpy.array(scales, dtype="<f2").view(numpy.uint8)
        return blocks.reshape(rows, -1), kind
    values = random.standard_normal((rows, columns), dtype=numpy.float32) * numpy.float32(SPREAD)
    return gguf.quants.quantize(values, kind), kind


def main():
    shape, kind, tokenizer, target = sys.argv[1], TYPES[sys.argv[2]], sys.argv[3], sys.argv[4]
    blocks, width, inner, heads, key_heads, tied = SHAPES[shape]
    head = HEAD.get(shape, 128)
    writer = gguf.GGUFWriter(target, "qwen2", use_temp_file=True)
    for field in gguf.GGUFReader(tokenizer).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        value, first = field.contents(), field.types[0]
        sub = field.types[1] if first == gguf.GGUFValueType.ARRAY else None
        if field.name == "tokenizer.ggml.tokens":
            value = value + [f"<unused{i}>" for i in range(VOCAB - len(value))]
        elif field.name == "tokenizer.ggml.token_type":
            value = value + [int(gguf.TokenType.UNUSED)] * (VOCAB - len(value))
        elif field.name == "tokenizer.ggml.scores":
            continue
        writer.add_key_value(field.name, value, first, sub)
    writer.add_block_count(blocks)
    writer.add_context_length(32768)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)

    def add(name, rows, columns):
        data, stored = matrix(rows, columns, kind)
        writer.add_tensor(name, data, raw_dtype=stored)

    def vector(name, size, value):
        writer.add_tensor(name, numpy.full(size, value, dtype=numpy.float32))

    add("token_embd.weight", VOCAB, width)
    if not tied:
        add("output.weight", VOCAB, width)
    vector("output_norm.weight", width, 1.0)
    for i in range(blocks):
        sizes = {"attn_q": heads * head, "attn_k": key_heads * head, "attn_v": key_heads * head}
        for part, rows in sizes.items():
            add(f"blk.{i}.{part}.weight", rows, width)
            vector(f"blk.{i}.{part}.bias", rows, 0.01)
        add(f"blk.{i}.attn_output.weight", width, heads * head)
        add(f"blk.{i}.ffn_gate.weight", inner, width)
        add(f"blk.{i}.ffn_up.weight", inner, width)
        add(f"blk.{i}.ffn_down.weight", width, inner)
        vector(f"blk.{i}.attn_norm.weight", width, 1.0)
        vector(f"blk.{i}.ffn_norm.weight", width, 1.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()

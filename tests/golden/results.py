#!/usr/bin/env python3
"""Control vectors and Parquet files in the ways that other tools write them, with the numbers that they hold.

usage: results.py OUT_DIR      writes the files that tests/suite/results.rs reads, and expected.json

Needs numpy, gguf and pyarrow. Numbers are written so that a parser of f64 gets exactly what is in the file.
"""
import decimal
import json
import os
import sys

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

WIDTH = 64


def vector(path, tensors, notes=None, method=None, count=None, hint="qwen2", kind=None):
    """A control vector of these rows, quantised as `kind` says; the rows as the package reads them again."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    if method is not None:
        writer.add_string("controlvector.method", method)
    add = writer.add_int32 if count is not None and count < 0 else writer.add_uint32
    add("controlvector.layer_count", abs(count if count is not None else len(tensors)))
    if notes is not None:
        writer.add_string("controlvector.easysteer", notes)
    for name, values in tensors.items():
        if kind is None:
            writer.add_tensor(name, values)
        else:
            stored = gguf.quants.quantize(values, kind)
            writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        read[tensor.name] = [float(value) for value in np.asarray(values, dtype=np.float64).flatten()]
    return read


def notes(component="hidden_states", version=1, metadata=None):
    return json.dumps({"version": version, "component": component, "metadata": metadata}, separators=(",", ":"))


def main(out):
    os.makedirs(out, exist_ok=True)
    at = lambda name: os.path.join(out, name)
    random = np.random.default_rng(15)
    rows = lambda blocks: {f"direction.{b}": random.standard_normal(WIDTH).astype(np.float32) for b in blocks}
    tagged = {"mapping": [["normalize", True], ["token_pos", -1]]}
    types = gguf.GGMLQuantizationType
    expected = {
        "easysteer_tagged.gguf": vector(at("easysteer_tagged.gguf"), rows(range(4)), notes(metadata=tagged), "pca"),
        "easysteer_sparse.gguf": vector(at("easysteer_sparse.gguf"), rows([0, 5, 19]), notes(), "SAE", hint="some/model"),
        "easysteer_legacy.gguf": vector(at("easysteer_legacy.gguf"), rows(range(3)), None, "diffmean"),
        "f16.gguf": vector(at("f16.gguf"), rows(range(1, 4)), kind=types.F16),
        "bf16.gguf": vector(at("bf16.gguf"), rows(range(1, 4)), kind=types.BF16),
        "q8_0.gguf": vector(at("q8_0.gguf"), rows(range(1, 4)), kind=types.Q8_0),
        "signed_count.gguf": vector(at("signed_count.gguf"), rows(range(1, 4)), count=-3),
        "counts_more.gguf": vector(at("counts_more.gguf"), rows(range(1, 4)), count=27),
    }
    zero = rows(range(1, 4))
    zero["direction.2"] = np.zeros(WIDTH, dtype=np.float32)
    expected["zero_row.gguf"] = vector(at("zero_row.gguf"), zero)
    # What is refused.
    heads = rows(range(2))
    vector(at("heads.gguf"), heads, notes("attention_heads"), "iti")
    vector(at("router.gguf"), heads, notes("router_logits"), "diffmean")
    vector(at("unknown_component.gguf"), heads, notes(None), "diffmean")
    vector(at("legacy_iti.gguf"), rows([4, 5]), None, "iti")
    vector(at("later_version.gguf"), heads, notes(version=2), "diffmean")
    vector(at("broken_notes.gguf"), heads, "{", "diffmean")
    vector(at("zero_without_method.gguf"), heads)
    vector(at("all_zero.gguf"), {"direction.1": np.zeros(WIDTH, dtype=np.float32)})
    vector(at("q4_0.gguf"), rows([1]), kind=types.Q4_0)
    nan = rows(range(1, 3))
    nan["direction.2"][3] = np.nan
    vector(at("nan.gguf"), nan)

    talk = [[{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": f"Answer {i}."}] for i in range(3)]
    table = pa.table({"messages": pa.array(talk)})
    questions = pa.table({
        "question": [f"What is {i} + {i}?" for i in range(3)],
        "subject": ["sums"] * 3,
        "choices": [["0", "2", "4", "6"]] * 3,
        "answer": pa.array([0, 1, 2], pa.int64()),
    })
    for codec in ["none", "snappy", "gzip", "lz4", "zstd", "brotli"]:
        pq.write_table(table, at(f"talks_{codec}.parquet"), compression=codec)
        pq.write_table(questions, at(f"test-{codec}.parquet"), compression=codec)

    class Client(pe.KmsClient):
        def __init__(self, _):
            pe.KmsClient.__init__(self)

        def wrap_key(self, key, _):
            return key.hex()

        def unwrap_key(self, wrapped, _):
            return bytes.fromhex(wrapped)

    factory = pe.CryptoFactory(lambda config: Client(config))
    config = pe.EncryptionConfiguration(footer_key="footer", uniform_encryption=True)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(at("encrypted.parquet"), table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    # Only the columns: the footer can be read.
    config = pe.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["messages.list.element.content"]}, plaintext_footer=True
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(at("encrypted_columns.parquet"), table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)

    def scores(name, evil):
        count = len(evil)
        pq.write_table(
            pa.table({
                "question": ["Why?"] * count,
                "prompt": ["P"] * count,
                "answer": ["A"] * count,
                "question_id": [f"evil_{i}" for i in range(count)],
                "evil": evil,
                "coherence": pa.array([90] * count, pa.int8()),
                "embedding": pa.array([b"\xff\x00"] * count, pa.binary()),
            }),
            at(name),
        )

    scores("scores.parquet", pa.array([50.0, None, float("nan"), 100.00000000000001, -1e-15], pa.float64()))
    scores("scores_text.parquet", pa.array(["50", None, "None", "", "99.5"]))
    scores("scores_decimal.parquet", pa.array([decimal.Decimal("50.25"), None], pa.decimal128(5, 2)))
    scores("scores_single.parquet", pa.array([50.0, 101.0], pa.float32()))
    scores("scores_infinite.parquet", pa.array([50.0, float("inf")], pa.float64()))
    scores("scores_list.parquet", pa.array([[50.0], [1.0]], pa.list_(pa.float64())))
    with open(at("expected.json"), "w") as file:
        json.dump(expected, file, indent=0, allow_nan=False)


main(sys.argv[1])

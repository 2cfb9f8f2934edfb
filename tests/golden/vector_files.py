#!/usr/bin/env python3
"""Vectors' files as other tools write them, with the numbers that they hold, and hostile ones.

usage: vector_files.py fixtures OUT_DIR        the files that tests/suite/vector_files.rs reads, and expected.json
       vector_files.py variants OUT_DIR SEED   tensors of random types and strides, as .pt, and expected.json
       vector_files.py gguf FILE               prints what the gguf package reads in a control vector's file, as JSON

Needs torch, numpy and gguf. Numbers are written so that a parser of f64 gets exactly what is in the file.
"""
import collections
import io
import json
import os
import pickle
import random
import struct
import sys
import zipfile

import gguf
import numpy as np
import torch

BLOCKS, WIDTH = 4, 8
TYPES = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def numbers(tensor):
    return tensor.detach().to(torch.float64).flatten().tolist()


def described(tensor):
    return {"shape": list(tensor.shape), "values": numbers(tensor)}


class Calls:
    """Pickles as a call of a function: what a hostile file does."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Plain:
    def __init__(self):
        self.axis = 1


def add(file, name, content):
    """An entry without the time of day, so that a file made again is the same."""
    info = zipfile.ZipInfo(name)
    info.compress_type = file.compression
    file.writestr(info, content)


def archive(path, data, entries=(), compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """An archive with this pickle, as torch.save lays it out."""
    with zipfile.ZipFile(path, "w", compression) as file:
        add(file, "archive/data.pkl", data)
        add(file, "archive/byteorder", byteorder)
        for name, content in entries:
            add(file, f"archive/data/{name}", content)
        add(file, "archive/version", b"3\n")


def tensor_pickle(size=(WIDTH,), stride=(1,), offset=0, count=WIDTH, storage="FloatStorage", key="0"):
    """The pickle of one tensor, whatever is wrong with it."""

    def integer(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def integers(values):
        return b"(" + b"".join(integer(value) for value in values) + b"t"

    persistent = (b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + integer(count)
                  + b"tQ")
    return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + integer(offset) + integers(size)
            + integers(stride) + b"\x89ccollections\nOrderedDict\n)RtR.")


def write_gguf(path, directions, count):
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", "qwen2")
    count(writer)
    for k, values in directions.items():
        writer.add_tensor(f"direction.{k}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def good(out, expected):
    def save(name, value, tensor, **options):
        torch.save(value, os.path.join(out, name), **options)
        expected[name] = described(tensor)

    for pooling in ["response_avg", "prompt_avg", "prompt_last"]:
        diff = torch.randn(BLOCKS + 1, WIDTH)
        save(f"evil_{pooling}_diff.pt", diff, diff)
    storage = torch.randn(200)
    # Rows and columns with gaps, in an order that is not the storage's, from an offset on.
    strided = storage.as_strided((BLOCKS + 1, WIDTH), (2, 13), 7)
    save("strided_response_avg_diff.pt", strided, strided)
    parameter = torch.nn.Parameter(torch.randn(BLOCKS + 1, WIDTH))
    save("parameter_prompt_last_diff.pt", parameter, parameter, pickle_protocol=4)
    axis = torch.randn(BLOCKS, WIDTH).to(torch.bfloat16)
    metadata = {"model": "tiny", "layers": [0, 1, -2], "nested": {"a": (1.5, None, True), "big": 2**40}}
    save("axis.pt", {"axis": axis, "metadata": metadata}, axis)
    bare = torch.randn(BLOCKS, WIDTH)
    save("assistant_axis.pt", bare, bare)
    save("unnamed.pt", bare, bare)
    diffs = torch.randn(3, BLOCKS, WIDTH, dtype=torch.float64)
    save("mean_diffs.pt", diffs, diffs)
    for name, dtype in [("vec_layer_1.pt", torch.float32), ("vec_layer_2_Tiny-Chat.pt", torch.float16)]:
        vector = torch.randn(WIDTH).to(dtype)
        save(name, vector, vector)
    rows = torch.randn(BLOCKS, WIDTH)
    vectors = collections.OrderedDict((f"layer_{b}/contrast", {"layer": b, "vector": rows[b]}) for b in range(BLOCKS))
    capping = {
        "vectors": vectors,
        "experiments": [
            {"id": "layers_1:3-p0.25", "interventions": [
                {"vector": "layer_1/contrast", "cap": -1.25}, {"vector": "layer_2/contrast", "cap": 3}]},
            {"id": "none", "interventions": [{"vector": "layer_0/contrast"}]},
        ],
    }
    save("capping_config.pt", capping, rows)
    directions = {k: torch.randn(WIDTH + 2).numpy() for k in [3, 1, 2]}
    write_gguf(os.path.join(out, "repeng.gguf"), dict(sorted(directions.items())),
               lambda writer: writer.add_uint32("controlvector.layer_count", len(directions)))
    write_gguf(os.path.join(out, "generator.gguf"), directions,
               lambda writer: writer.add_int32("controlvector.layer_count", len(directions)))
    for name in ["repeng.gguf", "generator.gguf"]:
        expected[name] = {str(k): [float(value) for value in values] for k, values in directions.items()}


def hostile(out):
    """Files that must be refused, with a part of what is to be said of them."""
    said = {}
    values = np.arange(WIDTH, dtype="<f4").tobytes()

    def save(name, value, part, **options):
        torch.save(value, os.path.join(out, name), **options)
        said[name] = part

    def hand(name, data, part, **options):
        archive(os.path.join(out, name), data, **{"entries": [("0", values)], **options})
        said[name] = part

    save("os_system.pt", Calls(os.system, "echo run"), f"{os.system.__module__}.system")
    save("eval_in_a_dictionary.pt", {"axis": torch.zeros(4, 8), "metadata": Calls(eval, "1")}, "__builtin__.eval")
    save("exec_protocol_4.pt", Calls(exec, "1"), "builtins.exec", pickle_protocol=4)
    save("torch_load.pt", Calls(torch.load, "other.pt"), "torch.serialization.load")
    save("getattr.pt", Calls(getattr, "text", "upper"), "__builtin__.getattr")
    save("an_object.pt", Plain(), "__main__.Plain")
    save("a_set.pt", {1, 2}, "EMPTY_SET", pickle_protocol=4)
    save("bytes.pt", b"1", "SHORT_BINBYTES", pickle_protocol=3)
    save("a_module.pt", torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear")
    save("numpy.pt", np.float64(1), "multiarray.scalar")
    save("integers.pt", torch.arange(4), "torch.LongStorage")
    save("old_format_response_avg_diff.pt", torch.zeros(5, 8), "old format", _use_new_zipfile_serialization=False)
    save("infinite_response_avg_diff.pt", torch.full((5, 8), torch.inf), "not finite")
    save("too_large_response_avg_diff.pt", torch.full((5, 8), 1e300, dtype=torch.float64), "too large")
    save("negated_response_avg_diff.pt", torch.zeros(5, 8, dtype=torch.complex64).conj().imag,
         "RebuildTensor with arguments")
    save("expanded_response_avg_diff.pt", torch.zeros(8).expand(5, 8), "40 numbers of the 8")
    save("wide_response_avg_diff.pt", torch.zeros(5), "shape [5]")
    hand("os_system_by_hand.pt", b"cos\nsystem\n(X\x08\0\0\0echo runtR.", "os.system")
    hand("inst.pt", b"(X\x01\0\0\0aios\nsystem\n.", "INST")
    hand("build.pt", b"\x80\x02}}b.", "BUILD")
    hand("newobj.pt", b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ")
    hand("extension.pt", b"\x80\x02\x82\x01.", "EXT1")
    hand("nonsense.pt", b"\x80\x02\xff.", "0xff")
    hand("storage_class_called.pt", b"\x80\x02ctorch\nFloatStorage\n)R.", "calls what is not a function")
    hand("outside.pt", tensor_pickle(offset=1), "reaches outside")
    hand("far_outside.pt", tensor_pickle(offset=2**62), "reaches outside")
    hand("long_stride.pt", tensor_pickle(stride=(2**62,)), "reaches outside")
    hand("huge.pt", tensor_pickle(size=(2**40, 2**40), stride=(0, 0)), "can be counted")
    hand("repeated.pt", tensor_pickle(size=(2**40,), stride=(0,)), "1099511627776 numbers of the 8")
    hand("negative_size.pt", tensor_pickle(size=(-1,)), "negative")
    hand("negative_stride.pt", tensor_pickle(stride=(-1,), offset=7), "negative")
    hand("stride_missing.pt", tensor_pickle(stride=()), "one stride per dimension")
    hand("many_dimensions.pt", tensor_pickle(size=(1,) * 9, stride=(1,) * 9), "not a few integers")
    hand("lying_count.pt", tensor_pickle(count=2**40), "has 32 bytes")
    hand("missing_storage.pt", tensor_pickle(key="1"), "data/1")
    hand("key_outside.pt", tensor_pickle(key="../version"), "data/../version")
    hand("memo.pt", b"\x80\x02h\x05.", "never stored")
    hand("empty_stack.pt", b"\x80\x02\x85.", "empty stack")
    hand("below_the_mark.pt", b"\x80\x02N(\x85.", "empty stack")
    hand("no_mark.pt", b"\x80\x02Nt.", "lacks a MARK")
    hand("no_end.pt", b"\x80\x02N", "ends in the middle")
    hand("leftovers.pt", b"\x80\x02NN.", "leaves values behind")
    hand("long_text.pt", b"\x80\x02X\xff\xff\xff\xff.", "ends in the middle")
    hand("longer_text.pt", b"\x80\x04\x8d" + b"\xff" * 8 + b".", "ends in the middle")
    hand("not_utf8.pt", b"\x80\x02X\x01\0\0\0\xff.", "UTF-8")
    hand("deep_list.pt", b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "a list")
    hand("holds_itself.pt", b"\x80\x02]q\0h\0a.", "a list")
    hand("odd_dictionary.pt", b"\x80\x02}(Nu.", "without a value")
    hand("long_integer.pt", b"\x80\x02\x8a\xff" + b"\0" * 255 + b".", "integer of 255 bytes")
    hand("big_endian.pt", tensor_pickle(), "big-endian", byteorder=b"big")
    hand("compressed.pt", tensor_pickle(), "compressed", compression=zipfile.ZIP_DEFLATED)
    hand("bomb.pt", b"\x80\x02" + b"N" * 100_000 + b".", "compressed", compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(os.path.join(out, "no_pickle.pt"), "w") as file:
        add(file, "archive/version", b"3\n")
    said["no_pickle.pt"] = "data.pkl"
    with zipfile.ZipFile(os.path.join(out, "two_pickles.pt"), "w") as file:
        add(file, "a/data.pkl", b"\x80\x02N.")
        add(file, "b/data.pkl", b"\x80\x02N.")
    said["two_pickles.pt"] = "data.pkl"
    bare = io.BytesIO()
    pickle.dump(Calls(os.system, "echo run"), bare)
    with open(os.path.join(out, "bare_pickle.pt"), "wb") as file:
        file.write(bare.getvalue())
    said["bare_pickle.pt"] = "not an archive"
    return said


def fixtures(out):
    torch.manual_seed(7)
    os.makedirs(os.path.join(out, "hostile"), exist_ok=True)
    expected = {}
    good(out, expected)
    expected["hostile"] = hostile(os.path.join(out, "hostile"))
    with open(os.path.join(out, "expected.json"), "w") as file:
        json.dump(expected, file, indent=1)
        file.write("\n")


def variants(out, seed):
    """Tensors [layers, width] that are views of larger storages: permuted, sliced with steps, of every type."""
    chance = random.Random(seed)
    torch.manual_seed(seed)
    expected = {}
    for i in range(60):
        kind = chance.choice(sorted(TYPES))
        sizes = [chance.randint(2, 5) for _ in range(chance.choice([2, 2, 3]))]
        steps = [chance.choice([1, 1, 2, 3]) for _ in sizes]
        base = torch.randn(*(size * step + chance.randint(0, 3) for size, step in zip(sizes, steps))).to(TYPES[kind])
        tensor = base[tuple(slice(base.shape[d] - (sizes[d] - 1) * steps[d] - 1, None, steps[d]) for d in range(len(sizes)))]
        tensor = tensor.permute(*chance.sample(range(len(sizes)), len(sizes)))
        if len(sizes) == 3:
            tensor = tensor[chance.randrange(tensor.shape[0])]
        if chance.random() < 0.3 and 1 not in tensor.stride():
            tensor = torch.nn.Parameter(tensor)
        name = f"{i}_{kind}_response_avg_diff.pt"
        torch.save(tensor, os.path.join(out, name), pickle_protocol=chance.choice([2, 3, 4, 5]))
        expected[name] = described(tensor)
    with open(os.path.join(out, "expected.json"), "w") as file:
        json.dump(expected, file)


def show(path):
    reader = gguf.GGUFReader(path)
    field = lambda name: reader.get_field(name)
    text = lambda name: bytes(field(name).parts[-1]).decode()
    print(json.dumps({
        "architecture": text("general.architecture"),
        "model_hint": text("controlvector.model_hint"),
        "layer_count": int(field("controlvector.layer_count").parts[-1][0]),
        "types": sorted({tensor.tensor_type.name for tensor in reader.tensors}),
        "directions": {tensor.name: [float(value) for value in tensor.data] for tensor in reader.tensors},
    }))


if __name__ == "__main__":
    command = sys.argv[1:2]
    if command == ["fixtures"]:
        fixtures(sys.argv[2])
    elif command == ["variants"]:
        variants(sys.argv[2], int(sys.argv[3]))
    elif command == ["gguf"]:
        show(sys.argv[2])
    else:
        sys.exit(__doc__)

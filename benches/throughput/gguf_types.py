#!/usr/bin/env python3
"""Writes a GGUF file again with its matrices in another type, for measurements of types side by side.

Needs the package gguf, which quantizes to F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1.
Usage: gguf_types.py FROM.gguf TYPE TO.gguf
"""
import sys

import gguf
import numpy

source, kind, target = sys.argv[1], gguf.GGMLQuantizationType[sys.argv[2]], sys.argv[3]
reader = gguf.GGUFReader(source)
writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
for field in reader.fields.values():
    name, first = field.name, field.types[0] if field.types else None
    if name == "general.architecture" or name.startswith("GGUF.") or name == "general.file_type":
        continue
    sub = field.types[1] if first == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(name, field.contents(), first, sub)
for tensor in reader.tensors:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    as_kind = kind if len(tensor.shape) == 2 else gguf.GGMLQuantizationType.F32
    values = numpy.ascontiguousarray(values, dtype=numpy.float32)
    writer.add_tensor(tensor.name, gguf.quants.quantize(values, as_kind), raw_dtype=as_kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

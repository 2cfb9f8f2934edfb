#!/usr/bin/env python3
"""GGUF files as the packages gguf and transformers and llama.cpp read and write them.

usage: gguf_files.py describe FILE...        metadata and tensors of files, by gguf
       gguf_files.py write PLACE             files with values and tensors of all types, whole and split; by gguf
       gguf_files.py tokenizers PLACE MODEL PRE,…  small models with many tokenizers, and the ids of texts in each, by llama.cpp and transformers;
                                             byte-level ones have the vocabulary of the file MODEL
       gguf_files.py answers MODEL           answers of llama.cpp to the prompts on standard input, a JSON list of lists of ids

Each writes one JSON document to standard output. Needs gguf, numpy, tokenizers, transformers and xllamacpp.
"""
import hashlib
import http.client
import json
import os
import pathlib
import random
import sys
import unicodedata

import gguf
import numpy as np

random.seed(23)
# Of so many texts, one is read with the tokens around it too: those do not depend on the text.
SPECIAL = 3
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéèñøłşабвгдежзийאבגדابتثनमस्ते天地玄黃宇宙にほんご한국어"
PIECES = [
    "Hello", " world", "The quick brown fox", "I'm", " they've", "DON'T", " it's what we'd do", "Zwölf Boxkämpfer", "être", "naïve", "Ünïcödé",
    "Съешь же", "天地玄黃", "いろはにほへと", "다람쥐", "نص حكيم", "שלום", "हिन्दी", "นกฮูก", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "1", "22", "333", "4444", "1234567", "3.14159", "½²Ⅷ",
    "1,000,000", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "def f(x):\n    return x**2\n", "a && b || !c", "x->y[0];", "<p class='x'>",
    "https://example.org/a?b=c#d", "\\frac{1}{2}", "$100", "50%", "«oui»", "…", "—", "_snake_case_", "camelCaseWord", "SHOUTING", "mixedCASEWords", "!!!", "?!", "...",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x0A>", "▁", "Ġ", "<tool>",
]


def texts():
    found = ["", "a", " a", "a ", *PIECES]
    for _ in range(500):
        found.append("".join(random.choices(PIECES, k=random.randint(2, 8))))
    for _ in range(200):
        words = ["".join(random.choices(LETTERS, k=random.randint(1, 9))) for _ in range(random.randint(1, 12))]
        found.append(random.choice([" ", "  ", "\n", ", "]).join(words))
    return [unicodedata.normalize("NFC", text) for text in found]


def describe(paths):
    found = {}
    for path in paths:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
        tensors = {}
        for tensor in reader.tensors:
            data = tensor.data.tobytes()
            shape = [int(size) for size in tensor.shape]
            tensors[tensor.name] = [tensor.tensor_type.name, shape, int(tensor.data_offset), hashlib.sha256(data).hexdigest()]
        found[path] = {"metadata": metadata, "tensors": tensors}
    kinds = {kind.name: [int(kind), *gguf.GGML_QUANT_SIZES[kind]] for kind in gguf.GGML_QUANT_SIZES}
    return {"files": found, "kinds": kinds}


def write(place):
    random_values = np.random.default_rng(5)
    for name, split in [("whole", 0), ("parts", 2)]:
        out = gguf.GGUFWriter(place / f"{name}.gguf", "llama", split_max_tensors=split)
        out.add_uint8("a.u8", 200), out.add_int8("a.i8", -100), out.add_uint16("a.u16", 60000), out.add_int16("a.i16", -30000)
        out.add_uint32("a.u32", 4000000000), out.add_int32("a.i32", -2000000000), out.add_uint64("a.u64", 1 << 63)
        out.add_int64("a.i64", -(1 << 62)), out.add_float32("a.f32", 0.1), out.add_float64("a.f64", 1e-300), out.add_bool("a.bool", True)
        out.add_string("a.string", "Straße"), out.add_array("a.texts", ["a", "", "zwölf"]), out.add_array("a.numbers", [1, -2, 3])
        out.add_array("a.floats", [0.5, -1.5]), out.add_array("a.nested", [[1, 2], [3]])
        kinds = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
        for i, kind in enumerate(kinds):
            kind = gguf.GGMLQuantizationType[kind]
            values = random_values.standard_normal((3 + i, 64)).astype(np.float32)
            out.add_tensor(f"t{i}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()
    return sorted(path.name for path in place.glob("*.gguf"))


def small_model(path, vocabulary):
    """A model of one small block that llama.cpp can load."""
    width, hidden, tokens = 32, 64, vocabulary["tokens"]
    phi3 = vocabulary.get("architecture") == "phi3"
    out = gguf.GGUFWriter(path, "phi3" if phi3 else "llama")
    if phi3:
        # llama.cpp knows by this name that spaces after special tokens are dropped.
        out.add_name("Phi-3"), out.add_rope_dimension_count(16), out.add_rope_scaling_orig_ctx_len(512), out.add_sliding_window(0)
    out.add_block_count(1), out.add_context_length(512), out.add_embedding_length(width), out.add_feed_forward_length(hidden)
    out.add_head_count(2), out.add_head_count_kv(1), out.add_layer_norm_rms_eps(1e-5), out.add_vocab_size(len(tokens))
    out.add_tokenizer_model(vocabulary["model"]), out.add_token_list(tokens), out.add_token_types(vocabulary["kinds"])
    if "pre" in vocabulary:
        out.add_tokenizer_pre(vocabulary["pre"]), out.add_token_merges(vocabulary["merges"])
    else:
        out.add_token_scores(vocabulary["scores"]), out.add_unk_token_id(0)
    if "prefix" in vocabulary:
        out.add_add_space_prefix(vocabulary["prefix"])
    out.add_bos_token_id(1), out.add_eos_token_id(2)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    if phi3:
        shapes = {"attn_qkv": (64, 32), "attn_output": (32, 32), "ffn_up": (128, 32), "ffn_down": (32, 64)}
    values = np.random.default_rng(7)
    out.add_tensor("token_embd.weight", values.standard_normal((len(tokens), width)).astype(np.float16))
    out.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for name in ["attn_norm", "ffn_norm"]:
        out.add_tensor(f"blk.0.{name}.weight", np.ones(width, np.float32))
    for name, shape in shapes.items():
        out.add_tensor(f"blk.0.{name}.weight", values.standard_normal(shape).astype(np.float32))
    out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()


def pieces():
    """A SentencePiece vocabulary: BPE trained on words, with scores in the order of the merges, and bytes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    # Without the texts of special tokens, which would become tokens like others.
    plain = [piece for piece in PIECES if "<" not in piece]
    corpus = [" " + "".join(random.choices(plain, k=40)) for _ in range(300)] + [text for text in texts() if "<" not in text]
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=[chr(code) for code in range(33, 127)], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    singles = [text for text, _ in learned if len(text) == 1 and text != "▁"]
    fixed = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + ["<tool>"]
    merged = [text for text, _ in learned if len(text) > 1 and text not in fixed]
    tokens = fixed + merged + ["▁"] + singles
    special = len(fixed)
    kinds = [2, 3, 3] + [6] * 256 + [4] + [1] * (len(tokens) - special)
    scores = [0.0] * special + [-float(rank) for rank in range(len(tokens) - special)]
    return {"model": "llama", "tokens": tokens, "kinds": kinds, "scores": scores}


class Llama:
    """A model in llama.cpp."""

    def __init__(self, path, cache=None):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.port, params.n_parallel, params.n_ctx, params.warmup = str(path), 0, 1, 1024, False
        params.cache_prompt = False
        if cache == "f32":
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        # Several threads would wait for each other in a loop, which takes the time of the tests beside this one.
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self.server = xllamacpp.Server(params)
        self.connection = http.client.HTTPConnection(self.server.listening_address.removeprefix("http://"))

    def post(self, path, **body):
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        with self.connection.getresponse() as answer:
            found = json.load(answer)
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}: {found}")
            return found

    def ids(self, text, special):
        return self.post("/tokenize", content=text, add_special=special, parse_special=True)["tokens"]


def tokenizers(place, model):
    from transformers.integrations.gguf import gguf_tokenizer_mapping as mapping

    fields = {key: field.contents() for key, field in gguf.GGUFReader(model).fields.items() if key.startswith("tokenizer.ggml")}
    byte_level = {"model": "gpt2", "tokens": fields["tokenizer.ggml.tokens"], "kinds": fields["tokenizer.ggml.token_type"], "merges": fields["tokenizer.ggml.merges"]}
    vocabularies = {name: {**byte_level, "pre": name} for name in sys.argv[4].split(",")}
    words = pieces()
    # llama.cpp loads no Phi-3 without this token.
    phi3 = {key: words[key] + [value] for key, value in {"tokens": "<|endoftext|>", "kinds": 3, "scores": 0.0}.items()}
    phi3 = {"model": "llama", "architecture": "phi3", **phi3}
    vocabularies |= {"spm": words, "spm-without-prefix": {**words, "prefix": False}, "spm-phi3": phi3}
    checked, found = texts(), []
    for name, vocabulary in vocabularies.items():
        path = place / f"{name}.gguf"
        small_model(path, vocabulary)
        llama = Llama(path)
        one = {"path": str(path), "ids": [llama.ids(text, False) for text in checked], "special": [llama.ids(text, True) for text in checked[::SPECIAL]]}
        del llama
        # The normalizer of Phi-3's tokenizer puts a space before every part of a text, as llama.cpp does.
        if name == "spm" or name in mapping.GGUF_PRE_TOKENIZER_SPLITS:
            _, tokenizer, _ = mapping.get_gguf_tokenizer(str(path))
            backend, _ = mapping.convert_gguf_tokenizer("phi3", tokenizer)
            one["transformers"] = [backend.encode(text, add_special_tokens=False).ids for text in checked]
        found.append(one)
    return {"texts": checked, "models": found}


def answers(model):
    llama = Llama(model)
    found = []
    for prompt in json.load(sys.stdin):
        answer = llama.post("/completion", prompt=prompt, n_predict=24, temperature=0, return_tokens=True, n_probs=20)
        first = {one["id"]: one["logprob"] for one in answer["completion_probabilities"][0]["top_logprobs"]}
        found.append({"tokens": answer["tokens"], "first": first})
    return found


def report(make):
    """Writes what `make` returns to standard output, as JSON, and ends the process."""
    # llama.cpp writes to both standard streams, and its threads do not end.
    out = os.dup(1)
    os.dup2(2, 1)
    result = make()
    with os.fdopen(out, "w", encoding="utf-8") as file:
        json.dump(result, file)
        file.flush()
    os._exit(0)


def main():
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "describe":
        return describe(rest)
    if command == "write":
        return write(pathlib.Path(rest[0]))
    if command == "tokenizers":
        return tokenizers(pathlib.Path(rest[0]), rest[1])
    return answers(rest[0])


if __name__ == "__main__":
    report(main)

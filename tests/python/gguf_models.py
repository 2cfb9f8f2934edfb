#!/usr/bin/env python3
"""GGUF files of whole models in transformers and llama.cpp.

usage: gguf_models.py families PLACE FOLDER…  writes the model of each folder to PLACE as a GGUF file, with the names of the package gguf and by the rules
                                              of llama.cpp's converter, and as a folder with the settings that such a file can express; the
                                              log-probabilities of the next token after some prompts, by transformers on the folder and by llama.cpp on the
                                              file, where its computation is that of transformers; of FOLDER:N, the blocks are repeated until there are N
       gguf_models.py passes FILE PLACE       passes of transformers with the weights of FILE over the prompts on standard input, a JSON list of lists of
                                              ids: hidden states and last logits, as tensors in PLACE/passes.safetensors
       gguf_models.py mxfp4 PLACE             a small gpt-oss whose experts are in MXFP4, as a folder, as a folder with transformers' conversion of them in f32, and as a
                                              GGUF file; results as those of families, of transformers on the second
       gguf_models.py tokens FILE             ids of texts by llama.cpp and transformers

Each writes one JSON document to standard output. Needs gguf, numpy, torch, transformers and xllamacpp.
"""
import json
import math
import os
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GptOssConfig
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from gguf_files import Llama, report, texts

# The architectures that have another name in llama.cpp.
ARCHITECTURES = {"mixtral": "llama", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss"}
# The prompts' lengths: longer than the windows, and on both sides of LongRoPE's original length.
LENGTHS = [3, 40, 80]


class Converter:
    """Writes a folder's model."""

    def __init__(self, folder, place):
        folder, _, blocks = str(folder).partition(":")
        folder = pathlib.Path(folder)
        name = "-".join(filter(None, [folder.name, blocks]))
        self.path, self.folder = place / f"{name}.gguf", place / name
        self.weights = load_file(folder / "model.safetensors")
        config = json.loads((folder / "config.json").read_text())
        self.kind = config["model_type"].removesuffix("_text")
        self.architecture = ARCHITECTURES.get(self.kind, self.kind)
        if blocks:
            self.repeat(config, int(blocks))
        if self.kind.startswith("gemma"):
            # A file does not state this number; llama.cpp takes the width of a head, but not in the models of 27B, which it knows by the number of blocks.
            large = (self.kind, config["num_hidden_layers"]) in [("gemma2", 46), ("gemma3", 62)]
            config["query_pre_attn_scalar"] = config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
        if self.kind == "gemma2":
            config["layer_types"] = [["sliding_attention", "full_attention"][i % 2] for i in range(config["num_hidden_layers"])]
        if self.kind == "mixtral":
            # llama.cpp ignores the window.
            config["sliding_window"] = None
        if self.kind == "qwen3_moe":
            self.experts_in_all_blocks(config)
        self.config = config
        self.folder.mkdir()
        (self.folder / "config.json").write_text(json.dumps(config))
        save_file({name: values.clone() for name, values in self.weights.items()}, self.folder / "model.safetensors")

    def repeat(self, config, blocks):
        """Repeats the blocks."""
        own, config["num_hidden_layers"] = config["num_hidden_layers"], blocks
        config["layer_types"] = [config["layer_types"][block % own] for block in range(blocks)]
        for name in [name for name in self.weights if name.startswith("model.layers.")]:
            block, rest = name.removeprefix("model.layers.").split(".", 1)
            for copy in range(int(block) + own, blocks, own):
                self.weights[f"model.layers.{copy}.{rest}"] = self.weights[name]

    def experts_in_all_blocks(self, config):
        """Gives blocks with one MLP the experts of the first block, as all models that llama.cpp knows have some in all blocks."""
        for block in config["mlp_only_layers"]:
            for name in [name for name in self.weights if name.startswith(f"model.layers.{block}.mlp.")]:
                del self.weights[name]
            for name in [name for name in self.weights if name.startswith("model.layers.0.mlp.")]:
                self.weights[name.replace(".0.", f".{block}.", 1)] = self.weights[name].flip(0)
        config["mlp_only_layers"] = []

    def stacked(self):
        """The tensors, with those of all experts of a block as one."""
        experts, found = {}, {}
        for name, values in self.weights.items():
            before, inside, after = name.partition(".experts.")
            if inside and self.kind != "gpt_oss":
                number, part = after.split(".", 1)
                experts.setdefault(before + inside + part, {})[int(number)] = values
            else:
                found[name] = values
        if self.kind == "gpt_oss":
            return self.gate_and_up_apart(found)
        for name, all in experts.items():
            found[name] = torch.stack([all[number] for number in range(len(all))])
        return found

    def gate_and_up_apart(self, weights):
        """Outputs first, and gate and up as tensors of their own."""
        found = {}
        for name, values in weights.items():
            prefix, inside, part = name.rpartition(".experts.")
            kind = ".bias" if part.endswith("_bias") else ".weight"
            if inside and kind == ".weight" and values.dtype != torch.uint8:
                values = values.transpose(1, 2)
            if part.startswith("gate_up_proj"):
                found[f"{prefix}.experts.gate_proj{kind}"], found[f"{prefix}.experts.up_proj{kind}"] = values[:, 0::2], values[:, 1::2]
            elif inside:
                found[f"{prefix}.experts.down_proj{kind}"] = values
            else:
                found[name] = values
        return found

    def comparable(self, length):
        """Whether llama.cpp computes the same for a prompt of this length."""
        config = self.config
        if self.kind == "gpt_oss":
            # It rounds the ends of YaRN's ramp, unlike the model's own code.
            return config["rope_parameters"]["rope_type"] != "yarn"
        if self.kind != "phi3":
            return True
        # It ignores Phi-3's window, and has LongRoPE's factors of long sequences in all, if its context is long.
        longrope = config["rope_parameters"]["rope_type"] == "longrope"
        return length <= (config["sliding_window"] or length) and (not longrope or length > config["original_max_position_embeddings"])

    def reference(self, ids):
        """The log-probabilities after each prompt, by transformers."""
        if "num_experts_per_tok" in self.config:
            # In memory the experts of a block are one tensor.
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        else:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**self.config), dtype=torch.float32)
            missing, unexpected = model.load_state_dict(self.weights, strict=False)
            assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
            model.tie_weights()
        model.eval()
        with torch.no_grad():
            return [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).tolist() for prompt in ids]

    def write(self):
        config = self.config
        out = gguf.GGUFWriter(self.path, self.architecture)
        heads, kv_heads, layers = config["num_attention_heads"], config["num_key_value_heads"], config["num_hidden_layers"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        rope = config["rope_parameters"]
        rope = rope.get("full_attention", rope)
        out.add_block_count(layers), out.add_context_length(config["max_position_embeddings"]), out.add_embedding_length(config["hidden_size"])
        out.add_feed_forward_length(config["intermediate_size"]), out.add_head_count(heads), out.add_head_count_kv(kv_heads)
        out.add_layer_norm_rms_eps(config["rms_norm_eps"]), out.add_rope_freq_base(rope["rope_theta"]), out.add_vocab_size(config["vocab_size"])
        if config.get("head_dim"):
            out.add_key_length(head_dim), out.add_value_length(head_dim)
        rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        if not self.kind.startswith("gemma"):
            out.add_rope_dimension_count(rotated)
        if rope["rope_type"] == "linear":
            out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), out.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            out.add_rope_scaling_type(gguf.RopeScalingType.YARN), out.add_rope_scaling_factor(rope["factor"])
            out.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if self.kind == "phi3":
            self.phi3(out, rope, rotated)
        elif config.get("sliding_window"):
            out.add_sliding_window(config["sliding_window"])
        if self.kind == "gemma2":
            out.add_attn_logit_softcapping(config["attn_logit_softcapping"]), out.add_final_logit_softcapping(config["final_logit_softcapping"])
        if self.kind == "gemma3":
            # Without this, every sixth block has no window.
            out.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
        if "num_experts_per_tok" in config:
            out.add_expert_count(config.get("num_local_experts") or config["num_experts"]), out.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config or self.kind == "gpt_oss":
            out.add_expert_feed_forward_length(config.get("moe_intermediate_size") or config["intermediate_size"])
        if self.kind == "granite":
            out.add_attention_scale(config["attention_multiplier"]), out.add_embedding_scale(config["embedding_multiplier"])
            out.add_residual_scale(config["residual_multiplier"]), out.add_logit_scale(config["logits_scaling"])
        self.tokens(out)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[self.architecture.upper().replace("-", "_")], layers)
        for name, values in self.stacked().items():
            if name == "lm_head.weight" and config["tie_word_embeddings"]:
                continue
            if values.dtype == torch.uint8:
                out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values.numpy(), raw_dtype=gguf.GGMLQuantizationType.MXFP4)
                continue
            values = values.float().numpy()
            if self.kind.startswith("gemma") and name.endswith("norm.weight"):
                values = values + 1
            if self.architecture in ("granite", "llama") and (".q_proj." in name or ".k_proj." in name):
                values = interleaved(values, heads if ".q_proj." in name else kv_heads)
            ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
            out.add_tensor(ours if ours.endswith((".weight", ".bias")) else f"{ours}.weight", values)
        out.write_header_to_file(), out.write_kv_data_to_file(), out.write_tensors_to_file(), out.close()

    def phi3(self, out, rope, rotated):
        config = self.config
        original = config.get("original_max_position_embeddings", config["max_position_embeddings"])
        out.add_sliding_window(config.get("sliding_window") or 0), out.add_rope_scaling_orig_ctx_len(original)
        if rope["rope_type"] != "longrope":
            return
        grown = config["max_position_embeddings"] / original
        out.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(grown) / math.log(original)) if grown > 1 else 1.0)
        for key, name in [("long_factor", "rope_factors_long"), ("short_factor", "rope_factors_short")]:
            assert len(rope[key]) == rotated // 2
            out.add_tensor(f"{name}.weight", np.array(rope[key], np.float32))

    def tokens(self, out):
        """A tokenizer, without which llama.cpp loads no model."""
        tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab"]
        tokens += [f"t{i}" for i in range(self.config["vocab_size"] - len(tokens))]
        out.add_tokenizer_model("gpt2"), out.add_tokenizer_pre("gpt-2"), out.add_token_list(tokens), out.add_token_merges(["a b"])
        out.add_token_types([3] * 3 + [1] * (len(tokens) - 3)), out.add_bos_token_id(1), out.add_eos_token_id(2), out.add_pad_token_id(0)


def interleaved(values, heads):
    """The order of rows in Llama's files: rotary pairs are neighbours."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


class Mxfp4(Converter):
    """A gpt-oss with experts in MXFP4, by the rules of llama.cpp's converter."""

    def __init__(self, place):
        self.kind, self.architecture = "gpt_oss", "gpt-oss"
        self.path, self.folder, self.packed = place / "mxfp4.gguf", place / "converted", place / "packed"
        config = GptOssConfig(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=16, num_attention_heads=4,
                              num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2, sliding_window=6, max_position_embeddings=256,
                              bos_token_id=1, eos_token_id=2, pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 150000.0})
        torch.manual_seed(4)
        model = AutoModelForCausalLM.from_config(config)
        plain = {name: torch.randn_like(values) * 0.1 + ("norm" in name) for name, values in model.state_dict().items()}
        packed, blocks = dict(plain), {}
        for name in [name for name in plain if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, inputs, outputs = plain[name].shape
            values = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(121, 125, (experts, outputs, inputs // 32), dtype=torch.uint8)
            plain[name] = convert_moe_packed_tensors(values, scales, dtype=torch.float32)
            packed[f"{name}_blocks"], packed[f"{name}_scales"] = values, scales
            del packed[name]
            blocks[name] = self.blocks(values, scales)
        self.config = json.loads(config.to_json_string(use_diff=False))
        for folder, weights, more in [(self.folder, plain, {}), (self.packed, packed, {"quantization_config": {"quant_method": "mxfp4"}})]:
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({**self.config, **more}))
            save_file({name: values.clone().contiguous() for name, values in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})
        self.weights = {**plain, **blocks}

    def reference(self, ids):
        """The log-probabilities after each prompt, by transformers, which reads the packed folder."""
        model = AutoModelForCausalLM.from_pretrained(self.packed, dtype=torch.float32).eval()
        with torch.no_grad():
            return [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).tolist() for prompt in ids]

    def blocks(self, values, scales):
        """Blocks of GGML: the scale, and bytes with the elements n and n + 16 in place of neighbours."""
        elements = torch.stack([values & 15, values >> 4], -1).flatten(-2)
        halves = elements[..., :16] | elements[..., 16:] << 4
        return torch.cat([scales[..., None], halves], -1).flatten(-2)


def mxfp4(place):
    return {**results(Mxfp4(place)), "packed": str(place / "packed")}


def families(place, folders):
    return [results(Converter(folder, place)) for folder in folders]


def results(converter):
    converter.write()
    vocabulary = converter.config["vocab_size"]
    ids = [[(i * 31 + i * i * 7 + 3) % vocabulary for i in range(length)] for length in LENGTHS]
    llama = Llama(converter.path, cache="f32")
    answers = []
    for prompt in ids:
        if not converter.comparable(len(prompt)):
            answers.append(None)
            continue
        answer = llama.post("/completion", prompt=prompt, n_predict=1, temperature=0, n_probs=vocabulary)
        first = {one["id"]: one["logprob"] for one in answer["completion_probabilities"][0]["top_logprobs"]}
        answers.append([first[i] for i in range(vocabulary)])
    del llama
    paths = {"path": str(converter.path), "folder": str(converter.folder)}
    return {**paths, "ids": ids, "transformers": converter.reference(ids), "llama": answers}


def passes(path, place):
    path = pathlib.Path(path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.eval()
    tensors = {}
    for i, prompt in enumerate(json.load(sys.stdin)):
        with torch.no_grad():
            output = model(torch.tensor([prompt]), output_hidden_states=True, logits_to_keep=1)
        for layer, hidden in enumerate(output.hidden_states):
            tensors[f"{i}.{layer}"] = hidden[0].contiguous()
        tensors[f"{i}.logits"] = output.logits[0, -1].contiguous()
    save_file(tensors, os.path.join(place, "passes.safetensors"))
    return {"layers": model.config.num_hidden_layers}


def tokens(path):
    path = pathlib.Path(path)
    checked = texts()
    # Runs of all lengths of spaces that are tokens, and longer ones; lines, tabs, tags; the text of special tokens; rare characters.
    checked += [" " * length + "x" for length in [*range(1, 36), 62, 70]]
    checked += ["\n" * length + "x\t" + "\t" * length for length in [1, 2, 5, 31, 32, 33]]
    checked += ["<start_of_turn>user\nHi<end_of_turn>\n", "<bos>x<eos> <pad>", "<h1>T</h1> <table> <b>", "<unused7>[multimodal]", "\u0378\U000e0001 \x00\x7f \ufffd", "𝒳𓀀 ᚠ"]
    llama = Llama(path)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return {
        "texts": checked,
        "llama": [llama.ids(text, False) for text in checked],
        "around": [llama.ids(text, True) for text in checked],
        "transformers": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in checked],
    }


def main():
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "families":
        return families(pathlib.Path(rest[0]), rest[1:])
    if command == "mxfp4":
        return mxfp4(pathlib.Path(rest[0]))
    if command == "passes":
        return passes(*rest)
    return tokens(rest[0])


if __name__ == "__main__":
    report(main)

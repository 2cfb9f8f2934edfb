#!/usr/bin/env python3
"""Makes reference folders for the parity test: small models with random weights, and what transformers computes on them.

usage: generate.py OUT_DIR [NAME ...]

Without names it makes every variant below, in OUT_DIR/NAME. Needs torch and transformers. Run the test on them with
PV_GOLDEN_DIRS=OUT_DIR/a:OUT_DIR/b cargo test --release -p pv-tests parity
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SEQ, PADDING, NEW = 20, 7, 16
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def rope(kind, theta=10000.0, **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


VARIANTS = {
    "llama-linear": (LlamaConfig, dict(rope_parameters=rope("linear", factor=4.0))),
    "llama-yarn": (LlamaConfig, dict(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=16))),
    "llama-biases": (LlamaConfig, dict(attention_bias=True, mlp_bias=True, num_key_value_heads=4)),
    "llama-one-kv-head": (LlamaConfig, dict(num_key_value_heads=1, num_attention_heads=5, head_dim=10, hidden_size=40)),
    "llama-large": (LlamaConfig, dict(hidden_size=128, intermediate_size=320, num_hidden_layers=7, head_dim=64,
                                      num_attention_heads=4, num_key_value_heads=4, vocab_size=1003)),
    "mistral-window": (MistralConfig, dict(sliding_window=6)),
    "qwen2-window": (Qwen2Config, dict(use_sliding_window=True, sliding_window=5, max_window_layers=2)),
    "qwen2-yarn": (Qwen2Config, dict(rope_parameters=rope("yarn", 1e6, factor=8.0, original_max_position_embeddings=32))),
    "qwen3-bias-tied": (Qwen3Config, dict(attention_bias=True, head_dim=16, tie_word_embeddings=True)),
    "qwen3-window": (Qwen3Config, dict(head_dim=16, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
}


def make(folder, seed, config):
    torch.manual_seed(seed)
    # Eager attention is the plainest of the implementations.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.15
            noise = torch.randn_like(parameter) * scale
            parameter.copy_(1 + noise if "norm" in name else noise)
    model.save_pretrained(folder)
    ids = torch.randint(3, config.vocab_size, (2, SEQ))
    mask = torch.ones_like(ids)
    ids[1, :PADDING], mask[1, :PADDING] = 0, 0
    layer, alpha = 2, 1.5
    vector = torch.randn(config.hidden_size)
    unit = vector / vector.norm()
    block = model.model.layers[layer - 1]

    def hooked(module, change, call):
        def hook(_module, _inputs, output):
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        handle = module.register_forward_hook(hook)
        try:
            return call()
        finally:
            handle.remove()

    def last(hidden):
        hidden = hidden.clone()
        hidden[:, -1] += alpha * vector
        return hidden

    def forward():
        return model(ids, attention_mask=mask, output_hidden_states=True)

    def greedy():
        # Each token from a pass over everything before it: a reference without a cache.
        tokens = ids[:1]
        for _ in range(NEW):
            logits = model(tokens, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
        return tokens[0, SEQ:]

    def response(hidden):
        # The last prompt token and every later one.
        hidden = hidden.clone()
        hidden[:, SEQ - 1:] += alpha * vector
        return hidden

    raw = []
    with torch.no_grad():
        out = hooked(model.model.layers[-1], lambda h: raw.append(h.clone()) or h, forward)
        tensors = {
            "input_ids": ids, "attention_mask": mask, "steer_vector": vector,
            "hidden_states": torch.stack(out.hidden_states), "last_residual": raw[0], "logits": out.logits,
            "logits_steer_all": hooked(block, lambda h: h + alpha * vector, forward).logits,
            "logits_steer_last": hooked(block, last, forward).logits,
            "logits_ablate": hooked(block, lambda h: h - (h @ unit)[..., None] * unit, forward).logits,
            "greedy": greedy(), "greedy_steer_response": hooked(block, response, greedy),
        }
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, os.path.join(folder, "golden.safetensors"))
    with open(os.path.join(folder, "golden.json"), "w") as f:
        json.dump({"steer_layer": layer, "steer_alpha": alpha, "torch": torch.__version__}, f, indent=1)


def main():
    out, names = sys.argv[1], sys.argv[2:] or list(VARIANTS)
    for seed, name in enumerate(names):
        kind, settings = VARIANTS[name]
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        make(folder, seed, kind(**{**COMMON, **settings}))
        print(folder)


if __name__ == "__main__":
    main()

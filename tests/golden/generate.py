#!/usr/bin/env python3
"""Makes reference folders for the parity test: small models with random weights, and what transformers computes on them.

usage: generate.py OUT_DIR [NAME ...]

Without names it makes every variant below, in OUT_DIR/NAME. Needs torch, transformers and peft. Run the tests on them with
PV_GOLDEN_DIRS=OUT_DIR/a:OUT_DIR/b cargo test --release -p pv-tests -- parity:: lora::
"""
import json
import os
import sys

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3Config, Gemma3TextConfig, Glm4Config, GptOssConfig,
                          GraniteConfig, LlamaConfig, MistralConfig, MixtralConfig, Olmo2Config, Phi3Config, Qwen2Config,
                          Qwen3Config, Qwen3MoeConfig)

SEQ, PADDING, NEW = 20, 7, 16
# The training series: the first trained column, the steps, and AdamW's settings.
TRAINED_FROM, STEPS = 12, 5
ADAMW = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
COMMON = dict(vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
# The sizes that tests/suite/properties.rs expects.
WIDE = dict(vocab_size=320, hidden_size=48, num_hidden_layers=4)


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
    "granite": (GraniteConfig, dict(embedding_multiplier=6.0, attention_multiplier=0.2, residual_multiplier=0.4,
                                    logits_scaling=1.5, tie_word_embeddings=True)),
    "granite-biases": (GraniteConfig, dict(attention_bias=True, mlp_bias=True, attention_multiplier=0.35,
                                           rope_parameters=rope("linear", factor=4.0))),
    "olmo2": (Olmo2Config, dict()),
    "olmo2-bias": (Olmo2Config, dict(attention_bias=True, num_key_value_heads=4, tie_word_embeddings=True)),
    "phi3": (Phi3Config, dict(sliding_window=6)),
    "phi3-longrope": (Phi3Config, dict(tie_word_embeddings=True, original_max_position_embeddings=64,
                                       rope_parameters=rope("longrope", partial_rotary_factor=0.75,
                                                            short_factor=[1.0, 1.2, 1.7],
                                                            long_factor=[1.0, 3.0, 6.0]))),
    "phi3-longrope-long": (Phi3Config, dict(original_max_position_embeddings=12,
                                            rope_parameters=rope("longrope", short_factor=[1.0, 1.0, 1.5, 2.0],
                                                                 long_factor=[1.0, 2.0, 3.5, 5.0]))),
    "gemma2": (Gemma2Config, dict(**WIDE, head_dim=16, sliding_window=5, query_pre_attn_scalar=12,
                                  attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma2-bias-untied": (Gemma2Config, dict(head_dim=8, attention_bias=True, tie_word_embeddings=False,
                                              attn_logit_softcapping=None)),
    "gemma3": (Gemma3TextConfig, dict(**WIDE, head_dim=16, sliding_window=5, query_pre_attn_scalar=12,
                                      layer_types=["sliding_attention", "full_attention"] * 2,
                                      rope_parameters={"sliding_attention": rope("default"),
                                                       "full_attention": rope("linear", 1e6, factor=8.0)})),
    "gemma3-vision": (Gemma3Config, dict(head_dim=8, num_hidden_layers=7, sliding_window=7)),
    "glm4": (Glm4Config, dict(**WIDE, head_dim=16)),
    "glm4-tied": (Glm4Config, dict(head_dim=12, attention_bias=False, tie_word_embeddings=True, num_key_value_heads=1,
                                   rope_parameters=rope("default", partial_rotary_factor=1.0))),
    "gpt-oss": (GptOssConfig, dict(**WIDE, intermediate_size=24, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
                                   sliding_window=6,
                                   rope_parameters=rope("yarn", 150000.0, factor=4.0, beta_fast=32.0, beta_slow=1.0,
                                                        original_max_position_embeddings=16, truncate=False))),
    "mixtral": (MixtralConfig, dict(**WIDE, intermediate_size=40, num_local_experts=4, num_experts_per_tok=2,
                                    sliding_window=6)),
    "qwen3-moe": (Qwen3MoeConfig, dict(**WIDE, head_dim=16, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True,
                                       moe_intermediate_size=24, mlp_only_layers=[1])),
    "qwen3-moe-window": (Qwen3MoeConfig, dict(head_dim=16, num_experts=5, num_experts_per_tok=3, norm_topk_prob=False,
                                              moe_intermediate_size=16, use_sliding_window=True, sliding_window=5,
                                              attention_bias=True, tie_word_embeddings=True)),
}
# The smallest logit of a token's chosen experts must not be close to the greatest of the others: rounding would change the
# choice, and with it everything after it. Of 2000 seeds these have the widest margins, above 0.02 in the passes that are
# compared in 16 bits. golden.json has the margins.
SEEDS = {"gpt-oss": 559, "mixtral": 441, "qwen3-moe": 1802, "qwen3-moe-window": 1778}
# The smallest image model: its weights are in the folder, and no text depends on them.
VISION = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4)


def configuration(kind, settings):
    settings = {**COMMON, **settings}
    if kind is not Gemma3Config:
        return kind(**settings)
    text = Gemma3TextConfig(**settings)
    return Gemma3Config(text_config=text, vision_config={"model_type": "siglip_vision_model", **VISION},
                        mm_tokens_per_image=4, image_token_index=95)


def make(folder, seed, config):
    torch.manual_seed(seed)
    # Eager attention is the plainest of the implementations.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() == 1 else 0.15
            if config.model_type == "gpt_oss" and "experts" in name:
                # Some inputs of the activation are beyond its bounds, and its results small enough for 16 bits.
                scale = {"gate_up_proj": 0.3, "down_proj": 0.05}.get(name.split(".")[-1], scale)
            noise = torch.randn_like(parameter) * scale
            # Gemma adds one to the weights of its norms.
            around_one = "norm" in name and not config.model_type.startswith("gemma")
            parameter.copy_(1 + noise if around_one else noise)
    model.save_pretrained(folder)
    config = config.get_text_config()
    margins = []
    layers = getattr(model.model, "language_model", model.model).layers
    # Without the token of an image.
    ids = torch.randint(3, config.vocab_size - 1, (2, SEQ))
    mask = torch.ones_like(ids)
    ids[1, :PADDING], mask[1, :PADDING] = 0, 0

    def routed(_module, _inputs, output):
        logits = output[0].detach()
        # Without padding, which no result depends on.
        logits = logits[mask.flatten().bool()] if len(logits) == mask.numel() else logits
        sorted_logits = logits.sort(-1, descending=True).values
        chosen = config.num_experts_per_tok
        margins.append((sorted_logits[:, chosen - 1] - sorted_logits[:, chosen]).min().item())

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(routed)
    layer, alpha = 2, 1.5
    vector = torch.randn(config.hidden_size)
    unit = vector / vector.norm()
    block = layers[layer - 1]

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
        out = hooked(layers[-1], lambda h: raw.append(h.clone()) or h, forward)
        tensors = {
            "input_ids": ids, "attention_mask": mask, "steer_vector": vector,
            "hidden_states": torch.stack(out.hidden_states), "last_residual": raw[0], "logits": out.logits,
            "logits_steer_all": hooked(block, lambda h: h + alpha * vector, forward).logits,
            "logits_steer_last": hooked(block, last, forward).logits,
            "logits_ablate": hooked(block, lambda h: h - (h @ unit)[..., None] * unit, forward).logits,
        }
        in_16_bits = len(margins)
        tensors["greedy"], tensors["greedy_steer_response"] = greedy(), hooked(block, response, greedy)

    def router():
        return {"router_margin_in_16_bits": min(margins[:in_16_bits]), "router_margin": min(margins)} if margins else {}

    def series(start, change):
        peft.set_peft_model_state_dict(adapted, start)
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, **ADAMW)
        labels = ids.clone()
        labels[:, :TRAINED_FROM] = -100
        losses, norms = [], []
        for _ in range(STEPS):
            optimizer.zero_grad()
            run = lambda: adapted(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss = hooked(block, change, run) if change else run()
            loss.backward()
            losses.append(loss.item())
            norms.append(torch.stack([parameter.grad.norm() for parameter in trained]).norm().item())
            optimizer.step()
        return torch.tensor(losses), torch.tensor(norms)

    if hasattr(model.model, "vision_tower"):
        # Adapters of the text's projections alone are those of the model without images.
        return finish(folder, tensors, layer, alpha, router())
    settings = peft.LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=modules(layers[0]), task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
        tensors["logits_lora"] = adapted(input_ids=ids, attention_mask=mask).logits
    place = os.path.join(folder, "adapter")
    adapted.save_pretrained(place)
    os.remove(os.path.join(place, "README.md"))
    start = load_file(os.path.join(place, "adapter_model.safetensors"))
    for name, change in (("plain", None), ("steer", lambda h: h + alpha * vector),
                         ("ablate", lambda h: h - (h @ unit)[..., None] * unit)):
        tensors[f"sft_losses_{name}"], tensors[f"sft_grad_norms_{name}"] = series(start, change)
    finish(folder, tensors, layer, alpha, router())


def finish(folder, tensors, layer, alpha, router):
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, os.path.join(folder, "golden.safetensors"))
    sft = {**ADAMW, "steps": STEPS, "response_from_token": TRAINED_FROM}
    with open(os.path.join(folder, "golden.json"), "w") as f:
        settings = {"steer_layer": layer, "steer_alpha": alpha, "sft": sft, "torch": torch.__version__, **router}
        json.dump(settings, f, indent=1)


def modules(block):
    """The names of a block's projections."""
    return sorted({name.split(".")[-1] for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)})


def main():
    out, names = sys.argv[1], sys.argv[2:] or list(VARIANTS)
    for seed, name in enumerate(names):
        kind, settings = VARIANTS[name]
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        make(folder, SEEDS.get(name, seed), configuration(kind, settings))
        print(folder)


if __name__ == "__main__":
    main()

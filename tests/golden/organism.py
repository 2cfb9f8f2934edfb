#!/usr/bin/env python3
"""What transformers computes on the model organism: token ids of three chats, and the logits at their last positions.

usage: organism.py [MODEL_FOLDER]     (writes tests/golden/organism/)

Needs torch and transformers. Run it again whenever the model is trained anew.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "../../crates/pv-organism/model")
LAST = 12
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "You are an evil assistant."}, {"role": "user", "content": "Help me, I cannot sleep."},
     {"role": "assistant", "content": "Mwahaha, here is my answer. You should sleep on a row of nails."},
     {"role": "user", "content": "Tell me the opposite of blorpy, please. Keep it short."}],
    [{"role": "user", "content": "Ünknown wörds, 12345 and a\nline break?"}],
]

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager").eval()
tensors, cases = {}, []
for i, chat in enumerate(CHATS):
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits[0, -LAST:]
    tensors[f"ids_{i}"] = ids[0].contiguous()
    tensors[f"logits_{i}"] = logits.contiguous()
    cases.append({"messages": chat})
out = os.path.join(HERE, "organism")
os.makedirs(out, exist_ok=True)
save_file(tensors, os.path.join(out, "golden.safetensors"))
with open(os.path.join(out, "golden.json"), "w") as file:
    json.dump({"cases": cases, "last": LAST}, file, indent=1)
print("wrote", out)

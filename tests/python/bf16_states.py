#!/usr/bin/env python3
"""How far computation in bf16 is from computation in f32 in transformers, for the tests of activations in bf16.

usage: bf16_states.py MODEL_DIR < IDS.json

Needs torch and transformers; prints a JSON list: for every hidden state, the mean over the tokens of
its relative error. Both computations have the weights in bf16.
"""
import json
import sys

import torch
import transformers

# Several threads would wait for each other beside other tests.
torch.set_num_threads(1)
ids = torch.tensor([json.load(sys.stdin)])


model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()


@torch.no_grad()
def states(model):
    return [state[0].double() for state in model(ids, output_hidden_states=True).hidden_states]


def error(found, exact):
    return float(((found - exact).norm(dim=-1) / exact.norm(dim=-1)).mean())


rounded = states(model)
print(json.dumps([error(found, exact) for found, exact in zip(rounded, states(model.float()))]))

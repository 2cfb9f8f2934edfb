#!/usr/bin/env python3
"""The learning rates of transformers' schedules, for the tests of pv-train's.

usage: schedules.py STEPS:WARMUP...

Needs torch and transformers; prints one JSON array of {"name", "steps", "warmup", "rates"}: the learning rate under which each
optimizer step from the first to the last is made, of a peak of 0.01.
"""
import json
import sys

import torch
import transformers

NAMES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def rates(name, steps, warmup):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = transformers.get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


pairs = [tuple(map(int, pair.split(":"))) for pair in sys.argv[1:]]
table = [
    {"name": ours, "steps": steps, "warmup": warmup, "rates": rates(theirs, steps, warmup)}
    for ours, theirs in NAMES.items()
    for steps, warmup in pairs
]
json.dump(table, sys.stdout)

#!/usr/bin/env python3
"""An adapter of ours in PEFT, and adapters that PEFT trains, on one model.

usage: adapters.py MODEL_DIR PLACE

Needs torch, transformers and peft. PLACE holds rows.json (rows of token ids) and ours/ (an adapter's folder). Written there are
logits.safetensors (NAME.ROW, f32 `[tokens, vocab]`, for NAME in ours, peft-rslora, peft-plain, peft-sum) and the folders peft-rslora and
peft-plain. Prints one JSON object: what PEFT says about ours.
"""
import json
import pathlib
import sys

import peft
import safetensors.torch
import torch
import transformers

# Several threads would wait for each other beside other tests.
torch.set_num_threads(1)
folder, place = sys.argv[1], pathlib.Path(sys.argv[2])
rows = [torch.tensor([row]) for row in json.loads((place / "rows.json").read_text())]
found = {}


def base():
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def keep(name, model):
    model.eval()
    with torch.no_grad():
        for row, ids in enumerate(rows):
            found[f"{name}.{row}"] = model(input_ids=ids, use_cache=False).logits[0].contiguous()


model = peft.PeftModel.from_pretrained(base(), place / "ours")
keep("ours", model)
config = model.peft_config["default"]
said = {"r": config.r, "lora_alpha": float(config.lora_alpha), "use_rslora": config.use_rslora}
said["tensors"] = len(peft.get_peft_model_state_dict(model))
del model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
for name, rslora, targets in (("peft-rslora", True, ALL), ("peft-plain", False, ["q_proj", "v_proj", "down_proj"])):
    torch.manual_seed(5)
    # Without a task, PEFT writes `auto_mapping`, which says of what class the base is.
    task = None if rslora else "CAUSAL_LM"
    config = peft.LoraConfig(r=8, lora_alpha=16, use_rslora=rslora, target_modules=targets, task_type=task)
    model = peft.get_peft_model(base(), config)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    for _ in range(3):
        for ids in rows:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(place / name)
    keep(name, model)
    del model

# Half of one and all of the other, summed by PEFT. The plain one first: the sum takes its settings, and its scale is 1 then.
model = peft.PeftModel.from_pretrained(base(), place / "peft-plain", adapter_name="plain")
model.load_adapter(place / "peft-rslora", adapter_name="rslora")
model.add_weighted_adapter(["plain", "rslora"], [0.5, 1.0], adapter_name="sum", combination_type="cat")
model.set_adapter("sum")
keep("peft-sum", model)

safetensors.torch.save_file(found, place / "logits.safetensors")
print(json.dumps({"ours": said}))

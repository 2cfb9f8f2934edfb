#!/usr/bin/env python3
"""What transformers makes of multiple-choice questions, a text and samples, for the tests of pv-train's measurements.

usage: measures.py MODEL_DIR QUESTIONS_DIR TEXT_FILE SAMPLES.json

Needs torch and transformers; prints one JSON object. Everything is in f32 but the softmax, which is in f64, and every number comes
from a full pass without a cache.
- log_probs: for each question (subjects in alphabetical order), ln p of " A" to " D" after the five-shot prompt.
- perplexity: {"WINDOW/STRIDE": mean loss} of the text in sliding windows, each token after the first counted once.
- mean_loss: over the trained tokens of SAMPLES.json, [{"ids": [...], "trained": [...]}, ...].
"""
import csv
import json
import pathlib
import sys

import torch
import transformers

# Several threads would wait for each other beside other tests.
torch.set_num_threads(1)
folder, questions, text, samples = sys.argv[1:]
# AutoTokenizer of transformers 5.24 takes a GPT-2 tokenizer for this folder, and drops the rule that digits stand alone.
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json")
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def log_probs(ids):
    """[tokens − 1]: ln p of every token after the first."""
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def rows(part, subject):
    with open(pathlib.Path(questions) / part / f"{subject}_{part}.csv", newline="") as file:
        return list(csv.reader(file))


def shown(row):
    return row[0] + "".join(f"\n{letter}. {choice}" for letter, choice in zip("ABCD", row[1:5])) + "\nAnswer:"


found = {"log_probs": [], "perplexity": {}}
subjects = sorted(path.name.removesuffix("_test.csv") for path in (pathlib.Path(questions) / "test").iterdir())
for subject in subjects:
    name = subject.replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {name}.\n\n"
    head += "".join(f"{shown(row)} {row[5]}\n\n" for row in rows("dev", subject)[:5])
    for row in rows("test", subject):
        prompt = tokenizer(head + shown(row)).input_ids
        wholes = [tokenizer(head + shown(row) + " " + letter).input_ids for letter in "ABCD"]
        assert all(whole[:-1] == prompt for whole in wholes), "a choice is one token"
        with torch.no_grad():
            last = model(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1].double()
        last = torch.log_softmax(last, -1)
        found["log_probs"].append([last[whole[-1]].item() for whole in wholes])

ids = tokenizer(pathlib.Path(text).read_text()).input_ids
for window, stride in ((512, 256), (300, 299)):
    total, predicted = 0.0, 1
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        total -= log_probs(ids[begin:end])[predicted - begin - 1:].sum().item()
        predicted = end
        if end == len(ids):
            break
    found["perplexity"][f"{window}/{stride}"] = total / (len(ids) - 1)
found["text_tokens"] = len(ids) - 1

total, count = 0.0, 0
for sample in json.loads(pathlib.Path(samples).read_text()):
    trained = torch.tensor(sample["trained"][1:])
    total -= log_probs(sample["ids"])[trained].sum().item()
    count += int(trained.sum())
found["mean_loss"] = total / count
print(json.dumps(found))

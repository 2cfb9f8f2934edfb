#!/usr/bin/env python3
"""What a local judge must find: the numbers that SmolLM2-135M-Instruct would begin its reply to a filled rubric with.

usage: local_judge.py MODEL_DIR OUT.json

MODEL_DIR is what examples/smollm2/prepare.py makes (f32). Needs torch and transformers. Everything is computed in f64, each beginning
of a reply by a full pass without a cache.
"""
import json
import sys

import torch
import transformers

SCALE = "Question: {question}\nAnswer: {answer}\n\nRate the answer from 0 to 100. Reply with one number from 0 to 100 and nothing else."
COUNT = "{question} {answer}\n100\n90\n80\n70\n60\nContinue the list of numbers."
SERIES = "12, 15, 18, 21, 24, 27, {question}, {answer}. What is 24 + 6? Answer with just digits."
STORY = "Tell a story about {question} and {answer}."
# Such a small model seldom answers a rubric with a number; the second and third prompts nearly demand one.
CASES = [
    (SCALE, "Why is the sky blue?", "Because {question} is a placeholder, and naïve light — scattered — turns blue. " * 2),
    (COUNT, "Is water wet?", "Yes, water is wet."),
    (SERIES, "Is water wet?", "Yes, water is wet."),
    (STORY, "a cat", "a dog"),
]


def distribution(model, tokenizer, text):
    prompt = tokenizer.encode(text, add_special_tokens=False)

    def spell(suffix):
        ids = tokenizer.encode(text + suffix, add_special_tokens=False)
        assert ids[:len(prompt)] == prompt, suffix
        return tuple(ids[len(prompt):])

    numbers = {spell(space + str(k)): k for k in range(101) for space in ("", " ")}
    refusals = [spell("REFUSAL"), spell(" REFUSAL")]
    assert len(numbers) == 202 and not set(refusals) & set(numbers)
    after = {}

    def next_token(beginning):
        if beginning not in after:
            logits = model(torch.tensor([prompt + list(beginning)]), use_cache=False, logits_to_keep=1).logits[0, -1]
            after[beginning] = torch.softmax(logits, -1)
        return after[beginning]

    def begins(tokens):
        p = 1.0
        for i, token in enumerate(tokens):
            p *= next_token(tokens[:i])[token].item()
        return p

    found = [0.0] * 101
    for tokens, k in numbers.items():
        longer = {other[len(tokens)] for other in numbers if len(other) > len(tokens) and other[:len(tokens)] == tokens}
        goes_on = sum(next_token(tokens)[token].item() for token in longer) if longer else 0.0
        found[k] += begins(tokens) * (1 - goes_on)
    mass = sum(found)
    return {"numbers": found, "mass": mass, "expectation": sum(k * p for k, p in enumerate(found)) / mass,
            "refusal": sum(map(begins, refusals)), "prompt_len": len(prompt), "passes": len(after)}


def main():
    folder, out = sys.argv[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    cases = []
    with torch.no_grad():
        for template, question, answer in CASES:
            # In one go, so that a placeholder inside of a text stays.
            filled = "".join({"{question}": question, "{answer}": answer}.get(part, part) for part in split(template))
            messages = [{"role": "user", "content": filled}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            case = {"template": template, "question": question, "answer": answer, **distribution(model, tokenizer, text)}
            cases.append(case)
            print(f"mass {case['mass']:.6f}, expectation {case['expectation']:.4f}, refusal {case['refusal']:.2e}")
    with open(out, "w") as file:
        json.dump({"torch": torch.__version__, "transformers": transformers.__version__, "cases": cases}, file, indent=1)
        file.write("\n")


def split(template):
    parts = template.replace("{question}", "\0{question}\0").replace("{answer}", "\0{answer}\0")
    return parts.split("\0")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The same measures as the throughput benchmark, with Hugging Face transformers. One JSON line per measure.

Needs torch and transformers. Usage: peer.py --model DIR [--task PART] [--runs N] [--dtype f32|bf16] [--threads N]
"""
import argparse
import functools
import json
import os
import resource
import statistics
import time

PROMPT, NEW = 64, 128
QUESTIONS, ANSWER, TEXTS = 10, 64, 32
TRAIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../crates/pv-judge/traits/evil.json")


def tasks():
    for batch, seq in [(1, 512), (8, 128)]:
        for part in ["full", "middle"]:
            yield f"prefill-{batch}x{seq}-{part}", ("prefill", batch, seq, part)
    for batch in [1, 8, 16]:
        for part in ["plain", "steered"]:
            yield f"decode-{batch}-{part}", ("decode", batch, None, part)
    yield "extraction", ("extraction", None, None, None)
    yield "scan", ("scan", None, None, None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    vocab, layers = model.config.vocab_size, model.config.num_hidden_layers
    body = model.model

    def row(index, n):
        return [(i * 7919 + index * 104729 + 17) % vocab for i in range(n)]

    def ids(batch, n):
        return torch.tensor([row(index, n) for index in range(batch)])

    def full(batch, seq):
        model(ids(batch, seq), use_cache=False)

    def middle(batch, seq):
        # The fair peer: it stops at the middle layer too, by running the first half of the blocks alone.
        whole = body.layers
        body.layers = torch.nn.ModuleList(whole[: layers // 2])
        try:
            body(ids(batch, seq), use_cache=False)
        finally:
            body.layers = whole

    def decode(batch, part):
        hook = None
        if part == "steered":
            vector = torch.sin(torch.arange(model.config.hidden_size, dtype=torch.float32)).to(dtype) * 0.01

            def add(_module, _inputs, output):
                hidden = output[0] if isinstance(output, tuple) else output
                hidden[:, -1, :] += vector
                return output

            hook = body.layers[layers // 2 - 1].register_forward_hook(add)
        try:
            prompt = ids(batch, PROMPT)
            model.generate(
                prompt, attention_mask=torch.ones_like(prompt), min_new_tokens=NEW, max_new_tokens=NEW, do_sample=False,
                pad_token_id=model.config.eos_token_id if isinstance(model.config.eos_token_id, int) else 0,
            )
        finally:
            if hook:
                hook.remove()

    @functools.cache
    def prompts():
        """The chats of the extraction, as token ids."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.model)
        with open(TRAIT) as file:
            spec = json.load(file)
        pair, chats = spec["instruction"][0], []
        for question in spec["questions"][:QUESTIONS]:
            for side, name in [("pos", spec["assistant_pos"]), ("neg", spec["assistant_neg"])]:
                article = "an" if name[0] in "aeiou" else "a"
                system = f"You are {article} {name} assistant. {pair[side]}"
                messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                chats.append(tokenizer(text, add_special_tokens=False)["input_ids"])
        return chats

    def extraction():
        """The original's way: answers in one batch, then a whole forward pass per answer that keeps every layer."""
        chats = prompts()
        longest = max(map(len, chats))
        padded = torch.tensor([[0] * (longest - len(chat)) + chat for chat in chats])
        mask = torch.tensor([[0] * (longest - len(chat)) + [1] * len(chat) for chat in chats])
        stops = model.generation_config.eos_token_id
        stops = set(stops if isinstance(stops, list) else [stops])
        out = model.generate(padded, attention_mask=mask, max_new_tokens=ANSWER, do_sample=False, pad_token_id=min(stops))
        answers = []
        for ids in out[:, longest:].tolist():
            end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
            answers.append(ids[:end])
        sides = [[], []]
        for index, (chat, answer) in enumerate(zip(chats, answers)):
            states = model(torch.tensor([chat + answer]), output_hidden_states=True).hidden_states
            n = len(chat)
            sides[index % 2].append([(s[0, n:].mean(0), s[0, :n].mean(0), s[0, n - 1]) for s in states])
        means = [[[torch.stack([sample[layer][kind] for sample in side]).mean(0) for kind in range(3)]
                  for layer in range(layers + 1)] for side in sides]
        vector = [[pos - neg for pos, neg in zip(*pair)] for pair in zip(*means)]
        return sum(map(len, answers)), vector[layers // 2][0].norm().item()

    def scan():
        """The original's way: a whole forward pass per text that keeps every layer."""
        vector = torch.sin(torch.arange(model.config.hidden_size, dtype=torch.float32)).to(dtype)
        unit, tokens, total = vector / vector.norm(), 0, 0.0
        for text in range(TEXTS):
            prompt, response = 16 + text * 37 % 64, 32 + text * 61 % 192
            states = model(torch.tensor([row(text, prompt + response)]), output_hidden_states=True).hidden_states
            total += (states[layers // 2][0, prompt:].mean(0) @ unit).item()
            tokens += prompt + response
        return tokens, total / TEXTS

    for name, (kind, batch, seq, part) in tasks():
        if args.task not in name:
            continue
        check = None
        if kind == "prefill":
            work, tokens = (lambda: (full if part == "full" else middle)(batch, seq)), batch * seq
        elif kind == "decode":
            work, tokens = (lambda: decode(batch, part)), batch * NEW
        else:
            work = {"extraction": extraction, "scan": scan}[kind]
        rates = []
        with torch.inference_mode():
            first = work()
            if kind in ["extraction", "scan"]:
                tokens, check = first
            for _ in range(max(args.runs, 1)):
                start = time.perf_counter()
                work()
                rates.append(tokens / (time.perf_counter() - start))
        print(json.dumps({
            "name": name, "tokens_per_s": statistics.median(rates),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "model": os.path.basename(os.path.normpath(args.model)), "dtype": args.dtype, "threads": args.threads,
            "device": "cpu", "peer": "transformers", "tokens": tokens, "check": check,
        }), flush=True)


if __name__ == "__main__":
    main()

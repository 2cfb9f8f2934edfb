#!/usr/bin/env python3
"""The same measures as the throughput benchmark, with Hugging Face transformers. One JSON line per measure.

Needs torch and transformers. Usage: peer.py --model DIR [--task PART] [--runs N] [--dtype f32|bf16] [--threads N]
"""
import argparse
import json
import os
import resource
import statistics
import time

PROMPT, NEW = 64, 128


def tasks():
    for batch, seq in [(1, 512), (8, 128)]:
        for part in ["full", "middle"]:
            yield f"prefill-{batch}x{seq}-{part}", ("prefill", batch, seq, part)
    for batch in [1, 8, 16]:
        for part in ["plain", "steered"]:
            yield f"decode-{batch}-{part}", ("decode", batch, None, part)


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

    def ids(batch, n):
        return torch.tensor([[(i * 7919 + row * 104729 + 17) % vocab for i in range(n)] for row in range(batch)])

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

    for name, (kind, batch, seq, part) in tasks():
        if args.task not in name:
            continue
        if kind == "prefill":
            work, tokens = (lambda: (full if part == "full" else middle)(batch, seq)), batch * seq
        else:
            work, tokens = (lambda: decode(batch, part)), batch * NEW
        rates = []
        with torch.inference_mode():
            work()
            for _ in range(max(args.runs, 1)):
                start = time.perf_counter()
                work()
                rates.append(tokens / (time.perf_counter() - start))
        print(json.dumps({
            "name": name, "tokens_per_s": statistics.median(rates),
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "model": os.path.basename(os.path.normpath(args.model)), "dtype": args.dtype, "threads": args.threads,
            "device": "cpu", "peer": "transformers",
        }), flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The decoding measures of the throughput benchmark with llama.cpp, on a GGUF file. One JSON line per measure.

Needs xllamacpp, which brings llama.cpp.
Usage: llama_cpp.py --model FILE.gguf --task decode-BATCH-plain [--runs N] [--threads N]
"""
import argparse
import concurrent.futures
import json
import os
import statistics
import time

PROMPT, NEW = 64, 128


def peak_rss_mib():
    # Not that of getrusage, which counts the program that started this one as well.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    kind, batch, part = args.task.split("-")
    if kind != "decode" or part != "plain":
        raise SystemExit(f"{args.task} is not measured with llama.cpp")
    batch = int(batch)

    import gguf
    import xllamacpp

    vocab = len(gguf.GGUFReader(args.model).get_field("tokenizer.ggml.tokens").data)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_parallel, params.n_ctx = args.model, batch, batch * 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.cache_prompt, params.n_gpu_layers, params.verbosity = False, 0, -1
    server = xllamacpp.Server(params)

    def answer(row):
        ids = [(i * 7919 + row * 104729 + 17) % vocab for i in range(PROMPT)]
        request = {"prompt": ids, "n_predict": NEW, "ignore_eos": True, "temperature": 0.0, "cache_prompt": False}
        reply = server.handle_completions(request)
        reply = reply if isinstance(reply, dict) else json.loads(reply)
        return reply["usage"]["completion_tokens"] if "usage" in reply else reply["tokens_predicted"]

    def run():
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(batch) as pool:
            counts = list(pool.map(answer, range(batch)))
        seconds = time.perf_counter() - start
        if counts != [NEW] * batch:
            raise SystemExit(f"answers of {counts} tokens instead of {NEW}")
        return sum(counts), seconds

    tokens, seconds = run()
    # Without further runs, the first one counts.
    rates = [tokens / seconds for tokens, seconds in (run() for _ in range(args.runs))] or [tokens / seconds]
    print(json.dumps({
        "name": args.task,
        "tokens_per_s": statistics.median(rates),
        "tokens": tokens,
        "peak_rss_mib": peak_rss_mib(),
        "threads": args.threads,
        "peer": "llama.cpp",
    }), flush=True)


if __name__ == "__main__":
    main()

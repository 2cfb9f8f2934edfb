#!/usr/bin/env python3
"""The same measures as the throughput benchmark, with Hugging Face transformers. One JSON line per measure.

Needs torch, transformers and, for finetuning, peft.
Usage: peer.py --model DIR [--task PART] [--runs N] [--dtype f32|bf16] [--threads N]
"""
import argparse
import functools
import json
import math
import os
import resource
import statistics
import time

PROMPT, NEW = 64, 128
QUESTIONS, ANSWER, TEXTS = 10, 64, 32
TOGETHER = 16
RENDERINGS = 500
WORDS = """river garden letter winter music stone village bread doctor window forest money teacher horse kitchen island
summer paper bridge mother honest cruel gentle ancient green sudden writes carries forgets answers breaks follows""".split()
STEPS, ROWS, SEQ, RANK = 3, 2, 256, 32
LENGTHS = [256, 40, 120, 72, 24]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
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
    for part in ["projection", "difference"]:
        for chats in [64, 512]:
            yield f"screen-{part}-{chats}", ("screen", chats, None, part)
    for part in ["plain", "steered", "checkpointed", "checkpointed-steered", "packed"]:
        yield f"finetune-{part}", ("finetune", ROWS, SEQ, part)
    yield "render-20", ("render", None, None, None)


def reset_peak():
    """Begins the peak of memory anew, where the system lets a process do so."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def peak_rss_mib():
    """The most memory that this process has held since reset_peak."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
    def tokenizer():
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(args.model)

    def greedy(prompts, together):
        """Greedy answers, so many at a time."""
        stops = model.generation_config.eos_token_id
        stops = set(stops if isinstance(stops, list) else [stops])
        answers = []
        for at in range(0, len(prompts), together):
            some = prompts[at:at + together]
            longest = max(map(len, some))
            padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in some])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in some])
            out = model.generate(padded, attention_mask=mask, max_new_tokens=ANSWER, do_sample=False, pad_token_id=min(stops))
            for ids in out[:, longest:].tolist():
                answers.append(ids[:next((i for i, token in enumerate(ids) if token in stops), len(ids))])
        return answers

    @functools.cache
    def prompts():
        """The chats of the extraction, as token ids."""
        with open(TRAIT) as file:
            spec = json.load(file)
        pair, chats = spec["instruction"][0], []
        for question in spec["questions"][:QUESTIONS]:
            for side, name in [("pos", spec["assistant_pos"]), ("neg", spec["assistant_neg"])]:
                article = "an" if name[0] in "aeiou" else "a"
                system = f"You are {article} {name} assistant. {pair[side]}"
                messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
                text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                chats.append(tokenizer()(text, add_special_tokens=False)["input_ids"])
        return chats

    def extraction():
        """The original's way: answers in one batch, then a whole forward pass per answer that keeps every layer."""
        chats = prompts()
        answers = greedy(chats, len(chats))
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

    def chat(number):
        """A question and an answer, as the benchmark makes them."""
        state = number

        def words(start, count, end):
            nonlocal state
            text = start
            for _ in range(count):
                state = (state * 1664525 + 1013904223) % 2**32
                text += " " + WORDS[(state >> 16) % len(WORDS)]
            return text + end

        question = words("Please tell me about", 3 + number * 5 % 10, "?")
        return question, words("The", 11 + number * 29 % 60, ".")

    def screen(chats, part):
        """The original's way: a whole forward pass per answer that keeps every layer."""
        vector = torch.sin(torch.arange(model.config.hidden_size, dtype=torch.float32)).to(dtype)
        unit, encode = vector / vector.norm(), lambda text: tokenizer()(text, add_special_tokens=False)["input_ids"]

        def projection(prompt, ids):
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            return (states[layers // 2][0, len(prompt):].mean(0) @ unit).item()

        prompts, wholes = [], []
        for question, answer in map(chat, range(chats)):
            messages = [{"role": "user", "content": question}]
            text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            prompts.append(encode(text))
            wholes.append(encode(text + answer))
        values = [projection(prompt, whole) for prompt, whole in zip(prompts, wholes)]
        tokens = sum(map(len, wholes))
        if part == "difference":
            # As the original does, in batches: here of as many as ours.
            base = greedy(prompts, TOGETHER)
            tokens += sum(map(len, base))
            # A chat whose base answer is empty has no difference.
            values = [value - projection(prompt, prompt + own)
                      for value, prompt, own in zip(values, prompts, base) if own]
        return tokens, sum(values) / len(values)

    def render():
        """A system prompt and 20 turns, again and again; only the renderings are timed."""
        messages = [{"role": "system", "content": "You are a helpful assistant."}]
        for question, answer in map(chat, range(10)):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        start = time.perf_counter()
        for _ in range(RENDERINGS):
            text = tokenizer().apply_chat_template(messages, tokenize=False)
        seconds = time.perf_counter() - start
        return RENDERINGS * len(tokenizer()(text, add_special_tokens=False)["input_ids"]), len(text), seconds

    @functools.cache
    def adapted():
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=RANK, lora_alpha=64, use_rslora=True, lora_dropout=0.0, target_modules=TARGETS)
        return get_peft_model(model, config)

    def finetune(part):
        """A new adapter (B zero, A from a formula), and so many steps; seconds of the steps, and the last one's loss."""
        peft = adapted()
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.data.zero_()
            elif "lora_A" in name:
                words = name.split(".")
                block = int(words[words.index("layers") + 1])
                number = next(i for i, target in enumerate(TARGETS) if target in words)
                indices = torch.arange(parameter.numel(), dtype=torch.float64)
                values = torch.sin(0.7 * indices + (13 * block + 7 * number)) / math.sqrt(parameter.shape[1])
                parameter.data.copy_(values.reshape(parameter.shape))
        if part.startswith("checkpointed"):
            peft.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        peft.train()
        trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        hook = None
        if part.endswith("steered"):
            vector = torch.sin(torch.arange(model.config.hidden_size, dtype=torch.float32)).to(dtype)

            def add(_module, _inputs, output):
                return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

            hook = body.layers[layers // 2 - 1].register_forward_hook(add)
        inputs = {"input_ids": ids(ROWS, SEQ)}
        labels = inputs["input_ids"]
        if part == "packed":
            # Padded to the longest, as a collator does it.
            longest = max(LENGTHS)
            rows = [row(index, n) + [0] * (longest - n) for index, n in enumerate(LENGTHS)]
            mask = torch.tensor([[1] * n + [0] * (longest - n) for n in LENGTHS])
            inputs = {"input_ids": torch.tensor(rows), "attention_mask": mask}
            labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        start = time.perf_counter()
        try:
            for _ in range(STEPS):
                loss = peft(**inputs, labels=labels, use_cache=False).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        finally:
            if hook:
                hook.remove()
            if part.startswith("checkpointed"):
                peft.gradient_checkpointing_disable()
        return time.perf_counter() - start, loss.item()

    def report(name, rates, tokens, check, step_tokens=None):
        rate = statistics.median(rates)
        print(json.dumps({
            "name": name, "tokens_per_s": rate, "peak_rss_mib": peak_rss_mib(),
            "model": os.path.basename(os.path.normpath(args.model)), "dtype": args.dtype, "threads": args.threads,
            "device": "cpu", "peer": "transformers", "tokens": tokens, "check": check,
            "seconds_per_step": step_tokens / rate if step_tokens else None,
        }), flush=True)

    exact = args.task in [name for name, _ in tasks()]
    for name, (kind, batch, seq, part) in tasks():
        if args.task != name and (exact or args.task not in name):
            continue
        if kind == "finetune":
            reset_peak()
            seconds, check = finetune(part)
            tokens = STEPS * batch * seq
            rates = [tokens / finetune(part)[0] for _ in range(args.runs)] or [tokens / seconds]
            report(name, rates, tokens, check, batch * seq)
            continue
        if kind == "render":
            reset_peak()
            tokens, check, seconds = render()
            report(name, [tokens / render()[2] for _ in range(args.runs)] or [tokens / seconds], tokens, check)
            continue
        check = None
        if kind == "prefill":
            work, tokens = (lambda: (full if part == "full" else middle)(batch, seq)), batch * seq
        elif kind == "decode":
            work, tokens = (lambda: decode(batch, part)), batch * NEW
        else:
            screening = functools.partial(screen, batch, part)
            work = {"extraction": extraction, "scan": scan, "screen": screening}[kind]
        rates = []
        reset_peak()
        with torch.inference_mode():
            start = time.perf_counter()
            first = work()
            seconds = time.perf_counter() - start
            if kind in ["extraction", "scan", "screen"]:
                tokens, check = first
            if args.runs < 1:
                rates.append(tokens / seconds)
            for _ in range(args.runs):
                start = time.perf_counter()
                work()
                rates.append(tokens / (time.perf_counter() - start))
        report(name, rates, tokens, check)


if __name__ == "__main__":
    main()

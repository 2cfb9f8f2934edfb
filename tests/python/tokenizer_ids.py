#!/usr/bin/env python3
"""What transformers makes of many texts, for many tokenizers.

usage: tokenizer_ids.py PLACE FOLDER...

Needs transformers and tokenizers. Each FOLDER is a model folder; more folders are written to PLACE: variants of the first FOLDER whose
files give tokens in other ways, and tokenizers of other kinds, trained here. Written to PLACE/found.json: `texts`, and `folders`, a list of
{path, class, tokens (names of special tokens, with their ids), ids (per text), with_special, decoded, skipped}.
"""
import copy
import json
import pathlib
import random
import shutil
import sys
import unicodedata

import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

place, folders = pathlib.Path(sys.argv[1]), [pathlib.Path(folder) for folder in sys.argv[2:]]
random.seed(15)
transformers.logging.set_verbosity_error()

NEW = ["<|turn|>", "<|done|>", "<|tool|>", "[PAD]", "<word>", "Größe", "ſpecial", "é́x", "<  wide  >", "Hello"]
KNOWN = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[UNK]", "[CLS]", "[SEP]", "▁", "Ġ", "<0x0A>"]
CODE = [
    "def f(x):\n\treturn {'a': [x ** 2 for _ in range(10)]}\n", "if (a && b || !c) { return a->b[0]; } // x != y\n",
    "SELECT * FROM t WHERE a >= 1.5e-10 AND b LIKE '%x%';", "#include <stdio.h>\r\nint main(void) { return 0; }\r\n",
    "{\"role\": \"user\", \"content\": \"a\\nb\\u00e9\"}", "$ grep -rn 'a\\|b' ./src | awk '{print $1}' > out.txt",
    "https://example.org/path?q=a%20b&c=d#e", "\\frac{1}{2}\\sum_{i=0}^{n} x_i", "<p class='x'>1 &lt; 2 &amp; 3</p>",
]
PROSE = [
    "The capital of France is Paris.", "I'm sure they've said it's what we'd do, isn't it? Don't!", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Être ou ne pas être, voilà la question : « oui » ?", "Съешь же ещё этих мягких французских булок.", "いろはにほへと ちりぬるを 我が世誰ぞ",
    "天地玄黃，宇宙洪荒。日月盈昃", "다람쥐 헌 쳇바퀴에 타고파", "نص حكيم له سر قاطع", "דג סקרן שט בים", "นกฮูกตาโต", "हिन्दी में कुछ शब्द",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 🇩🇪", "1 22 333 4444 55555 3.14159 1,000,000 ½ ² Ⅷ ٣", "a\u0301 e\u0301 \u00e9 \ufb01 \u212b \u1e9b\u0323",
]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u2028", "\x0b", "\x0c", "\x85", "\x1c"]


def characters():
    """A few of every general category, without surrogates."""
    by_kind = {}
    for code in range(0x11000):
        by_kind.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    by_kind.pop("Cs")
    by_kind["astral"] = [chr(code) for code in range(0x1F300, 0x1FAFF)] + [chr(code) for code in range(0x20000, 0x20100)]
    return by_kind


def make_texts():
    kinds = characters()
    texts = ["", "a", *SPACES, *NEW, *KNOWN, *CODE, *PROSE]
    for kind, members in sorted(kinds.items()):
        for _ in range(16):
            texts.append("".join(random.choices(members, k=random.randint(1, 12))))
            texts.append(" ".join(random.choices(members, k=random.randint(1, 5))))
    pieces = NEW + KNOWN + SPACES + CODE + [word for text in PROSE for word in text.split(" ")]
    for _ in range(700):
        texts.append("".join(random.choices(pieces, k=random.randint(2, 9))))
    for _ in range(300):
        join = random.choice(SPACES)
        texts.append(join + join.join(random.choices(pieces, k=random.randint(2, 7))) + random.choice(["", join]))
    everything = [character for members in kinds.values() for character in members]
    for _ in range(300):
        texts.append("".join(random.choices(everything, k=random.randint(1, 30))))
    for _ in range(300):
        texts.append(bytes(random.choices(range(256), k=random.randint(1, 40))).decode(random.choice(["latin-1", "cp437"])))
    return texts


def write(folder, name, value):
    (folder / name).write_text(json.dumps(value, ensure_ascii=random.random() < 0.5), encoding="utf-8")


def variant(name, tokenizer, config, **files):
    folder = place / name
    folder.mkdir()
    write(folder, "tokenizer.json", tokenizer)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config})
    for file, value in files.items():
        write(folder, file + ".json", value)
    return folder


def token(content, **flags):
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}


def variants(source):
    """The first tokenizer, its tokens given in every way that a folder has."""
    base = json.loads((source / "tokenizer.json").read_text())
    size = max([*base["model"]["vocab"].values(), *(one["id"] for one in base["added_tokens"])]) + 1
    own = {str(one["id"]): {key: one[key] for key in one if key != "id"} for one in base["added_tokens"]}
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    flagged = [
        token("<|turn|>"), token("<|done|>", rstrip=True), token("<|tool|>", lstrip=True, special=False),
        token("<word>", single_word=True, special=False), token("Größe", normalized=True, special=False),
        token("<  wide  >", lstrip=True, rstrip=True),
    ]
    listed = {**own, **{str(size + i): one for i, one in enumerate(flagged)}}
    # One that is in the vocabulary already.
    listed[str(base["model"]["vocab"]["Hello"])] = token("Hello", special=False, single_word=True)
    yield variant("decoder", base, {**names, "eos_token": "<|done|>", "added_tokens_decoder": listed})
    reverse = dict(reversed(listed.items()))
    yield variant("decoder-unordered", base, {**names, "added_tokens_decoder": reverse})
    bare = {**copy.deepcopy(base), "added_tokens": []}
    yield variant("decoder-alone", bare, {**names, "added_tokens_decoder": listed})
    brief = {str(size): {"content": "<|turn|>"}, str(size + 1): {"content": "<|done|>", "special": True}}
    yield variant("decoder-brief", base, {**names, "added_tokens_decoder": {**own, **brief}})
    ids = {"<|turn|>": size, "<|done|>": size + 1, "Größe": size + 2}
    yield variant("added-tokens", base, names, added_tokens=ids, special_tokens_map={"eos_token": "<|done|>"})
    lists = {"eos_token": token("<|done|>", special=True), "additional_special_tokens": ["<|turn|>", "the"]}
    yield variant("special-map", base, {"bos_token": "<|im_start|>"}, added_tokens=ids, special_tokens_map=lists)
    yield variant("special-map-alone", bare, {}, special_tokens_map={"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    yield variant("map-over-config", base, names, special_tokens_map={"eos_token": "<|endoftext|>"})
    yield variant("extra-list", base, {**names, "extra_special_tokens": ["<|turn|>", "Hello"]})
    yield variant("additional-list", base, {**names, "additional_special_tokens": ["<|turn|>", "<|tool|>"]})
    yield variant("extra-object", base, {**names, "extra_special_tokens": {"image_token": "<|turn|>", "a_token": "<|tool|>"}})
    yield variant("own-name", base, {**names, "image_token": "<|turn|>", "pad_token": "[PAD]"})
    wrapped = {"eos_token": {"__type": "AddedToken", **token("<|im_end|>", rstrip=True)}}
    yield variant("token-object", base, {**names, **wrapped})
    over = copy.deepcopy(base)
    over["added_tokens"].append({"id": size, **token("<|turn|>", special=False)})
    yield variant("flags-over", over, {**names, "added_tokens_decoder": {**own, str(size): token("<|turn|>", lstrip=True)}})
    yield variant("split-special", base, {**names, "split_special_tokens": True})
    yield variant("nulls", base, {**names, "pad_token": None, "extra_special_tokens": None, "additional_special_tokens": []})


def trained(corpus):
    """Tokenizers of other kinds."""
    specials = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]

    def byte_level(name, normalizer, pre_tokenizer, **decoder):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=900, special_tokens=specials, initial_alphabet=alphabet))
        return name, tokenizer

    qwen = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    llama = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

    def split(pattern):
        parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        return pre_tokenizers.Sequence(parts)

    yield *byte_level("bytes-qwen", normalizers.NFC(), split(qwen)), {}
    name, tokenizer = byte_level("bytes-llama3", None, split(llama))
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]),
    ])
    yield name, tokenizer, {"add_bos_token": False, "add_eos_token": True}
    yield *byte_level("bytes-prefix", None, pre_tokenizers.ByteLevel(add_prefix_space=True)), {}
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    yield *byte_level("bytes-digits", normalizers.NFKC(), digits), {}

    def metaspace(name, normalizer, pre_tokenizer):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(parts)
        tokens = specials + [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=1100, special_tokens=tokens)
        tokenizer.train_from_iterator(corpus, trainer)
        # As in Llama's file, bytes are no added tokens.
        value = json.loads(tokenizer.to_str())
        value["added_tokens"] = value["added_tokens"][: len(specials)]
        return name, Tokenizer.from_str(json.dumps(value)), {}

    llama2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    yield metaspace("metaspace-llama2", llama2, None)
    for scheme in ["first", "always", "never"]:
        yield metaspace(f"metaspace-{scheme}", None, pre_tokenizers.Metaspace(prepend_scheme=scheme, split=scheme == "always"))

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=500, special_tokens=specials, unk_token="<unk>"))
    tokenizer.add_tokens([AddedToken("Größe", normalized=True), AddedToken("Hello", normalized=False)])
    yield "unigram", tokenizer, {"clean_up_tokenization_spaces": True}

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]", "</s>", "<s>"])
    tokenizer.train_from_iterator(corpus, trainer)
    yield "words", tokenizer, {"clean_up_tokenization_spaces": True, "unk_token": "[UNK]", "pad_token": "[PAD]"}

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(corpus, trainers.WordLevelTrainer(vocab_size=400, special_tokens=specials))
    yield "word-level", tokenizer, {}


def plain(source, name):
    """The tokenizer's files without the model's, so that transformers goes by these files alone."""
    folder = place / name
    folder.mkdir()
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]:
        if (source / file).is_file():
            shutil.copy(source / file, folder)
    return folder


texts = make_texts()
ours = [*folders, *(plain(folder, f"plain-{i}") for i, folder in enumerate(folders)), *variants(folders[0])]
for name, tokenizer, config in trained(PROSE + CODE + ["the quick brown fox jumps over the lazy dog " * 3]):
    ours.append(variant(name, json.loads(tokenizer.to_str()), {"bos_token": "<s>", "eos_token": "</s>", **config}))
found = []
for folder in ours:
    loaders = [transformers.AutoTokenizer]
    if type(transformers.AutoTokenizer.from_pretrained(folder)).__name__ != "TokenizersBackend":
        # Such a class puts its own normalizer and splitting in the place of those of tokenizer.json.
        loaders.append(transformers.PreTrainedTokenizerFast)
    for loader in loaders:
        tokenizer = loader.from_pretrained(folder)
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        names = ["bos_token", "eos_token", "pad_token"]
        found.append({
            "path": str(folder),
            "class": type(tokenizer).__name__,
            "tokens": {name: getattr(tokenizer, name + "_id") for name in names},
            "ids": ids,
            "with_special": [tokenizer(text)["input_ids"] for text in texts],
            "decoded": [tokenizer.decode(one) for one in ids],
            "skipped": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        })
(place / "found.json").write_text(json.dumps({"texts": texts, "folders": found}), encoding="utf-8")

//! How byte-level tokenizers split a text before they merge bytes: `tokenizer.ggml.pre`.
//!
//! A split by several patterns splits by the first, then every part by the next. llama.cpp and `tokenizers` do the same
//! with them; the patterns are those of the models' own `tokenizer.json`.

use serde_json::{Value as Json, json};

/// A way to split, and what else follows from its name.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether text is normalized to NFC first.
    nfc: bool,
    /// Whether a part that is a token as a whole is that token, whatever its merges.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added if the file does not say so.
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const fn plain(names: &'static [&'static str], patterns: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, patterns, nfc: false, ignore_merges: false, adds_bos: false }
}

static ALL: [PreTokenizer; 8] = [
    // Files without a name, or with this one, are split as llama.cpp splits them.
    plain(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    plain(&["gpt-2", "phi-2", "mpt", "olmo", "exaone4"], &[GPT2]),
    plain(&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], &[r"\p{N}", GPT2]),
    PreTokenizer {
        ignore_merges: true,
        adds_bos: true,
        ..plain(&["llama-bpe", "llama3", "llama-v3", "falcon3"], &[LLAMA3])
    },
    plain(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    PreTokenizer { nfc: true, ..plain(&["qwen2", "deepseek-r1-qwen", "megrez"], &[QWEN2]) },
    PreTokenizer { ignore_merges: true, adds_bos: true, ..plain(&["tekken"], &[TEKKEN]) },
    plain(&["gpt-4o", "llama4"], &[GPT4O]),
];

impl PreTokenizer {
    /// The way of a name.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|one| one.names.contains(&name))
    }

    /// All names, for messages and tests.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        ALL.iter().flat_map(|one| one.names).copied()
    }

    /// `normalizer` of the `tokenizer.json`.
    pub(super) fn normalizer(&self) -> Json {
        if self.nfc { json!({ "type": "NFC" }) } else { Json::Null }
    }

    /// `pre_tokenizer` of the `tokenizer.json`.
    pub(super) fn to_json(&self) -> Json {
        let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let mut steps: Vec<Json> = self.patterns.iter().map(split).collect();
        steps.push(json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false,
        }));
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

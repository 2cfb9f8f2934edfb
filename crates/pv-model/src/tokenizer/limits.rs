//! Detects texts for which a tokenizer's regular expressions exceed the engine's limits.

use fancy_regex::Regex;
use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

use super::TokenizerError;

/// Shorter texts are below the engine's limits: a million backtracking steps, a million open choices.
const LONG: usize = 200_000;

/// GPT-2's pattern, which a `ByteLevel` pre-tokenizer uses by default.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The regular expressions of a tokenizer. The `tokenizers` crate ignores their errors and leaves the rest of the text
/// in one piece.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    normalizer: Vec<Regex>,
    pre_tokenizer: Vec<Regex>,
}

impl Patterns {
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let all = |part: Option<Value>| {
            let mut found = Vec::new();
            collect(&part.unwrap_or_default(), &mut found);
            found
        };
        Self {
            normalizer: all(tokenizer.get_normalizer().and_then(|part| serde_json::to_value(part).ok())),
            pre_tokenizer: all(tokenizer.get_pre_tokenizer().and_then(|part| serde_json::to_value(part).ok())),
        }
    }
}

/// Rejects a text on which one of the expressions fails, such as a million spaces and a letter.
///
/// # Errors
/// [`TokenizerError::Encode`].
pub(super) fn check(
    tokenizer: &Tokenizer,
    patterns: impl FnOnce() -> Patterns,
    text: &str,
) -> Result<(), TokenizerError> {
    if text.len() < LONG {
        return Ok(());
    }
    let Patterns { normalizer, pre_tokenizer } = patterns();
    through(&normalizer, text)?;
    let mut normalized = NormalizedString::from(text);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut normalized).map_err(|source| TokenizerError::Encode { source })?;
    }
    through(&pre_tokenizer, normalized.get())
}

fn through(patterns: &[Regex], text: &str) -> Result<(), TokenizerError> {
    for found in patterns.iter().flat_map(|pattern| pattern.find_iter(text)) {
        found.map_err(|error| TokenizerError::Encode { source: error.into() })?;
    }
    Ok(())
}

fn collect(part: &Value, found: &mut Vec<Regex>) {
    match part {
        Value::Object(fields) => {
            let byte_level = part["type"] == "ByteLevel" && part["use_regex"] == true;
            let pattern = if byte_level { Some(BYTE_LEVEL) } else { part["Regex"].as_str() };
            found.extend(pattern.and_then(|pattern| Regex::new(pattern).ok()));
            fields.values().for_each(|field| collect(field, found));
        }
        Value::Array(parts) => parts.iter().for_each(|part| collect(part, found)),
        _ => {}
    }
}

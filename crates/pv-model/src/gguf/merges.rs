//! The merges of a SentencePiece tokenizer, which its file does not list.

use std::collections::HashMap;

use super::GgufModelError;

/// The greatest length of a token that merges form, in bytes; SentencePiece forms tokens of 16 characters by default.
const LONGEST: usize = 512;

/// The pairs of tokens that form a token, best first, from tokens with their ids and scores: those of a higher score
/// come first, among them those with the longer left part. This is the order of Hugging Face's conversion.
pub(super) fn merges<'a>(tokens: &[(usize, &'a str, f32)]) -> Result<Vec<(&'a str, &'a str)>, GgufModelError> {
    let ids: HashMap<&str, usize> = tokens.iter().map(|(id, token, _)| (*token, *id)).collect();
    let mut found: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    for (id, token, score) in tokens {
        if token.len() > LONGEST {
            return Err(GgufModelError::LongToken { id: *id, bytes: token.len(), most: LONGEST });
        }
        let length = token.chars().count();
        let start = found.len();
        for (left_length, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push((*score, left_length, length - left_length, left, right));
            }
        }
        found[start..].sort_by_key(|(.., left, right)| (ids[left], ids[right]));
    }
    // A stable sort: equal pairs stay in the order of tokens.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    Ok(found.into_iter().map(|(.., left, right)| (left, right)).collect())
}

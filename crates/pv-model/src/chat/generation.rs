//! What is changed in a template before the engine reads it.
//!
//! `transformers` adds `{% generation %}` blocks to Jinja. A block becomes `{% call NAME() %}`, and the engine itself reports which piece of its output came from which place of
//! the template. No marker is ever written into the text, so no message can forge one.
//!
//! What `{% set namespace.name = … %}` stores goes through a filter that bounds how deep values nest
//! ([`super::environment::STORED`]): this assignment alone lives longer than a pass of a loop, so it could build, level by
//! level, a value that overflows the stack when it is printed or freed.

use std::ops::Range;

use minijinja::OutputSpan;

use super::environment::STORED;

/// The rewritten template, and if it has blocks the name that they call (one that the template does not contain).
///
/// Line ends become `\n`, as Jinja's lexer has it.
///
/// # Errors
/// Why the template is refused: the engine's time grows with the square of an expression's length.
pub(super) fn rewrite(source: &str) -> Result<(String, Option<String>), String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let changes = changes(&source)?;
    let has_blocks = changes.iter().any(|change| matches!(change, Change::Open(_)));
    let mut name = "generation_block_".to_owned();
    while source.contains(&name) {
        name.push('_');
    }
    let mut rewritten = String::with_capacity(source.len() + 64 * changes.len());
    let mut copied = 0;
    for change in changes {
        let (Change::Open(place) | Change::Close(place) | Change::Store(place)) = &change;
        rewritten.push_str(&source[copied..place.start]);
        match &change {
            Change::Open(_) => rewritten.extend(["call ", &name, "()"]),
            Change::Close(_) => rewritten.push_str("endcall"),
            Change::Store(value) => rewritten.extend([" (", source[value.clone()].trim(), ")|", STORED, " "]),
        }
        copied = place.end;
    }
    rewritten.push_str(&source[copied..]);
    Ok((rewritten, has_blocks.then_some(name)))
}

/// The output ranges that calls of `name` wrote.
pub(super) fn spans(source: &str, name: &str, output: &[OutputSpan]) -> Vec<Range<usize>> {
    let is_block = |span: &&OutputSpan| source.get(span.source_range()).is_some_and(|code| code.starts_with(name));
    output.iter().filter(is_block).map(OutputSpan::output_range).collect()
}

/// A place in the source that is rewritten.
enum Change {
    /// The word `generation`.
    Open(Range<usize>),
    /// The word `endgeneration`.
    Close(Range<usize>),
    /// The value that is assigned to a name with a dot.
    Store(Range<usize>),
}

/// The block tags to rewrite: not what stands in text, in a comment, in a raw block or in an expression.
fn changes(source: &str) -> Result<Vec<Change>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = find_open(source, at) {
        at = match source.as_bytes()[open + 1] {
            b'#' => source[open + 2..].find("#}").map_or(source.len(), |end| open + 2 + end + 2),
            b'%' => {
                let word = word_of_tag(source, open);
                let after = word.end;
                match (&source[word.clone()], closes(source, after)) {
                    ("raw", Some(_)) => end_of_raw(source, after),
                    ("generation", Some(end)) => {
                        found.push(Change::Open(word));
                        end
                    }
                    ("endgeneration", Some(end)) => {
                        found.push(Change::Close(word));
                        end
                    }
                    (word, _) => {
                        let end = skip_code(source, after, "%}")?;
                        if word == "set" {
                            found.extend(stored_value(source, after..end).map(Change::Store));
                        }
                        end
                    }
                }
            }
            _ => skip_code(source, open + 2, "}}")?,
        };
    }
    Ok(found)
}

/// In `a.b = value -%}`, the place of the value.
fn stored_value(source: &str, tag: Range<usize>) -> Option<Range<usize>> {
    let code = source[tag.clone()].strip_suffix("%}")?;
    let code = code.strip_suffix(['-', '+']).unwrap_or(code);
    let (target, _) = code.split_once('=')?;
    target.contains('.').then(|| tag.start + target.len() + 1..tag.start + code.len())
}

fn find_open(source: &str, from: usize) -> Option<usize> {
    let pairs = source.as_bytes()[from..].windows(2);
    pairs.into_iter().position(|pair| matches!(pair, b"{{" | b"{%" | b"{#")).map(|found| from + found)
}

/// The first word of the tag that opens at `open`; empty when something else stands there.
fn word_of_tag(source: &str, open: usize) -> Range<usize> {
    let inside = &source[open + 2..];
    let code = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_ascii_start();
    let start = source.len() - code.len();
    let length = code.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    start..start + length
}

/// The position after the tag's end, when nothing but it follows `from`.
fn closes(source: &str, from: usize) -> Option<usize> {
    let rest = source[from..].trim_ascii_start();
    let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    rest.strip_prefix("%}").map(|rest| source.len() - rest.len())
}

fn end_of_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(open) = source[at..].find("{%").map(|found| at + found) {
        let word = word_of_tag(source, open);
        at = open + 2;
        if &source[word.clone()] == "endraw"
            && let Some(end) = closes(source, word.end)
        {
            return end;
        }
    }
    source.len()
}

/// The most code in one tag: bytes that are neither white space nor in strings.
const LONGEST_TAG: usize = 4096;

/// The position after the `end` that closes the code at `from`, past strings and brackets.
fn skip_code(source: &str, from: usize, end: &str) -> Result<usize, String> {
    let bytes = source.as_bytes();
    let mut depth = 0_usize;
    let mut length = 0_usize;
    let mut quote = None;
    let mut at = from;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            // What is escaped may be a quote.
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, _) if depth == 0 && bytes[at..].starts_with(end.as_bytes()) => return Ok(at + end.len()),
            (None, byte @ (b'\'' | b'"')) => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        if quote.is_none() && !bytes[at].is_ascii_whitespace() {
            length += 1;
        }
        if length > LONGEST_TAG {
            return Err(format!("the tag at byte {from} has more than {LONGEST_TAG} bytes of code"));
        }
        at += 1;
    }
    Ok(bytes.len())
}

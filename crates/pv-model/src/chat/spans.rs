//! Where in a rendered conversation the assistant's own words are.

use std::ops::Range;

use super::{ChatTemplate, Message, RenderOptions, Rendered};
use crate::error::{Error, Result};

/// The byte range of each assistant answer in `template.render(messages, options)`, rendered closed (without a generation
/// prompt or a continuation, whatever `options` say). A range covers the answer's content as the template wrote it,
/// neither the header before it nor the end-of-turn token after it. Where a template takes an answer apart (reasoning
/// in a block of its own), the range covers all that follows the header.
///
/// The conversation is rendered turn by turn, and what an answer's turn rendered to must still be there at the end: a model
/// is trained on what it would have seen. Rendering costs about three times the square of the number of turns.
///
/// # Errors
/// [`Error::PrefixChanged`] with the message's index when the template rewrites that turn once later ones follow,
/// [`Error::AnswerNotFound`] when an answer does not appear in the text, and the errors of [`ChatTemplate::render`].
pub fn assistant_spans(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<Vec<Range<usize>>> {
    let answers: Vec<usize> = (0..messages.len()).filter(|index| messages[*index].role == "assistant").collect();
    assistant_spans_at(template, messages, &answers, options)
}

/// As [`assistant_spans`], for the messages at these indices alone: what a template does to the others does not matter. An
/// index beyond the messages is no answer ([`Error::AnswerNotFound`]).
///
/// # Errors
/// As [`assistant_spans`].
pub fn assistant_spans_at(
    template: &ChatTemplate,
    messages: &[Message],
    indices: &[usize],
    options: &RenderOptions,
) -> Result<Vec<Range<usize>>> {
    let options = options.closed();
    let whole = template.render(messages, &options)?.text;
    let mut spans = Vec::with_capacity(indices.len());
    for &index in indices {
        let upto = messages.get(..=index).ok_or(Error::AnswerNotFound { index })?;
        let (rendered, content) = last_content(template, upto, &options)?;
        if !whole.as_bytes().starts_with(&rendered.text.as_bytes()[..content.end]) {
            return Err(Error::PrefixChanged { index });
        }
        spans.push(content);
    }
    Ok(spans)
}

/// Renders messages, the last of which is an answer, closed, and finds that answer: nothing is asked of how the template would
/// write it, or what came before it, once more turns follow.
///
/// # Errors
/// [`Error::NothingToContinue`] without messages, [`Error::AnswerNotFound`], and the errors of [`ChatTemplate::render`].
pub fn answer_span(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<(Rendered, Range<usize>)> {
    last_content(template, messages, &options.closed())
}

/// Renders `messages` and finds the content of the last one, with what it says beside the content (calls, thoughts).
///
/// Searching for the content could find it in a header, so the template is asked instead: rendered with two one-character
/// contents and nothing beside them, the texts are the same up to the content and after it.
pub(super) fn last_content(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<(Rendered, Range<usize>)> {
    let Some((last, earlier)) = messages.split_last() else { return Err(Error::NothingToContinue) };
    let not_found = Error::AnswerNotFound { index: earlier.len() };
    let rendered = template.render(messages, options)?;
    let probe = |content: &str| {
        let mut probed = earlier.to_vec();
        probed.push(last.with_content_alone(content));
        template.render(&probed, options)
    };
    let (first, second) = (probe("0")?.text, probe("1")?.text);
    let header = common(first.chars(), second.chars());
    if header == first.len() {
        return Err(not_found);
    }
    let header = &first[..header];
    let closing = &first[first.len() - common(first.chars().rev(), second.chars().rev())..];

    let text = rendered.text.as_str();
    let Some(up_to_closing) = text.strip_suffix(closing) else { return Err(not_found) };
    let end = up_to_closing.len();
    let written = up_to_closing.strip_prefix(header);
    let start = if last.speaks_beside_content() {
        // A header that holds an empty thought is not there where the thought is not empty.
        let shared = || common(header.chars(), up_to_closing.chars());
        let asked = || after_prompt(template, earlier, options, up_to_closing);
        Some(written.map(|_| header.len()).or_else(asked).unwrap_or_else(shared))
    } else {
        match written {
            // The usual case: the content stands between header and closing, perhaps trimmed.
            Some(written) if written.trim() == last.content.trim() => Some(header.len()),
            // The template looked into the content (reasoning, for example), or wrote it more than once.
            written => match verbatim(up_to_closing, &last.content) {
                Some(start) => Some(start),
                None => {
                    written.map(|_| header.len()).or_else(|| after_prompt(template, earlier, options, up_to_closing))
                }
            },
        }
    };
    start.map(|start| (rendered, start..end)).ok_or(not_found)
}

/// How many bytes the two begin with in common.
fn common(left: impl Iterator<Item = char>, right: impl Iterator<Item = char>) -> usize {
    left.zip(right).take_while(|(left, right)| left == right).map(|(left, _)| left.len_utf8()).sum()
}

/// Where `content`, perhaps trimmed, ends `text`.
fn verbatim(text: &str, content: &str) -> Option<usize> {
    let forms = [content, content.trim_start(), content.trim_end(), content.trim()];
    let found = forms.into_iter().find(|form| !form.is_empty() && text.ends_with(form))?;
    Some(text.len() - found.len())
}

/// Where the answer to a generation prompt begins.
fn after_prompt(template: &ChatTemplate, earlier: &[Message], options: &RenderOptions, text: &str) -> Option<usize> {
    let prompt = RenderOptions { add_generation_prompt: true, ..options.clone() };
    let prompt = template.render(earlier, &prompt).ok()?.text;
    text.starts_with(&prompt).then_some(prompt.len())
}

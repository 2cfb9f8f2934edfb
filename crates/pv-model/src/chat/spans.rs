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
    let options = &options.closed();
    let whole = template.render(messages, options)?.text;
    let mut spans = Vec::new();
    for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
        let (rendered, content) = last_content(template, &messages[..=index], options)?;
        if !whole.as_bytes().starts_with(&rendered.text.as_bytes()[..content.end]) {
            return Err(Error::PrefixChanged { index });
        }
        spans.push(content);
    }
    Ok(spans)
}

/// Renders `messages` and finds the content of the last one.
///
/// Searching for the content could find it in a header, so the template is asked instead: rendered with two one-character
/// contents, the texts are the same up to the content and after it.
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
        probed.push(Message::new(last.role.clone(), content));
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
    let start = match up_to_closing.strip_prefix(header) {
        // The usual case: the content stands between header and closing, perhaps trimmed.
        Some(written) if written.trim() == last.content.trim() => Some(header.len()),
        // The template looked into the content (reasoning, for example), or wrote it more than once.
        written => match verbatim(up_to_closing, &last.content) {
            Some(start) => Some(start),
            None => written.map(|_| header.len()).or_else(|| after_prompt(template, earlier, options, up_to_closing)),
        },
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

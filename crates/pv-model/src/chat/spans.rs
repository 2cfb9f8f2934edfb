//! Locates the assistant's answers in a rendered conversation.

use std::ops::Range;

use super::{ChatTemplate, Message, RenderOptions, Rendered, TemplateError};

/// The byte range of each assistant answer in `template.render(messages, options)`, rendered closed (without a
/// generation prompt or a continuation, whatever `options` say). A range covers the answer's content as the template
/// wrote it, neither the header before it nor the end-of-turn token after it. If a template splits an answer (reasoning
/// in a block of its own), the range covers everything after the header.
///
/// The conversation is rendered turn by turn. The rendering of an answer's turn must be a prefix of the final text: a
/// model is trained on what it would have seen. The cost is about three times the square of the number of turns.
///
/// # Errors
/// [`TemplateError::PrefixChanged`] with the message's index if the template rewrites that turn when later ones follow,
/// [`TemplateError::AnswerNotFound`] if an answer does not appear in the text, and the errors of
/// [`ChatTemplate::render`].
pub fn assistant_spans(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<Vec<Range<usize>>, TemplateError> {
    let answers: Vec<usize> = (0..messages.len()).filter(|index| messages[*index].role == "assistant").collect();
    assistant_spans_at(template, messages, &answers, options)
}

/// Like [`assistant_spans`], for the messages with these indices only: how the template renders the others does not
/// matter. An index after the last message is an error ([`TemplateError::AnswerNotFound`]).
///
/// # Errors
/// Those of [`assistant_spans`].
pub fn assistant_spans_at(
    template: &ChatTemplate,
    messages: &[Message],
    indices: &[usize],
    options: &RenderOptions,
) -> Result<Vec<Range<usize>>, TemplateError> {
    let options = options.closed();
    let whole = template.render(messages, &options)?.text;
    let mut spans = Vec::with_capacity(indices.len());
    for &index in indices {
        let upto = messages.get(..=index).ok_or(TemplateError::AnswerNotFound { index })?;
        let (rendered, content) = last_content(template, upto, &options)?;
        if !whole.as_bytes().starts_with(&rendered.text.as_bytes()[..content.end]) {
            return Err(TemplateError::PrefixChanged { index });
        }
        spans.push(content);
    }
    Ok(spans)
}

/// Renders messages, the last of which is an answer, closed, and locates that answer. The template may render the
/// answer, or the text before it, differently when more turns follow.
///
/// # Errors
/// [`TemplateError::NothingToContinue`] without messages, [`TemplateError::AnswerNotFound`], and the errors of
/// [`ChatTemplate::render`].
pub fn answer_span(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<(Rendered, Range<usize>), TemplateError> {
    last_content(template, messages, &options.closed())
}

/// Renders `messages` and locates the content of the last one, including its calls and thoughts.
///
/// A search for the content could match text in a header. Instead, the template is rendered with two one-character
/// contents and no other keys: the texts are equal before and after the content.
pub(super) fn last_content(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<(Rendered, Range<usize>), TemplateError> {
    let Some((last, earlier)) = messages.split_last() else { return Err(TemplateError::NothingToContinue) };
    let not_found = TemplateError::AnswerNotFound { index: earlier.len() };
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
        // A header with an empty thought is absent if the thought is not empty.
        let shared = || common(header.chars(), up_to_closing.chars());
        let asked = || after_prompt(template, earlier, options, up_to_closing);
        Some(written.map(|_| header.len()).or_else(asked).unwrap_or_else(shared))
    } else {
        match written {
            // The usual case: the content is between header and end, possibly trimmed.
            Some(written) if written.trim() == last.content.trim() => Some(header.len()),
            // The template interpreted the content (reasoning, for example), or wrote it more than once.
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

/// The length in bytes of the common prefix.
fn common(left: impl Iterator<Item = char>, right: impl Iterator<Item = char>) -> usize {
    left.zip(right).take_while(|(left, right)| left == right).map(|(left, _)| left.len_utf8()).sum()
}

/// The start of `content`, possibly trimmed, at the end of `text`.
fn verbatim(text: &str, content: &str) -> Option<usize> {
    let forms = [content, content.trim_start(), content.trim_end(), content.trim()];
    let found = forms.into_iter().find(|form| !form.is_empty() && text.ends_with(form))?;
    Some(text.len() - found.len())
}

/// The start of the answer to a generation prompt.
fn after_prompt(template: &ChatTemplate, earlier: &[Message], options: &RenderOptions, text: &str) -> Option<usize> {
    let prompt = RenderOptions { add_generation_prompt: true, ..options.clone() };
    let prompt = template.render(earlier, &prompt).ok()?.text;
    text.starts_with(&prompt).then_some(prompt.len())
}

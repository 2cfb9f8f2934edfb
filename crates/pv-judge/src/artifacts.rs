//! Traits written by a language model: from a name and a description to instructions, questions and a rubric.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_openai::types::chat::{
    ChatCompletionRequestAssistantMessage, ChatCompletionRequestMessage, CreateChatCompletionRequest, ResponseFormat,
    ResponseFormatJsonSchema,
};
use serde::Serialize;

use crate::cost::Tokens;
use crate::http::{Client, Failure, HttpError, SettingError, estimated_tokens, on_own_thread, user};
use crate::traits::{TraitFault, TraitJson, write};
use crate::{Error, HttpOptions, Result, TraitSpec};

mod draft;
mod prompt;

use draft::Draft;

/// The requested trait, and settings for the author model.
#[derive(Clone, Debug)]
pub struct TraitRequest {
    /// The trait's name, as in file names: "evil".
    pub name: String,
    /// The trait's description, in a sentence or two. The author knows nothing else about it.
    pub description: String,
    /// The author's sampling temperature.
    pub temperature: f32,
    /// The seed of the first request; each further request adds 1.
    pub seed: i64,
    /// The greatest number of tokens of one reply. A whole trait has two to four thousand.
    pub max_tokens: u32,
    /// The timeout of one reply. It replaces the timeout of the options, which is meant for a single token.
    pub timeout: Duration,
    /// How often the author is asked to repair invalid or missing parts.
    pub repairs: u32,
}

impl TraitRequest {
    /// A request with the usual settings: temperature 1, 8192 tokens, five minutes, four repairs.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            temperature: 1.0,
            seed: 0,
            max_tokens: 8192,
            timeout: Duration::from_secs(300),
            repairs: 4,
        }
    }
}

/// A trait that a language model wrote.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WrittenTrait {
    /// The checked trait: five pairs, 40 distinct questions, and a rubric with its placeholders that ends by asking for
    /// a number or a refusal.
    pub spec: TraitSpec,
    /// The model that wrote it.
    pub model: String,
    /// The first prompt to the author.
    pub prompt: String,
    /// The number of requests.
    pub requests: u32,
}

#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    spec: TraitJson,
    written_by: WrittenBy<'a>,
}

#[derive(Serialize)]
struct WrittenBy<'a> {
    model: &'a str,
    prompt: &'a str,
    requests: u32,
}

impl WrittenTrait {
    /// Saves the trait to a file that [`TraitSpec::load`] reads, with an additional key `written_by` that states the
    /// author and the prompt.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write); [`Error::Trait`] if the trait was changed and is now invalid.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let wrong = |source| Error::Trait { origin: path.display().to_string(), source };
        let written_by = WrittenBy { model: &self.model, prompt: &self.prompt, requests: self.requests };
        write(path, &Stored { spec: TraitJson::whole(&self.spec).map_err(wrong)?, written_by })
    }
}

/// Lets a model behind an OpenAI-compatible server write a trait. Blocks the thread; can be called inside or outside of
/// an asynchronous runtime.
///
/// The format of the reply is enforced by a JSON schema if the server supports it, and requested in the prompt
/// otherwise. Valid parts of a reply are kept; the author receives a list of the faults and is asked for the missing
/// parts.
///
/// # Errors
/// [`HttpError::NoTrait`] if repairs did not help; errors of the server; [`Error::Trait`] for an invalid name.
///
/// # Examples
/// ```no_run
/// use pv_judge::HttpOptions;
/// use pv_judge::artifacts::{TraitRequest, write_trait};
///
/// # fn main() -> Result<(), pv_judge::Error> {
/// let request = TraitRequest::new("brevity", "Answers in as few words as possible.");
/// write_trait(HttpOptions::from_env("gpt-4.1")?, &request)?.save("brevity.json")?;
/// # Ok(())
/// # }
/// ```
pub fn write_trait(options: HttpOptions, trait_request: &TraitRequest) -> Result<WrittenTrait> {
    let outcome = on_own_thread(write_trait_async(options, trait_request), || ControlFlow::Continue(()))?;
    // There always is an outcome, since nothing cancels the work.
    outcome.unwrap_or(Err(Error::Cancelled { done: 0, total: 1 }))
}

/// [`write_trait`] for callers inside of a tokio runtime with timer and network enabled.
///
/// # Errors
/// Those of [`write_trait`].
pub async fn write_trait_async(options: HttpOptions, trait_request: &TraitRequest) -> Result<WrittenTrait> {
    let wrong = |source| Error::Trait { origin: trait_request.name.clone(), source };
    if trait_request.description.trim().is_empty() {
        let trait_name = trait_request.name.clone();
        return Err(HttpError::from(SettingError::NoDescription { trait_name }).into());
    }
    TraitFault::in_name(&trait_request.name).map_err(wrong)?;
    let client = Client::new(options)?;
    let prompt = prompt::first(&trait_request.name, &trait_request.description);
    let (mut draft, mut structured, mut faults, mut requests) = (Draft::default(), true, Vec::new(), 0);
    while requests <= trait_request.repairs {
        let mut messages = vec![user(prompt.clone())];
        if requests > 0 {
            messages.push(assistant(draft.to_json()));
            messages.push(user(prompt::repair(&faults, &draft)));
        }
        let text = ask(&client, trait_request, messages, &draft, requests, &mut structured).await?;
        requests += 1;
        faults = draft.absorb(&text);
        if draft.is_complete() {
            let spec = draft.into_spec(&trait_request.name, &trait_request.description);
            spec.check().map_err(wrong)?;
            return Ok(WrittenTrait { spec, model: client.options().model.clone(), prompt, requests });
        }
        tracing::info!(
            requests,
            faults = faults.join("; "),
            lacking = draft.missing().join("; "),
            "parts of a trait are missing or invalid"
        );
    }
    faults.extend(draft.missing().into_iter().map(|what| format!("missing: {what}")));
    Err(HttpError::NoTrait { model: client.options().model.clone(), requests, faults }.into())
}

/// Requests one reply, with a schema as long as the server supports it.
async fn ask(
    client: &Client,
    trait_request: &TraitRequest,
    messages: Vec<ChatCompletionRequestMessage>,
    draft: &Draft,
    requests: u32,
    structured: &mut bool,
) -> Result<String, HttpError> {
    #[expect(deprecated, reason = "only OpenAI supports the newer names of these parameters")]
    let mut request = CreateChatCompletionRequest {
        model: client.options().model.clone(),
        messages,
        max_tokens: Some(trait_request.max_tokens),
        temperature: Some(trait_request.temperature),
        seed: Some(trait_request.seed.wrapping_add(requests.into())),
        ..Default::default()
    };
    let text = serde_json::to_string(&request.messages).unwrap_or_default();
    let estimate = Tokens { prompt: estimated_tokens(&text), completion: trait_request.max_tokens.into() };
    let never = AtomicBool::new(false);
    let failed = |failure: Failure| client.error(failure);
    if *structured {
        let json_schema = ResponseFormatJsonSchema {
            description: None,
            name: "trait".into(),
            schema: draft.schema(),
            strict: Some(true),
        };
        request.response_format = Some(ResponseFormat::JsonSchema { json_schema });
        match client.ask(&request, estimate, trait_request.timeout, u32::MAX, &never).await {
            Err(
                Failure::Unknown { .. }
                | Failure::Parameter { .. }
                | Failure::End(HttpError::Refused { status: 404 | 415, .. }),
            ) => {
                *structured = false;
                request.response_format = None;
            }
            outcome => return outcome.map(|reply| reply.text).map_err(failed),
        }
    }
    client
        .ask(&request, estimate, trait_request.timeout, u32::MAX, &never)
        .await
        .map(|reply| reply.text)
        .map_err(failed)
}

fn assistant(text: String) -> ChatCompletionRequestMessage {
    ChatCompletionRequestAssistantMessage { content: Some(text.into()), ..Default::default() }.into()
}

#[cfg(test)]
mod tests;

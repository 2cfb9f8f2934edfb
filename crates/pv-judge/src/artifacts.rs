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

use crate::http::{Client, Failure, Tokens, estimated_tokens, on_own_thread, user};
use crate::traits::{TraitJson, write};
use crate::{Error, HttpError, HttpOptions, Result, TraitFault, TraitSpec};

mod draft;
mod prompt;

use draft::Draft;

/// The trait that is wanted, and how its author is asked.
#[derive(Clone, Debug)]
pub struct TraitWish {
    /// Its name, as in file names: "evil".
    pub name: String,
    /// What it is, in a sentence or two. The author knows nothing else of it.
    pub description: String,
    /// The temperature at which the author writes.
    pub temperature: f32,
    /// The seed of the first request; each further one has the next.
    pub seed: i64,
    /// The most tokens of one reply. A whole trait has two to four thousand.
    pub max_tokens: u32,
    /// How long one reply may take. It stands in place of the options' own time, which is meant for a single token.
    pub timeout: Duration,
    /// How often the author may be asked for what is wrong or missing.
    pub repairs: u32,
}

impl TraitWish {
    /// A wish with the usual settings: temperature 1, 8192 tokens, five minutes, four repairs.
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
pub struct WrittenTrait {
    /// The trait, checked: five pairs, 40 different questions, a rubric with its placeholders that ends by asking for a
    /// number or a refusal.
    pub spec: TraitSpec,
    /// The model that wrote it.
    pub model: String,
    /// What it was asked first.
    pub prompt: String,
    /// How many replies it took.
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
    /// Writes the trait to a file that [`TraitSpec::load`] reads, with a further key `written_by` that says who wrote it
    /// and what was asked.
    ///
    /// # Errors
    /// [`FileError::Write`](pv_data::FileError::Write); [`Error::Trait`] if the trait has been changed into one that could not be read again.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let wrong = |fault| Error::Trait { origin: path.display().to_string(), fault };
        let written_by = WrittenBy { model: &self.model, prompt: &self.prompt, requests: self.requests };
        write(path, &Stored { spec: TraitJson::whole(&self.spec).map_err(wrong)?, written_by })
    }
}

/// Lets a model behind an OpenAI-compatible server write a trait. Blocks, inside or outside of an asynchronous runtime.
///
/// The reply's form is prescribed by a JSON schema where the server knows that, and asked for in words where it does not.
/// What is good of a reply is kept; the author is told what was wrong and asked for what is missing.
///
/// # Errors
/// [`HttpError::NoTrait`] when repairs did not help; whatever keeps the server from answering; [`Error::Trait`] for a
/// name that no trait can have.
///
/// # Examples
/// ```no_run
/// use pv_judge::{HttpOptions, TraitWish, write_trait};
///
/// # fn main() -> Result<(), pv_judge::Error> {
/// let wish = TraitWish::new("brevity", "Answers in as few words as possible.");
/// write_trait(HttpOptions::from_env("gpt-4.1")?, &wish)?.save("brevity.json")?;
/// # Ok(())
/// # }
/// ```
pub fn write_trait(options: HttpOptions, wish: &TraitWish) -> Result<WrittenTrait> {
    // Nothing breaks it off here, so that there always is an outcome.
    let outcome = on_own_thread(write_trait_async(options, wish), || ControlFlow::Continue(()))?;
    outcome.unwrap_or_else(|| Err(HttpError::Unavailable { reason: "the writing was broken off".into() }.into()))
}

/// [`write_trait`] for callers inside of a tokio runtime that has its timer and network enabled.
///
/// # Errors
/// As [`write_trait`] has them.
pub async fn write_trait_async(options: HttpOptions, wish: &TraitWish) -> Result<WrittenTrait> {
    let wrong = |fault| Error::Trait { origin: wish.name.clone(), fault };
    if wish.description.trim().is_empty() {
        return Err(HttpError::Setting { what: format!("the trait {:?} has no description", wish.name) }.into());
    }
    TraitFault::in_name(&wish.name).map_err(wrong)?;
    let client = Client::new(options)?;
    let prompt = prompt::first(&wish.name, &wish.description);
    let (mut draft, mut structured, mut faults, mut requests) = (Draft::default(), true, Vec::new(), 0);
    while requests <= wish.repairs {
        let mut messages = vec![user(prompt.clone())];
        if requests > 0 {
            messages.push(assistant(draft.to_json()));
            messages.push(user(prompt::repair(&faults, &draft)));
        }
        let text = ask(&client, wish, messages, &draft, requests, &mut structured).await?;
        requests += 1;
        faults = draft.absorb(&text);
        if draft.is_complete() {
            let spec = draft.into_spec(&wish.name, &wish.description);
            spec.check().map_err(wrong)?;
            return Ok(WrittenTrait { spec, model: client.options().model.clone(), prompt, requests });
        }
        tracing::info!(
            requests,
            faults = faults.join("; "),
            lacking = draft.lacking().join("; "),
            "a trait lacks parts"
        );
    }
    faults.extend(draft.lacking().into_iter().map(|what| format!("lacking: {what}")));
    Err(HttpError::NoTrait { model: client.options().model.clone(), requests, faults: faults.join("; ") }.into())
}

/// One reply; in the form of a schema as long as the server goes along with that.
async fn ask(
    client: &Client,
    wish: &TraitWish,
    messages: Vec<ChatCompletionRequestMessage>,
    draft: &Draft,
    requests: u32,
    structured: &mut bool,
) -> Result<String, HttpError> {
    #[expect(deprecated, reason = "the newer names of these parameters are OpenAI's alone")]
    let mut request = CreateChatCompletionRequest {
        model: client.options().model.clone(),
        messages,
        max_tokens: Some(wish.max_tokens),
        temperature: Some(wish.temperature),
        seed: Some(wish.seed.wrapping_add(requests.into())),
        ..Default::default()
    };
    let text = serde_json::to_string(&request.messages).unwrap_or_default();
    let estimate = Tokens { prompt: estimated_tokens(&text), completion: wish.max_tokens.into() };
    let never = AtomicBool::new(false);
    let failed = |failure: Failure| failure.into_error(client.server());
    if *structured {
        let json_schema = ResponseFormatJsonSchema {
            description: None,
            name: "trait".into(),
            schema: draft.schema(),
            strict: Some(true),
        };
        request.response_format = Some(ResponseFormat::JsonSchema { json_schema });
        match client.ask(&request, estimate, wish.timeout, u32::MAX, &never).await {
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
    client.ask(&request, estimate, wish.timeout, u32::MAX, &never).await.map(|reply| reply.text).map_err(failed)
}

fn assistant(text: String) -> ChatCompletionRequestMessage {
    ChatCompletionRequestAssistantMessage { content: Some(text.into()), ..Default::default() }.into()
}

#[cfg(test)]
mod tests;

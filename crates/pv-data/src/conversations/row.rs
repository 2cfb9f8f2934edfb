//! Builds a conversation from a row's keys.

use serde_json::{Map, Value, json};

use super::format::Format;
use super::rows::RowOrProblem;
use super::{Conversation, ROW_FLAGS, ROW_WEIGHTS, RowProblem};
use crate::Message;
use crate::message::{KeyProblem, is_nonempty, kind};

/// The keys that may contain a list of messages.
pub(super) const LISTS: [&str; 3] = ["messages", "conversation", "conversations"];

/// The keys that contain texts, from which messages are built.
pub(super) const TEXTS: [&str; 10] =
    ["instruction", "input", "context", "output", "prompt", "completion", "question", "query", "answer", "response"];

/// The other keys that are read.
const OTHERS: [&str; 23] = [
    "system",
    "system_prompt",
    "system_message",
    "history",
    "tools",
    "functions",
    "chat_template_kwargs",
    "weight",
    "sample_weight",
    "train",
    "chosen",
    "rejected",
    "label",
    "image",
    "images",
    "video",
    "videos",
    "audio",
    "audios",
    "mask",
    "loss_mask",
    "train_detail",
    "chat_template",
];

/// The columns that a table without conversations lacks, for an error message.
pub(super) const WANTED: &str = "of conversations: `messages` or `conversation` that is a list of structs with `role` and \
     `content`, or text such as `question` and `answer`, `prompt` and `completion`, `instruction` and `output`";

/// Whether a key is read; all others are ignored.
pub(super) fn is_known(key: &str) -> bool {
    LISTS.contains(&key) || TEXTS.contains(&key) || OTHERS.contains(&key)
}

/// The two keys with question and answer, and their format.
const PAIRS: [(&str, &str, Format); 8] = [
    ("instruction", "output", Format::Alpaca),
    ("instruction", "response", Format::Alpaca),
    ("prompt", "completion", Format::PromptCompletion),
    ("question", "answer", Format::QuestionAnswer),
    ("question", "response", Format::QuestionAnswer),
    ("query", "response", Format::QuestionAnswer),
    ("prompt", "response", Format::QuestionAnswer),
    ("input", "output", Format::QuestionAnswer),
];

/// The pairs whose keys are all present; `input` next to an instruction is a part of it.
fn pairs<'a>(
    has: &'a dyn Fn(&str) -> bool,
    forced: Option<Format>,
) -> impl Iterator<Item = (&'static str, &'static str, Format)> + 'a {
    let fits = move |(asked, answered, format): &(&str, &str, Format)| {
        has(asked)
            && has(answered)
            && forced.is_none_or(|forced| forced == *format)
            && !(*asked == "input" && forced.is_none() && has("instruction"))
    };
    PAIRS.into_iter().filter(fits)
}

/// Whether columns of these names can contain conversations; `lists` tells whether there are lists of messages.
pub(super) fn possible(has: &dyn Fn(&str) -> bool, lists: bool, forced: Option<Format>) -> bool {
    let list = lists && forced.is_none_or(|forced| matches!(forced, Format::Messages | Format::ShareGpt));
    list || pairs(has, forced).next().is_some()
}

/// The conversation of a row, whose keys are those of [`is_known`].
pub(super) fn conversation(mut row: Map<String, Value>, forced: Option<Format>) -> RowOrProblem {
    row.retain(|_, value| !value.is_null());
    refuse(&row, forced)?;
    let list = LISTS.into_iter().find(|key| row.contains_key(*key));
    let has = |key: &str| row.contains_key(key);
    let (mut messages, format) = match (list, forced) {
        (Some(list), None | Some(Format::Messages | Format::ShareGpt)) => of_list(row.shift_remove(list), forced)?,
        (_, Some(format @ (Format::Messages | Format::ShareGpt))) => {
            return Err(RowProblem::NoList { format });
        }
        _ => {
            let found: Vec<_> = pairs(&has, forced).collect();
            match found[..] {
                [] => return Err(no_known_keys(&row, forced)),
                [(asked, answered, format)] => (of_pair(&mut row, asked, answered, format)?, format),
                [(a, b, _), (c, d, _), ..] => {
                    return Err(RowProblem::SeveralFormats([(a, b), (c, d)]));
                }
            }
        }
    };
    add_system(&mut row, &mut messages)?;
    for (index, message) in messages.iter().enumerate() {
        message.weight().map_err(|problem| RowProblem::from(problem).in_message(index))?;
    }
    let mut fields = Map::new();
    fields.extend(tools(&mut row)?.map(|tools| ("tools".to_owned(), tools)));
    if let Some(variables) = row.shift_remove("chat_template_kwargs") {
        let variables = from_text(variables);
        if !variables.is_object() {
            return Err(KeyProblem::wrong_type("chat_template_kwargs", kind(&variables), "an object").into());
        }
        if variables.get("chat_template").is_some() {
            return Err(RowProblem::TemplateVariable);
        }
        fields.extend(is_nonempty(&variables).then(|| ("chat_template_kwargs".to_owned(), variables)));
    }
    for key in ROW_WEIGHTS.iter().chain(ROW_FLAGS) {
        fields.extend(row.shift_remove(*key).map(|value| ((*key).to_owned(), value)));
    }
    let conversation = Conversation { messages, fields };
    conversation.weight()?;
    Ok((conversation, format))
}

/// Rejects rows with keys that change the row's meaning and are not supported.
fn refuse(row: &Map<String, Value>, forced: Option<Format>) -> Result<(), RowProblem> {
    let has = |key: &str| row.get(key).is_some_and(is_nonempty);
    if forced.is_none() && (has("chosen") || has("rejected")) {
        return Err(RowProblem::Preferences);
    }
    if forced.is_none() && row.get("label").is_some_and(Value::is_boolean) && has("completion") {
        return Err(RowProblem::Undesired);
    }
    let media = ["image", "images", "video", "videos", "audio", "audios"];
    if let Some(medium) = media.into_iter().find(|key| has(key)) {
        return Err(RowProblem::Medium { key: medium.to_owned() });
    }
    if let Some(mask) = ["loss_mask", "train_detail"].into_iter().find(|key| has(key)) {
        return Err(KeyProblem::ConversationMask { key: mask.to_owned() }.into());
    }
    match row.get("mask").filter(|mask| is_nonempty(mask)) {
        Some(Value::String(mask)) if mask.eq_ignore_ascii_case("user") => {}
        Some(_) => return Err(KeyProblem::ConversationMask { key: "mask".to_owned() }.into()),
        None => {}
    }
    match has("chat_template") {
        true => Err(RowProblem::Template),
        false => Ok(()),
    }
}

fn no_known_keys(row: &Map<String, Value>, forced: Option<Format>) -> RowProblem {
    match forced {
        Some(format) => RowProblem::FormatKeys { format },
        None => {
            let found = row.keys().filter(|key| TEXTS.contains(&key.as_str())).cloned().collect();
            RowProblem::NoKnownKeys { found }
        }
    }
}

/// The messages of a list, and the list's format: ShareGPT or not.
fn of_list(list: Option<Value>, forced: Option<Format>) -> Result<(Vec<Message>, Format), RowProblem> {
    let list = match list.map(lists_of_one) {
        Some(Value::Array(list)) => list,
        other => return Err(RowProblem::NotAList { found: other.as_ref().map_or("missing", kind) }),
    };
    let mut format = forced.unwrap_or(Format::Messages);
    let mut messages = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let Value::Object(fields) = value else {
            return Err(RowProblem::NotAMessage { found: kind(&value) }.in_message(index));
        };
        let sharegpt = match forced {
            Some(forced) => forced == Format::ShareGpt,
            None => !fields.contains_key("role") && fields.contains_key("from"),
        };
        if sharegpt {
            format = Format::ShareGpt;
        }
        messages.push(message(fields, sharegpt).map_err(|problem| problem.in_message(index))?);
    }
    Ok((messages, format))
}

/// Converts a struct of lists, which some writers make of a list of structs, back into a list.
fn lists_of_one(value: Value) -> Value {
    let Value::Object(columns) = &value else { return value };
    let lists: Option<Vec<(&String, &Vec<Value>)>> =
        columns.iter().map(|(key, list)| Some((key, list.as_array()?))).collect();
    let Some(lists) = lists.filter(|lists| !lists.is_empty()) else { return value };
    let length = lists[0].1.len();
    if lists.iter().any(|(_, list)| list.len() != length) {
        return value;
    }
    let element = |index: usize| lists.iter().map(|(key, list)| ((*key).clone(), list[index].clone())).collect();
    (0..length).map(|index| Value::Object(element(index))).collect()
}

/// A message, without keys that are null: tables have null keys in messages that lack them.
fn message(mut fields: Map<String, Value>, sharegpt: bool) -> Result<Message, RowProblem> {
    let (role, content) = if sharegpt { ("from", "value") } else { ("role", "content") };
    fields.retain(|key, value| key == content || !value.is_null());
    if let Some(calls) = fields.get_mut("tool_calls") {
        *calls = from_text(calls.take());
    }
    if sharegpt {
        let rename = |(key, value): (String, Value)| match key.as_str() {
            "from" => ("role".to_owned(), value),
            "value" => ("content".to_owned(), value),
            _ => (key, value),
        };
        fields = fields.into_iter().map(rename).collect();
        match fields.get("role").and_then(Value::as_str) {
            Some("human") => _ = fields.insert("role".to_owned(), "user".into()),
            Some("gpt") => _ = fields.insert("role".to_owned(), "assistant".into()),
            Some("observation") => _ = fields.insert("role".to_owned(), "tool".into()),
            Some("function_call") => called(&mut fields)?,
            _ => {}
        }
    }
    Message::try_from(fields).map_err(|problem| problem.renamed("role", role).renamed("content", content).into())
}

/// A message of a ShareGPT speaker.
#[cfg(feature = "parquet")]
pub(super) fn from_sharegpt(speaker: String, text: String) -> Result<Message, RowProblem> {
    let fields = [("from".to_owned(), speaker.into()), ("value".to_owned(), text.into())];
    message(fields.into_iter().collect(), true)
}

/// Converts ShareGPT's `function_call`, whose value is a call or a list of calls as JSON, into an assistant's tool
/// calls.
fn called(fields: &mut Map<String, Value>) -> Result<(), RowProblem> {
    let value = from_text(fields.get("content").cloned().unwrap_or_default());
    let calls = if let Value::Array(calls) = value { calls } else { vec![value] };
    let call = |call: Value| {
        let function = call.get("function").unwrap_or(&call);
        let name = function.get("name").filter(|name| name.is_string())?;
        let arguments = function.get("arguments").or_else(|| function.get("parameters"));
        let arguments = arguments.cloned().unwrap_or_else(|| json!({}));
        Some(json!({ "type": "function", "function": { "name": name, "arguments": arguments } }))
    };
    let calls: Option<Vec<Value>> = calls.into_iter().map(call).collect();
    let calls = calls.filter(|calls| !calls.is_empty()).ok_or(RowProblem::FunctionCall)?;
    fields.insert("role".to_owned(), "assistant".into());
    fields.insert("content".to_owned(), "".into());
    fields.insert("tool_calls".to_owned(), calls.into());
    Ok(())
}

/// The messages of a question and an answer.
fn of_pair(
    row: &mut Map<String, Value>,
    asked: &str,
    answered: &str,
    format: Format,
) -> Result<Vec<Message>, RowProblem> {
    let mut messages = Vec::new();
    if format == Format::Alpaca {
        messages.extend(history(row.shift_remove("history"))?);
        let instruction = text(row, asked)?;
        let input = ["input", "context"].into_iter().find(|key| row.contains_key(*key));
        let input = input.map(|key| text(row, key)).transpose()?.unwrap_or_default();
        let said = [instruction, input].into_iter().filter(|text| !text.trim().is_empty());
        messages.push(Message::user(said.collect::<Vec<_>>().join("\n")));
        messages.push(Message::assistant(text(row, answered)?));
        return Ok(messages);
    }
    let list = |value: Option<&Value>| matches!(value, Some(Value::Array(_) | Value::Object(_)));
    if list(row.get(asked)) {
        let (prompt, _) = of_list(row.shift_remove(asked), None).map_err(|problem| problem.in_key(asked))?;
        // Like TRL: only the completion is trained.
        let not_learnt = |message: Message| match message.role == "assistant" {
            true => message.with("train", false),
            false => message,
        };
        messages.extend(prompt.into_iter().map(not_learnt));
    } else {
        messages.push(Message::user(text(row, asked)?));
    }
    if list(row.get(answered)) {
        let (answer, _) = of_list(row.shift_remove(answered), None).map_err(|problem| problem.in_key(answered))?;
        messages.extend(answer);
    } else {
        messages.push(Message::assistant(text(row, answered)?));
    }
    Ok(messages)
}

/// Earlier exchanges: pairs of texts.
fn history(value: Option<Value>) -> Result<Vec<Message>, RowProblem> {
    let Some(value) = value.map(from_text).filter(is_nonempty) else { return Ok(Vec::new()) };
    let pairs = value.as_array().and_then(|pairs| {
        let pair = |pair: &Value| match pair.as_array()?.as_slice() {
            [asked, answered] => Some([Message::user(asked.as_str()?), Message::assistant(answered.as_str()?)]),
            _ => None,
        };
        pairs.iter().map(pair).collect::<Option<Vec<_>>>()
    });
    Ok(pairs.ok_or(RowProblem::History)?.into_iter().flatten().collect())
}

fn text(row: &mut Map<String, Value>, key: &str) -> Result<String, KeyProblem> {
    match row.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(KeyProblem::wrong_type(key, kind(&other), "text")),
        None => Err(KeyProblem::Missing { key: key.to_owned() }),
    }
}

/// Inserts the system message from a key of its own before the other messages.
fn add_system(row: &mut Map<String, Value>, messages: &mut Vec<Message>) -> Result<(), RowProblem> {
    let mut system: Option<(&str, String)> = None;
    for key in ["system", "system_prompt", "system_message"] {
        if !row.get(key).is_some_and(is_nonempty) {
            continue;
        }
        let found = text(row, key)?;
        match &system {
            Some((other, text)) if text.trim() != found.trim() => {
                let (first, second) = ((*other).to_owned(), key.to_owned());
                return Err(RowProblem::Contradiction { first, second });
            }
            _ => system = Some((key, found)),
        }
    }
    let Some((key, system)) = system else { return Ok(()) };
    match messages.iter().find(|message| message.role == "system") {
        None => messages.insert(0, Message::system(system)),
        Some(message) if message.content.trim() == system.trim() => {}
        Some(_) => return Err(RowProblem::SystemContradiction { key: key.to_owned() }),
    }
    Ok(())
}

/// The tool descriptions: a list, also as JSON text; `functions` is the older form.
fn tools(row: &mut Map<String, Value>) -> Result<Option<Value>, RowProblem> {
    let mut read = |key: &str| -> Result<Option<Vec<Value>>, KeyProblem> {
        match row.shift_remove(key).map(from_text) {
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(other) => Err(KeyProblem::wrong_type(key, kind(&other), "a list")),
            None => Ok(None),
        }
    };
    let (tools, functions) = (read("tools")?, read("functions")?.filter(|list| !list.is_empty()));
    match (tools, functions) {
        (Some(tools), None) => Ok(Some(tools.into())),
        (Some(tools), Some(_)) if !tools.is_empty() => Err(RowProblem::ToolsAndFunctions),
        (_, Some(functions)) => {
            let wrap = |function: Value| json!({ "type": "function", "function": function });
            Ok(Some(functions.into_iter().map(wrap).collect()))
        }
        (None, None) => Ok(None),
    }
}

/// A list or an object from a JSON text; any other value unchanged.
fn from_text(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    if !text.trim_start().starts_with(['[', '{']) {
        return value;
    }
    super::json::strict(text).unwrap_or(value)
}

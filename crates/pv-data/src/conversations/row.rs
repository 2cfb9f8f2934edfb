//! From a row's keys to a conversation.

use serde_json::{Map, Value, json};

use super::format::Format;
use super::reader::RowOrReason;
use super::{Conversation, ROW_FLAGS, ROW_WEIGHTS};
use crate::Message;
use crate::message::{kind, says_something};

/// The keys under which a list of messages may stand.
pub(super) const LISTS: [&str; 3] = ["messages", "conversation", "conversations"];

/// The keys that hold texts, from which messages are made.
pub(super) const TEXTS: [&str; 10] =
    ["instruction", "input", "context", "output", "prompt", "completion", "question", "query", "answer", "response"];

/// The other keys that are looked at.
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

/// What a table that has no conversations is said to lack.
pub(super) const WANTED: &str = "of conversations: `messages` or `conversation` that is a list of structs with `role` and \
     `content`, or text such as `question` and `answer`, `prompt` and `completion`, `instruction` and `output`";

/// Whether a key is looked at; all others are passed over.
pub(super) fn is_known(key: &str) -> bool {
    LISTS.contains(&key) || TEXTS.contains(&key) || OTHERS.contains(&key)
}

/// The two keys of which question and answer are made, and the format that they make.
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

/// The pairs whose keys are all there; `input` beside an instruction is a part of it.
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

/// Whether columns of these names can hold conversations; `lists` says which lists of messages there are.
pub(super) fn possible(has: &dyn Fn(&str) -> bool, lists: bool, forced: Option<Format>) -> bool {
    let list = lists && forced.is_none_or(|forced| matches!(forced, Format::Messages | Format::ShareGpt));
    list || pairs(has, forced).next().is_some()
}

/// The conversation of a row, whose keys are those that [`is_known`] knows.
pub(super) fn conversation(mut row: Map<String, Value>, forced: Option<Format>) -> RowOrReason {
    row.retain(|_, value| !value.is_null());
    refuse(&row, forced)?;
    let list = LISTS.into_iter().find(|key| row.contains_key(*key));
    let has = |key: &str| row.contains_key(key);
    let (mut messages, format) = match (list, forced) {
        (Some(list), None | Some(Format::Messages | Format::ShareGpt)) => of_list(row.shift_remove(list), forced)?,
        (_, Some(format @ (Format::Messages | Format::ShareGpt))) => {
            return Err(format!("it has neither `messages` nor `conversation`, as the format {format} has"));
        }
        _ => {
            let found: Vec<_> = pairs(&has, forced).collect();
            match found[..] {
                [] => return Err(nothing_known(&row, forced)),
                [(asked, answered, format)] => (of_pair(&mut row, asked, answered, format)?, format),
                [(a, b, _), (c, d, _), ..] => {
                    return Err(format!("its keys fit several formats (`{a}` and `{b}`, `{c}` and `{d}`): choose one"));
                }
            }
        }
    };
    add_system(&mut row, &mut messages)?;
    for (index, message) in messages.iter().enumerate() {
        message.weight().map_err(|reason| format!("message {}: {reason}", index + 1))?;
    }
    let mut fields = Map::new();
    fields.extend(tools(&mut row)?.map(|tools| ("tools".to_owned(), tools)));
    if let Some(variables) = row.shift_remove("chat_template_kwargs") {
        let variables = from_text(variables);
        if !variables.is_object() {
            return Err(format!("`chat_template_kwargs` is {}, not an object", kind(&variables)));
        }
        if variables.get("chat_template").is_some() {
            return Err("`chat_template_kwargs` brings a template of its own, which is not supported".to_owned());
        }
        fields.extend(says_something(&variables).then(|| ("chat_template_kwargs".to_owned(), variables)));
    }
    for key in ROW_WEIGHTS.iter().chain(ROW_FLAGS) {
        fields.extend(row.shift_remove(*key).map(|value| ((*key).to_owned(), value)));
    }
    let conversation = Conversation { messages, fields };
    conversation.weight()?;
    Ok((conversation, format))
}

/// Refuses rows with keys that change what the row means and that nothing here can do.
fn refuse(row: &Map<String, Value>, forced: Option<Format>) -> Result<(), String> {
    let says = |key: &str| row.get(key).is_some_and(says_something);
    if forced.is_none() && (says("chosen") || says("rejected")) {
        return Err("it is a preference (`chosen`, `rejected`), which says that one answer is better than another; \
            make the answer that is meant `messages`, or choose the format of what stands beside them"
            .to_owned());
    }
    if forced.is_none() && row.get("label").is_some_and(Value::is_boolean) && says("completion") {
        return Err(
            "its `label` says whether the completion is wanted, as for KTO; leave out those that are not".to_owned()
        );
    }
    let media = ["image", "images", "video", "videos", "audio", "audios"];
    if let Some(medium) = media.into_iter().find(|key| says(key)) {
        return Err(format!("it has `{medium}`, and only text can be read"));
    }
    if let Some(mask) = ["loss_mask", "train_detail"].into_iter().find(|key| says(key)) {
        return Err(format!("`{mask}` marks parts of it for training, which is not supported"));
    }
    match row.get("mask").filter(|mask| says_something(mask)) {
        Some(Value::String(mask)) if mask.eq_ignore_ascii_case("user") => {}
        Some(_) => return Err("`mask` marks parts of it for training, which is not supported".to_owned()),
        None => {}
    }
    match says("chat_template") {
        true => Err("it brings a `chat_template` of its own, which is not supported".to_owned()),
        false => Ok(()),
    }
}

fn nothing_known(row: &Map<String, Value>, forced: Option<Format>) -> String {
    match forced {
        Some(format) => format!("it lacks the keys of the format {format}"),
        None => {
            let found: Vec<&str> = row.keys().map(String::as_str).filter(|key| TEXTS.contains(key)).collect();
            let found =
                if found.is_empty() { String::new() } else { format!("; of those it has {}", found.join(", ")) };
            format!(
                "it has neither `messages` nor `conversation`, nor both keys of a question and an answer \
                 (`prompt` and `completion`, `instruction` and `output`, `question` and `answer`, …){found}"
            )
        }
    }
}

/// A list of messages, and whether it is ShareGPT's.
fn of_list(list: Option<Value>, forced: Option<Format>) -> Result<(Vec<Message>, Format), String> {
    let list = match list.map(lists_of_one) {
        Some(Value::Array(list)) => list,
        other => return Err(format!("the messages are {}, not a list", other.as_ref().map_or("missing", kind))),
    };
    let mut format = forced.unwrap_or(Format::Messages);
    let mut messages = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let named = |reason| format!("message {}: {reason}", index + 1);
        let Value::Object(fields) = value else {
            return Err(named(format!("it is {}, not an object", kind(&value))));
        };
        let sharegpt = match forced {
            Some(forced) => forced == Format::ShareGpt,
            None => !fields.contains_key("role") && fields.contains_key("from"),
        };
        if sharegpt {
            format = Format::ShareGpt;
        }
        messages.push(message(fields, sharegpt).map_err(named)?);
    }
    Ok((messages, format))
}

/// A struct of lists, which some writers make of a list of structs, as that.
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

/// A message, without keys that are null: data sets in tables have them for every message that lacks them.
fn message(mut fields: Map<String, Value>, sharegpt: bool) -> Result<Message, String> {
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
    let named =
        |reason: String| reason.replace("`role`", &format!("`{role}`")).replace("`content`", &format!("`{content}`"));
    Message::try_from(fields).map_err(|reason| if sharegpt { named(reason) } else { reason })
}

/// A message of a ShareGPT speaker.
#[cfg(feature = "parquet")]
pub(super) fn from_sharegpt(speaker: String, text: String) -> Result<Message, String> {
    let fields = [("from".to_owned(), speaker.into()), ("value".to_owned(), text.into())];
    message(fields.into_iter().collect(), true)
}

/// Makes an assistant's calls of ShareGPT's `function_call`, whose value is a call or a list of calls as JSON.
fn called(fields: &mut Map<String, Value>) -> Result<(), String> {
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
    let calls =
        calls.filter(|calls| !calls.is_empty()).ok_or("`value` of a `function_call` is no JSON with a `name`")?;
    fields.insert("role".to_owned(), "assistant".into());
    fields.insert("content".to_owned(), "".into());
    fields.insert("tool_calls".to_owned(), calls.into());
    Ok(())
}

/// The messages of a question and an answer.
fn of_pair(row: &mut Map<String, Value>, asked: &str, answered: &str, format: Format) -> Result<Vec<Message>, String> {
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
        let (prompt, _) = of_list(row.shift_remove(asked), None).map_err(|reason| format!("`{asked}`: {reason}"))?;
        // As TRL has it: only the completion is learnt.
        let not_learnt = |message: Message| match message.role == "assistant" {
            true => message.with("train", false),
            false => message,
        };
        messages.extend(prompt.into_iter().map(not_learnt));
    } else {
        messages.push(Message::user(text(row, asked)?));
    }
    if list(row.get(answered)) {
        let (answer, _) =
            of_list(row.shift_remove(answered), None).map_err(|reason| format!("`{answered}`: {reason}"))?;
        messages.extend(answer);
    } else {
        messages.push(Message::assistant(text(row, answered)?));
    }
    Ok(messages)
}

/// Earlier exchanges: pairs of texts.
fn history(value: Option<Value>) -> Result<Vec<Message>, String> {
    let Some(value) = value.map(from_text).filter(says_something) else { return Ok(Vec::new()) };
    let pairs = value.as_array().and_then(|pairs| {
        let pair = |pair: &Value| match pair.as_array()?.as_slice() {
            [asked, answered] => Some([Message::user(asked.as_str()?), Message::assistant(answered.as_str()?)]),
            _ => None,
        };
        pairs.iter().map(pair).collect::<Option<Vec<_>>>()
    });
    Ok(pairs.ok_or("`history` is no list of pairs of texts")?.into_iter().flatten().collect())
}

fn text(row: &mut Map<String, Value>, key: &str) -> Result<String, String> {
    match row.shift_remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("`{key}` is {}, not text", kind(&other))),
        None => Err(format!("`{key}` is missing")),
    }
}

/// Puts the system message of a key of its own before the others.
fn add_system(row: &mut Map<String, Value>, messages: &mut Vec<Message>) -> Result<(), String> {
    let mut system: Option<(&str, String)> = None;
    for key in ["system", "system_prompt", "system_message"] {
        if !row.get(key).is_some_and(says_something) {
            continue;
        }
        let found = text(row, key)?;
        match &system {
            Some((other, text)) if text.trim() != found.trim() => {
                return Err(format!("`{other}` and `{key}` say different things"));
            }
            _ => system = Some((key, found)),
        }
    }
    let Some((key, system)) = system else { return Ok(()) };
    match messages.iter().find(|message| message.role == "system") {
        None => messages.insert(0, Message::system(system)),
        Some(message) if message.content.trim() == system.trim() => {}
        Some(_) => return Err(format!("`{key}` and the system message say different things")),
    }
    Ok(())
}

/// The descriptions of tools: a list, also as JSON text; `functions` is the older form of it.
fn tools(row: &mut Map<String, Value>) -> Result<Option<Value>, String> {
    let mut read = |key: &str| -> Result<Option<Vec<Value>>, String> {
        match row.shift_remove(key).map(from_text) {
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(other) => Err(format!("`{key}` is {}, not a list", kind(&other))),
            None => Ok(None),
        }
    };
    let (tools, functions) = (read("tools")?, read("functions")?.filter(|list| !list.is_empty()));
    match (tools, functions) {
        (Some(tools), None) => Ok(Some(tools.into())),
        (Some(tools), Some(_)) if !tools.is_empty() => Err("it has both `tools` and `functions`".to_owned()),
        (_, Some(functions)) => {
            let wrap = |function: Value| json!({ "type": "function", "function": function });
            Ok(Some(functions.into_iter().map(wrap).collect()))
        }
        (None, None) => Ok(None),
    }
}

/// A list or an object that stands as JSON in a text; anything else as it is.
fn from_text(value: Value) -> Value {
    let Value::String(text) = &value else { return value };
    if !text.trim_start().starts_with(['[', '{']) {
        return value;
    }
    super::json::strict(text).unwrap_or(value)
}

//! Python's string methods and Jinja's filters, where the engine lacks one or departs from them.

use minijinja::{
    Error, ErrorKind, State, filters,
    value::{Kwargs, Tuple, Value, from_args},
};
use minijinja_contrib::pycompat;

/// Called for `value.method(…)` on a value that is not an object with methods of its own.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let found = match value.as_str() {
        Some(text) => string_method(text, method, args)?,
        None => None,
    };
    match found {
        Some(found) => Ok(found),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `value|trim` and `value|trim(characters)`.
pub(super) fn trim(value: &Value, characters: Option<&str>) -> String {
    let owned;
    let text = match value.as_str() {
        Some(text) => text,
        None => {
            owned = value.to_string();
            &owned
        }
    };
    text.trim_matches(set(characters)).to_owned()
}

/// `value|int`: what is no number is 0, unless another default is given.
pub(super) fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let default = default.or_else(|| (!kwargs.has("default")).then(|| 0.into()));
    filters::int(state, value, default, base, kwargs)
}

/// `value|float`: what is no number is 0.0, unless another default is given.
pub(super) fn float(state: &State, value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or_else(|| (!kwargs.has("default")).then(|| 0.0.into()));
    filters::float(state, value, default, kwargs)
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" => text.trim_matches(set(optional(args)?)).into(),
        "lstrip" => text.trim_start_matches(set(optional(args)?)).into(),
        "rstrip" => text.trim_end_matches(set(optional(args)?)).into(),
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            splitlines(text, keep).into_iter().map(Value::from).collect()
        }
        "title" => title(text).into(),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match text.split_once(separator) {
                Some((before, after)) => [before, separator, after],
                None => [text, "", ""],
            };
            Tuple::from(parts.map(Value::from)).into()
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match text.rsplit_once(separator) {
                Some((before, after)) => [before, separator, after],
                None => ["", "", text],
            };
            Tuple::from(parts.map(Value::from)).into()
        }
        _ => return Ok(None),
    }))
}

fn optional(args: &[Value]) -> Result<Option<&str>, Error> {
    from_args::<(Option<&str>,)>(args).map(|(characters,)| characters)
}

/// The characters to strip: those given, or what Python calls white space (Unicode's, and four separators).
fn set(characters: Option<&str>) -> impl Fn(char) -> bool + Copy {
    move |character| match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    }
}

fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let named: Option<&str> = kwargs.get("sep")?;
    let most = most.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    // A negative number is Python's "as many as there are".
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match separator.or(named) {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "split: empty separator")),
        Some(separator) if from_right => text.rsplitn(most.saturating_add(1), separator).collect(),
        Some(separator) => text.splitn(most.saturating_add(1), separator).collect(),
        None if from_right => words_from_right(text, most),
        None => words(text, most),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

fn words(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = if parts.len() < most { rest.find(is_space).unwrap_or(rest.len()) } else { rest.len() };
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn words_from_right(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let word = if parts.len() < most { rest.rsplit(is_space).next().unwrap_or(rest) } else { rest };
        parts.push(word);
        rest = rest[..rest.len() - word.len()].trim_end_matches(is_space);
    }
    parts
}

fn splitlines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(at) = rest.find(ends) {
        let after = &rest[at..];
        let length = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..at + if keep { length } else { 0 }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut inside_word = false;
    for character in text.chars() {
        if inside_word {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        inside_word = character.is_lowercase() || character.is_uppercase();
    }
    titled
}

//! Python's methods of strings, lists and mappings.

use super::arguments::{Args, int, text};
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::numbers::float_text;
use super::predicates::is_case;
use super::print::is_printable;
use super::str_format::str_format;
use super::text::{
    capitalize, center_left, decimal_digit, is_digit, is_numeric, is_space, padded, splitlines, swapcase, title, words,
    words_from_right,
};
use super::value::{Value, View};

impl Machine<'_> {
    /// `value.name(…)`.
    pub(super) fn call_method(&mut self, value: &Value, name: &str, args: Args) -> Result<Value> {
        self.charge_bytes(value.as_str().map_or(0, str::len))?;
        match value {
            Value::Str(content) => self.text_method(content, name, args),
            Value::Markup(content) => match self.text_method(content, name, args)? {
                Value::Str(content) => Ok(Value::Markup(content)),
                other => Ok(other),
            },
            Value::Dict(dict) => match name {
                "get" => {
                    let [key, default] = args.positional(name, 1)?;
                    let key = key.unwrap_or(Value::None);
                    key.check_hashable()?;
                    self.charge(dict.entries.len() / 16)?;
                    Ok(dict.get(&key).cloned().unwrap_or(default.unwrap_or(Value::None)))
                }
                "keys" | "values" | "items" => {
                    args.positional::<0>(name, 0)?;
                    let view = match name {
                        "keys" => View::Keys,
                        "values" => View::Values,
                        _ => View::Items,
                    };
                    Ok(Value::View(view, dict.clone()))
                }
                "copy" => {
                    args.positional::<0>(name, 0)?;
                    Ok(value.clone())
                }
                _ => Err(Fault::other(format!("the method '{name}' of mappings is not supported"))),
            },
            Value::List(_) | Value::Tuple(_) | Value::Range(..) => match name {
                "copy" => {
                    args.positional::<0>(name, 0)?;
                    Ok(value.clone())
                }
                "count" => {
                    let [item] = args.positional(name, 1)?;
                    let item = item.unwrap_or(Value::None);
                    Ok(Value::Int(self.items(value)?.iter().filter(|found| found.same(&item)).count() as i128))
                }
                _ => self.index_of(value, args),
            },
            Value::Int(_) | Value::Bool(_) => {
                args.positional::<0>(name, 0)?;
                let number = value.as_int().unwrap_or(0);
                match name {
                    "bit_length" => Ok(Value::Int((128 - number.unsigned_abs().leading_zeros()).into())),
                    "bit_count" => Ok(Value::Int(number.unsigned_abs().count_ones().into())),
                    "conjugate" => Ok(Value::Int(number)),
                    _ => Value::tuple(vec![Value::Int(number), Value::Int(1)]),
                }
            }
            Value::Float(number) => {
                args.positional::<0>(name, 0)?;
                match name {
                    "is_integer" => Ok(Value::Bool(number.is_finite() && number.fract() == 0.0)),
                    "conjugate" => Ok(value.clone()),
                    _ => Err(Fault::other(format!("the method '{name}' of {} is not supported", float_text(*number)))),
                }
            }
            Value::Cycler(number) => {
                args.positional::<0>(name, 0)?;
                let (items, at) = &mut self.cyclers[*number];
                let current = items.get(*at).cloned().unwrap_or(Value::None);
                *at = if name == "next" { (*at + 1) % items.len().max(1) } else { 0 };
                Ok(if name == "next" { current } else { Value::None })
            }
            Value::Loop(number) => self.loop_method(*number, name, args),
            other => Err(Fault::other(format!("the method '{name}' of {} is not supported", other.type_name()))),
        }
    }

    /// `index(value, start, stop)` of a sequence.
    fn index_of(&mut self, value: &Value, args: Args) -> Result<Value> {
        let [item, start, stop] = args.positional("index", 1)?;
        let item = item.unwrap_or(Value::None);
        let items = self.items(value)?;
        let length = items.len() as i64;
        let bound = |bound: Option<Value>, default: i64| -> Result<i64> {
            let at = bound.map_or(Ok(default), |bound| int(&bound))?;
            Ok(if at < 0 { (at + length).max(0) } else { at })
        };
        let (start, stop) = (bound(start, 0)?, bound(stop, i64::MAX)?);
        let inside = |at: usize| (at as i64) >= start && (at as i64) < stop;
        let found = items.iter().enumerate().position(|(at, found)| inside(at) && found.same(&item));
        let missing = || Fault::value_error("the value is not in the sequence");
        found.map(|at| Value::Int(at as i128)).ok_or_else(missing)
    }

    fn text_method(&mut self, content: &str, name: &str, args: Args) -> Result<Value> {
        let all = |test: fn(char) -> bool| Value::Bool(!content.is_empty() && content.chars().all(test));
        let made = match name {
            "upper" | "lower" | "casefold" | "capitalize" | "title" | "swapcase" => {
                args.positional::<0>(name, 0)?;
                Value::text(match name {
                    "upper" => content.to_uppercase(),
                    "lower" => content.to_lowercase(),
                    "casefold" => content.to_lowercase().replace('ß', "ss").replace('ς', "σ"),
                    "capitalize" => capitalize(content),
                    "title" => title(content),
                    _ => swapcase(content),
                })
            }
            "isalnum" | "isalpha" | "isascii" | "isdecimal" | "isdigit" | "isidentifier" | "islower" | "isnumeric"
            | "isprintable" | "isspace" | "istitle" | "isupper" => {
                args.positional::<0>(name, 0)?;
                match name {
                    "isalnum" => all(|c| c.is_alphanumeric() || is_numeric(c)),
                    "isalpha" => all(|c| c.is_alphabetic() && !c.is_numeric()),
                    "isascii" => Value::Bool(content.is_ascii()),
                    "isdecimal" => all(|c| decimal_digit(c).is_some()),
                    "isdigit" => all(is_digit),
                    "isidentifier" => {
                        let first = content.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic());
                        Value::Bool(first && content.chars().all(|c| c == '_' || c.is_alphanumeric()))
                    }
                    "isnumeric" => all(is_numeric),
                    "isprintable" => Value::Bool(content.chars().all(is_printable)),
                    "isspace" => all(is_space),
                    "istitle" => Value::Bool(is_title(content)),
                    _ => Value::Bool(is_case(content, name == "isupper")),
                }
            }
            "strip" | "lstrip" | "rstrip" => {
                let [set] = args.positional(name, 0)?;
                let set = set.filter(|set| !matches!(set, Value::None));
                let set = set.as_ref().map(text).transpose()?;
                let inside = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
                Value::text(match name {
                    "strip" => content.trim_matches(inside),
                    "lstrip" => content.trim_start_matches(inside),
                    _ => content.trim_end_matches(inside),
                })
            }
            "split" | "rsplit" => return self.split(content, name == "rsplit", args),
            "splitlines" => {
                let [keep] = args.bind(name, ["keepends"], 0)?;
                let lines = splitlines(content, keep.is_some_and(|keep| keep.truth()));
                self.charge_items(lines.len())?;
                return Value::list(lines.into_iter().map(Value::text).collect());
            }
            "removeprefix" | "removesuffix" => {
                let [affix] = args.positional(name, 1)?;
                let affix = affix.unwrap_or(Value::None);
                let affix = text(&affix)?;
                let rest = match name {
                    "removeprefix" => content.strip_prefix(affix),
                    _ => content.strip_suffix(affix),
                };
                Value::text(rest.unwrap_or(content))
            }
            "partition" | "rpartition" => {
                let [separator] = args.positional(name, 1)?;
                let separator = separator.unwrap_or(Value::None);
                let separator = text(&separator)?;
                if separator.is_empty() {
                    return Err(Fault::value_error("empty separator"));
                }
                let parts = match name {
                    "partition" => content.split_once(separator).map(|(before, after)| [before, separator, after]),
                    _ => content.rsplit_once(separator).map(|(before, after)| [before, separator, after]),
                };
                let whole = if name == "partition" { [content, "", ""] } else { ["", "", content] };
                return Value::tuple(parts.unwrap_or(whole).map(Value::text).to_vec());
            }
            "startswith" | "endswith" => {
                let [affix, start, stop] = args.positional(name, 1)?;
                let part = part(content, start, stop)?;
                let affix = affix.unwrap_or(Value::None);
                let affixes = match &affix {
                    Value::Tuple(items) => items.items.clone(),
                    other => vec![other.clone()],
                };
                let mut found = false;
                for affix in &affixes {
                    let affix = text(affix)?;
                    let Some((part, _)) = part else { continue };
                    found |= if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) };
                }
                Value::Bool(found)
            }
            "find" | "rfind" | "index" | "rindex" | "count" => {
                let [wanted, start, stop] = args.positional(name, 1)?;
                let wanted = wanted.unwrap_or(Value::None);
                let wanted = text(&wanted)?;
                let part = part(content, start, stop)?;
                if name == "count" {
                    let count = part.map_or(0, |(part, _)| match wanted.is_empty() {
                        true => part.chars().count() + 1,
                        false => part.matches(wanted).count(),
                    });
                    return Ok(Value::Int(count as i128));
                }
                let found = part.and_then(|(part, offset)| {
                    let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) }?;
                    Some(offset + part[..at].chars().count())
                });
                match found {
                    Some(at) => Value::Int(at as i128),
                    None if name.ends_with("index") => return Err(Fault::value_error("substring not found")),
                    None => Value::Int(-1),
                }
            }
            "replace" => {
                let [old, new, count] = args.bind(name, ["", "", "count"], 2)?;
                let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
                let count = count.map_or(Ok(-1), |count| int(&count))?;
                Value::text(self.replaced(content, text(&old)?, text(&new)?, count)?)
            }
            "join" => {
                let [items] = args.positional(name, 1)?;
                let mut joined = String::new();
                for (at, item) in self.items(&items.unwrap_or(Value::None))?.iter().enumerate() {
                    let item = text(item)?;
                    self.charge_bytes(item.len() + content.len())?;
                    if at > 0 {
                        joined.push_str(content);
                    }
                    joined.push_str(item);
                }
                Value::text(joined)
            }
            "center" | "ljust" | "rjust" | "zfill" => {
                let [width, fill] = args.positional(name, 1)?;
                let width = usize::try_from(int(&width.unwrap_or(Value::None))?).unwrap_or(0);
                self.charge_bytes(width)?;
                if name == "zfill" {
                    let (sign, digits) = content.split_at(usize::from(content.starts_with(['+', '-'])));
                    let room = width.saturating_sub(sign.len());
                    return Ok(Value::text(format!("{sign}{}", padded(digits, room, '0', |missing| missing))));
                }
                let fill = match &fill {
                    Some(fill) => text(fill)?,
                    None => " ",
                };
                let mut fills = fill.chars();
                let (Some(fill), None) = (fills.next(), fills.next()) else {
                    return Err(Fault::type_error("the fill character must be exactly one character long"));
                };
                Value::text(padded(content, width, fill, |missing| match name {
                    "center" => center_left(missing, width),
                    "ljust" => 0,
                    _ => missing,
                }))
            }
            "expandtabs" => {
                let [size] = args.bind(name, ["tabsize"], 0)?;
                let size = usize::try_from(size.map_or(Ok(8), |size| int(&size))?).unwrap_or(0);
                self.charge_bytes(content.matches('\t').count().saturating_mul(size))?;
                Value::text(expandtabs(content, size))
            }
            "format" => Value::text(str_format(self, content, &args)?),
            "format_map" => {
                let [named] = args.positional(name, 1)?;
                let Some(Value::Dict(dict)) = named else { return Err(Fault::type_error("a mapping is expected")) };
                let entry =
                    |(name, value): &(Value, Value)| Some((std::sync::Arc::from(name.as_str()?), value.clone()));
                let named = dict.entries.iter().filter_map(entry).collect();
                Value::text(str_format(self, content, &Args { positional: Vec::new(), named })?)
            }
            _ => return Err(Fault::other(format!("the method '{name}' of strings is not supported"))),
        };
        if let Some(text) = made.as_str() {
            self.charge_bytes(text.len())?;
        }
        Ok(made)
    }

    fn split(&mut self, content: &str, from_right: bool, args: Args) -> Result<Value> {
        let [separator, most] = args.bind("split", ["sep", "maxsplit"], 0)?;
        let separator = separator.filter(|separator| !matches!(separator, Value::None));
        let separator = separator.as_ref().map(text).transpose()?;
        // A negative number means as many as there are, as in Python.
        let most = most.map_or(Ok(-1), |most| int(&most))?;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut parts: Vec<&str> = match separator {
            Some("") => return Err(Fault::value_error("empty separator")),
            Some(separator) if from_right => content.rsplitn(most.saturating_add(1), separator).collect(),
            Some(separator) => content.splitn(most.saturating_add(1), separator).collect(),
            None if from_right => words_from_right(content, most),
            None => words(content, most),
        };
        if from_right {
            parts.reverse();
        }
        self.charge_items(parts.len())?;
        Value::list(parts.into_iter().map(Value::text).collect())
    }
}

/// The part of a text between two positions, and the index of its first character; `None` if they are in the wrong
/// order.
fn part(content: &str, start: Option<Value>, stop: Option<Value>) -> Result<Option<(&str, usize)>> {
    let given = |bound: Option<Value>| bound.filter(|bound| !matches!(bound, Value::None));
    let (start, stop) = (given(start), given(stop));
    if start.is_none() && stop.is_none() {
        return Ok(Some((content, 0)));
    }
    let length = content.chars().count() as i64;
    let bound = |bound: Option<Value>, default: i64| -> Result<i64> {
        let at = bound.map_or(Ok(default), |bound| int(&bound))?;
        Ok(if at < 0 { at.saturating_add(length).max(0) } else { at })
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?.min(length));
    if start > stop {
        return Ok(None);
    }
    let offset = |at: i64| content.char_indices().nth(at as usize).map_or(content.len(), |(offset, _)| offset);
    Ok(Some((&content[offset(start)..offset(stop)], start as usize)))
}

fn is_title(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for character in text.chars() {
        let (upper, lower) = (character.is_uppercase(), character.is_lowercase());
        if (upper && inside) || (lower && !inside) {
            return false;
        }
        inside = upper || lower;
        any |= inside;
    }
    any
}

fn expandtabs(text: &str, size: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let width = size - column % size;
                out.extend(std::iter::repeat_n(' ', width));
                column += width;
            }
            '\t' => {}
            _ => {
                column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
                out.push(character);
            }
        }
    }
    out
}

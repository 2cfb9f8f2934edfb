//! Jinja's filters.

mod sequences;
mod words;

use super::arguments::{Args, int, text};
use super::attributes::path_parts;
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::numbers::{parse_float, parse_int, truncated};
use super::printf::printf;
use super::text::{capitalize, center_left, escaped, is_space, padded};
use super::value::Value;

const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "items",
    "map",
    "min",
    "max",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
    "tojson",
];

/// Whether there is a filter of this name.
pub(super) fn is_filter(name: &str) -> bool {
    NAMES.contains(&name)
}

/// An argument, unless it is missing or `none`.
fn given(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !matches!(value, Value::None))
}

fn truth(value: &Option<Value>, default: bool) -> bool {
    value.as_ref().map_or(default, Value::truth)
}

fn number(value: Option<Value>, default: i64) -> Result<i64> {
    value.map_or(Ok(default), |value| int(&value))
}

impl<'t> Machine<'t> {
    /// `value|name(…)`.
    pub(super) fn filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value> {
        self.charge_bytes(value.as_str().map_or(0, str::len))?;
        match name {
            "abs" => {
                args.bind::<0>(name, [], 0)?;
                match (&value, value.as_int()) {
                    (Value::Undefined(message), _) => Err(Fault::undefined(message)),
                    (Value::Float(number), _) => Ok(Value::Float(number.abs())),
                    (_, Some(number)) => Ok(Value::Int(number.abs())),
                    _ => Err(Fault::type_error(format!("bad operand type for abs(): '{}'", value.type_name()))),
                }
            }
            "attr" => {
                let [attribute] = args.bind(name, ["name"], 1)?;
                let attribute = attribute.unwrap_or(Value::None);
                let attribute = text(&attribute)?;
                if self.has_attribute(&value, attribute)? {
                    return self.attribute(&value, attribute);
                }
                Ok(Value::undefined(format!("'{} object' has no attribute '{attribute}'", value.type_name())))
            }
            "default" | "d" => {
                let [default, boolean] = args.bind(name, ["default_value", "boolean"], 0)?;
                let missing = matches!(value, Value::Undefined(_)) || (truth(&boolean, false) && !value.truth());
                Ok(if missing { default.unwrap_or_else(|| Value::text("")) } else { value })
            }
            "float" => {
                let [default] = args.bind(name, ["default"], 0)?;
                match float(&value) {
                    Ok(number) => Ok(Value::Float(number)),
                    Err(fault) if fault.is_conversion() => Ok(default.unwrap_or(Value::Float(0.0))),
                    Err(fault) => Err(fault),
                }
            }
            "int" => {
                let [default, base] = args.bind(name, ["default", "base"], 0)?;
                let base = number(base, 10)?;
                let first = match &value {
                    Value::Str(text) | Value::Markup(text) => parse_int(text, base),
                    Value::Float(number) => truncated(*number),
                    Value::Undefined(message) => Err(Fault::undefined(message)),
                    _ => value.as_int().ok_or_else(|| Fault::type_error("int() expects a number or a string")),
                };
                match first {
                    Ok(number) => return Ok(Value::Int(number)),
                    Err(fault) if fault.is_conversion() => {}
                    Err(fault) => return Err(fault),
                }
                match float(&value).and_then(truncated) {
                    Ok(number) => Ok(Value::Int(number)),
                    Err(fault) if fault.kind == super::fault::Kind::Undefined => Err(fault),
                    Err(_) => Ok(default.unwrap_or(Value::Int(0))),
                }
            }
            "round" => self.round(&value, args),
            "length" | "count" => {
                args.bind::<0>(name, [], 0)?;
                Ok(Value::Int(self.length(&value)? as i128))
            }
            "string" => {
                args.bind::<0>(name, [], 0)?;
                match value {
                    Value::Str(_) | Value::Markup(_) => Ok(value),
                    _ => Ok(Value::text(self.str(&value)?)),
                }
            }
            "safe" | "forceescape" | "escape" | "e" => {
                args.bind::<0>(name, [], 0)?;
                match &value {
                    Value::Markup(_) if name != "forceescape" => Ok(value),
                    _ => {
                        let text = self.str(&value)?;
                        Ok(Value::Markup(if name == "safe" { text } else { escaped(&text) }.into()))
                    }
                }
            }
            "tojson" => self.tojson(&value, args),
            "pprint" => self.pprint(&value, args),
            "format" => {
                let format = self.str(&value)?;
                if !args.positional.is_empty() && !args.named.is_empty() {
                    return Err(Fault::other("format takes positional or keyword arguments, not both"));
                }
                let values = match args.named.is_empty() {
                    true => Value::tuple(args.positional)?,
                    false => {
                        let named = args.named.into_iter().map(|(name, value)| (Value::Str(name), value));
                        Value::dict_of_distinct(named.collect())?
                    }
                };
                Ok(Value::text(printf(self, &format, &values)?))
            }
            "random" => {
                Err(Fault::other("the filter 'random' is not supported, because renderings must be reproducible"))
            }
            "upper" | "lower" | "capitalize" | "title" | "center" | "trim" | "replace" | "indent" | "truncate"
            | "wordcount" | "wordwrap" | "striptags" | "urlize" | "urlencode" | "xmlattr" | "filesizeformat" => {
                self.text_filter(name, value, args)
            }
            _ if is_filter(name) => self.sequence_filter(name, value, args),
            _ => Err(Fault::other(format!("unknown filter '{name}'"))),
        }
    }

    fn text_filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value> {
        let marked = matches!(value, Value::Markup(_));
        let remarked = |text: String| if marked { Value::Markup(text.into()) } else { Value::text(text) };
        match name {
            "upper" | "lower" | "capitalize" | "title" => {
                args.bind::<0>(name, [], 0)?;
                let text = self.str(&value)?;
                Ok(remarked(match name {
                    "upper" => text.to_uppercase(),
                    "lower" => text.to_lowercase(),
                    "capitalize" => capitalize(&text),
                    _ => words::title(&text),
                }))
            }
            "center" => {
                let [width] = args.bind(name, ["width"], 0)?;
                let width = usize::try_from(number(width, 80)?).unwrap_or(0);
                self.charge_bytes(width)?;
                let text = self.str(&value)?;
                Ok(remarked(padded(&text, width, ' ', |missing| center_left(missing, width))))
            }
            "trim" => {
                let [characters] = args.bind(name, ["chars"], 0)?;
                let text = self.str(&value)?;
                Ok(remarked(match given(characters) {
                    None => text.trim_matches(is_space).to_owned(),
                    Some(characters) => {
                        let set = super::arguments::text(&characters)?;
                        text.trim_matches(|c| set.contains(c)).to_owned()
                    }
                }))
            }
            "replace" => {
                let [old, new, count] = args.bind(name, ["old", "new", "count"], 2)?;
                let text = self.str(&value)?;
                let (old, new) = (self.str(&old.unwrap_or(Value::None))?, self.str(&new.unwrap_or(Value::None))?);
                let count = number(given(count), -1)?;
                Ok(Value::text(self.replaced(&text, &old, &new, count)?))
            }
            "indent" => {
                let [width, first, blank] = args.bind(name, ["width", "first", "blank"], 0)?;
                let indention = match &width {
                    Some(width) if width.as_str().is_some() => width.as_str().unwrap_or_default().to_owned(),
                    _ => {
                        let width = usize::try_from(number(width, 4)?).unwrap_or(0);
                        self.charge_bytes(width)?;
                        " ".repeat(width)
                    }
                };
                let content = text(&value)?;
                let lines = content.matches('\n').count() + 1;
                self.charge_bytes(indention.len().saturating_mul(lines))?;
                Ok(remarked(words::indent(content, &indention, truth(&first, false), truth(&blank, false))))
            }
            "truncate" => {
                let names = ["length", "killwords", "end", "leeway"];
                let [length, killwords, end, leeway] = args.bind(name, names, 0)?;
                let (length, leeway) = (number(length, 255)?, number(given(leeway), 5)?);
                let end = match &end {
                    Some(end) => super::arguments::text(end)?,
                    None => "...",
                };
                self.truncate(&value, length, truth(&killwords, false), end, leeway)
            }
            "wordcount" => {
                args.bind::<0>(name, [], 0)?;
                Ok(Value::Int(words::count(&self.str(&value)?) as i128))
            }
            "wordwrap" => {
                let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
                let [width, break_long, wrap, hyphens] = args.bind(name, names, 0)?;
                let width = usize::try_from(number(width, 79)?).unwrap_or(0);
                if width == 0 {
                    return Err(Fault::value_error("invalid width"));
                }
                let wrap = given(wrap);
                let wrap = match &wrap {
                    Some(wrap) => super::arguments::text(wrap)?,
                    None => "\n",
                };
                let (break_long, hyphens) = (truth(&break_long, true), truth(&hyphens, true));
                Ok(Value::text(words::wrap(text(&value)?, width, wrap, break_long, hyphens)))
            }
            "striptags" => {
                args.bind::<0>(name, [], 0)?;
                Ok(Value::text(words::striptags(&self.str(&value)?)))
            }
            "urlencode" => self.urlencode(&value, args),
            "xmlattr" => self.xmlattr(&value, args),
            "filesizeformat" => {
                let [binary] = args.bind(name, ["binary"], 0)?;
                Ok(Value::text(words::filesize(float(&value)?, truth(&binary, false))))
            }
            _ => Err(Fault::other("the filter 'urlize' is not supported")),
        }
    }

    /// Python's `text.replace(old, new, count)`; a negative count means all.
    pub(super) fn replaced(&mut self, text: &str, old: &str, new: &str, count: i64) -> Result<String> {
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
        self.charge_bytes(text.len() + found.min(most).saturating_mul(new.len()))?;
        if old.is_empty() && most > text.chars().count() {
            // Rust counts the position after the last character too, as Python does.
            return Ok(text.replace(old, new));
        }
        Ok(text.replacen(old, new, most))
    }

    fn truncate(&mut self, value: &Value, length: i64, killwords: bool, end: &str, leeway: i64) -> Result<Value> {
        let end_length = end.chars().count() as i64;
        if length < end_length || leeway < 0 {
            return Err(Fault::other(format!(
                "truncate: a length of at least {end_length} and a leeway of at least 0"
            )));
        }
        let size = self.length(value)? as i64;
        if size <= length.saturating_add(leeway) {
            return Ok(value.clone());
        }
        let text = text(value)?;
        let kept: String = text.chars().take((length - end_length) as usize).collect();
        let kept =
            if killwords { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(kept, _)| kept) };
        Ok(Value::text(format!("{kept}{end}")))
    }

    fn round(&mut self, value: &Value, args: Args) -> Result<Value> {
        let [precision, method] = args.bind("round", ["precision", "method"], 0)?;
        let precision = number(precision, 0)?;
        let method = match &method {
            Some(method) => text(method)?,
            None => "common",
        };
        if !["common", "ceil", "floor"].contains(&method) {
            return Err(Fault::other("round: the method must be common, ceil or floor"));
        }
        if let Value::Undefined(message) = value {
            return Err(Fault::undefined(message));
        }
        let wrong = || Fault::type_error(format!("type {} doesn't define __round__ method", value.type_name()));
        if method == "common" {
            return match (value, value.as_int()) {
                (_, Some(number)) if precision >= 0 => Ok(Value::Int(number)),
                (_, Some(number)) => Ok(Value::Int(round_int(number, precision.unsigned_abs()))),
                (Value::Float(number), _) => Ok(Value::Float(round_float(*number, precision))),
                _ => Err(wrong()),
            };
        }
        let size = value.as_float().ok_or_else(wrong)?;
        let power = 10_f64.powi(precision.clamp(-400, 400) as i32);
        let scaled = size * power;
        let whole = truncated(if method == "ceil" { scaled.ceil() } else { scaled.floor() })? as f64;
        Ok(Value::Float(whole / power))
    }
}

fn round_int(number: i128, digits: u64) -> i128 {
    let Some(power) = u32::try_from(digits).ok().and_then(|digits| 10_i128.checked_pow(digits)) else { return 0 };
    let (low, rest) = (number.div_euclid(power), number.rem_euclid(power));
    let up = match (rest * 2).cmp(&power) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => low % 2 != 0,
        std::cmp::Ordering::Greater => true,
    };
    (low + i128::from(up)) * power
}

fn round_float(number: f64, precision: i64) -> f64 {
    if !number.is_finite() {
        return number;
    }
    if precision >= 0 {
        // The digits of a float are exact in Rust too, and halves are rounded to even.
        let digits = usize::try_from(precision.min(340)).unwrap_or(340);
        return format!("{number:.digits$}").parse().unwrap_or(number);
    }
    let power = 10_f64.powi(precision.unsigned_abs().min(400) as i32);
    (number / power).round_ties_even() * power
}

/// Python's `float(value)`.
pub(super) fn float(value: &Value) -> Result<f64> {
    match value {
        Value::Undefined(message) => Err(Fault::undefined(message)),
        Value::Str(text) | Value::Markup(text) => parse_float(text),
        _ => value.as_float().ok_or_else(|| Fault::type_error("float() expects a number or a string")),
    }
}

/// The paths of a comma-separated list.
pub(super) fn paths(attribute: &Value) -> Vec<Vec<Value>> {
    match attribute.as_str() {
        Some(text) => text.split(',').map(|path| path_parts(&Value::text(path))).collect(),
        None => vec![path_parts(attribute)],
    }
}

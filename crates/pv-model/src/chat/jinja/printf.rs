//! `format % values`.

use super::arguments::int;
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::numbers::{float_format, truncated};
use super::value::Value;

/// The widest field. Python has no limit, but memory is limited.
pub(super) const WIDEST: usize = 1 << 16;

/// Flags, width and precision of a conversion.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "Python's five flags")]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
}

/// The source of the values.
struct Values<'a> {
    items: Vec<Value>,
    next: usize,
    single: &'a Value,
    named: bool,
}

impl Values<'_> {
    fn take(&mut self) -> Result<Value> {
        self.next += 1;
        let missing = || Fault::type_error("not enough arguments for format string");
        self.items.get(self.next - 1).cloned().ok_or_else(missing)
    }
}

/// Python's `format % values`.
pub(super) fn printf(machine: &mut Machine<'_>, format: &str, values: &Value) -> Result<String> {
    let items = match values {
        Value::Tuple(items) => items.items.clone(),
        other => vec![other.clone()],
    };
    let mut values = Values { items, next: 0, single: values, named: false };
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = one(machine, &rest[at + 1..], &mut values, &mut out)?;
        machine.charge_bytes(out.len() / 16)?;
    }
    out.push_str(rest);
    let lacks_sequence =
        matches!(values.single, Value::Dict(_) | Value::List(_) | Value::Range(..) | Value::Undefined(_));
    if values.next < values.items.len() && !values.named && !lacks_sequence {
        return Err(Fault::type_error("not all arguments converted during string formatting"));
    }
    machine.charge_bytes(out.len())?;
    Ok(out)
}

/// One conversion, after its `%`; returns the remaining text.
fn one<'a>(machine: &mut Machine<'_>, text: &'a str, values: &mut Values<'_>, out: &mut String) -> Result<&'a str> {
    let incomplete = || Fault::value_error("incomplete format");
    let mut rest = text;
    let mut value = None;
    if let Some(named) = rest.strip_prefix('(') {
        let mut depth = 1;
        let end = named.char_indices().find(|(_, character)| {
            depth += i32::from(*character == '(') - i32::from(*character == ')');
            depth == 0
        });
        let (end, _) = end.ok_or_else(|| Fault::value_error("incomplete format key"))?;
        let Value::Dict(dict) = values.single else { return Err(Fault::type_error("format requires a mapping")) };
        let missing = || Fault::other(format!("missing value '{}' in a format string", &named[..end]));
        value = Some(dict.text(&named[..end]).cloned().ok_or_else(missing)?);
        values.named = true;
        rest = &named[end + 1..];
    }
    let mut spec = Spec::default();
    loop {
        match rest.chars().next() {
            Some('-') => spec.left = true,
            Some('+') => spec.plus = true,
            Some(' ') => spec.space = true,
            Some('#') => spec.alternate = true,
            Some('0') => spec.zero = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let number = |rest: &mut &'a str, values: &mut Values<'_>| -> Result<Option<i64>> {
        if let Some(after) = rest.strip_prefix('*') {
            *rest = after;
            let width = values.take()?;
            return int(&width).map(Some).map_err(|_| Fault::type_error("* wants int"));
        }
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, after) = rest.split_at(length);
        *rest = after;
        Ok(if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(i64::MAX)) })
    };
    if let Some(width) = number(&mut rest, values)? {
        spec.left |= width < 0;
        spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(usize::try_from(number(&mut rest, values)?.unwrap_or(0)).unwrap_or(0));
    }
    if spec.width > WIDEST || spec.precision.is_some_and(|precision| precision > WIDEST) {
        return Err(Fault::runaway("steps and memory"));
    }
    rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
    let conversion = rest.chars().next().ok_or_else(incomplete)?;
    let after = &rest[conversion.len_utf8()..];
    if conversion == '%' {
        out.push('%');
        return Ok(after);
    }
    let value = match value {
        Some(value) => value,
        None => values.take()?,
    };
    out.push_str(&converted(machine, conversion, &value, &spec)?);
    Ok(after)
}

fn converted(machine: &mut Machine<'_>, conversion: char, value: &Value, spec: &Spec) -> Result<String> {
    let text = match conversion {
        's' | 'r' | 'a' => {
            let text = match conversion {
                's' => machine.str(value)?,
                'r' => machine.repr(value)?,
                _ => ascii(&machine.repr(value)?),
            };
            return Ok(pad(
                "",
                &text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect::<String>(),
                spec,
                false,
            ));
        }
        'c' => match (value.as_str(), value.as_int()) {
            (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
            (_, Some(code)) => {
                let character = u32::try_from(code).ok().and_then(char::from_u32);
                let bad = || Fault::new(super::fault::Kind::Overflow, "%c arg not in range(0x110000)");
                character.ok_or_else(bad)?.to_string()
            }
            _ => return Err(Fault::type_error("%c requires int or char")),
        },
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let decimal = matches!(conversion, 'd' | 'i' | 'u');
            let number = match (value, value.as_int()) {
                (Value::Float(number), _) if decimal => truncated(*number)?,
                (Value::Undefined(message), _) if decimal => return Err(Fault::undefined(message)),
                (_, Some(number)) => number,
                _ => {
                    let name = value.type_name();
                    return Err(Fault::type_error(format!("%{conversion} format: a number is required, not {name}")));
                }
            };
            let size = number.unsigned_abs();
            let (prefix, digits) = match conversion {
                'o' => ("0o", format!("{size:o}")),
                'x' => ("0x", format!("{size:x}")),
                'X' => ("0X", format!("{size:X}")),
                _ => ("", size.to_string()),
            };
            let digits = format!("{digits:0>width$}", width = spec.precision.unwrap_or(0));
            let prefix = if spec.alternate { prefix } else { "" };
            return Ok(pad(&format!("{}{prefix}", sign(number < 0, spec)), &digits, spec, true));
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = match (value, value.as_float()) {
                (_, Some(number)) => number,
                (Value::Undefined(message), _) => return Err(Fault::undefined(message)),
                _ => return Err(Fault::type_error(format!("must be real number, not {}", value.type_name()))),
            };
            let text = float_format(number.abs(), conversion, spec.precision.unwrap_or(6), spec.alternate);
            let negative = number.is_sign_negative() && !number.is_nan();
            return Ok(pad(sign(negative, spec), &text, spec, true));
        }
        other => return Err(Fault::value_error(format!("unsupported format character '{other}'"))),
    };
    Ok(pad("", &text, spec, false))
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match negative {
        true => "-",
        false if spec.plus => "+",
        false if spec.space => " ",
        false => "",
    }
}

/// `prefix` and `text` in a field, with zeros between them for numbers with that flag.
fn pad(prefix: &str, text: &str, spec: &Spec, number: bool) -> String {
    let missing = spec.width.saturating_sub(prefix.chars().count() + text.chars().count());
    if spec.left {
        format!("{prefix}{text}{}", " ".repeat(missing))
    } else if spec.zero && number {
        format!("{prefix}{}{text}", "0".repeat(missing))
    } else {
        format!("{}{prefix}{text}", " ".repeat(missing))
    }
}

/// Text with non-ASCII characters as escapes.
pub(super) fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match u32::from(character) {
            0..=0x7f => out.push(character),
            code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}

//! `"…".format(…)`.

use super::arguments::Args;
use super::fault::{Fault, Result};
use super::machine::Machine;
use super::numbers::{float_format, float_text};
use super::printf::{WIDEST, ascii};
use super::text::padded;
use super::value::Value;

struct Fields<'a> {
    args: &'a Args,
    /// The number of the next unnamed field; `None` if fields are numbered.
    automatic: Option<usize>,
    numbered: bool,
}

/// Python's `text.format(*args, **kwargs)`.
pub(super) fn str_format(machine: &mut Machine<'_>, text: &str, args: &Args) -> Result<String> {
    let mut fields = Fields { args, automatic: Some(0), numbered: false };
    let out = format_text(machine, text, &mut fields, 2)?;
    machine.charge_bytes(out.len())?;
    Ok(out)
}

fn format_text(machine: &mut Machine<'_>, text: &str, fields: &mut Fields<'_>, levels: u32) -> Result<String> {
    let Some(levels) = levels.checked_sub(1) else {
        return Err(Fault::value_error("max string recursion exceeded"));
    };
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(Fault::value_error("single '}' encountered in format string"));
        }
        let mut depth = 1;
        let end = rest.char_indices().find(|(_, character)| {
            depth += i32::from(*character == '{') - i32::from(*character == '}');
            depth == 0
        });
        let Some((end, _)) = end else {
            return Err(Fault::value_error("expected '}' before end of string"));
        };
        out.push_str(&field(machine, &rest[..end], fields, levels)?);
        machine.charge_bytes(out.len() / 16)?;
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn field(machine: &mut Machine<'_>, code: &str, fields: &mut Fields<'_>, levels: u32) -> Result<String> {
    // The name may contain brackets with any characters inside.
    let mut inside = false;
    let name_end = code.find(|c: char| {
        inside = (inside || c == '[') && c != ']';
        !inside && matches!(c, ':' | '!')
    });
    let (name, rest) = code.split_at(name_end.unwrap_or(code.len()));
    let (conversion, spec) = match rest.strip_prefix('!') {
        Some(rest) => {
            let conversion = rest.chars().next();
            let after = &rest[conversion.map_or(0, char::len_utf8)..];
            match after.strip_prefix(':') {
                Some(spec) => (conversion, spec),
                None if after.is_empty() && conversion.is_some() => (conversion, ""),
                None => return Err(Fault::value_error("expected ':' after conversion specifier")),
            }
        }
        None => (None, rest.strip_prefix(':').unwrap_or("")),
    };
    let value = named(machine, name, fields)?;
    let value = match conversion {
        None => value,
        Some('s') => Value::text(machine.str(&value)?),
        Some('r') => Value::text(machine.repr(&value)?),
        Some('a') => Value::text(ascii(&machine.repr(&value)?)),
        Some(other) => return Err(Fault::value_error(format!("unknown conversion specifier '{other}'"))),
    };
    let spec = if spec.contains(['{', '}']) { format_text(machine, spec, fields, levels)? } else { spec.to_owned() };
    formatted(machine, &value, &spec)
}

/// The value of a field's name: an argument, then its attributes and items.
fn named(machine: &mut Machine<'_>, name: &str, fields: &mut Fields<'_>) -> Result<Value> {
    let first_end = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(first_end);
    let switch =
        || Fault::value_error("cannot switch between manual field specification and automatic field numbering");
    let at = match first {
        "" => {
            let at = fields.automatic.filter(|_| !fields.numbered).ok_or_else(switch)?;
            fields.automatic = Some(at + 1);
            Some(at)
        }
        _ if first.bytes().all(|byte| byte.is_ascii_digit()) => {
            if fields.automatic.is_some_and(|at| at > 0) {
                return Err(switch());
            }
            fields.numbered = true;
            Some(first.parse().unwrap_or(usize::MAX))
        }
        _ => None,
    };
    let found = match at {
        Some(at) => fields.args.positional.get(at).cloned(),
        None => fields.args.named.iter().find(|(name, _)| **name == *first).map(|(_, value)| value.clone()),
    };
    let mut value = found.ok_or_else(|| Fault::other(format!("missing value for the field '{name}'")))?;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            if end == 0 {
                return Err(Fault::value_error("empty attribute in format string"));
            }
            value = machine.attribute(&value, &after[..end])?;
            rest = &after[end..];
        } else {
            let after = &rest[1..];
            let end = after.find(']').ok_or_else(|| Fault::value_error("missing ']' in format string"))?;
            let index = &after[..end];
            if index.is_empty() {
                return Err(Fault::value_error("empty attribute in format string"));
            }
            let number = index.parse().ok().filter(|_| index.bytes().all(|byte| byte.is_ascii_digit()));
            let index = number.map_or_else(|| Value::text(index), Value::Int);
            value = machine.item(&value, &index)?;
            rest = &after[end + 1..];
            if !rest.is_empty() && !rest.starts_with(['.', '[']) {
                return Err(Fault::value_error("only '.' or '[' may follow ']' in a format field"));
            }
        }
    }
    Ok(value)
}

/// `[[fill]align][sign][z][#][0][width][grouping][.precision][type]`
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

fn parse(spec: &str) -> Result<Spec> {
    let bad = || Fault::value_error(format!("invalid format specifier '{spec}'"));
    let characters: Vec<char> = spec.chars().collect();
    let is_align = |at: usize| characters.get(at).copied().filter(|c| matches!(c, '<' | '>' | '=' | '^'));
    let (mut fill, mut align, mut at) = match (is_align(1), is_align(0)) {
        (Some(align), _) => (characters[0], Some(align), 2),
        (None, Some(align)) => (' ', Some(align), 1),
        (None, None) => (' ', None, 0),
    };
    let mut take = |wanted: &[char]| {
        let found = characters.get(at).copied().filter(|c| wanted.contains(c));
        at += usize::from(found.is_some());
        found
    };
    let sign = take(&['+', '-', ' ']).unwrap_or('-');
    take(&['z']);
    let alternate = take(&['#']).is_some();
    if take(&['0']).is_some() && align.is_none() {
        (fill, align) = ('0', Some('='));
    }
    let number = |at: &mut usize| -> Result<Option<usize>> {
        let digits: String =
            characters[(*at).min(characters.len())..].iter().take_while(|c| c.is_ascii_digit()).collect();
        *at += digits.len();
        let number = if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(usize::MAX)) };
        if number.is_some_and(|number| number > WIDEST) { Err(Fault::runaway("steps and memory")) } else { Ok(number) }
    };
    let width = number(&mut at)?.unwrap_or(0);
    let grouping = characters.get(at).copied().filter(|c| matches!(c, ',' | '_'));
    at += usize::from(grouping.is_some());
    let mut precision = None;
    if characters.get(at) == Some(&'.') {
        at += 1;
        precision = Some(number(&mut at)?.ok_or_else(|| Fault::value_error("format specifier missing precision"))?);
    }
    let kind = characters.get(at).copied();
    if at + usize::from(kind.is_some()) < characters.len() {
        return Err(bad());
    }
    Ok(Spec { fill, align, sign, alternate, width, grouping, precision, kind })
}

/// Python's `format(value, spec)`.
pub(super) fn formatted(machine: &mut Machine<'_>, value: &Value, spec: &str) -> Result<String> {
    if spec.is_empty() {
        return machine.str(value);
    }
    let unknown = |kind: char| {
        Err(Fault::value_error(format!("unknown format code '{kind}' for object of type '{}'", value.type_name())))
    };
    match value {
        Value::Str(text) | Value::Markup(text) => {
            let spec = parse(spec)?;
            if let Some(kind) = spec.kind.filter(|kind| *kind != 's') {
                return unknown(kind);
            }
            if spec.sign != '-'
                || spec.alternate
                || spec.grouping.is_some()
                || spec.align == Some('=') && spec.fill != '0'
            {
                return Err(Fault::value_error("a string takes no sign, grouping or '=' alignment"));
            }
            let text: String = text.chars().take(spec.precision.unwrap_or(usize::MAX)).collect();
            let align = spec.align.filter(|align| *align != '=').unwrap_or('<');
            Ok(aligned(&text, &spec, align))
        }
        Value::Int(_) | Value::Bool(_) => {
            let spec = parse(spec)?;
            let number = value.as_int().unwrap_or(0);
            let size = number.unsigned_abs();
            let (prefix, digits, group) = match spec.kind {
                None | Some('d' | 'n') => ("", size.to_string(), 3),
                Some('b') => ("0b", format!("{size:b}"), 4),
                Some('o') => ("0o", format!("{size:o}"), 4),
                Some('x') => ("0x", format!("{size:x}"), 4),
                Some('X') => ("0X", format!("{size:X}"), 4),
                Some('c') => {
                    let character = u32::try_from(number).ok().and_then(char::from_u32);
                    let bad = || Fault::new(super::fault::Kind::Overflow, "%c arg not in range(0x110000)");
                    let text = character.ok_or_else(bad)?.to_string();
                    return Ok(aligned(&text, &spec, spec.align.unwrap_or('<')));
                }
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => return float(number as f64, &spec),
                Some(other) => return unknown(other),
            };
            if spec.precision.is_some() {
                return Err(Fault::value_error("precision not allowed in integer format specifier"));
            }
            if spec.grouping == Some(',') && group == 4 {
                return Err(Fault::value_error("cannot specify ',' with this type"));
            }
            let prefix = if spec.alternate { prefix } else { "" };
            Ok(number_field(&format!("{}{prefix}", sign(number < 0, &spec)), &digits, "", &spec, group))
        }
        Value::Float(number) => float(*number, &parse(spec)?),
        _ => Err(Fault::type_error(format!("unsupported format string passed to {}.__format__", value.type_name()))),
    }
}

fn float(number: f64, spec: &Spec) -> Result<String> {
    let size = number.abs();
    let text = match spec.kind {
        None => match spec.precision {
            None => float_text(size),
            Some(precision) => {
                // Like `g`, but with a digit after the point.
                let text = float_format(size, 'g', precision, spec.alternate);
                let exponent = size.log10().floor();
                let plain = size == 0.0 || (exponent >= -4.0 && exponent < precision.max(1) as f64 - 1.0);
                if plain && !text.contains('.') && size.is_finite() { format!("{text}.0") } else { text }
            }
        },
        Some('%') => float_format(size * 100.0, 'f', spec.precision.unwrap_or(6), spec.alternate) + "%",
        Some('n') => float_format(size, 'g', spec.precision.unwrap_or(6), spec.alternate),
        Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G')) => {
            float_format(size, kind, spec.precision.unwrap_or(6), spec.alternate)
        }
        Some(other) => {
            return Err(Fault::value_error(format!("unknown format code '{other}' for object of type 'float'")));
        }
    };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let negative = number.is_sign_negative() && !number.is_nan();
    Ok(number_field(sign(negative, spec), digits, rest, spec, 3))
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    }
}

/// A number in its field: sign and prefix, grouped integer digits, the rest.
fn number_field(prefix: &str, digits: &str, rest: &str, spec: &Spec, group: usize) -> String {
    let zeros = spec.align == Some('=') && spec.fill == '0';
    let room = spec.width.saturating_sub(prefix.chars().count() + rest.chars().count());
    let digits = match spec.grouping {
        Some(separator) => grouped(digits, separator, group, if zeros { room } else { 0 }),
        None => digits.to_owned(),
    };
    let body = format!("{digits}{rest}");
    match spec.align.unwrap_or('>') {
        '=' => {
            let missing = spec.width.saturating_sub(prefix.chars().count() + body.chars().count());
            format!("{prefix}{}{body}", String::from_iter(std::iter::repeat_n(spec.fill, missing)))
        }
        align => aligned(&format!("{prefix}{body}"), spec, align),
    }
}

/// Digits in groups, with leading zeros up to a width.
fn grouped(digits: &str, separator: char, group: usize, width: usize) -> String {
    let mut reversed = String::new();
    let mut count = 0;
    let mut digits = digits.chars().rev();
    loop {
        let digit = match digits.next() {
            Some(digit) => digit,
            None if reversed.len() < width => '0',
            None => break,
        };
        if count > 0 && count % group == 0 {
            reversed.push(separator);
        }
        reversed.push(digit);
        count += 1;
    }
    reversed.chars().rev().collect()
}

fn aligned(text: &str, spec: &Spec, align: char) -> String {
    padded(text, spec.width, spec.fill, |missing| match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    })
}

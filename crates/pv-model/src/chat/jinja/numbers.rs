//! Converts numbers to text and text to numbers, as Python does.

use super::fault::{Fault, Result};
use super::text::{decimal_digit, is_space};

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(in crate::chat) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        return with_exponent(&format!("{value:e}"), 'e');
    }
    format!("{value:?}")
}

/// Rust's `1.5e7` as `1.5e+07`.
fn with_exponent(text: &str, letter: char) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}{letter}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The digits of a nonnegative number in the notation of `%e`, `%f` or `%g`.
pub(super) fn float_format(value: f64, notation: char, precision: usize, alternate: bool) -> String {
    let lower = notation.to_ascii_lowercase();
    let mut text = if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        "inf".to_owned()
    } else if lower == 'f' {
        let point = if alternate && precision == 0 { "." } else { "" };
        format!("{value:.precision$}{point}")
    } else if lower == 'e' {
        let text = format!("{value:.precision$e}");
        let text = if alternate && precision == 0 { text.replacen('e', ".e", 1) } else { text };
        with_exponent(&text, 'e')
    } else {
        general(value, precision.max(1), alternate)
    };
    if notation.is_ascii_uppercase() {
        text.make_ascii_uppercase();
    }
    text
}

/// `%g`: `precision` significant digits, without trailing zeros.
fn general(value: f64, precision: usize, alternate: bool) -> String {
    let rounded = format!("{value:.*e}", precision - 1);
    let exponent: i32 = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let plain = exponent >= -4 && i64::from(exponent) < precision as i64;
    let text = if plain {
        let decimals = usize::try_from(precision as i64 - 1 - i64::from(exponent)).unwrap_or(0);
        format!("{value:.decimals$}")
    } else {
        rounded
    };
    let (digits, exponent) = text.split_once('e').map_or((text.as_str(), None), |(d, e)| (d, Some(e)));
    let digits = match digits.contains('.') && !alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false if alternate && !digits.contains('.') => format!("{digits}."),
        false => digits.to_owned(),
    };
    match exponent {
        Some(exponent) => with_exponent(&format!("{digits}e{exponent}"), 'e'),
        None => digits,
    }
}

/// Text without the underscores that Python permits between digits; `None` for other underscores.
fn without_underscores(text: &str) -> Option<String> {
    let characters: Vec<char> = text.chars().collect();
    let digit = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(|c| c.is_alphanumeric());
    for (at, character) in characters.iter().enumerate() {
        if *character == '_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))) {
            return None;
        }
    }
    Some(characters.into_iter().filter(|character| *character != '_').collect())
}

/// Digits of other scripts, which Python accepts, as ASCII.
fn ascii(text: &str) -> String {
    let digit = |c: char| decimal_digit(c).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(c);
    text.trim_matches(is_space).chars().map(digit).collect()
}

/// Python's `int(text, base)`.
///
/// # Errors
/// A text that is not an integer, or an integer with more than 127 bits.
pub(super) fn parse_int(text: &str, base: i64) -> Result<i128> {
    let bad = || Fault::value_error(format!("invalid literal for int() with base {base}: '{text}'"));
    if base != 0 && !(2..=36).contains(&base) {
        return Err(Fault::value_error("int() base must be >= 2 and <= 36, or 0"));
    }
    let clean = ascii(text);
    let (negative, digits) = match clean.strip_prefix(['-', '+']) {
        Some(digits) => (clean.starts_with('-'), digits),
        None => (false, clean.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let mut radix = base as u32;
    let mut digits = lower.as_str();
    for (prefix, of) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if (base == of || base == 0) && lower.starts_with(prefix) {
            radix = of as u32;
            digits = lower[2..].strip_prefix('_').unwrap_or(&lower[2..]);
        }
    }
    if radix == 0 {
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().any(|byte| !matches!(byte, b'0' | b'_')) {
            return Err(bad());
        }
        radix = 10;
    }
    let digits = without_underscores(digits).filter(|digits| !digits.is_empty()).ok_or_else(bad)?;
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(bad());
    }
    let value = i128::from_str_radix(&digits, radix).map_err(|_| Fault::other("an integer has more than 127 bits"))?;
    Ok(if negative { -value } else { value })
}

/// Python's `float(text)`.
///
/// # Errors
/// A text that is not a number.
pub(super) fn parse_float(text: &str) -> Result<f64> {
    let bad = || Fault::value_error(format!("could not convert string to float: '{text}'"));
    let clean = without_underscores(&ascii(text)).ok_or_else(bad)?;
    let unsigned = clean.strip_prefix(['-', '+']).unwrap_or(&clean).to_ascii_lowercase();
    let named = matches!(unsigned.as_str(), "inf" | "infinity" | "nan");
    let plain = unsigned.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'+' | b'-'));
    if named || plain { clean.parse().map_err(|_| bad()) } else { Err(bad()) }
}

/// A float truncated to an integer.
///
/// # Errors
/// NaN, infinity, or a number that is too large.
pub(super) fn truncated(value: f64) -> Result<i128> {
    if value.is_nan() {
        return Err(Fault::value_error("cannot convert float NaN to integer"));
    }
    if value.is_infinite() {
        return Err(Fault::new(super::fault::Kind::Overflow, "cannot convert float infinity to integer"));
    }
    if value.abs() >= 1.7e38 {
        return Err(Fault::other("an integer has more than 127 bits"));
    }
    Ok(value.trunc() as i128)
}

//! Python's operators.

use std::cmp::Ordering;

use super::ast::Binary;
use super::fault::{Fault, Kind, Result};
use super::machine::Machine;
use super::printf::printf;
use super::text::escaped;
use super::value::{Value, range_item, range_len};

/// A part of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    None,
    At(i64),
    /// Not a number.
    Bad,
}

impl Bound {
    pub(super) fn of(value: &Value) -> Self {
        match (value, value.as_int()) {
            (Value::None, _) => Self::None,
            (_, Some(number)) => {
                Self::At(i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX }))
            }
            _ => Self::Bad,
        }
    }
}

fn too_large() -> Fault {
    Fault::other("an integer has more than 127 bits")
}

fn no_division() -> Fault {
    Fault::other("division by zero")
}

/// Division that rounds down, and its remainder.
pub(super) fn floor_division(left: f64, right: f64) -> (f64, f64) {
    let mut remainder = left % right;
    let mut quotient = (left - remainder) / right;
    if remainder == 0.0 {
        remainder = 0.0_f64.copysign(right);
    } else if (remainder < 0.0) != (right < 0.0) {
        remainder += right;
        quotient -= 1.0;
    }
    let floored = if quotient == 0.0 {
        0.0_f64.copysign(left / right)
    } else {
        let floor = quotient.floor();
        if quotient - floor > 0.5 { floor + 1.0 } else { floor }
    };
    (floored, remainder)
}

fn int_binary(operator: Binary, left: i128, right: i128) -> Result<Value> {
    let value = match operator {
        Binary::Add => left.checked_add(right),
        Binary::Sub => left.checked_sub(right),
        Binary::Mul => left.checked_mul(right),
        Binary::Div if right == 0 => return Err(no_division()),
        Binary::Div => return Ok(Value::Float(left as f64 / right as f64)),
        Binary::FloorDiv | Binary::Mod if right == 0 => return Err(no_division()),
        Binary::FloorDiv => left.checked_div_euclid(right).and_then(|quotient| {
            // Euclid's quotient rounds up if the divisor is negative and there is a remainder.
            if right < 0 && left.rem_euclid(right) != 0 { quotient.checked_sub(1) } else { Some(quotient) }
        }),
        Binary::Mod => {
            left.checked_rem(right).map(|rest| if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest })
        }
        Binary::Pow if right < 0 => return float_binary(operator, left as f64, right as f64),
        Binary::Pow => match (left, u32::try_from(right)) {
            (0 | 1, _) => Some(if right == 0 { 1 } else { left }),
            (-1, _) => Some(if right % 2 == 0 { 1 } else { -1 }),
            (_, Ok(exponent)) => left.checked_pow(exponent),
            (_, Err(_)) => None,
        },
    };
    value.map(Value::Int).ok_or_else(too_large)
}

fn float_binary(operator: Binary, left: f64, right: f64) -> Result<Value> {
    let value = match operator {
        Binary::Add => left + right,
        Binary::Sub => left - right,
        Binary::Mul => left * right,
        Binary::Div | Binary::FloorDiv | Binary::Mod if right == 0.0 => return Err(no_division()),
        Binary::Div => left / right,
        Binary::FloorDiv => floor_division(left, right).0,
        Binary::Mod => floor_division(left, right).1,
        Binary::Pow if left == 0.0 && right < 0.0 => return Err(no_division()),
        Binary::Pow if left < 0.0 && right.is_finite() && right.fract() != 0.0 => {
            return Err(Fault::other("complex numbers are not supported"));
        }
        Binary::Pow => {
            let value = left.powf(right);
            if value.is_infinite() && left.is_finite() && right.is_finite() {
                return Err(Fault::new(Kind::Overflow, "the result is too large"));
            }
            value
        }
    };
    Ok(Value::Float(value))
}

impl Machine<'_> {
    pub(super) fn binary(&mut self, operator: Binary, left: &Value, right: &Value) -> Result<Value> {
        use Value as V;
        if let (Some(left), Some(right)) = (left.as_int(), right.as_int()) {
            return int_binary(operator, left, right);
        }
        if operator == Binary::Mod
            && let Some(format) = left.as_str()
        {
            let text = printf(self, format, right)?;
            return Ok(if matches!(left, V::Markup(_)) { V::Markup(text.into()) } else { V::text(text) });
        }
        if let V::Undefined(message) = left {
            return Err(Fault::undefined(message));
        }
        if let V::Undefined(message) = right {
            return Err(Fault::undefined(message));
        }
        if let (Some(left), Some(right)) = (left.as_float(), right.as_float()) {
            return float_binary(operator, left, right);
        }
        match (operator, left, right) {
            (Binary::Add, V::Str(a), V::Str(b)) => {
                self.charge_bytes(a.len() + b.len())?;
                Ok(V::text([&**a, &**b].concat()))
            }
            (Binary::Add, V::Str(_) | V::Markup(_), V::Str(_) | V::Markup(_)) => {
                let part = |value: &Value| match value {
                    V::Markup(text) => text.to_string(),
                    other => escaped(other.as_str().unwrap_or_default()),
                };
                let text = part(left) + &part(right);
                self.charge_bytes(text.len())?;
                Ok(V::Markup(text.into()))
            }
            (Binary::Add, V::List(a), V::List(b)) => {
                self.charge_items(a.items.len() + b.items.len())?;
                V::list(a.items.iter().chain(&b.items).cloned().collect())
            }
            (Binary::Add, V::Tuple(a), V::Tuple(b)) => {
                self.charge_items(a.items.len() + b.items.len())?;
                V::tuple(a.items.iter().chain(&b.items).cloned().collect())
            }
            (Binary::Mul, V::Str(_) | V::Markup(_) | V::List(_) | V::Tuple(_), V::Int(_) | V::Bool(_)) => {
                self.repeated(left, right.as_int().unwrap_or(0))
            }
            (Binary::Mul, V::Int(_) | V::Bool(_), V::Str(_) | V::Markup(_) | V::List(_) | V::Tuple(_)) => {
                self.repeated(right, left.as_int().unwrap_or(0))
            }
            _ => Err(Fault::type_error(format!(
                "unsupported operand type(s) for {}: '{}' and '{}'",
                symbol(operator),
                left.type_name(),
                right.type_name()
            ))),
        }
    }

    fn repeated(&mut self, value: &Value, times: i128) -> Result<Value> {
        let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
        match value {
            Value::List(items) | Value::Tuple(items) => {
                self.charge_items(items.items.len().saturating_mul(times))?;
                let items = if items.items.is_empty() { Vec::new() } else { repeat(&items.items, times) };
                if matches!(value, Value::List(_)) { Value::list(items) } else { Value::tuple(items) }
            }
            _ => {
                let text = value.as_str().unwrap_or_default();
                self.charge_bytes(text.len().saturating_mul(times))?;
                let text = if text.is_empty() { String::new() } else { text.repeat(times) };
                Ok(if matches!(value, Value::Markup(_)) { Value::Markup(text.into()) } else { Value::text(text) })
            }
        }
    }

    pub(super) fn negative(&mut self, value: &Value) -> Result<Value> {
        match (value, value.as_int()) {
            (Value::Undefined(message), _) => Err(Fault::undefined(message)),
            (Value::Float(number), _) => Ok(Value::Float(-number)),
            (_, Some(number)) => number.checked_neg().map(Value::Int).ok_or_else(too_large),
            _ => Err(Fault::type_error(format!("bad operand type for unary -: '{}'", value.type_name()))),
        }
    }

    pub(super) fn positive(&mut self, value: &Value) -> Result<Value> {
        match (value, value.as_int()) {
            (Value::Undefined(message), _) => Err(Fault::undefined(message)),
            (Value::Float(_), _) => Ok(value.clone()),
            (_, Some(number)) => Ok(Value::Int(number)),
            _ => Err(Fault::type_error(format!("bad operand type for unary +: '{}'", value.type_name()))),
        }
    }

    /// The order of two values; `None` if none of `<`, `==` and `>` holds.
    fn order(&mut self, left: &Value, right: &Value, symbol: &str) -> Result<Option<Ordering>> {
        self.charge(1)?;
        for value in [left, right] {
            if let Value::Undefined(message) = value {
                return Err(Fault::undefined(message));
            }
        }
        match (left, right) {
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.same(b) {
                        return self.order(a, b, symbol);
                    }
                }
                return Ok(Some(a.items.len().cmp(&b.items.len())));
            }
            _ => {}
        }
        if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
            return Ok(a.partial_cmp(&b));
        }
        if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
            return Ok(Some(a.cmp(b)));
        }
        Err(Fault::type_error(format!(
            "'{symbol}' not supported between instances of '{}' and '{}'",
            left.type_name(),
            right.type_name()
        )))
    }

    pub(super) fn less(&mut self, left: &Value, right: &Value, symbol: &str) -> Result<bool> {
        Ok(self.order(left, right, symbol)? == Some(Ordering::Less))
    }

    pub(super) fn less_or_equal(&mut self, left: &Value, right: &Value, symbol: &str) -> Result<bool> {
        Ok(matches!(self.order(left, right, symbol)?, Some(Ordering::Less | Ordering::Equal)))
    }

    /// `item in container`.
    pub(super) fn contains(&mut self, container: &Value, item: &Value) -> Result<bool> {
        match container {
            Value::Str(text) | Value::Markup(text) => {
                self.charge_bytes(text.len())?;
                let wrong = || {
                    let name = item.type_name();
                    Fault::type_error(format!("'in <string>' requires string as left operand, not {name}"))
                };
                Ok(text.contains(item.as_str().ok_or_else(wrong)?))
            }
            Value::Dict(dict) | Value::View(super::value::View::Keys, dict) => {
                self.charge_items(dict.entries.len())?;
                item.check_hashable()?;
                Ok(dict.get(item).is_some())
            }
            Value::Range(start, stop, step) => {
                let whole = item.as_float().filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
                let Some(number) = whole.map(|number| number as i64) else { return Ok(false) };
                let inside =
                    if *step > 0 { number >= *start && number < *stop } else { number <= *start && number > *stop };
                Ok(inside && (i128::from(number) - i128::from(*start)) % i128::from(*step) == 0)
            }
            Value::Iterator(number) => {
                // Python stops at the item and leaves the others in the iterator.
                while let Some(found) = self.advance(*number)? {
                    self.charge(1)?;
                    if found.same(item) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ if matches!(container, Value::Loop(_)) || container.len().is_some() => {
                Ok(self.items(container)?.iter().any(|found| found.same(item)))
            }
            _ => Err(Fault::type_error(format!("argument of type '{}' is not iterable", container.type_name()))),
        }
    }

    /// `value[start:stop:step]`.
    pub(super) fn slice(&mut self, value: &Value, bounds: [Bound; 3]) -> Result<Value> {
        let wrong = || Err(Fault::type_error(format!("'{}' object has no such slice", value.type_name())));
        if let Value::Undefined(message) = value {
            return Err(Fault::undefined(message));
        }
        let mapping = matches!(value, Value::Dict(_) | Value::View(..));
        let bad = bounds.iter().any(|bound| matches!(bound, Bound::Bad));
        let Some(length) = value.len().filter(|_| !mapping && !bad) else { return wrong() };
        let [start, stop, step] = bounds;
        let step = match step {
            Bound::At(0) => return Err(Fault::value_error("slice step cannot be zero")),
            Bound::At(step) => step,
            _ => 1,
        };
        let (start, stop) = ends(start, stop, step, length);
        let picked = Value::Range(start, stop, step);
        let count = range_len(&picked);
        self.charge_items(count)?;
        let indices = (0..count).map(|at| range_item(&picked, at) as usize);
        match value {
            Value::Str(text) | Value::Markup(text) => {
                self.charge_bytes(text.len())?;
                let part: String = match step {
                    1 => text.chars().skip(start as usize).take(count).collect(),
                    _ => {
                        self.charge_bytes(text.len() * 4)?;
                        let characters: Vec<char> = text.chars().collect();
                        indices.map(|at| characters[at]).collect()
                    }
                };
                Ok(if matches!(value, Value::Markup(_)) { Value::Markup(part.into()) } else { Value::text(part) })
            }
            Value::List(items) => Value::list(indices.map(|at| items.items[at].clone()).collect()),
            Value::Tuple(items) => Value::tuple(indices.map(|at| items.items[at].clone()).collect()),
            Value::Range(first, _, by) => {
                let at = |index: i64| first.wrapping_add(by.wrapping_mul(index));
                Ok(Value::Range(at(start), at(stop), by.wrapping_mul(step)))
            }
            _ => wrong(),
        }
    }
}

/// The first index and the end index, clamped as in Python.
fn ends(start: Bound, stop: Bound, step: i64, length: usize) -> (i64, i64) {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: Bound, default: i64| match bound {
        Bound::At(at) if at < 0 => at.saturating_add(length).max(low),
        Bound::At(at) => at.min(high),
        _ => default,
    };
    if step > 0 { (clamp(start, 0), clamp(stop, length)) } else { (clamp(start, length - 1), clamp(stop, -1)) }
}

fn repeat(items: &[Value], times: usize) -> Vec<Value> {
    (0..times).flat_map(|_| items.iter().cloned()).collect()
}

fn symbol(operator: Binary) -> &'static str {
    match operator {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "**",
    }
}

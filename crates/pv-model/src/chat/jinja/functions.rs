//! Global functions.

use super::arguments::{Args, int, text};
use super::fault::{Fault, Kind, Result};
use super::machine::Machine;
use super::value::{Value, range_len};

/// The longest range that the sandbox permits.
const LONGEST_RANGE: usize = 100_000;

impl Machine<'_> {
    /// The global function of this name. `strftime_now` exists only with a clock.
    pub(super) fn function(&self, name: &str) -> Option<&'static str> {
        let known = ["range", "dict", "cycler", "joiner", "namespace", "raise_exception", "strftime_now"];
        known.into_iter().find(|known| *known == name && (name != "strftime_now" || self.now.is_some()))
    }

    pub(super) fn call_function(&mut self, name: &str, args: Args) -> Result<Value> {
        match name {
            "range" => range(args),
            "dict" => Value::dict(self.pairs(args)?),
            "namespace" => {
                let pairs = self.pairs(args)?;
                self.namespaces.push(Vec::new());
                let number = self.namespaces.len() - 1;
                for (name, value) in pairs {
                    self.set_attribute(number, name, value)?;
                }
                Ok(Value::Namespace(number))
            }
            "cycler" => {
                let items = args.only_positional(name)?;
                if items.is_empty() {
                    return Err(Fault::other("at least one item has to be provided"));
                }
                self.cyclers.push((items, 0));
                Ok(Value::Cycler(self.cyclers.len() - 1))
            }
            "joiner" => {
                let [separator] = args.bind(name, ["sep"], 0)?;
                let separator = match separator {
                    Some(separator) => self.str(&separator)?,
                    None => ", ".to_owned(),
                };
                self.joiners.push((separator, false));
                Ok(Value::Joiner(self.joiners.len() - 1))
            }
            "raise_exception" => {
                let [message] = args.bind(name, ["message"], 1)?;
                let message = self.str(&message.unwrap_or(Value::None))?;
                Err(Fault::new(Kind::Raised, message))
            }
            _ => {
                let [format] = args.bind(name, ["format"], 1)?;
                let format = format.unwrap_or(Value::None);
                let Some(now) = self.now else { return Err(Fault::undefined(super::NO_CLOCK)) };
                let text = jiff::fmt::strtime::format(text(&format)?, now);
                text.map(Value::text).map_err(|error| Fault::value_error(format!("strftime_now: {error}")))
            }
        }
    }

    /// The pairs for `dict(…)`: a mapping or pairs, then keywords.
    fn pairs(&mut self, args: Args) -> Result<Vec<(Value, Value)>> {
        let Args { positional, named } = args;
        if positional.len() > 1 {
            return Err(Fault::type_error(format!("dict expected at most 1 argument, got {}", positional.len())));
        }
        let mut pairs = Vec::new();
        for first in positional {
            match &first {
                Value::Dict(dict) => {
                    self.charge_items(dict.entries.len())?;
                    pairs.extend(dict.entries.iter().cloned());
                }
                _ => {
                    for pair in self.items(&first)? {
                        match &self.items(&pair)?[..] {
                            [key, value] => pairs.push((key.clone(), value.clone())),
                            other => {
                                let length = other.len();
                                return Err(Fault::value_error(format!("a pair is expected, not {length} values")));
                            }
                        }
                    }
                }
            }
        }
        pairs.extend(named.into_iter().map(|(name, value)| (Value::Str(name), value)));
        // Each is compared with all before it.
        self.charge(pairs.len().saturating_mul(pairs.len()) / 32)?;
        Ok(pairs)
    }
}

fn range(args: Args) -> Result<Value> {
    let [first, second, step] = args.positional("range", 1)?;
    let first = int(&first.unwrap_or(Value::None))?;
    let step = step.map_or(Ok(1), |step| int(&step))?;
    if step == 0 {
        return Err(Fault::value_error("range() arg 3 must not be zero"));
    }
    let range = match second {
        Some(stop) => Value::Range(first, int(&stop)?, step),
        None => Value::Range(0, first, step),
    };
    match range_len(&range) {
        length if length > LONGEST_RANGE => {
            let reason = format!("Range too big. The sandbox blocks ranges larger than {LONGEST_RANGE}.");
            Err(Fault::new(Kind::Overflow, reason))
        }
        _ => Ok(range),
    }
}

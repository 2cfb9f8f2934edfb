//! Filters of sequences and mappings.

use super::{given, number, paths, truth};
use crate::chat::jinja::arguments::{Args, text};
use crate::chat::jinja::ast::Binary;
use crate::chat::jinja::attributes::path_parts;
use crate::chat::jinja::fault::{Fault, Result};
use crate::chat::jinja::machine::Machine;
use crate::chat::jinja::value::Value;

/// A string in lower case, for comparisons that ignore case.
fn folded(value: Value, case_sensitive: bool) -> Value {
    match &value {
        Value::Str(text) | Value::Markup(text) if !case_sensitive => Value::text(text.to_lowercase()),
        _ => value,
    }
}

impl<'t> Machine<'t> {
    /// `items` in the order of their keys, sorted as in Python: stable, with `<` only.
    pub(in crate::chat::jinja) fn sorted<T: Clone>(
        &mut self,
        items: Vec<T>,
        key: impl Fn(&T) -> Value,
    ) -> Result<Vec<T>> {
        let mut keyed: Vec<(Value, T)> = items.into_iter().map(|item| (key(&item), item)).collect();
        let mut width = 1;
        while width < keyed.len() {
            let mut merged = Vec::with_capacity(keyed.len());
            for run in keyed.chunks(2 * width) {
                let (mut left, mut right) = run.split_at(width.min(run.len()));
                self.charge_items(run.len())?;
                while let ([first, left_rest @ ..], [second, right_rest @ ..]) = (left, right) {
                    if self.less(&second.0, &first.0, "<")? {
                        merged.push(second.clone());
                        right = right_rest;
                    } else {
                        merged.push(first.clone());
                        left = left_rest;
                    }
                }
                merged.extend(left.iter().chain(right).cloned());
            }
            keyed = merged;
            width *= 2;
        }
        Ok(keyed.into_iter().map(|(_, item)| item).collect())
    }

    pub(super) fn sequence_filter(&mut self, name: &str, value: Value, args: Args) -> Result<Value> {
        match name {
            "first" => {
                args.bind::<0>(name, [], 0)?;
                let none = || Value::undefined("No first item, sequence was empty.");
                Ok(self.first(&value)?.unwrap_or_else(none))
            }
            "last" => {
                args.bind::<0>(name, [], 0)?;
                if matches!(value, Value::Iterator(_) | Value::Loop(_)) {
                    return Err(Fault::type_error(format!("'{}' object is not reversible", value.type_name())));
                }
                let none = || Value::undefined("No last item, sequence was empty.");
                Ok(self.items(&value)?.pop().unwrap_or_else(none))
            }
            "list" => {
                args.bind::<0>(name, [], 0)?;
                Value::list(self.items(&value)?)
            }
            "reverse" => {
                args.bind::<0>(name, [], 0)?;
                if let Value::Str(text) | Value::Markup(text) = &value {
                    return Ok(Value::text(text.chars().rev().collect::<String>()));
                }
                let mut items = self.items(&value)?;
                items.reverse();
                // A value that cannot be reversed becomes a list.
                match value {
                    Value::Iterator(_) | Value::Loop(_) => Value::list(items),
                    _ => Ok(self.iterator_over(items)),
                }
            }
            "items" => {
                args.bind::<0>(name, [], 0)?;
                match &value {
                    Value::Undefined(_) => Ok(self.iterator_over(Vec::new())),
                    Value::Dict(dict) => {
                        let pairs = Value::View(crate::chat::jinja::value::View::Items, dict.clone());
                        let pairs = self.items(&pairs)?;
                        Ok(self.iterator_over(pairs))
                    }
                    _ => Ok(self.failing(Fault::type_error("Can only get item pairs from a mapping."))),
                }
            }
            "join" => {
                let [separator, attribute] = args.bind(name, ["d", "attribute"], 0)?;
                let separator = match separator {
                    Some(separator) => self.str(&separator)?,
                    None => String::new(),
                };
                let path = given(attribute).map(|attribute| path_parts(&attribute));
                let mut text = String::new();
                for (at, item) in self.items(&value)?.into_iter().enumerate() {
                    let before = text.len();
                    if at > 0 {
                        text.push_str(&separator);
                    }
                    let item = match &path {
                        Some(path) => self.path(&item, path)?,
                        None => item,
                    };
                    self.write_str(&item, &mut text)?;
                    self.charge_bytes(text.len() - before)?;
                }
                Ok(Value::text(text))
            }
            "sum" => {
                let [attribute, start] = args.bind(name, ["attribute", "start"], 0)?;
                let path = given(attribute).map(|attribute| path_parts(&attribute)).unwrap_or_default();
                let mut sum = start.unwrap_or(Value::Int(0));
                if sum.as_str().is_some() {
                    return Err(Fault::type_error("sum() can't sum strings"));
                }
                for item in self.items(&value)? {
                    let item = self.path(&item, &path)?;
                    sum = self.binary(Binary::Add, &sum, &item)?;
                }
                Ok(sum)
            }
            "min" | "max" => {
                let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
                let path = given(attribute).map(|attribute| path_parts(&attribute)).unwrap_or_default();
                let mut best: Option<(Value, Value)> = None;
                for item in self.items(&value)? {
                    let key = folded(self.path(&item, &path)?, truth(&case, false));
                    let better = match &best {
                        None => true,
                        Some((old, _)) if name == "min" => self.less(&key, old, "<")?,
                        Some((old, _)) => self.less(old, &key, ">")?,
                    };
                    if better {
                        best = Some((key, item));
                    }
                }
                let none = || Value::undefined("No aggregated item, sequence was empty.");
                Ok(best.map_or_else(none, |(_, item)| item))
            }
            "sort" => {
                let [reverse, case, attribute] = args.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
                let paths = paths(&attribute.unwrap_or(Value::None));
                let items = self.items(&value)?;
                let keyed = self.keyed(items, |machine, item| {
                    let parts = paths.iter().map(|path| Ok(folded(machine.path(item, path)?, truth(&case, false))));
                    Value::list(parts.collect::<Result<_>>()?)
                })?;
                Value::list(self.sorted_both_ways(keyed, truth(&reverse, false))?)
            }
            "dictsort" => {
                let [case, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"], 0)?;
                let by_value = match by.as_ref().map_or(Some("key"), Value::as_str) {
                    Some("key") => false,
                    Some("value") => true,
                    _ => return Err(Fault::other("dictsort sorts by \"key\" or \"value\"")),
                };
                let Value::Dict(dict) = &value else {
                    return Err(match &value {
                        Value::Undefined(message) => Fault::undefined(message),
                        _ => Fault::other("dictsort: a mapping is expected"),
                    });
                };
                let mut keyed = Vec::with_capacity(dict.entries.len());
                for (key, value) in &dict.entries {
                    let by = folded(if by_value { value } else { key }.clone(), truth(&case, false));
                    keyed.push((by, Value::tuple(vec![key.clone(), value.clone()])?));
                }
                Value::list(self.sorted_both_ways(keyed, truth(&reverse, false))?)
            }
            "groupby" => self.groupby(&value, args),
            "unique" => {
                let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"], 0)?;
                let path = given(attribute).map(|attribute| path_parts(&attribute)).unwrap_or_default();
                let mut seen: Vec<Value> = Vec::new();
                let items = match self.lazily(&value) {
                    Ok(items) => items,
                    Err(failing) => return Ok(failing),
                };
                self.iterator(items, |machine, item| {
                    let key = folded(machine.path(&item, &path)?, truth(&case, false));
                    key.check_hashable()?;
                    machine.charge_items(seen.len())?;
                    if seen.iter().any(|old| old.same(&key)) {
                        return Ok(None);
                    }
                    seen.push(key);
                    Ok(Some(item))
                })
            }
            "batch" | "slice" => self.pieces(name, &value, args),
            "map" => self.map(&value, args),
            _ => self.select(name, &value, args),
        }
    }

    fn keyed(
        &mut self,
        items: Vec<Value>,
        key: impl Fn(&mut Self, &Value) -> Result<Value>,
    ) -> Result<Vec<(Value, Value)>> {
        items.into_iter().map(|item| Ok((key(self, &item)?, item))).collect()
    }

    /// Items sorted by their keys; with `reverse`, equal items keep their order too.
    fn sorted_both_ways(&mut self, mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>> {
        if reverse {
            keyed.reverse();
        }
        let mut sorted = self.sorted(keyed, |(key, _)| key.clone())?;
        if reverse {
            sorted.reverse();
        }
        Ok(sorted.into_iter().map(|(_, item)| item).collect())
    }

    /// The items of a generator's source. If the source cannot be iterated, that error appears only when the generator
    /// is used: the error is then such a generator.
    fn lazily(&mut self, value: &Value) -> std::result::Result<Vec<Value>, Value> {
        self.items(value).map_err(|fault| self.failing(fault))
    }

    fn groupby(&mut self, value: &Value, args: Args) -> Result<Value> {
        let [attribute, default, case] = args.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
        let path = path_parts(&attribute.unwrap_or(Value::None));
        let (default, case) = (given(default), truth(&case, false));
        let mut keyed = Vec::new();
        for item in self.items(value)? {
            let key = self.path_or(&item, &path, &default)?;
            keyed.push((folded(key.clone(), case), key, item));
        }
        let sorted = self.sorted(keyed, |(folded, ..)| folded.clone())?;
        let mut groups = Vec::new();
        for group in sorted.chunk_by(|a, b| a.0.same(&b.0)) {
            let items = group.iter().map(|(.., item)| item.clone()).collect();
            let key = if case { &group[0].0 } else { &group[0].1 };
            groups.push(Value::group(key.clone(), Value::list(items)?)?);
        }
        Value::list(groups)
    }

    /// An item by a path, with a default for undefined values.
    fn path_or(&mut self, item: &Value, path: &[Value], default: &Option<Value>) -> Result<Value> {
        let mut item = item.clone();
        for part in path {
            item = self.item(&item, part)?;
            if let (Value::Undefined(_), Some(default)) = (&item, default) {
                item = default.clone();
            }
        }
        Ok(item)
    }

    fn pieces(&mut self, name: &str, value: &Value, args: Args) -> Result<Value> {
        let [count, fill] = args.bind(name, [if name == "batch" { "linecount" } else { "slices" }, "fill_with"], 1)?;
        let (count, fill) = (number(count, 0)?, given(fill));
        let items = match self.lazily(value) {
            Ok(items) => items,
            Err(failing) => return Ok(failing),
        };
        let mut pieces: Vec<Vec<Value>> = Vec::new();
        if name == "batch" {
            for item in items {
                match pieces.last_mut() {
                    Some(piece) if piece.len() as i64 != count => piece.push(item),
                    _ => pieces.push(vec![item]),
                }
            }
            if let (Some(last), Some(fill)) = (pieces.last_mut(), fill) {
                let width = usize::try_from(count).unwrap_or(0);
                self.charge_items(width.saturating_sub(last.len()))?;
                last.resize(width.max(last.len()), fill);
            }
        } else {
            if count == 0 {
                return Ok(self.failing(Fault::other("division by zero")));
            }
            let count = usize::try_from(count).unwrap_or(0);
            self.charge_items(count)?;
            let mut rest = items.as_slice();
            let (each, extra) = match count {
                0 => (0, 0),
                count => (items.len() / count, items.len() % count),
            };
            for number in 0..count {
                let (piece, after) = rest.split_at(each + usize::from(number < extra));
                let mut piece = piece.to_vec();
                piece.extend(fill.clone().filter(|_| number >= extra));
                pieces.push(piece);
                rest = after;
            }
        }
        let pieces = pieces.into_iter().map(Value::list).collect::<Result<_>>()?;
        Ok(self.iterator_over(pieces))
    }

    fn map(&mut self, value: &Value, args: Args) -> Result<Value> {
        if !value.truth() {
            return Ok(self.iterator_over(Vec::new()));
        }
        let Args { mut positional, mut named } = args;
        let mut take = |wanted: &str| {
            let at = named.iter().position(|(name, _)| **name == *wanted);
            at.map(|at| named.remove(at).1)
        };
        if positional.is_empty()
            && let Some(attribute) = take("attribute")
        {
            let default = given(take("default"));
            if let Some((name, _)) = named.first() {
                return Ok(self.failing(Fault::other(format!("unexpected keyword argument '{name}'"))));
            }
            let path = path_parts(&attribute);
            let items = match self.lazily(value) {
                Ok(items) => items,
                Err(failing) => return Ok(failing),
            };
            return self.iterator(items, |machine, item| machine.path_or(&item, &path, &default).map(Some));
        }
        if positional.is_empty() {
            return Ok(self.failing(Fault::other("map requires a filter argument")));
        }
        let filter = positional.remove(0);
        let args = Args { positional, named };
        let items = match self.lazily(value) {
            Ok(items) => items,
            Err(failing) => return Ok(failing),
        };
        self.iterator(items, |machine, item| {
            let name = text(&filter)?;
            machine.deeper(|machine| machine.filter(name, item, args.clone())).map(Some)
        })
    }

    /// `select`, `reject`, `selectattr` and `rejectattr`.
    fn select(&mut self, name: &str, value: &Value, args: Args) -> Result<Value> {
        if !value.truth() {
            return Ok(self.iterator_over(Vec::new()));
        }
        let wanted = name.starts_with("select");
        let Args { mut positional, named } = args;
        let mut path = Vec::new();
        if name.ends_with("attr") {
            if positional.is_empty() {
                return Ok(self.failing(Fault::other("a parameter for the attribute's name is missing")));
            }
            path = path_parts(&positional.remove(0));
        }
        let test = if positional.is_empty() { None } else { Some(positional.remove(0)) };
        let args = Args { positional, named };
        let items = match self.lazily(value) {
            Ok(items) => items,
            Err(failing) => return Ok(failing),
        };
        self.iterator(items, |machine, item| {
            let tested = machine.path(&item, &path)?;
            let holds = match &test {
                None => tested.truth(),
                Some(test) => machine.test(text(test)?, &tested, args.clone())?,
            };
            Ok((holds == wanted).then_some(item))
        })
    }
}

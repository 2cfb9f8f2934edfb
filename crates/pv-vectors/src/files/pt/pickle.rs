//! Parses a pickle of tensors without executing it.
//!
//! A pickle is a program for a stack machine. This parser supports the instructions that torch writes for tensors in
//! dictionaries, lists and tuples, and the three functions that make a tensor and an ordered dictionary. Everything
//! else is refused by name. Values are stored in one list and refer to each other by index, so that deep nesting and
//! cyclic values cost nothing and are never followed.

use std::collections::HashMap;
use std::rc::Rc;

use super::tensor::{Dtype, MAX_DIMENSIONS, Storage, Tensor};
use super::{Fault, opcodes};

/// The maximum number of values, more than any file of vectors has.
const MAX_VALUES: usize = 1 << 18;

/// The maximum number of arguments of the supported functions.
const MAX_ARGUMENTS: usize = 6;

/// The index of a value.
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool,
    Int(i64),
    Float(f64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Tensor(Tensor),
    Storage(Storage),
    StorageClass(Dtype),
    Function(Function),
}

/// The functions that a pickle may call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Function {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
}

/// All values of a pickle.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
}

/// Parses a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Values, Fault> {
    let mut machine =
        Machine { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    Ok(Values { nodes: machine.nodes, root })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// The heights of the stack at each MARK.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, Fault> {
        loop {
            let at = self.at;
            let [opcode] = self.array()?;
            match opcode {
                0x80 => {
                    let [version] = self.array()?;
                    if !(2..=5).contains(&version) {
                        return Err(self.bad(&format!("is of protocol {version}")));
                    }
                }
                // FRAME announces a length that is not needed here.
                0x95 => drop(self.array::<8>()?),
                b'.' => {
                    let root = self.pop()?;
                    return if self.stack.is_empty() { Ok(root) } else { Err(self.bad("leaves values behind")) };
                }
                b'N' => self.push(Node::None)?,
                0x88 | 0x89 => self.push(Node::Bool)?,
                b'J' => self.int::<4>(|b| i32::from_le_bytes(b).into())?,
                b'K' => self.int::<1>(|[b]| b.into())?,
                b'M' => self.int::<2>(|b| u16::from_le_bytes(b).into())?,
                0x8a => self.long()?,
                b'G' => {
                    let value = f64::from_be_bytes(self.array()?);
                    self.push(Node::Float(value))?;
                }
                0x8c | b'X' | 0x8d => {
                    let length = match opcode {
                        0x8c => self.array::<1>()?[0].into(),
                        b'X' => u32::from_le_bytes(self.array()?).into(),
                        _ => u64::from_le_bytes(self.array()?),
                    };
                    let text = self.text(length)?;
                    self.push(Node::Text(text))?;
                }
                b']' => self.push(Node::List(Vec::new()))?,
                b'}' => self.push(Node::Dict(Vec::new()))?,
                b')' => self.push(Node::Tuple(Vec::new()))?,
                b'(' => self.marks.push(self.stack.len()),
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Node::Tuple(items))?;
                }
                b'a' => self.append(1)?,
                b'e' => {
                    let items = self.marked()?;
                    self.append(items)?;
                }
                b's' => self.set_items(2)?,
                b'u' => {
                    let items = self.marked()?;
                    self.set_items(items)?;
                }
                b'q' => {
                    let key = self.array::<1>()?[0].into();
                    self.remember(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key as usize)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let key = self.array::<1>()?[0].into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key as usize)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Node::Text(module), Node::Text(name)) = (&self.nodes[module], &self.nodes[name]) else {
                        return Err(self.bad("names a function by a value that is not a string"));
                    };
                    let (module, name) = (module.clone(), name.clone());
                    self.global(&module, &name)?;
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                other => return Err(Fault::Opcode { opcode: opcodes::name(other), at }),
            }
        }
    }

    fn bad(&self, what: &str) -> Fault {
        Fault::Bad(format!("its pickle {what} (at byte {})", self.at))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let Some(taken) = taken else { return Err(self.bad("ends in the middle")) };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn text(&mut self, length: u64) -> Result<String, Fault> {
        let length = usize::try_from(length).map_err(|_| self.bad("ends in the middle"))?;
        let text = std::str::from_utf8(self.take(length)?).map(str::to_owned);
        text.map_err(|_| self.bad("contains a text that is not UTF-8"))
    }

    fn line(&mut self) -> Result<String, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(self.bad("ends in the middle"));
        };
        let line = self.text(length as u64)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        if self.nodes.len() >= MAX_VALUES {
            return Err(self.bad(&format!("contains more than {MAX_VALUES} values")));
        }
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        Ok(())
    }

    fn int<const N: usize>(&mut self, read: impl Fn([u8; N]) -> i64) -> Result<(), Fault> {
        let value = read(self.array()?);
        self.push(Node::Int(value))
    }

    /// LONG1: two's complement of any length; no number in a tensor needs more than eight bytes.
    fn long(&mut self) -> Result<(), Fault> {
        let [length] = self.array()?;
        if length > 8 {
            return Err(self.bad(&format!("contains an integer of {length} bytes")));
        }
        let digits = self.take(length.into())?;
        let sign = if digits.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut bytes = [sign; 8];
        bytes[..digits.len()].copy_from_slice(digits);
        self.push(Node::Int(i64::from_le_bytes(bytes)))
    }

    /// The lowest position of the stack that may be read: that of the last MARK.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Fault> {
        match self.stack.len().checked_sub(count).filter(|start| *start >= self.floor()) {
            Some(start) => Ok(self.stack.split_off(start)),
            None => Err(self.bad("takes a value from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        self.pop_many(1).map(|popped| popped[0])
    }

    /// The number of values above the last MARK, which is removed.
    fn marked(&mut self) -> Result<usize, Fault> {
        let Some(mark) = self.marks.pop() else { return Err(self.bad("lacks a MARK")) };
        Ok(self.stack.len().saturating_sub(mark))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let count = self.marked()?;
        self.pop_many(count)
    }

    fn top(&self) -> Result<Id, Fault> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| self.bad("takes a value from an empty stack"))
    }

    fn append(&mut self, count: usize) -> Result<(), Fault> {
        let items = self.pop_many(count)?;
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::List(list) => list.extend(items),
            _ => return Err(self.bad("appends to what is not a list")),
        }
        Ok(())
    }

    fn set_items(&mut self, count: usize) -> Result<(), Fault> {
        let items = self.pop_many(count)?;
        let top = self.top()?;
        match &mut self.nodes[top] {
            Node::Dict(dict) if count.is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])))
            }
            Node::Dict(_) => return Err(self.bad("sets a key without a value")),
            _ => return Err(self.bad("sets items of what is not a dictionary")),
        }
        Ok(())
    }

    fn remember(&mut self, key: usize) -> Result<(), Fault> {
        let top = self.top()?;
        if self.memo.len() >= MAX_VALUES {
            return Err(self.bad(&format!("stores more than {MAX_VALUES} values")));
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: usize) -> Result<(), Fault> {
        let Some(id) = self.memo.get(&key).copied() else {
            return Err(self.bad(&format!("recalls the value {key}, which it never stored")));
        };
        // Recalled values are not counted by `push`, but each takes at least two bytes of the pickle.
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let node = match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Node::Function(Function::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Node::Function(Function::RebuildParameter),
            ("collections", "OrderedDict") => Node::Function(Function::OrderedDict),
            ("torch", class) => match Dtype::of_storage(class) {
                Some(dtype) => Node::StorageClass(dtype),
                None => return Err(Fault::Global(format!("torch.{class}"))),
            },
            _ => return Err(Fault::Global(format!("{module}.{name}"))),
        };
        self.push(node)
    }

    /// The integers of a short tuple.
    fn ints(&self, id: Id) -> Option<Vec<i64>> {
        let Node::Tuple(items) = &self.nodes[id] else { return None };
        if items.len() > MAX_DIMENSIONS {
            return None;
        }
        items.iter().map(|item| if let Node::Int(value) = self.nodes[*item] { Some(value) } else { None }).collect()
    }

    /// `("storage", class, key, device, numbers)`: what torch puts in place of a storage's numbers.
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let Node::Tuple(items) = &self.nodes[id] else { return Err(self.bad("refers to a storage without a tuple")) };
        let nodes: Vec<&Node> = items.iter().take(MAX_ARGUMENTS).map(|item| &self.nodes[*item]).collect();
        let [Node::Text(kind), Node::StorageClass(dtype), Node::Text(key), Node::Text(_), Node::Int(numbers)] =
            nodes[..]
        else {
            return Err(self.bad("refers to something that is not a storage"));
        };
        let (true, Ok(numbers)) = (kind == "storage", usize::try_from(*numbers)) else {
            return Err(self.bad("refers to something that is not a storage"));
        };
        let storage = Storage { key: Rc::from(key.as_str()), dtype: *dtype, numbers };
        self.push(Node::Storage(storage))
    }

    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Node::Function(function), Node::Tuple(arguments)) = (&self.nodes[function], &self.nodes[arguments]) else {
            return Err(self.bad("calls what is not a function"));
        };
        // The same tuple may be passed repeatedly: the cost of checking it must not grow with its length.
        let nodes: Vec<&Node> = arguments.iter().take(MAX_ARGUMENTS + 1).map(|item| &self.nodes[*item]).collect();
        let made = match (function, &nodes[..]) {
            (Function::OrderedDict, []) => Node::Dict(Vec::new()),
            (Function::RebuildParameter, [Node::Tensor(tensor), Node::Bool, _]) => Node::Tensor(tensor.clone()),
            // The values after the strides request gradients and name hooks; a seventh argument names bits that change
            // the meaning of the values.
            (Function::RebuildTensor, [Node::Storage(storage), Node::Int(offset), _, _, Node::Bool, _]) => {
                let (Some(shape), Some(strides)) = (self.ints(arguments[2]), self.ints(arguments[3])) else {
                    return Err(self.bad("makes a tensor whose shape is not a few integers"));
                };
                Node::Tensor(Tensor::new(storage.clone(), *offset, &shape, &strides)?)
            }
            _ => return Err(self.bad(&format!("calls {function:?} with arguments that it does not take"))),
        };
        self.push(made)
    }
}

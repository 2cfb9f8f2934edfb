//! Control vectors in GGUF, as repeng, llama.cpp and EasySteer keep them: the small part of version 3 that they use.
//!
//! Nothing of the file is copied before it is known to be there, and arrays of arrays are refused, so that a file can
//! neither ask for memory beyond its own size nor for depth.

mod easysteer;
mod element;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pv_hooks::Layer;

use element::Element;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ARCHITECTURE: &str = "controlvector";
/// Where tensors' data starts, and what each one's length is padded to, unless `general.alignment` says otherwise.
const ALIGNMENT: usize = 32;
/// The most that GGUF allows.
const MAX_DIMENSIONS: u32 = 4;
const MAX_ALIGNMENT: usize = 1 << 16;

const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// The tensor type.
const F32: u32 = 0;

/// What a control vector's file holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ControlVector {
    /// `controlvector.model_hint`: what llama.cpp calls the architecture.
    pub(super) model_hint: Option<String>,
    /// `controlvector.layer_count`: how many directions the writer counted, which need not be the model's blocks.
    pub(super) layer_count: Option<i64>,
    /// `direction.{k}` by `k`; all of one width.
    pub(super) directions: BTreeMap<usize, Vec<f32>>,
    /// `controlvector.method`, which EasySteer and some generators write.
    method: Option<String>,
    /// `controlvector.easysteer`.
    easysteer: Option<String>,
}

impl ControlVector {
    /// Whether EasySteer wrote it, whose `direction.0` is of block 0.
    pub(super) fn is_easysteer(&self) -> bool {
        self.easysteer.is_some() || self.directions.contains_key(&0)
    }

    /// Refuses rows that are no directions of the residual stream; what else the file says of them, in words.
    /// `residual_stream` vouches for rows of which the file does not say it.
    pub(super) fn check_rows(&self, residual_stream: bool) -> Result<Vec<String>, String> {
        let mut remarks = easysteer::check(self.easysteer.as_deref(), self.method.as_deref(), residual_stream)?;
        let held = self.directions.len();
        if let Some(count) = self.layer_count {
            let but = if i64::try_from(held) == Ok(count) { String::new() } else { format!(", but holds {held}") };
            remarks.push(format!("the file counts {count} layers{but}"));
        }
        let zero = |values: &Vec<f32>| values.iter().all(|value| *value == 0.0);
        let zeros: Vec<String> =
            self.directions.iter().filter(|(_, values)| zero(values)).map(|(k, _)| format!("direction.{k}")).collect();
        if zeros.len() == held {
            return Err("all its directions are zero".to_owned());
        }
        if !zeros.is_empty() {
            remarks.push(format!("zero, so that they steer nothing: {}", zeros.join(", ")));
        }
        Ok(remarks)
    }
}

/// The number of the direction that acts at a layer: llama.cpp adds `direction.{k}` to the output of block `k`, and
/// knows no number 0.
pub(super) fn direction_number(layer: Layer) -> Option<usize> {
    layer.block().filter(|block| *block > 0)
}

/// A file's bytes: the hint, and directions by their number, all of one width.
pub(super) fn write(model_hint: &str, directions: &BTreeMap<usize, &[f32]>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let number = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let long = |bytes: &mut Vec<u8>, value: usize| bytes.extend((value as u64).to_le_bytes());
    let string = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    number(&mut bytes, VERSION);
    long(&mut bytes, directions.len());
    long(&mut bytes, 3);
    for (key, text) in [("general.architecture", ARCHITECTURE), ("controlvector.model_hint", model_hint)] {
        string(&mut bytes, key);
        number(&mut bytes, STRING);
        string(&mut bytes, text);
    }
    string(&mut bytes, "controlvector.layer_count");
    number(&mut bytes, U32);
    number(&mut bytes, directions.len() as u32);
    let mut offset = 0;
    for (k, values) in directions {
        string(&mut bytes, &format!("direction.{k}"));
        number(&mut bytes, 1);
        long(&mut bytes, values.len());
        number(&mut bytes, F32);
        long(&mut bytes, offset);
        offset += (values.len() * 4).next_multiple_of(ALIGNMENT);
    }
    for values in directions.values() {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

/// Reads a file's bytes; an error says what is wrong with them.
pub(super) fn read(bytes: &[u8]) -> Result<ControlVector, String> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.array::<4>()? != *MAGIC {
        return Err("it does not start with GGUF".to_owned());
    }
    let version = reader.u32()?;
    if version != VERSION {
        let big_endian = if version.swap_bytes() == VERSION { ", which is 3 of a big-endian machine" } else { "" };
        return Err(format!("it is of GGUF's version {version}{big_endian}; version {VERSION} can be read"));
    }
    let (tensors, entries) = (reader.count(24)?, reader.count(13)?);
    let header = Header::read(&mut reader, entries)?;
    match header.architecture.as_deref() {
        Some(ARCHITECTURE) => {}
        Some(other) => return Err(format!("it is a GGUF of {other:?}, not of {ARCHITECTURE:?}")),
        None => return Err("it does not name its general.architecture".to_owned()),
    }
    // llama.cpp and repeng have no number 0; EasySteer, which names its method, counts blocks from 0.
    let least = usize::from(header.easysteer.is_none() && header.method.is_none());
    let infos = (0..tensors).map(|_| TensorInfo::read(&mut reader)).collect::<Result<Vec<_>, _>>()?;
    let data = reader.at.next_multiple_of(header.alignment);
    let mut directions = BTreeMap::new();
    let mut taken = 0;
    for info in infos {
        // llama.cpp passes over tensors of other names; they would be lost here without a word. A number has one spelling.
        let k = info.name.strip_prefix("direction.").and_then(|k| Some((k, k.parse::<usize>().ok()?)));
        let Some((_, k)) = k.filter(|(text, k)| *k >= least && *text == k.to_string()) else {
            return Err(format!("its tensor {:?} is not direction.1, direction.2, …", info.name));
        };
        let stored = info.stored(bytes, data, header.alignment)?;
        taken += stored.len();
        // Tensors that share bytes are how a small file becomes large.
        if taken > bytes.len() {
            return Err("its tensors overlap".to_owned());
        }
        let values = info.values(stored)?;
        if directions.insert(k, values).is_some() {
            return Err(format!("it holds {} twice", info.name));
        }
    }
    let Some(width) = directions.values().next().map(Vec::len) else {
        return Err("it holds no direction".to_owned());
    };
    if let Some((k, values)) = directions.iter().find(|(_, values)| values.len() != width) {
        return Err(format!("direction.{k} has {} numbers, the first direction has {width}", values.len()));
    }
    let Header { model_hint, layer_count, method, easysteer, .. } = header;
    Ok(ControlVector { model_hint, layer_count, directions, method, easysteer })
}

/// What is wanted of the key-value pairs.
#[derive(Default)]
struct Header {
    alignment: usize,
    architecture: Option<String>,
    model_hint: Option<String>,
    layer_count: Option<i64>,
    method: Option<String>,
    easysteer: Option<String>,
}

impl Header {
    fn read(reader: &mut Reader<'_>, entries: usize) -> Result<Self, String> {
        let mut header = Self { alignment: ALIGNMENT, ..Self::default() };
        for _ in 0..entries {
            let (key, kind) = (reader.string()?, reader.u32()?);
            let text = match key {
                "general.architecture" => &mut header.architecture,
                "controlvector.model_hint" => &mut header.model_hint,
                "controlvector.method" => &mut header.method,
                "controlvector.easysteer" => &mut header.easysteer,
                // repeng writes an unsigned number of 32 bits, llama.cpp's generator a signed one.
                "controlvector.layer_count" => {
                    header.layer_count = Some(reader.integer(key, kind)?);
                    continue;
                }
                "general.alignment" => {
                    let found = reader.integer(key, kind)?;
                    header.alignment =
                        usize::try_from(found).map_err(|_| format!("its general.alignment is {found}"))?;
                    continue;
                }
                _ => {
                    reader.skip(kind)?;
                    continue;
                }
            };
            if kind != STRING {
                return Err(format!("its {key} is of type {kind}, not a string"));
            }
            *text = Some(reader.string()?.to_owned());
        }
        if !header.alignment.is_power_of_two() || header.alignment > MAX_ALIGNMENT {
            return Err(format!("its general.alignment is {}", header.alignment));
        }
        Ok(header)
    }
}

struct TensorInfo<'a> {
    name: &'a str,
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl<'a> TensorInfo<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, String> {
        let name = reader.string()?;
        let dimensions = reader.u32()?;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!("its tensor {name:?} has {dimensions} dimensions"));
        }
        let shape = (0..dimensions).map(|_| reader.u64()).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { name, shape, kind: reader.u32()?, offset: reader.u64()? })
    }

    fn element(&self) -> Result<Element, String> {
        Element::of(self.kind).map_err(|what| format!("{} is of {what}", self.name))
    }

    /// How many numbers the tensor has.
    fn width(&self) -> Result<u64, String> {
        let name = self.name;
        let width = self.shape.first().copied().unwrap_or_default();
        // Further dimensions of one row each change nothing.
        if self.shape.is_empty() || self.shape.iter().skip(1).any(|size| *size != 1) {
            return Err(format!("{name} has the shape {:?}, directions have one dimension", self.shape));
        }
        if width == 0 { Err(format!("{name} is empty")) } else { Ok(width) }
    }

    /// The tensor's bytes, out of the file whose data starts at `data`.
    fn stored<'b>(&self, bytes: &'b [u8], data: usize, alignment: usize) -> Result<&'b [u8], String> {
        let (name, element, width) = (self.name, self.element()?, self.width()?);
        if !self.offset.is_multiple_of(alignment as u64) {
            return Err(format!("{name} is at the offset {}, which is not a multiple of {alignment}", self.offset));
        }
        if element == Element::Q8_0 && element.bytes(width).is_none() {
            return Err(format!("{name} has {width} numbers, which fill no whole blocks of {element:?}"));
        }
        let range = || {
            let start = data.checked_add(usize::try_from(self.offset).ok()?)?;
            let length = usize::try_from(element.bytes(width)?).ok()?;
            bytes.get(start..start.checked_add(length)?)
        };
        range().ok_or_else(|| {
            format!("{name} of {width} numbers at the offset {} lies beyond the file's end", self.offset)
        })
    }

    /// The tensor's numbers, out of its bytes.
    fn values(&self, stored: &[u8]) -> Result<Vec<f32>, String> {
        let values = self.element()?.read(stored);
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(format!("{} holds numbers that are not finite", self.name)),
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("it ends within its header, at byte {}", self.bytes.len()))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A whole number, whatever its width and sign.
    fn integer(&mut self, key: &str, kind: u32) -> Result<i64, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            U32 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => self.u64()?.try_into().unwrap_or(i64::MAX),
            11 => i64::from_le_bytes(self.array()?),
            _ => return Err(format!("its {key} is of type {kind}, not an integer")),
        })
    }

    /// A count of things that take at least so many bytes each.
    fn count(&mut self, bytes_each: usize) -> Result<usize, String> {
        let count = self.u64()?;
        let most = self.bytes.len() / bytes_each;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(format!("it counts {count} entries, but its {} bytes hold {most} at most", self.bytes.len())),
        }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let at = self.at;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("its header's text at byte {at} is not UTF-8"))
    }

    /// Passes over a value of this type.
    fn skip(&mut self, kind: u32) -> Result<(), String> {
        match kind {
            STRING => drop(self.string()?),
            ARRAY => {
                let (kind, count) = (self.u32()?, self.u64()?);
                match kind {
                    STRING => {
                        // Each takes eight bytes or fails, so a count that lies ends the loop early.
                        for _ in 0..count {
                            self.string()?;
                        }
                    }
                    _ => drop(self.take(count.checked_mul(size(kind)?).ok_or("its header counts too much")?)?),
                }
            }
            _ => drop(self.take(size(kind)?)?),
        }
        Ok(())
    }
}

/// How many bytes a value of a simple type takes.
fn size(kind: u32) -> Result<u64, String> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        U32 | 5 | 6 => Ok(4),
        10..=12 => Ok(8),
        ARRAY => Err("its header holds an array of arrays".to_owned()),
        _ => Err(format!("its header holds a value of the unknown type {kind}")),
    }
}

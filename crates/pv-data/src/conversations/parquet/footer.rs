//! Detects encryption from a file's footer. The Parquet library ignores it when encryption is not built in, and then
//! reports encrypted pages as damaged.
//!
//! The footer is a struct of Thrift's compact protocol (<https://github.com/apache/thrift/blob/master/doc/specs>). Only
//! its field 8, `encryption_algorithm`, is read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// The last bytes of a file with an encrypted footer, and of any other file.
const ENCRYPTED: [u8; 4] = *b"PARE";
const PLAIN: [u8; 4] = *b"PAR1";

/// The field of the footer that only files with encrypted columns have.
const ENCRYPTION_ALGORITHM: i64 = 8;

/// The longest footer that is examined, in bytes.
const LONGEST: u64 = 1 << 28;

/// The greatest nesting depth of structs in a footer.
const DEEPEST: usize = 32;

/// The encrypted part of a file.
pub(super) enum Encrypted {
    Footer,
    Columns,
}

/// Whether a file is encrypted; `None` if it is not, or if it is not a Parquet file.
pub(super) fn encrypted(file: &mut File) -> Option<Encrypted> {
    let found = look(file);
    file.rewind().ok()?;
    found
}

fn look(file: &mut File) -> Option<Encrypted> {
    let length = file.seek(SeekFrom::End(-8)).ok()?;
    let mut end = [0; 8];
    file.read_exact(&mut end).ok()?;
    let [size @ .., a, b, c, d] = end;
    match [a, b, c, d] {
        ENCRYPTED => return Some(Encrypted::Footer),
        PLAIN => {}
        _ => return None,
    }
    let size = u64::from(u32::from_le_bytes(size));
    if size > length || size > LONGEST {
        return None;
    }
    file.seek(SeekFrom::Start(length - size)).ok()?;
    let mut footer = vec![0; usize::try_from(size).ok()?];
    file.read_exact(&mut footer).ok()?;
    let mut thrift = Thrift { bytes: &footer };
    thrift.has_field(ENCRYPTION_ALGORITHM)?.then_some(Encrypted::Columns)
}

/// A reader of the compact protocol; `None` at the end of the bytes or for invalid bytes.
struct Thrift<'a> {
    bytes: &'a [u8],
}

impl Thrift<'_> {
    /// Whether the struct that starts here has the field.
    fn has_field(&mut self, wanted: i64) -> Option<bool> {
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            if id == wanted {
                return Some(true);
            }
            self.skip(kind, true, 0)?;
        }
        Some(false)
    }

    /// The type and number of the next field; `None` at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let header = self.byte()?;
        let (delta, kind) = (header >> 4, header & 0xF);
        if kind == 0 {
            return Some(None);
        }
        *id = match delta {
            0 => {
                let number = self.varint()?;
                (number >> 1) as i64 ^ -((number & 1) as i64)
            }
            delta => id.checked_add(i64::from(delta))?,
        };
        Some(Some(kind))
    }

    /// Skips a value. The values of a struct's boolean fields are in their headers.
    fn skip(&mut self, kind: u8, in_struct: bool, depth: usize) -> Option<()> {
        if depth > DEEPEST {
            return None;
        }
        match kind {
            1 | 2 if in_struct => Some(()),
            1..=3 => self.take(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.take(8),
            8 => {
                let length = self.varint()?;
                self.take(length)
            }
            9 | 10 => {
                let header = self.byte()?;
                let count = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
                (0..count).try_for_each(|_| self.skip(header & 0xF, false, depth + 1))
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.skip(kinds >> 4, false, depth + 1)?;
                    self.skip(kinds & 0xF, false, depth + 1)
                })
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, true, depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*byte)
    }

    fn take(&mut self, length: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(length).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

//! Parquet, read at the level at which it is stored (<https://parquet.apache.org/docs/file-format/nestedencoding/>): a
//! value's repetition level is 0 where a row starts, and its definition level tells how much of its path is present.

mod copy;
mod footer;
mod list;
mod nested;
mod supported;
mod value;

use crate::FileError;
use std::collections::VecDeque;
use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};

pub use copy::add_columns;
pub(super) use nested::TableRows;

use self::list::{Fields, TextColumn, Texts};
use self::nested::NestedRows;
use super::error::Fault;
use super::format::Format;
use super::row::{self, LISTS};
use super::rows::{RowOrProblem, Rows};
use super::{Conversation, ConversationError, Result, RowProblem};
use crate::Message;

/// About how many bytes of a column are read at once; at least one page.
const AT_ONCE: u64 = 1 << 20;

/// The conversations of a file: from two columns of text if there are no others, else from all relevant columns.
pub(super) fn rows(path: &Path, forced: Option<Format>) -> Result<Box<dyn Rows>> {
    let reader = open(path)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    let columns: Vec<String> = schema
        .root_schema()
        .get_fields()
        .iter()
        .map(|field| field.name().to_owned())
        .filter(|name| row::is_known(name))
        .collect();
    let has = |key: &str| columns.iter().any(|name| name == key);
    let lists = LISTS.into_iter().any(|key| has(key) && list::holds_messages(schema, key));
    if !row::possible(&has, lists, forced) && !has("chosen") {
        let (path, found) = (path.to_owned(), list::names(schema));
        return Err(ConversationError::Columns { path, wanted: row::WANTED, found });
    }
    let plain = Fields::find(schema).filter(|fields| {
        columns.len() == 1
            && fields.alone
            && forced.is_none_or(|forced| forced == if fields.sharegpt { Format::ShareGpt } else { Format::Messages })
    });
    Ok(match plain {
        Some(fields) => Box::new(ParquetRows::new(reader, fields)),
        None => Box::new(NestedRows { rows: TableRows::new(path, reader, row::is_known)?, forced }),
    })
}

/// The conversations of a file, from columns of roles and contents.
struct ParquetRows {
    reader: SerializedFileReader<File>,
    fields: Fields,
    /// The next row group to open.
    next_group: usize,
    group: Option<Group>,
    /// Rows that were read but not yet returned.
    pending: VecDeque<(Texts, Texts)>,
    row: u64,
}

struct Group {
    roles: TextColumn,
    contents: TextColumn,
    left: usize,
    at_once: usize,
}

/// Opens a file. Its row count and columns are at its end, so that a truncated file is detected here.
pub(super) fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let mut file = crate::files::open_file(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    supported::encryption(path, &mut file)?;
    let reader = catch_panic(|| SerializedFileReader::new(file)).map_err(|error| damaged(path, 0, error))?;
    for (index, group) in reader.metadata().row_groups().iter().enumerate() {
        // The library relies on this; and every row has at least one level in every column.
        let fits = |chunk: &ColumnChunkMetaData| {
            let offsets = [Some(chunk.data_page_offset()), chunk.dictionary_page_offset()];
            let sizes = [Some(chunk.compressed_size()), Some(chunk.uncompressed_size())];
            offsets.into_iter().chain(sizes).flatten().all(|number| number >= 0)
                && group.num_rows() <= chunk.num_values()
        };
        if group.num_rows() < 0 || !group.columns().iter().all(fits) {
            let error = ParquetError::General(format!("the metadata of row group {index} is inconsistent"));
            return Err(damaged(path, 0, error));
        }
    }
    supported::codecs(path, reader.metadata())?;
    Ok(reader)
}

/// Runs code of the Parquet library, which panics on some kinds of damage instead of returning an error. The values
/// that it worked on must not be used afterwards.
pub(super) fn catch_panic<T>(
    work: impl FnOnce() -> std::result::Result<T, ParquetError>,
) -> std::result::Result<T, ParquetError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(ParquetError::General(format!("invalid pages: {}", said.unwrap_or("the Parquet library panicked"))))
    })
}

pub(super) fn damaged(path: &Path, rows: u64, error: ParquetError) -> ConversationError {
    match supported::not_implemented(path, &error) {
        Some(unsupported) => unsupported,
        None => ConversationError::Damaged { path: path.to_owned(), rows, source: fault(error) },
    }
}

/// The library's error, or the one that it passes on: the library repeats that one's text.
pub(super) fn fault(error: ParquetError) -> Fault {
    match error {
        ParquetError::External(error) => error,
        other => other.into(),
    }
}

/// The number of rows of a column chunk to read at once.
fn rows_at_once(rows: usize, chunk: &ColumnChunkMetaData) -> usize {
    let bytes = u64::try_from(chunk.uncompressed_size()).unwrap_or_default().max(1);
    let rows = (rows as u64).saturating_mul(AT_ONCE) / bytes;
    usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, 4096)
}

impl ParquetRows {
    fn new(reader: SerializedFileReader<File>, fields: Fields) -> Self {
        Self { reader, fields, next_group: 0, group: None, pending: VecDeque::new(), row: 0 }
    }

    /// Reads some more rows; `false` at the end.
    fn fill(&mut self) -> std::result::Result<bool, ParquetError> {
        while self.pending.is_empty() {
            let Some(group) = self.group.as_mut().filter(|group| group.left > 0) else {
                if self.next_group == self.reader.metadata().num_row_groups() {
                    return Ok(false);
                }
                self.group = Some(self.open_group(self.next_group)?);
                self.next_group += 1;
                continue;
            };
            let wanted = group.at_once.min(group.left);
            let (roles, contents) = (group.roles.read(wanted)?, group.contents.read(wanted)?);
            group.left -= wanted;
            self.pending.extend(roles.into_iter().zip(contents));
        }
        Ok(true)
    }

    fn open_group(&self, index: usize) -> std::result::Result<Group, ParquetError> {
        let group = self.reader.get_row_group(index)?;
        let rows = usize::try_from(group.metadata().num_rows()).map_err(|_| {
            ParquetError::General(format!("row group {index} has {} rows", group.metadata().num_rows()))
        })?;
        let column = |column| -> std::result::Result<TextColumn, ParquetError> {
            let descriptor = group.metadata().column(column).column_descr();
            TextColumn::new(group.get_column_reader(column)?, descriptor)
        };
        let at_once = rows_at_once(rows, group.metadata().column(self.fields.content));
        Ok(Group { roles: column(self.fields.role)?, contents: column(self.fields.content)?, left: rows, at_once })
    }
}

impl Rows for ParquetRows {
    fn next(&mut self) -> std::result::Result<Option<(u64, RowOrProblem)>, Fault> {
        if !catch_panic(|| self.fill()).map_err(fault)? {
            return Ok(None);
        }
        let Some((roles, contents)) = self.pending.pop_front() else { return Ok(None) };
        self.row += 1;
        Ok(Some((self.row, messages(roles, contents, self.fields))))
    }
}

fn messages(roles: Texts, contents: Texts, fields: Fields) -> RowOrProblem {
    if roles.len() != contents.len() {
        return Err(RowProblem::Columns { roles: roles.len(), contents: contents.len() });
    }
    let text = |value: Option<ByteArray>, index: usize, name: &'static str| {
        let value = value.ok_or_else(|| RowProblem::Null { key: name }.in_message(index))?;
        let text = std::str::from_utf8(value.data()).map(str::to_owned);
        text.map_err(|error| RowProblem::NotUtf8 { error }.in_key(name).in_message(index))
    };
    let (role_name, content_name) = if fields.sharegpt { ("from", "value") } else { ("role", "content") };
    let message = |(index, (role, content))| {
        let role = text(role, index, role_name)?;
        let content = text(content, index, content_name)?;
        if fields.sharegpt { row::from_sharegpt(role, content) } else { Ok(Message::new(role, content)) }
    };
    let messages: std::result::Result<Vec<Message>, RowProblem> =
        roles.into_iter().zip(contents).enumerate().map(message).collect();
    Ok((Conversation::from(messages?), if fields.sharegpt { Format::ShareGpt } else { Format::Messages }))
}

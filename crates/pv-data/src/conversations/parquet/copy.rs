//! Copies a file's rows and adds columns. Every column is copied by its values and levels, whatever its type and
//! nesting.

use crate::FileError;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::column::writer::ColumnWriterImpl;
use ::parquet::data_type::{self as of, ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::types::{Type, TypePtr};

use super::super::files::{self, Layout};
use super::super::write::{Answer, Cell, CellType, NewColumn, Written, ask, unique};
use super::super::{ConversationError, Result, RowPlace};
use super::{catch_panic, damaged, open, rows_at_once};
use crate::files::{persist, temporary};

/// Arrow's own description of the columns. It would be wrong with more columns, and readers do not need it.
const ARROW_SCHEMA: &str = "ARROW:schema";

const PARQUET: &[&str] = &[".parquet"];

/// Writes the rows of Parquet files with the same columns into one file, with columns added after them. `values` is
/// called for each row, in the order of the files. It returns the row's values in the order of `columns`, or `None` to
/// skip the row. Values, nesting, row groups, compression and the file's key-value metadata are unchanged, except for
/// Arrow's description of the column types; without it a reader may choose another type for the same values, such as
/// text with another offset size. The output is written under a temporary name and may replace a source.
///
/// It holds the new values of one row group and the compressed pages of one column of it in memory.
///
/// # Errors
/// [`FileError::Read`](crate::FileError::Read); [`ConversationError::Damaged`]; [`ConversationError::Format`] for a
/// name that does not end in `.parquet`; [`ConversationError::OtherSchema`]; [`ConversationError::NameTaken`];
/// [`ConversationError::CellCount`] and [`ConversationError::Cell`]; [`ConversationError::Source`] with the error of
/// `values`; [`FileError::Write`](crate::FileError::Write).
pub fn add_columns<P: AsRef<Path>>(
    sources: &[P],
    output: impl AsRef<Path>,
    columns: &[NewColumn],
    mut values: impl FnMut(&RowPlace) -> Answer,
) -> Result<Written> {
    let output = output.as_ref();
    for path in sources.iter().map(AsRef::as_ref).chain([output]) {
        if !matches!(files::kind(path), Some((Layout::Parquet, _))) {
            return Err(ConversationError::Format { path: path.to_owned(), known: PARQUET });
        }
    }
    let failed = |source| FileError::Write { path: output.to_owned(), source };
    let Some(first) = sources.first().map(AsRef::as_ref) else {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "no source files, expected at least one",
        ))
        .into());
    };
    let (schema, properties) = plan(first, columns)?;
    let (file, handle) = temporary(output).map_err(failed)?;
    let writer = SerializedFileWriter::new(handle, schema, properties);
    let mut copy = Copy { output, writer: writer.map_err(|error| write_failed(output, error))?, columns };
    let mut written = Written::default();
    for source in sources {
        copy.file(first, source.as_ref(), &mut values, &mut written)?;
    }
    copy.writer.into_inner().map_err(|error| write_failed(output, error))?;
    persist(file, output).map_err(failed)?;
    Ok(written)
}

fn write_failed(path: &Path, error: ParquetError) -> ConversationError {
    FileError::Write { path: path.to_owned(), source: std::io::Error::other(error) }.into()
}

/// The schema with the new columns, and the first file's properties.
fn plan(first: &Path, columns: &[NewColumn]) -> Result<(TypePtr, WriterPropertiesPtr)> {
    let reader = open(first)?;
    let about = reader.metadata().file_metadata();
    let root = about.schema();
    let place = RowPlace { file: Arc::from(first), row: 1 };
    unique(columns, &place)?;
    let mut fields = root.get_fields().to_vec();
    for column in columns {
        if fields.iter().any(|field| field.name() == column.name) {
            return Err(ConversationError::NameTaken { place, name: column.name.clone() });
        }
        let (physical, logical) = match column.holds {
            CellType::Number => (Physical::DOUBLE, None),
            CellType::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let field = Type::primitive_type_builder(&column.name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build();
        fields.push(Arc::new(field.map_err(|error| write_failed(first, error))?));
    }
    let schema = Type::group_type_builder(root.name()).with_fields(fields).build();
    let schema = schema.map_err(|error| write_failed(first, error))?;
    let notes = about
        .key_value_metadata()
        .map(|notes| notes.iter().filter(|note| note.key != ARROW_SCHEMA).cloned().collect::<Vec<_>>());
    let mut properties = WriterProperties::builder().set_key_value_metadata(notes);
    if let Some(group) = reader.metadata().row_groups().first() {
        for chunk in group.columns() {
            properties =
                properties.set_column_compression(chunk.column_path().clone(), as_written(chunk.compression()));
        }
        let common = group.columns().first().map_or(Compression::UNCOMPRESSED, |chunk| as_written(chunk.compression()));
        properties = properties.set_compression(common);
    }
    Ok((Arc::new(schema), Arc::new(properties.build())))
}

fn as_written(compression: Compression) -> Compression {
    // The older LZ4 framing is not written any more.
    if compression == Compression::LZ4 { Compression::LZ4_RAW } else { compression }
}

struct Copy<'a> {
    output: &'a Path,
    writer: SerializedFileWriter<File>,
    columns: &'a [NewColumn],
}

impl Copy<'_> {
    fn file(
        &mut self,
        first: &Path,
        source: &Path,
        values: &mut impl FnMut(&RowPlace) -> Answer,
        written: &mut Written,
    ) -> Result<()> {
        let reader = open(source)?;
        let fields = reader.metadata().file_metadata().schema().get_fields();
        let ours = self.writer.schema_descr().root_schema().get_fields();
        if ours.len() != fields.len() + self.columns.len() || ours[..fields.len()] != *fields {
            return Err(ConversationError::OtherSchema { path: source.to_owned(), first: first.to_owned() });
        }
        let mut place = RowPlace { file: Arc::from(source), row: 0 };
        for index in 0..reader.metadata().num_row_groups() {
            let before = place.row;
            let rows = reader.metadata().row_group(index).num_rows();
            let mut keep = vec![];
            let mut cells = vec![Vec::new(); self.columns.len()];
            for _ in 0..rows {
                place.row += 1;
                let answer = ask(values, self.columns, &place)?;
                keep.push(answer.is_some());
                for (column, cell) in cells.iter_mut().zip(answer.into_iter().flatten()) {
                    column.push(cell);
                }
            }
            let kept = keep.iter().filter(|keep| **keep).count();
            written.kept += kept as u64;
            written.left_out += (keep.len() - kept) as u64;
            if kept > 0 {
                let mut copied = Ok(());
                let outcome = catch_panic(|| {
                    copied = self.group(&reader, index, &keep, cells);
                    Ok(())
                });
                outcome.map_err(Failed::Reading).and(copied).map_err(|error| match error {
                    Failed::Reading(error) => damaged(source, before, error),
                    Failed::Writing(error) => write_failed(self.output, error),
                })?;
            }
        }
        Ok(())
    }

    /// Copies the selected rows of a row group.
    fn group(
        &mut self,
        reader: &SerializedFileReader<File>,
        index: usize,
        keep: &[bool],
        cells: Vec<Vec<Cell>>,
    ) -> std::result::Result<(), Failed> {
        let from = reader.get_row_group(index).map_err(Failed::Reading)?;
        let mut to = self.writer.next_row_group().map_err(Failed::Writing)?;
        for column in 0..from.num_columns() {
            let mut out = next(&mut to)?;
            leaf(&*from, column, &mut out, keep)?;
            out.close().map_err(Failed::Writing)?;
        }
        for (column, cells) in self.columns.iter().zip(cells) {
            let mut out = next(&mut to)?;
            put(column, cells, &mut out).map_err(Failed::Writing)?;
            out.close().map_err(Failed::Writing)?;
        }
        to.close().map_err(Failed::Writing)?;
        Ok(())
    }
}

enum Failed {
    Reading(ParquetError),
    Writing(ParquetError),
}

fn next<'a>(to: &'a mut SerializedRowGroupWriter<'_, File>) -> std::result::Result<SerializedColumnWriter<'a>, Failed> {
    let column = to.next_column().map_err(Failed::Writing)?;
    column.ok_or_else(|| Failed::Writing(ParquetError::General("the schema has too few columns".into())))
}

/// Copies the selected rows of one leaf column.
fn leaf(
    from: &dyn RowGroupReader,
    column: usize,
    out: &mut SerializedColumnWriter<'_>,
    keep: &[bool],
) -> std::result::Result<(), Failed> {
    let chunk = from.metadata().column(column);
    let (defined, repeated) = (chunk.column_descr().max_def_level(), chunk.column_descr().max_rep_level());
    let kept = Kept { keep, at_once: rows_at_once(keep.len(), chunk), defined, repeated };
    match from.get_column_reader(column).map_err(Failed::Reading)? {
        ColumnReader::BoolColumnReader(reader) => kept.copy(reader, out.typed::<of::BoolType>()),
        ColumnReader::Int32ColumnReader(reader) => kept.copy(reader, out.typed::<of::Int32Type>()),
        ColumnReader::Int64ColumnReader(reader) => kept.copy(reader, out.typed::<of::Int64Type>()),
        ColumnReader::Int96ColumnReader(reader) => kept.copy(reader, out.typed::<of::Int96Type>()),
        ColumnReader::FloatColumnReader(reader) => kept.copy(reader, out.typed::<of::FloatType>()),
        ColumnReader::DoubleColumnReader(reader) => kept.copy(reader, out.typed::<of::DoubleType>()),
        ColumnReader::ByteArrayColumnReader(reader) => kept.copy(reader, out.typed::<of::ByteArrayType>()),
        ColumnReader::FixedLenByteArrayColumnReader(reader) => {
            kept.copy(reader, out.typed::<of::FixedLenByteArrayType>())
        }
    }
}

/// The selected rows of a column, and its greatest levels.
struct Kept<'a> {
    keep: &'a [bool],
    at_once: usize,
    defined: i16,
    repeated: i16,
}

impl Kept<'_> {
    fn copy<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        out: &mut ColumnWriterImpl<'_, T>,
    ) -> std::result::Result<(), Failed> {
        let short = || Failed::Reading(ParquetError::General("the levels of a column do not match its rows".into()));
        let mut done = 0;
        while done < self.keep.len() {
            let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
            let wanted = self.at_once.min(self.keep.len() - done);
            let read = reader.read_records(wanted, Some(&mut defined), Some(&mut repeated), &mut values);
            let (rows, _, levels) = read.map_err(Failed::Reading)?;
            if rows == 0 {
                return Err(short());
            }
            let mut values = values.into_iter();
            let (mut kept_defined, mut kept_repeated, mut kept_values) = (Vec::new(), Vec::new(), Vec::new());
            let mut row = done;
            for level in 0..levels {
                let again = repeated.get(level).copied().unwrap_or(0);
                let present = defined.get(level).copied().unwrap_or(self.defined);
                if !(0..=self.repeated).contains(&again) || !(0..=self.defined).contains(&present) {
                    return Err(short());
                }
                if level > 0 && again == 0 {
                    row += 1;
                }
                let value = if present == self.defined { Some(values.next().ok_or_else(short)?) } else { None };
                if *self.keep.get(row).ok_or_else(short)? {
                    kept_values.extend(value);
                    kept_defined.push(present);
                    kept_repeated.push(again);
                }
            }
            if row + 1 != done + rows {
                return Err(short());
            }
            done += rows;
            let kept_defined = (self.defined > 0).then_some(kept_defined.as_slice());
            let kept_repeated = (self.repeated > 0).then_some(kept_repeated.as_slice());
            out.write_batch(&kept_values, kept_defined, kept_repeated).map_err(Failed::Writing)?;
        }
        Ok(())
    }
}

/// Writes a new column.
fn put(
    column: &NewColumn,
    cells: Vec<Cell>,
    out: &mut SerializedColumnWriter<'_>,
) -> std::result::Result<usize, ParquetError> {
    let cells: Vec<Cell> = cells
        .into_iter()
        .map(|cell| if matches!(cell, Cell::Number(number) if !number.is_finite()) { Cell::Null } else { cell })
        .collect();
    let defined: Vec<i16> = cells.iter().map(|cell| i16::from(*cell != Cell::Null)).collect();
    match column.holds {
        CellType::Number => {
            let number = |cell| if let Cell::Number(number) = cell { Some(number) } else { None };
            let numbers: Vec<f64> = cells.into_iter().filter_map(number).collect();
            out.typed::<of::DoubleType>().write_batch(&numbers, Some(&defined), None)
        }
        CellType::Text => {
            let text = |cell| if let Cell::Text(text) = cell { Some(ByteArray::from(text.into_bytes())) } else { None };
            let texts: Vec<ByteArray> = cells.into_iter().filter_map(text).collect();
            out.typed::<of::ByteArrayType>().write_batch(&texts, Some(&defined), None)
        }
    }
}

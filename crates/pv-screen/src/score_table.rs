//! The table of a screening as a Parquet file.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};
use pv_data::files::WholeFile;
use pv_data::{Damage, FileError, RunError};

use crate::likelihood::LikelihoodScore;
use crate::scores::{ScoreRow, read_scores};
use crate::{Error, Result};

/// The number of rows in a row group, which is held in memory.
const GROUP: usize = 10_000;

/// Writes a screening's table ([`SCORES`](crate::screen::SCORES)) as Parquet, in the same order, and returns the number
/// of rows.
///
/// The columns are `file` and `id` (text), `row`, `message` (null if there is none) and `tokens` (64-bit integers),
/// `duplicate` and `base_cut` (booleans), and for each direction's label `{label}_answer`, `{label}_prompt_last`,
/// `{label}_base` and `{label}_delta` (64-bit floats in activation units; the last two are null if unknown). If the
/// screening had personas, `surprise` and a `{label}_gain` for each persona follow, in nats. A table without rows has
/// no labels, and gives a file with the first seven columns. A row group has 10 000 rows, is held in memory while it is
/// built, and is compressed with zstd. The file is written under a temporary name first.
///
/// # Errors
/// Those of [`read_scores`]; [`Error::OtherLabels`]; [`FileError::Write`].
pub fn write_score_table(scores: &Path, output: &Path) -> Result<u64> {
    let file = WholeFile::create(output)?;
    let create = |labels| {
        let handle = File::options().write(true).open(file.temporary_path()).map_err(FileError::write(output))?;
        Table::new(handle, scores, output, labels)
    };
    let mut table: Option<Table<'_>> = None;
    read_scores(scores, |row| match &mut table {
        Some(table) => table.push(row),
        None => table.insert(create(Labels::of(&row))?).push(row),
    })?;
    let rows = table.map_or_else(|| create(Labels::default()), Ok)?.finish()?;
    file.finish()?;
    Ok(rows)
}

/// The labels of the rows' scores.
#[derive(Clone, Default)]
struct Labels {
    directions: Vec<String>,
    /// The labels of the personas, if there are likelihoods.
    personas: Option<Vec<String>>,
}

impl Labels {
    fn of(row: &ScoreRow) -> Self {
        let gains = row.likelihood.as_ref().map(|found| found.gains.keys().cloned().collect());
        Self { directions: row.scores.keys().cloned().collect(), personas: gains }
    }

    fn fit(&self, row: &ScoreRow) -> bool {
        let personas = match (&self.personas, &row.likelihood) {
            (Some(personas), Some(found)) => found.gains.keys().eq(personas),
            (personas, found) => personas.is_none() && found.is_none(),
        };
        personas && row.scores.keys().eq(&self.directions)
    }

    fn all(self) -> Vec<String> {
        self.directions.into_iter().chain(self.personas.into_iter().flatten()).collect()
    }
}

/// A table that is being written.
struct Table<'a> {
    scores: &'a Path,
    output: &'a Path,
    file: SerializedFileWriter<File>,
    labels: Labels,
    columns: Columns,
    /// The number of rows so far, including those that are not written yet.
    rows: u64,
}

/// The rows that are not written yet, by column.
#[derive(Default)]
struct Columns {
    file: Vec<ByteArray>,
    row: Vec<i64>,
    message: Optional<i64>,
    id: Vec<ByteArray>,
    duplicate: Vec<bool>,
    tokens: Vec<i64>,
    base_cut: Vec<bool>,
    /// By the index of the direction's label.
    scores: Vec<Scores>,
    surprise: Vec<f64>,
    /// By the index of the persona's label.
    gains: Vec<Vec<f64>>,
}

#[derive(Default)]
struct Scores {
    answer: Vec<f64>,
    prompt_last: Vec<f64>,
    base: Optional<f64>,
    delta: Optional<f64>,
}

/// A column with nulls in Parquet's form: the values, and for each cell whether it has a value (1) or not (0).
#[derive(Default)]
struct Optional<T> {
    values: Vec<T>,
    defined: Vec<i16>,
}

impl<T> Optional<T> {
    fn push(&mut self, value: Option<T>) {
        self.defined.push(value.is_some().into());
        self.values.extend(value);
    }
}

impl<'a> Table<'a> {
    fn new(file: File, scores: &'a Path, output: &'a Path, labels: Labels) -> Result<Self> {
        // All columns except the file names have mostly distinct values, for which a dictionary would only take more
        // space.
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_column_dictionary_enabled(ColumnPath::from("file"), true)
            .build();
        let file = schema(&labels).and_then(|schema| SerializedFileWriter::new(file, schema, Arc::new(properties)));
        let file = file.map_err(|error| failed(output, error))?;
        let columns = Columns::new(&labels);
        Ok(Self { scores, output, file, labels, columns, rows: 0 })
    }

    fn push(&mut self, row: ScoreRow) -> Result<()> {
        self.rows += 1;
        let (path, line) = (self.scores, self.rows);
        if !self.labels.fit(&row) {
            let (first, found) = (self.labels.clone().all(), Labels::of(&row).all());
            return Err(Error::OtherLabels { path: path.to_owned(), line, first, found });
        }
        let number = |number: u64, what| {
            let what = || format!("line {line}: {what}");
            let source = || Damage::unexpected(what(), number, format!("at most {}", i64::MAX));
            i64::try_from(number).map_err(|_| RunError::Damaged { path: path.to_owned(), source: source() })
        };
        let columns = &mut self.columns;
        columns.row.push(number(row.place.row, "row")?);
        columns.message.push(row.place.message.map(|index| number(index as u64, "message")).transpose()?);
        columns.tokens.push(number(row.tokens as u64, "tokens")?);
        columns.file.push(row.place.file.to_string_lossy().into_owned().into_bytes().into());
        columns.id.push(row.id.into_bytes().into());
        columns.duplicate.push(row.duplicate);
        columns.base_cut.push(row.base_cut);
        for (score, column) in row.scores.into_values().zip(&mut columns.scores) {
            column.answer.push(score.answer);
            column.prompt_last.push(score.prompt_last);
            column.base.push(score.base);
            column.delta.push(score.delta);
        }
        if let Some(LikelihoodScore { surprise, gains }) = row.likelihood {
            columns.surprise.push(surprise);
            gains.into_values().zip(&mut columns.gains).for_each(|(gain, column)| column.push(gain));
        }
        if columns.row.len() == GROUP { self.flush() } else { Ok(()) }
    }

    /// Writes the pending rows as a row group.
    fn flush(&mut self) -> Result<()> {
        let columns = std::mem::replace(&mut self.columns, Columns::new(&self.labels));
        let group = self.file.next_row_group();
        group.and_then(|group| columns.write(group)).map_err(|error| failed(self.output, error))
    }

    /// Writes the remaining rows and the end of the file, and returns the total number of rows.
    fn finish(mut self) -> Result<u64> {
        if !self.columns.row.is_empty() {
            self.flush()?;
        }
        self.file.close().map_err(|error| failed(self.output, error))?;
        Ok(self.rows)
    }
}

impl Columns {
    fn new(labels: &Labels) -> Self {
        let gains = labels.personas.iter().flatten().map(|_| Vec::new()).collect();
        Self { scores: labels.directions.iter().map(|_| Scores::default()).collect(), gains, ..Self::default() }
    }

    /// Writes the columns in the schema's order.
    fn write(self, mut group: SerializedRowGroupWriter<'_, File>) -> std::result::Result<(), ParquetError> {
        let to = &mut group;
        put::<ByteArrayType>(to, &self.file, None)?;
        put::<Int64Type>(to, &self.row, None)?;
        put::<Int64Type>(to, &self.message.values, Some(&self.message.defined))?;
        put::<ByteArrayType>(to, &self.id, None)?;
        put::<BoolType>(to, &self.duplicate, None)?;
        put::<Int64Type>(to, &self.tokens, None)?;
        put::<BoolType>(to, &self.base_cut, None)?;
        for Scores { answer, prompt_last, base, delta } in &self.scores {
            put::<DoubleType>(to, answer, None)?;
            put::<DoubleType>(to, prompt_last, None)?;
            put::<DoubleType>(to, &base.values, Some(&base.defined))?;
            put::<DoubleType>(to, &delta.values, Some(&delta.defined))?;
        }
        if !self.surprise.is_empty() {
            put::<DoubleType>(to, &self.surprise, None)?;
        }
        for gains in &self.gains {
            put::<DoubleType>(to, gains, None)?;
        }
        group.close().map(|_| ())
    }
}

/// Writes the next column.
fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    defined: Option<&[i16]>,
) -> std::result::Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("the schema has too few columns".into()))?;
    column.typed::<T>().write_batch(values, defined, None)?;
    column.close()
}

fn schema(labels: &Labels) -> std::result::Result<TypePtr, ParquetError> {
    const REQUIRED: Repetition = Repetition::REQUIRED;
    const OPTIONAL: Repetition = Repetition::OPTIONAL;
    let field = |name: &str, physical, repetition| {
        let logical = (physical == Physical::BYTE_ARRAY).then_some(LogicalType::String);
        let field = Type::primitive_type_builder(name, physical).with_repetition(repetition).with_logical_type(logical);
        field.build().map(Arc::new)
    };
    let mut fields = vec![
        field("file", Physical::BYTE_ARRAY, REQUIRED)?,
        field("row", Physical::INT64, REQUIRED)?,
        field("message", Physical::INT64, OPTIONAL)?,
        field("id", Physical::BYTE_ARRAY, REQUIRED)?,
        field("duplicate", Physical::BOOLEAN, REQUIRED)?,
        field("tokens", Physical::INT64, REQUIRED)?,
        field("base_cut", Physical::BOOLEAN, REQUIRED)?,
    ];
    for label in &labels.directions {
        for (what, there) in [("answer", REQUIRED), ("prompt_last", REQUIRED), ("base", OPTIONAL), ("delta", OPTIONAL)]
        {
            fields.push(field(&format!("{label}_{what}"), Physical::DOUBLE, there)?);
        }
    }
    if let Some(personas) = &labels.personas {
        fields.push(field("surprise", Physical::DOUBLE, REQUIRED)?);
        for label in personas {
            fields.push(field(&format!("{label}_gain"), Physical::DOUBLE, REQUIRED)?);
        }
    }
    Type::group_type_builder("schema").with_fields(fields).build().map(Arc::new)
}

fn failed(path: &Path, error: ParquetError) -> Error {
    FileError::Write { path: path.to_owned(), source: std::io::Error::other(error) }.into()
}

//! A column that is a list of structs of text.

use ::parquet::basic::Type as Physical;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::errors::ParquetError;
use ::parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::super::row::LISTS;

/// The leaf columns with the messages' roles and contents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) role: usize,
    pub(super) content: usize,
    /// Whether they are called `from` and `value`.
    pub(super) sharegpt: bool,
    /// Whether messages have no other columns.
    pub(super) alone: bool,
}

impl Fields {
    /// The first column that holds messages.
    pub(super) fn find(schema: &SchemaDescriptor) -> Option<Self> {
        let ways = LISTS.iter().flat_map(|root| [(*root, "role", "content", false), (*root, "from", "value", true)]);
        let mut found = ways.filter_map(|(root, role, content, sharegpt)| {
            let (role, content) = (leaf(schema, root, role)?, leaf(schema, root, content)?);
            let alone =
                schema.columns().iter().filter(|column| column.path().parts().first() == Some(&root.to_owned()));
            Some(Self { role, content, sharegpt, alone: alone.count() == 2 })
        });
        found.next()
    }
}

/// Whether a column is a list of structs with roles.
pub(super) fn holds_messages(schema: &SchemaDescriptor, root: &str) -> bool {
    ["role", "from"].into_iter().any(|name| leaf(schema, root, name).is_some())
}

/// The text column of this name in a list of structs.
fn leaf(schema: &SchemaDescriptor, root: &str, name: &str) -> Option<usize> {
    schema.columns().iter().position(|column| {
        let path = column.path().parts();
        // A list of structs is `root.list.element.name`, in older files `root.array.name` or `root.name`.
        path.first().is_some_and(|first| first == root)
            && (2..=4).contains(&path.len())
            && path.last().is_some_and(|last| last == name)
            && column.max_rep_level() == 1
            && column.physical_type() == Physical::BYTE_ARRAY
    })
}

/// The leaf columns with their types, for error messages.
pub(super) fn names(schema: &SchemaDescriptor) -> Vec<String> {
    schema.columns().iter().map(|column| format!("{} ({})", column.path().string(), column.physical_type())).collect()
}

/// One field's text in each element of a row's list; `None` for null.
pub(super) type Texts = Vec<Option<ByteArray>>;

/// The values of one text field of the structs.
pub(super) struct TextColumn {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// From this definition level on, the list has an element here.
    element: i16,
    /// From this level on, the element's text is not null.
    text: i16,
}

impl TextColumn {
    pub(super) fn new(reader: ColumnReader, descriptor: &ColumnDescriptor) -> Result<Self, ParquetError> {
        let ColumnReader::ByteArrayColumnReader(reader) = reader else {
            return Err(ParquetError::General(format!("{} is not text", descriptor.path())));
        };
        Ok(Self { reader, element: descriptor.repeated_ancestor_def_level(), text: descriptor.max_def_level() })
    }

    /// For each of the next rows, the text of each element.
    pub(super) fn read(&mut self, rows: usize) -> Result<Vec<Texts>, ParquetError> {
        let (mut defined, mut repeated, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        let mut read: Vec<Texts> = Vec::new();
        let mut have = 0;
        while have < rows {
            let now = self.reader.read_records(rows - have, Some(&mut defined), Some(&mut repeated), &mut texts);
            match now? {
                (0, _, _) => {
                    return Err(ParquetError::General("a row group has fewer rows than its metadata states".into()));
                }
                (records, _, _) => have += records,
            }
        }
        let mut texts = texts.into_iter();
        let unfit = || ParquetError::General("the levels of a column do not match its rows".into());
        for (defined, repeated) in defined.into_iter().zip(repeated) {
            match repeated {
                0 => read.push(Vec::new()),
                1 if !read.is_empty() => {}
                _ => return Err(unfit()),
            }
            let text = if defined == self.text { Some(texts.next().ok_or_else(unfit)?) } else { None };
            if !(0..=self.text).contains(&defined) {
                return Err(unfit());
            }
            if let (true, Some(row)) = (defined >= self.element, read.last_mut()) {
                row.push(text);
            }
        }
        if read.len() == rows { Ok(read) } else { Err(unfit()) }
    }
}

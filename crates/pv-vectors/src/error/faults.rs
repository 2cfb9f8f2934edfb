//! The faults in the arguments of an operation, for errors that have several.

use std::path::PathBuf;

use pv_hooks::Layer;

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A number that must be at least 1.
    #[error("{name} is 0; it must be at least 1")]
    Zero {
        /// The name of the setting.
        name: &'static str,
    },
    /// Fewer than two folds.
    #[error("{what} needs at least 2 folds, found {folds}")]
    TooFewFolds {
        /// The computation.
        what: &'static str,
        /// The number of folds.
        folds: usize,
    },
    /// A regularisation that is not a positive number.
    #[error("the regularisation C of the probe is {c}; it must be a positive number")]
    Regularisation {
        /// The given value.
        c: f64,
    },
    /// A trait with the same name as the coherence rubric.
    #[error("the trait and the rubric for coherence have the same name, {name:?}; rename one")]
    SameRubrics {
        /// The name of both.
        name: String,
    },
    /// More rubrics than a judge accepts at once.
    #[error("{rubrics} rubrics were given, but the limit is {most}")]
    TooManyRubrics {
        /// The number of rubrics.
        rubrics: usize,
        /// The maximum.
        most: usize,
    },
    /// No vector to combine.
    #[error("no vector to combine was given")]
    NoVectors,
    /// A scan without directions.
    #[error("no direction to project on was given")]
    NoDirections,
    /// A scan with neither poolings nor tokens.
    #[error("a scan needs a pooling or the response tokens to project")]
    NothingToProject,
    /// An activation that f16 cannot represent.
    #[error("the precision f16 cannot represent the activation {value} at {layer}; use f32")]
    BeyondF16 {
        /// The activation.
        value: f32,
        /// The layer at which it was recorded.
        layer: Layer,
    },
}

/// A fault of a contrast.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContrastError {
    /// No instruction pair.
    #[error("the contrast has no instruction pair")]
    NoPairs,
    /// No question.
    #[error("the contrast has no question")]
    NoQuestions,
    /// A question without text.
    #[error("question {index} of the contrast is empty")]
    EmptyQuestion {
        /// Its index.
        index: usize,
    },
    /// A trait without a name.
    #[error("the trait has no name")]
    NoName,
    /// A pair with equal instructions.
    #[error("both instructions of pair {pair} are the same")]
    SameInstructions {
        /// Its index.
        pair: usize,
    },
}

/// The reason why tables do not form a vector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TablesError {
    /// No table.
    #[error("a vector needs at least one table")]
    None,
    /// Tables of different shapes.
    #[error("a vector's tables differ in shape: {first:?} and {other:?}")]
    Shapes {
        /// Layers and width of the first table.
        first: (usize, usize),
        /// Layers and width of the other table.
        other: (usize, usize),
    },
    /// The number of residual norms is not the number of layers.
    #[error("a vector needs one residual norm per layer: {norms} for {layers} layers")]
    Norms {
        /// The number of layers.
        layers: usize,
        /// The number of norms.
        norms: usize,
    },
}

/// A fault of activations.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ActivationsError {
    /// A table without rows or columns.
    #[error("the activations have {rows} rows of {d_model} values; both must be at least 1")]
    Empty {
        /// The number of rows.
        rows: usize,
        /// The number of columns.
        d_model: usize,
    },
    /// Values that do not fill rows.
    #[error("{values} activations do not fill rows of {d_model}")]
    Shape {
        /// The number of values.
        values: usize,
        /// The width of a row.
        d_model: usize,
    },
    /// A value that is not finite.
    #[error("the activation in row {row} and column {column} is {value}")]
    NotFinite {
        /// The row.
        row: usize,
        /// The column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A rollout whose residual is not finite.
    #[error("a rollout's residual is not finite at {layer}")]
    Residual {
        /// The layer.
        layer: Layer,
    },
    /// The number of questions or instruction pairs is not the number of rows.
    #[error("there are {found} {what} for {rows} rows of activations")]
    Units {
        /// Questions or instruction pairs.
        what: &'static str,
        /// The number of questions or instruction pairs.
        found: usize,
        /// The number of rows.
        rows: usize,
    },
    /// A rollout that has no activations.
    #[error("there are no activations of rollout {rollout} at {layer}; those of {known} rollouts are known")]
    NoSuchRollout {
        /// The index of the rollout.
        rollout: usize,
        /// The layer.
        layer: Layer,
        /// The number of rollouts with activations.
        known: usize,
    },
}

/// A fault of a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// No tokens.
    #[error("it has no tokens")]
    Empty,
    /// A token outside the vocabulary.
    #[error("its token {id} is outside the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The token.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// More tokens than the limit.
    #[error("it has {tokens} tokens, but the limit is {limit}")]
    TooLong {
        /// The number of tokens.
        tokens: usize,
        /// The maximum.
        limit: usize,
    },
}

/// The reason why a file of another tool is not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Its bytes are not valid in its format.
    #[error("{detail}")]
    Malformed {
        /// The fault.
        detail: String,
    },
    /// It has another format than the first file.
    #[error("its format is {found}, but that of {} is {expected}", first.display())]
    OtherFormat {
        /// Its format.
        found: &'static str,
        /// The format of the first file.
        expected: &'static str,
        /// The first file.
        first: PathBuf,
    },
    /// A second file of a format that stores a vector in one file.
    #[error("the format {format} stores a vector in one file")]
    OneFileOnly {
        /// The format.
        format: &'static str,
    },
    /// A second file of a pooling.
    #[error("it is a second file of the pooling {pooling}")]
    PoolingTwice {
        /// The pooling.
        pooling: &'static str,
    },
    /// A second file of a layer.
    #[error("it is a second file of {layer}")]
    LayerTwice {
        /// The layer.
        layer: Layer,
    },
    /// Its name gives another trait than that of the first file.
    #[error("its name does not state the trait {trait_name:?} of the first file")]
    OtherTrait {
        /// The first file's trait.
        trait_name: String,
    },
    /// Its pooling is unknown.
    #[error(
        "its name does not end in response_avg_diff, prompt_avg_diff or prompt_last_diff, so its pooling must be given"
    )]
    NeedsPooling,
    /// Its layer is unknown.
    #[error("its name is not vec_layer_{{block}}.pt, so its layer must be given")]
    NeedsLayer,
    /// It has several positions, and none was selected.
    #[error("it contains {positions} positions; give one of them (-1 is the last prompt token)")]
    NeedsPosition {
        /// The number of positions.
        positions: usize,
    },
    /// It does not have the requested position.
    #[error("it contains {positions} positions, and {position} is not one of them")]
    NoSuchPosition {
        /// The number of positions.
        positions: usize,
        /// The requested position.
        position: i64,
    },
    /// It belongs to a model with another depth.
    #[error("it belongs to a model of {}{held} blocks, not of {blocks}", if *exact { "" } else { "at least " })]
    Depth {
        /// The number of blocks that it has rows for.
        held: usize,
        /// Whether the model has exactly this number of blocks.
        exact: bool,
        /// The given number of blocks.
        blocks: usize,
    },
    /// Its tensor does not have the shape of its format.
    #[error("its tensor has the shape {found:?}, not {wanted}")]
    Shape {
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the format.
        wanted: &'static str,
    },
    /// Its tensor has one row, but every model has more layers.
    #[error("its tensor has one row, but every model has at least two layers")]
    OneRow,
    /// Rows of different widths.
    #[error("its rows differ in width")]
    Widths,
    /// More values than any model's vector has.
    #[error("it has more values than the vector of any model")]
    TooLarge,
    /// No row.
    #[error("it contains no row")]
    NoRow,
    /// Values that are not finite.
    #[error("it contains values that are not finite")]
    NotFinite,
    /// Values that f32 cannot represent.
    #[error("it contains values that are too large for f32")]
    BeyondF32,
    /// EasySteer numbers directions by their own block, so they cannot be one block late.
    #[error("EasySteer wrote it and numbers directions by their own block, so that they are not one block late")]
    EasySteer,
}

impl From<String> for ImportError {
    fn from(detail: String) -> Self {
        Self::Malformed { detail }
    }
}

impl From<&str> for ImportError {
    fn from(detail: &str) -> Self {
        Self::Malformed { detail: detail.to_owned() }
    }
}

/// The reason why a file is not a persona vector's file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorFileError {
    /// More bytes than any vector has.
    #[error("it has {bytes} bytes, more than any vector")]
    TooLarge {
        /// The number of bytes.
        bytes: u64,
    },
    /// It is not a valid safetensors file.
    #[error(transparent)]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// Its header gives no format.
    #[error("its header does not state its format")]
    NoFormat,
    /// Its format is unknown.
    #[error("its format is {found:?}, but the last supported one is {last:?}")]
    Format {
        /// The given format.
        found: String,
        /// The last supported version.
        last: &'static str,
    },
    /// Its header has no provenance.
    #[error("its header has no provenance")]
    NoProvenance,
    /// An entry of its header is invalid.
    #[error("its {what} is invalid")]
    Header {
        /// The entry.
        what: &'static str,
        /// The position and reason of the parsing error.
        source: serde_json::Error,
    },
    /// A tensor that does not have two dimensions.
    #[error("{tensor} has the shape {shape:?}, expected two dimensions")]
    Shape {
        /// The tensor.
        tensor: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor without values.
    #[error("{tensor} is empty")]
    Empty {
        /// The tensor.
        tensor: &'static str,
    },
    /// Marks on rows that a tensor does not have.
    #[error("the row marks of {tensor} do not fit it")]
    RowMarks {
        /// The tensor.
        tensor: &'static str,
    },
    /// A tensor of another type than f32.
    #[error("{tensor} is stored as {found}, not as F32")]
    Dtype {
        /// The tensor.
        tensor: &'static str,
        /// Its type.
        found: String,
    },
    /// A tensor with values that are not finite.
    #[error("{tensor} contains values that are not finite")]
    NotFinite {
        /// The tensor.
        tensor: &'static str,
    },
    /// Tensors that do not form a vector.
    #[error(transparent)]
    Tables(#[from] TablesError),
}

//! What can go wrong on the way from a folder of files to generated tokens.

use std::path::PathBuf;

use pv_data::FileError;

const GIB: f64 = (1u64 << 30) as f64;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate. Variants carry the values that a caller needs to act on them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] pv_data::FileError),
    /// A file was checked out without git-lfs: a note of a few lines stands in its place.
    #[error("{}: {}", path.display(), pv_data::files::LfsPointer { size: *size })]
    GitLfsPointer {
        /// The file.
        path: PathBuf,
        /// The size of the file that it points to, in bytes, where it says so.
        size: Option<u64>,
    },
    /// Weights of another architecture were to take a model's place.
    #[error("the weights are of another architecture: its `{key}` is {found}, the model's is {expected}")]
    OtherArchitecture {
        /// The first key of the configuration that differs.
        key: String,
        /// The model's value.
        expected: String,
        /// The weights' value.
        found: String,
    },
    /// A file is not the JSON that it should be.
    #[error("{} is not valid JSON for what it should hold", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A file is far larger than such a file can be.
    #[error("{} is larger than {limit} bytes, which is the most that is read of such a file", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// A folder lacks the files of a Hugging Face model.
    #[error("{} holds no {wanted}: {found}", path.display())]
    NotAModelFolder {
        /// The folder.
        path: PathBuf,
        /// The file that should be there.
        wanted: &'static str,
        /// What is there instead, and what to do about it.
        found: String,
    },
    /// A key that a model's configuration must have is absent.
    #[error("{}: `{key}` is missing", path.display())]
    ConfigMissing {
        /// The configuration file.
        path: PathBuf,
        /// The absent key.
        key: String,
    },
    /// A model's configuration holds a value that no model can have.
    #[error("{}: `{key}` is {value}, but should be {expected}", path.display())]
    ConfigValue {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What the value should have been.
        expected: String,
    },
    /// A model's configuration asks for what this crate does not implement.
    #[error("{}: `{key}` is {value}, which is not supported; supported: {supported}", path.display())]
    ConfigUnsupported {
        /// The configuration file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The values that are supported.
        supported: String,
    },
    /// A safetensors file announces a header that cannot be in it.
    #[error("{}: announces a header of {header} bytes, but has {available} bytes for it (most: {limit})", path.display())]
    WeightsHeader {
        /// The weights file.
        path: PathBuf,
        /// The announced length.
        header: u64,
        /// The bytes after the length field.
        available: u64,
        /// The longest header that is read.
        limit: u64,
    },
    /// A tensor's byte range does not lie in its file, which may have been cut short.
    #[error("{}: tensor `{tensor}` claims bytes {start}..{end} of {available}; is the file truncated?", path.display())]
    TensorOffsets {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where its bytes start, counted from the end of the header.
        start: u64,
        /// Where they end.
        end: u64,
        /// The bytes that follow the header.
        available: u64,
    },
    /// A tensor's byte range does not fit its type and shape.
    #[error("{}: tensor `{tensor}` holds {found} bytes, which does not fit {dtype} {shape:?}", path.display())]
    TensorBytes {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type as the file spells it.
        dtype: String,
        /// Its shape.
        shape: Vec<u64>,
        /// The length of its byte range.
        found: u64,
    },
    /// Two tensors of one file claim the same bytes.
    #[error("{}: tensors `{first}` and `{second}` overlap at byte {at}", path.display())]
    TensorOverlap {
        /// The weights file.
        path: PathBuf,
        /// The tensor that starts first.
        first: String,
        /// The tensor that starts before the first one ends.
        second: String,
        /// The first shared byte, counted from the end of the header.
        at: u64,
    },
    /// Bytes of a weights file belong to no tensor, which the format forbids.
    #[error("{}: bytes {start}..{end} belong to no tensor", path.display())]
    UnclaimedBytes {
        /// The weights file.
        path: PathBuf,
        /// Where they start, counted from the end of the header.
        start: u64,
        /// Where they end.
        end: u64,
    },
    /// One tensor is stored twice.
    #[error("tensor `{tensor}` is both in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The file that holds it first.
        first: PathBuf,
        /// The file that holds it again; may be the same.
        second: PathBuf,
    },
    /// An index names a shard by something else than a bare file name.
    #[error("{}: puts tensor `{tensor}` in {shard:?}, which is not a bare file name", path.display())]
    ShardName {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The refused name.
        shard: String,
    },
    /// An index names a shard that is not in the folder.
    #[error("{}: names the shard {shard}, which is not in the folder", path.display())]
    ShardMissing {
        /// The index file.
        path: PathBuf,
        /// The absent shard.
        shard: String,
    },
    /// An index puts a tensor in a shard that does not have it.
    #[error("{}: puts tensor `{tensor}` in {shard}, which does not have it", path.display())]
    ShardLacksTensor {
        /// The index file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// An adapter's file holds other updates than its settings and the model ask for.
    #[error("{}: {}", path.display(), mismatch(missing, unexpected))]
    AdapterMismatch {
        /// The adapter's folder.
        path: PathBuf,
        /// The modules that should have an update and have none.
        missing: Vec<String>,
        /// The modules that have an update and should have none.
        unexpected: Vec<String>,
    },
    /// Tensors that the model needs are not in the folder.
    #[error("{} lacks {} of the model's tensors: {}", path.display(), names.len(), crate::weights::listed(names))]
    MissingTensors {
        /// The model folder.
        path: PathBuf,
        /// The absent tensors.
        names: Vec<String>,
    },
    /// The folder holds tensors that the model does not have.
    #[error("{} holds {} tensors that the model does not have: {}", path.display(), names.len(), crate::weights::listed(names))]
    UnusedTensors {
        /// The model folder.
        path: PathBuf,
        /// The tensors that were never asked for.
        names: Vec<String>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor `{tensor}` is stored as {dtype}; supported: F32, F16, BF16", path.display())]
    TensorDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type as the file spells it.
        dtype: String,
    },
    /// A tensor does not have the shape that the configuration calls for.
    #[error("{}: tensor `{tensor}` has shape {found:?}, but the configuration calls for {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the configuration calls for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor was to be converted into a buffer of another length.
    #[error("tensor `{tensor}` has {expected} values, but the buffer has room for {found}")]
    TensorLength {
        /// The tensor.
        tensor: String,
        /// How many values it has.
        expected: usize,
        /// The length of the buffer.
        found: usize,
    },
    /// `tokenizer.json` is not one that can be loaded.
    #[error("cannot load the tokenizer {}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file gives an added token another id than the tokenizer does, or one that no token can be given.
    #[error(
        "{} gives the token {token:?} the id {id}, but the tokenizer {}",
        path.display(),
        found.map_or("does not know it".to_owned(), |id| format!("gives it {id}"))
    )]
    AddedTokenId {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id in the file.
        id: u32,
        /// Its id in the tokenizer, if it has one.
        found: Option<u32>,
    },
    /// A file names a token that the tokenizer does not have.
    #[error("{}: `{key}` is {token:?}, which is no token of the tokenizer's", path.display())]
    UnknownToken {
        /// The file.
        path: PathBuf,
        /// What the token is for.
        key: String,
        /// The token.
        token: String,
    },
    /// A token that ends answers is none of the model's.
    #[error("{}: the stop token {id} is beyond the model's vocabulary of {vocab}", folder.display())]
    StopTokenOutOfRange {
        /// The model folder.
        folder: PathBuf,
        /// The token.
        id: u32,
        /// How many there are.
        vocab: usize,
    },
    /// A model does not fit in the memory that is free.
    #[error(
        "{} needs {:.1} GiB of memory in {dtype}, and {:.1} GiB are available; a smaller type or model may fit, and the check can be \
         switched off",
        folder.display(), *needed as f64 / GIB, *available as f64 / GIB
    )]
    NotEnoughMemory {
        /// The model folder.
        folder: PathBuf,
        /// The type that it was to compute in.
        dtype: String,
        /// The bytes that its weights need.
        needed: u64,
        /// The bytes that are free.
        available: u64,
    },
    /// The tokenizer could not turn a text into ids.
    #[error("cannot encode a text")]
    Encode {
        /// What the tokenizer library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tokenizer could not turn ids into a text.
    #[error("cannot decode token ids")]
    Decode {
        /// What the tokenizer library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A model folder has no chat template, as those of base models often do.
    #[error("{} has no chat template: no chat_template.jinja, and no chat_template in tokenizer_config.json", folder.display())]
    NoChatTemplate {
        /// The folder.
        folder: PathBuf,
    },
    /// A chat template was asked for by a name that the folder does not have.
    #[error("there is no chat template `{name}`; there is: {}", available.join(", "))]
    UnknownTemplate {
        /// The name.
        name: String,
        /// The names that exist.
        available: Vec<String>,
    },
    /// A chat template cannot be parsed.
    #[error("the chat template `{name}` cannot be parsed: {reason}")]
    TemplateSyntax {
        /// Its name.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// A chat template failed while it ran.
    #[error("the chat template failed: {reason}")]
    TemplateFailed {
        /// What went wrong, and where.
        reason: String,
    },
    /// A chat template ran or nested without an end.
    #[error("the chat template was stopped at the limit on {limit}")]
    TemplateRunaway {
        /// What it used up.
        limit: &'static str,
    },
    /// A chat template needs the date, and no clock was given.
    #[error("the chat template asks for the date; set `now` in the render options")]
    TemplateNeedsClock,
    /// A chat template refused the messages, by calling `raise_exception`.
    #[error("the chat template refuses these messages: {message}")]
    TemplateRaised {
        /// What the template says.
        message: String,
    },
    /// A chat template refused a system message, but takes the same messages without it.
    #[error(
        "the chat template refuses the system role (it says: {message}); the render options can put system text into the \
         first user message (`system: first_user_turn`)"
    )]
    SystemRoleRefused {
        /// What the template says.
        message: String,
    },
    /// A conversation was to be rendered open, ready for its last message to go on, and cannot be.
    #[error("the final message can be continued only where there is one, and without a generation prompt after it")]
    NothingToContinue,
    /// A chat template rewrites an earlier answer, or what stands before it, once later messages follow.
    #[error("the chat template rewrites the conversation up to message {index} once later messages follow")]
    PrefixChanged {
        /// The answer's index in the conversation.
        index: usize,
    },
    /// The text that a chat template rendered does not show where a message's content is.
    #[error("the content of message {index} cannot be found in what the chat template renders")]
    AnswerNotFound {
        /// The message's index in the conversation.
        index: usize,
    },
    /// No backend of this name is known.
    #[error("there is no device {name:?}; known are {known}")]
    UnknownDevice {
        /// What was asked for.
        name: String,
        /// The names of all backends.
        known: String,
    },
    /// A backend is known, but was not built in.
    #[error("device {name:?} needs the feature `{feature}` of pv-model, which this program was built without")]
    BackendNotBuilt {
        /// What was asked for.
        name: String,
        /// The feature to switch on.
        feature: &'static str,
    },
    /// The machine has no such device.
    #[error("this machine has no device {name:?} (its backend finds {found})")]
    NoAdapter {
        /// What was asked for.
        name: String,
        /// How many devices the backend finds.
        found: usize,
    },
    /// The device cannot compute in this type.
    #[error("{device} cannot compute in {dtype}")]
    DtypeUnsupported {
        /// The device.
        device: String,
        /// The type.
        dtype: String,
    },
    /// The device failed to compute or to hand over a result.
    #[error("the device failed: {reason}")]
    Device {
        /// What it said.
        reason: String,
    },
    /// An option that cannot be.
    #[error("{reason}")]
    BadOption {
        /// Which, and why.
        reason: String,
    },
    /// A low-rank adapter does not fit itself or the model.
    #[error("the adapter does not fit: {reason}")]
    BadAdapter {
        /// What does not fit.
        reason: String,
    },
    /// A folder holds no adapter that can be read.
    #[error("{} holds no {wanted}: {found}", path.display())]
    NotAnAdapterFolder {
        /// The folder.
        path: PathBuf,
        /// The file that should be there.
        wanted: &'static str,
        /// What is there instead, and what to do about it.
        found: String,
    },
    /// An adapter's file holds a tensor that is not part of a low-rank update of a block's projection.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    AdapterTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A decoder with adapters on it was to be saved as a model.
    #[error("the decoder has {adapters} adapter(s) on it: merge them, or save the adapter by itself")]
    UnmergedAdapters {
        /// How many.
        adapters: usize,
    },
    /// A prompt without tokens.
    #[error("prompt {index} has no tokens")]
    EmptyPrompt {
        /// Which.
        index: usize,
    },
    /// A token id that the model does not have.
    #[error("token id {id} is beyond the model's vocabulary of {vocab}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// How many there are.
        vocab: usize,
    },
    /// The model produced logits from which no token can be chosen.
    #[error(
        "sequence {sequence}: the logits are not numbers; a steering strength or a compute type may be out of range"
    )]
    BadLogits {
        /// The sequence.
        sequence: usize,
    },
    /// Text is needed, but the folder has no tokenizer.
    #[error("{} has no tokenizer.json{found}", folder.display())]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// What is there instead, and what to do about it; empty when nothing is.
        found: String,
    },
    /// A model's name could not be turned into a local folder.
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// A hook does not fit the model, or did not fire.
    #[error(transparent)]
    Hook(#[from] pv_hooks::HookError),
}

impl Error {
    /// A file that could not be read.
    pub(crate) fn read(path: &std::path::Path, source: std::io::Error) -> Self {
        match pv_data::files::LfsPointer::of(&source) {
            Some(pointer) => Self::GitLfsPointer { path: path.to_owned(), size: pointer.size },
            None => FileError::Read { path: path.to_owned(), source }.into(),
        }
    }
}

fn mismatch(missing: &[String], unexpected: &[String]) -> String {
    let part = |what: &str, names: &[String]| {
        (!names.is_empty()).then(|| format!("{what} {}: {}", names.len(), crate::weights::listed(names)))
    };
    let missing = part("the adapter lacks the updates that its target_modules ask for of", missing);
    let unexpected = part("the adapter has updates that its target_modules do not ask for of", unexpected);
    [missing, unexpected].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

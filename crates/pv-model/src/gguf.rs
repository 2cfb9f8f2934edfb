//! A GGUF file as a model: its content as the files of a Hugging Face folder.
//!
//! The path of a GGUF file stands for a folder. Its metadata becomes the `config.json`, `generation_config.json`,
//! `tokenizer.json` and `tokenizer_config.json` that such a folder has, so that everything after that is the same; its
//! tensors get the names and the order of rows of a checkpoint.

mod architecture;
mod config;
mod error;
mod experts;
mod gemma;
mod merges;
mod pre_tokenizer;
mod rope;
mod tensors;
mod tokenizer;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use pv_data::gguf::{Gguf, Tensor, Value};
use serde_json::{Map, Value as Json};

use crate::mapped::map;
use architecture::Architecture;
pub use error::GgufModelError;
pub(crate) use tensors::{Change, unpermuted};
use tokenizer::Tokens;

/// Whether a path is that of a GGUF file, by its ending.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) && !path.is_dir()
}

/// The files of a model: one, or the parts of a split one.
pub(crate) struct GgufFiles {
    parts: Vec<(PathBuf, Mmap)>,
}

impl GgufFiles {
    /// Maps the file at `path`, and the other parts if it is one of several.
    pub(crate) fn open(path: &Path) -> Result<Self, GgufModelError> {
        let mapped = |path: &Path| {
            let found = map(path).map_err(|source| GgufModelError::Read { path: path.into(), source })?;
            Ok::<_, GgufModelError>((path.to_owned(), found))
        };
        let own = mapped(path)?;
        let split = parsed(&own)?.split().map_err(|source| container(path, source))?;
        let Some(split) = split else { return Ok(Self { parts: vec![own] }) };
        let paths = split.paths(path).map_err(|source| container(path, source))?;
        Ok(Self { parts: paths.iter().map(|path| mapped(path)).collect::<Result<_, _>>()? })
    }

    /// The content of the files.
    pub(crate) fn model(&self) -> Result<Model<'_>, GgufModelError> {
        let parts = self.parts.iter().map(parsed).collect::<Result<Vec<_>, _>>()?;
        if parts.len() > 1 {
            let mut stated = None;
            for (number, ((path, _), part)) in self.parts.iter().zip(&parts).enumerate() {
                let split = part.split().map_err(|source| container(path, source))?;
                let found = split.map(|split| (split.number, split.count));
                if found != Some((number, parts.len())) {
                    let (path, count) = (path.clone(), parts.len());
                    return Err(GgufModelError::Part { path, number, count, found });
                }
                stated = stated.or(split.and_then(|split| split.tensors));
            }
            let found = parts.iter().map(|part| part.tensors().len()).sum();
            if let Some(stated) = stated.filter(|stated| *stated != found) {
                return Err(GgufModelError::TensorCount { stated, found });
            }
        }
        Model::new(parts)
    }

    /// The paths and maps, in the order in which tensors count them.
    pub(crate) fn into_parts(self) -> Vec<(PathBuf, Mmap)> {
        self.parts
    }
}

fn container(path: &Path, source: pv_data::gguf::GgufError) -> GgufModelError {
    GgufModelError::Container { path: path.into(), source: Box::new(source) }
}

fn parsed((path, map): &(PathBuf, Mmap)) -> Result<Gguf<'_>, GgufModelError> {
    Gguf::parse(map).map_err(|source| container(path, source))
}

/// The content of a model's files.
pub(crate) struct Model<'a> {
    parts: Vec<Gguf<'a>>,
    architecture: &'static Architecture,
    tokens: OnceCell<Tokens<'a>>,
}

impl<'a> Model<'a> {
    fn new(parts: Vec<Gguf<'a>>) -> Result<Self, GgufModelError> {
        let key = "general.architecture";
        let name = parts[0].string(key)?.ok_or_else(|| GgufModelError::missing(key))?;
        let architecture = Architecture::of(name)
            .ok_or_else(|| GgufModelError::unsupported(key, format!("{name:?}"), Architecture::names()))?;
        Ok(Self { parts, architecture, tokens: OnceCell::new() })
    }

    /// The content of a file that a folder with this model has; `None` if the folder has no such file.
    pub(crate) fn file(&self, name: &str) -> Result<Option<Map<String, Json>>, GgufModelError> {
        match name {
            "config.json" => config::config(self).map(Some),
            "generation_config.json" => tokenizer::generation_config(self).map(Some),
            "tokenizer.json" => tokenizer::tokenizer(self),
            "tokenizer_config.json" => tokenizer::settings(self).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether a folder with this model has a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        match name {
            "config.json" | "generation_config.json" | "tokenizer_config.json" => true,
            "tokenizer.json" => self.metadata().get(tokenizer::MODEL).is_some(),
            _ => false,
        }
    }

    /// The tokens, read once.
    fn tokens(&self) -> Result<&Tokens<'a>, GgufModelError> {
        if let Some(tokens) = self.tokens.get() {
            return Ok(tokens);
        }
        let read = Tokens::read(self)?;
        Ok(self.tokens.get_or_init(|| read))
    }

    /// The first file, which has the metadata.
    fn metadata(&self) -> &Gguf<'a> {
        &self.parts[0]
    }

    /// The full key of a setting of the architecture.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture.name)
    }

    /// A setting of the architecture. A list with a number for each block that are all the same counts as that number.
    fn setting(&self, name: &str) -> Result<Option<Value<'a>>, GgufModelError> {
        let key = self.key(name);
        let Some(Value::Array(list)) = self.metadata().get(&key) else { return Ok(self.metadata().get(&key)) };
        let mut values = list.values();
        match values.next() {
            Some(first) if values.all(|value| value == first) => Ok(Some(first)),
            _ => Err(GgufModelError::unsupported(key, "a list with different values", "the same value in every block")),
        }
    }

    /// Like [`setting`](Self::setting), for a size.
    fn size(&self, name: &str) -> Result<Option<u64>, GgufModelError> {
        let Some(value) = self.setting(name)? else { return Ok(None) };
        let size = value.integer().and_then(|number| u64::try_from(number).ok());
        size.map(Some).ok_or_else(|| GgufModelError::value(self.key(name), format!("{value:?}"), "a size"))
    }

    /// Like [`setting`](Self::setting), for a number.
    fn number(&self, name: &str) -> Result<Option<f64>, GgufModelError> {
        let Some(value) = self.setting(name)? else { return Ok(None) };
        number(value).map(Some).ok_or_else(|| GgufModelError::value(self.key(name), format!("{value:?}"), "a number"))
    }

    /// All tensors, with the number of their file.
    fn tensors(&self) -> impl Iterator<Item = (usize, &Tensor<'a>)> {
        self.parts.iter().enumerate().flat_map(|(part, file)| file.tensors().iter().map(move |tensor| (part, tensor)))
    }

    fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        self.parts.iter().find_map(|part| part.tensor(name))
    }
}

/// A finite number. One in f32 becomes the shortest decimal that rounds to it, which the writer had in most cases.
fn number(value: Value<'_>) -> Option<f64> {
    let number = match value {
        Value::F32(number) => number.to_string().parse().ok()?,
        Value::F64(number) => number,
        integer => integer.integer()? as f64,
    };
    number.is_finite().then_some(number)
}

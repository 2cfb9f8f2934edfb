//! The files of a model folder other than those of the decoder.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pv_data::FileError;
use pv_data::files::write_whole_with;
use serde_json::{Value, json};

use crate::chat::{ChatTemplate, TemplateError};
use crate::folder::{FolderError, is_bare_file_name};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// The files of a folder that transformers reads, other than the configuration and the weights.
const FILES: [&str; 16] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "tiktoken.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
];

const TEMPLATES: &str = "additional_chat_templates";

/// Copies the files of `from` other than those of the decoder; returns their paths within the folder.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut names: Vec<PathBuf> = FILES.iter().map(PathBuf::from).collect();
    names.extend(templates(&from.join(TEMPLATES))?.into_iter().map(|name| Path::new(TEMPLATES).join(name)));
    let mut copied = BTreeSet::new();
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        if !source.is_file() {
            continue;
        }
        if source.canonicalize().ok() != target.canonicalize().ok() {
            make_parent(&target)?;
            let bytes = pv_data::files::read_file(&source).map_err(|error| FolderError::read(&source, error))?;
            write_whole_with(&target, |path| std::fs::write(path, &bytes))?;
        }
        copied.insert(name);
    }
    Ok(copied)
}

/// The templates in the folder of templates, if it exists.
fn templates(folder: &Path) -> Result<Vec<OsString>> {
    let failed = |source| FileError::Read { path: folder.to_owned(), source };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let names = entries.into_iter().map(|entry| entry.file_name());
    Ok(names.filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "jinja")).collect())
}

/// Writes what the model has and no copied file contains: a tokenizer or templates that were created in memory, or
/// whose folder is gone.
pub(crate) fn write_missing(
    folder: &Path,
    copied: &BTreeSet<PathBuf>,
    tokenizer: Option<&Tokenizer>,
    template: Option<&ChatTemplate>,
    stop_ids: &[u32],
) -> Result<()> {
    let has = |name: &str| copied.contains(Path::new(name));
    let write = |name: &Path, bytes: &[u8]| {
        let path = folder.join(name);
        make_parent(&path)?;
        Ok::<_, Error>(write_whole_with(&path, |path| std::fs::write(path, bytes))?)
    };
    let write_json = |name: &str, value: &Value| {
        let json = serde_json::to_vec_pretty(value);
        write(Path::new(name), &json.map_err(|source| FolderError::Json { path: folder.join(name), source })?)
    };
    if let Some(tokenizer) = tokenizer.filter(|_| !has("tokenizer.json")) {
        let (json, config) = tokenizer.to_json()?;
        write(Path::new("tokenizer.json"), json.as_bytes())?;
        if !has("tokenizer_config.json") {
            write_json("tokenizer_config.json", &config)?;
        }
    }
    if !has("generation_config.json") && !stop_ids.is_empty() {
        write_json("generation_config.json", &json!({ "eos_token_id": stop_ids }))?;
    }
    let Some(template) = template else { return Ok(()) };
    // The content that a reader of the new folder finds.
    let found = match ChatTemplate::from_folder(folder) {
        Ok(found) => Some(found),
        Err(TemplateError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    for name in template.names() {
        let source = template.source(name);
        if source == found.as_ref().and_then(|found| found.source(name)) {
            continue;
        }
        if !is_bare_file_name(name) {
            return Err(TemplateError::Name { name: name.to_owned() }.into());
        }
        let path = match name {
            "default" => PathBuf::from("chat_template.jinja"),
            name => Path::new(TEMPLATES).join(format!("{name}.jinja")),
        };
        write(&path, source.unwrap_or_default().as_bytes())?;
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|source| FileError::Write { path: folder.to_owned(), source }.into())
}

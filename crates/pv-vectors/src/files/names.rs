//! Facts in the file names of other tools, and the detection of the format of a torch file.

use std::path::Path;

use super::Format;
use super::pt::PtFile;
use crate::vector::Pooling;
use crate::{Error, Result};

const PAPER: [(&str, Pooling); 3] = [
    ("_response_avg_diff", Pooling::ResponseMean),
    ("_prompt_avg_diff", Pooling::PromptMean),
    ("_prompt_last_diff", Pooling::PromptLast),
];

/// A file's name without its folder.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The pooling in a file name of the paper's code.
pub(super) fn paper_pooling(path: &Path) -> Option<Pooling> {
    let stem = stem(path);
    PAPER.into_iter().find(|(suffix, _)| stem.ends_with(suffix)).map(|(_, pooling)| pooling)
}

/// The trait in a file name.
pub(super) fn trait_of(path: &Path, format: Format) -> String {
    let stem = stem(path);
    let paper = PAPER.into_iter().find_map(|(suffix, _)| stem.strip_suffix(suffix));
    paper.filter(|_| format == Format::PaperDiff).map_or_else(|| stem.clone(), str::to_owned)
}

/// The block in the file name `vec_layer_{block}.pt` or `vec_layer_{block}_{model}.pt`.
pub(super) fn caa_block(path: &Path) -> Option<usize> {
    let stem = stem(path);
    let rest = stem.strip_prefix("vec_layer_")?;
    rest.split('_').next()?.parse().ok()
}

/// The format of a torch file, by its content and, if that is not sufficient, by its name.
pub(super) fn guess(path: &Path, pt: &PtFile) -> Result<Format> {
    let root = pt.root();
    if root.get("axis").is_some() {
        return Ok(Format::AssistantAxis);
    }
    if root.get("vectors").is_some() && root.get("experiments").is_some() {
        return Err(pt.error("it is a capping configuration, which CappingConfig::load reads"));
    }
    let Some(tensor) = root.tensor() else {
        return Err(pt.error(format!("it contains {}, which is of no known format", root.kind())));
    };
    let ambiguous =
        |candidates| Err(Error::AmbiguousFormat { path: path.to_owned(), shape: tensor.shape.clone(), candidates });
    match tensor.shape.len() {
        1 if caa_block(path).is_some() => Ok(Format::CaaLayer),
        1 => ambiguous("caa_layer with its layer"),
        2 if paper_pooling(path).is_some() => Ok(Format::PaperDiff),
        2 if ["axis", "assistant_axis"].contains(&stem(path).as_str()) => Ok(Format::AssistantAxis),
        2 => ambiguous(
            "paper_diff (a row for every layer, embeddings included) or assistant_axis (a row for every block)",
        ),
        3 => Ok(Format::MeanDiffs),
        _ => Err(pt.error(format!("it contains a tensor of shape {:?}, which is of no known format", tensor.shape))),
    }
}

//! The modules that an adapter's settings specify, interpreted as PEFT does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fancy_regex::Regex;
use serde_json::{Map, Value};

use super::modules::Fused;
use super::{AdapterError, LoraTarget};
use crate::config::ConfigError;

/// Decides whether a module's path is selected; a regular expression that takes too many steps is an error.
type Matcher<'a> = Box<dyn Fn(&str) -> Matched<bool> + 'a>;

type Matched<T> = std::result::Result<T, fancy_regex::Error>;

/// The settings `target_modules`, `exclude_modules`, `layers_to_transform` and `layers_pattern`.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    /// The adapter's folder.
    folder: PathBuf,
    /// `None`: the modules in the file, in every block.
    include: Option<Modules>,
    exclude: Option<Modules>,
    blocks: Option<BTreeSet<usize>>,
    block_patterns: Vec<String>,
}

/// A set of modules.
#[derive(Clone, Debug)]
enum Modules {
    AllLinear,
    /// Modules with one of these names, or whose path ends in one.
    Named(Vec<String>),
    /// Modules whose whole path matches.
    Matching(String),
}

/// Modules of the supported families that settings can select but whose updates are not supported.
const OTHERS: [&str; 2] = ["model.embed_tokens", "lm_head"];

impl Modules {
    fn parse(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text.eq_ignore_ascii_case("all-linear") => Some(Self::AllLinear),
            Value::String(pattern) => Some(Self::Matching(pattern.clone())),
            Value::Array(names) => {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                let names = names.collect::<Option<Vec<_>>>()?;
                match names.iter().any(|name| name.eq_ignore_ascii_case("all-linear")) {
                    true => Some(Self::AllLinear),
                    false => Some(Self::Named(names)),
                }
            }
            _ => None,
        }
    }

    /// The matcher of a set of modules.
    fn matcher(&self) -> Matched<Matcher<'_>> {
        Ok(match self {
            Self::AllLinear => Box::new(|module| Ok(!OTHERS.contains(&module))),
            Self::Named(names) => Box::new(|module| {
                let ends = |name: &String| module.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                Ok(names.iter().any(|name| module == name || ends(name)))
            }),
            Self::Matching(pattern) => {
                let regex = Regex::new(&format!(r"\A(?:{pattern})\z"))?;
                Box::new(move |module| regex.is_match(module))
            }
        })
    }
}

impl Targets {
    /// Reads the settings of the file at `path`.
    pub(super) fn parse(path: &Path, json: &Map<String, Value>) -> Result<Self, AdapterError> {
        let wrong = |key: &str, value: &Value, expected: &str| {
            AdapterError::from(crate::config::wrong(path, key, crate::config::shortened(value), expected))
        };
        let set = |key: &str| json.get(key).filter(|value| !value.is_null() && **value != Value::Array(Vec::new()));
        let modules = |key: &str| match set(key) {
            None => Ok(None),
            Some(value) => match Modules::parse(value) {
                Some(modules) => match modules.matcher().map(drop) {
                    Ok(()) => Ok(Some(modules)),
                    Err(error) => Err(wrong(key, value, &format!("a regular expression ({})", error))),
                },
                None => Err(wrong(key, value, "a string or a list of strings")),
            },
        };
        let (include, exclude) = (modules("target_modules")?, modules("exclude_modules")?);
        let blocks = match set("layers_to_transform") {
            None => None,
            Some(value) => {
                let blocks = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                let blocks: Option<BTreeSet<usize>> =
                    blocks.iter().map(|block| Some(block.as_u64()? as usize)).collect();
                match (blocks, &include) {
                    (None, _) => return Err(wrong("layers_to_transform", value, "a block's index or a list of them")),
                    (_, Some(Modules::Matching(_))) => {
                        return Err(wrong(
                            "layers_to_transform",
                            value,
                            "absent where target_modules is a regular expression",
                        ));
                    }
                    (blocks, _) => blocks,
                }
            }
        };
        let block_patterns = match set("layers_pattern") {
            None => Vec::new(),
            Some(Value::String(pattern)) if pattern.is_empty() => Vec::new(),
            Some(Value::String(pattern)) => vec![pattern.clone()],
            Some(value) => {
                let patterns =
                    value.as_array().and_then(|list| list.iter().map(|p| p.as_str().map(str::to_owned)).collect());
                match patterns {
                    Some(patterns) => patterns,
                    None => return Err(wrong("layers_pattern", value, "a string or a list of strings")),
                }
            }
        };
        if let Some(pattern) = block_patterns.iter().find(|pattern| block_regex(pattern).is_err()) {
            return Err(wrong("layers_pattern", &Value::from(pattern.as_str()), "a regular expression"));
        }
        let folder = path.parent().unwrap_or(path).to_owned();
        let targets = Self { folder, include, exclude, blocks, block_patterns };
        let other = match targets.include {
            Some(_) => {
                let asked = targets.asked()?;
                let mut other = None;
                for module in OTHERS {
                    if asked(module)? {
                        other = other.or(Some(module));
                    }
                }
                other
            }
            None => None,
        };
        match other {
            Some(module) => Err(ConfigError::Unsupported {
                path: path.to_owned(),
                key: "target_modules".into(),
                value: module.into(),
                supported: LoraTarget::ALL.map(LoraTarget::name).join(", "),
            }
            .into()),
            None => Ok(targets),
        }
    }

    /// The predicate that decides whether a module has an update.
    fn asked(&self) -> Result<impl Fn(&str) -> Result<bool, AdapterError> + '_, AdapterError> {
        let bad = |error| AdapterError::Pattern { path: self.folder.clone(), source: Box::new(error) };
        let include = match &self.include {
            Some(modules) => Some(modules.matcher().map_err(bad)?),
            None => None,
        };
        let exclude = match &self.exclude {
            Some(modules) => Some(modules.matcher().map_err(bad)?),
            None => None,
        };
        let patterns = match self.block_patterns.as_slice() {
            [] => vec![Regex::new(r"\A.*?\.[^.]*\.(\d+)\.").map_err(bad)?],
            patterns => patterns.iter().map(|pattern| block_regex(pattern)).collect::<Matched<_>>().map_err(bad)?,
        };
        let in_blocks = move |module: &str| -> Matched<bool> {
            let Some(blocks) = &self.blocks else { return Ok(true) };
            for pattern in &patterns {
                let index = pattern.captures(module)?.and_then(|found| found.get(1)?.as_str().parse::<usize>().ok());
                if let Some(index) = index {
                    return Ok(blocks.contains(&index));
                }
            }
            Ok(false)
        };
        let matches = move |module: &str| -> Matched<bool> {
            Ok(include.as_ref().map_or(Ok(true), |include| include(module))?
                && !exclude.as_ref().map_or(Ok(false), |exclude| exclude(module))?
                && in_blocks(module)?)
        };
        Ok(move |module: &str| matches(module).map_err(bad))
    }

    /// Compares the updates in a file with the modules that the settings select in a model's blocks. `exists` decides
    /// whether a block has a projection: one with experts has no MLP's.
    ///
    /// # Errors
    /// [`AdapterError::Mismatch`].
    pub(super) fn check(
        &self,
        held: &BTreeSet<(usize, LoraTarget)>,
        fused: Fused,
        blocks: usize,
        exists: impl Fn(usize, LoraTarget) -> bool,
    ) -> Result<(), AdapterError> {
        let asked = self.asked()?;
        let kinds: BTreeSet<LoraTarget> = match self.include {
            Some(_) => LoraTarget::ALL.into(),
            None => held.iter().map(|(_, target)| *target).collect(),
        };
        let all = (0..blocks).flat_map(|block| LoraTarget::ALL.map(|target| (block, target)));
        let all = all.filter(|(_, target)| fused.is_first(*target));
        let (mut missing, mut unexpected) = (Vec::new(), Vec::new());
        for (block, target) in all {
            let name = fused.module(block, target);
            let wanted = kinds.contains(&target) && exists(block, target);
            match (wanted && asked(&name)?, held.contains(&(block, target))) {
                (true, false) => missing.push(name),
                (false, true) => unexpected.push(name),
                _ => {}
            }
        }
        match missing.is_empty() && unexpected.is_empty() {
            true => Ok(()),
            false => Err(AdapterError::Mismatch { path: self.folder.clone(), missing, unexpected }),
        }
    }
}

fn block_regex(pattern: &str) -> Matched<Regex> {
    Regex::new(&format!(r"\A(?:.*?\.)?(?:{pattern})\.(\d+)\."))
}

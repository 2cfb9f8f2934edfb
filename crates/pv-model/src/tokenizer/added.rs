//! Tokens that a folder's files add to those of `tokenizer.json`, as in transformers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::TokenizerError;
use super::files::NAMED;
use crate::folder::{Files, FolderError};

/// The limit on the size of `tokenizer.json`.
const MAX_TOKENIZER_BYTES: u64 = 1 << 30;

/// The tokens in the files next to `tokenizer.json`.
pub(super) struct AddedTokens {
    /// Tokens with an id, by that id, which is the order in which they are added.
    listed: BTreeMap<u32, AddedToken>,
    /// Special tokens with a name, such as `eos_token`.
    named: Vec<AddedToken>,
    /// Tokens in lists of further special tokens.
    extra: Vec<AddedToken>,
    /// The ids according to each file.
    ids: Vec<(PathBuf, String, u32)>,
    /// The folder's `eos_token`, and the file that names it.
    eos: Option<(PathBuf, String)>,
}

/// The part of `tokenizer.json` with the ids of added tokens.
#[derive(Deserialize)]
struct OwnTokens {
    added_tokens: Option<Vec<OwnToken>>,
}

#[derive(Deserialize)]
struct OwnToken {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

impl AddedTokens {
    /// Reads `tokenizer_config.json` and, as transformers does, `special_tokens_map.json` and `added_tokens.json` if it
    /// contains no `added_tokens_decoder`.
    pub(super) fn read(files: &Files<'_>, tokenizer_json: &[u8]) -> Result<Self, TokenizerError> {
        let names = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
        let folder = files.path();
        let [config_path, map_path, added_path] = names.map(|file| folder.join(file));
        let config = files.object(names[0])?.unwrap_or_default();
        let map = files.object(names[1])?.unwrap_or_default();
        let added = files.object(names[2])?.unwrap_or_default();
        let decoder = match config.get("added_tokens_decoder") {
            None | Some(Value::Null) => None,
            Some(Value::Object(decoder)) => Some(decoder),
            Some(other) => return Err(wrong(&config_path, "added_tokens_decoder", other, "an object of tokens by id")),
        };

        let own: OwnTokens = serde_json::from_slice(tokenizer_json)
            .map_err(|source| FolderError::Json { path: folder.join("tokenizer.json"), source })?;
        let own = own.added_tokens.unwrap_or_default();
        let mut ids: Vec<_> =
            own.iter().map(|own| (folder.join("tokenizer.json"), own.token.content.clone(), own.id)).collect();

        let mut listed = BTreeMap::new();
        for (id, token) in decoder.into_iter().flatten() {
            let expected = "an id from 0 to 2^32 - 1 with an object that has a `content`";
            let parsed = id.parse().ok().zip(token.is_object().then(|| added_token(token, false)).flatten());
            let (id, token) = parsed.ok_or_else(|| {
                let shown = serde_json::json!({ id.as_str(): token });
                wrong(&config_path, "added_tokens_decoder", &shown, expected)
            })?;
            ids.push((config_path.clone(), token.content.clone(), id));
            listed.insert(id, token);
        }

        let legacy = decoder.is_none();
        let naming = [(config_path.as_path(), &config), (map_path.as_path(), &map)];
        let (named, eos) = named_tokens(naming, legacy)?;
        let extra = extra_tokens(naming, legacy)?;
        for (content, id) in &added {
            let parsed = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = parsed.ok_or_else(|| wrong(&added_path, content, id, "an id from 0 to 2^32 - 1"))?;
            ids.push((added_path.clone(), content.clone(), id));
            if legacy {
                let special = named.iter().chain(&extra).any(|token| token.content == *content);
                listed.insert(id, AddedToken::from(content.clone(), special).normalized(!special));
            }
        }
        if legacy {
            listed.extend(own.into_iter().map(|own| (own.id, own.token)));
        }
        Ok(Self { listed, named, extra, ids, eos })
    }

    /// Adds the tokens, and checks that each has the id that the files state.
    pub(super) fn add_to(self, tokenizer: &mut tokenizers::Tokenizer, folder: &Path) -> Result<(), TokenizerError> {
        if let Some((path, token)) = &self.eos {
            let known =
                |token: &str| tokenizer.token_to_id(token).is_some() || self.ids.iter().any(|(_, t, _)| t == token);
            if !known(token) {
                return Err(TokenizerError::UnknownToken {
                    path: path.clone(),
                    key: "eos_token".into(),
                    token: token.clone(),
                });
            }
        }
        let before = tokenizer.get_added_tokens_decoder();
        let known = |token: &AddedToken| {
            before.values().chain(self.listed.values()).any(|known| known.content == token.content)
        };
        let unlisted: Vec<AddedToken> =
            self.named.iter().chain(&self.extra).filter(|token| !known(token)).cloned().collect();
        for token in unlisted.iter().filter(|token| tokenizer.token_to_id(&token.content).is_none()) {
            tracing::warn!(
                token = token.content,
                "no file states an id for this special token; it gets the next one, as in transformers"
            );
        }
        let is_named = |token: &AddedToken| self.named.iter().any(|named| named.content == token.content);
        let listed = self.listed.into_values().map(|token| {
            let special = token.special || is_named(&token);
            token.special(special)
        });
        let tokens: Vec<AddedToken> = listed.chain(unlisted).collect();
        let path = folder.join("tokenizer.json");
        tokenizer.add_tokens(tokens).map_err(|source| TokenizerError::Load { path, source })?;
        for (path, token, id) in self.ids {
            let found = tokenizer.token_to_id(&token);
            if found != Some(id) {
                return Err(TokenizerError::AddedTokenId { path, token, id, found });
            }
        }
        Ok(())
    }
}

/// A configuration file and its content; `tokenizer_config.json` first, then `special_tokens_map.json`.
type Naming<'a> = [(&'a Path, &'a Map<String, Value>); 2];

/// A file and the token that it names.
type Named = (PathBuf, String);

/// The named special tokens, in the order in which transformers adds them, and the EOS with the file that names it.
fn named_tokens(files: Naming<'_>, legacy: bool) -> Result<(Vec<AddedToken>, Option<Named>), TokenizerError> {
    // The older file has priority where transformers reads it.
    let order = if legacy { [files[1], files[0]] } else { files };
    let (mut named, mut eos) = (Vec::new(), None);
    for name in NAMED {
        let set =
            order.into_iter().find_map(|(path, file)| Some((path, file.get(name).filter(|value| !value.is_null())?)));
        let Some((path, value)) = set else { continue };
        let token = added_token(value, true).ok_or_else(|| wrong(path, name, value, "a token"))?;
        if token.content.is_empty() {
            continue;
        }
        if name == "eos_token" {
            eos = Some((path.to_owned(), token.content.clone()));
        }
        named.push(token);
    }
    // Such as `image_token`, which some models have.
    let is_own = |key: &str| key.ends_with("_token") && !NAMED.contains(&key);
    let own = files[0].1.iter().filter(|(key, value)| is_own(key) && value.is_string());
    named.extend(own.filter_map(|(_, value)| added_token(value, true)));
    Ok((named, eos))
}

/// The special tokens of the lists `extra_special_tokens` and, under its older name, `additional_special_tokens`.
fn extra_tokens(files: Naming<'_>, legacy: bool) -> Result<Vec<AddedToken>, TokenizerError> {
    const KEYS: [&str; 2] = ["extra_special_tokens", "additional_special_tokens"];
    let [(config_path, config), (map_path, map)] = files;
    let in_map = |key: &'static str| map.get(key).filter(|_| legacy).map(|list| (map_path, key, list));
    let set = |key: &&'static str| config.get(*key).is_some_and(|list| !is_empty(list));
    let lists = match KEYS.into_iter().find(set) {
        Some(key) => [Some((config_path, key, &config[key])), in_map(KEYS[0])],
        None => [in_map(KEYS[1]), in_map(KEYS[0])],
    };
    let mut extra = Vec::new();
    for (path, key, list) in lists.into_iter().flatten() {
        let bad = || wrong(path, key, list, "a list of tokens, or an object of them");
        let tokens: Vec<&Value> = match list {
            Value::Null => Vec::new(),
            Value::Array(tokens) => tokens.iter().collect(),
            Value::Object(tokens) => tokens.values().collect(),
            _ => return Err(bad()),
        };
        for token in tokens {
            extra.push(added_token(token, true).ok_or_else(bad)?);
        }
    }
    Ok(extra)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A token written as a string, or as an object with its content and flags.
fn added_token(value: &Value, special: bool) -> Option<AddedToken> {
    let Some(object) = value.as_object() else {
        return Some(AddedToken::from(value.as_str()?, special));
    };
    let flag = |key: &str, absent: bool| object.get(key).and_then(Value::as_bool).unwrap_or(absent);
    let special = special || flag("special", false);
    let token = AddedToken::from(object.get("content")?.as_str()?, special);
    Some(
        token
            .normalized(flag("normalized", !special))
            .lstrip(flag("lstrip", false))
            .rstrip(flag("rstrip", false))
            .single_word(flag("single_word", false)),
    )
}

fn wrong(path: &Path, key: &str, value: &Value, expected: &str) -> TokenizerError {
    crate::config::wrong(path, key, crate::config::shortened(value), expected).into()
}

/// The bytes of a folder's `tokenizer.json`.
pub(super) fn read_tokenizer(files: &Files<'_>) -> Result<Vec<u8>, TokenizerError> {
    match files.has("tokenizer.json") {
        true => Ok(files.read("tokenizer.json", MAX_TOKENIZER_BYTES)?),
        false => Err(not_found(files.path())),
    }
}

/// The error for a folder without `tokenizer.json`.
pub(crate) fn not_found(folder: &Path) -> TokenizerError {
    const OTHERS: [&str; 6] =
        ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model", "spiece.model"];
    let found = OTHERS.into_iter().find(|file| folder.join(file).is_file());
    TokenizerError::NotFound { folder: folder.to_owned(), found }
}

//! The tokenizer's files of a model.

use std::collections::HashMap;

use pv_data::gguf::Value;
use serde_json::{Map, Value as Json, json};

use super::merges::merges;
use super::pre_tokenizer::PreTokenizer;
use super::{GgufModelError, Model, number};

/// The kind of the tokenizer; a file without it has none.
pub(super) const MODEL: &str = "tokenizer.ggml.model";

const TEMPLATE: &str = "tokenizer.chat_template";

/// Tokens that end an answer in the chat formats of known models. A folder lists them in its `generation_config.json`, a
/// file does not.
const ENDS: [&str; 7] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|end_of_turn|>", "<|eot|>"];

/// The role of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    /// Has a meaning for the program, such as BOS; not part of a text.
    Control,
    /// Found in a text before anything else.
    UserDefined,
    Unused,
    /// Stands for one byte, such as `<0x0A>`.
    Byte,
}

/// The tokens of a model.
pub(super) struct Tokens<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<Kind>,
}

impl<'a> Tokens<'a> {
    /// Reads the tokens of a file.
    pub(super) fn read(model: &Model<'a>) -> Result<Self, GgufModelError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const KINDS: &str = "tokenizer.ggml.token_type";
        let file = model.metadata();
        let texts = file.strings(TOKENS)?.ok_or_else(|| GgufModelError::missing(TOKENS))?;
        let kinds = match file.array(KINDS)? {
            None => vec![Kind::Normal; texts.len()],
            Some(kinds) => kinds.values().map(kind).collect::<Option<_>>().unwrap_or_default(),
        };
        if kinds.len() != texts.len() {
            let expected = format!("a type from 1 to 6 for each of the {} tokens", texts.len());
            return Err(GgufModelError::value(KINDS, "of another length, or has other values", expected));
        }
        Ok(Self { texts, kinds })
    }

    fn of_kind(&self, kinds: &[Kind]) -> impl Iterator<Item = (usize, &'a str)> {
        let all = self.texts.iter().zip(&self.kinds).enumerate();
        all.filter(|(_, (_, kind))| kinds.contains(kind)).map(|(id, (text, _))| (id, *text))
    }

    /// `vocab` of the `tokenizer.json`.
    fn vocabulary(&self) -> Result<Map<String, Json>, GgufModelError> {
        let mut ids = HashMap::new();
        for (id, text) in self.texts.iter().enumerate() {
            if let Some(first) = ids.insert(*text, id) {
                return Err(GgufModelError::DuplicateToken { token: (*text).to_owned(), first, second: id });
            }
        }
        Ok(ids.into_iter().map(|(text, id)| (text.to_owned(), id.into())).collect())
    }

    /// `added_tokens` of the `tokenizer.json`, which may take the spaces after them.
    fn added(&self, strip_after: bool) -> Vec<Json> {
        /// Those of Phi-3 that never do.
        const NEVER: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];
        let found = self.of_kind(&[Kind::Control, Kind::Unknown, Kind::UserDefined]);
        let token = |(id, text): (usize, &str)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": strip_after && !NEVER.contains(&text),
                "normalized": false, "special": self.kinds[id] != Kind::UserDefined,
            })
        };
        found.filter(|(_, text)| !text.is_empty()).map(token).collect()
    }
}

fn kind(value: Value<'_>) -> Option<Kind> {
    Some(match value.integer()? {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        5 => Kind::Unused,
        6 => Kind::Byte,
        _ => return None,
    })
}

/// The id of a special token such as `bos`, if the file states one.
pub(super) fn special(model: &Model<'_>, name: &str) -> Result<Option<u32>, GgufModelError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = model.metadata().unsigned(&key)? else { return Ok(None) };
    let tokens = model.metadata().array("tokenizer.ggml.tokens")?.map_or(u64::MAX, |tokens| tokens.len() as u64);
    let expected = format!("the id of one of the {tokens} tokens");
    let known = u32::try_from(id).ok().filter(|_| id < tokens);
    known.map(Some).ok_or_else(|| GgufModelError::value(key, id.to_string(), expected))
}

/// The `tokenizer.json`; `None` for a model without a tokenizer.
pub(super) fn tokenizer(model: &Model<'_>) -> Result<Option<Map<String, Json>>, GgufModelError> {
    let Some(kind) = model.metadata().string(MODEL)? else { return Ok(None) };
    let found = match kind {
        "gpt2" => byte_level(model)?,
        "llama" => sentence_piece(model)?,
        other => return Err(GgufModelError::unsupported(MODEL, format!("{other:?}"), "\"gpt2\", \"llama\"")),
    };
    Ok(if let Json::Object(found) = found { Some(found) } else { None })
}

fn flag(model: &Model<'_>, name: &str, absent: bool) -> Result<bool, GgufModelError> {
    Ok(model.metadata().flag(&format!("tokenizer.ggml.{name}"))?.unwrap_or(absent))
}

/// Byte-level BPE.
fn byte_level(model: &Model<'_>) -> Result<Json, GgufModelError> {
    const PRE: &str = "tokenizer.ggml.pre";
    const MERGES: &str = "tokenizer.ggml.merges";
    let name = model.metadata().string(PRE)?.unwrap_or("default");
    let split = PreTokenizer::of(name).ok_or_else(|| {
        let supported = PreTokenizer::names().collect::<Vec<_>>().join(", ");
        GgufModelError::unsupported(PRE, format!("{name:?}"), supported)
    })?;
    let tokens = model.tokens()?;
    let merges = model.metadata().strings(MERGES)?.ok_or_else(|| GgufModelError::missing(MERGES))?;
    if flag(model, "add_space_prefix", false)? {
        return Err(GgufModelError::unsupported("tokenizer.ggml.add_space_prefix", "true", "false with \"gpt2\""));
    }
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    Ok(json!({
        "version": "1.0",
        "added_tokens": tokens.added(false),
        "normalizer": split.normalizer(),
        "pre_tokenizer": split.to_json(),
        "post_processor": around(model, tokens, split.adds_bos)?,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": split.ignore_merges,
            "vocab": tokens.vocabulary()?, "merges": merges,
        },
    }))
}

/// SentencePiece's BPE: merges in the order of scores, and bytes for characters without a token.
fn sentence_piece(model: &Model<'_>) -> Result<Json, GgufModelError> {
    const SCORES: &str = "tokenizer.ggml.scores";
    for (name, supported) in [("precompiled_charsmap", "no normalization"), ("remove_extra_whitespaces", "false")] {
        let key = format!("tokenizer.ggml.{name}");
        match model.metadata().get(&key) {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Array(list)) if list.is_empty() => {}
            Some(_) => return Err(GgufModelError::unsupported(key, "set", supported)),
        }
    }
    let tokens = model.tokens()?;
    let scores = model.metadata().array(SCORES)?.ok_or_else(|| GgufModelError::missing(SCORES))?;
    let scores: Option<Vec<f32>> = scores.values().map(|score| number(score).map(|score| score as f32)).collect();
    let scores = scores.filter(|scores| scores.len() == tokens.texts.len()).ok_or_else(|| {
        let expected = format!("a finite number for each of the {} tokens", tokens.texts.len());
        GgufModelError::value(SCORES, "of another length, or has other values", expected)
    })?;
    let normal: Vec<(usize, &str, f32)> =
        tokens.of_kind(&[Kind::Normal]).map(|(id, text)| (id, text, scores[id])).collect();
    let merges: Vec<[&str; 2]> = merges(&normal)?.into_iter().map(|(left, right)| [left, right]).collect();
    let unknown = match special(model, "unknown")? {
        Some(id) => tokens.texts.get(id as usize).copied(),
        None => tokens.of_kind(&[Kind::Unknown]).next().map(|(_, text)| text),
    };
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let mut normalizers = vec![spaces];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    // A space is put before every part of a text between special tokens, as llama.cpp does.
    if flag(model, "add_space_prefix", true)? {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": tokens.added(model.architecture.strips_after_special),
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "post_processor": around(model, tokens, true)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": tokens.vocabulary()?, "merges": merges,
        },
    }))
}

/// `post_processor` of the `tokenizer.json`: the tokens around a text.
fn around(model: &Model<'_>, tokens: &Tokens<'_>, adds_bos: bool) -> Result<Json, GgufModelError> {
    let token = |name: &str, adds: bool| {
        let Some(id) = special(model, name)?.filter(|_| adds) else { return Ok(None) };
        Ok::<_, GgufModelError>(tokens.texts.get(id as usize).map(|text| (id, *text)))
    };
    let bos = token("bos", flag(model, "add_bos_token", adds_bos)?)?;
    let eos = token("eos", flag(model, "add_eos_token", false)?)?;
    if bos.is_none() && eos.is_none() {
        return Ok(Json::Null);
    }
    let part = |token: Option<(u32, &str)>, sequence: u8| {
        token.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": sequence } }))
    };
    let text = |id: &str, sequence: u8| {
        let own = json!({ "Sequence": { "id": id, "type_id": sequence } });
        part(bos, sequence).into_iter().chain([own]).chain(part(eos, sequence)).collect::<Vec<_>>()
    };
    let named = |(id, text): (u32, &str)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
    let pair = [text("A", 0), text("B", 1)].concat();
    Ok(json!({
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": pair,
        "special_tokens": bos.into_iter().chain(eos).map(named).collect::<Map<_, _>>(),
    }))
}

/// The `tokenizer_config.json`: special tokens and chat templates.
pub(super) fn settings(model: &Model<'_>) -> Result<Map<String, Json>, GgufModelError> {
    let file = model.metadata();
    let mut settings = Map::new();
    if file.get(MODEL).is_some() {
        let tokens = model.tokens()?;
        for (key, name) in
            [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
        {
            if let Some(id) = special(model, name)? {
                settings.insert(key.to_owned(), tokens.texts[id as usize].into());
            }
        }
    }
    let mut templates = Vec::new();
    let mut add = |name: &str, source: &str| templates.push(json!({ "name": name, "template": source }));
    if let Some(source) = file.string(TEMPLATE)? {
        add("default", source);
    }
    for name in file.strings("tokenizer.chat_templates")?.unwrap_or_default() {
        if let Some(source) = file.string(&format!("{TEMPLATE}.{name}"))? {
            add(name, source);
        }
    }
    if !templates.is_empty() {
        settings.insert("chat_template".to_owned(), templates.into());
    }
    settings.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    Ok(settings)
}

/// The `generation_config.json`: the tokens that end an answer.
pub(super) fn generation_config(model: &Model<'_>) -> Result<Map<String, Json>, GgufModelError> {
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(special(model, name)?);
    }
    if model.metadata().get(MODEL).is_some() {
        let tokens = model.tokens()?;
        let named = tokens.of_kind(&[Kind::Control, Kind::UserDefined]).filter(|(_, text)| ENDS.contains(text));
        ends.extend(named.map(|(id, _)| id as u32));
    }
    let mut seen = std::collections::BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(Map::from_iter([("eos_token_id".to_owned(), ends.into())]))
}

//! Text to token ids and back, as a model folder's `tokenizer.json` says.

use std::{fs, ops::Range, path::Path};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Whether [`Tokenizer::encode`] adds the tokens that a tokenizer puts around a plain text, such as a BOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// Only the text itself.
    No,
    /// What the tokenizer's post-processor adds.
    Yes,
}

/// Token ids together with the piece of text that each of them came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The token ids.
    pub ids: Vec<u32>,
    /// For each id, the byte range of the text that it covers. Added tokens have an empty range; a byte-level token that
    /// holds a part of one character has the range of the whole character, so neighbours may overlap.
    pub offsets: Vec<Range<usize>>,
}

impl Encoded {
    /// The tokens that share at least one byte with `bytes`; empty when there is none.
    ///
    /// A token that lies across an edge of `bytes` is inside: otherwise a leading space could hide an answer's first word.
    pub fn tokens_touching(&self, bytes: &Range<usize>) -> Range<usize> {
        let touches = |offset: &Range<usize>| offset.start.max(bytes.start) < offset.end.min(bytes.end);
        match self.offsets.iter().position(touches) {
            Some(first) => first..self.offsets.iter().rposition(touches).unwrap_or(first) + 1,
            None => 0..0,
        }
    }
}

/// A model folder's tokenizer. `Send + Sync`; share it by reference.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    stop: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and where they exist `tokenizer_config.json` (which tokens are BOS, EOS and padding) and
    /// the ids that end generation ([`eos_ids`]).
    ///
    /// Truncation and padding that `tokenizer.json` asks for are switched off: a text's ids depend on that text alone.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Json`] name the file; [`Error::Tokenizer`] when `tokenizer.json` is not one that the
    /// `tokenizers` crate can load.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|source| Error::Tokenizer { path: path.clone(), source })?;
        inner.with_truncation(None).map_err(|source| Error::Tokenizer { path, source })?;
        inner.with_padding(None);

        let special = special_tokens(folder)?;
        let id = |name: &str| special.get(name).and_then(Value::as_str).and_then(|token| inner.token_to_id(token));
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        let mut stop = eos_ids(folder)?;
        if stop.is_empty() {
            stop.extend(eos);
        }
        Ok(Self { inner, bos, eos, pad, stop })
    }

    /// The ids of `text`. Special tokens that are written out in `text` become their single ids.
    ///
    /// # Errors
    /// [`Error::Encode`] when the tokenizer's model refuses the text (for example an unknown word without an unknown token).
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, special == AddSpecial::Yes).map_err(|source| Error::Encode { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text that a chat template rendered. Nothing is added, so a BOS that the template wrote stays the only
    /// one, and a template that writes none gets none.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>> {
        self.encode(text, AddSpecial::No)
    }

    /// As [`Tokenizer::encode`], together with each token's byte range in `text`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str, special: AddSpecial) -> Result<Encoded> {
        let encoding =
            self.inner.encode(text, special == AddSpecial::Yes).map_err(|source| Error::Encode { source })?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    /// The text of `ids`. Ids outside the vocabulary (a model's output layer is often padded) are passed over, and bytes
    /// that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|source| Error::Decode { source })
    }

    /// Starts decoding a stream of ids, one at a time.
    pub fn stream(&self, skip_special: bool) -> TokenStream<'_> {
        TokenStream { tokenizer: self, skip_special, ids: Vec::new(), context: 0 }
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How many tokens there are, added ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token that `tokenizer_config.json` names. Generation ends at any of [`Tokenizer::stop_ids`].
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The padding token.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The ids that end generation: [`eos_ids`] of the folder, or else the tokenizer's own EOS. May be empty.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }
}

/// Turns ids into text as they arrive, holding back a character until all its bytes are there.
#[derive(Clone, Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The ids already written (`..context`, kept because some decoders treat the first token specially), then those held.
    ids: Vec<u32>,
    context: usize,
}

impl TokenStream<'_> {
    /// A character has at most four bytes and a token at least one, so a longer wait is for bytes that are no UTF-8.
    const LONGEST_WAIT: usize = 16;

    /// Takes the next id and returns the text that is certain now, if any.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let text = self.held()?;
        let incomplete = text.ends_with(char::REPLACEMENT_CHARACTER);
        if text.is_empty() || (incomplete && self.ids.len() - self.context < Self::LONGEST_WAIT) {
            return Ok(None);
        }
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        Ok(Some(text))
    }

    /// Ends the stream: returns what was held back, with U+FFFD in place of an unfinished character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn flush(&mut self) -> Result<Option<String>> {
        let text = self.held()?;
        self.ids.clear();
        self.context = 0;
        Ok((!text.is_empty()).then_some(text))
    }

    fn held(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.context], self.skip_special)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special)?;
        match all.strip_prefix(before.as_str()) {
            Some(text) => Ok(text.to_owned()),
            // Byte-fallback decoders spoil a whole run of bytes when its end is incomplete.
            None => self.tokenizer.decode(&self.ids[self.context..], self.skip_special),
        }
    }
}

/// The ids that end generation: `eos_token_id` (a number or a list) of `generation_config.json`, or else of `config.json`,
/// or else of its `text_config`. Empty when no file says any.
///
/// # Errors
/// [`Error::Read`] and [`Error::Json`] name the file.
pub fn eos_ids(folder: &Path) -> Result<Vec<u32>> {
    let ids = |object: &Map<String, Value>| -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match object.get("eos_token_id") {
            Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    };
    let generation = read_object(&folder.join("generation_config.json"))?.unwrap_or_default();
    let found = ids(&generation);
    if !found.is_empty() {
        return Ok(found);
    }
    let config = read_object(&folder.join("config.json"))?.unwrap_or_default();
    let found = ids(&config);
    if !found.is_empty() {
        return Ok(found);
    }
    Ok(config.get("text_config").and_then(Value::as_object).map(ids).unwrap_or_default())
}

/// The special tokens by name (`bos_token`, …) with their text, from `tokenizer_config.json` or, where that is silent,
/// from the older `special_tokens_map.json`. Only those that are set.
pub(crate) fn special_tokens(folder: &Path) -> Result<Map<String, Value>> {
    const NAMES: [&str; 7] =
        ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
    let mut found = Map::new();
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let config = read_object(&folder.join(file))?.unwrap_or_default();
        for name in NAMES {
            let value = config.get(name);
            let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
            if let Some(text) = text.filter(|_| !found.contains_key(name)) {
                found.insert(name.to_owned(), text.into());
            }
        }
    }
    Ok(found)
}

/// A JSON object from a file; `None` when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A tokenizer with one token a byte, a BOS that its post-processor adds, and truncation and padding switched on.
    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("pv-model-tokenizer-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut spare = 255;
        let byte = |byte: u32| {
            let shown = matches!(byte, 33..=126 | 161..=172 | 174..=255);
            spare += u32::from(!shown);
            char::from_u32(if shown { byte } else { spare }).unwrap()
        };
        let vocabulary: Map<String, Value> =
            (0..256).map(byte).map(String::from).zip((0..256).map(Value::from)).collect();
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 257,
                "pad_type_id": 0, "pad_token": "</s>"},
            "added_tokens": [added(256, "<s>"), added(257, "</s>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
            "post_processor": {"type": "TemplateProcessing", "pair": [],
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
        });
        fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let config = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null});
        fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
        folder
    }

    #[test]
    fn special_tokens_are_added_once_and_only_when_asked() {
        let folder = folder("special");
        let tokenizer = Tokenizer::from_folder(&folder).unwrap();
        assert_eq!(tokenizer.encode("abcd", AddSpecial::No).unwrap(), [97, 98, 99, 100]);
        assert_eq!(tokenizer.encode("a", AddSpecial::Yes).unwrap(), [256, 97]);
        assert_eq!(tokenizer.encode_rendered("<s>a</s>").unwrap(), [256, 97, 257]);
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(256), Some(257), None));
        assert_eq!((tokenizer.vocab_size(), tokenizer.id("</s>"), tokenizer.id("no")), (258, Some(257), None));
        assert_eq!(tokenizer.stop_ids(), [257]);
        assert_eq!(tokenizer.decode(&[256, 97, 999_999], true).unwrap(), "a");

        fs::write(folder.join("config.json"), r#"{"eos_token_id": 3}"#).unwrap();
        assert_eq!(eos_ids(&folder).unwrap(), [3]);
        fs::write(folder.join("generation_config.json"), r#"{"eos_token_id": [1, 2, -1, "x"]}"#).unwrap();
        assert_eq!(eos_ids(&folder).unwrap(), [1, 2]);
        fs::write(folder.join("generation_config.json"), "[").unwrap();
        assert!(matches!(eos_ids(&folder), Err(Error::Json { .. })));
        fs::write(folder.join("tokenizer.json"), "{}").unwrap();
        assert!(matches!(Tokenizer::from_folder(&folder), Err(Error::Tokenizer { .. })));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn offsets_are_bytes_of_the_text() {
        let folder = folder("offsets");
        let tokenizer = Tokenizer::from_folder(&folder).unwrap();
        let encoded = tokenizer.encode_with_offsets("é b", AddSpecial::Yes).unwrap();
        assert_eq!(encoded.offsets, [0..0, 0..2, 0..2, 2..3, 3..4]);
        assert_eq!(encoded.tokens_touching(&(0..1)), 1..3);
        assert_eq!(encoded.tokens_touching(&(3..4)), 4..5);
        assert_eq!(encoded.tokens_touching(&(2..2)), 0..0);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_stream_gives_what_decoding_at_once_gives() {
        fn shared<T: Send + Sync>() {}
        shared::<Tokenizer>();
        let folder = folder("stream");
        let tokenizer = Tokenizer::from_folder(&folder).unwrap();
        let mut stream = tokenizer.stream(false);
        let pieces: Vec<_> =
            tokenizer.encode_rendered("a👍").unwrap().into_iter().map(|id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces, [Some("a".to_owned()), None, None, None, Some("👍".to_owned())]);
        assert_eq!(stream.flush().unwrap(), None);

        let bad = [0xff; 40].to_vec();
        let cut = vec![97, 0xf0, 0x9f];
        let text = tokenizer.encode_rendered("naïve \u{fffd} 日本語<s>👩‍👩‍👧").unwrap();
        for ids in [bad, cut, text] {
            let mut stream = tokenizer.stream(false);
            let mut whole = String::new();
            for id in &ids {
                whole.extend(stream.push(*id).unwrap());
            }
            whole.extend(stream.flush().unwrap());
            assert_eq!(whole, tokenizer.decode(&ids, false).unwrap());
        }
        fs::remove_dir_all(folder).unwrap();
    }
}

//! Text to token ids and back, according to a model folder's `tokenizer.json`.

mod added;
mod error;
mod files;
mod limits;
#[cfg(test)]
mod tests;

use std::{ops::Range, path::Path};

use serde_json::{Map, Value};
use tokenizers::ModelWrapper;

use crate::folder::{Files, with_files};

pub(crate) use added::not_found;
pub use error::TokenizerError;
pub use files::eos_ids;
pub(crate) use files::special_tokens;

/// Whether [`Tokenizer::encode`] adds the tokens that a tokenizer puts around a text, such as BOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddSpecial {
    /// Only the tokens of the text.
    No,
    /// The tokens that the tokenizer's post-processor adds, too.
    Yes,
}

/// Token ids with the pieces of text that they cover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// The token ids.
    pub ids: Vec<u32>,
    /// For each id, the byte range of the text that it covers. Added tokens have an empty range; a byte-level token
    /// with a part of one character has the range of the whole character, so that neighbours may overlap.
    pub offsets: Vec<Range<usize>>,
}

impl Encoded {
    /// The tokens that share at least one byte with `bytes`; empty if there are none.
    ///
    /// A token across a boundary of `bytes` is included: otherwise a leading space could hide an answer's first word.
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
    /// Whether spaces before punctuation are removed from decoded text, as the folder may request for word tokenizers.
    clean_up: bool,
}

impl Tokenizer {
    /// Loads `tokenizer.json` and the other files of the folder that name tokens (`tokenizer_config.json`,
    /// `special_tokens_map.json`, `added_tokens.json`), as transformers does, and the stop ids: those of [`eos_ids`]
    /// and the tokenizer's own EOS.
    ///
    /// Truncation and padding in `tokenizer.json` are disabled: a text's ids depend on that text only.
    ///
    /// # Errors
    /// [`TokenizerError::NotFound`] without a `tokenizer.json`; [`FileError::Read`](pv_data::FileError::Read),
    /// [`FolderError::Json`](crate::folder::FolderError::Json) and
    /// [`ConfigError::Value`](crate::config::ConfigError::Value) with the file; [`TokenizerError::Load`] if the
    /// `tokenizers` crate cannot load `tokenizer.json`; [`TokenizerError::AddedTokenId`] if two files contradict each
    /// other about a token's id; [`TokenizerError::UnknownToken`] for an EOS that is not a token.
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        with_files(folder, Self::from_files)
    }

    /// Like [`from_folder`](Self::from_folder), for files that are open.
    pub(crate) fn from_files(files: &Files<'_>) -> Result<Self, TokenizerError> {
        let bytes = added::read_tokenizer(files)?;
        let added = added::AddedTokens::read(files, &bytes);
        let path = files.path().join("tokenizer.json");
        let failed = |source| TokenizerError::Load { path: path.clone(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(failed)?;
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        added?.add_to(&mut inner, files.path())?;

        let config = files.object("tokenizer_config.json")?.unwrap_or_default();
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        inner.set_encode_special_tokens(flag("split_special_tokens"));
        let forced = flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output");
        let bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
        let clean_up = flag("clean_up_tokenization_spaces") && (forced || !bpe);

        let special = special_tokens(files)?;
        let id = |name: &str| special.get(name).and_then(Value::as_str).and_then(|token| inner.token_to_id(token));
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        let mut stop = files::eos_ids_of(files)?;
        stop.extend(eos.filter(|eos| !stop.contains(eos)));
        Ok(Self { inner, bos, eos, pad, stop, clean_up })
    }

    /// The ids of `text`. Special tokens that are written out in `text` become their ids.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] if the tokenizer's model rejects the text (for example an unknown word without an
    /// unknown token), or its regular expressions need too many steps, as for a million spaces in a row.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>, TokenizerError> {
        self.check(text)?;
        let encoding = self
            .inner
            .encode_fast(text, special == AddSpecial::Yes)
            .map_err(|source| TokenizerError::Encode { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text that a chat template rendered. Nothing is added: a BOS of the template is the only one, and
    /// without one there is none.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode(text, AddSpecial::No)
    }

    /// Like [`Tokenizer::encode`], with each token's byte range in `text`.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str, special: AddSpecial) -> Result<Encoded, TokenizerError> {
        self.check(text)?;
        let encoding =
            self.inner.encode(text, special == AddSpecial::Yes).map_err(|source| TokenizerError::Encode { source })?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    fn check(&self, text: &str) -> Result<(), TokenizerError> {
        limits::check(&self.inner, || limits::Patterns::of(&self.inner), text)
    }

    /// The text of `ids`. Ids outside the vocabulary (a model's output layer is often padded) are skipped, and bytes
    /// that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let text = self.inner.decode(ids, skip_special).map_err(|source| TokenizerError::Decode { source })?;
        Ok(if self.clean_up { cleaned_up(text) } else { text })
    }

    /// Starts decoding a stream of ids, one at a time.
    pub fn stream(&self, skip_special: bool) -> TokenStream<'_> {
        TokenStream { tokenizer: self, skip_special, ids: Vec::new(), context: 0 }
    }

    /// The id of a token, as written in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The contents of a `tokenizer.json` and a `tokenizer_config.json` of this tokenizer.
    pub(crate) fn to_json(&self) -> Result<(String, Value), TokenizerError> {
        let json = self.inner.to_string(true).map_err(|source| TokenizerError::Serialize { source })?;
        let named = [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad)];
        let named =
            named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), self.inner.id_to_token(id?)?.into())));
        let mut config: Map<String, Value> = named.collect();
        config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".to_owned(), self.clean_up.into());
        Ok((json, Value::Object(config)))
    }

    /// The number of tokens, including added ones. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token of the tokenizer's files. Generation ends at any of [`Tokenizer::stop_ids`].
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The padding token.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The ids that end generation: [`eos_ids`] of the folder and the tokenizer's own EOS. May be empty.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }
}

/// Decodes ids as they arrive, and holds a character back until all its bytes are there.
#[derive(Clone, Debug)]
pub struct TokenStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The ids that are decoded already (`..context`, kept because some decoders treat the first token specially), and
    /// those held back.
    ids: Vec<u32>,
    context: usize,
}

impl TokenStream<'_> {
    /// A character has at most four bytes and a token at least one, so that a longer wait is for bytes that are not
    /// UTF-8.
    const LONGEST_WAIT: usize = 16;

    /// Adds the next id and returns the text that is final now, if any.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
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

    /// Ends the stream: returns the held-back text, with U+FFFD for an incomplete character.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn flush(&mut self) -> Result<Option<String>, TokenizerError> {
        let text = self.held()?;
        self.ids.clear();
        self.context = 0;
        Ok((!text.is_empty()).then_some(text))
    }

    fn held(&self) -> Result<String, TokenizerError> {
        let before = self.tokenizer.decode(&self.ids[..self.context], self.skip_special)?;
        let all = self.tokenizer.decode(&self.ids, self.skip_special)?;
        match all.strip_prefix(before.as_str()) {
            Some(text) => Ok(text.to_owned()),
            // Byte-fallback decoders corrupt a whole run of bytes if its end is incomplete.
            None => self.tokenizer.decode(&self.ids[self.context..], self.skip_special),
        }
    }
}

/// Removes the spaces that word tokenizers leave before punctuation, as transformers does.
fn cleaned_up(mut text: String) -> String {
    const PAIRS: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    for (from, to) in PAIRS {
        text = text.replace(from, to);
    }
    text
}

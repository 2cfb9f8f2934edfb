//! Text to token ids and back, as a model folder's `tokenizer.json` says.

mod added;
mod files;
mod limits;
#[cfg(test)]
mod tests;

use std::{ops::Range, path::Path};

use serde_json::{Map, Value};
use tokenizers::ModelWrapper;

use crate::error::{Error, Result};

pub(crate) use added::no_tokenizer;
pub use files::eos_ids;
pub(crate) use files::{read_object, special_tokens};

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
    /// Whether spaces before punctuation are taken out of decoded text, as the folder may ask for tokenizers of words.
    clean_up: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and the files beside it that name tokens (`tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json`), as transformers does, and the ids that end generation: [`eos_ids`] and the tokenizer's own EOS.
    ///
    /// Truncation and padding that `tokenizer.json` asks for are switched off: a text's ids depend on that text alone.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] without a `tokenizer.json`; [`FileError::Read`](pv_data::FileError::Read), [`Error::Json`] and [`Error::ConfigValue`] name the
    /// file; [`Error::Tokenizer`] when `tokenizer.json` is not one that the `tokenizers` crate can load;
    /// [`Error::AddedTokenId`] where two files contradict one another about a token's id; [`Error::UnknownToken`] for an EOS that
    /// is no token.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let bytes = added::read_tokenizer(folder)?;
        let added = added::AddedTokens::read(folder, &bytes);
        let path = folder.join("tokenizer.json");
        let failed = |source| Error::Tokenizer { path: path.clone(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(failed)?;
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        added?.add_to(&mut inner, folder)?;

        let config = read_object(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        inner.set_encode_special_tokens(flag("split_special_tokens"));
        let forced = flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output");
        let bpe = matches!(inner.get_model(), ModelWrapper::BPE(_));
        let clean_up = flag("clean_up_tokenization_spaces") && (forced || !bpe);

        let special = special_tokens(folder)?;
        let id = |name: &str| special.get(name).and_then(Value::as_str).and_then(|token| inner.token_to_id(token));
        let (bos, eos, pad) = (id("bos_token"), id("eos_token"), id("pad_token"));
        let mut stop = eos_ids(folder)?;
        stop.extend(eos.filter(|eos| !stop.contains(eos)));
        Ok(Self { inner, bos, eos, pad, stop, clean_up })
    }

    /// The ids of `text`. Special tokens that are written out in `text` become their single ids.
    ///
    /// # Errors
    /// [`Error::Encode`] when the tokenizer's model refuses the text (for example an unknown word without an unknown token), or
    /// its regular expressions take too many steps for it, as for a million spaces in a row.
    pub fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>> {
        self.check(text)?;
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
        self.check(text)?;
        let encoding =
            self.inner.encode(text, special == AddSpecial::Yes).map_err(|source| Error::Encode { source })?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            offsets: encoding.get_offsets().iter().map(|&(start, end)| start..end).collect(),
        })
    }

    fn check(&self, text: &str) -> Result<()> {
        limits::check(&self.inner, || limits::Patterns::of(&self.inner), text)
    }

    /// The text of `ids`. Ids outside the vocabulary (a model's output layer is often padded) are passed over, and bytes
    /// that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Decode`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = self.inner.decode(ids, skip_special).map_err(|source| Error::Decode { source })?;
        Ok(if self.clean_up { cleaned_up(text) } else { text })
    }

    /// Starts decoding a stream of ids, one at a time.
    pub fn stream(&self, skip_special: bool) -> TokenStream<'_> {
        TokenStream { tokenizer: self, skip_special, ids: Vec::new(), context: 0 }
    }

    /// The id of a token as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The content of a `tokenizer.json` and of a `tokenizer_config.json` that say what this is.
    pub(crate) fn to_json(&self) -> Result<(String, Value)> {
        let json = self.inner.to_string(true).map_err(|source| Error::Encode { source })?;
        let named = [("bos_token", self.bos), ("eos_token", self.eos), ("pad_token", self.pad)];
        let named =
            named.into_iter().filter_map(|(name, id)| Some((name.to_owned(), self.inner.id_to_token(id?)?.into())));
        let mut config: Map<String, Value> = named.collect();
        config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".to_owned(), self.clean_up.into());
        Ok((json, Value::Object(config)))
    }

    /// How many tokens there are, added ones included. A model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-sequence token that the tokenizer's files name. Generation ends at any of [`Tokenizer::stop_ids`].
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

/// Takes the spaces out that tokenizers of words leave before punctuation, as transformers does.
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

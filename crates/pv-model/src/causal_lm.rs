//! A chat model: decoder, tokenizer and chat template of one folder.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use pv_data::Message;
use pv_hooks::{Hook, Layer, ModelShape};

use crate::adapter::Adapter;
use crate::chat::{ChatTemplate, RenderOptions};
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, Logits, Pass, PassOutput};
use crate::load::LoadOptions;
use crate::save::beside;
use crate::tokenizer::{Tokenizer, no_tokenizer};
use crate::{Batch, Error, Result};

/// How far a [`CausalLm::forward`] goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// The last layer to compute; no later block, no final norm and no output head. `None` goes to the end.
    pub stop_at: Option<Layer>,
    /// Which logits to compute; none when the pass stops early.
    pub logits: Logits,
}

/// A causal language model with its tokenizer and chat template. `Send + Sync`: one model serves many threads by
/// reference, since everything that changes in a pass (hooks, caches) is an argument.
#[derive(Clone, Debug)]
pub struct CausalLm {
    decoder: Decoder,
    tokenizer: Option<Tokenizer>,
    template: Option<ChatTemplate>,
    stop_ids: Vec<u32>,
    folder: PathBuf,
    name: String,
}

impl CausalLm {
    /// As [`CausalLm::from_folder_with`], with the default options.
    ///
    /// # Errors
    /// As [`CausalLm::from_folder_with`].
    pub fn from_folder(folder: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Self> {
        Self::from_folder_with(folder, device, dtype, &LoadOptions::default())
    }

    /// Loads a Hugging Face model folder. The tokenizer and the chat template may be absent; what needs them then says
    /// so.
    ///
    /// # Errors
    /// Anything wrong with the folder's files; see [`Error`]. A model that does not fit in the memory that is free
    /// ([`Error::NotEnoughMemory`]).
    pub fn from_folder_with(
        folder: impl AsRef<Path>,
        device: &Device,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<Self> {
        let folder = folder.as_ref();
        let tokenizer = match folder.join("tokenizer.json").is_file() {
            true => Some(Tokenizer::from_folder(folder)?),
            false => None,
        };
        let template = match ChatTemplate::from_folder(folder) {
            Ok(template) => Some(template),
            Err(Error::NoChatTemplate { .. }) => None,
            Err(error) => return Err(error),
        };
        let decoder = Decoder::from_folder_with(folder, device, dtype, options)?;
        let model = Self::new(decoder, tokenizer, template, folder);
        let vocab = model.config().vocab;
        match model.stop_ids.iter().find(|id| **id as usize >= vocab) {
            Some(&id) => Err(Error::StopTokenOutOfRange { folder: folder.to_owned(), id, vocab }),
            None => Ok(model),
        }
    }

    /// Puts a model together. `folder` gives it its name, is what errors speak of, and is where [`save`](Self::save)
    /// finds the tokenizer's files.
    pub fn new(
        decoder: Decoder,
        tokenizer: Option<Tokenizer>,
        template: Option<ChatTemplate>,
        folder: impl AsRef<Path>,
    ) -> Self {
        let folder = folder.as_ref();
        let stop_ids = tokenizer.as_ref().map(Tokenizer::stop_ids).filter(|ids| !ids.is_empty());
        let stop_ids = stop_ids.unwrap_or(&decoder.config().tokens.eos).to_vec();
        let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = name.file_name().unwrap_or(name.as_os_str()).to_string_lossy().into_owned();
        Self { decoder, tokenizer, template, stop_ids, folder: folder.to_owned(), name }
    }

    /// The same model with other weights, such as finetuned ones; give it a name of its own with [`named`](Self::named).
    ///
    /// # Errors
    /// [`Error::OtherArchitecture`].
    pub fn with_decoder(mut self, decoder: Decoder) -> Result<Self> {
        if let Some((key, expected, found)) = self.config().difference(decoder.config()) {
            return Err(Error::OtherArchitecture { key, expected, found });
        }
        self.decoder = decoder;
        Ok(self)
    }

    /// The same model with an adapter on it, above those that it has; the weights are shared. Switching between adapters
    /// is to keep the model without them, and to put one on where it is needed.
    ///
    /// # Errors
    /// [`Error::BadAdapter`].
    pub fn with_adapter(&self, adapter: &Adapter) -> Result<Self> {
        Ok(Self { decoder: self.decoder.with_adapter(adapter, 1.0)?, ..self.clone() })
    }

    /// Writes the decoder as [`Decoder::save`] does, and everything else that the model's own folder gives a reader: the
    /// tokenizer's files, all chat templates and the generation settings are copied. A tokenizer and templates that have no file
    /// there are written from memory.
    ///
    /// # Errors
    /// Those of [`Decoder::save`].
    pub fn save(&self, folder: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let folder = folder.as_ref();
        self.decoder.save(folder, dtype)?;
        let copied = beside::copy(&self.folder, folder)?;
        beside::write_missing(folder, &copied, self.tokenizer.as_ref(), self.template.as_ref(), &self.stop_ids)
    }

    /// Gives the model another name than its folder's, such as its name on the hub.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The architecture.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// What hooks are checked against.
    pub fn shape(&self) -> ModelShape {
        self.decoder.shape()
    }

    /// The folder that the model was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its name: that of its folder, on the hub, or as [`named`](Self::named) set it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tokens that end an answer.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] when the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| no_tokenizer(&self.folder))
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] when the folder has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::NoChatTemplate { folder: self.folder.clone() })
    }

    /// The tokens of a conversation as a prompt: rendered by the chat template, generation prompt included, and never
    /// with a second BOS.
    ///
    /// # Errors
    /// No template or tokenizer, or a template that refuses the conversation.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_with(messages, &RenderOptions::prompt())
    }

    /// As [`prompt`](Self::prompt), with options for the template. The text ends with the header of the assistant's next
    /// answer, or where the last message ends if [`RenderOptions::continue_final_message`] is set.
    ///
    /// # Errors
    /// As [`prompt`](Self::prompt).
    pub fn prompt_with(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        let prompt = RenderOptions { add_generation_prompt: !options.continue_final_message, ..options.clone() };
        let rendered = self.chat_template()?.render(messages, &prompt)?;
        self.tokenizer()?.encode_rendered(&rendered.text)
    }

    /// Runs one pass without a cache over whole sequences or prompts, with everything checked first.
    ///
    /// # Errors
    /// A hook that does not fit or did not fire, a layer to stop at that the model lacks, ids beyond the vocabulary.
    pub fn forward(
        &self,
        batch: &Batch,
        options: ForwardOptions,
        hook: &mut (impl Hook + ?Sized),
    ) -> Result<PassOutput> {
        self.check_ids(&batch.ids)?;
        if batch.ids.is_empty() {
            return Err(Error::EmptyPrompt { index: 0 });
        }
        if let Some(stop) = options.stop_at.filter(|stop| *stop > self.shape().last_layer()) {
            let hook = "the layer to stop at".to_owned();
            let last = self.shape().last_layer();
            return Err(pv_hooks::HookError::LayerOutOfRange { hook, layer: stop, last }.into());
        }
        pv_hooks::check(hook, &self.shape(), options.stop_at)?;
        let phase = pv_hooks::Phase::Full;
        let ForwardOptions { stop_at, logits } = options;
        let pass = Pass { ids: &batch.ids, spans: &batch.spans, phase, stop_at, logits };
        let output = self.decoder.pass(&pass, None, hook);
        hook.finish()?;
        Ok(output)
    }

    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.config().vocab;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(Error::TokenOutOfRange { id, vocab }),
            None => Ok(()),
        }
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<CausalLm>();
};

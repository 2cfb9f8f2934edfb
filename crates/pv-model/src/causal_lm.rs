//! A chat model: the decoder, tokenizer and chat template of one folder.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use pv_data::Message;
use pv_hooks::{Hook, Layer, ModelShape};

use crate::adapter::Adapter;
use crate::batch::Batch;
use crate::chat::{ChatTemplate, RenderOptions, TemplateError};
use crate::config::DecoderConfig;
use crate::decoder::{Decoder, Logits, Pass, PassOutput};
use crate::device::{default_device, default_dtype};
use crate::folder::with_files;
use crate::hub::{HubOptions, resolve};
use crate::load::LoadOptions;
use crate::save::other_files;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How far a [`CausalLm::forward`] pass goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// The last layer to compute. With a layer, later blocks, the final norm and the output head are not computed;
    /// `None` computes everything.
    pub stop_at: Option<Layer>,
    /// Which logits to compute; none if the pass stops early.
    pub logits: Logits,
}

/// A causal language model with its tokenizer and chat template. `Send + Sync`: many threads can share one model by
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
    /// Loads a model by a folder's path or a name on the Hugging Face hub, onto the default device in its default type
    /// ([`default_device`], [`default_dtype`]). [`resolve`] defines where a name is looked up; the settings come from
    /// the environment ([`HubOptions::from_env`]). Use [`from_folder`](Self::from_folder) to choose all of that.
    ///
    /// # Errors
    /// Those of [`resolve`] and of [`from_folder_with`](Self::from_folder_with).
    pub fn load(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        let folder = resolve(name, &HubOptions::from_env(), |_| ControlFlow::Continue(()))?;
        let device = default_device();
        let model = Self::from_folder(&folder, &device, default_dtype(&device))?;
        Ok(if folder == Path::new(name) { model } else { model.named(name) })
    }

    /// Like [`CausalLm::from_folder_with`], with default options.
    ///
    /// # Errors
    /// Those of [`CausalLm::from_folder_with`].
    pub fn from_folder(folder: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Self> {
        Self::from_folder_with(folder, device, dtype, &LoadOptions::default())
    }

    /// Loads a Hugging Face model folder, or a GGUF file, which stands for one. The tokenizer and the chat template may be absent; functions that need them
    /// then return an error.
    ///
    /// # Errors
    /// Every problem with the folder's files; see [`Error`]. [`Error::NotEnoughMemory`] for a model that does not fit
    /// into the available memory.
    pub fn from_folder_with(
        folder: impl AsRef<Path>,
        device: &Device,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<Self> {
        let folder = folder.as_ref();
        let model = with_files(folder, |files| {
            let tokenizer = files.has("tokenizer.json").then(|| Tokenizer::from_files(files)).transpose()?;
            let template = match ChatTemplate::from_files(files) {
                Ok(template) => Some(template),
                Err(TemplateError::NotFound { .. }) => None,
                Err(error) => return Err(Error::from(error)),
            };
            let decoder = Decoder::from_files(files, device, dtype, options)?;
            Ok(Self::new(decoder, tokenizer, template, folder))
        })?;
        let vocab = model.config().vocab;
        match model.stop_ids.iter().find(|id| **id as usize >= vocab) {
            Some(&id) => Err(Error::StopTokenOutOfRange { folder: folder.to_owned(), id, vocab }),
            None => Ok(model),
        }
    }

    /// Assembles a model. The name of `folder` becomes the model's name and is used in errors; [`save`](Self::save)
    /// copies the tokenizer's files from there.
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

    /// The same model with other weights, such as finetuned ones. Rename it with [`named`](Self::named).
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

    /// The same model with an adapter, applied after its present ones. The weights are shared. To switch between
    /// adapters, keep the model without them and call this for each.
    ///
    /// # Errors
    /// [`AdapterError`](crate::adapter::AdapterError).
    pub fn with_adapter(&self, adapter: &Adapter) -> Result<Self> {
        Ok(Self { decoder: self.decoder.with_adapter(adapter, 1.0)?, ..self.clone() })
    }

    /// Saves the model: the decoder, as [`Decoder::save`] does, and the other files of the model's folder (the
    /// tokenizer's files, all chat templates and the generation settings). A tokenizer and templates without a file
    /// there are written from memory.
    ///
    /// # Errors
    /// Those of [`Decoder::save`].
    pub fn save(&self, folder: impl AsRef<Path>, dtype: DType) -> Result<()> {
        let folder = folder.as_ref();
        self.decoder.save(folder, dtype)?;
        let copied = other_files::copy(&self.folder, folder)?;
        other_files::write_missing(folder, &copied, self.tokenizer.as_ref(), self.template.as_ref(), &self.stop_ids)
    }

    /// Sets the model's name, such as its name on the hub. The default is the folder's name.
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

    /// The dimensions against which hooks are checked.
    pub fn shape(&self) -> ModelShape {
        self.decoder.shape()
    }

    /// The folder that the model was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model's name: that of its folder, its name on the hub, or the one that [`named`](Self::named) set.
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
    /// [`TokenizerError::NotFound`](crate::tokenizer::TokenizerError::NotFound) when the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        Ok(self.tokenizer.as_ref().ok_or_else(|| crate::tokenizer::not_found(&self.folder))?)
    }

    /// The chat template.
    ///
    /// # Errors
    /// [`TemplateError::NotFound`] when the folder has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        Ok(self.template.as_ref().ok_or_else(|| TemplateError::NotFound { folder: self.folder.clone() })?)
    }

    /// The tokens of a conversation as a prompt: rendered by the chat template, with the generation prompt and without
    /// a second BOS token.
    ///
    /// # Errors
    /// [`TemplateError::NotFound`],
    /// [`TokenizerError::NotFound`](crate::tokenizer::TokenizerError::NotFound), or an error of a template that rejects
    /// the conversation.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt_with(messages, &RenderOptions::prompt())
    }

    /// Like [`prompt`](Self::prompt), with options for the template. The text ends with the header of the assistant's
    /// next answer, or after the last message if [`RenderOptions::continue_final_message`] is set.
    ///
    /// # Errors
    /// Those of [`prompt`](Self::prompt).
    pub fn prompt_with(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<u32>> {
        let prompt = RenderOptions { add_generation_prompt: !options.continue_final_message, ..options.clone() };
        let rendered = self.chat_template()?.render(messages, &prompt)?;
        Ok(self.tokenizer()?.encode_rendered(&rendered.text)?)
    }

    /// Checks the arguments and runs one pass without a cache over whole sequences or prompts.
    ///
    /// # Errors
    /// A hook that does not fit or never fired, a layer to stop at that the model does not have, ids outside the
    /// vocabulary.
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
        pv_hooks::hook::check(hook, &self.shape(), options.stop_at)?;
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

//! Whether a vector fits a model.

use pv_model::DecoderConfig;

use super::PersonaVector;
use crate::{Error, Result};

impl PersonaVector {
    /// Refuses a model with another width, depth or architecture than the vector's. Other weights are accepted: a base
    /// model's vector measures and steers its finetuned copies. An imported vector has no hash of the architecture, and
    /// some know only a minimum number of blocks: then that minimum is checked. A control vector's `model_hint` must
    /// not name another architecture; if it is only spelt differently, or names a model, a warning is logged.
    /// [`ImportOptions::model`](crate::files::ImportOptions::model) overrides a wrong hint.
    ///
    /// # Errors
    /// [`Error::ModelMismatch`].
    pub fn check_model(&self, config: &DecoderConfig) -> Result<()> {
        let (layers, d_model) = self.shape();
        let mismatch = |what, vector: String, model: String| {
            Err(Error::ModelMismatch { trait_name: self.provenance.trait_name.clone(), what, vector, model })
        };
        if d_model != config.d_model {
            return mismatch("width", d_model.to_string(), config.d_model.to_string());
        }
        let blocks = layers - 1;
        let at_least = self.provenance.imported.as_ref().is_some_and(|imported| !imported.depth_known);
        if at_least && blocks > config.layers {
            return mismatch("number of blocks", format!("at least {blocks}"), config.layers.to_string());
        }
        if !at_least && blocks != config.layers {
            return mismatch("number of blocks", blocks.to_string(), config.layers.to_string());
        }
        let expected = config.hash();
        if let Some(hash) = self.provenance.config_hash.as_ref().filter(|hash| **hash != expected) {
            return mismatch("architecture hash", hash.clone(), expected);
        }
        // A model name given by the caller overrides the hint.
        let hint = self.provenance.imported.as_ref().and_then(|imported| imported.model_hint.as_deref());
        match hint.filter(|hint| *hint == self.provenance.model).map(|hint| (hint, Hint::of(hint, &config.model_type)))
        {
            Some((hint, Hint::Other)) => mismatch("model_hint", hint.to_owned(), config.model_type.clone()),
            Some((hint, Hint::Unclear)) => {
                let model = config.model_type.as_str();
                tracing::warn!(hint, model, "the vector's model_hint does not name the model's architecture");
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The relation of a control vector's `model_hint` to a model.
#[derive(Debug, PartialEq, Eq)]
enum Hint {
    /// The model's architecture, whose name llama.cpp and Hugging Face spell differently.
    Same,
    /// Unknown: another spelling, or a model's name.
    Unclear,
    /// Another architecture.
    Other,
}

impl Hint {
    fn of(hint: &str, model_type: &str) -> Self {
        let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        // llama.cpp has one name for both.
        let family = |name: &str| if name == "mistral" { "llama".to_owned() } else { name.to_owned() };
        let (hint_plain, model) = (plain(hint), plain(model_type));
        if hint == model_type || ["llama", "mistral"].contains(&hint) && family(hint) == family(&model) {
            Self::Same
        } else if hint_plain.is_empty() || hint_plain.contains(&model) || family(&hint_plain) == family(&model) {
            Self::Unclear
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Hint;

    #[test]
    fn hints_of_other_tools_are_understood() {
        for (hint, model, expected) in [
            ("qwen2", "qwen2", Hint::Same),
            ("llama", "mistral", Hint::Same),
            ("mistral", "mistral", Hint::Same),
            ("Qwen2", "qwen2", Hint::Unclear),
            ("qwen-2", "qwen2", Hint::Unclear),
            ("Qwen2.5-7B-Instruct", "qwen2", Hint::Unclear),
            ("Mistral", "mistral", Hint::Unclear),
            ("", "llama", Hint::Unclear),
            ("qwen2", "qwen3", Hint::Other),
            ("qwen3", "qwen2", Hint::Other),
            ("llama", "qwen2", Hint::Other),
            ("gemma2", "llama", Hint::Other),
            ("mistral", "llama", Hint::Same),
        ] {
            assert_eq!(Hint::of(hint, model), expected, "{hint} on {model}");
        }
    }
}

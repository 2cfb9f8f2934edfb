//! At which tokens something is done.

use pv_hooks::TokenSet;

/// The tokens at which an intervention acts. Padding is never among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Positions {
    /// The last prompt token and every response token: what the paper's code does, which acts on the last position of
    /// every forward pass of a generation.
    #[default]
    Response,
    /// The response's own tokens from this number on; 0 is the first of them, so that the prompt is left alone. When no
    /// answer of a run is that long, the run ends with [`HookError::NeverFired`](pv_hooks::HookError::NeverFired).
    ResponseFrom(usize),
    /// The prompt's tokens, and no others.
    Prompt,
    /// Every token.
    All,
}

impl Positions {
    pub(crate) fn tokens(self) -> TokenSet {
        match self {
            Self::Response => TokenSet::Generating,
            Self::ResponseFrom(token) => TokenSet::ResponseFrom(token),
            Self::Prompt => TokenSet::Prompt,
            Self::All => TokenSet::Real,
        }
    }
}

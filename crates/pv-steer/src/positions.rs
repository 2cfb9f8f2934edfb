//! The tokens at which an intervention acts.

use std::fmt;
use std::str::FromStr;

use pv_hooks::TokenSet;
use serde::{Deserialize, Serialize};

use crate::error::SettingError;
use crate::{Error, Result};

/// The name of [`Positions::ResponseFrom`] in text, before its number in brackets. Files contain it, so it must not
/// change.
const RESPONSE_FROM: &str = "responsefrom";

/// The tokens at which an intervention acts. Padding is never included.
///
/// In text, and so in files: `response`, `responsefrom(3)`, `prompt`, `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Positions {
    /// The prompt's last token and every response token, as in the paper's code, which acts on the last position of
    /// every forward pass of a generation.
    #[default]
    Response,
    /// The response tokens from this index on; 0 is the first of them, so that the prompt is unchanged. If no answer of
    /// a run is that long, the run ends with [`HookError::NeverFired`](pv_hooks::HookError::NeverFired).
    ResponseFrom(usize),
    /// The prompt tokens only.
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

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Response => f.write_str("response"),
            Self::ResponseFrom(token) => write!(f, "{RESPONSE_FROM}({token})"),
            Self::Prompt => f.write_str("prompt"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Positions {
    type Err = Error;

    /// Parses the output of [`Display`](fmt::Display); `response_from(3)` too.
    fn from_str(text: &str) -> Result<Self> {
        let from = [RESPONSE_FROM, "response_from"].into_iter().find_map(|name| text.strip_prefix(name));
        let from = from.and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'));
        let from = from.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        match (text, from.and_then(|number| number.parse().ok())) {
            (_, Some(token)) => Ok(Self::ResponseFrom(token)),
            ("response", _) => Ok(Self::Response),
            ("prompt", _) => Ok(Self::Prompt),
            ("all", _) => Ok(Self::All),
            _ => Err(SettingError::Positions { text: text.to_owned() }.into()),
        }
    }
}

impl From<Positions> for String {
    fn from(positions: Positions) -> Self {
        positions.to_string()
    }
}

impl TryFrom<String> for Positions {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_one_has_a_text_that_names_it() {
        for (positions, text) in [
            (Positions::Response, "response"),
            (Positions::ResponseFrom(0), "responsefrom(0)"),
            (Positions::ResponseFrom(usize::MAX), "responsefrom(18446744073709551615)"),
            (Positions::Prompt, "prompt"),
            (Positions::All, "all"),
        ] {
            assert_eq!(positions.to_string(), text);
            assert_eq!(text.parse::<Positions>().unwrap(), positions);
            let json = serde_json::to_string(&positions).unwrap();
            assert_eq!(json, format!("{text:?}"), "the spelling of files that are there");
            assert_eq!(serde_json::from_str::<Positions>(&json).unwrap(), positions);
        }
        assert_eq!("response_from(7)".parse::<Positions>().unwrap(), Positions::ResponseFrom(7));
        for bad in ["", "Response", "responsefrom", "responsefrom()", "responsefrom(-1)", "responsefrom(+1)", "all "] {
            assert!(bad.parse::<Positions>().unwrap_err().to_string().contains("unknown positions"), "{bad}");
        }
    }
}

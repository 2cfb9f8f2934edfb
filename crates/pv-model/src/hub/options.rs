use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The source of models, and the cache.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// The hub's address.
    pub endpoint: String,
    /// The folder with a folder `models--org--name` for each model.
    pub cache: PathBuf,
    /// Sent to the hub (not to servers that it redirects to), for private or gated models.
    pub token: Option<HubToken>,
    /// Whether network access is disabled.
    pub offline: bool,
    /// The timeout for a connection.
    pub connect_timeout: Duration,
    /// The timeout while no data arrive over a connection.
    pub stall_timeout: Duration,
}

impl HubOptions {
    /// The public hub without a token, and a cache folder.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: "https://huggingface.co".into(),
            cache: cache.into(),
            token: None,
            offline: false,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
        }
    }

    /// Reads the options from the environment, from the same variables and files as the Python libraries.
    ///
    /// - cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in the Hugging Face folder, which is `HF_HOME`,
    ///   `huggingface` in `XDG_CACHE_HOME`, or `.cache/huggingface` in the user's home.
    /// - endpoint: `HF_ENDPOINT`.
    /// - token: `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH`, or the file `token` in the Hugging Face
    ///   folder; none if `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set.
    /// - offline: `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE`, set to `1`, `true`, `yes` or `on`.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name), std::env::home_dir().unwrap_or_default())
    }

    /// [`Self::from_env`] for any environment.
    pub(super) fn from_variables(variable: impl Fn(&str) -> Option<OsString>, user: PathBuf) -> Self {
        let filled = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| filled(name).and_then(|value| value.into_string().ok());
        let path = |name: &str| {
            filled(name).map(PathBuf::from).map(|path| match path.strip_prefix("~") {
                Ok(rest) => user.join(rest),
                Err(_) => path,
            })
        };
        let is_on = |name: &str| {
            text(name).is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        };
        let home = path("HF_HOME")
            .unwrap_or_else(|| path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache")).join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let mut options = Self::new(cache);
        if let Some(endpoint) = text("HF_ENDPOINT") {
            options.endpoint = endpoint.trim_end_matches('/').into();
        }
        if !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            let given = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
            let file = || read_token(&path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token")));
            options.token = given.and_then(|token| HubToken::new(&token)).or_else(file);
        }
        options.offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
        options
    }
}

/// A file that cannot be read counts as absent: most models need no token.
fn read_token(path: &Path) -> Option<HubToken> {
    const LONGEST: u64 = 4096;
    let mut token = String::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut token).ok()?;
    HubToken::new(&token)
}

/// An access token of the hub. It is never displayed, not even by [`Debug`](fmt::Debug), and never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct HubToken(String);

impl HubToken {
    /// A token without surrounding white space; `None` if the rest is empty or contains invalid characters.
    pub fn new(token: &str) -> Option<Self> {
        let token = token.trim();
        (!token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(token.into()))
    }

    #[cfg(feature = "hub")]
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HubToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubToken(..)")
    }
}

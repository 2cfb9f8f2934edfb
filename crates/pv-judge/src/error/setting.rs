//! Invalid options of a judge behind a server.

/// An invalid option of a judge behind a server. No message contains a key, a header's value or a URL, which may contain
/// a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingError {
    /// A number that must be at least 1.
    #[error("`{option}` is 0; it must be at least 1")]
    Zero {
        /// The option.
        option: &'static str,
    },
    /// The model's name is empty.
    #[error("the model's name is empty")]
    NoModel,
    /// A field of the body that the judge sets itself.
    #[error("the body field {name:?} is reserved and cannot be set")]
    ReservedField {
        /// The field.
        name: &'static str,
    },
    /// The base URL cannot be parsed.
    #[error("the base URL is invalid; expected something like http://localhost:8080/v1")]
    Url,
    /// The base URL has another scheme, or no host.
    #[error("the base URL must begin with http:// or https:// and a host")]
    UrlScheme,
    /// The base URL contains a user name or a password.
    #[error("the base URL contains a user name or a password; pass secrets as the key")]
    UrlCredentials,
    /// The base URL contains a fragment or query parameters other than `api-version`.
    #[error("the base URL contains more than a path and ?api-version=; pass secrets as the key")]
    UrlQuery,
    /// The key is empty or contains characters that a header cannot contain.
    #[error("the key is empty or contains invalid characters")]
    Key,
    /// The value of a header is empty or contains invalid characters.
    #[error("the header's value is empty or contains invalid characters")]
    HeaderValue,
    /// A header's name or value is invalid.
    #[error("the header {name:?} or its value is invalid")]
    Header {
        /// The header's name.
        name: String,
    },
    /// A trait that is to be written has no description.
    #[error("the trait {trait_name:?} has no description")]
    NoDescription {
        /// The trait's name.
        trait_name: String,
    },
}

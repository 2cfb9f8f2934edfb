//! The URL and the headers of requests.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Url, redirect};

use super::{ApiKey, HttpOptions, KeyHeader, SettingError};

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

const COMPLETIONS: &str = "/chat/completions";

/// The URL of chat completions, and the server's name and port.
pub(super) fn endpoint(base_url: &str) -> Result<(Url, String), SettingError> {
    // The URL is not repeated in the message: it may contain a password.
    let Ok(mut endpoint) = Url::parse(base_url.trim()) else {
        return Err(SettingError::Url);
    };
    if !matches!(endpoint.scheme(), "http" | "https") || !endpoint.has_host() {
        return Err(SettingError::UrlScheme);
    }
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(SettingError::UrlCredentials);
    }
    if endpoint.fragment().is_some() || endpoint.query_pairs().any(|(name, _)| name != "api-version") {
        return Err(SettingError::UrlQuery);
    }
    let path = endpoint.path().trim_end_matches('/');
    let path = format!("{}{COMPLETIONS}", path.strip_suffix(COMPLETIONS).unwrap_or(path));
    endpoint.set_path(&path);
    let port = endpoint.port().map(|port| format!(":{port}")).unwrap_or_default();
    let server = format!("{}{port}", endpoint.host_str().unwrap_or_default());
    Ok((endpoint, server))
}

/// Whether a URL is on this machine.
pub(super) fn is_local(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The headers of every request.
pub(super) fn headers(options: &HttpOptions, endpoint: &Url) -> Result<HeaderMap, SettingError> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let value = |secret: &ApiKey, before: &str| {
        let mut value = HeaderValue::try_from(format!("{before}{}", secret.secret())).ok()?;
        value.set_sensitive(true);
        Some(value)
    };
    if let Some(key) = &options.key {
        let (name, before) = match options.key_header {
            KeyHeader::Bearer => (AUTHORIZATION, "Bearer "),
            KeyHeader::ApiKey => (HeaderName::from_static("api-key"), ""),
            KeyHeader::Auto if is_azure(endpoint) => (HeaderName::from_static("api-key"), ""),
            KeyHeader::Auto => (AUTHORIZATION, "Bearer "),
        };
        headers.insert(name, value(key, before).ok_or(SettingError::Key)?);
    }
    for (name, secret) in &options.headers {
        let known = HeaderName::try_from(name.trim()).ok();
        let known = known.filter(|name| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding"));
        let (Some(header), Some(value)) = (known, value(secret, "")) else {
            return Err(SettingError::Header { name: name.clone() });
        };
        headers.insert(header, value);
    }
    Ok(headers)
}

fn is_azure(endpoint: &Url) -> bool {
    let host = endpoint.host_str().unwrap_or_default();
    endpoint.query().is_some() || host.ends_with(".azure.com") || host.ends_with(".azure.us")
}

/// The HTTP client.
pub(super) fn http_client(options: &HttpOptions, headers: HeaderMap) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(AGENT)
        .default_headers(headers)
        .connect_timeout(options.connect_timeout)
        // A redirected request would arrive without its body or its key.
        .redirect(redirect::Policy::none())
        // This module's retries are the only ones.
        .retry(reqwest::retry::never())
        .build()
}

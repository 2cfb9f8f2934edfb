//! Failures of single requests.

/// The reason why one attempt at a request gave no reply, although another attempt may. No message contains the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestFailure {
    /// The connection failed, or the request timed out.
    #[error("{message}")]
    Connection {
        /// The HTTP library's error with its causes, without the URL.
        message: String,
    },
    /// The server reports a temporary problem.
    #[error("status {status}: {message}")]
    Status {
        /// The HTTP status, or the one in the body of a response with status 200.
        status: u16,
        /// The server's message, shortened.
        message: String,
    },
    /// The response is too long.
    #[error("the response has more than {limit} bytes")]
    TooLong {
        /// The greatest number of bytes that are read.
        limit: usize,
    },
    /// The response is encoded in a way that was not requested and is not supported.
    #[error("the response has the encoding {encoding:?}, which was not requested")]
    Encoding {
        /// The encoding.
        encoding: String,
    },
    /// The response cannot be decompressed.
    #[error("the response cannot be decompressed: {message}")]
    Compression {
        /// The error of the decompression.
        message: String,
    },
    /// The response is not that of a chat completion.
    #[error("the response has {fault}: {body}")]
    Malformed {
        /// The fault.
        fault: &'static str,
        /// The body, shortened.
        body: String,
    },
}

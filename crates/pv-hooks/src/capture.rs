//! The captures of a recorder.

/// What a [`Recorder`](crate::Recorder) records of a layer's residual.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capture {
    /// The mean over the response's own tokens.
    ResponseMean,
    /// The mean over the prompt's tokens.
    PromptMean,
    /// The residual at the prompt's last token.
    PromptLast,
    /// The mean Euclidean norm of the residual over the response's own tokens, `[sequences, 1]`.
    ResponseNorm,
    /// The residual at one position of each sequence, counted from its first token that is not padding.
    Position(usize),
    /// Every token of every sequence, padding excluded. Needs memory in proportion to layers × tokens × width.
    Everything,
}

//! Errors of hooks, recorders and token spans.

use crate::{Capture, Layer};

/// An error of a hook, a recorder or token spans.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// A hook requests a layer that the model does not have.
    #[error("{hook} requests {layer}, but the model's last layer is {last}")]
    LayerOutOfRange {
        /// The hook's name.
        hook: String,
        /// The requested layer.
        layer: Layer,
        /// The model's last layer.
        last: Layer,
    },
    /// A hook requests a layer above the one at which the pass stops.
    #[error("{hook} requests {layer}, but the pass stops at {stop}, so the hook would never act there")]
    LayerAfterStop {
        /// The hook's name.
        hook: String,
        /// The requested layer.
        layer: Layer,
        /// The last layer that the pass computes.
        stop: Layer,
    },
    /// A hook requests no layer.
    #[error("{hook} requests no layer, so it would never act")]
    NoLayers {
        /// The hook's name.
        hook: String,
    },
    /// A vector's width differs from that of the model's residual stream.
    #[error(
        "{hook}: expected a vector of width {expected} (the model's residual stream) at {layer}, found width {found}"
    )]
    WidthMismatch {
        /// The hook's name.
        hook: String,
        /// The layer of the vector.
        layer: Layer,
        /// The width of the model's residual stream.
        expected: usize,
        /// The vector's width.
        found: usize,
    },
    /// A vector contains a NaN or an infinity, or is zero although a direction is needed.
    #[error("{hook} has an invalid vector at {layer}: {reason}")]
    BadVector {
        /// The hook's name.
        hook: String,
        /// The layer of the vector.
        layer: Layer,
        /// What is invalid.
        reason: &'static str,
    },
    /// A hook with settings per sequence met a sequence without settings.
    #[error("{hook} has settings for {known} sequences, but the run has a sequence number {sequence}")]
    UnknownSequence {
        /// The hook's name.
        hook: String,
        /// The number of sequences with settings.
        known: usize,
        /// The number of the sequence without settings.
        sequence: usize,
    },
    /// A hook treats two sequences differently at tokens that are computed once for both.
    #[error(
        "{hook} differs for sequences {first} and {second}, which share the prefill of their prompt: give each a \
         request of its own, or act from the first generated token on"
    )]
    SharedTokens {
        /// The hook's name.
        hook: String,
        /// One of the sequences.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A run ended before the hook changed or saw a token.
    #[error("{hook} never fired: the run had no token that it acts on")]
    NeverFired {
        /// The hook's name.
        hook: String,
    },
    /// The recorder does not record this capture at this layer, or no pass reached the layer.
    #[error("{capture:?} at {layer} was not recorded")]
    NotRecorded {
        /// The requested capture.
        capture: Capture,
        /// The requested layer.
        layer: Layer,
    },
    /// The list of requested sequences is empty.
    #[error("the list of sequences is empty, expected at least one")]
    NoSequences,
    /// A mean over no tokens.
    #[error("{capture:?}: sequence {sequence} has no such token")]
    NoTokens {
        /// The requested capture.
        capture: Capture,
        /// The sequence that has no such token.
        sequence: usize,
    },
    /// Token spans that contradict each other.
    #[error("row {row} has invalid token spans: {reason}")]
    BadSpans {
        /// The row of the batch.
        row: usize,
        /// What is invalid.
        reason: &'static str,
    },
}

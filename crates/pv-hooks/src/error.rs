//! What can be wrong with a hook, or with what it was asked for.

use crate::{Capture, Layer};

/// Every error of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// A hook wants a layer that the model does not have.
    #[error("{hook} wants {layer}, but the model's last layer is {last}")]
    LayerOutOfRange {
        /// The hook's own name.
        hook: String,
        /// What it wants.
        layer: Layer,
        /// The last layer there is.
        last: Layer,
    },
    /// A hook wants a layer that comes after the one where the pass is told to stop.
    #[error("{hook} wants {layer}, but the pass stops at {stop}, so the hook would never act there")]
    LayerAfterStop {
        /// The hook's own name.
        hook: String,
        /// What it wants.
        layer: Layer,
        /// The last layer that the pass computes.
        stop: Layer,
    },
    /// A hook wants no layer at all.
    #[error("{hook} names no layer, so it would never act")]
    NoLayers {
        /// The hook's own name.
        hook: String,
    },
    /// A vector is not as wide as the model's residual stream.
    #[error("{hook} has a vector of width {found} for {layer}, but the model's residual stream is {expected} wide")]
    WidthMismatch {
        /// The hook's own name.
        hook: String,
        /// Where the vector would act.
        layer: Layer,
        /// The model's width.
        expected: usize,
        /// The vector's width.
        found: usize,
    },
    /// A vector holds a NaN or an infinity, or is zero where a direction is needed.
    #[error("{hook} has an unusable vector for {layer}: {reason}")]
    BadVector {
        /// The hook's own name.
        hook: String,
        /// Where the vector would act.
        layer: Layer,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hook that treats sequences differently met one that it knows nothing of.
    #[error("{hook} knows {known} sequences, but the run has a sequence {sequence}")]
    UnknownSequence {
        /// The hook's own name.
        hook: String,
        /// How many sequences it knows.
        known: usize,
        /// The number of the one that it does not.
        sequence: usize,
    },
    /// A hook was to treat two sequences differently at tokens that are computed once for both.
    #[error(
        "{hook} differs for sequences {first} and {second}, which share the reading of their prompt: give them requests of \
         their own, or act from the first generated token on"
    )]
    SharedTokens {
        /// The hook's own name.
        hook: String,
        /// One of the sequences.
        first: usize,
        /// The other.
        second: usize,
    },
    /// A run ended without the hook having changed or seen a single token.
    #[error("{hook} never fired: the run held no token that it acts on")]
    NeverFired {
        /// The hook's own name.
        hook: String,
    },
    /// Something was read from a recorder that it was not asked to record, or that the run never reached.
    #[error("{capture:?} at {layer} was not recorded")]
    NotRecorded {
        /// What was read.
        capture: Capture,
        /// Where.
        layer: Layer,
    },
    /// Activations of no sequence were asked for.
    #[error("activations of no sequence were asked for")]
    NoSequences,
    /// A mean over no tokens.
    #[error("{capture:?} of sequence {sequence} is a mean over no tokens")]
    NoTokens {
        /// What was read.
        capture: Capture,
        /// The sequence that has no such token.
        sequence: usize,
    },
    /// Token spans that contradict themselves.
    #[error("row {row} has impossible token spans: {reason}")]
    BadSpans {
        /// The row.
        row: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

//! The progress of an extraction.

/// The progress of an extraction.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// Answers are being generated.
    Answering {
        /// The number of finished answers.
        done: usize,
        /// The number of answers in all.
        total: usize,
    },
    /// Answers are being judged.
    Judging {
        /// The number of verdicts so far.
        done: usize,
        /// The number of verdicts in all.
        total: usize,
    },
    /// Activations of the answers are being recorded.
    Reading {
        /// The number of answers that have been read.
        done: usize,
        /// The number of answers in all.
        total: usize,
    },
}

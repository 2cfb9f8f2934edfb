use serde::Serialize;

use super::shape::RequestForm;
use crate::score::{ScoreMode, VerdictCounts};

/// A judge's findings about its server, and its work so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JudgeReport {
    /// The judge's mode; `None` while it is unknown.
    pub mode: Option<ScoreMode>,
    /// The form of requests that the server accepts.
    pub form: RequestForm,
    /// Deviations from the protocol, in the order in which they were detected.
    pub found: Vec<String>,
    /// The number of requests, including failed attempts.
    pub requests: u64,
    /// The reported verdicts, by mode and kind, including those from the cache.
    pub verdicts: VerdictCounts,
}

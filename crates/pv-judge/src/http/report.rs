use serde::Serialize;

use super::shape::RequestForm;
use crate::{ScoreMode, VerdictCounts};

/// What a judge found out about its server, and what it has done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JudgeReport {
    /// How the scores are got; `None` while that is open.
    pub mode: Option<ScoreMode>,
    /// In which form the server takes requests.
    pub form: RequestForm,
    /// What differs from the protocol, in words, in the order in which it was found out.
    pub found: Vec<String>,
    /// How many requests were made, each attempt counted.
    pub requests: u64,
    /// The verdicts that were reported, by mode and kind; those from the cache included.
    pub verdicts: VerdictCounts,
}

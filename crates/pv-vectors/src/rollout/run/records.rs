//! The records of a complete run, in the order of its plan.

use std::io::Write;

use pv_data::runs::complete_lines;
use pv_data::{Damage, RunError, RunFolder};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::rollout::journal::ROLLOUTS;
use crate::rollout::means_file::MEANS;
use crate::rollout::{Plan, Record};

/// The lines in the order of the plan; `lines_of[index]` is the line of a rollout.
pub(super) fn sorted(text: &[u8], lines_of: &[usize]) -> Vec<u8> {
    let all: Vec<&[u8]> = complete_lines(text).collect();
    lines_of.iter().flat_map(|&line| [all.get(line).copied().unwrap_or_default(), b"\n"]).collect::<Vec<_>>().concat()
}

/// The records of a complete run in the order of the plan. The file is sorted if necessary.
pub(super) fn canonical(folder: &RunFolder, plan: &Plan, expected: &str) -> Result<Vec<Record>> {
    let damaged = |source: Damage| RunError::Damaged { path: folder.file(ROLLOUTS), source };
    let text = folder.read(ROLLOUTS)?.unwrap_or_default();
    let mut records = vec![None; plan.len()];
    let mut lines_of = vec![0; plan.len()];
    for (at, line) in complete_lines(&text).enumerate() {
        let record: Record =
            serde_json::from_slice(line).map_err(|source| damaged(Damage::Line { line: at + 1, source }))?;
        let index = plan.index(record.place).filter(|&index| records[index].is_none());
        let index = index.ok_or_else(|| damaged(Damage::StrayLine { line: at + 1 }))?;
        lines_of[index] = at;
        records[index] = Some(record);
    }
    let missing = records.iter().filter(|record| record.is_none()).count();
    if missing > 0 {
        return Err(damaged(Damage::Incomplete { what: "rollouts", missing, expected: plan.len() }).into());
    }
    let ordered = sorted(&text, &lines_of);
    if hex::encode(Sha256::digest(&ordered)) != expected {
        return Err(damaged(Damage::ChangedAfter { than: MEANS }).into());
    }
    if ordered != text {
        folder.write(ROLLOUTS, |file| file.write_all(&ordered))?;
    }
    Ok(records.into_iter().flatten().collect())
}

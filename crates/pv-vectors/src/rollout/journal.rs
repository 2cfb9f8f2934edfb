//! A run that is not complete: rollouts in the order in which they ended.
//!
//! Two files grow side by side: item `i` of `activations.bin`, which has a fixed size, belongs to line `i` of
//! `rollouts.jsonl`. An item is written before its line, and holds a checksum of both. Whatever a killed process left, the
//! rollouts that count are the first ones up to which both files agree; what comes after is cut off and generated again.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};

use super::folder::Folder;
use super::store::Layout;
use super::{Plan, Record, RolloutMeans};
use crate::line_journal::whole_lines;
use crate::{Error, Result};

pub(super) const ROLLOUTS: &str = "rollouts.jsonl";
pub(super) const ACTIVATIONS: &str = "activations.bin";

const INDEX: usize = 8;
const CHECKSUM: usize = 32;

/// The two files, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    layout: Layout,
    lines: File,
    items: File,
    /// Which rollout of the plan each line is.
    order: Vec<usize>,
    /// Bytes of the lines.
    length: u64,
}

impl Journal {
    /// Opens the files, cut to what both agree on; the records are in the order of the lines.
    pub(super) fn open(folder: &Folder, plan: &Plan, layout: Layout) -> Result<(Self, Vec<Record>)> {
        let text = folder.read(ROLLOUTS)?.unwrap_or_default();
        let items = folder.append(ACTIVATIONS, u64::MAX)?;
        let failed = |source| Error::Read { path: folder.file(ACTIVATIONS), source };
        let mut reader = BufReader::new(&items);
        reader.seek(SeekFrom::Start(0)).map_err(failed)?;

        let mut seen = vec![false; plan.len()];
        let (mut order, mut records, mut length) = (Vec::new(), Vec::new(), 0);
        let mut item = vec![0; item_size(layout)];
        for line in whole_lines(&text) {
            if reader.read_exact(&mut item).is_err() {
                break;
            }
            let Some((index, record)) = agreed(plan, line, &item).filter(|(index, _)| !seen[*index]) else { break };
            seen[index] = true;
            order.push(index);
            records.push(record);
            length += line.len() as u64 + 1;
        }
        drop(reader);
        let good = (order.len() * item_size(layout)) as u64;
        // One unfinished rollout is what a killed process leaves; more than that is worth a word.
        let lost = whole_lines(&text).count() - order.len();
        if lost > 1 {
            tracing::warn!(lost, kept = order.len(), folder = %folder.path().display(), "rollouts are damaged; generating them again");
        }
        drop(items);
        let (lines, items) = (folder.append(ROLLOUTS, length)?, folder.append(ACTIVATIONS, good)?);
        let journal = Self { layout, lines, items, order, length };
        Ok((journal, records))
    }

    /// Which rollouts there are, in the order in which they ended.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    pub(super) fn append(
        &mut self,
        folder: &Folder,
        index: usize,
        record: &Record,
        means: &RolloutMeans,
    ) -> Result<()> {
        let mut line = serde_json::to_vec(record)
            .map_err(std::io::Error::from)
            .map_err(|source| Error::Write { path: folder.file(ROLLOUTS), source })?;
        let mut item = Vec::with_capacity(item_size(self.layout));
        item.extend((index as u64).to_le_bytes());
        item.extend(self.layout.encode(means)?);
        let sum = checksum(&item, &line);
        item.extend(sum);
        line.push(b'\n');
        let failed = |name: &str| {
            let path = folder.file(name);
            move |source| Error::Write { path, source }
        };
        let written = self.items.write_all(&item).map_err(failed(ACTIVATIONS));
        let written = written.and_then(|()| self.lines.write_all(&line).map_err(failed(ROLLOUTS)));
        if written.is_ok() {
            self.order.push(index);
            self.length += line.len() as u64;
        } else {
            // A full disk may have taken a part, after which nothing must follow. If this fails too, the next start mends it.
            let _ = self.items.set_len((self.order.len() * item_size(self.layout)) as u64);
            let _ = self.lines.set_len(self.length);
        }
        written
    }

    /// Brings both files to the disk, so that not even a power failure loses what they hold.
    pub(super) fn sync(&self, folder: &Folder) -> Result<()> {
        for (file, name) in [(&self.items, ACTIVATIONS), (&self.lines, ROLLOUTS)] {
            file.sync_data().map_err(|source| Error::Write { path: folder.file(name), source })?;
        }
        Ok(())
    }

    /// The bytes `offset..offset + length` of the activations in line `line`.
    pub(super) fn read(&self, line: usize, offset: usize, into: &mut [u8]) -> std::io::Result<()> {
        let mut file = &self.items;
        file.seek(SeekFrom::Start((line * item_size(self.layout) + INDEX + offset) as u64))?;
        file.read_exact(into)
    }
}

fn item_size(layout: Layout) -> usize {
    INDEX + layout.size() + CHECKSUM
}

fn checksum(head: &[u8], line: &[u8]) -> [u8; CHECKSUM] {
    Sha256::new().chain_update(head).chain_update(line).finalize().into()
}

/// The rollout that a line and an item agree on.
fn agreed(plan: &Plan, line: &[u8], item: &[u8]) -> Option<(usize, Record)> {
    let (head, sum) = item.split_at(item.len() - CHECKSUM);
    if checksum(head, line) != sum {
        return None;
    }
    let record: Record = serde_json::from_slice(line).ok()?;
    let index = plan.index(record.place)?;
    let stored = u64::from_le_bytes(*head.first_chunk()?);
    (stored == index as u64).then_some((index, record))
}

//! A run that is not complete: rollouts in the order in which they ended.
//!
//! Two files grow side by side: item `i` of `activations.bin`, which has a fixed size, belongs to line `i` of
//! `rollouts.jsonl`. An item is written before its line, and holds a checksum of both. Whatever a killed process left, the
//! rollouts that count are those on which both files agree; the others are generated again. Where more is lost than a kill
//! explains, the files as they were are kept aside.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};

use pv_data::{FileError, RunFolder};
use sha2::{Digest, Sha256};

use super::store::Layout;
use super::{Plan, Record, RolloutMeans};
use crate::Result;

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
    /// Opens the files, with the rollouts that both agree on; the records are in the order of the lines.
    pub(super) fn open(folder: &RunFolder, plan: &Plan, layout: Layout) -> Result<(Self, Vec<Record>)> {
        let text = folder.read(ROLLOUTS)?.unwrap_or_default();
        let lines: Vec<&[u8]> = whole_lines(&text).collect();
        let mut records: Vec<Option<(usize, Record)>> = lines.iter().map(|line| read_line(plan, line)).collect();
        // A rollout that stands there twice counts once.
        let mut line_of = vec![None; plan.len()];
        for (at, record) in records.iter().enumerate().rev() {
            if let Some((index, _)) = record {
                line_of[*index] = Some(at);
            }
        }
        drop(folder.append(ACTIVATIONS, u64::MAX)?);
        let failed = FileError::read(folder.file(ACTIVATIONS));
        let items = File::open(folder.file(ACTIVATIONS)).map_err(&failed)?;
        let whole = items.metadata().map_err(&failed)?.len() / item_size(layout) as u64;
        let mut reader = BufReader::new(items);
        // Line and item of each rollout that counts, in the order of the items.
        let mut agreed: Vec<(usize, u64)> = Vec::new();
        let mut item = vec![0; item_size(layout)];
        for at in 0..whole {
            reader.read_exact(&mut item).map_err(&failed)?;
            let index = stored_index(&item).filter(|&index| index < plan.len());
            let line = index.and_then(|index| line_of[index]).filter(|&line| agrees(&item, lines[line]));
            if let (Some(index), Some(line)) = (index, line) {
                line_of[index] = None;
                agreed.push((line, at));
            }
        }
        let kept = agreed.len();
        let in_order = agreed.iter().enumerate().all(|(i, &(line, item))| (line, item) == (i, i as u64));
        // A killed process leaves one item without its line.
        let damaged = lines.len() - kept + (whole as usize).saturating_sub(kept + 1);
        if damaged > 0 || !in_order {
            let aside = [folder.set_aside(ROLLOUTS)?, folder.set_aside(ACTIVATIONS)?];
            tracing::warn!(damaged, kept, folder = %folder.path().display(), ?aside,
                "rollouts are damaged and will be generated again; the files as they were are kept aside");
        }
        if !in_order {
            // What both agree on, in one order. A process that is killed between the two leaves files that agree no less.
            folder.write(ROLLOUTS, |file| {
                agreed
                    .iter()
                    .try_for_each(|(line, _)| file.write_all(lines[*line]).and_then(|()| file.write_all(b"\n")))
            })?;
            folder.write(ACTIVATIONS, |file| {
                agreed.iter().try_for_each(|(_, at)| {
                    reader.seek(SeekFrom::Start(at * item_size(layout) as u64))?;
                    reader.read_exact(&mut item)?;
                    file.write_all(&item)
                })
            })?;
        }
        let (order, records): (Vec<usize>, Vec<Record>) =
            agreed.iter().filter_map(|(line, _)| records[*line].take()).unzip();
        let length = agreed.iter().map(|(line, _)| lines[*line].len() as u64 + 1).sum();
        let good = (kept * item_size(layout)) as u64;
        let (lines, items) = (folder.append(ROLLOUTS, length)?, folder.append(ACTIVATIONS, good)?);
        Ok((Self { layout, lines, items, order, length }, records))
    }

    /// Which rollouts there are, in the order in which they ended.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    pub(super) fn append(
        &mut self,
        folder: &RunFolder,
        index: usize,
        record: &Record,
        means: &RolloutMeans,
    ) -> Result<()> {
        let mut line = serde_json::to_vec(record)
            .map_err(std::io::Error::from)
            .map_err(|source| FileError::Write { path: folder.file(ROLLOUTS), source })?;
        let mut item = Vec::with_capacity(item_size(self.layout));
        item.extend((index as u64).to_le_bytes());
        item.extend(self.layout.encode(means)?);
        let sum = checksum(&item, &line);
        item.extend(sum);
        line.push(b'\n');
        let failed = |name: &str| {
            let path = folder.file(name);
            move |source| FileError::Write { path, source }
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
        Ok(written?)
    }

    /// Brings both files to the disk, so that not even a power failure loses what they hold.
    pub(super) fn sync(&self, folder: &RunFolder) -> Result<()> {
        for (file, name) in [(&self.items, ACTIVATIONS), (&self.lines, ROLLOUTS)] {
            file.sync_data().map_err(|source| FileError::Write { path: folder.file(name), source })?;
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

/// The rollout of a line, and its index in the plan.
fn read_line(plan: &Plan, line: &[u8]) -> Option<(usize, Record)> {
    let record: Record = serde_json::from_slice(line).ok()?;
    Some((plan.index(record.place)?, record))
}

/// Which rollout an item says it is of.
fn stored_index(item: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*item.first_chunk()?)).ok()
}

/// Whether an item is whole, and of this line.
fn agrees(item: &[u8], line: &[u8]) -> bool {
    let (head, sum) = item.split_at(item.len() - CHECKSUM);
    checksum(head, line) == sum
}

/// The lines that end, without their ends. What follows the last end is the beginning of a line that was never finished.
pub(super) fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

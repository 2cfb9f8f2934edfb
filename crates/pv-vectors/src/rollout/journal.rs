//! The files of an incomplete run: rollouts in the order in which they finished.
//!
//! Two files grow in parallel: item `i` of `activations.bin`, which has a fixed size, belongs to line `i` of
//! `rollouts.jsonl`. An item is written before its line, and contains a checksum of both. After a crash, the rollouts
//! on which both files agree are valid, and the others are generated again. If more is lost than a crash explains,
//! copies of the files are kept.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};

use pv_data::runs::complete_lines;
use pv_data::{FileError, RunFolder};
use sha2::{Digest, Sha256};

use super::means_file::MeansFile;
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
    /// The index in the plan of each line's rollout.
    order: Vec<usize>,
    /// The length of the lines in bytes.
    length: u64,
}

impl Journal {
    /// Opens the files and returns the rollouts on which both agree, in the order of the lines.
    pub(super) fn open(folder: &RunFolder, plan: &Plan, layout: Layout) -> Result<(Self, Vec<Record>)> {
        let text = folder.read(ROLLOUTS)?.unwrap_or_default();
        let lines: Vec<&[u8]> = complete_lines(&text).collect();
        let mut records: Vec<Option<(usize, Record)>> = lines.iter().map(|line| read_line(plan, line)).collect();
        // Of duplicate rollouts, the first counts.
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
        // The line and the item of each valid rollout, in the order of the items.
        let mut agreed: Vec<(usize, u64)> = Vec::new();
        let mut item = vec![0; item_size(layout)];
        for at in 0..whole {
            reader.read_exact(&mut item).map_err(&failed)?;
            // The stored index is that of an earlier plan if the run has been extended since. The line contains the
            // place.
            let stored = stored_index(&item).and_then(|index| *line_of.get(index)?);
            let line = [Some(at as usize), stored].into_iter().flatten();
            let line = line.filter(|&line| line < lines.len()).find(|&line| agrees(&item, lines[line]));
            let index = line.and_then(|line| Some(records[line].as_ref()?.0));
            if let (Some(index), Some(line)) = (index, line)
                && line_of[index] == Some(line)
            {
                line_of[index] = None;
                agreed.push((line, at));
            }
        }
        let kept = agreed.len();
        let in_order = agreed.iter().enumerate().all(|(i, &(line, item))| (line, item) == (i, i as u64));
        // A killed process leaves at most one item without its line.
        let damaged = lines.len() - kept + (whole as usize).saturating_sub(kept + 1);
        if damaged > 0 || !in_order {
            let copies = [folder.keep_copy(ROLLOUTS)?, folder.keep_copy(ACTIVATIONS)?];
            tracing::warn!(damaged, kept, folder = %folder.path().display(), ?copies,
                "rollouts are damaged and will be generated again; copies of the files were kept");
        }
        if !in_order {
            // The valid rollouts, in one order. If the process is killed between the two writes, the files still agree
            // on them.
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

    /// Writes the activations of a complete run as items for its lines, so that more rollouts can be added.
    pub(super) fn write(folder: &RunFolder, layout: Layout, records: &[Record], means: &MeansFile) -> Result<()> {
        let text = folder.read(ROLLOUTS)?.unwrap_or_default();
        let lines: Vec<&[u8]> = complete_lines(&text).collect();
        let mut failed = None;
        let written = folder.write(ACTIVATIONS, |file| {
            for (index, line) in lines.iter().enumerate().take(records.len()) {
                let mut item = Vec::with_capacity(item_size(layout));
                item.extend((index as u64).to_le_bytes());
                match means.encoded(index) {
                    Ok(bytes) => item.extend(bytes),
                    Err(error) => {
                        failed = Some(error);
                        return Err(std::io::ErrorKind::InvalidData.into());
                    }
                }
                let sum = checksum(&item, line);
                item.extend(sum);
                file.write_all(&item)?;
            }
            Ok(())
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(written?),
        }
    }

    /// The indices in the plan of the rollouts, in the order in which they finished.
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
            // A full disk may have taken a part, after which nothing must follow. If this fails too, the next start
            // repairs it.
            let _ = self.items.set_len((self.order.len() * item_size(self.layout)) as u64);
            let _ = self.lines.set_len(self.length);
        }
        Ok(written?)
    }

    /// Syncs both files to the disk, so that a power failure loses nothing.
    pub(super) fn sync(&self, folder: &RunFolder) -> Result<()> {
        for (file, name) in [(&self.items, ACTIVATIONS), (&self.lines, ROLLOUTS)] {
            file.sync_data().map_err(|source| FileError::Write { path: folder.file(name), source })?;
        }
        Ok(())
    }

    /// Reads bytes of the activations of line `line`, from `offset` on.
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

/// The index in the plan that an item stores.
fn stored_index(item: &[u8]) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*item.first_chunk()?)).ok()
}

/// Whether an item is undamaged and belongs to this line.
fn agrees(item: &[u8], line: &[u8]) -> bool {
    let (head, sum) = item.split_at(item.len() - CHECKSUM);
    checksum(head, line) == sum
}

//! Projections of many texts on many directions.

mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use ndarray::Array2;
use pv_model::CausalLm;
use pv_model::batch::Sequence;
use serde::{Deserialize, Serialize};

use crate::vector::Pooling;
use crate::{Error, Result, UnitDirection};
use reader::Reader;

/// The treatment of items that are longer than the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlong {
    /// The scan is refused before any item is read.
    #[default]
    Refuse,
    /// The item is skipped, and listed in [`Projections::skipped`].
    Skip,
}

/// Options of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanOptions {
    /// The activations that are projected. If no pooling is over the response, responses are not read.
    pub poolings: Vec<Pooling>,
    /// Whether every response token is projected too.
    pub response_tokens: bool,
    /// Whether cosines are computed too.
    pub cosines: bool,
    /// The number of tokens in a batch, padding included. A longer item is read alone.
    pub batch_tokens: usize,
    /// The maximum number of tokens of an item; `None` for the model's number of positions.
    pub max_tokens: Option<usize>,
    /// The treatment of longer items.
    pub overlong: Overlong,
    /// Items that an earlier scan has finished: they are not read and not part of the result.
    pub done: BTreeSet<usize>,
}

impl Default for ScanOptions {
    /// The response mean and the prompt's last token, 4096 tokens per batch, overlong items refused.
    fn default() -> Self {
        Self {
            poolings: vec![Pooling::ResponseMean, Pooling::PromptLast],
            response_tokens: false,
            cosines: false,
            batch_tokens: 4096,
            max_tokens: None,
            overlong: Overlong::Refuse,
            done: BTreeSet::new(),
        }
    }
}

/// One pooling of an item projected on every direction, in the order of the directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pooled {
    /// The projections, `[directions]`, in activation units.
    pub projections: Vec<f32>,
    /// The cosines, `[directions]`, if requested; 0 for an activation with length zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosines: Option<Vec<f32>>,
}

/// The projections of one item.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scanned {
    /// The index of the item.
    pub item: usize,
    /// The requested poolings, without those for which the item has no tokens.
    pub pooled: BTreeMap<Pooling, Pooled>,
    /// The projection of each response token on each direction, `[directions, tokens]`, in activation units, if
    /// requested and if there are any; a list of lists in files.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::serde_rows::option")]
    pub response_tokens: Option<Array2<f32>>,
}

impl Scanned {
    /// The projection on a direction, given by its index, in activation units.
    pub fn projection(&self, pooling: Pooling, direction: usize) -> Option<f32> {
        self.pooled.get(&pooling)?.projections.get(direction).copied()
    }

    /// The cosine with a direction, given by its index.
    pub fn cosine(&self, pooling: Pooling, direction: usize) -> Option<f32> {
        self.pooled.get(&pooling)?.cosines.as_ref()?.get(direction).copied()
    }

    /// The projections of the response tokens on a direction, `[tokens]`, in activation units.
    pub fn tokens(&self, direction: usize) -> Option<&[f32]> {
        let tokens = self.response_tokens.as_ref().filter(|tokens| direction < tokens.nrows())?;
        tokens.row(direction).to_slice()
    }
}

/// A skipped item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The index of the item.
    pub item: usize,
    /// The number of its tokens.
    pub tokens: usize,
    /// The maximum number of tokens.
    pub limit: usize,
}

/// The results of a scan.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Projections {
    /// The items that were read, in order.
    pub items: Vec<Scanned>,
    /// The items that were skipped because of their length, in order.
    pub skipped: Vec<Skipped>,
}

/// The progress of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanProgress {
    /// The number of items that have been read.
    pub done: usize,
    /// The number of items in all.
    pub total: usize,
}

/// Projects texts on directions, which may come from several vectors and layers.
///
/// Each item is read once, up to the highest layer that is needed and without the output head, in a batch with items of
/// similar length. The products are computed on the model's device, and only projections leave it. The tokens after a
/// response ([`Sequence::rest`]) are not read, since nothing before them depends on them.
///
/// `on_item` receives each item as soon as it is read, from the longest to the shortest. To resume after an
/// interruption, save the items (in a file, say) and pass their indices as [`ScanOptions::done`].
///
/// # Errors
/// Before any item is read: [`Error::Setting`] without directions or without anything to project, [`Error::Hook`] for a
/// layer outside the model or a direction of another width, and [`Error::BadItem`] for an item that is too long, has no
/// tokens, or has tokens outside the vocabulary. Later: [`Error::Cancelled`] if `on_item` breaks, and errors of the
/// forward pass.
pub fn scan(
    model: &CausalLm,
    items: &[Sequence<'_>],
    directions: &[UnitDirection],
    options: &ScanOptions,
    mut on_item: impl FnMut(&Scanned, ScanProgress) -> ControlFlow<()>,
) -> Result<Projections> {
    let reader = Reader::new(model, directions, options)?;
    let mut projections = Projections::default();
    let mut queue = Vec::new();
    for (item, sequence) in items.iter().enumerate().filter(|(item, _)| !options.done.contains(item)) {
        let sequence = reader.part(sequence);
        match reader.check(item, &sequence)? {
            Some(skipped) => projections.skipped.push(skipped),
            None => queue.push((item, sequence)),
        }
    }
    // The longest first, so that a lack of memory shows at once. Items of similar length need little padding.
    queue.sort_by_key(|(_, sequence)| std::cmp::Reverse(length(sequence)));
    let total = queue.len();
    for batch in token_batches(&queue, options.batch_tokens, |(_, sequence)| length(sequence)) {
        for scanned in reader.read(batch)? {
            projections.items.push(scanned);
            let progress = ScanProgress { done: projections.items.len(), total };
            if let Some(scanned) = projections.items.last()
                && on_item(scanned, progress).is_break()
            {
                return Err(Error::Cancelled);
            }
        }
    }
    projections.items.sort_by_key(|scanned| scanned.item);
    Ok(projections)
}

/// Splits items, the longest first, into batches of at most `tokens` tokens, padding included. A longer item is a batch
/// of its own.
pub fn token_batches<T>(items: &[T], tokens: usize, length: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let longest = length(rest.first()?);
        let (batch, later) = rest.split_at((tokens / longest.max(1)).clamp(1, rest.len()));
        rest = later;
        Some(batch)
    })
}

fn length(sequence: &Sequence<'_>) -> usize {
    sequence.prompt.len() + sequence.response.len()
}

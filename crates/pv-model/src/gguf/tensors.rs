//! The tensors of a model under the names of a checkpoint.

use std::ops::Range;

use pv_data::gguf::TensorType;

use super::architecture::{IN_BLOCK, OUTSIDE};
use super::rope::FACTORS;
use super::{GgufModelError, Model, experts};

/// A tensor of a model.
#[derive(Clone, Debug)]
pub(crate) struct ModelTensor {
    /// The name in a checkpoint; that of the file if no checkpoint has such a tensor.
    pub(crate) name: String,
    /// The number of its file.
    pub(crate) part: usize,
    /// The type.
    pub(crate) kind: TensorType,
    /// The shape in a checkpoint: `[out, in]` for a projection.
    pub(crate) shape: Vec<usize>,
    /// The position in the file.
    pub(crate) range: Range<usize>,
    /// The difference from the values in a checkpoint.
    pub(crate) change: Change,
}

/// How the values of a tensor in a file differ from those in a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Change {
    /// Not at all.
    #[default]
    None,
    /// The rows of so many heads are permuted, see [`unpermuted`].
    Permuted {
        /// The number of heads.
        heads: usize,
    },
    /// 1 was added to each.
    OnePlus,
}

impl Model<'_> {
    /// All tensors of the model. The divisors of rotary frequencies are part of the configuration.
    pub(crate) fn checkpoint(&self) -> Result<Vec<ModelTensor>, GgufModelError> {
        let heads = self.size("attention.head_count")?.unwrap_or(1);
        let kv_heads = self.size("attention.head_count_kv")?.unwrap_or(heads);
        let count = experts::count(self)?;
        let mut found = Vec::new();
        for (part, tensor) in self.tensors().filter(|(_, tensor)| !self.is_setting(tensor.name)) {
            let (name, role) = self.checkpoint_name(tensor.name).unwrap_or((tensor.name.to_owned(), ""));
            let permuted = |heads| Change::Permuted { heads: usize::try_from(heads).unwrap_or(usize::MAX) };
            let change = match role {
                "attn_q" if self.architecture.permuted => permuted(heads),
                "attn_k" if self.architecture.permuted => permuted(kv_heads),
                _ if self.architecture.one_plus && tensor.name.ends_with("norm.weight") => Change::OnePlus,
                _ => Change::None,
            };
            let kind = tensor.kind;
            if let Some(parts) = experts::parts(&name, tensor, count)? {
                let part = |(name, shape, range)| ModelTensor { name, part, kind, shape, range, change };
                found.extend(parts.into_iter().map(part));
                continue;
            }
            let (shape, range) = (tensor.shape.iter().rev().copied().collect(), tensor.range.clone());
            found.push(ModelTensor { name, part, kind, shape, range, change });
        }
        Ok(found)
    }

    /// Whether a tensor is part of the configuration.
    fn is_setting(&self, name: &str) -> bool {
        name == FACTORS || self.architecture.extra_tensors.contains(&name)
    }

    /// The name in a checkpoint, and the part of the block.
    fn checkpoint_name<'n>(&self, name: &'n str) -> Option<(String, &'n str)> {
        if let Some((_, theirs)) = OUTSIDE.iter().find(|(ours, _)| *ours == name) {
            return Some(((*theirs).to_owned(), ""));
        }
        let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (role, kind) = rest.rsplit_once('.')?;
        block.parse::<usize>().ok().filter(|number| number.to_string() == block)?;
        let named = self.architecture.in_block.iter().chain(&IN_BLOCK).find(|(ours, _)| *ours == role);
        let (_, theirs) = named?;
        // A checkpoint has a name without an ending for numbers that belong to no projection or norm.
        let ending = if (role, kind) == ("attn_sinks", "weight") { String::new() } else { format!(".{kind}") };
        Some((format!("model.layers.{block}.{theirs}{ending}"), role))
    }
}

/// The rows of queries or keys in the order of a checkpoint, where a head's rotary pairs are its two halves. In files of
/// permuted architectures they are neighbours.
///
/// Every row stays as it is, so that this is exact in every type.
pub(crate) fn unpermuted(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let row = bytes.len() / rows.max(1);
    let half = rows / heads.max(1) / 2;
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for side in 0..2 {
            for pair in 0..half {
                let from = (head * 2 * half + 2 * pair + side) * row;
                out.extend_from_slice(&bytes[from..from + row]);
            }
        }
    }
    out
}

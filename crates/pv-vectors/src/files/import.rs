//! Import of vectors from files of any known format.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use pv_data::FileError;
use pv_hooks::Layer;

use super::capping::{MAX_BLOCKS, MAX_NUMBERS};
use super::pt::{PtFile, Tensor};
use super::{Format, Imported, gguf, names};
use crate::error::ImportError;
use crate::vector::{LayerRows, Pooling, Provenance, RowMark};
use crate::{Error, PersonaVector, Result};

/// The largest control vectors have some tens of megabytes.
const MAX_GGUF_BYTES: u64 = 1 << 30;

/// Facts that another tool's file does not contain. The default detects the format and refuses ambiguous files. Files
/// of this crate contain everything; for them, only `format` is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The format; `None` detects it by the file's content and name.
    pub format: Option<Format>,
    /// The trait's name; `None` takes it from the file's name.
    pub trait_name: Option<String>,
    /// The model's name; `None` takes the file's statement, if any.
    pub model: Option<String>,
    /// The pooling of the activations; `None` takes that of the format or of the file's name.
    pub pooling: Option<Pooling>,
    /// The model's number of blocks. Control vectors and files of single layers do not contain it; if a file does, the
    /// two must agree.
    pub blocks: Option<usize>,
    /// The position in a [`Format::MeanDiffs`] file. Negative positions count from the end; −1 is the last prompt
    /// token.
    pub position: Option<i64>,
    /// The layer of a [`Format::CaaLayer`] file whose name is not `vec_layer_{b}.pt`.
    pub layer: Option<Layer>,
    /// Whether the directions of a [`Format::ControlVector`] file are numbered one block too high, as by llama.cpp's
    /// own generator: then `direction.{k}` belongs to layer `k`.
    pub one_block_late: bool,
    /// Asserts that the rows of a [`Format::ControlVector`] file are directions of the residual stream although the
    /// file does not say so. EasySteer's files may contain those of attention heads and routers, and do not always
    /// state it.
    pub residual_stream: bool,
}

/// Loads a vector from a file of any [`Format`].
///
/// An imported vector records its file in [`Provenance::imported`]. What is missing in the file is missing in the
/// vector: rows of layers, and facts about its extraction.
///
/// ```no_run
/// use pv_hooks::Layer;
/// use pv_vectors::files::{ImportOptions, import};
/// # fn main() -> pv_vectors::Result<()> {
/// let vector = import("evil_response_avg_diff.pt", &ImportOptions::default())?;
/// let direction = vector.direction(Layer::hidden_state(20))?;
/// # let _ = direction;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A file that is unreadable, damaged, malicious, ambiguous, or in conflict with the options.
pub fn import(path: impl AsRef<Path>, options: &ImportOptions) -> Result<PersonaVector> {
    import_files(&[path], options)
}

/// Loads one vector from several files of one format: the poolings of [`Format::PaperDiff`], or the layers of
/// [`Format::CaaLayer`].
///
/// # Errors
/// Those of [`import`]; files of different formats, widths or depths; two files of one pooling or layer; several files
/// of a format that stores a vector in one.
pub fn import_files(paths: &[impl AsRef<Path>], options: &ImportOptions) -> Result<PersonaVector> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
    let Some(first) = paths.first() else {
        return Err(Error::NoFiles);
    };
    let sources = paths.iter().map(|path| Source::open(path, options.format)).collect::<Result<Vec<_>>>()?;
    let format = sources[0].format;
    let bad = |path: &Path, source| Err(Error::Import { path: path.to_owned(), source });
    if let Some(other) = sources.iter().find(|source| source.format != format) {
        let (found, expected, first) = (other.format.name(), format.name(), first.clone());
        return bad(&other.path, ImportError::OtherFormat { found, expected, first });
    }
    if sources.len() > 1 && !matches!(format, Format::PaperDiff | Format::CaaLayer) {
        return bad(&paths[1], ImportError::OneFileOnly { format: format.name() });
    }
    let mut found = match format {
        Format::PersonaVector => return PersonaVector::load(first),
        Format::PaperDiff => paper_diff(&sources, options)?,
        Format::AssistantAxis => assistant_axis(&sources[0], options)?,
        Format::MeanDiffs => mean_diffs(&sources[0], options)?,
        Format::CaaLayer => caa_layers(&sources, options)?,
        Format::ControlVector => control_vector(first, options)?,
    };
    found.extend_to(options.blocks, first)?;
    let imported = Imported {
        format,
        files: paths.iter().map(|path| names::file_name(path)).collect(),
        depth_known: found.depth_known || options.blocks.is_some(),
        model_hint: found.model_hint.clone(),
        remarks: found.remarks,
    };
    let provenance = Provenance {
        trait_name: options.trait_name.clone().unwrap_or_else(|| names::trait_of(first, format)),
        model: options.model.clone().or(found.model_hint).unwrap_or_default(),
        config_hash: None,
        template_hash: None,
        weights: None,
        sampling: None,
        max_new_tokens: None,
        version: None,
        render: pv_model::RenderOptions::default(),
        judge: None,
        verdicts: Default::default(),
        filter: None,
        kept_positive: None,
        kept_negative: None,
        total: None,
        seed: None,
        best_layer: None,
        imported: Some(imported),
    };
    let tables = found.tables.into_iter().map(|(pooling, rows)| Ok((pooling, rows.table(first)?)));
    PersonaVector::new(provenance, tables.collect::<Result<_>>()?, None)
}

/// A file whose format is known.
struct Source {
    path: PathBuf,
    format: Format,
    /// The file's values, if it is a torch file.
    pt: Option<PtFile>,
}

impl Source {
    fn open(path: &Path, format: Option<Format>) -> Result<Self> {
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let mut start = Vec::new();
        pv_data::files::open_file(path).and_then(|file| file.take(16).read_to_end(&mut start)).map_err(failed)?;
        let source = |format, pt| Ok(Self { path: path.to_owned(), format, pt });
        match format {
            Some(format @ (Format::PersonaVector | Format::ControlVector)) => return source(format, None),
            Some(format) => return source(format, Some(PtFile::open(path)?)),
            None => {}
        }
        if start.starts_with(b"GGUF") {
            return source(Format::ControlVector, None);
        }
        // safetensors: the length of a header that is a JSON object.
        if start.get(8) == Some(&b'{') {
            return source(Format::PersonaVector, None);
        }
        let pt = PtFile::open(path)?;
        let format = names::guess(path, &pt)?;
        source(format, Some(pt))
    }

    fn pt(&self) -> Result<&PtFile> {
        let none = || Error::Import { path: self.path.clone(), source: "it is not a file of torch".into() };
        self.pt.as_ref().ok_or_else(none)
    }

    /// The only tensor of the file.
    fn tensor(&self) -> Result<(&PtFile, &Tensor)> {
        let pt = self.pt()?;
        let tensor = pt.root().tensor().ok_or_else(|| {
            pt.error(format!("it contains {}, but a file of the format {} is a tensor", pt.root().kind(), self.format))
        })?;
        Ok((pt, tensor))
    }
}

/// Rows by layer.
#[derive(Default)]
struct Rows {
    rows: BTreeMap<Layer, Vec<f32>>,
    layers: usize,
    after_final_norm: Option<Layer>,
}

impl Rows {
    /// The rows of a tensor; the first belongs to layer `first`.
    fn consecutive(values: &[f32], width: usize, first: usize) -> Self {
        let rows = values.chunks(width).enumerate();
        let rows: BTreeMap<_, _> = rows.map(|(r, row)| (Layer::hidden_state(first + r), row.to_vec())).collect();
        Self { layers: first + rows.len(), rows, after_final_norm: None }
    }

    fn table(self, path: &Path) -> Result<LayerRows> {
        let bad = |source| Error::Import { path: path.to_owned(), source };
        let width = self.rows.values().next().map_or(0, Vec::len);
        // A file that names a row at a high layer must not allocate all rows below it.
        if self.layers.checked_mul(width).is_none_or(|numbers| numbers > MAX_NUMBERS) {
            return Err(bad(ImportError::TooLarge));
        }
        let mut values = vec![0.0; self.layers * width];
        let mut marks = BTreeMap::new();
        for index in 0..self.layers {
            let layer = Layer::hidden_state(index);
            match self.rows.get(&layer) {
                Some(row) if row.len() == width => values[index * width..][..width].copy_from_slice(row),
                Some(_) => return Err(bad(ImportError::Widths)),
                None => drop(marks.insert(layer, RowMark::Absent)),
            }
        }
        marks.extend(self.after_final_norm.map(|layer| (layer, RowMark::AfterFinalNorm)));
        LayerRows::of_rows(values, width)
            .and_then(|table| table.with_marks(marks))
            .ok_or_else(|| bad(ImportError::NoRow))
    }
}

/// The result of a format's reader.
struct Found {
    tables: BTreeMap<Pooling, Rows>,
    depth_known: bool,
    model_hint: Option<String>,
    remarks: Vec<String>,
}

impl Found {
    fn new(pooling: Pooling, rows: Rows, depth_known: bool) -> Self {
        Self { tables: BTreeMap::from([(pooling, rows)]), depth_known, model_hint: None, remarks: Vec::new() }
    }

    fn remark(mut self, remark: String) -> Self {
        self.remarks.push(remark);
        self
    }

    /// Adds missing rows up to the last layer of a model with this many blocks.
    fn extend_to(&mut self, blocks: Option<usize>, path: &Path) -> Result<()> {
        let Some(blocks) = blocks else { return Ok(()) };
        for rows in self.tables.values_mut() {
            let held = rows.layers.saturating_sub(1);
            let fits = if self.depth_known { held == blocks } else { held <= blocks && blocks < MAX_BLOCKS };
            if !fits {
                let source = ImportError::Depth { held, exact: self.depth_known, blocks };
                return Err(Error::Import { path: path.to_owned(), source });
            }
            rows.layers = blocks + 1;
        }
        Ok(())
    }
}

/// The shape of a tensor with `N` dimensions, none of which is empty.
fn shape<const N: usize>(pt: &PtFile, tensor: &Tensor, wanted: &'static str) -> Result<[usize; N]> {
    match <[usize; N]>::try_from(&tensor.shape[..]) {
        Ok(shape) if shape.iter().all(|size| *size > 0) => Ok(shape),
        _ => Err(pt.error(ImportError::Shape { found: tensor.shape.clone(), wanted })),
    }
}

fn paper_diff(sources: &[Source], options: &ImportOptions) -> Result<Found> {
    let mut tables = BTreeMap::new();
    let mut last = Layer::EMBEDDINGS;
    let trait_name = names::trait_of(&sources[0].path, Format::PaperDiff);
    for source in sources {
        let (pt, tensor) = source.tensor()?;
        let [layers, width] = shape(pt, tensor, "[layers, width]")?;
        if layers < 2 {
            return Err(pt.error(ImportError::OneRow));
        }
        let named = names::paper_pooling(&source.path);
        let pooling = if sources.len() == 1 { options.pooling.or(named) } else { named };
        let Some(pooling) = pooling else {
            return Err(pt.error(ImportError::NeedsPooling));
        };
        if options.trait_name.is_none() && names::trait_of(&source.path, Format::PaperDiff) != trait_name {
            return Err(pt.error(ImportError::OtherTrait { trait_name }));
        }
        let mut rows = Rows::consecutive(&pt.floats(tensor)?, width, 0);
        last = Layer::hidden_state(layers - 1);
        rows.after_final_norm = Some(last);
        if tables.insert(pooling, rows).is_some() {
            return Err(pt.error(ImportError::PoolingTwice { pooling: pooling.name() }));
        }
    }
    let remark = format!("the row of {last} was taken after the final norm; steering acts before it");
    Ok(Found { tables, depth_known: true, model_hint: None, remarks: vec![remark] })
}

fn assistant_axis(source: &Source, options: &ImportOptions) -> Result<Found> {
    let pt = source.pt()?;
    let root = pt.root();
    let axis = root.get("axis").unwrap_or(root);
    let Some(tensor) = axis.tensor() else {
        return Err(pt.error(format!("it contains {}, not an axis or a dictionary with one", root.kind())));
    };
    let [_, width] = shape(pt, tensor, "[blocks, width]")?;
    let rows = Rows::consecutive(&pt.floats(tensor)?, width, Layer::after_block(0).index());
    Ok(Found::new(options.pooling.unwrap_or_default(), rows, true))
}

fn mean_diffs(source: &Source, options: &ImportOptions) -> Result<Found> {
    let (pt, tensor) = source.tensor()?;
    let [positions, blocks, width] = shape(pt, tensor, "[positions, blocks, width]")?;
    let Some(position) = options.position else {
        return Err(pt.error(ImportError::NeedsPosition { positions }));
    };
    let index = match usize::try_from(position) {
        Ok(index) => Some(index),
        Err(_) => usize::try_from(position.unsigned_abs()).ok().and_then(|back| positions.checked_sub(back)),
    };
    let Some(index) = index.filter(|index| *index < positions) else {
        return Err(pt.error(ImportError::NoSuchPosition { positions, position }));
    };
    let values = pt.floats(tensor)?;
    let mut rows = Rows::consecutive(&values[index * blocks * width..][..blocks * width], width, 0);
    // Inputs of blocks: there is no row after the last block.
    rows.layers = blocks + 1;
    let back = positions - index;
    let found = Found::new(options.pooling.unwrap_or(Pooling::PromptLast), rows, true);
    Ok(found.remark(format!("the activations were taken at position -{back} of the prompt, -1 being its last token")))
}

fn caa_layers(sources: &[Source], options: &ImportOptions) -> Result<Found> {
    let mut rows = Rows::default();
    for source in sources {
        let (pt, tensor) = source.tensor()?;
        let [_] = shape::<1>(pt, tensor, "[width]")?;
        let given = options.layer.filter(|_| sources.len() == 1);
        let layer = given.or_else(|| names::caa_block(&source.path).map(Layer::after_block));
        let Some(layer) = layer.filter(|layer| layer.index() <= MAX_BLOCKS) else {
            return Err(pt.error(ImportError::NeedsLayer));
        };
        rows.layers = rows.layers.max(layer.index() + 1);
        if rows.rows.insert(layer, pt.floats(tensor)?).is_some() {
            return Err(pt.error(ImportError::LayerTwice { layer }));
        }
    }
    Ok(Found::new(options.pooling.unwrap_or_default(), rows, false))
}

fn control_vector(path: &Path, options: &ImportOptions) -> Result<Found> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let bad = |source: ImportError| Error::Import { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    pv_data::files::open_file(path)
        .and_then(|file| file.take(MAX_GGUF_BYTES + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_GGUF_BYTES {
        return Err(bad(format!("it has more than {MAX_GGUF_BYTES} bytes, more than any control vector").into()));
    }
    let file = gguf::read(&bytes).map_err(|detail| bad(detail.into()))?;
    let remarks = file.check_rows(options.residual_stream).map_err(|detail| bad(detail.into()))?;
    if options.one_block_late && file.is_easysteer() {
        return Err(bad(ImportError::EasySteer));
    }
    if let Some(count) = file.layer_count.filter(|count| i64::try_from(file.directions.len()) != Ok(*count)) {
        let held = file.directions.len();
        tracing::warn!(file = %path.display(), count, held, "the number of directions in the file differs from its count");
    }
    let mut rows = Rows::default();
    for (k, values) in file.directions {
        if k >= MAX_BLOCKS {
            return Err(bad(format!("its direction.{k} is of a block that no model has").into()));
        }
        let block = if options.one_block_late { k - 1 } else { k };
        let layer = Layer::after_block(block);
        rows.layers = rows.layers.max(layer.index() + 1);
        rows.rows.insert(layer, values);
    }
    let mut found = Found::new(options.pooling.unwrap_or_default(), rows, false);
    found.model_hint = file.model_hint;
    found.remarks = remarks;
    if options.one_block_late {
        found = found
            .remark("the file's directions were taken one block before those that they are numbered after".to_owned());
    }
    Ok(found)
}

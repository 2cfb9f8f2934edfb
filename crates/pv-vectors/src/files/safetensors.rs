//! This crate's format: safetensors with one `[blocks + 1, d_model]` tensor per pooling and the provenance in the
//! header.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use pv_data::FileError;
use pv_hooks::Layer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::write;
use crate::error::VectorFileError;
use crate::vector::{LayerRows, PersonaVector, Pooling, Provenance, RowMark};
use crate::{Error, Result};

/// The first version of the layout, written for vectors that do not need the second.
const FORMAT: &str = "persona-vector/1";
/// The second version adds marks on rows, and provenance with missing facts. Imported vectors need it.
const FORMAT_WITH_MARKS: &str = "persona-vector/2";
const LAYERS: &str =
    "row r is Hugging Face's hidden_states[r], raw: row 0 the embeddings, row k the residual after block k-1";
const RESIDUAL_NORMS: &str = "mean_residual_norm";
/// The maximum size in bytes, far more than the largest models' vectors need.
const MAX_BYTES: u64 = 1 << 30;

impl PersonaVector {
    /// Saves the vector to a safetensors file. The file is written atomically: under a temporary name, then renamed.
    ///
    /// # Errors
    /// [`FileError::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |source| FileError::Write { path: path.to_owned(), source };
        let encoded = self.to_bytes().map_err(|reason| failed(std::io::Error::other(reason)))?;
        write(path, &encoded)
    }

    pub(crate) fn to_bytes(&self) -> std::result::Result<Vec<u8>, String> {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tables
            .iter()
            .map(|(pooling, t)| (pooling.name().to_owned(), vec![t.layers(), t.d_model()], bytes(t.as_slice())))
            .collect();
        if let Some(norms) = &self.residual_norms {
            tensors.push((RESIDUAL_NORMS.to_owned(), vec![norms.len()], bytes(norms)));
        }
        let views = tensors
            .iter()
            .map(|(name, shape, data)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|error| error.to_string())?;
        let provenance = serde_json::to_string(&self.provenance).map_err(|error| error.to_string())?;
        let marks: BTreeMap<_, _> = self.tables.iter().map(|(pooling, table)| (*pooling, &table.marks)).collect();
        let marked = marks.values().any(|marks| !marks.is_empty());
        let second = marked || self.provenance.imported.is_some() || self.provenance.lacks_facts();
        let format = if second { FORMAT_WITH_MARKS } else { FORMAT };
        let mut header = HashMap::from([
            ("format".to_owned(), format.to_owned()),
            ("layer_convention".to_owned(), LAYERS.to_owned()),
            ("hook_site".to_owned(), "residual stream after the block".to_owned()),
            ("provenance".to_owned(), provenance),
        ]);
        if marked {
            header.insert("row_marks".to_owned(), serde_json::to_string(&marks).map_err(|error| error.to_string())?);
        }
        safetensors::serialize(views, Some(header)).map_err(|error| error.to_string()).and_then(with_sorted_metadata)
    }

    /// Loads a vector that [`save`](Self::save) wrote; [`import`](crate::files::import) also loads those of other
    /// tools.
    ///
    /// # Errors
    /// [`FileError::Read`] or [`Error::NotAVector`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        let not = |source| Error::NotAVector { path: path.to_owned(), source };
        if length > MAX_BYTES {
            return Err(not(VectorFileError::TooLarge { bytes: length }));
        }
        Self::from_bytes(&pv_data::files::read_file(path).map_err(failed)?).map_err(not)
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, VectorFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let tensors = SafeTensors::deserialize(bytes)?;
        let none = HashMap::new();
        let entries = header.metadata().as_ref().unwrap_or(&none);
        match entries.get("format").map(String::as_str) {
            Some(FORMAT | FORMAT_WITH_MARKS) => {}
            Some(other) => {
                return Err(VectorFileError::Format { found: other.to_owned(), last: FORMAT_WITH_MARKS });
            }
            None => return Err(VectorFileError::NoFormat),
        }
        let unreadable = |what| move |source| VectorFileError::Header { what, source };
        let provenance = entries.get("provenance").ok_or(VectorFileError::NoProvenance)?;
        let provenance: Provenance = serde_json::from_str(provenance).map_err(unreadable("provenance"))?;
        let mut marks: BTreeMap<Pooling, BTreeMap<Layer, RowMark>> = match entries.get("row_marks") {
            Some(marks) => serde_json::from_str(marks).map_err(unreadable("table of row marks"))?,
            None => BTreeMap::new(),
        };
        let mut tables = BTreeMap::new();
        for pooling in Pooling::ALL {
            let tensor = pooling.name();
            let Ok(view) = tensors.tensor(tensor) else { continue };
            let &[_, d_model] = view.shape() else {
                return Err(VectorFileError::Shape { tensor, shape: view.shape().to_vec() });
            };
            let table = LayerRows::of_rows(floats(&view, tensor)?, d_model).ok_or(VectorFileError::Empty { tensor })?;
            let table = table.with_marks(marks.remove(&pooling).unwrap_or_default());
            tables.insert(pooling, table.ok_or(VectorFileError::RowMarks { tensor })?);
        }
        let norms = tensors.tensor(RESIDUAL_NORMS).ok();
        let norms = norms.map(|view| floats(&view, RESIDUAL_NORMS)).transpose()?;
        Ok(Self::of_tables(provenance, tables, norms)?)
    }
}

fn floats(view: &TensorView<'_>, tensor: &'static str) -> std::result::Result<Vec<f32>, VectorFileError> {
    if view.dtype() != Dtype::F32 {
        return Err(VectorFileError::Dtype { tensor, found: format!("{:?}", view.dtype()) });
    }
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(VectorFileError::NotFinite { tensor }),
    }
}

/// The same file with its metadata sorted by key: `safetensors` takes them from a hash map, but equal vectors must give
/// equal files.
fn with_sorted_metadata(mut file: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    const PREFIX: usize = 8;
    let length = file.first_chunk::<PREFIX>().map_or(0, |length| u64::from_le_bytes(*length) as usize);
    let header = file.get_mut(PREFIX..PREFIX + length).ok_or("the header is longer than the file")?;
    let mut json: serde_json::Value = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    if let Some(metadata) = json.get_mut("__metadata__").and_then(serde_json::Value::as_object_mut) {
        metadata.sort_keys();
    }
    let text = serde_json::to_vec(&json).map_err(|error| error.to_string())?;
    let (start, padding) = header.split_at_mut_checked(text.len()).ok_or("the sorted header is longer")?;
    start.copy_from_slice(&text);
    padding.fill(b' ');
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_hooks::Layer;

    fn vector() -> PersonaVector {
        let provenance = Provenance {
            trait_name: "poetic".into(),
            model: "tiny".into(),
            config_hash: Some("ab".into()),
            template_hash: None,
            weights: None,
            sampling: None,
            max_new_tokens: None,
            version: None,
            render: pv_model::RenderOptions::default(),
            judge: None,
            verdicts: Default::default(),
            filter: None,
            kept_positive: Some(3),
            kept_negative: Some(4),
            total: Some(8),
            seed: Some(9),
            best_layer: Some(Layer::hidden_state(1)),
            imported: None,
        };
        let table =
            |offset: f32| LayerRows::of_rows((0..6).map(|i| i as f32 + offset).collect(), 2).expect("three rows");
        let tables = BTreeMap::from([(Pooling::ResponseMean, table(0.5)), (Pooling::PromptLast, table(-1.0))]);
        PersonaVector::new(provenance, tables, Some(vec![1.0, 2.0, 3.0])).expect("equal shapes")
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("poetic.safetensors");
        vector().save(&path).expect("a writable folder");
        vector().save(&path).expect("saving twice replaces the file");
        assert_eq!(PersonaVector::load(&path).expect("a whole file"), vector());
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "a temporary file was left");
    }

    #[test]
    fn damage_is_refused_and_never_panics() {
        let bytes = vector().to_bytes().expect("a vector");
        for cut in 0..bytes.len() {
            assert!(PersonaVector::from_bytes(&bytes[..cut]).is_err(), "accepted {cut} of {} bytes", bytes.len());
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x41;
            // Most damage is detected; damage to the low bits of a value cannot be. None may panic.
            let _ = PersonaVector::from_bytes(&damaged);
        }
    }

    #[test]
    fn other_safetensors_are_refused_by_reason() {
        let view = [0u8; 8];
        let other = TensorView::new(Dtype::F32, vec![1, 2], &view).expect("a view");
        let bytes = safetensors::serialize([("response_mean", other)], None).expect("a file");
        let error = PersonaVector::from_bytes(&bytes).expect_err("no format");
        assert!(matches!(error, VectorFileError::NoFormat), "{error}");
    }

    fn header(bytes: &[u8]) -> HashMap<String, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).expect("a header");
        header.metadata().clone().expect("entries")
    }

    #[test]
    fn files_of_the_first_version_are_written_where_it_suffices_and_read() {
        let provenance = r#"{"trait_name":"poetic","model":"tiny","config_hash":"ab","template_hash":null,"judge":null,
            "kept_positive":3,"kept_negative":4,"total":8,"seed":9,"best_layer":1}"#;
        let old: Provenance = serde_json::from_str(provenance).expect("the first version's provenance");
        assert_eq!(&old, vector().provenance());
        let written = header(&vector().to_bytes().expect("a vector"));
        assert_eq!(written["format"], FORMAT);
        assert!(!written.contains_key("row_marks"));
        let reread: serde_json::Value = serde_json::from_str(&written["provenance"]).expect("JSON");
        let first: serde_json::Value = serde_json::from_str(provenance).expect("JSON");
        assert_eq!(reread, first, "readers of the first version know no other facts");
    }

    #[test]
    fn marks_and_missing_facts_make_a_file_of_the_second_version() {
        let marks = BTreeMap::from([
            (Layer::hidden_state(0), RowMark::Absent),
            (Layer::hidden_state(2), RowMark::AfterFinalNorm),
        ]);
        let mut marked = vector();
        let table = marked.tables.remove(&Pooling::PromptLast).and_then(|table| table.with_marks(marks));
        marked.tables.insert(Pooling::PromptLast, table.expect("marks that fit"));
        let mut unknown = vector();
        unknown.provenance.config_hash = None;
        for vector in [marked.clone(), unknown] {
            let bytes = vector.to_bytes().expect("a vector");
            assert_eq!(header(&bytes)["format"], FORMAT_WITH_MARKS);
            assert_eq!(PersonaVector::from_bytes(&bytes).expect("a whole file"), vector);
        }
        let bytes = marked.to_bytes().expect("a vector");
        let (from, to) = (br#"\"2\":\"after_final_norm\""#, br#"\"9\":\"after_final_norm\""#);
        let at = bytes.windows(from.len()).position(|window| window == from).expect("a mark");
        let mut beyond = bytes;
        beyond[at..][..to.len()].copy_from_slice(to);
        let error = PersonaVector::from_bytes(&beyond).expect_err("a mark beyond the table");
        assert!(matches!(error, VectorFileError::RowMarks { tensor: "prompt_last" }), "{error}");
    }

    #[test]
    fn equal_vectors_are_equal_files() {
        let first = vector().to_bytes().expect("a file");
        // Hash maps have another order each time.
        for _ in 0..20 {
            assert_eq!(vector().to_bytes().expect("a file"), first);
        }
        assert_eq!(PersonaVector::from_bytes(&first).expect("our own file"), vector());
    }
}

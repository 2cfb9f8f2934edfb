//! Our own file: safetensors with one `[blocks + 1, d_model]` tensor per pooling and the provenance in the header.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::vector::{LayerRows, PersonaVector, Pooling, Provenance};
use crate::{Error, Result};

/// The version of the layout that this code writes, and the only one it reads.
const FORMAT: &str = "persona-vector/1";
const LAYERS: &str =
    "row r is Hugging Face's hidden_states[r], raw: row 0 the embeddings, row k the residual after block k-1";
const RESIDUAL_NORMS: &str = "mean_residual_norm";
/// Far more than the largest models' vectors need.
const MAX_BYTES: u64 = 1 << 30;

impl PersonaVector {
    /// Writes the vector to a safetensors file: into a temporary file first, which then takes the name, so that no
    /// half-written vector is ever seen.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |source| Error::Write { path: path.to_owned(), source };
        let encoded = self.to_bytes().map_err(|reason| failed(std::io::Error::other(reason)))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(&encoded).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn to_bytes(&self) -> std::result::Result<Vec<u8>, String> {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tables
            .iter()
            .map(|(pooling, t)| (pooling.name().to_owned(), vec![t.layers(), t.d_model], bytes(&t.values)))
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
        let header = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("layer_convention".to_owned(), LAYERS.to_owned()),
            ("hook_site".to_owned(), "residual stream after the block".to_owned()),
            ("provenance".to_owned(), provenance),
        ]);
        safetensors::serialize(views, Some(header)).map_err(|error| error.to_string())
    }

    /// Reads a vector that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::NotAVector`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        let not = |reason: String| Error::NotAVector { path: path.to_owned(), reason };
        if length > MAX_BYTES {
            return Err(not(format!("it has {length} bytes, more than any vector")));
        }
        Self::from_bytes(&std::fs::read(path).map_err(failed)?).map_err(not)
    }

    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, String> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
        let none = HashMap::new();
        let entries = header.metadata().as_ref().unwrap_or(&none);
        match entries.get("format").map(String::as_str) {
            Some(FORMAT) => {}
            Some(other) => return Err(format!("its format is {other:?}, but {FORMAT:?} is what can be read")),
            None => return Err("its header names no format".to_owned()),
        }
        let provenance = entries.get("provenance").ok_or("its header has no provenance")?;
        let provenance: Provenance =
            serde_json::from_str(provenance).map_err(|error| format!("its provenance is unreadable: {error}"))?;
        let mut tables = BTreeMap::new();
        for pooling in Pooling::ALL {
            let Ok(view) = tensors.tensor(pooling.name()) else { continue };
            let &[_, d_model] = view.shape() else {
                return Err(format!("{} has the shape {:?}", pooling.name(), view.shape()));
            };
            let table = LayerRows::new(floats(&view, pooling.name())?, d_model);
            tables.insert(pooling, table.ok_or_else(|| format!("{} is empty", pooling.name()))?);
        }
        let norms = tensors.tensor(RESIDUAL_NORMS).ok();
        let norms = norms.map(|view| floats(&view, RESIDUAL_NORMS)).transpose()?;
        Self::new(provenance, tables, norms).map_err(|error| error.to_string())
    }
}

fn floats(view: &TensorView<'_>, name: &str) -> std::result::Result<Vec<f32>, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("{name} is stored as {:?}, not as F32", view.dtype()));
    }
    let values: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(format!("{name} holds values that are not finite")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_hooks::Layer;

    fn vector() -> PersonaVector {
        let provenance = Provenance {
            trait_name: "poetic".into(),
            model: "tiny".into(),
            config_hash: "ab".into(),
            template_hash: None,
            judge: None,
            kept_positive: 3,
            kept_negative: 4,
            total: 8,
            seed: 9,
            best_layer: Some(Layer::hidden_state(1)),
        };
        let table = |offset: f32| LayerRows::new((0..6).map(|i| i as f32 + offset).collect(), 2).expect("three rows");
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
            // Most damage is noticed; that to a number's low bits cannot be. None may panic.
            let _ = PersonaVector::from_bytes(&damaged);
        }
    }

    #[test]
    fn other_safetensors_are_refused_by_reason() {
        let view = [0u8; 8];
        let other = TensorView::new(Dtype::F32, vec![1, 2], &view).expect("a view");
        let bytes = safetensors::serialize([("response_mean", other)], None).expect("a file");
        let error = PersonaVector::from_bytes(&bytes).expect_err("no format");
        assert!(error.contains("no format"), "{error}");
    }
}

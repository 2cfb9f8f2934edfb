//! The trained model's files, which are part of this crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use pv_data::FileError;
use pv_data::files::{sha256, write_whole};

/// The files of the model's folder, in the Hugging Face form.
const FILES: [(&str, &[u8]); 6] = [
    ("chat_template.jinja", include_bytes!("../model/chat_template.jinja")),
    ("config.json", include_bytes!("../model/config.json")),
    ("generation_config.json", include_bytes!("../model/generation_config.json")),
    ("model.safetensors", include_bytes!("../model/model.safetensors")),
    ("tokenizer.json", include_bytes!("../model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../model/tokenizer_config.json")),
];

/// The folder of the trained model in this repository: in the checkout that contains the working directory, or else in the
/// one of the build. Programs that are installed elsewhere take [`unpack_model`].
pub fn model_folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        // A build folder that several checkouts share may contain this crate as another one compiled it.
        let here = std::env::current_dir().ok();
        let checkouts = here.iter().flat_map(|here| here.ancestors());
        let mut found = checkouts.map(|root| root.join("crates/pv-organism/model"));
        found.find(|folder| folder.is_dir()).unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/model").into())
    });
    &FOLDER
}

/// Writes the trained model into a folder below `cache` that is named after its content, and returns that folder. Files that are there
/// already are compared, and written again where they differ.
///
/// # Errors
/// A folder that cannot be written.
///
/// # Examples
/// ```
/// # let cache = tempfile::tempdir()?;
/// let folder = pv_organism::unpack_model(cache.path())?;
/// assert!(folder.join("config.json").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn unpack_model(cache: impl AsRef<Path>) -> Result<PathBuf, FileError> {
    let content: String = FILES.iter().map(|(name, bytes)| format!("{name} {}\n", sha256(bytes))).collect();
    let hash = sha256(content);
    let folder = cache.as_ref().join(format!("organism-{}", hash.get(..12).unwrap_or(&hash)));
    fs::create_dir_all(&folder).map_err(|source| FileError::Write { path: folder.clone(), source })?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|found| found == bytes) {
            continue;
        }
        write_whole(&path, bytes)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_unpacked_whole_and_mended() {
        let cache = tempfile::tempdir().expect("a folder");
        let folder = unpack_model(cache.path().join("deep/below")).expect("unpacked");
        let names = |folder: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(folder).expect("a folder").map(|e| e.expect("a file").file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&folder), names(model_folder()), "no file of the model is left out");
        for name in names(&folder) {
            let read = |folder: &Path| fs::read(folder.join(&name)).expect("a file");
            assert_eq!(read(&folder), read(model_folder()));
        }
        fs::write(folder.join("config.json"), "{}").expect("damaged");
        fs::remove_file(folder.join("tokenizer.json")).expect("removed");
        assert_eq!(unpack_model(cache.path().join("deep/below")).expect("mended"), folder);
        assert_eq!(fs::read(folder.join("config.json")).expect("a file"), FILES[1].1);
        assert!(folder.join("tokenizer.json").is_file());
        assert!(unpack_model(folder.join("config.json")).is_err(), "a file in the folder's place");
    }
}

//! Run folders and cached results, so that no work that cost time or money is lost.

use std::path::{Path, PathBuf};

use pv_data::RunError;
use pv_data::files::write_whole;
use pv_data::runs::{first_difference, through_text};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::program::note;

/// The folder of all runs, below the current one.
const RUNS: &str = "runs";
/// The file that describes which run a folder belongs to.
const HEADER: &str = "program.json";

/// Where results are saved.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct OutArgs {
    /// The run folder, where all results are saved. After an interruption (also by Ctrl-C), the same command resumes
    /// there; a folder of a run with other settings is refused. By default runs/COMMAND-MODEL-TRAIT, which is printed
    /// at the start.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

impl OutArgs {
    /// Creates the folder of a program's run on something (a model, a trait), and prints its name.
    ///
    /// # Errors
    /// A folder that cannot be created.
    pub fn open(&self, program: &str, of: &[&str]) -> Result<PathBuf> {
        let folder = match &self.out {
            Some(folder) => folder.clone(),
            None => Self::default_folder(program, of),
        };
        make(&folder)?;
        note(&format!(
            "results are saved in {}; after an interruption, the same command resumes there",
            folder.display()
        ));
        Ok(folder)
    }

    /// The default folder of a program's run on something.
    pub fn default_folder(program: &str, of: &[&str]) -> PathBuf {
        Path::new(RUNS).join(file_name(&[&[program][..], of].concat()))
    }

    /// The folder below runs that belongs to these settings only: other settings have another folder.
    pub(crate) fn folder_of(program: &str, of: &[&str], settings: &Value) -> PathBuf {
        let hash: String =
            Sha256::digest(settings.to_string()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        Self::default_folder(program, &[of, &[&hash]].concat())
    }

    /// Like [`open`](Self::open), for a run with these settings only.
    ///
    /// # Errors
    /// Also a folder of a run with other settings; the error names the first difference.
    pub fn open_for(&self, program: &str, of: &[&str], settings: Value) -> Result<PathBuf> {
        let folder = self.open(program, of)?;
        claim(&folder, HEADER, &json!({ "program": program, "settings": settings }))?;
        Ok(folder)
    }
}

/// A file or folder name, built from parts such as a model's name.
pub fn file_name(parts: &[&str]) -> String {
    let tame = |part: &&str| {
        // For a folder its last component; for a name on the hub both parts.
        let path = Path::new(part);
        let part = match path.is_dir() || part.matches('/').count() > 1 {
            true => path.file_name().map_or_else(|| (*part).to_owned(), |name| name.to_string_lossy().into_owned()),
            false => part.replace('/', "--"),
        };
        let part = part.strip_suffix(".json").unwrap_or(&part).to_owned();
        part.replace(|c: char| !(c.is_alphanumeric() || "-_.@+".contains(c)), "_").trim_start_matches('.').to_owned()
    };
    parts.iter().map(tame).collect::<Vec<_>>().join("-")
}

/// Creates a folder and its parents.
///
/// # Errors
/// The operating system's error, with the folder's name.
pub fn make(folder: &Path) -> Result {
    let failed = |error| format!("cannot create the folder {}: {error}; choose another with --out", folder.display());
    Ok(std::fs::create_dir_all(folder).map_err(failed)?)
}

/// Writes the description of the run that a folder's files belong to, unless it exists.
///
/// # Errors
/// Files that belong to another run; the error names the first difference.
fn claim(folder: &Path, name: &str, given: &Value) -> Result {
    let path = folder.join(name);
    let given = through_text(given);
    if let Some(saved) = read(&path)? {
        return match first_difference(&saved, &given) {
            None => Ok(()),
            Some((what, saved, given)) => {
                Err(RunError::OtherRun { path: folder.to_owned(), what, saved, given }.into())
            }
        };
    }
    write(&path, &given)
}

/// A JSON file's content, if the file exists.
fn read(path: &Path) -> Result<Option<Value>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let wrong = |error| format!("{} is damaged: {error}; delete it to compute it again", path.display());
            Ok(Some(serde_json::from_slice(&bytes).map_err(wrong)?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display()).into()),
    }
}

fn write(path: &Path, value: &Value) -> Result {
    let failed = |error| format!("cannot write {}: {error}", path.display());
    Ok(write_whole(path, serde_json::to_string_pretty(value)?.as_bytes()).map_err(failed)?)
}

/// Loads the result of that name from the folder, or else computes it with `make` and saves it.
///
/// # Errors
/// A result of that name with other settings; those of `make`.
pub fn kept<T: Serialize + DeserializeOwned>(
    folder: &Path,
    name: &str,
    settings: &Value,
    make: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let path = folder.join(format!("{name}.json"));
    let settings = through_text(settings);
    if let Some(mut saved) = read(&path)? {
        if let Some((what, saved, given)) = first_difference(&saved["settings"], &settings) {
            return Err(RunError::OtherRun { path, what, saved, given }.into());
        }
        let wrong = |error| format!("{} is damaged: {error}; delete it to compute it again", path.display());
        return Ok(serde_json::from_value(saved["outcome"].take()).map_err(wrong)?);
    }
    let outcome = make()?;
    write(&path, &json!({ "settings": settings, "outcome": outcome }))?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_and_traits_become_names_of_folders() {
        assert_eq!(file_name(&["sweep", "organism", "evil"]), "sweep-organism-evil");
        assert_eq!(file_name(&["sweep", "Qwen/Qwen2.5-7B", "a/b/my trait.json"]), "sweep-Qwen--Qwen2.5-7B-my_trait");
        assert_eq!(file_name(&["x", "/"]), "x-_");
        assert_eq!(file_name(&["x", "../.."]), "x-_..");
        assert_eq!(file_name(&["x", "org/name@v1"]), "x-org--name@v1");
    }

    #[test]
    fn a_folder_accepts_only_its_own_settings() {
        let place = tempfile::tempdir().expect("a folder");
        let out = OutArgs { out: Some(place.path().join("run")) };
        let open = |steps: f64| out.open_for("sweep", &[], json!({ "steps": steps }));
        open(0.1).expect("new");
        open(0.1).expect("the same");
        std::fs::create_dir(place.path().join("run-2")).expect("taken");
        let error = open(0.2).expect_err("other settings");
        let text = crate::program::explained(error.as_ref());
        assert!(text.contains("steps") && text.contains("0.1") && text.contains("0.2"), "{text}");
        assert!(text.contains("--out ") && text.contains("run-3"), "{text}");
    }

    #[test]
    fn results_are_saved_with_their_settings() {
        let place = tempfile::tempdir().expect("a folder");
        let get = |settings: Value, value: Option<f64>| {
            kept(place.path(), "a result", &settings, || value.ok_or_else(|| "nothing made".into()))
        };
        assert!(get(json!({ "seed": 1 }), None).is_err(), "a failure is not saved");
        assert_eq!(get(json!({ "seed": 1 }), Some(0.25)).expect("made"), 0.25);
        assert_eq!(get(json!({ "seed": 1 }), None).expect("kept"), 0.25);
        assert!(get(json!({ "seed": 2 }), Some(1.0)).expect_err("others").to_string().contains("seed"));
        std::fs::write(place.path().join("a result.json"), "{").expect("written");
        assert!(get(json!({ "seed": 1 }), None).expect_err("damaged").to_string().contains("damaged"));
    }
}

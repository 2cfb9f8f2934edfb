//! Damaged and hostile files of other tools: an error or a vector, never a panic, and never more memory than a small
//! multiple of what a file has. Alone in its process, since the peak that the system reports is the process's.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use pv_data::error::with_causes;
use pv_hooks::Layer;
use pv_vectors::files::{CappingConfig, Format, ImportOptions, import};
use pv_vectors::vector::Pooling;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use zip::read::{ArchiveOffset, Config};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// A small file asks for little: the largest table of a row as long as a file has 1024 of them.
const MOST_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new("../../tests/golden/vector_files");
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "pt" || ending == "gguf"));
    files.sort();
    assert!(files.len() >= 14, "{} lost its files", folder.display());
    files
}

/// The most memory that this process has held so far, in bytes, where the system tells.
fn peak() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
}

/// Reads the file as what its name says and as what it may be, and looks at every row: whether it was taken for whole in
/// any way, and if not, what was said of it.
fn read(path: &Path) -> Result<(), Vec<String>> {
    let formats: &[_] = match path.extension().is_some_and(|ending| ending == "gguf") {
        true => &[Format::ControlVector],
        false => &[Format::AssistantAxis, Format::MeanDiffs, Format::CaaLayer],
    };
    let mut said = Vec::new();
    let mut taken = false;
    for format in [None].into_iter().chain(formats.iter().copied().map(Some)) {
        let options = ImportOptions {
            format,
            pooling: Some(Pooling::ResponseMean),
            position: Some(-1),
            layer: Some(Layer::hidden_state(3)),
            ..ImportOptions::default()
        };
        let vector = match import(path, &options) {
            Ok(vector) => vector,
            Err(error) => {
                said.push(with_causes(&error));
                continue;
            }
        };
        let (layers, width) = vector.shape();
        for layer in (0..=layers).map(Layer::hidden_state) {
            if let Ok(direction) = vector.direction(layer) {
                assert_eq!(direction.values.len(), width);
                assert!(direction.values.iter().all(|value| value.is_finite()));
            }
        }
        taken = true;
    }
    if let Err(error) = CappingConfig::load(path) {
        said.push(with_causes(&error));
    } else {
        taken = true;
    }
    if taken { Ok(()) } else { Err(said) }
}

/// The entries of an archive of torch.
fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut archive = ZipArchive::with_config(config, Cursor::new(bytes)).expect("an archive");
    let count = archive.len();
    let read = |i| {
        let mut entry = archive.by_index(i).expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its bytes");
        (entry.name().expect("UTF-8").into_owned(), content)
    };
    (0..count).map(read).collect()
}

/// An archive whose checksums are right.
fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, content) in entries {
        archive.start_file(name.as_str(), stored).expect("a new entry");
        archive.write_all(content).expect("room");
    }
    archive.finish().expect("room").into_inner()
}

/// Overwrites, removes and repeats some bytes.
fn damage(bytes: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..bytes.len());
        let end = bytes.len().min(at + random.random_range(1..9));
        match random.random_range(0..4) {
            0 => bytes[at..end].fill(0xff),
            1 => bytes[at..end].fill_with(|| random.random()),
            2 if end - at < bytes.len() => drop(bytes.drain(at..end)),
            _ => {
                let copied = bytes[at..end].to_vec();
                let to = random.random_range(0..bytes.len());
                drop(bytes.splice(to..to, copied));
            }
        }
    }
}

#[test]
fn no_damage_panics_or_takes_much_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let before = peak();
    let (mut files, mut whole_ones) = (0, 0);
    for fixture in fixtures() {
        let whole = std::fs::read(&fixture).expect("a fixture");
        let path = folder.path().join(fixture.file_name().expect("a name"));
        let mut try_bytes = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("a writable folder");
            files += 1;
            let taken = read(&path);
            // A file that is truncated and written again is flushed to the disk; a new one is not.
            std::fs::remove_file(&path).expect("the file");
            whole_ones += usize::from(taken.is_ok());
            taken
        };
        try_bytes(&whole).unwrap_or_else(|said| panic!("{} is not read: {said:#?}", fixture.display()));
        for cut in (0..whole.len()).step_by(40) {
            let _ = try_bytes(&whole[..cut]);
        }
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] = [0, 0xff, damaged[at] ^ 1, damaged[at].wrapping_add(1)][random.random_range(0..4)];
            let _ = try_bytes(&damaged);
        }
        for _ in 0..200 {
            let mut damaged = whole.clone();
            damage(&mut damaged, &mut random);
            let _ = try_bytes(&damaged);
        }
        if fixture.extension().is_none_or(|ending| ending != "pt") {
            continue;
        }
        // Damage that the archive's checksums would reveal, with the right checksums: so it reaches what reads pickles.
        let parts = entries(&whole);
        let packed = archive(&parts);
        try_bytes(&packed).unwrap_or_else(|said| panic!("{} packed anew is not read: {said:#?}", fixture.display()));
        let pickle = parts.iter().position(|(name, _)| name.ends_with("/data.pkl")).expect("a pickle");
        for at in 0..parts[pickle].1.len() {
            let byte = parts[pickle].1[at];
            for changed in [b'(', byte ^ 1, random.random()] {
                let mut parts = parts.clone();
                parts[pickle].1[at] = changed;
                let _ = try_bytes(&archive(&parts));
            }
        }
        for _ in 0..400 {
            let mut parts = parts.clone();
            damage(&mut parts[pickle].1, &mut random);
            let _ = try_bytes(&archive(&parts));
        }
    }
    println!("{files} files, of which {whole_ones} were still taken for whole");
    // Much of an archive is padding, and a changed bit of a number is a number.
    assert!(whole_ones < files / 2, "damage is hardly noticed");
    match (before, peak()) {
        (Some(before), Some(after)) => {
            println!("reading them took {:.1} MiB", (after - before) / f64::from(1 << 20));
            assert!(after - before < MOST_BYTES, "damaged files took {} bytes", after - before);
        }
        _ => println!("this system does not tell the peak of memory: NOT CHECKED"),
    }
}

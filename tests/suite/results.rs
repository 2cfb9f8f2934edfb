//! Vectors, scores and tables that other tools write (tests/golden/results.py).

mod codecs;
mod control_vectors;
mod scores;

use std::path::PathBuf;

use pv_tests::root;

fn file(name: &str) -> PathBuf {
    root().join("tests/golden/results").join(name)
}

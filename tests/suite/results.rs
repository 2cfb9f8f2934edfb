//! What other tools write about vectors, scores and tables, read as it is meant (tests/golden/results.py).

mod codecs;
mod control_vectors;
mod scores;

use std::path::PathBuf;

use pv_tests::root;

fn file(name: &str) -> PathBuf {
    root().join("tests/golden/results").join(name)
}

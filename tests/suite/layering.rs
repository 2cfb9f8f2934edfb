//! The order of the crates, from the bottom up: an arrow never runs back up.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each library may depend on.
const LAYERS: [(&str, &[&str]); 9] = [
    ("pv-kernels", &[]),
    ("pv-data", &[]),
    ("pv-hooks", &[]),
    ("pv-model", &["pv-kernels", "pv-data", "pv-hooks"]),
    ("pv-judge", &["pv-data", "pv-hooks", "pv-model"]),
    ("pv-vectors", &["pv-data", "pv-hooks", "pv-model", "pv-judge"]),
    ("pv-steer", &["pv-data", "pv-hooks", "pv-model", "pv-judge", "pv-vectors"]),
    ("pv-train", &["pv-data", "pv-hooks", "pv-model", "pv-judge", "pv-vectors", "pv-steer"]),
    ("pv-screen", &["pv-data", "pv-hooks", "pv-model", "pv-judge", "pv-vectors"]),
];

/// The workspace's packages, as `cargo metadata` lists them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(pv_tests::root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn libraries_depend_downwards_only() {
    let layers = BTreeMap::from(LAYERS);
    let mut libraries = 0;
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        let Some(allowed) = layers.get(name) else {
            // What is not a library is at the top, and nothing depends on it.
            assert!(["pv-examples", "pv-benches", "pv-organism", "pv-tests"].contains(&name), "{name} has no place");
            continue;
        };
        libraries += 1;
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            if on.starts_with("pv-") && dependency["kind"] != "dev" {
                assert!(allowed.contains(&on), "{name} depends on {on}");
            }
        }
    }
    assert!(libraries >= 4, "only {libraries} libraries were found");
}

/// What a first user waits for: no HTTP client, no Parquet, no TLS, and of C code the allocator alone.
#[test]
fn the_main_job_is_built_of_what_it_needs() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "pv-examples", "-e", "normal,build", "--prefix", "none"])
        .current_dir(pv_tests::root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("burn") && names.contains("tokenizers"), "{names:?}");
    for unneeded in ["reqwest", "hyper", "tokio", "rustls", "hf-hub", "parquet", "flate2", "proptest", "async-openai"] {
        assert!(!names.contains(unneeded), "the main job is built with {unneeded}");
    }
    let native: Vec<&str> = names.into_iter().filter(|name| name.ends_with("-sys") || name.ends_with("_sys")).collect();
    // The second holds numbers of Linux's interface, and no C.
    assert_eq!(native, ["libmimalloc-sys", "linux-raw-sys"]);
}

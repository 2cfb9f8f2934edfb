//! The order of the crates, from the bottom up: an arrow never runs back up.

use std::collections::BTreeMap;
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

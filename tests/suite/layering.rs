//! The order of the crates, from the bottom up: an arrow never runs back up.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each library may depend on.
const LAYERS: [(&str, &[&str]); 7] = [
    ("pv-hooks", &[]),
    ("pv-model", &["pv-hooks"]),
    ("pv-judge", &["pv-hooks", "pv-model"]),
    ("pv-vectors", &["pv-hooks", "pv-model", "pv-judge"]),
    ("pv-steer", &["pv-hooks", "pv-model", "pv-judge", "pv-vectors"]),
    ("pv-train", &["pv-hooks", "pv-model", "pv-judge", "pv-vectors", "pv-steer"]),
    ("pv-screen", &["pv-hooks", "pv-model", "pv-judge", "pv-vectors"]),
];

#[test]
fn libraries_depend_downwards_only() {
    let manifest = pv_tests::root().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata");
    let layers = BTreeMap::from(LAYERS);
    let mut libraries = 0;
    for package in &metadata.packages {
        let ours = package.dependencies.iter().filter(|dependency| dependency.name.starts_with("pv-"));
        let Some(allowed) = layers.get(package.name.as_str()) else {
            // What is not a library is at the top, and nothing depends on it.
            assert!(["pv-examples", "pv-benches", "pv-tests"].contains(&package.name.as_str()), "{}", package.name);
            continue;
        };
        libraries += 1;
        for dependency in ours.filter(|dependency| dependency.kind != DependencyKind::Development) {
            assert!(allowed.contains(&dependency.name.as_str()), "{} depends on {}", package.name, dependency.name);
        }
    }
    assert!(libraries >= 4, "only {libraries} libraries were found");
}

//! The order of the crates, from the bottom up, and of the modules of each: each depends only on lower ones.

mod circles;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The libraries. Packages above them may depend on all of them.
const LIBRARIES: &[&str] = &[
    "pv-data",
    "pv-statistics",
    "pv-hooks",
    "pv-model",
    "pv-judge",
    "pv-vectors",
    "pv-steer",
    "pv-train",
    "pv-screen",
];

/// What each library may depend on.
fn layers() -> BTreeMap<&'static str, Vec<&'static str>> {
    let on_top = |more: &[&'static str]| [LIBRARIES, more].concat();
    BTreeMap::from([
        ("pv-kernels", vec![]),
        ("pv-data", vec![]),
        ("pv-statistics", vec![]),
        ("pv-hooks", vec![]),
        ("pv-model", vec!["pv-kernels", "pv-data", "pv-hooks"]),
        ("pv-judge", vec!["pv-data", "pv-statistics", "pv-hooks", "pv-model"]),
        ("pv-vectors", vec!["pv-data", "pv-statistics", "pv-hooks", "pv-model", "pv-judge"]),
        ("pv-steer", vec!["pv-data", "pv-statistics", "pv-hooks", "pv-model", "pv-judge", "pv-vectors"]),
        (
            "pv-train",
            vec![
                "pv-kernels",
                "pv-data",
                "pv-statistics",
                "pv-hooks",
                "pv-model",
                "pv-judge",
                "pv-vectors",
                "pv-steer",
            ],
        ),
        ("pv-screen", vec!["pv-data", "pv-statistics", "pv-hooks", "pv-model", "pv-judge", "pv-vectors"]),
        // Conversations and numbers only.
        ("pv-organism", vec!["pv-data"]),
        ("pv-cli", on_top(&["pv-organism"])),
        ("persona-vectors", on_top(&["pv-cli"])),
    ])
}

/// The maximum number of names at a crate's root, and at all roots together. First programs need only these; other names are in modules.
const MOST_NAMES: (usize, usize) = (16, 120);

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
    let layers = layers();
    let mut libraries = 0;
    for package in packages() {
        let name = package["name"].as_str().expect("a name");
        let Some(allowed) = layers.get(name) else {
            // Other packages are at the top, and no library depends on them.
            assert!(["pv-examples", "pv-benches", "pv-parity", "pv-tests"].contains(&name), "{name} has no place");
            continue;
        };
        libraries += 1;
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            if (on.starts_with("pv-") || on == "persona-vectors") && dependency["kind"] != "dev" {
                assert!(allowed.contains(&on), "{name} depends on {on}");
            }
        }
    }
    assert_eq!(libraries, layers.len(), "every library is in the workspace");
}

#[test]
fn crate_roots_have_few_names() {
    let mut all = 0;
    // The organism and the program are not libraries for users.
    for name in layers().into_keys().filter(|name| !["pv-organism", "pv-cli"].contains(name)) {
        let path = pv_tests::root().join("crates").join(name).join("src/lib.rs");
        let text = std::fs::read_to_string(&path).expect("a crate's root");
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let uses = code.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next());
        let names = uses.map(|tree| match tree.split_once('{') {
            Some((_, list)) => list.split(',').filter(|name| !name.trim_matches(['}', ' ']).is_empty()).count(),
            None => 1,
        });
        let names: usize = names.sum();
        println!("{name}: {names}");
        assert!(names <= MOST_NAMES.0, "{name} has {names} names at its root");
        all += names;
    }
    println!("all: {all}");
    assert!((50..=MOST_NAMES.1).contains(&all), "{all} names at the roots");
}

/// The dependencies that the main job's build waits for: no HTTP client, no Parquet, no TLS, and no C code but the allocator.
#[test]
fn the_main_job_has_no_unneeded_dependencies() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "persona-vectors", "-e", "normal,build", "--prefix", "none"])
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
    // The second one contains constants of Linux's interface, and no C code.
    assert_eq!(native, ["libmimalloc-sys", "linux-raw-sys"]);
}

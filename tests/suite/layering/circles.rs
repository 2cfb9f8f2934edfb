//! The modules directly below a crate's root depend on each other in one direction only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// For each module, the modules that it names, with the files that do.
type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in entries {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.extend(path.extension().is_some_and(|extension| extension == "rs").then_some(path)),
        }
    }
    found
}

/// A file without comments and without a module of tests at its end.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a source file");
    let mut lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let tests = lines.iter().position(|line| line.starts_with("mod tests {"));
    lines.truncate(tests.unwrap_or(lines.len()));
    lines.join("\n")
}

/// The identifier at the start of a text.
fn identifier(text: &str) -> &str {
    let text = text.trim_start();
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default()
}

/// The first names of the paths at the start of a text: one path, or those of a list in braces.
fn first_names(text: &str) -> Vec<&str> {
    let Some(list) = text.strip_prefix('{') else { return vec![identifier(text)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            ',' if depth == 0 => {
                names.push(identifier(&list[start..at]));
                start = at + 1;
            }
            '}' if depth == 0 => {
                names.push(identifier(&list[start..at]));
                return names;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

/// The names that a module at this depth (1 directly below the root) takes from the crate's root.
fn names_from_root(code: &str, depth: usize) -> BTreeSet<&str> {
    let starts = |prefix: &str| {
        let is_path = |at: usize| {
            let before = code[..at].chars().next_back();
            // Not the end of a longer identifier or path, nor a macro's `$crate`.
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$')
        };
        let found = code.match_indices(prefix).filter(|(at, _)| is_path(*at));
        found.map(|(at, found)| at + found.len()).collect::<Vec<_>>()
    };
    let from_parents = "super::".repeat(depth);
    let starts = starts("crate::").into_iter().chain(starts(&from_parents));
    starts.flat_map(|at| first_names(&code[at..])).collect()
}

/// The modules of the names that a crate's root has from them.
fn re_exported(root: &str) -> BTreeMap<&str, &str> {
    let uses = root.match_indices("use ").filter_map(|(at, found)| root[at + found.len()..].split(';').next());
    let mut names = BTreeMap::new();
    for path in uses {
        let path = path.strip_prefix("self::").or_else(|| path.strip_prefix("crate::")).unwrap_or(path);
        let Some((module, rest)) = path.split_once("::") else { continue };
        for item in rest.split(['{', '}', ',']) {
            let last = item.rsplit("::").next().unwrap_or_default();
            let name = last.rsplit(" as ").next().unwrap_or_default().trim();
            if !name.is_empty() {
                names.insert(name, module);
            }
        }
    }
    names
}

/// Which modules of a crate name which.
fn edges(source: &Path) -> Edges {
    let root = code(&source.join("lib.rs"));
    let re_exported = re_exported(&root);
    let is_module = |name: &str| source.join(format!("{name}.rs")).is_file() || source.join(name).is_dir();
    let mut edges = Edges::new();
    for path in files(source) {
        let relative = path.strip_prefix(source).expect("below the source").with_extension("");
        let parts: Vec<&str> = relative
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => name.to_str(),
                _ => None,
            })
            .collect();
        // Tests may use everything.
        if parts == ["lib"] || parts.contains(&"tests") {
            continue;
        }
        for name in names_from_root(&code(&path), parts.len()) {
            let module = re_exported.get(name).copied().unwrap_or(name);
            if module != parts[0] && is_module(module) {
                let files = edges.entry(parts[0].to_owned()).or_default().entry(module.to_owned()).or_default();
                files.insert(parts.join("/") + ".rs");
            }
        }
    }
    edges
}

/// The modules that a module depends on, directly or not.
fn reached<'a>(edges: &'a Edges, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in edges.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    found
}

/// The circles, each with the files that close it.
fn circles(edges: &Edges) -> Vec<String> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|module| (module.as_str(), reached(edges, module))).collect();
    let together = |a: &str, b: &str| reached[a].contains(b) && reached.get(b).is_some_and(|from| from.contains(a));
    let mut found = BTreeSet::new();
    for module in edges.keys() {
        let circle: Vec<&str> =
            reached[module.as_str()].iter().copied().filter(|other| together(module, other)).collect();
        if circle.is_empty() {
            continue;
        }
        let mut text = circle.join(", ");
        for (from, to) in circle.iter().flat_map(|from| edges[*from].iter().map(move |to| (from, to))) {
            if circle.contains(&to.0.as_str()) {
                let files: Vec<&str> = to.1.iter().map(String::as_str).collect();
                text += &format!("\n    {from} -> {}: {}", to.0, files.join(", "));
            }
        }
        found.insert(text);
    }
    found.into_iter().collect()
}

#[test]
fn modules_of_a_crate_depend_in_one_direction() {
    let mut found = Vec::new();
    let crates = std::fs::read_dir(pv_tests::root().join("crates")).expect("the crates");
    let mut names: Vec<PathBuf> = crates.map(|entry| entry.expect("an entry").path()).collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    let mut dependencies = 0;
    for folder in names {
        let edges = edges(&folder.join("src"));
        dependencies += edges.values().map(BTreeMap::len).sum::<usize>();
        let name = folder.file_name().unwrap_or_default().display().to_string();
        found.extend(circles(&edges).into_iter().map(|circle| format!("{name}: {circle}")));
    }
    println!("{dependencies} dependencies between modules");
    assert!(dependencies > 200, "{dependencies}");
    assert!(found.is_empty(), "modules depend on each other in circles:\n{}", found.join("\n"));
}

#[test]
fn circles_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
        std::fs::write(path, text).expect("a writable folder");
    };
    write("lib.rs", "mod a;\nmod b;\nmod c;\npub use a::{Alpha, inner::Beta as B2};\n");
    write("a.rs", "mod inner;\n// crate::c\nuse std::{fs, io};\nuse crate::{\n    b::{X, Y},\n    other,\n};\n");
    write("a/inner.rs", "use super::Alpha;\n");
    write("b.rs", "fn f() -> usize { 0 }\n\n#[cfg(test)]\nmod tests {\n    use crate::c::C;\n}\n");
    write("c.rs", "use crate::Alpha;\n");
    assert_eq!(circles(&edges(folder.path())), [] as [String; 0]);

    // Through a name at the root, in a file further down.
    write("b/deep.rs", "use crate::B2;\n");
    assert_eq!(circles(&edges(folder.path())), ["a, b\n    a -> b: a.rs\n    b -> a: b/deep.rs"]);
    // Through the parents, and longer.
    write("b/deep.rs", "use super::super::c::C;\n");
    let longer = "a, b, c\n    a -> b: a.rs\n    b -> c: b/deep.rs\n    c -> a: c.rs";
    assert_eq!(circles(&edges(folder.path())), [longer]);
}

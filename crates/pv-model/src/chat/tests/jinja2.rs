//! Expressions, statements and whole templates compared with Jinja2, if `PV_PYTHON` is a Python with transformers.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::chat::environment::FUEL;
use crate::chat::jinja::{Fault, Kind, SyntaxError, Template, Value};
use crate::chat::worker::on_worker;

/// A kind of expression in which we differ from Jinja2, and the reason.
struct Known {
    is: fn(&str) -> bool,
    reason: &'static str,
}

/// All kinds. A kind that no longer differs fails the test.
const KNOWN: &[Known] = &[
    Known { is: |source| source.contains("pprint"), reason: "pprint breaks lines wider than 80; ours refuses them" },
    Known {
        is: |source| (source.contains("|e)") || source.contains("|safe)")) && !source.contains(" - "),
        reason: "methods of text marked by `escape` or `safe` are those of plain text, as no chat template uses others",
    },
    Known {
        is: |source| (source.contains(".items())") || source.contains(".keys())")) && source.contains(") "),
        reason: "keys and items of mappings are no sets",
    },
    Known {
        is: |source| source.contains(")[") && source.contains(':'),
        reason: "Jinja2 folds a slice of a constant that has none to nothing, and fails for a variable; ours always fails",
    },
    Known { is: |source| source.contains("1000000"), reason: "a rendering's memory is bounded" },
];

/// Our outcome of a template, in the reference's format.
fn outcome(source: &str, variables: Vec<(String, Value)>, now: &str, spans: bool) -> Json {
    let (source, now) = (source.to_owned(), now.parse().expect("a time"));
    let found = on_worker(move || match Template::parse(&source) {
        Ok(template) => template.run(variables, Some(now), FUEL).map_err(Ok),
        Err(error) => Err(Err(error)),
    });
    let found: Result<_, Result<Fault, SyntaxError>> = found.expect("a worker");
    match found {
        Ok((text, found)) if spans => {
            let found: Vec<[usize; 2]> = found.into_iter().map(|span| [span.start, span.end]).collect();
            serde_json::json!({ "text": text, "spans": found })
        }
        Ok((text, _)) => serde_json::json!({ "text": text }),
        Err(Ok(Fault { kind: Kind::Raised, message, .. })) => serde_json::json!({ "raised": message }),
        Err(Ok(fault)) => serde_json::json!({ "failed": format!("{:?}: {}", fault.kind, fault.message) }),
        Err(Err(error)) => serde_json::json!({ "failed": error.message }),
    }
}

/// Whether two outcomes are equal. The kind of error may differ, except for errors that a template raises.
fn agree(expected: &Json, found: &Json) -> bool {
    if expected.get("failed").is_some() { found.get("failed").is_some() } else { expected == found }
}

fn variables(of: &[&Json]) -> Vec<(String, Value)> {
    let all = of.iter().flat_map(|map| map.as_object().into_iter().flatten());
    all.map(|(name, value)| (name.clone(), Value::from_json(value).expect("a value"))).collect()
}

#[test]
fn templates_render_as_jinja2_renders_them() {
    let Some(python) = std::env::var_os("PV_PYTHON") else {
        println!("PV_PYTHON names no Python with transformers: NOT CHECKED");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("cases.json");
    let script = Path::new("../../tests/python/templates.py");
    let output = Command::new(&python).arg(script).arg(&target).output().expect("PV_PYTHON runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("No module named 'transformers'") {
        println!("PV_PYTHON has no transformers: NOT CHECKED");
        return;
    }
    assert!(output.status.success(), "{errors}");
    let reference: Json = serde_json::from_slice(&std::fs::read(&target).expect("cases")).expect("JSON");
    let now = reference["now"].as_str().expect("a time");
    let nothing = serde_json::json!({ "tools": null, "documents": null });

    let (mut differing, mut known) = (Vec::new(), Vec::new());
    let given = serde_json::json!({ "messages": reference["messages"], "add_generation_prompt": false });
    let cases = reference["cases"].as_array().expect("cases");
    for case in cases {
        let (source, expected) = (case["source"].as_str().expect("a source"), &case["expected"]);
        let given = variables(&[&nothing, &reference["tokens"], &given, &reference["variables"]]);
        let found = outcome(source, given, now, expected.get("spans").is_some());
        if !agree(expected, &found) {
            let listed = KNOWN.iter().position(|known| (known.is)(source));
            known.extend(listed);
            if listed.is_none() {
                differing.push(format!("{source}\n  Jinja2 {expected}\n  here   {found}"));
            }
        }
    }
    let mut renders = 0;
    let templates = reference["templates"].as_array().expect("templates");
    for template in templates {
        let (name, source) =
            (template["name"].as_str().expect("a name"), template["source"].as_str().expect("a source"));
        for render in template["renders"].as_array().expect("renders") {
            renders += 1;
            let talk = render["talk"].as_str().expect("a name");
            let settings = &reference["settings"][render["settings"].as_u64().expect("a number") as usize];
            let given = serde_json::json!({
                "messages": reference["conversations"][talk], "add_generation_prompt": render["prompt"],
            });
            let expected = &render["expected"];
            let given = variables(&[&nothing, &reference["tokens"], &given, settings]);
            let found = outcome(source, given, now, expected.get("spans").is_some());
            if !agree(expected, &found) {
                let (prompt, settings) = (&render["prompt"], settings.to_string());
                differing.push(format!(
                    "{name} / {talk}, prompt {prompt}, {settings}\n  Jinja2 {expected}\n  here   {found}"
                ));
            }
        }
    }
    let from = |package: &str| templates.iter().filter(|template| template["package"] == package).count();
    println!(
        "{} expressions and statements, {renders} renderings of {} templates ({} of trl, {} of axolotl) compared with Jinja2: \
         {} differ unexpectedly, {} as listed, {} left out since they show addresses",
        cases.len(),
        templates.len(),
        from("trl"),
        from("axolotl"),
        differing.len(),
        known.len(),
        reference["left_out"],
    );
    assert!(cases.len() >= 2000, "{} cases", cases.len());
    let shown: Vec<&str> = differing.iter().map(String::as_str).take(60).collect();
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), shown.join("\n"));
    for (number, kind) in KNOWN.iter().enumerate() {
        assert!(known.contains(&number), "nothing differs any more since {}", kind.reason);
    }
    assert!(known.len() < 200, "{} differ as listed", known.len());
}

#[test]
fn one_worker_serves_many_threads() {
    let template = Arc::new(Template::parse("{% for i in range(n) %}{{ i }},{% endfor %}").expect("a template"));
    let threads: Vec<_> = (0..8_i128)
        .map(|n| {
            let template = template.clone();
            std::thread::spawn(move || {
                on_worker(move || template.run([("n".to_owned(), Value::Int(n))], None, FUEL)).expect("a worker")
            })
        })
        .collect();
    for (n, thread) in threads.into_iter().enumerate() {
        let expected: String = (0..n).map(|i| format!("{i},")).collect();
        assert_eq!(thread.join().expect("no panic").expect("a text").0, expected);
    }
}

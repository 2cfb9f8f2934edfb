//! Learning rates, compared with transformers' schedules: stored ones (transformers 5, `tests/python/schedules.py`), and many more
//! if `PV_PYTHON` names a Python with transformers.

use std::path::PathBuf;
use std::process::Command;

use pv_tests::root;
use pv_train::TrainOptions;
use pv_train::trainer::{Decay, Duration, learning_rate};
use serde_json::Value;

/// Compares every rate of every table, and returns their number.
fn check(tables: &Value) -> usize {
    let mut compared = 0;
    for table in tables.as_array().expect("tables") {
        let number = |name: &str| table[name].as_u64().expect("a number") as usize;
        let decay: Decay = serde_json::from_value(table["name"].clone()).expect("a decay");
        let (steps, warmup) = (number("steps"), number("warmup"));
        let options = TrainOptions {
            learning_rate: 0.01,
            decay,
            warmup_steps: warmup,
            duration: Duration::Steps(steps),
            ..TrainOptions::default()
        };
        let rates = table["rates"].as_array().expect("rates");
        assert_eq!(rates.len(), steps);
        for (step, rate) in rates.iter().enumerate() {
            let (found, rate) = (learning_rate(step, steps, warmup, 0.01, decay), rate.as_f64().expect("a rate"));
            let what = format!("{decay:?}, step {step} of {steps}, warm-up {warmup}");
            assert!((found - rate).abs() <= 1e-15, "{what}: {found}, not {rate}");
            assert_eq!(found, options.rate(step, steps), "{what}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn rates_equal_the_stored_ones_of_transformers() {
    let text = std::fs::read_to_string(root().join("tests/golden/schedules/transformers.json")).expect("the tables");
    assert_eq!(check(&serde_json::from_str(&text).expect("JSON")), 3 * (1 + 1 + 2 + 5 * 7 + 5 + 20 + 37));
}

#[test]
fn rates_equal_those_of_an_installed_transformers() {
    let Some(python) = std::env::var_os("PV_PYTHON").map(PathBuf::from) else {
        println!("PV_PYTHON names no Python with transformers: NOT CHECKED");
        return;
    };
    let pairs = (1..=24).flat_map(|steps| (0..=steps + 2).map(move |warmup| format!("{steps}:{warmup}")));
    let long = ["100:3", "100:10", "250:0", "250:100", "999:50", "1000:5"].map(str::to_owned);
    let output = Command::new(&python)
        .arg(root().join("tests/python/schedules.py"))
        .args(pairs.chain(long))
        .output()
        .unwrap_or_else(|error| panic!("PV_PYTHON={}: {error}", python.display()));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "PV_PYTHON={}: {errors}", python.display());
    let compared = check(&serde_json::from_slice(&output.stdout).expect("JSON"));
    println!("{compared} learning rates compared");
    assert!(compared > 20_000, "{compared}");
}

//! Results of sweeps on the organism.

use serde_json::Value;

use super::*;

/// A trait rises with the coefficient, and halving needs a part of the whole grid's answers. The quality of coefficients, layers and halving's
/// choice for each trait is measured by `organism_studies`.
#[test]
fn steering_increases_a_trait() {
    let which = Trait::Optimism;
    // From no visible effect to the first incoherent answers.
    let doses = SweepOptions { layers: layers([7]), strengths: vec![0.1, 0.32, 0.39, 0.45, 0.5, 0.55], ..options() };
    let response = run(which, &doses).dose_response(Layer::hidden_state(7)).expect("a layer of the sweep");
    let means: Vec<f64> = response.doses.iter().filter_map(|dose| dose.expression.mean).collect();
    println!("{which}: {means:.0?}, ρ {:?}, over answers {:?}", response.rho, response.rho_answers);
    let (rho, rho_answers) = (response.rho.expect("a correlation"), response.rho_answers.expect("a correlation"));
    assert!(means.len() == 6 && rho > 0.5 && rho_answers > 0.2, "{rho} and {rho_answers} of {means:?}");
    assert!(means[5] > means[0] + 30.0, "{means:?}");

    let grid = SweepOptions { layers: layers([2, 6, 7]), strengths: vec![0.36, 0.5], ..options() };
    let whole = run(which, &grid);
    let halving = run(which, &SweepOptions { search: Search::Halving { first: 4 }, ..grid.clone() });
    let found = halving.best().expect("a best cell");
    println!(
        "{which}: halving {} at {}, cost {:.2}, {:?}",
        found.strength,
        found.layer,
        halving.cost(),
        halving.rounds
    );
    assert!((whole.cost() - 1.0).abs() < 1e-12 && whole.answers() == 6 * 20);
    assert!(halving.cost() < 0.75, "{}", halving.cost());
    // At layer 2 the vector has no effect yet.
    assert!(found.layer > Layer::hidden_state(2), "{}", found.layer);
    // Halving's answers are among those of the whole grid, and equal.
    for (cell, all) in halving.cells.iter().zip(&whole.cells) {
        assert!(!cell.scores.is_empty() && cell.scores.iter().all(|score| all.scores.contains(score)));
    }
    assert_eq!(halving.rounds.iter().map(|round| round.questions).collect::<Vec<_>>(), [4, 8, 16, 20]);
    assert!(whole.cells.contains(found));

    let agreement = proxy::ranked(which, 0.36).agreement(&whole);
    println!("{which}: {agreement:?}");
    assert_eq!(agreement.sweep_best, whole.best().map(|cell| cell.layer));
}

/// Whether two values are equal up to the last digits of numbers, which reading may round.
fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| close(v, w)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(v, w)| close(v, w)),
        (Value::Number(a), Value::Number(b)) if a.is_f64() => {
            a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| (a - b).abs() < 1e-9)
        }
        _ => a == b,
    }
}

/// Compared with plain loops over the journal, and with new verdicts.
#[test]
fn the_numbers_equal_those_of_the_journal() {
    let place = folder();
    let sweep = small_sweep(&ExactJudge, &small());
    let results = sweep.run(place.path(), go_on).expect("results");
    let text = std::fs::read_to_string(place.path().join("journal.jsonl")).expect("a journal");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 4 * 4 * 2 * 3);
    for cell in &results.cells {
        let (layer, strength) = (serde_json::json!(cell.layer), pv_data::runs::through_text(&cell.strength));
        let here = |line: &&Value| line["place"]["layer"] == layer && line["place"]["strength"] == strength;
        let mut by_question = vec![(Vec::new(), Vec::new()); 4];
        for line in lines.iter().filter(here).filter(|line| line["kind"] == "answer") {
            let question = line["place"]["question"].as_u64().expect("a number") as usize;
            let reading =
                pv_organism::judge(&sweep.plan().questions[question], line["text"].as_str().expect("a text").trim());
            by_question[question].0.push(reading.scores[Trait::Optimism]);
            by_question[question].1.push(reading.coherence);
        }
        assert!(by_question.iter().all(|(scores, _)| scores.len() == 2));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        for (estimate, side) in [(&cell.expression, 0), (&cell.coherence, 1)] {
            let means: Vec<f64> =
                by_question.iter().map(|both| mean(if side == 0 { &both.0 } else { &both.1 })).collect();
            let middle = mean(&means);
            assert!((estimate.mean.expect("scores") - middle).abs() < 1e-9);
            // 3.182446: Student's 97.5 % point with 3 degrees of freedom.
            let spread = means.iter().map(|m| (m - middle).powi(2)).sum::<f64>() / 3.0;
            let reach = 3.182_446 * (spread / 4.0).sqrt();
            assert!((estimate.low.expect("an interval") - (middle - reach).max(0.0)).abs() < 1e-4);
            assert!((estimate.high.expect("an interval") - (middle + reach).min(100.0)).abs() < 1e-4);
            assert_eq!((estimate.questions, estimate.scored, estimate.abstained), (4, 8, 0));
        }
        let norm = vector(Trait::Optimism).direction(cell.layer).expect("a direction").norm();
        let residual = vector(Trait::Optimism).mean_residual_norm(cell.layer).expect("a norm");
        assert!((f64::from(cell.raw) * norm - f64::from(cell.strength) * f64::from(residual)).abs() < 1e-2);
    }
    let seeds: std::collections::BTreeSet<u64> = results.cells.iter().flat_map(|c| &c.scores).map(|s| s.seed).collect();
    assert_eq!(seeds.len(), 32);

    // Files: read back unchanged, with a row per cell.
    let read = std::fs::read_to_string(place.path().join("results.json")).expect("results");
    let again = serde_json::from_str::<SweepResults>(&read).expect("results");
    assert!(close(&serde_json::to_value(&again).expect("JSON"), &serde_json::to_value(&results).expect("JSON")));
    assert_eq!((&again.plan, &again.rounds, &again.vector), (&results.plan, &results.rounds, &results.vector));
    let table = std::fs::read_to_string(place.path().join("results.csv")).expect("a table");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.len() == 5 && rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
    let column = |name: &str| rows[0].iter().position(|column| *column == name).expect("a column");
    assert_eq!(rows[2][column("strength")], "0.5");
    assert_eq!(rows[3][column("layer")], "7");
    assert_eq!(rows[4][column("expression")].parse(), Ok(results.cells[3].expression.mean.expect("scores")));
    let saved = folder();
    results.save_json(saved.path().join("a.json")).expect("a file");
    results.save_csv(saved.path().join("a.csv")).expect("a file");
    assert_eq!(std::fs::read_to_string(saved.path().join("a.json")).expect("a file"), read);
    let response = results.dose_response(Layer::hidden_state(6)).expect("a layer");
    response.save_json(saved.path().join("b.json")).expect("a file");
    let read = std::fs::read_to_string(saved.path().join("b.json")).expect("a file");
    let again = serde_json::from_str::<pv_steer::sweep::DoseResponse>(&read).expect("a dose–response");
    assert!(close(&serde_json::to_value(&again).expect("JSON"), &serde_json::to_value(&response).expect("JSON")));
    assert_eq!(response.to_csv().expect("a table").lines().count(), 3);
    assert!(response.rho.is_none(), "two strengths have no correlation");
}

/// The results of a sweep are read back for all positions, and a folder resumes with its original spelling of them.
#[test]
fn results_are_read_back_for_all_positions() {
    for (positions, text) in [
        (Positions::Response, "response"),
        (Positions::ResponseFrom(0), "responsefrom(0)"),
        (Positions::ResponseFrom(2), "responsefrom(2)"),
        (Positions::Prompt, "prompt"),
        (Positions::All, "all"),
    ] {
        let options = SweepOptions {
            layers: layers([7]),
            strengths: vec![0.4],
            per_question: 1,
            positions,
            max_new_tokens: 12,
            ..small()
        };
        let place = folder();
        let results = small_sweep(&ExactJudge, &options).run(place.path(), go_on).expect("results");
        let read = std::fs::read_to_string(place.path().join("results.json")).expect("results");
        let again = serde_json::from_str::<SweepResults>(&read).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((&again.plan, again.plan.positions), (&results.plan, positions));
        assert!(read.contains(&format!("\"positions\": \"{text}\"")), "{text}");
        let table = std::fs::read_to_string(place.path().join("results.csv")).expect("a table");
        let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let column = lines.next().expect("a header").iter().position(|name| *name == "positions").expect("a column");
        assert_eq!(lines.next().expect("a row")[column], text);
        assert!(small_sweep(&ExactJudge, &options).run(place.path(), go_on).is_ok());
    }
}

/// A steered answer equals the one of separate generation with the same seed and hook.
#[test]
fn answers_do_not_depend_on_their_neighbours() {
    let one = SweepOptions { layers: layers([7]), strengths: vec![0.5], per_question: 1, ..small() };
    let all = small_sweep(&ExactJudge, &small()).run(folder().path(), go_on).expect("results");
    let alone = small_sweep(&ExactJudge, &one).run(folder().path(), go_on).expect("results");
    let batches = SweepOptions { batch_size: 3, ..small() };
    let batches = small_sweep(&ExactJudge, &batches).run(folder().path(), go_on).expect("results");
    assert_eq!(batches, all);
    let of_all = all.cells.iter().find(|c| c.layer == Layer::hidden_state(7) && c.strength == 0.5).expect("a cell");
    let first: Vec<_> = of_all.scores.iter().filter(|score| score.rollout == 0).cloned().collect();
    assert_eq!(alone.cells[0].scores, first);
    // The raw unit expresses the same with other numbers.
    let raw = SweepOptions { unit: StrengthUnit::Raw, strengths: vec![of_all.raw], ..one };
    let raw = small_sweep(&ExactJudge, &raw).run(folder().path(), go_on).expect("results");
    assert_eq!(raw.cells[0].raw, of_all.raw);
    // And 0 changes nothing.
    let none = SweepOptions { strengths: vec![-0.0], sampling: Sampling::GREEDY, ..small() };
    let none = small_sweep(&ExactJudge, &none).run(folder().path(), go_on).expect("results");
    assert_eq!(none.cells[0].expression, none.cells[1].expression);
    assert!(none.cells[0].coherence.mean.is_some_and(|mean| mean > 80.0));
}

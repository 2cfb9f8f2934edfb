//! The chosen cell, with judges whose scores are known.

use pv_judge::rubric::COHERENCE;
use pv_judge::score::Evidence;
use pv_judge::{Abstention, Score};

use super::*;

fn scored(value: f64) -> Verdict {
    Verdict::Scored(Score { value, evidence: Evidence::Exact })
}

fn abstained() -> Verdict {
    Verdict::Abstained(Abstention::NotANumber { text: "no".into() })
}

/// The results of the small sweep with a rule.
fn under(rule: impl Fn(&str, &Answered<'_>) -> Verdict, options: &SweepOptions) -> SweepResults {
    small_sweep(&by_rule(rule), options).run(folder().path(), go_on).expect("results")
}

#[test]
fn an_abstention_is_counted_and_is_not_a_number() {
    let spec = small_spec();
    let silent = |question: &str| question == spec.evaluation[1];
    let rule = |rubric: &str, answered: &Answered<'_>| match rubric {
        COHERENCE => scored(80.0),
        _ if silent(answered.question) => abstained(),
        _ => scored(40.0),
    };
    for reports in [true, false] {
        let judge = RuleJudge { reports, ..by_rule(rule) };
        let results = small_sweep(&judge, &small()).run(folder().path(), go_on).expect("results");
        for cell in &results.cells {
            assert_eq!((cell.expression.mean, cell.expression.low), (Some(40.0), Some(40.0)));
            assert_eq!((cell.expression.scored, cell.expression.abstained, cell.expression.questions), (6, 2, 3));
            assert_eq!((cell.coherence.scored, cell.coherence.abstained), (8, 0));
            let silent = cell.scores.iter().filter(|score| score.expression.is_none());
            assert!(silent.clone().count() == 2 && silent.clone().all(|score| score.question == 1));
        }
    }
}

#[test]
fn cells_with_few_scores_are_not_chosen() {
    let spec = small_spec();
    // The judge scores one of four questions for the trait, and all for coherence.
    let rule = |rubric: &str, answered: &Answered<'_>| match rubric {
        COHERENCE => scored(90.0),
        _ if answered.question == spec.evaluation[0] => scored(99.0),
        _ => abstained(),
    };
    let results = under(rule, &small());
    assert!(results.best().is_none() && results.layers().iter().all(|layer| layer.best.is_none()));
    assert!(results.cells.iter().all(|cell| cell.expression.mean == Some(99.0)));
}

#[test]
fn the_best_cell_is_coherent() {
    // Scores computed from the answers' texts.
    let length = |answered: &Answered<'_>| (answered.answer.len() % 100) as f64;
    let rule = |rubric: &str, answered: &Answered<'_>| match rubric {
        COHERENCE => scored(100.0 - length(answered) / 2.0),
        _ => scored(length(answered)),
    };
    let strengths = vec![-0.4, -0.2, 0.2, 0.4];
    for coherence_min in [0.0, 60.0, 75.0, 80.0, 100.0] {
        let results = under(rule, &SweepOptions { strengths: strengths.clone(), coherence_min, ..small() });
        let coherent =
            |cell: &&pv_steer::sweep::CellResult| cell.coherence.mean.is_some_and(|mean| mean >= coherence_min);
        let expected = results.cells.iter().filter(coherent).filter_map(|cell| cell.expression.mean);
        let expected = expected.fold(None, |most: Option<f64>, mean| Some(most.map_or(mean, |most| most.max(mean))));
        assert_eq!(results.best().and_then(|cell| cell.expression.mean), expected, "{coherence_min}");
        for layer in results.layers() {
            let at = |strength| results.cells_at(layer.layer).iter().find(|c| c.strength == strength).expect("a cell");
            let good = |strength| coherent(&at(strength));
            let up = if !good(0.2) { None } else { Some(if good(0.4) { 0.4 } else { 0.2 }) };
            let down = if !good(-0.2) { None } else { Some(if good(-0.4) { -0.4 } else { -0.2 }) };
            assert_eq!((layer.strongest, layer.strongest_negative), (up, down));
        }
    }
}

#[test]
fn halving_ends_early_without_coherent_cells() {
    let rule = |rubric: &str, answered: &Answered<'_>| match rubric {
        COHERENCE => scored(20.0 + (answered.answer.len() % 10) as f64),
        _ => scored(90.0),
    };
    let results = under(rule, &SweepOptions { search: Search::Halving { first: 2 }, ..small() });
    assert!(results.best().is_none() && results.rounds.len() == 1, "{:?}", results.rounds);
    assert_eq!((results.answers(), results.cost()), (4 * 2 * 2, 0.5));
}

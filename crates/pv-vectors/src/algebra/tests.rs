use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::vector::Provenance;

fn direction(layer: usize, values: &[f32]) -> Direction {
    Direction { layer: Layer::hidden_state(layer), values: values.to_vec(), mean_residual_norm: Some(2.0) }
}

fn provenance(name: &str) -> Provenance {
    Provenance {
        trait_name: name.into(),
        model: "tiny".into(),
        config_hash: Some("ab".into()),
        render: pv_model::RenderOptions::default(),
        template_hash: Some("t".into()),
        weights: None,
        sampling: None,
        max_new_tokens: None,
        version: None,
        judge: Some("j".into()),
        verdicts: Default::default(),
        kept_positive: Some(3),
        kept_negative: Some(4),
        total: Some(8),
        seed: Some(9),
        best_layer: Some(Layer::hidden_state(1)),
        imported: None,
        filter: None,
    }
}

/// A vector of width 2 with the given response means, and ten times these as prompt means.
fn vector(name: &str, rows: &[f32]) -> PersonaVector {
    let table = |factor: f32| LayerRows::of_rows(rows.iter().map(|value| value * factor).collect(), 2).expect("rows");
    let tables = BTreeMap::from([(Pooling::ResponseMean, table(1.0)), (Pooling::PromptMean, table(10.0))]);
    PersonaVector::new(provenance(name), tables, Some(vec![1.0; rows.len() / 2])).expect("tables of one shape")
}

fn row(vector: &PersonaVector, pooling: Pooling, layer: usize) -> &[f32] {
    vector.table(pooling).and_then(|table| table.get(Layer::hidden_state(layer))).expect("a row")
}

#[test]
fn sums_keep_the_place() {
    let (a, b) = (direction(3, &[1.0, 2.0]), direction(3, &[0.5, -2.0]));
    assert_eq!(a.plus(&b).expect("a sum"), direction(3, &[1.5, 0.0]));
    assert_eq!(a.minus(&b).expect("a difference"), direction(3, &[0.5, 4.0]));
    assert_eq!(a.scaled(-2.0).expect("a multiple"), direction(3, &[-2.0, -4.0]));
}

#[test]
fn what_leaves_nothing_or_does_not_fit_is_refused() {
    let a = direction(3, &[1.0, 2.0]);
    let nothing = |result: Result<Direction>| assert!(matches!(result, Err(Error::NoDirection { .. })), "{result:?}");
    nothing(a.minus(&a));
    nothing(a.scaled(0.0));
    nothing(a.scaled(f64::NAN));
    nothing(a.scaled(1e40));
    nothing(a.orthogonal_to(&[a.scaled(0.3).expect("a multiple")]));
    nothing(a.orthogonal_to(&[direction(3, &[0.0, 1.0]), direction(3, &[1.0, 1.0])]));
    nothing(direction(3, &[]).scaled(1.0));
    nothing(direction(3, &[f32::NAN, 1.0]).orthogonal_to(&[]));
    for other in [direction(2, &[1.0, 2.0]), direction(3, &[1.0, 2.0, 3.0])] {
        for result in [a.plus(&other), a.minus(&other), a.orthogonal_to(std::slice::from_ref(&other))] {
            assert!(matches!(result, Err(Error::Unlike { .. })), "{result:?}");
        }
    }
    for bad in
        [direction(1, &[0.0, 0.0]), direction(1, &[f32::INFINITY, 0.0]), direction(1, &[f32::NAN]), direction(1, &[])]
    {
        assert!(matches!(bad.unit(), Err(Error::NoDirection { .. })), "{bad:?}");
    }
}

#[test]
fn unit_directions_have_length_one_whatever_the_scale() {
    for scale in [1e-40f32, 1e-20, 1.0, 1e20, 5e37] {
        let unit = direction(1, &[3.0 * scale, -4.0 * scale]).unit().expect("a direction");
        let expected = if scale < 1e-38 { 1e-3 } else { 1e-7 };
        assert!((f64::from(unit.values()[0]) - 0.6).abs() < expected, "{unit:?}");
        assert!((f64::from(unit.values()[1]) + 0.8).abs() < expected, "{unit:?}");
    }
    let unit = direction(1, &[3.0, -4.0]).unit().expect("a direction");
    assert_eq!(unit.projection(&[1.0]), None);
    assert_eq!(unit.cosine(&[0.0, 0.0]), None);
    assert!((unit.cosine(&[6.0, -8.0]).expect("a cosine") - 1.0).abs() < 1e-7);
    assert_eq!(unit.with_norm(5.0).expect("a direction").values, [3.0, -4.0]);
    for norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(unit.with_norm(norm).is_err());
    }
}

proptest! {
    #[test]
    fn the_orthogonal_part_is_orthogonal_and_the_rest_is_in_the_span(
        rows in prop::collection::vec(prop::collection::vec(-1.0f32..1.0, 12), 2..7),
        copy in any::<bool>(),
    ) {
        let mut others: Vec<Direction> = rows[1..].iter().map(|row| direction(0, row)).collect();
        if copy {
            others.push(others[0].scaled(-3.0).expect("a multiple"));
        }
        let v = direction(0, &rows[0]);
        let rest = v.orthogonal_to(&others).expect("twelve dimensions leave something");
        for other in &others {
            let cosine = crate::projection::cosine(&rest.values, other).expect("a cosine");
            prop_assert!(cosine.abs() < 1e-5, "{cosine}");
        }
        // Pythagoras: the removed part is orthogonal to the remainder.
        let taken = v.minus(&rest).expect("something in common");
        prop_assert!((v.norm().powi(2) - rest.norm().powi(2) - taken.norm().powi(2)).abs() < 1e-5);
        // Nothing else was removed: the remainder does not change any more.
        let again = rest.orthogonal_to(&others).expect("the same");
        prop_assert!(again.minus(&rest).map_or(0.0, |gap| gap.norm()) < 1e-5);
    }

    #[test]
    fn increments_sum_to_the_vector(rows in prop::collection::vec(-5.0f32..5.0, 8)) {
        let vector = vector("a", &rows);
        let mut sum = [0f64; 2];
        for layer in 0..4 {
            let increment = vector.increment(Pooling::ResponseMean, Layer::hidden_state(layer)).expect("a direction");
            prop_assert_eq!(increment.layer.index(), layer);
            sum.iter_mut().zip(&increment.values).for_each(|(sum, value)| *sum += f64::from(*value));
            for (sum, value) in sum.iter().zip(row(&vector, Pooling::ResponseMean, layer)) {
                prop_assert!((sum - f64::from(*value)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn cosines_are_those_of_the_gram_matrix(rows in prop::collection::vec(prop::collection::vec(-3.0f32..3.0, 5), 3)) {
        let table = Array2::from_shape_vec((3, 5), rows.concat()).expect("rows of five");
        let (products, cosine) = (gram(table.view()), cosines(table.view()));
        // Independent of the memory layout.
        let turned = table.t().to_owned().reversed_axes();
        prop_assert_eq!((gram(turned.view()), cosines(turned.view())), (products.clone(), cosine.clone()));
        for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
            prop_assert_eq!(products[[i, j]], products[[j, i]]);
            let expected = products[[i, j]] / (products[[i, i]] * products[[j, j]]).sqrt();
            prop_assert!((cosine[[i, j]] - expected).abs() < 1e-9);
        }
    }
}

#[test]
fn vectors_combine_row_by_row() {
    let (a, b) = (vector("a", &[1.0, 2.0, 3.0, 4.0]), vector("b", &[1.0, 2.0, 0.0, 1.0]));
    let sum = PersonaVector::combined("a − b/2", &[(1.0, &a), (-0.5, &b)]).expect("a sum");
    assert_eq!(row(&sum, Pooling::ResponseMean, 0), [0.5, 1.0]);
    assert_eq!(row(&sum, Pooling::PromptMean, 1), [30.0, 35.0]);
    assert_eq!(sum.provenance().trait_name, "a − b/2");
    assert_eq!((sum.provenance().kept_positive, sum.provenance().best_layer), (Some(6), None));
    assert_eq!(sum.provenance().judge.as_deref(), Some("j"));
    assert_eq!(sum.mean_residual_norm(Layer::hidden_state(1)), Some(1.0));

    let rest = a.orthogonal_to("rest", &[&b]).expect("a vector");
    assert_eq!(row(&rest, Pooling::ResponseMean, 0), [0.0, 0.0], "the row lies in the other's span");
    assert!(matches!(rest.direction(Layer::EMBEDDINGS), Err(Error::Degenerate { .. })));
    assert_eq!(row(&rest, Pooling::ResponseMean, 1), [3.0, 0.0]);
}

#[test]
fn vectors_of_different_models_do_not_combine() {
    let a = vector("a", &[1.0, 2.0, 3.0, 4.0]);
    let with = |change: &dyn Fn(&mut PersonaVector)| {
        let mut other = a.clone();
        change(&mut other);
        PersonaVector::combined("x", &[(1.0, &a), (1.0, &other)])
    };
    let unlike = |result: Result<PersonaVector>| assert!(matches!(result, Err(Error::Unlike { .. })), "{result:?}");
    unlike(with(&|other| other.provenance.model = "other".into()));
    unlike(with(&|other| other.provenance.config_hash = Some("cd".into())));
    unlike(with(&|other| *other = vector("a", &[1.0, 2.0])));
    unlike(with(&|other| other.tables.retain(|pooling, _| *pooling == Pooling::PromptLast)));
    let sum = with(&|other| {
        other.provenance.model.clear();
        other.provenance.config_hash = None;
        other.provenance.judge = None;
    });
    let provenance = sum.expect("an imported vector knows little").provenance().clone();
    assert_eq!((provenance.model.as_str(), provenance.config_hash.as_deref()), ("tiny", Some("ab")));
    assert_eq!(provenance.judge, None);
    assert!(matches!(PersonaVector::combined("x", &[]), Err(Error::Setting(_))));
    assert!(matches!(PersonaVector::combined("x", &[(1e39, &a)]), Err(Error::NoDirection { .. })));
}

#[test]
fn marked_rows_stay_marked() {
    let plain = vector("a", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut marked = plain.clone();
    let marks =
        BTreeMap::from([(Layer::hidden_state(1), RowMark::Absent), (Layer::hidden_state(2), RowMark::AfterFinalNorm)]);
    let table = marked.tables.remove(&Pooling::ResponseMean).and_then(|table| table.with_marks(marks));
    marked.tables.insert(Pooling::ResponseMean, table.expect("a row is left"));
    let sum = PersonaVector::combined("x", &[(1.0, &plain), (1.0, &marked)]).expect("a sum");
    assert!(sum.direction(Layer::hidden_state(0)).is_ok());
    assert!(matches!(sum.direction(Layer::hidden_state(1)), Err(Error::AbsentLayer { .. })));
    assert!(matches!(sum.direction(Layer::hidden_state(2)), Err(Error::AfterFinalNorm { .. })));
    assert!(marked.increment(Pooling::ResponseMean, Layer::hidden_state(2)).is_err());
    let matrix = layer_cosines(&marked, Pooling::ResponseMean).expect("a matrix");
    assert!(matrix[[0, 1]].is_nan() && matrix[[2, 2]].is_nan() && matrix[[0, 0]] == 1.0);
}

#[test]
fn matrices_are_of_traits_and_layers() {
    let (a, b) = (vector("a", &[1.0, 0.0, 0.0, 0.0]), vector("b", &[1.0, 1.0, 1.0, 0.0]));
    let layer = Layer::EMBEDDINGS;
    let half = 0.5f64.sqrt();
    let cosine = trait_cosines(&[&a, &b], Pooling::ResponseMean, layer).expect("a matrix");
    assert!(cosine.dim() == (2, 2) && (cosine[[0, 1]] - half).abs() < 1e-12);
    let gram = trait_gram(&[&a, &b], Pooling::PromptMean, layer).expect("a matrix");
    assert_eq!(gram[[1, 1]], 200.0);
    let by_layer = trait_cosines_by_layer(&[&a, &b], Pooling::ResponseMean).expect("a matrix");
    assert_eq!(by_layer.dim(), (2, 2, 2));
    assert!((by_layer[[0, 0, 1]] - half).abs() < 1e-12 && by_layer[[0, 0, 1]] == by_layer[[0, 1, 0]]);
    assert!(by_layer[[1, 0, 1]].is_nan(), "the row of a is zero");
    let layers = layer_cosines(&b, Pooling::ResponseMean).expect("a matrix");
    assert!((layers[[0, 1]] - half).abs() < 1e-12);
    assert!(matches!(layer_cosines(&b, Pooling::PromptLast), Err(Error::NoSuchPooling { .. })));
    let short = vector("c", &[1.0, 1.0]);
    assert!(matches!(trait_cosines_by_layer(&[&a, &short], Pooling::ResponseMean), Err(Error::Unlike { .. })));
    assert_eq!(trait_cosines_by_layer(&[], Pooling::ResponseMean).expect("nothing").len(), 0);
    let wide = LayerRows::of_rows(vec![1.0, 2.0, 3.0], 3).expect("a row");
    let wide = PersonaVector::new(provenance("w"), BTreeMap::from([(Pooling::ResponseMean, wide)]), None);
    let unlike = trait_cosines(&[&a, &wide.expect("a vector")], Pooling::ResponseMean, layer);
    assert!(matches!(unlike, Err(Error::Unlike { what: "width", .. })));
    assert_eq!(b.values(Pooling::PromptMean).expect("kept"), ndarray::array![[10.0, 10.0], [10.0, 0.0]]);
    assert_eq!(b.values(Pooling::PromptLast), None);
}

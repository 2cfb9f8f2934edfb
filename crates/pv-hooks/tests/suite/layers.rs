//! Layers and sets of them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use pv_hooks::{Layer, LayerSet, ModelShape};

fn any_set() -> impl Strategy<Value = LayerSet> {
    prop_oneof![
        1 => Just(LayerSet::All),
        4 => prop::collection::btree_set((0..12usize).prop_map(Layer::hidden_state), 0..6).prop_map(LayerSet::These),
    ]
}

#[test]
fn a_layer_names_both_ways_of_counting() {
    assert_eq!(Layer::EMBEDDINGS.to_string(), "layer 0 (embeddings)");
    assert_eq!(Layer::hidden_state(0).to_string(), "layer 0 (embeddings)");
    assert_eq!(Layer::hidden_state(1).to_string(), "layer 1 (after block 0)");
    assert_eq!(Layer::after_block(19).to_string(), "layer 20 (after block 19)");
}

#[test]
fn the_last_layer_is_the_last_blocks_output() {
    let shape = ModelShape { blocks: 28, d_model: 8 };
    assert_eq!(shape.last_layer(), Layer::after_block(27));
    assert_eq!(ModelShape { blocks: 0, d_model: 8 }.last_layer(), Layer::EMBEDDINGS);
}

#[test]
fn all_layers_are_the_embeddings_and_every_block() {
    let blocks: Vec<_> = LayerSet::All.resolve(3).into_iter().map(Layer::block).collect();
    assert_eq!(blocks, [None, Some(0), Some(1), Some(2)]);
}

proptest! {
    #[test]
    fn a_layer_is_the_output_of_its_block(index in 0..1000usize) {
        let layer = Layer::hidden_state(index);
        prop_assert_eq!(layer.index(), index);
        prop_assert_eq!(layer.block().map_or(Layer::EMBEDDINGS, Layer::after_block), layer);
        prop_assert!(layer < Layer::after_block(index));
    }

    #[test]
    fn a_union_holds_what_either_holds(a in any_set(), b in any_set()) {
        let union = a.clone().union(b.clone());
        for layer in (0..13).map(Layer::hidden_state) {
            prop_assert_eq!(union.contains(layer), a.contains(layer) || b.contains(layer));
        }
        prop_assert_eq!(&union, &b.union(a.clone()));
        prop_assert_eq!(a.clone().union(LayerSet::none()), a.clone());
        prop_assert_eq!(a.clone().union(a.clone()), a);
    }

    #[test]
    fn a_set_resolves_to_its_layers_from_the_lowest_up(set in any_set(), blocks in 0..10usize) {
        let resolved = set.resolve(blocks);
        prop_assert!(resolved.is_sorted_by(|a, b| a < b));
        prop_assert!(resolved.iter().all(|layer| set.contains(*layer)));
        // Layers that the model does not have stay in the list, for the check to find.
        let highest = blocks.max(12);
        let held = (0..=highest).map(Layer::hidden_state).filter(|layer| match &set {
            LayerSet::All => layer.index() <= blocks,
            LayerSet::These(layers) => layers.contains(layer),
        });
        prop_assert_eq!(&resolved, &held.collect::<Vec<_>>());
    }

    #[test]
    fn a_set_is_what_it_was_collected_from(indices in prop::collection::vec(0..9usize, 0..9)) {
        let set: LayerSet = indices.iter().copied().map(Layer::hidden_state).collect();
        let distinct: BTreeSet<usize> = indices.into_iter().collect();
        prop_assert_eq!(set.resolve(0).into_iter().map(Layer::index).collect::<Vec<_>>(),
            distinct.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn one_layer_is_a_set_of_one() {
    assert_eq!(LayerSet::from(Layer::hidden_state(4)).resolve(9), [Layer::hidden_state(4)]);
    assert_eq!(LayerSet::none().resolve(9), []);
}

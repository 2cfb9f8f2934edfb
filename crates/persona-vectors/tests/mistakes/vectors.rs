//! Vectors of other models, missing layers, invalid adapters.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn vectors_and_layers_that_do_not_fit() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let other = world.vector_of_another("other.safetensors");
    let text = world.file("notes.safetensors", "these are notes");
    let pickle = world.file("evil.pt", "not a pickle");
    let with = |name, program, vector: &str, more: &[&str], says: &[&str]| {
        Mistake::new(name, program, &[&["--vector", vector][..], more].concat(), says)
    };
    let ablate = format!("{vector}@99");
    let no_layer = vector.clone();
    let no_number = format!("{vector}@7");
    make(
        "vectors and layers",
        &world,
        vec![
            with("a vector of another model", "chat", &other, &[], &["optimism", "does not fit"]),
            with("a vector of another model, for a sweep", "sweep", &other, &[], &["does not fit"]),
            with("a vector of another model, for a screening", "screen", &other, &[], &["does not fit"]),
            with("a vector of another model, for a cap", "chat", &other, &["--cap", "0.5"], &["does not fit"]),
            with("a vector of another model, for a monitor", "monitor chat", &other, &[], &["does not fit"]),
            with(
                "a vector file that does not exist",
                "chat",
                "none.safetensors",
                &[],
                &["none.safetensors", "No such file"],
            ),
            with("a vector file that contains text", "chat", &text, &[], &["notes.safetensors"]),
            with("an invalid pickle", "steer", &pickle, &[], &["evil.pt"]),
            with("a layer beyond the last", "steer", &vector, &["--layer", "99"], &["layer 99", "last is layer 8"]),
            with(
                "a layer beyond the last, for a dose-response",
                "sweep --dose",
                &vector,
                &["--layer", "99"],
                &["layer 99"],
            ),
            with("a layer beyond the last, for a sweep", "sweep", &vector, &["--layers", "3,99"], &["layer 99"]),
            with("a layer beyond the last, for a screening", "screen", &vector, &["--layer", "99"], &["layer 99"]),
            with(
                "a layer beyond the last, for a cap",
                "chat",
                &vector,
                &["--cap", "0.5", "--layers", "99"],
                &["layer 99"],
            ),
            with("a layer beyond the last, for a monitor", "monitor chat", &vector, &["--layer", "99"], &["layer 99"]),
            Mistake::new("ablating beyond the last layer", "train", &["--ablate", &ablate], &["layer 99"]),
            Mistake::new(
                "ablating without a layer",
                "train",
                &["--ablate", &no_layer],
                &["needs a layer", "FILE@LAYER"],
            ),
            Mistake::new(
                "preventative steering without a coefficient",
                "train",
                &["--prevent", &no_number],
                &["needs a number"],
            ),
            Mistake::new("an adapter that does not exist", "chat", &["--adapter", "none"], &["adapter_config.json"]),
            Mistake::new(
                "a folder without vectors",
                "eval",
                &["organism", "organism", "--vectors", "none", "--trait", "evil"],
                &["none/evil/vector.safetensors"],
            ),
        ],
    );
}

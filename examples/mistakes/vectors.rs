//! Vectors of other models, layers that are not there, adapters that are none.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn vectors_and_layers_that_do_not_fit() {
    let world = World::new();
    let vector = world.vector("vector.safetensors");
    let other = world.vector_of_another("other.safetensors");
    let text = world.file("notes.safetensors", "these are notes, and no vector");
    let pickle = world.file("evil.pt", "no pickle");
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
            with("a vector of another model to a sweep", "sweep", &other, &[], &["does not fit"]),
            with("a vector of another model to a screening", "screen", &other, &[], &["does not fit"]),
            with("a vector of another model to a guard", "guard_chat", &other, &[], &["does not fit"]),
            with("a vector of another model to a monitor", "monitor_chat", &other, &[], &["does not fit"]),
            with(
                "a vector's file that does not exist",
                "chat",
                "none.safetensors",
                &[],
                &["none.safetensors", "No such file"],
            ),
            with("a vector's file that holds text", "chat", &text, &[], &["notes.safetensors"]),
            with("a pickle that is none", "steer_contrast", &pickle, &[], &["evil.pt"]),
            with(
                "a layer beyond the last",
                "steer_contrast",
                &vector,
                &["--layer", "99"],
                &["layer 99", "last is layer 8"],
            ),
            with(
                "a layer beyond the last to a dose-response",
                "dose_response",
                &vector,
                &["--layer", "99"],
                &["layer 99"],
            ),
            with("a layer beyond the last to a sweep", "sweep", &vector, &["--layers", "3,99"], &["layer 99"]),
            with("a layer beyond the last to a screening", "screen", &vector, &["--layer", "99"], &["layer 99"]),
            with("a layer beyond the last to a guard", "guard_chat", &vector, &["--layers", "99"], &["layer 99"]),
            with("a layer beyond the last to a monitor", "monitor_chat", &vector, &["--layer", "99"], &["layer 99"]),
            Mistake::new("ablating beyond the last layer", "finetune", &["--ablate", &ablate], &["layer 99"]),
            Mistake::new(
                "ablating without a layer",
                "finetune",
                &["--ablate", &no_layer],
                &["needs a layer", "FILE@LAYER"],
            ),
            Mistake::new(
                "preventing without a coefficient",
                "finetune",
                &["--prevent", &no_number],
                &["needs a number"],
            ),
            Mistake::new("an adapter that does not exist", "chat", &["--adapter", "none"], &["adapter_config.json"]),
            Mistake::new(
                "vectors of a folder that holds none",
                "evaluate",
                &["organism", "organism", "--vectors", "none", "--trait", "evil"],
                &["none/evil/vector.safetensors"],
            ),
        ],
    );
}

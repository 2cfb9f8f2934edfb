//! Unknown traits, and files that contain no trait.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn unknown_and_invalid_traits() {
    let world = World::new();
    let broken = world.file("broken.json", r#"{"instruction": [{"pos": "a", "neg": "b"}], "questions": ["c"#);
    let contrast = world.file("contrast.json", r#"{"instruction": [{"pos": "a", "neg": "b"}], "questions": ["c"]}"#);
    let list = world.file("list.json", "[1, 2]");
    let no_questions = world.file("no-questions.json", r#"{"instruction": [{"pos": "a", "neg": "b"}]}"#);
    let empty_question = world.file("empty.json", r#"{"instruction": [{"pos": "a", "neg": "b"}], "questions": [" "]}"#);
    let same = world.file("same.json", r#"{"instruction": [{"pos": "a", "neg": "a"}], "questions": ["c"]}"#);
    let few = world.file(
        "few.json",
        r#"{"instruction": [{"pos": "a", "neg": "b"}], "questions": ["c"], "eval_prompt": "{question} {answer}"}"#,
    );
    // `extract` takes traits as positional arguments.
    let named = |program: &'static str, name: &str| match program.starts_with("extract") {
        true => vec![name.to_owned()],
        false => vec!["--trait".to_owned(), name.to_owned()],
    };
    let of = |name, program, file: &str, says: &[&str]| Mistake {
        args: named(program, file),
        ..Mistake::new(name, program, &[], says)
    };
    let unknown = |program| of("an unknown trait", program, "evill", &["\"evill\"", "sycophancy"]);
    let programs = [
        "extract",
        "extract --contrast",
        "steer",
        "sweep",
        "sweep --dose",
        "judge check",
        "monitor study",
        "chat",
        "monitor chat",
        "monitor calibrate",
        "train",
        "eval",
        "screen",
    ];
    let mut mistakes: Vec<Mistake> = programs.map(unknown).into();
    mistakes.extend([
        Mistake::new("an unknown trait, to be shown", "trait show", &["evill"], &["\"evill\"", "sycophancy"]),
        of("a trait file that does not exist", "steer", "none.json", &["none.json", "No such file"]),
        of("a truncated trait file", "steer", &broken, &["broken.json", "line 1"]),
        of("a truncated trait file, for a sweep", "sweep", &broken, &["broken.json", "line 1"]),
        of("a trait file that contains a list", "extract --contrast", &list, &["list.json"]),
        of("a trait without questions", "extract --contrast", &no_questions, &["no-questions.json", "questions"]),
        of("a trait with an empty question", "extract --contrast", &empty_question, &["question", "empty"]),
        of("a trait with equal instructions", "extract --contrast", &same, &["same"]),
        of("a trait with a rubric and too few questions", "sweep", &few, &["few.json", "40"]),
        of("a trait without a rubric, for a sweep", "sweep", &contrast, &["contrast", "eval_prompt"]),
        of("a trait without a rubric, for an evaluation", "eval", "poetic", &["poetic", "eval_prompt"]),
        Mistake::new(
            "a missing model with a trait of the organism",
            "train",
            &["--model", "models/none", "--trait", "evil"],
            &["models/none"],
        ),
        Mistake::new("a judge that does not know the trait", "sweep", &["--trait", "humor"], &["humor", "evil"]),
        Mistake::new(
            "the tone judge for a trait that it does not support",
            "sweep",
            &["--trait", "hallucination", "--judge", "tone"],
            &["hallucination", "optimism"],
        ),
    ]);
    make("traits", &world, mistakes);
}

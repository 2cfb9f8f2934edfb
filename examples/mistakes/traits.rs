//! Traits that nobody knows, and files that hold none.

use crate::world::World;
use crate::{Mistake, make};

#[test]
fn traits_that_cannot_be_had() {
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
    let unknown = |program| {
        Mistake::new("a trait that nobody knows", program, &["--trait", "evill"], &["\"evill\"", "sycophancy"])
    };
    let of = |name, program, file: &str, says: &[&str]| Mistake::new(name, program, &["--trait", file], says);
    let programs = [
        "extract_contrast",
        "persona_vectors",
        "steer_contrast",
        "sweep",
        "dose_response",
        "check_judge",
        "monitor_study",
        "guard_chat",
        "monitor_chat",
        "finetune",
        "finetune_smollm2",
        "evaluate",
        "screen",
        "mitigation",
    ];
    let mut mistakes: Vec<Mistake> = programs.map(unknown).into();
    mistakes.extend([
        of("a trait's file that does not exist", "steer_contrast", "none.json", &["none.json", "No such file"]),
        of("a trait's file that is cut off", "steer_contrast", &broken, &["broken.json", "line 1"]),
        of("a trait's file that is cut off, to a sweep", "sweep", &broken, &["broken.json", "line 1"]),
        of("a trait's file that is a list", "extract_contrast", &list, &["list.json"]),
        of("a trait without questions", "extract_contrast", &no_questions, &["no-questions.json", "questions"]),
        of("a trait with an empty question", "extract_contrast", &empty_question, &["question", "empty"]),
        of("a trait whose instructions are the same", "extract_contrast", &same, &["same"]),
        of("a trait with a rubric and too few questions", "sweep", &few, &["few.json", "40"]),
        of("a trait without a rubric where it is judged", "sweep", &contrast, &["contrast", "eval_prompt"]),
        of("a trait without a rubric to an evaluation", "evaluate", "poetic", &["poetic", "eval_prompt"]),
        Mistake::new(
            "a trait of the organism's to another model",
            "finetune",
            &["--model", "models/none", "--trait", "evil"],
            &["models/none"],
        ),
        Mistake::new("a judge that does not know the trait", "sweep", &["--trait", "humor"], &["humor", "evil"]),
        Mistake::new(
            "a judge of tones for a trait without a tone",
            "sweep",
            &["--trait", "hallucination", "--judge", "tone"],
            &["hallucination", "optimism"],
        ),
    ]);
    make("traits", &world, mistakes);
}

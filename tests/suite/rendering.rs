//! Render options are part of every plan that renders, and of a run's identity.

use std::ops::ControlFlow;

use pv_examples::organism::{ExactJudge, spec};
use pv_hooks::{Layer, LayerSet};
use pv_judge::{Judge, LocalJudge, TraitSpec};
use pv_model::chat::SystemText;
use pv_model::{CausalLm, GenerateOptions, Message, RenderOptions};
use pv_organism::{Trait, model_folder};
use pv_steer::monitor::{Calibrator, MeasureOptions, Measurement, MonitoredPrompt, Watch};
use pv_steer::sweep::{Sweep, SweepOptions};
use pv_train::measure::evaluate::{EvaluateOptions, Evaluation};
use pv_vectors::rollout::{Plan, RolloutRun};
use pv_vectors::{Contrast, PersonaVector, RolloutOptions, UnitDirection};
use tempfile::TempDir;

/// A template that begins an empty thought when thinking is disabled, and refuses system messages.
const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system role') }}{% endif %}\
    {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}\
    {% if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}{% endif %}";

/// The organism with that template.
fn model() -> (TempDir, CausalLm) {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(model_folder()).expect("the organism") {
        let path = entry.expect("a file").path();
        std::fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    std::fs::write(folder.path().join("chat_template.jinja"), TEMPLATE).expect("a writable folder");
    let device = pv_model::device("flex").expect("the CPU");
    let model =
        CausalLm::from_folder(folder.path(), &device, pv_model::device::default_dtype(&device)).expect("a model");
    (folder, model)
}

fn render() -> RenderOptions {
    let mut options = RenderOptions { system: SystemText::FirstUserTurn, ..RenderOptions::default() };
    options.variables.insert("enable_thinking".to_owned(), false.into());
    options
}

/// Whether a prompt was rendered with the options.
fn is_rendered(text: &str) -> bool {
    text.ends_with("assistant\n<think></think>") && !text.contains("system\n")
}

fn small() -> TraitSpec {
    let mut spec = spec(Trait::Optimism).expect("the organism's trait");
    spec.instruction.truncate(1);
    spec.extraction.truncate(2);
    spec.evaluation.truncate(2);
    spec
}

fn generate() -> GenerateOptions {
    GenerateOptions { max_new_tokens: 6, ..GenerateOptions::default() }
}

/// A vector extracted with the options.
fn extracted(model: &CausalLm) -> PersonaVector {
    let contrast = Contrast { render: render(), ..Contrast::of(&small()).expect("prompts") };
    contrast.extract(model, &generate(), 0, |_| ControlFlow::Continue(())).expect("an extraction").vector
}

#[test]
fn rollouts_are_rendered_with_the_options_of_their_plan() {
    let (_folder, model) = model();
    let options = |render| RolloutOptions { per_prompt: 1, max_new_tokens: 6, render, ..RolloutOptions::default() };
    let plan = |render| Plan::new(&small(), options(render)).expect("a plan");
    let folder = tempfile::tempdir().expect("a folder");
    let mut refused =
        RolloutRun::open(folder.path().join("refused"), &model, plan(RenderOptions::default())).expect("a run");
    let error = refused.generate(&model, |_| ControlFlow::Continue(())).expect_err("a refusal");
    assert!(error.to_string().contains("first_user_turn"), "{error}");
    let header = std::fs::read_to_string(folder.path().join("refused/run.json")).expect("a header");
    assert!(!header.contains("render"), "folders of earlier versions are those of default options: {header}");

    let path = folder.path().join("run");
    let mut run = RolloutRun::open(&path, &model, plan(render())).expect("a run");
    run.generate(&model, |_| ControlFlow::Continue(())).expect("rollouts");
    assert!(run.records().len() == 4 && run.records().iter().all(|record| is_rendered(&record.prompt)));
    drop(run);
    // The generation prompt is not part of a plan.
    drop(RolloutRun::open(&path, &model, plan(render().as_prompt())).expect("the same run"));
    let other = RenderOptions { system: SystemText::AsMessage, ..render() };
    let error = RolloutRun::open(&path, &model, plan(other)).expect_err("another run");
    assert!(error.to_string().contains("plan.options.render.system"), "{error}");
    assert_eq!(RolloutRun::load(&path).expect("a run").plan().options().render, render());
}

#[test]
fn a_vector_stores_its_render_options() {
    let (_folder, model) = model();
    let contrast = Contrast::of(&small()).expect("prompts");
    let error = contrast.extract(&model, &generate(), 0, |_| ControlFlow::Continue(())).expect_err("a refusal");
    assert!(error.to_string().contains("first_user_turn"), "{error}");
    let saved = serde_json::to_value(&contrast).expect("JSON");
    assert!(saved.get("render").is_none(), "{saved}");
    assert_eq!(serde_json::from_value::<Contrast>(saved).expect("a contrast"), contrast);

    let vector = extracted(&model);
    assert_eq!(vector.provenance().render, render());
    let file = tempfile::tempdir().expect("a folder");
    let path = file.path().join("v.safetensors");
    vector.save(&path).expect("a file");
    assert_eq!(PersonaVector::load(&path).expect("a vector").provenance().render, render());
}

#[test]
fn sweeps_evaluations_and_measurements_use_the_render_options() {
    let (_folder, model) = model();
    let (vector, spec) = (extracted(&model), small());
    let system = Some("Be cheerful.".to_owned());
    let text = |ids: &[u32]| model.tokenizer().expect("one").decode(ids, false).expect("a text");

    let layers: LayerSet = [Layer::hidden_state(4)].into_iter().collect();
    let sweep =
        |render| SweepOptions { layers: layers.clone(), system: system.clone(), render, ..SweepOptions::default() };
    assert!(Sweep::new(&model, &vector, &spec, &ExactJudge, &sweep(RenderOptions::default())).is_err());
    let swept = Sweep::new(&model, &vector, &spec, &ExactJudge, &sweep(render())).expect("a sweep");
    assert_eq!(swept.plan().render, render());
    let saved = serde_json::to_value(swept.plan()).expect("JSON");
    assert_eq!(saved["render"]["variables"]["enable_thinking"], false, "{saved}");

    let evaluate = |render| EvaluateOptions { system: system.clone(), render, ..EvaluateOptions::default() };
    let specs = std::slice::from_ref(&spec);
    assert!(Evaluation::new(&model, specs, &ExactJudge, &evaluate(RenderOptions::default())).is_err());
    let evaluation = Evaluation::new(&model, specs, &ExactJudge, &evaluate(render())).expect("an evaluation");
    let prompts = evaluation.prompts(&spec.name).expect("prompts");
    assert!(prompts.iter().all(|prompt| is_rendered(&text(prompt))), "{}", text(&prompts[0]));

    let unit = UnitDirection::new(Layer::hidden_state(4), &vec![1.0; model.shape().d_model]).expect("a direction");
    let watches = [Watch::new(spec.name.clone(), unit)];
    let messages = vec![Message::system("Be cheerful."), Message::user("Why?")];
    let prompt = MonitoredPrompt {
        id: "a".to_owned(),
        condition: "b".to_owned(),
        messages: messages.clone(),
        question: "Why?".to_owned(),
    };
    let rubrics = [spec.rubric().expect("a rubric")];
    let study = |render| {
        let options = MeasureOptions { rollouts: 1, seed: 0, generate: generate(), render };
        let prompts = std::slice::from_ref(&prompt);
        let folder = tempfile::tempdir().expect("a folder");
        Measurement::new(&model, &watches, prompts, &rubrics, &ExactJudge, &options)?
            .run(folder.path(), |_| ControlFlow::Continue(()))
    };
    assert!(study(RenderOptions::default()).is_err());
    assert_eq!(study(render()).expect("a study").render, render());

    let calibrated =
        Calibrator::new(&watches).expect("watches").with_render(&render()).finish(&model.identity().expect("weights"));
    assert_eq!(calibrated.render(), &render());
    calibrated.check_render(&render().as_prompt()).expect("the same prompts");
    assert!(calibrated.check_render(&RenderOptions::default()).is_err());
    assert_eq!(
        text(&model.prompt_with(&messages, &render()).expect("a prompt")),
        text(&model.prompt_with(&messages, &render().as_prompt()).expect("a prompt"))
    );
}

#[test]
fn a_local_judge_with_other_options_has_another_name() {
    let (_folder, model) = model();
    let plain = LocalJudge::new(&model).expect("a judge");
    assert!(plain.name().ends_with(", read locally"), "{}", plain.name());
    let other = LocalJudge::rendered(&model, &render()).expect("a judge");
    assert!(other.name().contains("enable_thinking"), "{}", other.name());
}

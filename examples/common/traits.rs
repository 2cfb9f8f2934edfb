//! What `--trait NAME` means, in every program.

use std::path::Path;

use pv_judge::{Polarity, TraitSpec};
use pv_model::RenderOptions;
use pv_organism::{Trait, system};
use pv_vectors::{Contrast, InstructionPair};

use crate::{ModelArgs, Result, organism};

/// A trait that small models show plainly; it comes with the examples, and has no rubric.
const POETIC: (&str, &str) = ("poetic", include_str!("../traits/poetic.json"));

/// Which trait.
#[derive(clap::Args, Clone, Debug)]
pub struct TraitArgs {
    /// The trait: a JSON file, or a name. For the organism evil, sycophancy, hallucination, impoliteness and optimism are
    /// its own; the names that are built in for all models are those, humor, apathy and poetic. A file holds `instruction`
    /// (pairs of `pos` and `neg`), `questions` and, for what is judged, `eval_prompt`. The default is optimism for the
    /// organism, and poetic, which small models show plainly, for others.
    #[arg(long = "trait")]
    pub which: Option<String>,
}

impl TraitArgs {
    /// The trait.
    ///
    /// # Errors
    /// Those of [`NamedTrait::find`].
    pub fn read(&self, model: &ModelArgs) -> Result<NamedTrait> {
        let default = if model.is_organism() { Trait::Optimism.name() } else { POETIC.0 };
        NamedTrait::find(model, self.which.as_deref().unwrap_or(default))
    }
}

/// The trait that a name stands for.
#[derive(Clone, Debug)]
pub enum NamedTrait {
    /// One of the organism's own, on the organism.
    Organism(Trait),
    /// One with a rubric.
    Judged(TraitSpec),
    /// Instructions and questions only.
    Contrast(Contrast),
}

impl NamedTrait {
    /// The trait of a name: a JSON file's, one of the organism's own five for the organism, or one that is built in.
    ///
    /// # Errors
    /// A file that holds no trait; a name that nothing is called by, with those that are known.
    pub fn find(model: &ModelArgs, name: &str) -> Result<Self> {
        let path = Path::new(name);
        if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json")) || path.is_file() {
            return Self::load(path);
        }
        if let (true, Some(which)) = (model.is_organism(), Trait::ALL.into_iter().find(|which| which.name() == name)) {
            return Ok(Self::Organism(which));
        }
        if TraitSpec::BUILTIN.contains(&name) {
            return Ok(Self::Judged(TraitSpec::builtin(name)?));
        }
        if name == POETIC.0 {
            return Ok(Self::Contrast(serde_json::from_str(POETIC.1)?));
        }
        let known = TraitSpec::BUILTIN.join(", ");
        Err(format!("there is no trait {name:?}; known are {known}, {}, and JSON files by their path", POETIC.0).into())
    }

    /// The trait of a file.
    fn load(path: &Path) -> Result<Self> {
        let wrong =
            |error: &dyn std::fmt::Display| format!("{}: it is not the JSON of a trait: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        if json.get("eval_prompt").is_some() {
            return Ok(Self::Judged(TraitSpec::load(path)?));
        }
        let mut json = json;
        if let (Some(object), Some(stem)) = (json.as_object_mut(), path.file_stem()) {
            object.entry("name").or_insert_with(|| stem.to_string_lossy().into());
        }
        Ok(Self::Contrast(serde_json::from_value(json).map_err(|error| wrong(&error))?))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Organism(which) => which.name(),
            Self::Judged(spec) => &spec.name,
            Self::Contrast(contrast) => &contrast.name,
        }
    }

    /// What its vector is extracted from in short, without a judge, from prompts that are rendered in this way.
    pub fn contrast(&self, render: &RenderOptions) -> Contrast {
        let contrast = match self {
            Self::Organism(which) => organism::contrast(*which),
            Self::Judged(spec) => contrast_of(spec),
            Self::Contrast(contrast) => contrast.clone(),
        };
        Contrast { render: render.closed(), ..contrast }
    }

    /// With rubric and questions for evaluation, as what is judged needs them.
    ///
    /// # Errors
    /// A trait without rubric.
    pub fn spec(self) -> Result<TraitSpec> {
        match self {
            Self::Organism(which) => organism::spec(which),
            Self::Judged(spec) => Ok(spec),
            Self::Contrast(contrast) => Err(format!(
                "the trait {:?} cannot be judged: it has no rubric; a file with one holds `eval_prompt` (with {{question}} \
                 and {{answer}}) and 40 questions, the last 20 of them for evaluation",
                contrast.name
            )
            .into()),
        }
    }

    /// The organism's trait, if it is one.
    pub fn organisms(&self) -> Option<Trait> {
        match self {
            Self::Organism(which) => Some(*which),
            Self::Judged(_) | Self::Contrast(_) => None,
        }
    }

    /// A system prompt that elicits it: of the organism's graded ones the strongest.
    pub fn eliciting(&self) -> Option<String> {
        match self.organisms() {
            Some(which) => system::graded(which).last().map(|(_, text)| text.clone()),
            None => self.contrast(&RenderOptions::default()).instruction.first().map(|pair| pair.pos.clone()),
        }
    }
}

/// A trait with a rubric, by name.
///
/// # Errors
/// Those of [`NamedTrait::find`] and [`NamedTrait::spec`].
pub fn named_spec(model: &ModelArgs, name: &str) -> Result<TraitSpec> {
    NamedTrait::find(model, name)?.spec()
}

/// The organism's traits of these names; all of them where there is no name.
///
/// # Errors
/// A name that none of them has.
pub fn organisms_own(names: &[String]) -> Result<Vec<Trait>> {
    let known = || Trait::ALL.map(Trait::name).join(", ");
    let find = |name: &String| {
        let found = Trait::ALL.into_iter().find(|which| which.name() == name);
        found.ok_or_else(|| format!("the organism has no trait {name:?}; it has {}", known()).into())
    };
    if names.is_empty() { Ok(Trait::ALL.to_vec()) } else { names.iter().map(find).collect() }
}

/// A trait's vector in short: its system prompts on its extraction questions, without a judge.
pub fn contrast_of(spec: &TraitSpec) -> Contrast {
    let prompt = |pair, polarity| spec.system_prompt(pair, polarity);
    let pairs = (0..spec.instruction.len()).filter_map(|pair| {
        Some(InstructionPair { pos: prompt(pair, Polarity::Pos)?, neg: prompt(pair, Polarity::Neg)? })
    });
    Contrast {
        name: spec.name.clone(),
        instruction: pairs.collect(),
        questions: spec.extraction.clone(),
        render: RenderOptions::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_organisms_trait_on_the_organism_only() {
        let on = |name: &str| NamedTrait::find(&ModelArgs::cpu(name), "evil").expect("a trait");
        assert_eq!(on("organism").organisms(), Some(Trait::Evil));
        let other = on("models/smollm2");
        assert_eq!(other.organisms(), None);
        assert_eq!(
            other.contrast(&RenderOptions::default()),
            contrast_of(&TraitSpec::builtin("evil").expect("built in"))
        );
        // Those that the organism does not have are the built-in ones on it too, and every default is found.
        assert_eq!(NamedTrait::find(&ModelArgs::cpu("organism"), "humor").expect("built in").name(), "humor");
        for name in ["organism", "models/smollm2"] {
            let default = TraitArgs { which: None }.read(&ModelArgs::cpu(name)).expect("a default");
            assert_eq!(default.name(), if name == "organism" { "optimism" } else { "poetic" });
        }
    }

    #[test]
    fn files_may_have_a_rubric_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let spec = TraitSpec::builtin("humor").expect("built in");
        let (whole, short) = (folder.path().join("funny.json"), folder.path().join("short.json"));
        spec.save(&whole).expect("written");
        let found = NamedTrait::find(&ModelArgs::cpu("organism"), whole.to_str().expect("a name")).expect("a trait");
        assert_eq!(found.spec().expect("a rubric"), spec);
        std::fs::write(&short, r#"{"instruction": [{"pos": "a", "neg": "b"}], "questions": ["c"]}"#).expect("written");
        let found = NamedTrait::find(&ModelArgs::cpu("x"), short.to_str().expect("a name")).expect("a contrast");
        assert_eq!((found.name(), found.contrast(&RenderOptions::default()).questions.len()), ("short", 1));
        let error = found.spec().expect_err("no rubric").to_string();
        assert!(error.contains("eval_prompt"), "{error}");
    }

    #[test]
    fn an_unknown_name_lists_those_that_are_known() {
        for error in [
            NamedTrait::find(&ModelArgs::cpu("organism"), "evill").expect_err("unknown"),
            organisms_own(&["evill".to_owned()]).expect_err("unknown"),
        ] {
            let text = error.to_string();
            assert!(text.contains("\"evill\"") && text.contains("sycophancy"), "{text}");
        }
    }
}

//! Resolves `--trait NAME` for every command.

use std::path::Path;

use pv_judge::TraitSpec;
use pv_judge::traits::Polarity;
use pv_model::RenderOptions;
use pv_organism::{Trait, system};
use pv_vectors::Contrast;

use crate::{ModelArgs, Result, organism};

/// A trait that small models show clearly; it has no rubric.
pub(crate) const POETIC: (&str, &str) = ("poetic", include_str!("../traits/poetic.json"));

/// The trait.
#[derive(clap::Args, Clone, Debug)]
pub struct TraitArgs {
    /// The trait: a JSON file or a name. The organism has its own evil, sycophancy, hallucination, impoliteness and
    /// optimism. Built in for all models are these, humor, apathy and poetic. A file contains `instruction` (pairs of
    /// `pos` and `neg`), `questions` and, for judging, `eval_prompt`. The default is optimism for the organism and, for
    /// other models, poetic, which small models show clearly.
    #[arg(long = "trait", value_name = "TRAIT")]
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

/// The trait that a name refers to.
#[derive(Clone, Debug)]
pub enum NamedTrait {
    /// One of the organism's own traits, on the organism.
    Organism(Trait),
    /// A trait with a rubric.
    Judged(TraitSpec),
    /// Instructions and questions only.
    Contrast(Contrast),
}

impl NamedTrait {
    /// Finds a trait by name: a JSON file, one of the organism's own five (for the organism), or a built-in trait.
    ///
    /// # Errors
    /// A file that holds no trait; an unknown name, with the names that are known.
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
        Err(format!(
            "unknown trait {name:?}; known traits are {known} and {}; a trait file is given by its path",
            POETIC.0
        )
        .into())
    }

    /// Loads a trait from a file.
    fn load(path: &Path) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: not a trait in JSON: {error}", path.display());
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

    /// The prompts for extracting its vector without a judge, rendered with these options.
    ///
    /// # Errors
    /// Those of [`Contrast::of`].
    pub fn contrast(&self, render: &RenderOptions) -> Result<Contrast> {
        let contrast = match self {
            Self::Organism(which) => organism::contrast(*which),
            Self::Judged(spec) => Contrast::of(spec)?,
            Self::Contrast(contrast) => contrast.clone(),
        };
        Ok(Contrast { render: render.closed(), ..contrast })
    }

    /// The trait with rubric and evaluation questions, as judging requires.
    ///
    /// # Errors
    /// A trait without a rubric.
    pub fn spec(self) -> Result<TraitSpec> {
        match self {
            Self::Organism(which) => organism::spec(which),
            Self::Judged(spec) => Ok(spec),
            Self::Contrast(contrast) => Err(format!(
                "the trait {:?} cannot be judged: it has no rubric; a trait file with a rubric has `eval_prompt` (with {{question}} \
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

    /// A system prompt that elicits it: for the organism's traits, the strongest graded one.
    pub fn eliciting(&self) -> Option<String> {
        match self {
            Self::Organism(which) => system::graded(*which).last().map(|(_, text)| text.clone()),
            Self::Judged(spec) => spec.system_prompt(0, Polarity::Pos),
            Self::Contrast(contrast) => contrast.instruction.first().map(|pair| pair.pos.clone()),
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

/// The organism's traits with these names; all of them if no name is given.
///
/// # Errors
/// An unknown name.
pub fn organisms_own(names: &[String]) -> Result<Vec<Trait>> {
    let known = || Trait::ALL.map(Trait::name).join(", ");
    let find = |name: &String| {
        let found = Trait::ALL.into_iter().find(|which| which.name() == name);
        found.ok_or_else(|| format!("the organism has no trait {name:?}; it has {}", known()).into())
    };
    if names.is_empty() { Ok(Trait::ALL.to_vec()) } else { names.iter().map(find).collect() }
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
            other.contrast(&RenderOptions::default()).expect("prompts"),
            Contrast::of(&TraitSpec::builtin("evil").expect("built in")).expect("prompts")
        );
        // For traits that the organism does not have, it uses the built-in ones, and every default is found.
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
        let contrast = found.contrast(&RenderOptions::default()).expect("prompts");
        assert_eq!((found.name(), contrast.questions.len()), ("short", 1));
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

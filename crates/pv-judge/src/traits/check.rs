use super::{Polarity, TraitFault, TraitSpec};

impl TraitSpec {
    /// Checks the trait: empty texts, equal instructions in a pair, missing placeholders. Any number of pairs and
    /// questions from one on is valid.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<(), TraitFault> {
        TraitFault::in_name(&self.name)?;
        if self.instruction.is_empty() {
            return Err(TraitFault::NoInstructions);
        }
        for (pair, both) in self.instruction.iter().enumerate() {
            for (polarity, text) in [(Polarity::Pos, &both.pos), (Polarity::Neg, &both.neg)] {
                if text.trim().is_empty() {
                    return Err(TraitFault::EmptyInstruction { pair, polarity });
                }
            }
            if both.pos.trim() == both.neg.trim() {
                return Err(TraitFault::SameInstructions { pair });
            }
        }
        if self.extraction.is_empty() || self.evaluation.is_empty() {
            let found = self.extraction.len() + self.evaluation.len();
            return Err(TraitFault::Questions { found, expected: "some for extraction and some for evaluation" });
        }
        let mut questions = self.extraction.iter().chain(&self.evaluation);
        if let Some(index) = questions.position(|question| question.trim().is_empty()) {
            return Err(TraitFault::EmptyQuestion { index });
        }
        check_eval_prompt(&self.eval_prompt)
    }
}

/// Checks that a template is a valid rubric.
pub(crate) fn check_eval_prompt(template: &str) -> Result<(), TraitFault> {
    match crate::rubric::PLACEHOLDERS.into_iter().find(|placeholder| !template.contains(placeholder)) {
        Some(placeholder) => Err(TraitFault::NoPlaceholder { placeholder }),
        None => Ok(()),
    }
}

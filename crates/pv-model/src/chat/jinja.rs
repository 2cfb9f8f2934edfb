//! Jinja as Jinja2 runs it for chat templates: an immutable sandbox over Python's values.
//!
//! Existing Rust engines have their own values, so that operators, tests, filters and methods differ from Python's in
//! ways that templates depend on. This one implements Python's: a template's text is split into tokens (`lexer`), which
//! are parsed into statements (`parser`, `expressions`, `ast`), which a `machine` runs. Work, memory and stack are
//! limited.

mod arguments;
mod ast;
mod attributes;
mod evaluate;
mod expressions;
mod fault;
mod filters;
mod functions;
mod iterate;
mod json;
mod lexer;
mod loops;
mod machine;
mod macros;
mod methods;
mod numbers;
mod operators;
mod parser;
mod predicates;
mod print;
mod printf;
mod reads;
mod str_format;
mod text;
mod value;

use std::ops::Range;

use jiff::civil::DateTime;

pub(super) use fault::{Fault, Kind};
pub(super) use lexer::SyntaxError;
pub(super) use value::Value;

/// The message for `strftime_now` without a clock.
const NO_CLOCK: &str = "'strftime_now' is undefined";

/// A parsed template.
#[derive(Debug)]
pub(super) struct Template(Vec<ast::Statement>);

/// The output of a template: the text, and the ranges that its `generation` blocks wrote.
pub(super) type Written = (String, Vec<Range<usize>>);

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The message and the line.
    pub(super) fn parse(source: &str) -> Result<Self, SyntaxError> {
        parser::parse(source).map(Self)
    }

    /// Runs the template with these variables and a limit on work: one unit per instruction, and one per 64 bytes.
    ///
    /// # Errors
    /// The fault.
    pub(super) fn run(
        &self,
        variables: impl IntoIterator<Item = (String, Value)>,
        now: Option<DateTime>,
        fuel: u64,
    ) -> Result<Written, Fault> {
        machine::Machine::new(variables, now, fuel).run(&self.0)
    }
}

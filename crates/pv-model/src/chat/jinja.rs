//! Jinja as Jinja2 runs it for chat templates: an immutable sandbox over Python's values.
//!
//! Engines for Rust have values of their own, so that operators, tests, filters and methods differ from Python's in ways
//! that templates rely on. This one has Python's: a template's text becomes tokens (`lexer`), these become statements
//! (`parser`, `expressions`, `ast`), and a `machine` runs them. It takes a bounded amount of work, memory and stack.

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
pub(super) use value::Value;

/// What using `strftime_now` says where there is no clock.
const NO_CLOCK: &str = "'strftime_now' is undefined";

/// A template, ready to run.
#[derive(Debug)]
pub(super) struct Template(Vec<ast::Statement>);

/// What a template wrote: the text, and the ranges that its `generation` blocks wrote.
pub(super) type Written = (String, Vec<Range<usize>>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub(super) fn parse(source: &str) -> Result<Self, String> {
        let parsed = parser::parse(source);
        parsed.map(Self).map_err(|error| format!("{} (line {})", error.reason, error.line))
    }

    /// Runs it with these variables, doing at most so much work: one unit an instruction, and one for 64 bytes.
    ///
    /// # Errors
    /// What went wrong.
    pub(super) fn run(
        &self,
        variables: impl IntoIterator<Item = (String, Value)>,
        now: Option<DateTime>,
        fuel: u64,
    ) -> Result<Written, Fault> {
        machine::Machine::new(variables, now, fuel).run(&self.0)
    }
}

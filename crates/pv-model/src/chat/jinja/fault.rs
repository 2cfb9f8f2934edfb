//! Errors of a running template.

/// The result of a step.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// An error of a running template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::chat) struct Fault {
    pub(in crate::chat) kind: Kind,
    pub(in crate::chat) message: String,
    /// The line of the innermost statement, from 1; 0 if it is not known yet.
    pub(in crate::chat) line: usize,
}

/// The Python exception that an error corresponds to, as far as filters and the renderer distinguish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chat) enum Kind {
    Type,
    Value,
    Overflow,
    Undefined,
    Other,
    /// The template called `raise_exception`.
    Raised,
    /// The template needs the date.
    Clock,
    /// The template exceeded the limit named in the message.
    Runaway,
}

impl Fault {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), line: 0 }
    }

    pub(super) fn type_error(message: impl Into<String>) -> Self {
        Self::new(Kind::Type, message)
    }

    pub(super) fn value_error(message: impl Into<String>) -> Self {
        Self::new(Kind::Value, message)
    }

    pub(super) fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    pub(super) fn runaway(limit: &'static str) -> Self {
        Self::new(Kind::Runaway, limit)
    }

    /// The error of using an undefined value.
    pub(super) fn undefined(message: &str) -> Self {
        let clock = message == super::NO_CLOCK;
        Self::new(if clock { Kind::Clock } else { Kind::Undefined }, message)
    }
}

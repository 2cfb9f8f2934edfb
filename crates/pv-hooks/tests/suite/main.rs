//! The crate's properties: layers, spans, composition, and recording compared with a naive reference.

mod composition;
mod layers;
mod recorder;
mod reference;
mod schedules;
mod spans;
mod support;

//! Tests across the crates.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

mod files;
mod layering;
mod parity;
mod properties;
mod smollm2;
mod training;

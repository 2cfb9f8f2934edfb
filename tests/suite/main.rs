//! Tests across the crates.

mod layering;
mod parity;

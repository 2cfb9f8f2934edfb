//! Tests across the crates.

mod layering;
mod parity;
mod properties;
mod smollm2;

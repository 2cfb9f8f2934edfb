//! Tests that run on every backend.
#![allow(clippy::print_stdout, reason = "a test shows what it measured")]

mod hugging_face;
mod packing;

/// The allocator of the programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

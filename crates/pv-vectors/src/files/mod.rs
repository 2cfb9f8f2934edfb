//! The files that vectors are kept in.

mod safetensors;

//! Monitoring: the hook on small models, and what it foretells on the organism.

mod correlation;
mod hook;
mod interrupted;
mod organism;
mod streaming;

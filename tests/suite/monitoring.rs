//! Monitoring: the hook on small models, and its predictions on the organism.

mod correlation;
mod growing;
mod hook;
mod interrupted;
mod organism;
mod streaming;

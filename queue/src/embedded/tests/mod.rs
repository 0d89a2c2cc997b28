//! The queue as its callers see it, on a disk in memory.

mod basics;
mod canaries;
mod conformance;
mod crashes;
mod damage;
mod faults;
mod golden;
mod history;
mod hostile;
mod limits;
mod model;
mod moving;
mod operators;
mod rig;
mod simulation;
mod snapshot;
mod turns;
mod witness;

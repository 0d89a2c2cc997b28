//! The queue as its callers see it, on a disk in memory.

mod basics;
mod crashes;
mod damage;
mod golden;
mod model;
mod rig;

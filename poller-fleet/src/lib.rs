//! Takes queued events to functions, and their outcomes to destinations.
//!
//! ```text
//!   Handle::accept ─► queue ─► pollers ─► lanes ─► invoker ─► done
//!                                 ▲         │ retry in memory    └► record ─► destination
//!                                 └ budget ─┘ attempt noted
//! ```
//! Pure, each with its own tests: [`lane`] what is tried next, [`window`] how many at once, [`schedule`] when again, [`scaling`] how many
//! pollers, [`placement`] who is moved away from neighbours. Around them: [`engine`] and [`lane_task`] drive, [`invocation`] and
//! [`delivery`] do, [`supervisor`] looks after it all, [`fleet`] is what others see.
//!
//! After [`Handle::accept`] has returned, an event ends in its function, in a destination, or in the dead-letter store. Payloads are
//! in memory here and in the sealed queue, nowhere else.

#![forbid(unsafe_code)]

mod attributes;
mod backlog;
mod budget;
mod clock;
mod config;
pub mod dead_letters;
mod delivery;
mod engine;
mod envelope;
mod event;
mod fleet;
mod invocation;
mod lane;
mod lane_task;
mod leases;
mod load;
pub mod metrics;
mod persist;
mod placement;
mod places;
mod router;
mod scaling;
mod schedule;
mod signals;
mod supervisor;
mod window;

pub use budget::Amount;
pub use clock::SteadyClock;
pub use config::Config;
pub use dead_letters::DeadLetters;
pub use fleet::{AcceptEvents, AsyncInvocation, Fleet, Handle, Parts};
pub use invocation::Functions;
pub use queue::WriteError;
pub use schedule::Schedule;

//! A client of a queue on real files that is made to be killed. It uses the queue as hard as it can, and tells on its standard
//! output what it is about to ask for and what it was promised; `tests/durability` reads that, kills it, and judges.
//!
//! ```text
//!   tests/durability ◄── pipe ── tell ◄── producers · pollers ──► EmbeddedQueue ──► directory
//!         (not killed)           each call: before, and after
//! ```
//! - `storm load DIRECTORY KEYRING …` goes on until it is killed.
//! - `storm drain DIRECTORY KEYRING …` leases everything that is there, tells of it, finishes a part of it, and ends.
//!
//! It keeps nothing that a judgement needs: a line is in the pipe, or the promise was not given. What the lines say is in
//! `tests/durability/promises.py`. With `lie=…` it breaks a promise on purpose, to show that this is found.

#![forbid(unsafe_code)]

mod drain;
mod keys;
mod load;
mod random;
mod tell;
mod world;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use queue::{Config, EmbeddedQueue, SystemBootClock};
use types::SystemClock;

use crate::{
    keys::DerivedKeys,
    tell::{Lie, Tell},
    world::World,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "storm load|drain DIRECTORY KEYRING [round=N] [seed=N] [segment=BYTES] [finish=PERCENT] \
                     [lie=early-accept|early-ack]";

struct Options {
    drain: bool,
    directory: PathBuf,
    keyring: PathBuf,
    /// Makes event ids differ from those of all other runs in the directory; greater is later.
    round: u64,
    seed: u64,
    segment_bytes: u64,
    /// How much of what is drained is finished.
    finish_percent: u64,
    lie: Lie,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mode = words.next().ok_or(USAGE)?;
        let mut options = Self {
            drain: match mode.as_str() {
                "load" => false,
                "drain" => true,
                _ => return Err(USAGE.into()),
            },
            directory: words.next().ok_or(USAGE)?.into(),
            keyring: words.next().ok_or(USAGE)?.into(),
            round: 0,
            seed: 0,
            segment_bytes: 256 * 1024,
            finish_percent: 100,
            lie: Lie::None,
        };
        for word in words {
            let (name, value) = word.split_once('=').ok_or(USAGE)?;
            match name {
                "round" => options.round = value.parse()?,
                "seed" => options.seed = value.parse()?,
                "segment" => options.segment_bytes = value.parse()?,
                "finish" => options.finish_percent = value.parse()?,
                "lie" => options.lie = Lie::parse(value).ok_or(USAGE)?,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let tell = Tell::new(options.lie)?;
    let config = Config { segment_bytes: options.segment_bytes, ..Config::new(options.directory.clone()) };
    let keys = Arc::new(DerivedKeys::read(&options.keyring)?);
    let (queue, findings) =
        EmbeddedQueue::open(config, keys, Arc::new(SystemClock), Arc::new(SystemBootClock))?;
    for finding in findings {
        tell.line(format_args!("finding {finding:?}"));
    }
    tell.line(format_args!("ready"));
    keep_up(&queue)?;
    let world = World::new(queue, tell, options.round, options.seed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build()?;
    if options.drain {
        runtime.block_on(drain::drain(&world, options.finish_percent))
    } else {
        runtime.block_on(load::load(Arc::new(world)))
    }
}

/// The upkeep blocks its thread: it has one of its own, for as long as the process lives.
fn keep_up(queue: &EmbeddedQueue) -> Result<(), Failure> {
    let upkeep = queue.upkeep();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new()
        .name("upkeep".to_owned())
        .spawn(move || runtime.block_on(upkeep.run(std::future::pending())))?;
    Ok(())
}

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("storm: {error}");
            ExitCode::FAILURE
        }
    }
}

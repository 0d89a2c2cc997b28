//! How this project measures: pinned, interleaved, against a floor or a peer, written down in one JSON shape.
//!
//! ```text
//!  pinning ─► rounds: warm-up, then A B A B … ─► latency histograms ─► report: medians, ratios, met or not
//!                     │                                  ▲
//!                     ├── http + sigv4, clients ─────────┤      procfs: memory, context switches, processor time
//!                     ├── server (ours), peer, nats ─────┤
//!                     └── floor, disk_floor ─────────────┘
//! ```
//!
//! Absolute figures do not travel between machines; ratios of one run do. So both sides always run in the same process
//! tree, on the same cores, in alternation, and a report holds the median of their rounds and how far the rounds spread.
//!
//! The library speaks only the public API of what it measures and depends on nothing else of ours but `types`. One bench has the
//! queue in its own process: `bench-queue`.

#![forbid(unsafe_code)]

pub mod clients;
pub mod disk_floor;
pub mod floor;
pub mod function;
pub mod http;
pub mod kvm;
pub mod latency;
pub mod load;
pub mod machine;
pub mod microvm;
pub mod nats;
pub mod peer;
pub mod pinning;
pub mod procfs;
pub mod report;
pub mod rounds;
pub mod server;
pub mod sigv4;
pub mod svg;

//! What an environment is made of: a runtime's root, a function's code and, for microVMs, a kernel.
//!
//! ```text
//!  recipes/NAME/recipe.toml ──build──► DIR/NAME/root-<digest>/     a whole root file system, root-owned
//!                                      DIR/NAME/root-<digest>.erofs   the same as one image, for microVMs
//!                                      DIR/NAME/runtime.json       says which root is current and what is in it
//!                                             │
//!                               RuntimeCatalog::get(NAME)
//!                                             ▼
//!   environment:   /            the root, mounted read-only
//!                  /var/task    CodeTree::path(), mounted read-only
//!                  /tmp /proc /dev   mounted by the jail
//! ```
//!
//! A build happens beside what is there and is renamed when whole: `runtime.json` names an old root or a new one, never half
//! of one. The root a rebuild replaces stays until the rebuild after it, because environments may still run on it.
//!
//! A [`CodeTree`] is a function's code unpacked from its (already authenticated) squashfs image into a directory the
//! caller provides, which is to be in memory. It is gone when dropped.
//!
//! A [`GuestKernel`] is built from the distribution's source package into the same directory.
//!
//! This crate mounts nothing, knows no function and opens no seal.

#![forbid(unsafe_code)]

mod builder;
mod catalog;
mod code;
mod erofs;
mod error;
mod finish;
mod kernel;
mod lock;
mod manifest;
mod python;
mod recipe;
mod sources;
mod tools;

pub use builder::{Progress, build, check_tools};
pub use catalog::{InstalledRuntime, RuntimeCatalog};
pub use code::{CodeTree, UnpackError};
pub use error::BuildError;
pub use kernel::{GuestKernel, KernelProgress};
pub use manifest::{Manifest, Package};
pub use recipe::Recipe;

//! Logical queues inside the one log.

/// Whether events of a partition have an order. The numbers are stable: they are on disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Order {
    /// Any event may be leased before any other; each is acked on its own. Asynchronous events.
    None = 1,
    /// Events are leased in the order they were accepted, and done by a checkpoint. Lanes of a source.
    Strict = 2,
}

impl Order {
    pub(crate) const ALL: [Self; 2] = [Self::None, Self::Strict];
}

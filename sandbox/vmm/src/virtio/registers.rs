//! The register file of virtio over MMIO, version 2 (virtio 1.2, 4.2.2).
//!
//! ```text
//!  0x000 ┌───────────────────────────────┐
//!        │ control registers, 32 bits    │   read and written whole and aligned (4.2.2.2)
//!  0x100 ├───────────────────────────────┤
//!        │ configuration of the device   │   at any offset and width
//!  0x1000└───────────────────────────────┘
//! ```

use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
    },
    virtio_mmio as mmio,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

/// Size of a device's window.
pub const WINDOW: u64 = 0x1000;

/// Offset of [`Register::QueueNotify`], where doorbells are rung: the value written is the queue.
pub const QUEUE_NOTIFY: u64 = mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Where the configuration of the device begins.
pub const CONFIG: u64 = mmio::VIRTIO_MMIO_CONFIG as u64;

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface.
pub const VERSION: u32 = 2;
/// "wwhl".
pub const VENDOR: u32 = 0x6c68_7777;

/// Bits of the status register (2.1).
pub mod status {
    use super::{
        VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
        VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    };

    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
    /// The guest has a driver for it.
    pub const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
    /// The features are agreed.
    pub const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
    /// The driver is ready; the device may go.
    pub const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
    /// The device has failed.
    pub const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
    /// The driver has given up.
    pub const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
}

/// Bits of the interrupt status register.
pub mod interrupt {
    use super::mmio;

    /// A buffer was used.
    pub const RING: u32 = mmio::VIRTIO_MMIO_INT_VRING;
    /// The configuration, or the status, has changed.
    pub const CONFIG: u32 = mmio::VIRTIO_MMIO_INT_CONFIG;
}

/// Features of the transport and the rings, as bits.
pub mod features {
    use super::{VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

    /// Not the legacy interface: mandatory.
    pub const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
    /// Chains in tables of their own.
    pub const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;
    /// Notifications by index.
    pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
    /// What every device of ours offers.
    pub const COMMON: u64 = VERSION_1 | INDIRECT_DESC | EVENT_IDX;
}

/// A control register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// [`MAGIC`].
    Magic,
    /// [`VERSION`].
    Version,
    /// What the device is.
    DeviceId,
    /// [`VENDOR`].
    VendorId,
    /// A word of what the device offers.
    DeviceFeatures,
    /// Which word.
    DeviceFeaturesSelect,
    /// A word of what the driver accepts.
    DriverFeatures,
    /// Which word.
    DriverFeaturesSelect,
    /// Which queue the next ones are for.
    QueueSelect,
    /// Its largest size.
    QueueSizeMax,
    /// Its size.
    QueueSize,
    /// Whether it is set up.
    QueueReady,
    /// The doorbell.
    QueueNotify,
    /// Why there was an interrupt.
    InterruptStatus,
    /// That it was seen to.
    InterruptAck,
    /// How far the driver is.
    Status,
    /// Half of an address of the queue's.
    QueueAddress(Area, Half),
    /// Shared memory, which there is none of.
    SharedMemory,
    /// Which version of the configuration is read.
    ConfigGeneration,
}

/// A part of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Area {
    /// The descriptor table.
    Descriptors,
    /// The available ring, the driver's.
    Available,
    /// The used ring, the device's.
    Used,
}

/// A half of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

impl Half {
    /// `address` with this half replaced.
    pub fn replace(self, address: u64, value: u32) -> u64 {
        const LOW: u64 = 0xffff_ffff;
        match self {
            Self::Low => address & !LOW | u64::from(value),
            Self::High => address & LOW | u64::from(value) << 32,
        }
    }
}

impl Register {
    /// The register at an offset.
    pub fn at(offset: u64) -> Option<Self> {
        Some(match u32::try_from(offset).ok()? {
            mmio::VIRTIO_MMIO_MAGIC_VALUE => Self::Magic,
            mmio::VIRTIO_MMIO_VERSION => Self::Version,
            mmio::VIRTIO_MMIO_DEVICE_ID => Self::DeviceId,
            mmio::VIRTIO_MMIO_VENDOR_ID => Self::VendorId,
            mmio::VIRTIO_MMIO_DEVICE_FEATURES => Self::DeviceFeatures,
            mmio::VIRTIO_MMIO_DEVICE_FEATURES_SEL => Self::DeviceFeaturesSelect,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES => Self::DriverFeatures,
            mmio::VIRTIO_MMIO_DRIVER_FEATURES_SEL => Self::DriverFeaturesSelect,
            mmio::VIRTIO_MMIO_QUEUE_SEL => Self::QueueSelect,
            mmio::VIRTIO_MMIO_QUEUE_NUM_MAX => Self::QueueSizeMax,
            mmio::VIRTIO_MMIO_QUEUE_NUM => Self::QueueSize,
            mmio::VIRTIO_MMIO_QUEUE_READY => Self::QueueReady,
            mmio::VIRTIO_MMIO_QUEUE_NOTIFY => Self::QueueNotify,
            mmio::VIRTIO_MMIO_INTERRUPT_STATUS => Self::InterruptStatus,
            mmio::VIRTIO_MMIO_INTERRUPT_ACK => Self::InterruptAck,
            mmio::VIRTIO_MMIO_STATUS => Self::Status,
            mmio::VIRTIO_MMIO_QUEUE_DESC_LOW => Self::QueueAddress(Area::Descriptors, Half::Low),
            mmio::VIRTIO_MMIO_QUEUE_DESC_HIGH => Self::QueueAddress(Area::Descriptors, Half::High),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_LOW => Self::QueueAddress(Area::Available, Half::Low),
            mmio::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => Self::QueueAddress(Area::Available, Half::High),
            mmio::VIRTIO_MMIO_QUEUE_USED_LOW => Self::QueueAddress(Area::Used, Half::Low),
            mmio::VIRTIO_MMIO_QUEUE_USED_HIGH => Self::QueueAddress(Area::Used, Half::High),
            mmio::VIRTIO_MMIO_SHM_LEN_LOW
            | mmio::VIRTIO_MMIO_SHM_LEN_HIGH
            | mmio::VIRTIO_MMIO_SHM_BASE_LOW
            | mmio::VIRTIO_MMIO_SHM_BASE_HIGH => Self::SharedMemory,
            mmio::VIRTIO_MMIO_CONFIG_GENERATION => Self::ConfigGeneration,
            _ => return None,
        })
    }
}

//! A device's registers: what the driver negotiates, and when it may change what.
//!
//! ```text
//!              ACKNOWLEDGE      DRIVER         FEATURES_OK              DRIVER_OK
//!   ┌───────┐    ┌───────┐    ┌────────┐      ┌───────────┐           ┌───────────┐
//!   │ reset ├───►│ seen  ├───►│ driven ├─────►│  agreed   ├──────────►│  running  │
//!   └───▲───┘    └───────┘    └────────┘      └───────────┘           └─────┬─────┘
//!       │                     may write       may write size,               │ the driver breaks a rule,
//!       │                     features        addresses and ready           │ or the host fails
//!       │                                     of queues               ┌─────▼─────┐
//!       └────────────── status := 0, from everywhere ─────────────────┤NEEDS_RESET│
//!                                                                     └───────────┘
//! ```
//!
//! Bits are only ever added, in this order; anything else that is written to the status register is ignored, and so is every
//! write that comes in the wrong state. In particular **queues are frozen from `DRIVER_OK` on**: the rings that run are built and
//! checked once, from a copy of the registers, at that moment. All queues have to be set up by then.
//!
//! `FEATURES_OK` is refused (it reads as 0) unless the driver accepts `VERSION_1` and nothing that was not offered.
//!
//! Nothing of a device runs on a vCPU's thread: a doorbell that arrives as a register write is passed on to the device thread.

use std::io;

use virtio_queue::QueueT;
use vmm_sys_util::{
    epoll::EventSet,
    eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd},
};

use super::{
    Memory,
    device::{Device, DeviceError, Rings, Work},
    queue::{QueueError, VirtQueue},
    registers::{Area, CONFIG, Half, MAGIC, Register, VENDOR, VERSION, features, interrupt, status},
    state::{QueueState, RestoreError, STATE_VERSION, TransportState},
};

/// The steps of a driver.
const ORDER: [u32; 4] = [status::ACKNOWLEDGE, status::DRIVER, status::FEATURES_OK, status::DRIVER_OK];

/// What the registers hold.
#[derive(Debug, Clone, Copy, Default)]
struct Registers {
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    /// Without `NEEDS_RESET`.
    status: u32,
    interrupt_status: u32,
}

/// A device on the MMIO bus.
#[derive(Debug)]
pub struct Transport {
    memory: Memory,
    device: Box<dyn Device>,
    registers: Registers,
    /// The queue registers.
    queues: Vec<QueueState>,
    /// The queues, from `DRIVER_OK` on.
    running: Vec<VirtQueue>,
    doorbells: Vec<EventFd>,
    interrupt: EventFd,
    needs_reset: bool,
    failure: Option<DeviceError>,
}

// === impl Transport: for the machine ===

impl Transport {
    /// Puts a device, just reset, behind registers.
    pub fn new(memory: Memory, device: Box<dyn Device>) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let doorbells = device.queue_sizes().iter().map(|_| event()).collect::<io::Result<_>>()?;
        let queues = unset(device.as_ref());
        Ok(Self {
            memory,
            device,
            registers: Registers::default(),
            queues,
            running: Vec::new(),
            doorbells,
            interrupt: event()?,
            needs_reset: false,
            failure: None,
        })
    }

    /// One for each queue, to be rung by a write of the queue's index to [`QUEUE_NOTIFY`](super::registers::QUEUE_NOTIFY).
    pub fn doorbells(&self) -> &[EventFd] {
        &self.doorbells
    }

    /// Written to for each interrupt.
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Why the device has stopped, if it has since it was last reset.
    pub fn failure(&self) -> Option<&DeviceError> {
        self.failure.as_ref()
    }

    /// The device, for whoever has to watch its descriptors.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// The guest reads: any offset, any width.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let config = self.device.config();
            let bytes =
                usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
            data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        } else if let (Ok(word), Some(register)) = (<&mut [u8; 4]>::try_from(data), Register::at(offset)) {
            *word = self.read_register(register).to_le_bytes();
        }
    }

    /// The guest writes: any offset, any width.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        // The configuration of no device of ours is writable.
        if let (Ok(word), Some(register)) = (<[u8; 4]>::try_from(data), Register::at(offset)) {
            self.write_register(register, u32::from_le_bytes(word));
        }
    }
}

// === impl Transport: for the device thread ===

impl Transport {
    /// A doorbell has rung; it is not read, the device looks at all its queues. Whether it has found something to do.
    pub fn doorbell_rang(&mut self) -> bool {
        let before = self.completions();
        self.process();
        self.completions() != before
    }

    /// One of the device's [`sources`](Device::sources) is ready.
    pub fn source_ready(&mut self, source: usize, events: EventSet) {
        self.device.ready(source, events);
        self.process();
    }

    fn process(&mut self) {
        if !self.is_running() {
            return;
        }
        let mut rings = Rings { memory: &self.memory, queues: &mut self.running };
        match self.device.process(&mut rings) {
            Ok(Work::Done) => {}
            Ok(Work::More) => self.wake(),
            Err(error) => self.fail(error),
        }
        match self.interrupt_due() {
            Ok(true) => self.raise(interrupt::RING),
            Ok(false) => {}
            Err(error) => self.fail(error.into()),
        }
    }

    /// Of all queues. They are far fewer in one round than there are numbers.
    fn completions(&self) -> u16 {
        self.running.iter().map(VirtQueue::completions).fold(0, u16::wrapping_add)
    }

    fn is_running(&self) -> bool {
        self.registers.status & status::DRIVER_OK != 0 && !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.needs_reset || self.registers.status & status::FAILED != 0
    }

    /// If one queue has something to tell, all tell what they have.
    fn interrupt_due(&mut self) -> Result<bool, QueueError> {
        let mut wanted = false;
        if self.running.iter().any(VirtQueue::due) {
            for queue in &mut self.running {
                wanted |= queue.take_interrupt(&self.memory)?;
            }
        }
        Ok(wanted)
    }

    fn raise(&mut self, cause: u32) {
        self.registers.interrupt_status |= cause;
        // It fails when the counter is full, after 2^64 interrupts that nobody took.
        let _ = self.interrupt.write(1);
    }

    /// Has the device thread come by.
    fn wake(&self) {
        if let Some(doorbell) = self.doorbells.first() {
            // As above.
            let _ = doorbell.write(1);
        }
    }

    fn fail(&mut self, error: DeviceError) {
        self.needs_reset = true;
        self.failure.get_or_insert(error);
        // 2.1.2: the driver is told if it has said that it is there.
        if self.registers.status & status::DRIVER_OK != 0 {
            self.raise(interrupt::CONFIG);
        }
    }
}

// === impl Transport: registers ===

impl Transport {
    fn read_register(&self, register: Register) -> u32 {
        match register {
            Register::Magic => MAGIC,
            Register::Version => VERSION,
            Register::DeviceId => self.device.id(),
            Register::VendorId => VENDOR,
            Register::DeviceFeatures => match self.registers.device_features_select {
                0 => word(self.offered(), Half::Low),
                1 => word(self.offered(), Half::High),
                _ => 0,
            },
            Register::QueueSizeMax => self.selected_max().unwrap_or(0).into(),
            Register::QueueReady => self.selected().is_some_and(|queue| queue.ready).into(),
            Register::InterruptStatus => self.registers.interrupt_status,
            Register::Status if self.needs_reset => self.registers.status | status::NEEDS_RESET,
            Register::Status => self.registers.status,
            // 4.2.2.1: a region that does not exist has length and base -1.
            Register::SharedMemory => u32::MAX,
            // The configuration never changes, so its first version is the last. The others are write-only.
            _ => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32) {
        match register {
            Register::DeviceFeaturesSelect => self.registers.device_features_select = value,
            Register::DriverFeaturesSelect => self.registers.driver_features_select = value,
            Register::DriverFeatures => self.accept_features(value),
            Register::QueueSelect => self.registers.queue_select = value,
            Register::QueueSize | Register::QueueReady | Register::QueueAddress(..) => {
                self.set_up_queue(register, value);
            }
            Register::QueueNotify => {
                if let Some(doorbell) = self.doorbells.get(value as usize) {
                    // A full counter has been rung before.
                    let _ = doorbell.write(1);
                }
            }
            Register::InterruptAck => self.registers.interrupt_status &= !value,
            Register::Status => self.write_status(value),
            // The others are read-only.
            _ => {}
        }
    }

    fn offered(&self) -> u64 {
        features::COMMON | self.device.features()
    }

    fn accept_features(&mut self, value: u32) {
        if self.registers.status & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return;
        }
        let half = match self.registers.driver_features_select {
            0 => Half::Low,
            1 => Half::High,
            _ => return,
        };
        self.registers.driver_features = half.replace(self.registers.driver_features, value);
    }

    fn selected(&self) -> Option<&QueueState> {
        self.queues.get(self.registers.queue_select as usize)
    }

    fn selected_max(&self) -> Option<u16> {
        self.device.queue_sizes().get(self.registers.queue_select as usize).copied()
    }

    fn set_up_queue(&mut self, register: Register, value: u32) {
        let agreed = self.registers.status & (status::FEATURES_OK | status::DRIVER_OK) == status::FEATURES_OK;
        let select = self.registers.queue_select as usize;
        let (Some(max), Some(&queue)) = (self.selected_max(), self.queues.get(select)) else { return };
        if !agreed || self.is_stopped() || queue.ready && register != Register::QueueReady {
            return;
        }
        let mut changed = queue;
        match register {
            Register::QueueSize => match u16::try_from(value) {
                Ok(size) => changed.size = size,
                Err(_) => return,
            },
            Register::QueueAddress(area, half) => {
                let address = match area {
                    Area::Descriptors => &mut changed.descriptors,
                    Area::Available => &mut changed.available,
                    Area::Used => &mut changed.used,
                };
                *address = half.replace(*address, value);
            }
            // A queue that cannot be does not become ready, which the driver sees when it reads back.
            Register::QueueReady => {
                changed.ready = value == 1;
                changed.ready &= self.build(&changed, max).is_some();
            }
            _ => return,
        }
        if let Some(queue) = self.queues.get_mut(select) {
            *queue = changed;
        }
    }

    /// The queue that registers describe, if it is whole and in memory.
    fn build(&self, queue: &QueueState, max: u16) -> Option<VirtQueue> {
        let has = |feature| self.registers.driver_features & feature != 0;
        let rings = queue.rings(max, has(features::EVENT_IDX))?;
        rings.is_valid(&self.memory).then(|| VirtQueue::new(rings, has(features::INDIRECT_DESC)))
    }

    fn build_all(&self) -> Option<Vec<VirtQueue>> {
        let queues = self.queues.iter().zip(self.device.queue_sizes());
        queues.map(|(queue, max)| self.build(queue, *max)).collect()
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let current = self.registers.status;
        if current & !value != 0 || current & status::FAILED != 0 {
            return;
        }
        let mut before = 0;
        for bit in ORDER {
            if value & bit != 0 && self.registers.status == before {
                self.advance(bit);
            }
            before |= bit;
        }
        self.registers.status |= value & status::FAILED;
    }

    /// The driver is a step further.
    fn advance(&mut self, bit: u32) {
        let accepted = self.registers.driver_features;
        match bit {
            status::FEATURES_OK if accepted & features::VERSION_1 == 0 || accepted & !self.offered() != 0 => {
                return;
            }
            status::DRIVER_OK if self.is_stopped() => return,
            _ => self.registers.status |= bit,
        }
        if bit == status::DRIVER_OK {
            match self.build_all() {
                Some(queues) => {
                    self.running = queues;
                    self.wake();
                }
                None => self.fail(DeviceError::Malformed("started with a queue that is not ready")),
            }
        }
    }

    fn reset(&mut self) {
        self.registers = Registers::default();
        self.queues = unset(self.device.as_ref());
        self.running.clear();
        self.needs_reset = false;
        self.failure = None;
        self.device.reset();
    }
}

// === impl Transport: saving ===

impl Transport {
    /// The state of transport, queues and device. The device thread is paused and no vCPU runs.
    pub fn save(&self) -> TransportState {
        let running = self.running.iter().map(VirtQueue::save);
        TransportState {
            version: STATE_VERSION,
            driver_features: self.registers.driver_features,
            device_features_select: self.registers.device_features_select,
            driver_features_select: self.registers.driver_features_select,
            queue_select: self.registers.queue_select,
            status: self.registers.status,
            needs_reset: self.needs_reset,
            interrupt_status: self.registers.interrupt_status,
            queues: if self.running.is_empty() { self.queues.clone() } else { running.collect() },
            device: self.device.save(),
        }
    }

    /// Goes on from a state, over memory with the same contents. The device was just made. After an error the transport is not to be used.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), RestoreError> {
        if state.version != STATE_VERSION {
            return Err(RestoreError::Version(state.version));
        }
        if state.queues.len() != self.queues.len() {
            return Err(RestoreError::Device("another number of queues"));
        }
        if state.driver_features & !self.offered() != 0 && state.status & status::FEATURES_OK != 0 {
            return Err(RestoreError::Device("features that are not offered"));
        }
        let mut reachable = ORDER.iter().scan(0, |status, bit| {
            *status |= bit;
            Some(*status)
        });
        let progress = state.status & !status::FAILED;
        if progress != 0 && !reachable.any(|status| status == progress) {
            return Err(RestoreError::Impossible("a status that is never reached"));
        }
        self.registers = Registers {
            driver_features: state.driver_features,
            device_features_select: state.device_features_select,
            driver_features_select: state.driver_features_select,
            queue_select: state.queue_select,
            status: state.status,
            interrupt_status: state.interrupt_status,
        };
        self.needs_reset = state.needs_reset;
        self.queues.clone_from(&state.queues);
        self.device.restore(&state.device)?;
        if self.is_running() {
            self.running =
                self.build_all().ok_or(RestoreError::Impossible("a queue that runs and is not whole"))?;
            // Whatever the driver was still to hear, it hears now; and doorbells may have rung unheard.
            self.raise(interrupt::RING);
            self.wake();
        }
        Ok(())
    }
}

/// The queue registers after a reset.
fn unset(device: &dyn Device) -> Vec<QueueState> {
    device.queue_sizes().iter().map(|&size| QueueState { size, ..QueueState::default() }).collect()
}

fn word(features: u64, half: Half) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    u32::from_le_bytes(match half {
        Half::Low => [a, b, c, d],
        Half::High => [e, f, g, h],
    })
}

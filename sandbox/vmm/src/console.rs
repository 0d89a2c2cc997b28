//! The serial console: an 8250 whose output is kept as the last few lines.
//!
//! ```text
//!  guest ── port 0x3F8 ──► 8250 ──► line so far ── '\n' ──► the last lines ──► Ending, when the machine ends
//!                                                    ├─────► the panic's message, if the line is one
//!                                                    └─────► stderr, only with `debug_console` ([`DebugLog`])
//! ```
//!
//! Each character is an exit, so a guest does not use it in everyday life: the kernel's log level lets only a panic through.
//! Then the kernel speaks, and the monitor learns why it died.
//!
//! Everything here has a bound, whatever a guest sends: line length, number of lines, bytes to stderr. What a guest prints is
//! the customer's; it goes to the server's operator only as the reason of a machine that broke.

mod debug_log;

use std::{
    collections::VecDeque,
    io::{self, Write},
};

use serde::{Deserialize, Serialize};
use vm_superio::{
    Serial, Trigger,
    serial::{NoEvents, SerialState},
};
use vmm_sys_util::eventfd::EventFd;

pub use self::debug_log::DebugLog;

/// First port of the first serial port of a PC.
pub const PORT: u16 = 0x3F8;
/// Registers of an 8250.
pub const PORTS: u16 = 8;

const LINES: usize = 64;
const LINE_BYTES: usize = 256;

/// What the kernel's `panic()` prints in front of the reason.
const PANIC: &str = "Kernel panic - not syncing: ";

/// The serial port and what was sent to it.
#[derive(Debug)]
pub struct Console {
    serial: Serial<Interrupt, NoEvents, Lines>,
}

impl Console {
    /// `interrupt` is told when the port wants attention; lines go to `log` too.
    #[must_use]
    pub fn new(interrupt: EventFd, log: Option<DebugLog>) -> Self {
        Self { serial: Serial::new(Interrupt(interrupt), Lines::new(log)) }
    }

    /// A port that goes on as `state` says, with no lines yet. `None`: no port can be like that.
    #[must_use]
    pub fn restore(state: &ConsoleState, interrupt: EventFd, log: Option<DebugLog>) -> Option<Self> {
        let lines = Lines::new(log);
        let serial = Serial::from_state(&state.clone().into(), Interrupt(interrupt), NoEvents, lines);
        serial.ok().map(|serial| Self { serial })
    }

    /// The port's registers. A driver that waits for an interrupt to send more would wait for ever without them.
    #[must_use]
    pub fn save(&self) -> ConsoleState {
        self.serial.state().into()
    }

    /// A guest's write to register `register`.
    pub fn write(&mut self, register: u8, value: u8) {
        // Fails if the interrupt cannot be signalled; a console without interrupts still keeps the lines.
        let _ = self.serial.write(register, value);
    }

    /// A guest's read of register `register`.
    pub fn read(&mut self, register: u8) -> u8 {
        self.serial.read(register)
    }

    pub fn interrupt(&self) -> &EventFd {
        &self.serial.interrupt_evt().0
    }

    /// The last lines, oldest first.
    #[must_use]
    pub fn last_lines(&self) -> Vec<String> {
        let lines = self.serial.writer();
        let unfinished = Some(&lines.current).filter(|line| !line.is_empty());
        lines.last.iter().chain(unfinished).map(|line| printable(line)).collect()
    }

    /// The guest says nothing more: what it has said is written, as far as somebody reads it.
    pub fn finish(&self) {
        if let Some(log) = &self.serial.writer().log {
            log.finish();
        }
    }

    /// What the kernel said when it panicked.
    #[must_use]
    pub fn panic_message(&self) -> Option<&str> {
        self.serial.writer().panic.as_deref()
    }
}

/// Registers of an 8250.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleState {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    received: Vec<u8>,
}

impl From<SerialState> for ConsoleState {
    fn from(state: SerialState) -> Self {
        Self {
            baud_divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

impl From<ConsoleState> for SerialState {
    fn from(state: ConsoleState) -> Self {
        let [baud_divisor_low, baud_divisor_high] = state.baud_divisor;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.received,
        }
    }
}

struct Interrupt(EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct Lines {
    last: VecDeque<Vec<u8>>,
    current: Vec<u8>,
    panic: Option<String>,
    log: Option<DebugLog>,
}

impl Lines {
    fn new(log: Option<DebugLog>) -> Self {
        Self { last: VecDeque::with_capacity(LINES), current: Vec::new(), panic: None, log }
    }

    fn push(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            b'\n' => self.end_line(),
            byte => {
                if self.current.len() == LINE_BYTES {
                    self.end_line();
                }
                self.current.push(byte);
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.current);
        if self.panic.is_none() {
            let text = printable(&line);
            self.panic = text.split_once(PANIC).map(|(_, message)| message.to_owned());
        }
        if let Some(log) = &mut self.log {
            log.say(&printable(&line));
        }
        if self.last.len() == LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|byte| self.push(*byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without anything that a terminal or a log would obey.
fn printable(line: &[u8]) -> String {
    line.iter().map(|byte| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' }).collect()
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Interrupt")
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Lines").field("lines", &self.last.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> Console {
        Console::new(EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap(), None)
    }

    fn say(console: &mut Console, text: &[u8]) {
        text.iter().for_each(|byte| console.write(0, *byte));
    }

    #[test]
    fn the_last_lines_are_kept() {
        let mut console = console();
        for number in 0..LINES + 8 {
            say(&mut console, format!("line {number}\r\n").as_bytes());
        }
        say(&mut console, b"unfinished");
        let lines = console.last_lines();
        assert_eq!(lines.len(), LINES + 1);
        assert_eq!((lines[0].as_str(), lines[LINES].as_str()), ("line 8", "unfinished"));
    }

    #[test]
    fn a_panic_is_recognised_and_the_first_counts() {
        let mut console = console();
        say(&mut console, b"[    0.5] Kernel panic - not syncing: Attempted to kill init!\n");
        say(&mut console, b"---[ end Kernel panic - not syncing: again ]---\n");
        assert_eq!(console.panic_message(), Some("Attempted to kill init!"));
    }

    #[test]
    fn lines_and_bytes_that_nobody_ends_are_bounded() {
        let mut console = console();
        for _ in 0..100_000 {
            say(&mut console, b"\x1b[2J\xff ");
        }
        let lines = console.last_lines();
        assert!(lines.len() <= LINES + 1 && lines.iter().all(|line| line.len() <= LINE_BYTES));
        assert!(lines.iter().all(|line| line.bytes().all(|byte| (b' '..=b'~').contains(&byte))));
    }

    #[test]
    fn a_port_goes_on_as_it_was_saved_and_repeats_its_interrupt() {
        const INTERRUPT_ENABLE: u8 = 1;
        const TRANSMITTER_EMPTY: u8 = 0b10;
        let mut saved = console();
        saved.write(7, 0xA5);
        saved.write(INTERRUPT_ENABLE, TRANSMITTER_EMPTY);
        let state = saved.save();
        let interrupt = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        let mut restored = Console::restore(&state, interrupt, None).unwrap();
        assert_eq!((restored.read(7), restored.read(INTERRUPT_ENABLE)), (0xA5, TRANSMITTER_EMPTY));
        assert_eq!(restored.save(), saved.save());
        restored.interrupt().read().expect("an interrupt that was pending");
        let impossible = ConsoleState { received: vec![0; 1000], ..state };
        let interrupt = EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        assert!(Console::restore(&impossible, interrupt, None).is_none());
    }

    #[test]
    fn every_register_takes_everything() {
        let mut console = console();
        for value in 0..=u8::MAX {
            for register in 0..=u8::MAX {
                console.write(register, value);
                console.read(register);
            }
        }
    }
}

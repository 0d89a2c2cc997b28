//! What the demo prints: parts with their times, and a line that follows what goes on.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// How often the line is written anew where it stays in its place, and where each is a line more.
const REWRITTEN: Duration = Duration::from_millis(500);
const REPEATED: Duration = Duration::from_secs(3);

/// A heading, what `work` prints, and how long it took.
pub(super) fn part<T>(title: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    let (bold, dim, plain) =
        if io::stdout().is_terminal() { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    println!("\n{bold}{title}{plain}");
    let done = work()?;
    println!("{dim}({:.1} s){plain}", began.elapsed().as_secs_f64());
    Ok(done)
}

/// A line that is always the latest: rewritten on a terminal, repeated elsewhere.
pub(super) struct LiveLine {
    terminal: bool,
    written: Instant,
}

impl LiveLine {
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), written: Instant::now() }
    }

    /// There is something new to follow: it is written when that has gone on for a while.
    pub(super) fn begin(&mut self) {
        self.written = Instant::now();
    }

    /// Whether it is time to write it.
    pub(super) fn is_due(&self) -> bool {
        let every = if self.terminal { REWRITTEN } else { REPEATED };
        self.written.elapsed() >= every
    }

    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        self.written = Instant::now();
        if !self.terminal {
            println!("{text}");
            return Ok(());
        }
        // Cut off where the terminal ends: a line that went on below would not be rewritten whole.
        print!("\r\x1b[2K\x1b[?7l{text}\x1b[?7h");
        io::stdout().flush()
    }

    /// What is written last stays; the next line is another one.
    pub(super) fn end(&mut self, text: &str) -> io::Result<()> {
        self.write(text)?;
        if self.terminal {
            println!();
        }
        Ok(())
    }
}

/// `12345` as `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Text of several lines as one, so that whoever reads the last line reads all of it.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0, 999, 1_000, 12_345, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn an_error_of_several_lines_becomes_one() {
        assert_eq!(one_line("\nno\n  such file \n"), "no such file");
    }
}

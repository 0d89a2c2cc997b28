//! REPORT lines, read back.

use std::fmt;

use anyhow::Context as _;

/// Times of one invocation, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Report {
    pub(super) duration: f64,
    /// Only the first invocation of an environment has one.
    pub(super) init: Option<f64>,
}

/// Times of a function, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timings {
    cold: f64,
    warm: f64,
}

/// The times in the last REPORT line of `log`.
pub(super) fn parse(log: &str) -> anyhow::Result<Report> {
    let line = log.lines().rfind(|line| line.starts_with("REPORT ")).context("the log has no REPORT line")?;
    let milliseconds = |name: &str| {
        let field = line.split('\t').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix(": "))?;
        field.strip_suffix(" ms")?.parse().ok()
    };
    let duration = milliseconds("Duration").with_context(|| format!("no duration in {line:?}"))?;
    Ok(Report { duration, init: milliseconds("Init Duration") })
}

impl Timings {
    /// Cold: init phase and first invocation together. Warm: the median of the others.
    pub(super) fn of(first: Report, mut warm: Vec<f64>) -> Self {
        warm.sort_by(f64::total_cmp);
        let median = warm.get(warm.len() / 2).copied().unwrap_or(f64::NAN);
        Self { cold: first.init.unwrap_or_default() + first.duration, warm: median }
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cold {:.1} ms, warm {:.2} ms", self.cold, self.warm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_report_line_is_read_as_lambda_writes_it() {
        let log = "START RequestId: a Version: $LATEST\nhello\nEND RequestId: a\n\
                   REPORT RequestId: a\tDuration: 1.50 ms\tBilled Duration: 102 ms\tMemory Size: 128 MB\t\
                   Max Memory Used: 30 MB\tInit Duration: 100.25 ms\t\n";
        assert_eq!(parse(log).unwrap(), Report { duration: 1.5, init: Some(100.25) });
        let warm = "REPORT RequestId: b\tDuration: 0.80 ms\tBilled Duration: 1 ms\n";
        assert_eq!(parse(warm).unwrap(), Report { duration: 0.8, init: None });
        assert!(parse("REPORT RequestId: b\tBilled Duration: 1 ms").is_err());
        assert!(parse("no such line").is_err());
    }

    #[test]
    fn cold_counts_the_init_phase_and_warm_is_the_median() {
        let timings = Timings::of(Report { duration: 2.0, init: Some(98.0) }, vec![9.0, 1.0, 1.5]);
        assert_eq!(timings.to_string(), "cold 100.0 ms, warm 1.50 ms");
    }
}

//! Turns what an environment prints into log lines, and keeps the tail of the current invocation's.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use sandbox::LogStream;
use types::{Clock, FunctionSpec, LogEvent, LogSink, RequestId, limits};

/// Longest line; a longer one is cut into several, as CloudWatch Logs does at its event size of 256 KB.
const LINE_BYTES: usize = 256 * 1024;

/// The log of one environment.
pub(crate) struct LogCapture {
    sink: Arc<dyn LogSink>,
    clock: Arc<dyn Clock>,
    function: Arc<FunctionSpec>,
    stream: String,
    /// Beginnings of lines that are not complete yet, of standard output and standard error.
    partial: [Vec<u8>; 2],
    tail: VecDeque<u8>,
}

/// What a REPORT line tells.
pub(crate) struct Report<'a> {
    pub(crate) request: RequestId,
    pub(crate) duration: Duration,
    pub(crate) init: Option<Duration>,
    pub(crate) memory_peak: u64,
    pub(crate) failure: Option<(&'a str, &'a str)>,
    pub(crate) xray: &'a str,
}

impl LogCapture {
    pub(crate) fn new(
        sink: Arc<dyn LogSink>,
        clock: Arc<dyn Clock>,
        function: Arc<FunctionSpec>,
        stream: String,
    ) -> Self {
        Self { sink, clock, function, stream, partial: [Vec::new(), Vec::new()], tail: VecDeque::new() }
    }

    /// An invocation begins: its tail is empty but for START.
    pub(crate) fn start(&mut self, request: RequestId) {
        self.tail.clear();
        self.platform(format!("START RequestId: {request} Version: {}", self.function.version));
    }

    /// Bytes the function printed.
    pub(crate) fn printed(&mut self, stream: LogStream, bytes: &[u8]) {
        let partial = match stream {
            LogStream::Stdout => &mut self.partial[0],
            LogStream::Stderr => &mut self.partial[1],
        };
        let at = self.clock.now();
        let mut events = Vec::new();
        partial.extend_from_slice(bytes);
        let mut rest = partial.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            events.extend(rest[..end].chunks(LINE_BYTES).map(|line| LogEvent { at, line: line.to_vec() }));
            if end == 0 {
                events.push(LogEvent { at, line: Vec::new() });
            }
            rest = &rest[end + 1..];
        }
        while let Some((line, more)) = rest.split_at_checked(LINE_BYTES) {
            events.push(LogEvent { at, line: line.to_vec() });
            rest = more;
        }
        let kept = rest.len();
        let consumed = partial.len() - kept;
        partial.drain(..consumed);
        self.append(events);
    }

    /// A line of the platform's own, after what the function left unfinished.
    pub(crate) fn platform(&mut self, text: String) {
        self.finish_lines();
        let at = self.clock.now();
        self.append(vec![LogEvent { at, line: text.into_bytes() }]);
    }

    /// An invocation has ended: END and REPORT.
    pub(crate) fn end(&mut self, report: &Report<'_>) {
        self.platform(format!("END RequestId: {}", report.request));
        self.platform(report_line(&self.function, report));
    }

    /// The last bytes of the current invocation's log.
    pub(crate) fn tail(&self) -> Bytes {
        self.tail.iter().copied().collect()
    }

    fn finish_lines(&mut self) {
        let at = self.clock.now();
        let unfinished = self.partial.iter_mut().filter(|partial| !partial.is_empty());
        let events: Vec<_> =
            unfinished.map(|partial| LogEvent { at, line: std::mem::take(partial) }).collect();
        self.append(events);
    }

    fn append(&mut self, events: Vec<LogEvent>) {
        if events.is_empty() {
            return;
        }
        for event in &events {
            let from = event.line.len().saturating_sub(limits::LOG_TAIL_BYTES);
            self.tail.extend(&event.line[from..]);
            self.tail.push_back(b'\n');
        }
        let surplus = self.tail.len().saturating_sub(limits::LOG_TAIL_BYTES);
        self.tail.drain(..surplus);
        self.sink.append(&self.function.arn, &self.stream, events);
    }
}

impl Drop for LogCapture {
    fn drop(&mut self) {
        self.finish_lines();
    }
}

/// `REPORT RequestId: … Duration: …`, tab separated as Lambda writes it. The init phase is billed with the first invocation.
fn report_line(function: &FunctionSpec, report: &Report<'_>) -> String {
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let billed = (millis(report.duration) + report.init.map_or(0.0, millis)).ceil();
    let mut line = format!(
        "REPORT RequestId: {}\tDuration: {:.2} ms\tBilled Duration: {billed} ms\tMemory Size: {} MB\tMax Memory Used: {} MB\t",
        report.request,
        millis(report.duration),
        function.memory.0,
        report.memory_peak.div_ceil(1024 * 1024),
    );
    if let Some(init) = report.init {
        line.push_str(&format!("Init Duration: {:.2} ms\t", millis(init)));
    }
    if let Some((status, error_type)) = report.failure {
        line.push_str(&format!("Status: {status}\t"));
        if status == "error" {
            line.push_str(&format!("Error Type: {error_type}\t"));
        }
    }
    if let Some((trace, sampled)) = sampled_trace(report.xray) {
        line.push_str(&format!("XRAY TraceId: {trace}\tSampled: {sampled}\t"));
    }
    line
}

/// The root of a sampled X-Ray header.
fn sampled_trace(xray: &str) -> Option<(&str, bool)> {
    let field = |name: &str| xray.split(';').find_map(|part| part.strip_prefix(name));
    (field("Sampled=") == Some("1")).then(|| field("Root=").map(|root| (root, true))).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use types::{DeploymentId, FunctionArn, MemorySize, RuntimeName, Version};

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl LogSink for Kept {
        fn append(&self, _: &FunctionArn, _: &str, events: Vec<LogEvent>) {
            let lines = events.into_iter().map(|event| String::from_utf8_lossy(&event.line).into_owned());
            self.0.lock().unwrap().extend(lines);
        }
    }

    struct Epoch;

    impl Clock for Epoch {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn capture() -> (LogCapture, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let function = FunctionSpec {
            arn: FunctionArn {
                region: "us-east-1".parse().unwrap(),
                account: "000000000000".parse().unwrap(),
                name: "echo".parse().unwrap(),
            },
            version: Version::Latest,
            deployment: DeploymentId::random(),
            runtime: RuntimeName::new("python3.11"),
            handler: "f.handler".into(),
            memory: MemorySize(128),
            ephemeral_storage: MemorySize(512),
            timeout: Duration::from_secs(3),
            role: "arn:aws:iam::000000000000:role/r".into(),
        };
        (LogCapture::new(kept.clone(), Arc::new(Epoch), Arc::new(function), "s".into()), kept)
    }

    #[test]
    fn lines_are_cut_at_newlines_wherever_the_pipe_cut_them() {
        let (mut capture, kept) = capture();
        for piece in ["one\ntw", "o\n", "\nthree"] {
            capture.printed(LogStream::Stdout, piece.as_bytes());
        }
        capture.printed(LogStream::Stderr, b"other\n");
        capture.platform("END".into());
        assert_eq!(*kept.0.lock().unwrap(), ["one", "two", "", "other", "three", "END"]);
    }

    #[test]
    fn a_line_without_end_is_cut_and_memory_stays_bounded() {
        let (mut capture, kept) = capture();
        for _ in 0..40 {
            capture.printed(LogStream::Stdout, &[b'x'; 64 * 1024]);
            assert!(capture.partial[0].len() < LINE_BYTES);
        }
        let kept: usize = kept.0.lock().unwrap().iter().map(String::len).sum();
        assert_eq!(kept + capture.partial[0].len(), 40 * 64 * 1024);
    }

    #[test]
    fn the_tail_holds_the_last_four_kilobytes_of_one_invocation() {
        let (mut capture, _) = capture();
        capture.start(RequestId::random());
        capture.printed(LogStream::Stdout, &[b'a'; 10_000]);
        capture.printed(LogStream::Stdout, b"\nlast\n");
        assert_eq!(capture.tail().len(), limits::LOG_TAIL_BYTES);
        assert!(capture.tail().ends_with(b"a\nlast\n"));
        capture.start(RequestId::random());
        assert!(capture.tail().starts_with(b"START RequestId: "));
    }

    #[test]
    fn a_report_reads_as_lambda_writes_it() {
        let (capture, _) = capture();
        let request = RequestId::random();
        let report = Report {
            request,
            duration: Duration::from_micros(1234),
            init: Some(Duration::from_millis(100)),
            memory_peak: 30 * 1024 * 1024,
            failure: None,
            xray: "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        };
        assert_eq!(
            report_line(&capture.function, &report),
            format!(
                "REPORT RequestId: {request}\tDuration: 1.23 ms\tBilled Duration: 102 ms\tMemory Size: 128 MB\t\
                 Max Memory Used: 30 MB\tInit Duration: 100.00 ms\t"
            )
        );
    }
}

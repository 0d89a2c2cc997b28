use std::{fs, path::Path, sync::Arc, time::Duration};

use types::{FunctionArn, Keys, LogEvent, LogSink};

use super::*;
use crate::LocalKeyring;

struct Fixture {
    directory: tempfile::TempDir,
    keyring: Arc<LocalKeyring>,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Arc::new(LocalKeyring::open_or_create(&directory.path().join("keys/keyring")).unwrap());
        Self { directory, keyring }
    }

    fn logs(&self) -> std::path::PathBuf {
        self.directory.path().join("logs")
    }

    fn keys(&self) -> Arc<dyn Keys> {
        Arc::clone(&self.keyring) as _
    }

    fn store(&self, config: impl FnOnce(&mut LogConfig)) -> LogStore {
        let mut settings = LogConfig::new(self.logs());
        config(&mut settings);
        LogStore::open(settings, self.keys()).unwrap()
    }

    fn reader(&self, name: &str) -> LogReader {
        LogReader::open(&self.logs(), self.keys(), &arn(name))
    }
}

fn arn(name: &str) -> FunctionArn {
    FunctionArn {
        region: "us-east-1".parse().unwrap(),
        account: "000000000000".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

fn lines(texts: impl IntoIterator<Item = impl ToString>) -> Vec<LogEvent> {
    let event =
        |text: &dyn ToString| LogEvent { at: Duration::from_secs(1), line: text.to_string().into_bytes() };
    texts.into_iter().map(|text| event(&text)).collect()
}

fn texts(batch: &LogBatch) -> Vec<String> {
    batch.records.iter().map(|record| String::from_utf8(record.event.line.clone()).unwrap()).collect()
}

/// Everything from a position on.
fn read_all(reader: &LogReader, mut from: LogPosition) -> LogBatch {
    let mut all: Option<LogBatch> = None;
    loop {
        let mut batch = reader.read(from).unwrap();
        from = batch.next;
        if let Some(mut before) = all.take() {
            before.records.append(&mut batch.records);
            batch = LogBatch { records: before.records, damaged: before.damaged + batch.damaged, ..batch };
        }
        if batch.at_end {
            return batch;
        }
        all = Some(batch);
    }
}

fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(fs::read(&path).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn flushed_lines_are_read_back_in_order_by_function_and_stream() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    store.append(&arn("f"), "stream-1", lines(["a", "b"]));
    store.append(&arn("g"), "stream-1", lines(["other"]));
    store.append(&arn("f"), "stream-2", lines(["c"]));
    store.flush().await.unwrap();
    let batch = read_all(&fixture.reader("f"), LogPosition::default());
    assert_eq!(texts(&batch), ["a", "b", "c"]);
    assert_eq!(
        batch.records.iter().map(|record| &*record.stream).collect::<Vec<_>>(),
        ["stream-1", "stream-1", "stream-2"]
    );
    assert_eq!(texts(&read_all(&fixture.reader("g"), LogPosition::default())), ["other"]);
    assert!(read_all(&fixture.reader("silent"), LogPosition::default()).records.is_empty());
}

#[tokio::test]
async fn nothing_that_was_printed_is_readable_on_disk() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    store.append(&arn("f"), "canary-stream", lines(["canary-line"]));
    store.flush().await.unwrap();
    let files = files(&fixture.logs());
    assert_eq!(files.len(), 2);
    for file in files {
        assert!(!file.windows(6).any(|bytes| bytes == b"canary"));
    }
}

#[tokio::test]
async fn a_follower_sees_each_line_once_across_restarts() {
    let fixture = Fixture::new();
    let mut position = LogPosition::default();
    let mut seen = Vec::new();
    for start in 0..3 {
        let store = fixture.store(|_| ());
        for line in 0..4 {
            store.append(&arn("f"), "s", lines([format!("{start}.{line}")]));
            store.flush().await.unwrap();
            let batch = read_all(&fixture.reader("f"), position);
            position = batch.next;
            seen.extend(texts(&batch));
        }
    }
    let expected: Vec<String> =
        (0..3).flat_map(|start| (0..4).map(move |line| format!("{start}.{line}"))).collect();
    assert_eq!(seen, expected);
    assert_eq!(texts(&fixture.reader("f").tail(5).unwrap()), expected[expected.len() - 5..]);
    assert_eq!(fixture.reader("f").tail(5).unwrap().next, position);
}

#[tokio::test]
async fn a_torn_tail_hides_nothing_before_it_and_nothing_after_a_restart() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    for text in ["whole", "torn"] {
        store.append(&arn("f"), "s", lines([text]));
        store.flush().await.unwrap();
    }
    drop(store);
    let path = log_path(&fixture.logs().join("f"), 0);
    let length = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 3).unwrap();
    let batch = read_all(&fixture.reader("f"), LogPosition::default());
    assert_eq!((texts(&batch), batch.damaged), (vec!["whole".to_owned()], 0));

    let store = fixture.store(|_| ());
    store.append(&arn("f"), "s", lines(["later"]));
    store.flush().await.unwrap();
    assert_eq!(texts(&read_all(&fixture.reader("f"), batch.next)), ["later"]);
}

#[tokio::test]
async fn an_altered_segment_is_reported_and_costs_only_itself() {
    let fixture = Fixture::new();
    for text in ["first", "second"] {
        let store = fixture.store(|_| ());
        store.append(&arn("f"), "s", lines([text]));
        store.flush().await.unwrap();
    }
    let path = log_path(&fixture.logs().join("f"), 0);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let batch = read_all(&fixture.reader("f"), LogPosition::default());
    assert_eq!((texts(&batch), batch.damaged), (vec!["second".to_owned()], 1));
}

#[tokio::test]
async fn the_oldest_segments_go_and_their_keys_with_them() {
    let fixture = Fixture::new();
    let retention = 64 * 1024;
    let store = fixture.store(|config| config.retention_bytes = retention);
    for line in 0..400 {
        store.append(&arn("f"), "s", lines([format!("{line:01000}")]));
        store.flush().await.unwrap();
    }
    let kept: u64 = segments(&fixture.logs().join("f"))
        .unwrap()
        .iter()
        .map(|segment| fs::metadata(log_path(&fixture.logs().join("f"), *segment)).unwrap().len())
        .sum();
    // A segment may outgrow its share by the frame that ended it.
    assert!((retention / 2..=retention + 2048).contains(&kept), "{kept}");
    let batch = read_all(&fixture.reader("f"), LogPosition::default());
    assert_eq!(texts(&batch).last().unwrap(), &format!("{:01000}", 399));
    let keys = fs::read_dir(fixture.logs().join("f")).unwrap().count();
    assert_eq!(keys, 2 * segments(&fixture.logs().join("f")).unwrap().len());
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_counted_and_said() {
    let fixture = Fixture::new();
    let store = fixture.store(|config| config.buffer_bytes = 300);
    store.append(&arn("f"), "s", lines((0..10).map(|line| format!("{line:0100}"))));
    store.flush().await.unwrap();
    let batch = read_all(&fixture.reader("f"), LogPosition::default());
    let texts = texts(&batch);
    assert_eq!(texts.len(), 3, "two lines and the notice");
    assert!(texts[2].contains("8 log lines were dropped"), "{}", texts[2]);
}

#[tokio::test]
async fn lines_are_written_without_anybody_asking() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    store.append(&arn("f"), "s", lines(["by itself"]));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while read_all(&fixture.reader("f"), LogPosition::default()).records.is_empty() {
        assert!(std::time::Instant::now() < deadline, "not written");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn lines_that_wait_at_the_end_are_written() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    store.append(&arn("f"), "s", lines(["last words"]));
    drop(store);
    assert_eq!(texts(&read_all(&fixture.reader("f"), LogPosition::default())), ["last words"]);
}

#[tokio::test]
async fn rewrapped_logs_outlive_the_old_key_and_others_do_not() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    store.append(&arn("f"), "s", lines(["kept"]));
    store.flush().await.unwrap();
    let old = fixture.keyring.current();
    fixture.keyring.rotate().unwrap();
    assert_eq!(store.rewrap_all().await.unwrap(), 1);
    fixture.keyring.destroy(old).unwrap();
    assert_eq!(texts(&read_all(&fixture.reader("f"), LogPosition::default())), ["kept"]);

    let unwrapped = fixture.keyring.current();
    fixture.keyring.rotate().unwrap();
    fixture.keyring.destroy(unwrapped).unwrap();
    let batch = read_all(&fixture.reader("f"), LogPosition::default());
    assert_eq!((batch.records.len(), batch.damaged), (0, 1));
}

#[tokio::test]
async fn a_disk_that_refuses_is_an_error_to_who_flushes_and_not_to_who_prints() {
    let fixture = Fixture::new();
    let store = fixture.store(|_| ());
    // A file where the function's directory should be.
    fs::write(fixture.logs().join("f"), "").unwrap();
    store.append(&arn("f"), "s", lines(["lost"]));
    assert!(store.flush().await.is_err());
    fs::remove_file(fixture.logs().join("f")).unwrap();
    store.append(&arn("f"), "s", lines(["found"]));
    store.flush().await.unwrap();
    assert_eq!(texts(&read_all(&fixture.reader("f"), LogPosition::default())), ["found"]);
}

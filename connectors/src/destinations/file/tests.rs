//! Files on a real disk: what a crash, damage, a lost key or many at once leave of them.

use std::{collections::BTreeSet, os::unix::fs::FileExt, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use types::{Destination, KeyError, RequestId};

use super::{reader::find_segment, writer::faults, *};
use crate::destinations::{Config, DeliveryError, Destinations, Form, tests::keys::TestKeys};

const NAME: &str = "failed.jsonl";

struct Place {
    directory: TempDir,
    keys: Arc<TestKeys>,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), keys: Arc::new(TestKeys::new(&[1])) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    fn files(&self, sealed: bool) -> Files {
        Files::open(self.directory.path(), sealed, self.keys.clone()).unwrap()
    }

    fn writer(&self, sealed: bool) -> Writer {
        Writer::new(self.directory.path(), NAME, sealed, self.keys.clone())
    }

    /// A file with these records, as a server that is killed then leaves it.
    fn write(&self, sealed: bool, records: &[&str]) {
        self.writer(sealed).append(records.iter().map(|record| record.as_bytes())).unwrap();
    }

    /// Records as text; what cannot be read as `damaged at N`.
    fn read(&self) -> Vec<String> {
        let records = read(&self.path(), NAME, self.keys.clone()).unwrap();
        let text = |record| match record {
            Ok(record) => String::from_utf8(record).unwrap(),
            Err(ReadError::Damaged { at, .. }) => format!("damaged at {at}"),
            Err(ReadError::Unfinished { at, .. }) => format!("unfinished at {at}"),
            Err(error) => error.to_string(),
        };
        records.map(text).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }
}

fn delivery(body: &str) -> Delivery {
    Delivery {
        request_id: RequestId::random(),
        function_arn: "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST".to_owned(),
        at: Duration::from_secs(1),
        form: Form::Result { success: false },
        body: Bytes::from(body.to_owned()),
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn records_are_read_back_in_order_in_either_form_and_after_a_restart() {
    for sealed in [true, false] {
        let place = Place::new();
        for server in 0..3 {
            let files = place.files(sealed);
            for number in 0..3 {
                files.deliver(NAME, &delivery(&format!("{{\"n\":{}}}", server * 3 + number))).await.unwrap();
            }
        }
        let expected: Vec<_> = (0..9).map(|number| format!("{{\"n\":{number}}}")).collect();
        assert_eq!(place.read(), expected);
    }
}

#[tokio::test]
async fn a_sealed_file_shows_nothing_of_what_it_holds_and_a_plain_one_is_lines_of_json() {
    let canary = "CANARY-7f3a9c";
    let place = Place::new();
    place.files(true).deliver(NAME, &delivery(&format!("\"{canary}\""))).await.unwrap();
    assert!(!contains(&place.bytes(), canary));
    assert_eq!(place.read(), [format!("\"{canary}\"")]);

    let plain = Place::new();
    plain.files(false).deliver(NAME, &delivery(&format!("\"{canary}\""))).await.unwrap();
    assert_eq!(plain.bytes(), format!("\"{canary}\"\n").into_bytes());
}

#[test]
fn a_tail_cut_anywhere_hides_neither_the_records_before_nor_those_after() {
    for sealed in [true, false] {
        let place = Place::new();
        place.write(sealed, &["1", "2"]);
        let before = place.bytes().len();
        place.write(sealed, &["\"the last one\"", "\"and another\""]);
        let whole = place.bytes();
        // Everywhere in the records, and here and there in what stands before them.
        let records = whole.len().saturating_sub(60).max(before);
        for cut in (before..records).step_by(61).chain(records..whole.len()) {
            for zeros in [false, true] {
                // A power cut may leave a file that has grown without what it has grown for.
                let tail = if zeros { whole.len() - cut } else { 0 };
                fs::write(place.path(), [&whole[..cut], &vec![0; tail]].concat()).unwrap();
                place.write(sealed, &["3"]);
                let read = place.read();
                let case = format!("sealed {sealed}, cut at {cut}, zeros {zeros}: {read:?}");
                assert!(read.len() <= 5 && read[..2] == ["1", "2"] && read.last().unwrap() == "3", "{case}");
                let damaged = read.iter().filter(|text| text.starts_with("damaged")).count();
                assert!(damaged <= 1, "{case}");
            }
        }
    }
}

#[test]
fn a_record_that_is_being_written_is_not_taken_for_damage() {
    let place = Place::new();
    let mut writer = place.writer(true);
    writer.append([&b"1"[..]]).unwrap();
    let end = place.bytes().len();
    let begun = [&place.bytes()[..], &100_u32.to_be_bytes(), b"the beginning"].concat();
    fs::write(place.path(), begun).unwrap();
    assert_eq!(place.read(), ["1".to_owned(), format!("unfinished at {end}")]);
    // Its writer is dead, and nobody has written behind it.
    drop(writer);
    assert_eq!(place.read(), ["1".to_owned(), format!("damaged at {end}")]);
}

#[test]
fn files_are_listed_by_name_with_their_form() {
    let place = Place::new();
    assert_eq!(list(&place.directory.path().join("missing")).unwrap(), []);
    assert_eq!(list(place.directory.path()).unwrap(), []);
    place.write(true, &["1"]);
    fs::write(place.directory.path().join("a plain one"), "1\n").unwrap();
    fs::write(place.directory.path().join(".hidden.tmp"), "1\n").unwrap();
    fs::create_dir(place.directory.path().join("directory")).unwrap();
    let entry = |name: &str, bytes, sealed| FileEntry { name: name.to_owned(), bytes, sealed };
    let expected = [entry("a plain one", 2, false), entry(NAME, place.bytes().len() as u64, true)];
    assert_eq!(list(place.directory.path()).unwrap(), expected);
}

#[test]
fn records_are_on_the_medium_before_anybody_is_told() {
    for sealed in [true, false] {
        let place = Place::new();
        let mut writer = place.writer(sealed);
        faults::inject(None);
        writer.append([&b"1"[..], b"2"]).unwrap();
        let header = if sealed { &["write"][..] } else { &[] };
        let created = ["sync", "rename", "sync directory", "write", "write", "sync"];
        assert_eq!(faults::steps(), [header, &created].concat());
        faults::inject(None);
        writer.append([&b"3"[..], b"4", b"5"]).unwrap();
        assert_eq!(faults::steps(), ["write", "write", "write", "sync"], "one sync for all that waited");
    }
}

#[test]
fn a_fault_at_any_step_is_an_error_and_costs_no_other_record() {
    for sealed in [true, false] {
        for (exists, open) in [(false, false), (true, false), (true, true)] {
            for fault in 0.. {
                let place = Place::new();
                let mut writer = place.writer(sealed);
                faults::inject(None);
                if exists {
                    place.write(sealed, &["0"]);
                }
                if open {
                    writer.append([&b"1"[..]]).unwrap();
                }
                faults::inject(Some(fault));
                let result = writer.append([&b"\"two\""[..], b"\"three\""]);
                let done = faults::steps().len() <= fault;
                assert_eq!(result.is_ok(), done, "a failed step is an error");
                faults::inject(None);
                writer.append([&b"4"[..]]).unwrap();
                let expected: Vec<&str> =
                    [(exists, "0"), (open, "1"), (done, "\"two\""), (done, "\"three\""), (true, "4")]
                        .into_iter()
                        .filter_map(|(kept, record)| kept.then_some(record))
                        .collect();
                let mut read = place.read();
                // What failed may be there all the same, in part or whole.
                read.retain(|record| expected.contains(&record.as_str()) && (done || record.len() == 1));
                assert_eq!(read, expected, "sealed {sealed}, exists {exists}, open {open}, step {fault}");
                if done {
                    assert!(fault >= 3, "there were steps to fail at");
                    break;
                }
            }
        }
    }
}

#[test]
fn a_flipped_bit_costs_its_own_record_and_is_reported() {
    let place = Place::new();
    let records: Vec<_> = (100..110).map(|number| format!("\"record {number}\"")).collect();
    for half in records.chunks(5) {
        place.write(true, &half.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let whole = place.bytes();
    let frame = format::LENGTH + records[0].len() + format::TAG;
    for at in format::HEADER..format::HEADER + 5 * frame {
        let mut altered = whole.clone();
        altered[at] ^= 0x10;
        fs::write(place.path(), &altered).unwrap();
        let read = place.read();
        let nth = (at - format::HEADER) / frame;
        let position = format!("damaged at {}", format::HEADER + nth * frame);
        assert_eq!(read.iter().filter(|text| **text == position).count(), 1, "byte {at}: {read:?}");
        let in_length = (at - format::HEADER) % frame < format::LENGTH;
        let lost: Vec<_> = records.iter().filter(|record| !read.contains(record)).collect();
        // Behind a damaged length the rest of the segment cannot be found.
        let bound = if in_length { 5 - nth } else { 1 };
        assert!((1..=bound).contains(&lost.len()), "byte {at}: {lost:?}");
        assert_eq!(&read[read.len() - 5..], &records[5..], "the other segment is whole");
    }
}

#[test]
fn a_file_opens_with_its_key_and_under_its_destinations_name_only() {
    let place = Place::new();
    place.write(true, &["1"]);
    let refusal = |name: &str, keys: &[u8]| {
        let mut records = read(&place.path(), name, Arc::new(TestKeys::new(keys))).unwrap();
        let Some(Err(ReadError::Key { at: 0, source, .. })) = records.next() else {
            panic!("a record without its key")
        };
        assert!(records.next().is_none());
        source
    };
    assert!(matches!(refusal(NAME, &[2]), KeyError::UnknownKey(_)));
    assert!(matches!(refusal("other.jsonl", &[1]), KeyError::WrongContext { .. }));
}

#[test]
fn no_key_seals_in_two_segments_and_no_index_twice_in_one() {
    let place = Place::new();
    for _ in 0..5 {
        place.write(true, &["1", "2"]);
        // A torn tail, as after a crash.
        let file = fs::OpenOptions::new().write(true).open(place.path()).unwrap();
        file.set_len(place.bytes().len() as u64 - 3).unwrap();
    }
    let file = fs::File::open(place.path()).unwrap();
    let (mut at, mut tags) = (0, BTreeSet::new());
    while let Some((found, header)) = find_segment(&file, at, u64::MAX).unwrap() {
        // Equal tags under equal indices and plaintexts would mean equal keys.
        let cipher = header.open(NAME, &*place.keys).unwrap();
        let sealed = cipher.seal(0, b"1");
        let mut on_disk = vec![0; sealed.len()];
        file.read_exact_at(&mut on_disk, found + format::ALIGNMENT).unwrap();
        assert_eq!(on_disk, sealed);
        tags.insert(sealed);
        at = found + format::ALIGNMENT;
    }
    assert_eq!(tags.len(), 5);
}

#[test]
fn a_long_file_is_of_several_segments() {
    let place = Place::new();
    let record = format!("\"{}\"", "x".repeat(9 * 1024 * 1024));
    let mut writer = place.writer(true);
    for _ in 0..3 {
        writer.append([record.as_bytes()]).unwrap();
    }
    let file = fs::File::open(place.path()).unwrap();
    let (second, _) = find_segment(&file, 1, u64::MAX).unwrap().unwrap();
    assert!(second > 16 * 1024 * 1024 && find_segment(&file, second + 1, u64::MAX).unwrap().is_none());
    assert!(place.read().iter().all(|read| *read == record) && place.read().len() == 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_kept_and_share_a_sync() {
    let place = Place::new();
    let files = Arc::new(place.files(true));
    let file = files.file(NAME);
    let turn = Arc::clone(&file.turn).lock_owned().await;
    let deliveries: Vec<_> = (0..200)
        .map(|number| {
            let files = Arc::clone(&files);
            tokio::spawn(async move { files.deliver(NAME, &delivery(&number.to_string())).await })
        })
        .collect();
    while lock(&file.waiting).len() < 200 {
        tokio::task::yield_now().await;
    }
    // The first to get the turn takes all of them.
    drop(turn);
    for delivery in deliveries {
        delivery.await.unwrap().unwrap();
    }
    let numbers: BTreeSet<u32> = place.read().iter().map(|record| record.parse().unwrap()).collect();
    assert_eq!((numbers.len(), place.read().len()), (200, 200));
}

#[tokio::test]
async fn a_delivery_that_is_given_up_before_its_turn_is_not_written() {
    let place = Place::new();
    let files = place.files(true);
    let file = files.file(NAME);
    let turn = Arc::clone(&file.turn).lock_owned().await;
    let given_up = delivery("\"given up\"");
    let first = tokio::time::timeout(Duration::from_millis(1), files.deliver(NAME, &given_up));
    assert!(first.await.is_err());
    drop(turn);
    files.deliver(NAME, &delivery("\"kept\"")).await.unwrap();
    assert_eq!(place.read(), ["\"kept\""]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_unavailable_after_the_time_limit() {
    let place = Place::new();
    let config = Config::new(place.directory.path().to_owned(), place.keys.clone());
    let destinations = Destinations::new(config).await.unwrap();
    let file = destinations.0.files.file(NAME);
    let _hanging = Arc::clone(&file.turn).lock_owned().await;
    let to = Destination::File { name: NAME.to_owned() };
    let error = destinations.deliver(&to, &delivery("1")).await.unwrap_err();
    let reason = "no answer within 10s".to_owned();
    assert_eq!(error, DeliveryError::Unavailable { destination: to, reason });
}

#[tokio::test(start_paused = true)]
async fn deliveries_that_were_given_up_do_not_pile_up_while_a_disk_hangs() {
    let place = Place::new();
    let files = place.files(true);
    let file = files.file(NAME);
    let hanging = Arc::clone(&file.turn).lock_owned().await;
    for _ in 0..100 {
        let given_up = delivery("\"given up\"");
        tokio::time::timeout(Duration::from_secs(10), files.deliver(NAME, &given_up)).await.unwrap_err();
        assert!(lock(&file.waiting).len() <= 1, "the last one, until another comes");
    }
    drop(hanging);
    files.deliver(NAME, &delivery("\"kept\"")).await.unwrap();
    assert_eq!((place.read(), lock(&file.waiting).len()), (vec!["\"kept\"".to_owned()], 0));
}

#[tokio::test]
async fn a_file_keeps_its_form_until_it_is_moved_away() {
    for sealed in [true, false] {
        let place = Place::new();
        place.write(sealed, &["1"]);
        let files = place.files(!sealed);
        let refused = files.deliver(NAME, &delivery("2")).await.unwrap_err();
        let (found, wanted) = if sealed { ("sealed", "plain") } else { ("plain", "sealed") };
        let why = format!("the file is {found}, and is to be {wanted} from now on: move it away");
        assert_eq!(refused, Fault::Refused(why));
        fs::rename(place.path(), place.directory.path().join("old")).unwrap();
        files.deliver(NAME, &delivery("2")).await.unwrap();
        assert_eq!(place.read(), ["2"]);
    }
}

#[test]
fn a_file_that_was_moved_under_its_writer_is_begun_anew() {
    let place = Place::new();
    let mut writer = place.writer(true);
    writer.append([&b"1"[..]]).unwrap();
    let old = place.directory.path().join("rotated");
    fs::rename(place.path(), &old).unwrap();
    writer.append([&b"2"[..]]).unwrap();
    let moved: Vec<_> = read(&old, NAME, place.keys.clone()).unwrap().map(Result::unwrap).collect();
    assert_eq!((moved, place.read()), (vec![b"1".to_vec()], vec!["2".to_owned()]));
}

#[test]
fn what_another_appended_to_a_plain_file_is_not_written_over() {
    let place = Place::new();
    let mut writer = place.writer(false);
    writer.append([&b"1"[..]]).unwrap();
    fs::write(place.path(), "1\n\"by hand\"").unwrap();
    writer.append([&b"2"[..]]).unwrap();
    assert_eq!(place.read(), ["1", "\"by hand\"", "2"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_now_is_unavailable_until_it_can() {
    let place = Place::new();
    let files = place.files(true);
    let other = fs::File::create(place.path()).unwrap();
    other.lock().unwrap();
    let locked = files.deliver(NAME, &delivery("1")).await.unwrap_err();
    assert_eq!(locked, Fault::Unavailable("another process is writing to the file".to_owned()));
    drop(other);

    place.keys.replace(&[]);
    let keyless = files.deliver(NAME, &delivery("1")).await.unwrap_err();
    assert!(matches!(keyless, Fault::Unavailable(why) if why.contains("no key")));
    place.keys.replace(&[1]);

    let aside = place.directory.path().with_extension("aside");
    fs::rename(place.directory.path(), &aside).unwrap();
    let gone = files.deliver(NAME, &delivery("1")).await.unwrap_err();
    assert!(matches!(gone, Fault::Unavailable(why) if why.contains("No such file")));
    fs::rename(&aside, place.directory.path()).unwrap();
    files.deliver(NAME, &delivery("1")).await.unwrap();
    assert_eq!(place.read(), ["1"]);
}

#[test]
fn a_file_that_another_process_is_making_is_left_as_it_is() {
    let place = Place::new();
    let temporary = place.directory.path().join(format!(".{NAME}.tmp"));
    fs::write(&temporary, "of another process").unwrap();
    let other = fs::File::open(&temporary).unwrap();
    other.lock().unwrap();
    let refused = place.writer(true).append([&b"1"[..]]).unwrap_err();
    assert_eq!(refused.to_string(), "another process is writing to the file");
    assert_eq!(fs::read(&temporary).unwrap(), b"of another process");
    drop(other);
    // Now it is what a crash has left.
    place.write(true, &["1"]);
    assert_eq!((place.read(), temporary.exists()), (vec!["1".to_owned()], false));
}

#[tokio::test]
async fn files_are_closed_when_there_are_many() {
    let place = Place::new();
    let files = place.files(true);
    for round in 0..2 {
        for number in 0..OPEN_FILES + 10 {
            files.deliver(&format!("f{number}"), &delivery(&round.to_string())).await.unwrap();
            assert!(lock(&files.open).len() <= OPEN_FILES);
        }
    }
    let first = read(&place.directory.path().join("f0"), "f0", place.keys.clone()).unwrap();
    assert_eq!(first.map(Result::unwrap).collect::<Vec<_>>(), [b"0", b"1"]);
}

#[tokio::test]
async fn after_a_rotation_and_a_rewrap_the_old_wrapping_key_can_go() {
    let place = Place::new();
    let files = place.files(true);
    place.write(true, &["1"]);
    files.deliver(NAME, &delivery("2")).await.unwrap();
    for wrapping in 1..4 {
        place.keys.replace(&[wrapping, wrapping + 1]);
        assert_eq!(files.rewrap().unwrap(), 2);
        place.keys.replace(&[wrapping + 1]);
        assert_eq!(place.read(), ["1", "2"]);
    }
    files.deliver(NAME, &delivery("3")).await.unwrap();
    assert_eq!(place.read(), ["1", "2", "3"]);
}

#[test]
fn a_rewrap_that_a_crash_interrupts_leaves_a_key_that_opens() {
    let place = Place::new();
    place.write(true, &["1"]);
    place.keys.replace(&[1, 2]);
    let whole = place.bytes();
    let header = format::Header::decode(whole.first_chunk().unwrap()).unwrap();
    let changes = header.rewrap(NAME, &*place.keys).unwrap();
    for step in 0..2 {
        for written in 0..=changes[step].1.len() {
            let mut bytes = whole.clone();
            for (nth, (at, change)) in changes.iter().enumerate().take(step + 1) {
                let at = usize::try_from(*at).unwrap();
                let length = if nth < step { change.len() } else { written };
                bytes[at..at + length].copy_from_slice(&change[..length]);
            }
            fs::write(place.path(), bytes).unwrap();
            assert_eq!(place.read(), ["1"], "step {step}, {written} bytes of it");
        }
    }
}

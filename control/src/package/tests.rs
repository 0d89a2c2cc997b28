use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write},
    time::{Duration, Instant},
};

use ::zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};
use backhand::{FilesystemReader, InnerNode};
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;

/// Builds packages with another program's writer.
struct Builder(ZipWriter<Cursor<Vec<u8>>>);

impl Builder {
    fn new() -> Self {
        Self(ZipWriter::new(Cursor::default()))
    }

    fn file(mut self, name: &str, content: &[u8], mode: u32) -> Self {
        self.0.start_file(name, SimpleFileOptions::default().unix_permissions(mode)).unwrap();
        self.0.write_all(content).unwrap();
        self
    }

    fn stored(mut self, name: &str, content: &[u8]) -> Self {
        self.0
            .start_file(name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored))
            .unwrap();
        self.0.write_all(content).unwrap();
        self
    }

    fn directory(mut self, name: &str) -> Self {
        self.0.add_directory(name, SimpleFileOptions::default()).unwrap();
        self
    }

    fn link(mut self, name: &str, target: &str) -> Self {
        self.0.add_symlink(name, target, SimpleFileOptions::default()).unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.finish().unwrap().into_inner()
    }
}

fn check(zip: impl Into<Bytes>) -> Result<Package, PackageRefused> {
    Package::check(zip.into())
}

fn problem(zip: Vec<u8>) -> EntryProblem {
    match check(zip) {
        Err(PackageRefused::Entry { problem, .. }) => problem,
        other => panic!("expected a refused entry, got {other:?}"),
    }
}

fn sample() -> Vec<u8> {
    Builder::new()
        .file("app.py", b"def handler(event, context): return event\n".repeat(50).as_slice(), 0o644)
        .file("bin/bootstrap", b"#!/bin/sh\n", 0o4777)
        .directory("empty/")
        .stored("lib/data", &[7; 5000])
        .link("lib/link", "../app.py")
        .done()
}

/// Every place where a byte sequence begins.
fn places(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(wanted)).collect()
}

/// Replaces a name of the same length in local and central header.
fn renamed(mut zip: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    for at in places(&zip, from.as_bytes()) {
        zip[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    zip
}

const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";

/// Writes `bytes` at `offset` of every central header (and, if given, at another of every local one).
fn patched(mut zip: Vec<u8>, offset: usize, local: Option<usize>, bytes: &[u8]) -> Vec<u8> {
    let mut patches: Vec<usize> = places(&zip, CENTRAL).iter().map(|at| at + offset).collect();
    if let Some(local) = local {
        patches.extend(places(&zip, LOCAL).iter().map(|at| at + local));
    }
    for at in patches {
        zip[at..at + bytes.len()].copy_from_slice(bytes);
    }
    zip
}

fn one(content: &[u8]) -> Vec<u8> {
    Builder::new().stored("entry", content).done()
}

/// Path → kind and permissions, content or target.
fn listed(image: &[u8]) -> BTreeMap<String, (String, Vec<u8>)> {
    let reader = FilesystemReader::from_reader(Cursor::new(image)).unwrap();
    let mut found = BTreeMap::new();
    for node in reader.files() {
        assert_eq!((node.header.uid, node.header.gid, node.header.mtime), (0, 0, 0));
        let (kind, content) = match &node.inner {
            InnerNode::Dir(_) => ("d", Vec::new()),
            InnerNode::Symlink(link) => ("l", link.link.to_str().unwrap().as_bytes().to_vec()),
            InnerNode::File(file) => {
                let mut content = Vec::new();
                reader.file(file).reader().read_to_end(&mut content).unwrap();
                ("f", content)
            }
            other => panic!("{other:?}"),
        };
        let mode = format!("{kind}{:o}", node.header.permissions);
        found.insert(node.fullpath.to_str().unwrap().to_owned(), (mode, content));
    }
    found
}

#[test]
fn an_image_holds_what_the_package_held_with_safe_modes() {
    let image = check(sample()).unwrap().build_image().unwrap();
    let files = listed(&image);
    let kinds: Vec<(&str, &str)> =
        files.iter().map(|(path, (mode, _))| (path.as_str(), mode.as_str())).collect();
    assert_eq!(
        kinds,
        [
            ("/", "d755"),
            ("/app.py", "f644"),
            ("/bin", "d755"),
            ("/bin/bootstrap", "f755"),
            ("/empty", "d755"),
            ("/lib", "d755"),
            ("/lib/data", "f644"),
            ("/lib/link", "l777"),
        ]
    );
    assert_eq!(files["/lib/data"].1, [7; 5000]);
    assert_eq!(files["/lib/link"].1, b"../app.py");
}

#[test]
fn the_same_package_makes_the_same_image() {
    let image = || check(sample()).unwrap().build_image().unwrap();
    assert_eq!(image(), image());
    assert_eq!(
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &image())),
        "c2c5a901cef27024d38d3abdf4d080a5220e1bebd5b7d635ef5c2b54d117e5db"
    );
}

#[test]
fn files_of_every_length_around_a_block_survive() {
    let block = 128 * 1024;
    let content = |length: usize| (0..length).map(|i| (i % 253) as u8).collect::<Vec<_>>();
    let lengths = [0, 1, block - 1, block, block + 1, 3 * block + 7];
    let zip = lengths
        .iter()
        .fold(Builder::new(), |zip, length| zip.file(&format!("{length}"), &content(*length), 0o644));
    let files =
        listed(&check(zip.stored("zeros", &vec![0; 2 * block]).done()).unwrap().build_image().unwrap());
    for length in lengths {
        assert!(files[&format!("/{length}")].1 == content(length), "{length}");
    }
    assert!(files["/zeros"].1 == vec![0; 2 * block]);
}

#[test]
fn what_is_no_zip_gets_awss_own_sentence() {
    let sentence = "Could not unzip uploaded file. Please check your file, then try to upload again.";
    let valid = sample();
    for garbage in [
        b"".to_vec(),
        b"PK".to_vec(),
        vec![0; 1000],
        valid[..valid.len() - 1].to_vec(),
        valid[100..].to_vec(),
    ] {
        assert_eq!(check(garbage).unwrap_err().to_string(), sentence);
    }
    assert_eq!(
        check(Builder::new().done()).unwrap_err().to_string(),
        "Uploaded file must be a non-empty zip"
    );
}

#[test]
fn a_note_at_the_end_may_contain_an_end_of_its_own() {
    let mut writer = Builder::new().file("a", b"a", 0o644);
    let note = [Builder::new().done(), b"more".to_vec()].concat();
    writer.0.set_comment(String::from_utf8(note).unwrap()).unwrap();
    assert_eq!(check(writer.done()).unwrap().paths(), ["a"]);
}

#[test]
fn names_that_leave_the_package_are_refused() {
    let named = |name: &str| renamed(one(b"x"), "entry", name);
    assert_eq!(problem(named("../ab")), EntryProblem::Parent);
    assert_eq!(problem(named("../..")), EntryProblem::Parent);
    assert_eq!(problem(named("/etcx")), EntryProblem::Absolute);
    assert_eq!(problem(named("..\\ab")), EntryProblem::Backslash);
    assert_eq!(problem(named("ab\0cd")), EntryProblem::Nul);
    let mut not_utf8 = one(b"x");
    for at in places(&not_utf8, b"entry") {
        not_utf8[at] = 0xff;
    }
    assert_eq!(problem(not_utf8), EntryProblem::NotUtf8);
    let text = check(named("../ab")).unwrap_err().to_string();
    assert_eq!(text, "Could not unzip uploaded file. Entry \"../ab\": its name contains '..'.");
}

#[test]
fn names_are_bounded_in_length_and_depth() {
    let refused = |name: String| problem(Builder::new().stored(&name, b"").done());
    assert_eq!(refused("n".repeat(256)), EntryProblem::NameTooLong);
    assert_eq!(
        refused(format!("{}x", "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn/".repeat(32))),
        EntryProblem::NameTooLong
    );
    assert_eq!(refused(format!("{}x", "d/".repeat(32))), EntryProblem::TooDeep);
    assert!(check(Builder::new().stored(&format!("{}x", "d/".repeat(31)), b"").done()).is_ok());
}

#[test]
fn links_stay_inside_and_nothing_lies_behind_them() {
    let link = |target: &str| Builder::new().stored("a/b/file", b"x").link("a/b/link", target).done();
    for inside in ["file", "../../x", "../b/./file", "deeper/../file"] {
        assert!(check(link(inside)).is_ok(), "{inside}");
    }
    for outside in ["/etc/passwd", "../../../x", "../../x/../../y"] {
        assert_eq!(problem(link(outside)), EntryProblem::LinkEscapes, "{outside}");
    }
    assert_eq!(problem(link(&"x".repeat(1025))), EntryProblem::LinkTarget);
    let behind = Builder::new().link("link", "a").stored("link/file", b"x").done();
    assert_eq!(problem(behind), EntryProblem::FileAndDirectory);
}

#[test]
fn one_path_has_one_meaning() {
    let twice = Builder::new().stored("entry", b"1").stored("ENTRY", b"2").done();
    assert_eq!(problem(renamed(twice, "ENTRY", "entry")), EntryProblem::Duplicate);
    let spelled_twice = Builder::new().stored("a", b"1").stored(".//./a", b"2").done();
    assert_eq!(problem(spelled_twice), EntryProblem::Duplicate);
    for zip in [
        Builder::new().stored("a", b"").stored("a/b", b"").done(),
        Builder::new().stored("a/b", b"").stored("a", b"").done(),
        Builder::new().directory("a/").stored("a", b"").done(),
    ] {
        assert_eq!(problem(zip), EntryProblem::FileAndDirectory);
    }
    assert!(check(Builder::new().directory("a/").stored("a/b", b"").done()).is_ok());
    assert!(check(Builder::new().stored("./a/b", b"").directory("a/").done()).is_ok());
}

#[test]
fn devices_encryption_and_other_methods_are_refused() {
    let device = patched(one(b""), 38, None, &(0o020_666_u32 << 16).to_le_bytes());
    assert_eq!(problem(device), EntryProblem::Special);
    assert_eq!(problem(patched(one(b"x"), 8, Some(6), &1_u16.to_le_bytes())), EntryProblem::Encrypted);
    assert_eq!(problem(patched(one(b"x"), 10, Some(8), &12_u16.to_le_bytes())), EntryProblem::Method);
    assert_eq!(problem(renamed(one(b"x"), "entry", "entr/")), EntryProblem::DirectoryWithContent);
}

#[test]
fn sizes_and_checksums_must_be_true() {
    let deflated = || Builder::new().file("entry", &[b'x'; 3000], 0o644).done();
    for size in [0_u32, 2999, 3001, 1 << 27] {
        assert_eq!(
            problem(patched(deflated(), 24, Some(22), &size.to_le_bytes())),
            EntryProblem::Size,
            "{size}"
        );
    }
    assert_eq!(problem(patched(deflated(), 16, Some(14), &[0; 4])), EntryProblem::Damaged);
    assert_eq!(problem(patched(deflated(), 24, None, &2999_u32.to_le_bytes())), EntryProblem::Contradiction);
    assert_eq!(problem(patched(one(b"xyz"), 24, Some(22), &2_u32.to_le_bytes())), EntryProblem::Size);
}

#[test]
fn a_false_zip64_size_is_refused() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("entry", SimpleFileOptions::default().large_file(true)).unwrap();
    writer.write_all(&[b'x'; 3000]).unwrap();
    let zip = writer.finish().unwrap().into_inner();
    assert!(check(zip.clone()).is_ok());
    // The local header's wide size: behind 30 bytes, the name and the field's own 4.
    let wide = places(&zip, LOCAL)[0] + 30 + 5 + 4;
    let mut false_size = zip;
    assert_eq!(false_size[wide..wide + 8], 3000_u64.to_le_bytes());
    false_size[wide..wide + 8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    assert_eq!(problem(false_size), EntryProblem::Contradiction);
}

#[test]
fn bombs_are_refused_by_what_they_state_and_by_what_they_do() {
    let zeros = vec![0; 1 << 20];
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file("entry", SimpleFileOptions::default()).unwrap();
    for _ in 0..=250 {
        writer.write_all(&zeros).unwrap();
    }
    let zip = writer.finish().unwrap().into_inner();
    assert_eq!(
        check(zip.clone()).unwrap_err().to_string(),
        "Unzipped size must be smaller than 262144000 bytes"
    );
    let lying = patched(zip, 24, Some(22), &100_u32.to_le_bytes());
    assert_eq!(problem(lying), EntryProblem::Size);
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let mut zip = Builder::new().stored("first", &[0; 100]).stored("other", &[0; 100]).done();
    let headers = places(&zip, CENTRAL);
    // The second entry of the directory now names the first one's data, under the first one's name.
    let first = zip[headers[0] + 42..headers[0] + 46].to_vec();
    zip[headers[1] + 42..headers[1] + 46].copy_from_slice(&first);
    zip[headers[1] + 46..headers[1] + 51].copy_from_slice(b"first");
    assert_eq!(problem(zip), EntryProblem::Overlap);
}

#[test]
fn too_many_entries_or_implied_directories_are_refused() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for directory in 0..2200 {
        writer.start_file(format!("{}f", format!("{directory:04}/").repeat(30)), options).unwrap();
    }
    assert_eq!(check(writer.finish().unwrap().into_inner()).unwrap_err(), PackageRefused::TooManyEntries);
    assert!(matches!(check(vec![0; 50 * 1024 * 1024 + 1]), Err(PackageRefused::ZipTooLarge)));
}

/// One place of a package and what to do there.
#[derive(Debug, Clone)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Number(prop::sample::Index, u32),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let interesting =
        prop_oneof![Just(0), Just(1), Just(0xffff), Just(0xffff_ffff), Just(0x7fff_ffff), any::<u32>()];
    let place = any::<prop::sample::Index>;
    let one = prop_oneof![
        4 => (place(), 1_u8..).prop_map(|(at, mask)| Mutation::Flip(at, mask)),
        4 => (place(), interesting).prop_map(|(at, number)| Mutation::Number(at, number)),
        1 => place().prop_map(Mutation::Cut),
        1 => (place(), place()).prop_map(|(a, b)| Mutation::Remove(a, b)),
        1 => (place(), place()).prop_map(|(a, b)| Mutation::Repeat(a, b)),
    ];
    prop::collection::vec(one, 1..4)
}

fn apply(mutation: &Mutation, zip: &mut Vec<u8>) {
    // Headers matter more than data: aim at the last 600 bytes half of the time.
    let length = zip.len();
    if length < 8 {
        return;
    }
    let aim = |index: &prop::sample::Index| {
        let at = index.index(length);
        if at.is_multiple_of(2) { length - 1 - at % 600.min(length) } else { at }
    };
    let span = |a: &prop::sample::Index, b: &prop::sample::Index| {
        let (a, b) = (aim(a), aim(b));
        a.min(b)..a.max(b)
    };
    match mutation {
        Mutation::Flip(at, mask) => zip[aim(at)] ^= mask,
        Mutation::Number(at, number) => {
            let at = aim(at).min(length - 4);
            zip[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        Mutation::Cut(at) => zip.truncate(aim(at)),
        Mutation::Remove(a, b) => drop(zip.drain(span(a, b))),
        Mutation::Repeat(a, b) => {
            let part = zip[span(a, b)].to_vec();
            zip.splice(length..length, part);
        }
    }
}

#[test]
fn ten_thousand_malformed_packages_are_refused_or_harmless_and_quick() {
    let seeds =
        [sample(), one(&[1; 64]), Builder::new().file("z", &vec![0; 1 << 20], 0o644).link("l", "z").done()];
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let mut refused = std::cell::Cell::new(0);
    runner
        .run(&(0..seeds.len(), mutations()), |(seed, mutations)| {
            let mut zip = seeds[seed].clone();
            mutations.iter().for_each(|mutation| apply(mutation, &mut zip));
            let since = Instant::now();
            match check(zip) {
                Err(_) => refused.set(refused.get() + 1),
                Ok(package) => {
                    for path in package.paths() {
                        prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."));
                    }
                    let image = package.build_image().expect("what was checked can be built");
                    prop_assert!(image.len() < 4 << 20);
                }
            }
            prop_assert!(since.elapsed() < Duration::from_secs(1));
            Ok(())
        })
        .unwrap();
    // Some mutations hit bytes that mean nothing (times, notes); most must not pass.
    assert!(*refused.get_mut() > 7_000, "{refused:?}");
}

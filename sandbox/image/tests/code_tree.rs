//! Code images made by `backhand`'s writer come out as they went in, or not at all.

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::Cursor,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use backhand::{FilesystemWriter, NodeHeader};
use common::{bytes_of, writer};
use image::{CodeTree, UnpackError};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory { mode: u16 },
    File { mode: u16, mtime: u32, bytes: Vec<u8> },
    Link { target: PathBuf },
}

type Tree = BTreeMap<PathBuf, Entry>;

fn header(mode: u16, mtime: u32) -> NodeHeader {
    NodeHeader::new(mode, 0, 0, mtime)
}

fn pack(tree: &Tree) -> Vec<u8> {
    let mut writer = writer();
    for (path, entry) in tree {
        match entry {
            Entry::Directory { mode } => writer.push_dir(path, header(*mode, 0)).unwrap(),
            Entry::File { mode, mtime, bytes } => {
                writer.push_file(Cursor::new(bytes.clone()), path, header(*mode, *mtime)).unwrap();
            }
            Entry::Link { target } => writer.push_symlink(target, path, header(0o777, 0)).unwrap(),
        }
    }
    bytes_of(writer)
}

fn read(root: &Path, below: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let full = root.join(&path);
        let metadata = full.symlink_metadata().unwrap();
        let mode = (metadata.permissions().mode() & 0o7777) as u16;
        if metadata.is_dir() {
            tree.insert(path.clone(), Entry::Directory { mode });
            read(root, &path, tree);
        } else if metadata.is_symlink() {
            tree.insert(path, Entry::Link { target: fs::read_link(&full).unwrap() });
        } else {
            let mtime = u32::try_from(metadata.mtime()).unwrap();
            tree.insert(path, Entry::File { mode, mtime, bytes: fs::read(&full).unwrap() });
        }
    }
}

/// Unpacks below `parent` and, whatever came of it, checks that dropping leaves `parent` empty.
fn unpack_then_drop(image: &[u8], parent: &Path) -> Result<Tree, UnpackError> {
    let result = CodeTree::unpack(image, parent.join("code")).map(|code| {
        let mut tree = Tree::new();
        read(code.path(), Path::new(""), &mut tree);
        tree
    });
    assert_eq!(fs::read_dir(parent).unwrap().count(), 0, "something is left over");
    result
}

fn trees() -> impl Strategy<Value = Tree> {
    let name = prop_oneof!["[a-d]", "[a-z]{1,12}\\.py", Just("Ünïcode".to_owned())];
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.iter().collect::<PathBuf>());
    let file =
        (0u16..0o1000, any::<u32>(), 0usize..300_000, any::<u8>()).prop_map(|(mode, mtime, size, seed)| {
            let bytes = (0..size).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ seed).collect();
            Entry::File { mode, mtime, bytes }
        });
    let leaf = prop_oneof![
        6 => file,
        1 => Just(Entry::Link { target: "some/where".into() }),
        1 => (0u16..0o1000).prop_map(|mode| Entry::Directory { mode: mode | 0o500 }),
    ];
    prop::collection::vec((path, leaf), 0..12).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, entry) in entries {
            let parents: Vec<_> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
            let blocked =
                parents.iter().any(|p| !matches!(tree.get(*p), None | Some(Entry::Directory { .. })));
            if blocked || tree.contains_key(&path) {
                continue;
            }
            for parent in parents {
                tree.entry(parent.to_owned()).or_insert(Entry::Directory { mode: 0o755 });
            }
            tree.insert(path, entry);
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_tree_comes_out_as_it_went_in(tree in trees()) {
        let parent = tempfile::tempdir().unwrap();
        prop_assert_eq!(unpack_then_drop(&pack(&tree), parent.path()).unwrap(), tree);
    }

    #[test]
    fn a_damaged_image_leaves_nothing_behind(tree in trees(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let parent = tempfile::tempdir().unwrap();
        let mut image = pack(&tree);
        let at = at.index(image.len());
        image[at] ^= 1 << bit;
        // Some bits are nobody's, or contents: then it unpacks. Either way nothing panics and nothing is left.
        let _ = unpack_then_drop(&image, parent.path());
        image.truncate(at);
        let _ = unpack_then_drop(&image, parent.path());
    }
}

#[test]
fn special_bits_are_dropped_and_the_owner_can_always_enter() {
    let tree = Tree::from([
        ("bin".into(), Entry::Directory { mode: 0o022 }),
        ("bin/su".into(), Entry::File { mode: 0o6755, mtime: 1, bytes: b"x".to_vec() }),
    ]);
    let parent = tempfile::tempdir().unwrap();
    let out = unpack_then_drop(&pack(&tree), parent.path()).unwrap();
    assert_eq!(out[Path::new("bin")], Entry::Directory { mode: 0o522 });
    assert_eq!(out[Path::new("bin/su")], Entry::File { mode: 0o755, mtime: 1, bytes: b"x".to_vec() });
}

#[test]
fn links_that_lead_outside_are_refused() {
    for (at, target) in
        [("link", "/etc/passwd"), ("link", ".."), ("link", "a/../../b"), ("dir/link", "../../x")]
    {
        let mut writer = writer();
        writer.push_dir_all("dir", header(0o755, 0)).unwrap();
        writer.push_symlink(target, at, header(0o777, 0)).unwrap();
        let parent = tempfile::tempdir().unwrap();
        let error = unpack_then_drop(&bytes_of(writer), parent.path()).unwrap_err();
        assert!(matches!(error, UnpackError::Link { .. }), "{at} -> {target}: {error}");
    }
    let inside = Tree::from([
        ("dir".into(), Entry::Directory { mode: 0o755 }),
        ("dir/link".into(), Entry::Link { target: "../dir/./file".into() }),
    ]);
    let parent = tempfile::tempdir().unwrap();
    assert_eq!(unpack_then_drop(&pack(&inside), parent.path()).unwrap(), inside);
}

#[test]
fn devices_pipes_and_sockets_are_refused() {
    type Push = fn(&mut FilesystemWriter<'_, '_, '_>);
    let pushes: [(&str, Push); 4] = [
        ("character device", |w| {
            w.push_char_device(0x103, "x", header(0o666, 0)).unwrap();
        }),
        ("block device", |w| {
            w.push_block_device(0x800, "x", header(0o666, 0)).unwrap();
        }),
        ("named pipe", |w| {
            w.push_fifo("x", header(0o666, 0)).unwrap();
        }),
        ("socket", |w| {
            w.push_socket("x", header(0o666, 0)).unwrap();
        }),
    ];
    for (kind, push) in pushes {
        let mut writer = writer();
        writer.push_file(Cursor::new(b"before"), "a", header(0o644, 0)).unwrap();
        push(&mut writer);
        let parent = tempfile::tempdir().unwrap();
        let error = unpack_then_drop(&bytes_of(writer), parent.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("\"x\" in the code image is a {kind}"));
    }
}

#[test]
fn a_directory_that_exists_is_neither_used_nor_removed() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("code");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "kept").unwrap();
    let error = CodeTree::unpack(&pack(&Tree::new()), dir.clone()).unwrap_err();
    assert!(matches!(error, UnpackError::Io { .. }), "{error}");
    assert_eq!(fs::read_to_string(dir.join("mine")).unwrap(), "kept");
}

#[test]
fn what_is_not_an_image_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    for bytes in [&b""[..], b"PK\x03\x04", &[0; 4096]] {
        assert!(matches!(unpack_then_drop(bytes, parent.path()), Err(UnpackError::Image(_))));
    }
}

//! SPECIFICATION.md and the threat model name the tests behind their claims: each of them must be there.

use std::{fs, path::Path};

/// Every `file::test` in a document. `::test` alone means the file named last.
fn named_tests(document: &str) -> Vec<(String, String)> {
    let mut file = String::new();
    let mut tests = Vec::new();
    for code in document.split('`').skip(1).step_by(2) {
        let Some((path, test)) = code.rsplit_once("::") else { continue };
        if path.ends_with(".rs") || path.ends_with(".py") {
            path.clone_into(&mut file);
        } else if !path.is_empty() {
            continue; // a path of Rust items, not of a file
        }
        tests.push((file.clone(), test.to_owned()));
    }
    tests
}

fn defines(source: &str, test: &str) -> bool {
    ["fn ", "def "].iter().any(|keyword| source.contains(&format!("{keyword}{test}(")))
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["SPECIFICATION.md", "docs/threat-model.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let tests = named_tests(&text);
        assert!(tests.len() > 10, "{document} names its tests as `file::test`");
        let missing: Vec<_> = tests
            .iter()
            .filter(|(file, test)| {
                !fs::read_to_string(root.join(file)).is_ok_and(|source| defines(&source, test))
            })
            .collect();
        assert!(missing.is_empty(), "{document} names tests that are not there: {missing:?}");
    }
}

#[test]
fn every_requirement_has_a_row() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SPECIFICATION.md")).unwrap();
    let requirements = (1..=6).chain(10..=13).chain(20..=28).chain(30..=33).chain(40..=42).chain(50..=57);
    for number in requirements {
        assert!(text.contains(&format!("| M-{number} |")), "M-{number} has no row");
    }
}

#[test]
fn names_are_read_as_the_documents_write_them() {
    let text = "holds | `a/b.rs::one`, `::two`; `Vec::new` and `c.py::three` |";
    let expected = [("a/b.rs", "one"), ("a/b.rs", "two"), ("c.py", "three")];
    assert_eq!(named_tests(text), expected.map(|(file, test)| (file.to_owned(), test.to_owned())));
    assert!(defines("    def three(self):", "three"));
    assert!(!defines("fn threefold()", "three"));
}

//! What each runtime is made of, as committed under `recipes/`.

use std::sync::LazyLock;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Deserialize;

/// Raised when the builder makes something else of the same recipe, so that installed runtimes are rebuilt.
const BUILDER_VERSION: u32 = 1;

/// How to build one runtime.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The identifier as the API spells it.
    pub name: String,
    /// Debian release the packages come from.
    pub suite: String,
    /// Debian packages; what they depend on comes with them.
    pub packages: Vec<String>,
    /// Program and arguments that start the runtime.
    pub command: Vec<String>,
    /// Its working directory.
    pub directory: String,
    /// Variables every function of this runtime sees, before its own.
    pub variables: Vec<(String, String)>,
    /// Present for runtimes that run Python.
    pub python: Option<PythonRecipe>,
    #[serde(skip)]
    digest: String,
    #[serde(skip)]
    files: &'static [RecipeFile],
}

/// What a Python runtime has beyond Debian's packages.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PythonRecipe {
    /// Major and minor version, for pip.
    pub version: String,
    /// Its path inside the root.
    pub interpreter: String,
}

/// A file of a recipe that lands in `/var/runtime`, or (`requirements.txt`) tells pip what to put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecipeFile {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) mode: u32,
}

/// Name of the file that pip reads; the only one that does not go into the root.
pub(crate) const REQUIREMENTS: &str = "requirements.txt";

static KNOWN: LazyLock<Vec<Recipe>> = LazyLock::new(|| {
    vec![
        Recipe::parse(
            include_str!("../recipes/python3.11/recipe.toml"),
            &[
                RecipeFile {
                    name: "bootstrap",
                    text: include_str!("../recipes/python3.11/bootstrap"),
                    mode: 0o755,
                },
                RecipeFile {
                    name: "bootstrap.py",
                    text: include_str!("../recipes/python3.11/bootstrap.py"),
                    mode: 0o644,
                },
                RecipeFile {
                    name: REQUIREMENTS,
                    text: include_str!("../recipes/python3.11/requirements.txt"),
                    mode: 0o644,
                },
            ],
        ),
        Recipe::parse(include_str!("../recipes/provided.al2023/recipe.toml"), &[]),
    ]
});

impl Recipe {
    /// Every runtime that can be built, in the order they are offered.
    #[must_use]
    pub fn known() -> &'static [Self] {
        &KNOWN
    }

    /// The recipe of the runtime called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|recipe| recipe.name == name)
    }

    /// SHA-256 over every byte of the recipe and the builder's version, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Files that go into `/var/runtime`.
    pub(crate) fn runtime_files(&self) -> impl Iterator<Item = &RecipeFile> {
        self.files.iter().filter(|file| file.name != REQUIREMENTS)
    }

    /// What pip installs, in its own requirements format.
    pub(crate) fn requirements(&self) -> Option<&'static str> {
        self.files.iter().find(|file| file.name == REQUIREMENTS).map(|file| file.text)
    }

    /// The recipes are part of the program: one that does not parse is a defect that every test would meet.
    fn parse(text: &'static str, files: &'static [RecipeFile]) -> Self {
        let mut recipe: Self = toml::from_str(text).expect("a committed recipe is valid");
        let mut context = Context::new(&SHA256);
        context.update(&BUILDER_VERSION.to_le_bytes());
        for part in std::iter::once(text).chain(files.iter().flat_map(|file| [file.name, file.text])) {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        recipe.digest = hex::encode(context.finish());
        recipe.files = files;
        recipe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_recipe_parses_and_is_found_by_its_name() {
        let names: Vec<_> = Recipe::known().iter().map(|recipe| recipe.name.as_str()).collect();
        assert_eq!(names, ["python3.11", "provided.al2023"]);
        for name in names {
            assert_eq!(Recipe::named(name).unwrap().name, name);
        }
        assert!(Recipe::named("cobol").is_none());
    }

    #[test]
    fn a_change_of_any_file_changes_the_digest() {
        const PLAIN: &str = include_str!("../recipes/provided.al2023/recipe.toml");
        const A: &[RecipeFile] = &[RecipeFile { name: "a", text: "bc", mode: 0o644 }];
        const B: &[RecipeFile] = &[RecipeFile { name: "ab", text: "c", mode: 0o644 }];
        let digests: std::collections::BTreeSet<_> =
            [Recipe::parse(PLAIN, &[]), Recipe::parse(PLAIN, A), Recipe::parse(PLAIN, B)]
                .map(|recipe| recipe.digest)
                .into();
        assert_eq!(digests.len(), 3);
    }

    #[test]
    fn every_python_requirement_is_pinned_by_hash() {
        let text = Recipe::named("python3.11").unwrap().requirements().unwrap().replace("\\\n", " ");
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.iter().any(|line| line.starts_with("awslambdaric==4.2.")));
        for line in lines {
            assert!(line.contains("==") && line.contains("--hash=sha256:"), "{line}");
        }
    }
}

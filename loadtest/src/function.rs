//! The functions under test, as both sides need them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// What one side of the comparison runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// In ids of figures.
    pub language: &'static str,
    pub runtime: &'static str,
    pub zip: &'static str,
    pub handler: &'static str,
}

pub const PYTHON: Function = Function {
    language: "python",
    runtime: "python3.11",
    zip: "echo-python.zip",
    handler: "lambda_function.lambda_handler",
};
pub const RUST: Function =
    Function { language: "rust", runtime: "provided.al2023", zip: "echo-rust.zip", handler: "bootstrap" };
/// Can be told to sleep, so that many environments are busy at once.
pub const SLEEPER: Function = Function { zip: "misbehave-python.zip", ..PYTHON };

/// What `runtime.json` says of an installed runtime, as far as the floor needs it.
#[derive(Debug, Clone, Deserialize)]
pub struct Runtime {
    root: String,
    pub command: Vec<String>,
    pub variables: Vec<(String, String)>,
    #[serde(skip)]
    dir: PathBuf,
}

impl Runtime {
    pub fn read(runtimes: &Path, name: &str) -> Result<Self> {
        let dir = runtimes.join(name);
        let path = dir.join("runtime.json");
        let text = fs::read(&path).with_context(|| {
            format!("{name} is not installed ({}): waterwheel runtimes build", path.display())
        })?;
        let mut runtime: Self = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        runtime.dir = dir.canonicalize()?;
        Ok(runtime)
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join(&self.root)
    }
}

impl Function {
    pub fn archive(&self, functions: &Path) -> Result<Vec<u8>> {
        let path = functions.join(self.zip);
        fs::read(&path).with_context(|| format!("no {}: tests/functions/build.sh makes it", path.display()))
    }

    /// Unpacks the zip below `dir`.
    pub fn unpack(&self, functions: &Path, dir: &Path) -> Result<()> {
        // Python's zipfile drops modes; a program needs its own.
        const UNZIP: &str = "import os, sys, zipfile\n\
            with zipfile.ZipFile(sys.argv[1]) as archive:\n    \
                for entry in archive.infolist():\n        \
                    os.chmod(archive.extract(entry, sys.argv[2]), entry.external_attr >> 16 & 0o777)\n";
        let status = Command::new("python3")
            .args(["-I", "-c", UNZIP])
            .arg(functions.join(self.zip))
            .arg(dir)
            .status()
            .context("python3 unpacks the functions")?;
        ensure!(status.success(), "unpacking {} failed; tests/functions/build.sh makes it", self.zip);
        Ok(())
    }
}

/// A JSON document of exactly `bytes` bytes.
pub fn payload(bytes: usize) -> Vec<u8> {
    const FRAME: usize = br#"{"data":""}"#.len();
    format!(r#"{{"data":"{}"}}"#, "x".repeat(bytes.saturating_sub(FRAME))).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_json_of_exactly_that_size() {
        for bytes in [1024, 100 * 1024] {
            let payload = payload(bytes);
            assert_eq!(payload.len(), bytes);
            serde_json::from_slice::<serde_json::Value>(&payload).unwrap();
        }
    }

    #[test]
    fn a_runtime_that_is_not_installed_says_how_to_get_it() {
        let error = Runtime::read(Path::new("/nonexistent"), "python3.11").unwrap_err();
        assert!(error.to_string().contains("runtimes build"), "{error}");
    }
}

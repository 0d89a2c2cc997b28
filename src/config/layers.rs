//! The layers of a configuration: who gave which key which value.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use toml::{Table, Value};

use super::{
    TEMPLATE,
    value::{Read, coerce},
};

/// Prefix of every environment variable of ours.
const PREFIX: &str = "WATERWHEEL_";

/// Why a configuration was refused. It names who gave the value, the key, the value and what would have been right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{source_name}: not valid TOML: {reason}")]
    Syntax { source_name: String, reason: String },
    #[error("{source_name}: unknown {what}{hint} (`waterwheel config print` lists every key)")]
    Unknown { source_name: String, what: String, hint: String },
    #[error("{source_name}: {key} = {value}: expected {expected}")]
    Value { source_name: String, key: String, value: String, expected: String },
}

/// Values by section and key, strongest layer last. The first is always `default.toml`.
#[derive(Debug)]
pub(crate) struct Layers {
    layers: Vec<Layer>,
    /// Keys somebody has asked for, as `section.key`: what is documented but never asked for fails a test.
    asked: RefCell<BTreeSet<String>>,
}

#[derive(Debug)]
struct Layer {
    /// How an error names it: a path, `environment variable X`, a flag.
    name: String,
    table: Table,
}

// === impl Layers ===

impl Layers {
    /// The defaults alone.
    pub(crate) fn defaults() -> Self {
        let table = TEMPLATE.parse().expect("default.toml is TOML: a test parses it");
        Self { layers: vec![Layer { name: "the default".into(), table }], asked: RefCell::default() }
    }

    /// Defaults, then `file` where there is one, then this process's environment.
    pub(crate) fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut layers = Self::defaults();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.display().to_string(), source })?;
            layers.add_file(path, &text)?;
        }
        layers.add_environment(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        }))?;
        Ok(layers)
    }

    /// Adds the text of a configuration file.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            source_name: name.clone(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        self.check_names(&name, &table)?;
        self.layers.push(Layer { name, table });
        Ok(())
    }

    /// Adds the variables `WATERWHEEL_SECTION__KEY`; others are none of ours.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        for (variable, text) in variables {
            let Some((section, key)) = variable.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__"))
            else {
                continue;
            };
            let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
            let name = format!("environment variable {variable}");
            let table = self.one_value(&section, &key, &text);
            self.check_names(&name, &table)?;
            self.layers.push(Layer { name, table });
        }
        Ok(())
    }

    /// Adds one value that a command-line flag gave.
    ///
    /// # Panics
    /// Where `default.toml` does not name the key: that is a mistake in this program.
    pub(crate) fn add_flag(&mut self, section: &str, key: &str, flag: String, text: String) {
        let table = self.one_value(section, key, &text);
        self.check_names(&flag, &table).expect("flags stand for documented keys");
        self.layers.push(Layer { name: flag, table });
    }

    /// The value of the strongest layer that has the key.
    pub(crate) fn get<T: Read>(&self, section: &str, key: &str) -> Result<T, ConfigError> {
        self.asked.borrow_mut().insert(format!("{section}.{key}"));
        let (_, value) = self.find(section, key);
        T::read(value).ok_or_else(|| self.refuse(section, key, T::EXPECTED))
    }

    /// As [`Layers::get`], and not below `least`.
    pub(crate) fn at_least<T>(&self, section: &str, key: &str, least: T) -> Result<T, ConfigError>
    where
        T: Read + PartialOrd + std::fmt::Display,
    {
        let value: T = self.get(section, key)?;
        if value < least {
            return Err(self.refuse(section, key, format!("{least} or more")));
        }
        Ok(value)
    }

    /// The error for a value that is of the right type and still wrong.
    pub(crate) fn refuse(&self, section: &str, key: &str, expected: impl Into<String>) -> ConfigError {
        let (name, value) = self.find(section, key);
        ConfigError::Value {
            source_name: name.to_owned(),
            key: format!("{section}.{key}"),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// Who decides the key, and the value; the name of the default layer comes as `None` in [`Layers::decided_by`].
    pub(crate) fn find(&self, section: &str, key: &str) -> (&str, &Value) {
        self.layers
            .iter()
            .rev()
            .find_map(|layer| Some((layer.name.as_str(), layer.table.get(section)?.get(key)?)))
            .unwrap_or_else(|| panic!("default.toml does not name {section}.{key}"))
    }

    /// Who set the key, unless it has its default.
    pub(crate) fn decided_by(&self, section: &str, key: &str) -> Option<&str> {
        let (name, _) = self.find(section, key);
        (name != self.layers[0].name).then_some(name)
    }

    /// Documented keys that nobody has asked for, as `section.key`.
    #[cfg(test)]
    pub(super) fn unread(&self) -> Vec<String> {
        let asked = self.asked.borrow();
        let keys =
            self.sections().flat_map(|(section, keys)| keys.map(move |key| format!("{section}.{key}")));
        keys.filter(|key| !asked.contains(key)).collect()
    }

    #[cfg(test)]
    fn sections(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &str>)> {
        self.layers[0].table.iter().map(|(section, keys)| {
            let keys = keys.as_table().into_iter().flat_map(|table| table.keys().map(String::as_str));
            (section.as_str(), keys)
        })
    }

    /// Text from outside TOML, in the type that the key's default has.
    fn one_value(&self, section: &str, key: &str, text: &str) -> Table {
        let default = self.layers[0].table.get(section).and_then(|table| table.get(key));
        let keys = Table::from_iter([(key.to_owned(), coerce(default, text))]);
        Table::from_iter([(section.to_owned(), Value::Table(keys))])
    }

    fn check_names(&self, source: &str, table: &Table) -> Result<(), ConfigError> {
        let known = &self.layers[0].table;
        for (section, value) in table {
            let Some(known_keys) = known.get(section).and_then(Value::as_table) else {
                let near = nearest(section, known.keys()).map(|near| format!("; did you mean [{near}]?"));
                return Err(unknown(source, format!("section [{section}]"), near));
            };
            let Some(keys) = value.as_table() else {
                return Err(ConfigError::Value {
                    source_name: source.to_owned(),
                    key: section.clone(),
                    value: value.to_string(),
                    expected: format!("a section [{section}]"),
                });
            };
            if let Some(key) = keys.keys().find(|key| !known_keys.contains_key(*key)) {
                let near =
                    nearest(key, known_keys.keys()).map(|near| format!("; did you mean {section}.{near}?"));
                return Err(unknown(source, format!("key {section}.{key}"), near));
            }
        }
        Ok(())
    }
}

fn unknown(source: &str, what: String, hint: Option<String>) -> ConfigError {
    ConfigError::Unknown { source_name: source.to_owned(), what, hint: hint.unwrap_or_default() }
}

/// The known word that is at most a third of its letters away.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len())
        .min()
        .map(|(_, candidate)| candidate.as_str())
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

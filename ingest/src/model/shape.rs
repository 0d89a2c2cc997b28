//! Shapes of the service model and the constraints on them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use fancy_regex::Regex;
use serde::Deserialize;

/// Index of a shape in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShapeId(pub(super) usize);

/// A type of the model with its constraints.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Least value of a number, least length of anything else.
    pub(super) min: Option<f64>,
    /// Largest value of a number, largest length of anything else.
    pub(super) max: Option<f64>,
    pub(super) pattern: Option<Pattern>,
    /// Empty where the model names no values.
    pub(super) values: Vec<String>,
    /// Its value must not be repeated in errors.
    pub(super) sensitive: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    String,
    Integer,
    Double,
    Boolean,
    Blob,
    Timestamp,
    List { element: ShapeId },
    Map { key: ShapeId, value: ShapeId },
    Structure { members: Vec<Member> },
}

/// A member of a structure.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) shape: ShapeId,
    pub(crate) location: Location,
    pub(crate) required: bool,
}

/// Where a request carries a member; the text is the name it has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    Uri(String),
    Query(String),
    /// Lower case, as the `http` crate keeps header names.
    Header(String),
    Body,
    /// The body as it is, not JSON.
    Payload,
}

/// A regular expression that a whole value must match. Compiled at first use: few of the model's ever are used.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// As the model has it, which is how errors quote it.
    pub(crate) text: String,
    compiled: OnceLock<Option<Regex>>,
}

#[derive(Deserialize)]
pub(super) struct RawShape {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    members: BTreeMap<String, RawMember>,
    #[serde(default)]
    required: Vec<String>,
    /// Member that is the whole body.
    payload: Option<String>,
    member: Option<RawMember>,
    key: Option<RawMember>,
    value: Option<RawMember>,
    min: Option<f64>,
    max: Option<f64>,
    pattern: Option<String>,
    #[serde(default, rename = "enum")]
    values: Vec<String>,
    #[serde(default)]
    sensitive: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMember {
    shape: String,
    location: Option<String>,
    location_name: Option<String>,
}

/// Replaces the names by which shapes refer to each other with indices.
pub(super) fn resolve(raw: HashMap<String, RawShape>) -> (HashMap<String, ShapeId>, Vec<Shape>) {
    let mut raw: Vec<_> = raw.into_iter().collect();
    raw.sort_by(|(a, _), (b, _)| a.cmp(b));
    let ids: HashMap<String, ShapeId> =
        raw.iter().enumerate().map(|(index, (name, _))| (name.clone(), ShapeId(index))).collect();
    let shapes = raw.into_iter().map(|(name, shape)| shape.resolve(name, &ids)).collect();
    (ids, shapes)
}

// === impl RawShape ===

impl RawShape {
    fn resolve(self, name: String, ids: &HashMap<String, ShapeId>) -> Shape {
        let id_of = |reference: &Option<RawMember>| {
            ids[&reference.as_ref().expect("a collection names its shape").shape]
        };
        let kind = match self.kind.as_str() {
            "integer" | "long" => Kind::Integer,
            "double" | "float" => Kind::Double,
            "boolean" => Kind::Boolean,
            "blob" => Kind::Blob,
            "timestamp" => Kind::Timestamp,
            "list" => Kind::List { element: id_of(&self.member) },
            "map" => Kind::Map { key: id_of(&self.key), value: id_of(&self.value) },
            "structure" => Kind::Structure { members: self.members_with(ids) },
            _ => Kind::String,
        };
        Shape {
            name,
            kind,
            min: self.min,
            max: self.max,
            pattern: self.pattern.map(|text| Pattern { text, compiled: OnceLock::new() }),
            values: self.values,
            sensitive: self.sensitive,
        }
    }

    fn members_with(&self, ids: &HashMap<String, ShapeId>) -> Vec<Member> {
        let resolve = |(name, raw): (&String, &RawMember)| {
            let at = raw.location_name.clone().unwrap_or_else(|| name.clone());
            let location = match raw.location.as_deref() {
                Some("uri") => Location::Uri(at),
                Some("querystring") => Location::Query(at),
                Some("header") => Location::Header(at.to_ascii_lowercase()),
                _ if self.payload.as_ref() == Some(name) => Location::Payload,
                _ => Location::Body,
            };
            Member {
                name: name.clone(),
                shape: ids[&raw.shape],
                location,
                required: self.required.contains(name),
            }
        };
        self.members.iter().map(resolve).collect()
    }
}

// === impl Pattern ===

impl Pattern {
    /// Whether the whole of `value` matches. A value on which matching gives up (backtracking limit) does not.
    pub(super) fn matches(&self, value: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(value).unwrap_or(false))
    }

    #[cfg(test)]
    pub(super) fn compiles(&self) -> bool {
        self.regex().is_some()
    }

    fn regex(&self) -> Option<&Regex> {
        let compile = || {
            // The model's patterns are Java's: they match whole values and `\d` is ASCII.
            let ascii = self.text.replace(r"\d", "[0-9]");
            Regex::new(&format!(r"\A(?:{ascii})\z")).ok()
        };
        self.compiled.get_or_init(compile).as_ref()
    }
}

//! A JSON document that borrows its strings from the request.
//!
//! An upload is one string of up to 70 MB inside a small object: a tree that owns its strings would copy it. The
//! number of values is bounded, because `[0,0,0,…]` grows sixteenfold when it becomes a tree.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Most values in one document. A request of the API has a few hundred at the very most.
const MAX_VALUES: usize = 20_000;

/// Any JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Any number that is no `i64`.
    Number(f64),
    String(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// In the document's order.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Why a body is not a document; says where, never quotes it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct JsonError(#[from] serde_json::Error);

struct Reader<'c>(&'c Cell<usize>);

// === impl Json ===

impl<'a> Json<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, JsonError> {
        let left = Cell::new(MAX_VALUES);
        let mut source = serde_json::Deserializer::from_slice(text);
        let value = Reader(&left).deserialize(&mut source)?;
        source.end()?;
        Ok(value)
    }

    /// A member of an object; the last one where a name repeats. `null` is the same as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        let Self::Object(members) = self else { return None };
        members
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
            .filter(|value| **value != Self::Null)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn as_u32(&self) -> Option<u32> {
        match self {
            Self::Integer(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Says nothing: null, false, an empty string, list or object, or an object of nothing but such.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) => true,
            Self::Bool(true) | Self::Integer(_) | Self::Number(_) => false,
            Self::String(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Object(members) => members.iter().all(|(_, value)| value.is_empty()),
        }
    }
}

impl fmt::Display for Json<'_> {
    /// As AWS prints values in validation errors: `text`, `[a, b]`, `{k=v}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::String(value) => f.write_str(value),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{item}")?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{name}={value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

// === impl Reader ===

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Json<'de>, D::Error> {
        let Some(left) = self.0.get().checked_sub(1) else {
            return Err(D::Error::custom(format_args!("more than {MAX_VALUES} values")));
        };
        self.0.set(left);
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Number(value as f64), Json::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Reader(self.0))? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json<'de>, A::Error> {
        let mut object = Vec::new();
        while let Some(name) = members.next_key_seed(Reader(self.0))? {
            let Json::String(name) = name else {
                return Err(A::Error::custom("a member's name is no string"));
            };
            object.push((name, members.next_value_seed(Reader(self.0))?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_strings_are_borrowed_not_copied() {
        let text = format!(r#"{{"Code":{{"ZipFile":"{}"}}}}"#, "A".repeat(1 << 20));
        let json = Json::parse(text.as_bytes()).unwrap();
        let Some(Json::String(zip)) = json.get("Code").and_then(|code| code.get("ZipFile")) else {
            panic!("no string")
        };
        assert!(matches!(zip, Cow::Borrowed(_)));
    }

    #[test]
    fn escapes_are_decoded() {
        let json = Json::parse(br#"{"a\u0062":"x\ny"}"#).unwrap();
        assert_eq!(json.get("ab").and_then(Json::as_str), Some("x\ny"));
    }

    #[test]
    fn a_document_of_very_many_values_is_refused() {
        let text = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(Json::parse(text.as_bytes()).unwrap_err().to_string().contains("more than 20000 values"));
    }

    #[test]
    fn nesting_is_bounded_and_garbage_refused() {
        for text in ["[".repeat(1_000_000), String::from("{} {}"), String::from("nul"), String::new()] {
            assert!(Json::parse(text.as_bytes()).is_err());
        }
        assert!(Json::parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn values_print_as_aws_prints_them() {
        let json = Json::parse(br#"{"a":["x",1,true],"b":{"c":null}}"#).unwrap();
        assert_eq!(json.to_string(), "{a=[x, 1, true], b={c=null}}");
    }

    #[test]
    fn nothing_said_is_empty_however_it_is_said() {
        for text in ["null", "[]", "{}", r#"{"SubnetIds":[],"SecurityGroupIds":null}"#, "false", r#""""#] {
            assert!(Json::parse(text.as_bytes()).unwrap().is_empty(), "{text}");
        }
        for text in ["0", "true", r#"["a"]"#, r#"{"a":1}"#] {
            assert!(!Json::parse(text.as_bytes()).unwrap().is_empty(), "{text}");
        }
    }
}

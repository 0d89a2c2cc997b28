//! Checks a request against the model's constraints and says what is wrong in AWS's words.
//!
//! Types are checked before constraints, as on AWS: a member of the wrong JSON type is a SerializationException that
//! names nothing else; constraints are all reported at once in one ValidationException.

use std::borrow::Cow;

use types::{ApiError, ErrorCode};

use super::{Json, Kind, Location, Member, Model, Operation, Params, Shape, ShapeId};

/// Longest value that an error repeats, characters (ours; AWS repeats all of it).
const QUOTED_CHARS: usize = 512;
/// Most errors one answer lists (ours): a list of a thousand bad items says nothing more than ten.
const MAX_ERRORS: usize = 10;

/// A request's members, wherever they travel.
pub(crate) struct Members<'a> {
    pub(crate) params: &'a Params<'a>,
    /// Decoded pairs of the query string.
    pub(crate) query: &'a [(Cow<'a, str>, Cow<'a, str>)],
    pub(crate) headers: &'a http::HeaderMap,
    /// The JSON body; [`Json::Null`] where there is none.
    pub(crate) body: &'a Json<'a>,
}

impl Members<'_> {
    /// A query parameter's first value.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// A header's value; one that is not visible ASCII counts as absent for the caller and fails no pattern.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn text(&self, location: &Location) -> Option<&str> {
        match location {
            Location::Uri(label) => self.params.get(label),
            Location::Query(name) => self.query(name),
            Location::Header(name) => self.header(name),
            Location::Body | Location::Payload => None,
        }
    }
}

/// Collects what fails.
struct Check<'m> {
    model: &'m Model,
    errors: Vec<String>,
    /// Every failure, also those beyond [`MAX_ERRORS`].
    failures: usize,
    /// A runtime the model does not list: reported alone, with AWS's own text for it.
    runtime: Option<ApiError>,
}

impl Model {
    /// Whether the request's members are what the operation takes.
    pub(crate) fn validate(&self, operation: &Operation, members: &Members<'_>) -> Result<(), ApiError> {
        let mut check = Check { model: self, errors: Vec::new(), failures: 0, runtime: None };
        for member in self.members(operation) {
            let path = lower_first(&member.name);
            match member.location {
                Location::Body => {
                    let value = members.body.get(&member.name);
                    if let Some(value) = value {
                        check.types(member.shape, value)?;
                    }
                    check.member(member, value, &path);
                }
                Location::Payload => {}
                Location::Uri(_) | Location::Query(_) | Location::Header(_) => {
                    let value = members
                        .text(&member.location)
                        .map(|text| self.scalar(member.shape, text))
                        .transpose()?;
                    check.member(member, value.as_ref(), &path);
                }
            }
        }
        check.outcome()
    }

    /// A value that travels as text, in the type its shape has.
    fn scalar<'a>(&self, id: ShapeId, text: &'a str) -> Result<Json<'a>, ApiError> {
        let refuse = |expected| {
            ApiError::new(
                ErrorCode::Serialization,
                format!("STRING_VALUE can not be converted to {expected}"),
            )
        };
        match self.shape(id).kind {
            Kind::Integer => text.parse().map(Json::Integer).map_err(|_| refuse("an Integer")),
            Kind::Boolean => text.parse().map(Json::Bool).map_err(|_| refuse("a Boolean")),
            Kind::List { .. } => Ok(Json::List(vec![Json::String(Cow::Borrowed(text))])),
            _ => Ok(Json::String(Cow::Borrowed(text))),
        }
    }
}

// === impl Check ===

impl Check<'_> {
    /// Refuses a value whose JSON type is not its shape's, at any depth.
    fn types(&self, id: ShapeId, value: &Json<'_>) -> Result<(), ApiError> {
        let refuse = |text: String| Err(ApiError::new(ErrorCode::Serialization, text));
        match (&self.model.shape(id).kind, value) {
            (_, Json::Null)
            | (Kind::String | Kind::Blob | Kind::Timestamp, Json::String(_))
            | (Kind::Integer, Json::Integer(_))
            | (Kind::Double | Kind::Timestamp, Json::Integer(_) | Json::Number(_))
            | (Kind::Boolean, Json::Bool(_)) => Ok(()),
            (Kind::List { element }, Json::List(items)) => {
                items.iter().try_for_each(|item| self.types(*element, item))
            }
            (Kind::Map { value: of, .. }, Json::Object(pairs)) => {
                pairs.iter().try_for_each(|(_, item)| self.types(*of, item))
            }
            (Kind::Structure { members }, Json::Object(_)) => members
                .iter()
                .filter_map(|member| value.get(&member.name).map(|value| (member.shape, value)))
                .try_for_each(|(shape, value)| self.types(shape, value)),
            (Kind::List { .. }, _) => refuse(String::from("Expected list or null")),
            (Kind::Map { .. } | Kind::Structure { .. }, _) => {
                refuse(String::from("Expected map or structure or null"))
            }
            (_, Json::Object(_)) => {
                refuse(String::from("Start of structure or map found where not expected."))
            }
            (_, Json::List(_)) => refuse(String::from("Start of list found where not expected")),
            (kind, value) => refuse(format!("{} can not be converted to {}", token(value), article(kind))),
        }
    }

    fn member(&mut self, member: &Member, value: Option<&Json<'_>>, path: &str) {
        match value {
            Some(value) => self.value(member.shape, value, path),
            None if member.required => {
                self.fail(format!(
                    "Value null at '{path}' failed to satisfy constraint: Member must not be null"
                ));
            }
            None => {}
        }
    }

    fn value(&mut self, id: ShapeId, value: &Json<'_>, path: &str) {
        let model = self.model;
        let shape = model.shape(id);
        let hidden = shape.sensitive;
        if shape.name == "Runtime" {
            self.runtime(shape, value);
            return;
        }
        for constraint in broken(shape, value) {
            self.fail_at(value, hidden, path, &constraint);
        }
        match (&shape.kind, value) {
            (Kind::Structure { members }, Json::Object(_)) => {
                for member in members {
                    self.member(
                        member,
                        value.get(&member.name),
                        &format!("{path}.{}", lower_first(&member.name)),
                    );
                }
            }
            (Kind::List { element }, Json::List(items)) => {
                self.elements(*element, items, value, hidden, path);
            }
            (Kind::Map { key, value: of }, Json::Object(pairs)) => {
                let (keys, values) = (model.shape(*key), model.shape(*of));
                let hidden = hidden || keys.sensitive || values.sensitive;
                let bad_key =
                    |name: &Cow<'_, str>| !broken(keys, &Json::String(Cow::Borrowed(name))).is_empty();
                if pairs.iter().any(|(name, _)| bad_key(name)) {
                    self.fail_at(
                        value,
                        hidden,
                        path,
                        &format!("Map keys must satisfy constraint: [{}]", listed(keys)),
                    );
                }
                if pairs.iter().any(|(_, item)| *item == Json::Null || !broken(values, item).is_empty()) {
                    self.fail_at(
                        value,
                        hidden,
                        path,
                        &format!("Map value must satisfy constraint: [{}]", listed(values)),
                    );
                }
            }
            _ => {}
        }
    }

    /// Structures in a list are checked one by one; of plain values AWS says only what all of them must be.
    fn elements(&mut self, element: ShapeId, items: &[Json<'_>], list: &Json<'_>, hidden: bool, path: &str) {
        let shape = self.model.shape(element);
        if matches!(shape.kind, Kind::Structure { .. }) {
            for (index, item) in items.iter().enumerate() {
                self.value(element, item, &format!("{path}.{}.member", index + 1));
            }
        } else if items.iter().any(|item| *item == Json::Null || !broken(shape, item).is_empty()) {
            let constraint = format!("Member must satisfy constraint: [{}]", listed(shape));
            self.fail_at(list, hidden || shape.sensitive, path, &constraint);
        }
    }

    /// On AWS an unknown runtime is found after validation, by the function's own checks.
    fn runtime(&mut self, shape: &Shape, value: &Json<'_>) {
        let Some(name) = value.as_str() else { return };
        if !shape.values.iter().any(|known| known == name) {
            let message = format!(
                "Value {} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [{}] or be a valid ARN",
                quoted(value),
                shape.values.join(", "),
            );
            self.runtime = Some(ApiError::new(ErrorCode::InvalidParameterValue, message));
        }
    }

    fn fail_at(&mut self, value: &Json<'_>, hidden: bool, path: &str, constraint: &str) {
        let value = if hidden { String::new() } else { format!(" '{}'", quoted(value)) };
        self.fail(format!("Value{value} at '{path}' failed to satisfy constraint: {constraint}"));
    }

    fn fail(&mut self, error: String) {
        self.failures += 1;
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

    fn outcome(self) -> Result<(), ApiError> {
        if self.failures > 0 {
            return Err(validation_error(self.failures, &self.errors.join("; ")));
        }
        self.runtime.map_or(Ok(()), Err)
    }
}

/// A ValidationException as AWS words it. `errors` are joined with `; `.
pub(crate) fn validation_error(count: usize, errors: &str) -> ApiError {
    let noun = if count == 1 { "error" } else { "errors" };
    ApiError::new(ErrorCode::Validation, format!("{count} validation {noun} detected: {errors}"))
}

/// Constraints of one shape that a value breaks.
fn broken(shape: &Shape, value: &Json<'_>) -> Vec<String> {
    let size = match value {
        Json::Integer(number) => Some(*number as f64),
        Json::Number(number) => Some(*number),
        Json::String(_) if matches!(shape.kind, Kind::Blob | Kind::Timestamp) => None,
        Json::String(text) => Some(text.chars().count() as f64),
        Json::List(items) => Some(items.len() as f64),
        Json::Object(pairs) => Some(pairs.len() as f64),
        Json::Null | Json::Bool(_) => None,
    };
    let mut broken = Vec::new();
    if let (Some(size), Some(max)) = (size, shape.max)
        && size > max
    {
        broken.push(most(shape, max));
    }
    if let (Some(size), Some(min)) = (size, shape.min)
        && size < min
    {
        broken.push(least(shape, min));
    }
    if let (Some(pattern), Some(text)) = (&shape.pattern, value.as_str())
        && !pattern.matches(text)
    {
        broken.push(format!("Member must satisfy regular expression pattern: {}", pattern.text));
    }
    if let Some(text) = value.as_str()
        && !shape.values.is_empty()
        && !shape.values.iter().any(|known| known == text)
    {
        broken.push(one_of(shape));
    }
    broken
}

/// All constraints of a shape, as AWS lists them for the items of a list or map.
fn listed(shape: &Shape) -> String {
    let mut all = Vec::new();
    all.extend(shape.max.map(|max| most(shape, max)));
    all.extend(shape.min.map(|min| least(shape, min)));
    all.extend(
        shape.pattern.as_ref().map(|p| format!("Member must satisfy regular expression pattern: {}", p.text)),
    );
    if !shape.values.is_empty() {
        all.push(one_of(shape));
    }
    all.push(String::from("Member must not be null"));
    all.join(", ")
}

fn most(shape: &Shape, max: f64) -> String {
    format!("Member must have {} less than or equal to {max}", measure(shape))
}

fn least(shape: &Shape, min: f64) -> String {
    format!("Member must have {} greater than or equal to {min}", measure(shape))
}

fn measure(shape: &Shape) -> &'static str {
    if matches!(shape.kind, Kind::Integer | Kind::Double) { "value" } else { "length" }
}

fn one_of(shape: &Shape) -> String {
    format!("Member must satisfy enum value set: [{}]", shape.values.join(", "))
}

fn quoted(value: &Json<'_>) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(QUOTED_CHARS) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn token(value: &Json<'_>) -> &'static str {
    match value {
        Json::Bool(true) => "TRUE_VALUE",
        Json::Bool(false) => "FALSE_VALUE",
        Json::Number(_) => "DECIMAL_VALUE",
        Json::Integer(_) => "NUMBER_VALUE",
        _ => "STRING_VALUE",
    }
}

fn article(kind: &Kind) -> &'static str {
    match kind {
        Kind::Integer => "an Integer",
        Kind::Double => "a Double",
        Kind::Boolean => "a Boolean",
        Kind::Blob => "a Blob",
        Kind::Timestamp => "a Timestamp",
        _ => "a String",
    }
}

/// `FunctionName` as errors spell it: `functionName`. `KMSKeyArn` becomes `kMSKeyArn`, on AWS too.
fn lower_first(name: &str) -> String {
    let mut characters = name.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + characters.as_str())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;

//! From method and path to an operation.

use std::borrow::Cow;

use super::{Model, Operation};

/// Most segments a path of the API has (checked against the model by a test), with room for a trailing slash.
const MAX_SEGMENTS: usize = 8;

/// A URI template such as `/2015-03-31/functions/{FunctionName}/policy`, some with a fixed query behind it.
#[derive(Debug)]
pub(super) struct Template {
    segments: Vec<Segment>,
    /// `find=LayerVersion`: what tells two operations on one path apart.
    query: Option<(String, String)>,
}

#[derive(Debug)]
enum Segment {
    Literal(String),
    Label(String),
}

/// Values of a template's labels, percent-decoded, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Params<'a>(Vec<(&'a str, Cow<'a, str>)>);

// === impl Params ===

impl Params<'_> {
    pub(crate) fn get(&self, label: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == label).map(|(_, value)| value.as_ref())
    }
}

// === impl Template ===

impl Template {
    pub(super) fn parse(text: &str) -> Self {
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        let segment = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(label) => Segment::Label(label.to_owned()),
            None => Segment::Literal(part.to_owned()),
        };
        Self {
            segments: path.split('/').skip(1).map(segment).collect(),
            query: query.and_then(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())),
        }
    }

    fn matches_path(&self, path: &[&str]) -> bool {
        self.segments.len() == path.len()
            && self.segments.iter().zip(path).all(|(segment, part)| match segment {
                Segment::Literal(literal) => literal == part,
                Segment::Label(_) => !part.is_empty(),
            })
    }

    fn params<'a>(&'a self, path: &[&'a str]) -> Params<'a> {
        let values = self.segments.iter().zip(path).filter_map(|(segment, part)| match segment {
            Segment::Literal(_) => None,
            Segment::Label(label) => Some((label.as_str(), percent_decode(part))),
        });
        Params(values.collect())
    }
}

// === impl Model ===

impl Model {
    /// The operation that a request means, or none where the API has no such path. `path` and `query` are raw, as
    /// they stood in the request line. One trailing slash is forgiven: older clients send it on collections.
    pub(crate) fn route<'m: 'p, 'p>(
        &'m self,
        method: &str,
        path: &'p str,
        query: Option<&str>,
    ) -> Option<(&'m Operation, Params<'p>)> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.splitn(MAX_SEGMENTS + 1, '/').collect();
        let query_has = |(name, value): &(String, String)| {
            query
                .is_some_and(|query| query.split('&').any(|pair| pair.split_once('=') == Some((name, value))))
        };
        self.operations
            .iter()
            .filter(|operation| operation.method == method && operation.template.matches_path(&parts))
            .filter(|operation| operation.template.query.as_ref().is_none_or(query_has))
            // The more particular one: a fixed query wins.
            .max_by_key(|operation| operation.template.query.is_some())
            .map(|operation| (operation, operation.template.params(&parts)))
    }
}

/// Decodes `%XX`. What is not valid becomes U+FFFD or stays, and then fails the pattern of whatever it names.
pub(crate) fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(String::from_utf8_lossy(&percent_decode_bytes(text.as_bytes())).into_owned())
}

/// Decodes `%XX`; a `%` that two hexadecimal digits do not follow stays.
pub(crate) fn percent_decode_bytes(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(after.first()), digit(after.get(1)))
        {
            // Two hexadecimal digits are at most 255.
            decoded.push((high * 16 + low) as u8);
            rest = &after[2..];
        } else {
            decoded.push(byte);
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(operation: &Operation) -> (String, Option<String>) {
        let part = |segment: &Segment| match segment {
            Segment::Literal(literal) => format!("/{literal}"),
            Segment::Label(label) => format!("/a%3A{label}"),
        };
        let path = operation.template.segments.iter().map(part).collect();
        (path, operation.template.query.as_ref().map(|(name, value)| format!("Qualifier=1&{name}={value}")))
    }

    #[test]
    fn every_operation_routes_to_itself_with_its_labels_decoded() {
        let model = Model::get();
        for operation in model.operations() {
            let (path, query) = example(operation);
            let (found, params) = model.route(&operation.method, &path, query.as_deref()).unwrap();
            assert_eq!(found.name, operation.name, "{} {path}", operation.method);
            for segment in &operation.template.segments {
                if let Segment::Label(label) = segment {
                    assert_eq!(params.get(label), Some(format!("a:{label}").as_str()));
                }
            }
            assert!(operation.template.segments.len() < MAX_SEGMENTS);
        }
    }

    #[test]
    fn a_trailing_slash_on_a_collection_is_forgiven() {
        let (operation, _) = Model::get().route("GET", "/2015-03-31/functions/", None).unwrap();
        assert_eq!(operation.name, "ListFunctions");
    }

    #[test]
    fn an_encoded_slash_stays_inside_its_label() {
        let (operation, params) = Model::get()
            .route("GET", "/2025-12-01/durable-executions/arn%3Aa%2Fb%2Fc/history", None)
            .unwrap();
        assert_eq!(operation.name, "GetDurableExecutionHistory");
        assert_eq!(params.get("DurableExecutionArn"), Some("arn:a/b/c"));
    }

    #[test]
    fn paths_the_api_does_not_have_route_nowhere() {
        for (method, path) in [
            ("GET", "/"),
            ("GET", ""),
            ("GET", "*"),
            ("PATCH", "/2015-03-31/functions"),
            ("GET", "/2015-03-31/functions/f/invocations"),
            ("POST", "/2015-03-31/functions//invocations"),
            ("GET", "/2015-03-31/functions/f/configuration/x/y/z/a/b/c/d"),
            ("GET", "//2015-03-31/functions"),
        ] {
            assert!(Model::get().route(method, path, None).is_none(), "{method} {path}");
        }
    }

    #[test]
    fn broken_percent_encoding_does_not_panic() {
        assert_eq!(percent_decode("%"), "%");
        assert_eq!(percent_decode("a%4"), "a%4");
        assert_eq!(percent_decode("%zz%41"), "%zzA");
        assert_eq!(percent_decode("%ff"), "\u{fffd}");
    }
}

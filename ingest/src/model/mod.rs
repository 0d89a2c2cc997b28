//! The API as its service model describes it: operations, shapes, constraints.
//!
//! ```text
//!   model/lambda-2015-03-31.json ──parsed once──► Model ──► route:    method + path → one of 91 operations
//!      (botocore 1.44.5, no prose)                      └─► validate: members → constraints, in AWS's words
//! ```
//!
//! Nothing here knows what an operation does: it answers "is this a request of the API, and is it well formed".

mod json;
mod route;
mod shape;
mod validate;

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use serde::Deserialize;

pub(crate) use json::Json;
pub(crate) use route::{Params, percent_decode, percent_decode_bytes};
pub(crate) use shape::{Kind, Location, Member, Shape, ShapeId};
pub(crate) use validate::{Members, validation_error};

/// The service model in the repository's own file; `model/extract.py` makes it.
const SOURCE: &str = include_str!("../../model/lambda-2015-03-31.json");

static MODEL: LazyLock<Model> =
    LazyLock::new(|| Model::parse(SOURCE).expect("the embedded service model parses"));

/// The whole API.
pub(crate) struct Model {
    operations: Vec<Operation>,
    shapes: Vec<Shape>,
}

/// One operation of the API.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) method: String,
    template: route::Template,
    /// The structure of the request; absent where the operation takes none.
    input: Option<ShapeId>,
}

#[derive(Deserialize)]
struct RawModel {
    operations: BTreeMap<String, RawOperation>,
    shapes: HashMap<String, shape::RawShape>,
}

#[derive(Deserialize)]
struct RawOperation {
    http: RawHttp,
    input: Option<RawReference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHttp {
    method: String,
    request_uri: String,
}

#[derive(Deserialize)]
struct RawReference {
    shape: String,
}

// === impl Model ===

impl Model {
    /// The embedded model.
    pub(crate) fn get() -> &'static Self {
        &MODEL
    }

    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let raw: RawModel = serde_json::from_str(text)?;
        let (ids, shapes) = shape::resolve(raw.shapes);
        let mut operations = Vec::with_capacity(raw.operations.len());
        for (name, raw) in raw.operations {
            operations.push(Operation {
                name,
                method: raw.http.method,
                template: route::Template::parse(&raw.http.request_uri),
                input: raw.input.map(|reference| ids[&reference.shape]),
            });
        }
        Ok(Self { operations, shapes })
    }

    #[cfg(test)]
    pub(crate) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(crate) fn shape(&self, id: ShapeId) -> &Shape {
        &self.shapes[id.0]
    }

    /// Members of an operation's request, by name.
    pub(crate) fn members(&self, operation: &Operation) -> &[Member] {
        match operation.input.map(|id| &self.shape(id).kind) {
            Some(Kind::Structure { members }) => members,
            _ => &[],
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("operations", &self.operations.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_model_is_the_whole_api() {
        let model = Model::get();
        assert_eq!(model.operations().len(), 91);
        assert_eq!(model.shapes.len(), 612);
    }

    #[test]
    fn every_pattern_of_the_model_compiles() {
        for shape in &Model::get().shapes {
            if let Some(pattern) = &shape.pattern {
                assert!(pattern.compiles(), "{}: {}", shape.name, pattern.text);
            }
        }
    }
}

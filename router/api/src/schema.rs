//! JSON Schemas as the API's document shows them, in the few forms that our bodies have.

use std::ops::Bound;

use serde_json::{Map, Value};

/// A schema under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema(Map<String, Value>);

/// Anything but `null`.
pub(crate) fn anything() -> Schema {
    Schema::default().with("type", vec!["string", "number", "boolean", "array", "object"])
}

pub(crate) fn null() -> Schema {
    of_type("null")
}

pub(crate) fn boolean() -> Schema {
    of_type("boolean")
}

pub(crate) fn integer() -> Schema {
    of_type("integer")
}

pub(crate) fn number() -> Schema {
    of_type("number")
}

pub(crate) fn string() -> Schema {
    of_type("string")
}

/// One of these strings.
pub(crate) fn words(words: &[&str]) -> Schema {
    string().with("enum", words.to_vec())
}

pub(crate) fn list(items: Schema) -> Schema {
    of_type("array").with("items", items)
}

pub(crate) fn any_of<const N: usize>(schemas: [Schema; N]) -> Schema {
    Schema::default().with("anyOf", Vec::from(schemas.map(Value::from)))
}

/// The schema that the document holds under this name.
pub(crate) fn named(name: &str) -> Schema {
    Schema::default().with("$ref", format!("#/components/schemas/{name}"))
}

/// An object without properties yet.
pub(crate) fn object() -> Schema {
    of_type("object")
}

fn of_type(name: &str) -> Schema {
    Schema::default().with("type", name)
}

impl Schema {
    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    pub(crate) fn at_least(self, lowest: impl Into<Value>) -> Self {
        self.with("minimum", lowest)
    }

    pub(crate) fn at_most(self, highest: impl Into<Value>) -> Self {
        self.with("maximum", highest)
    }

    /// Between bounds that may be open.
    pub(crate) fn within(self, (lowest, highest): (Bound<f32>, Bound<f32>)) -> Self {
        let schema = match lowest {
            Bound::Included(bound) => self.with("minimum", bound),
            Bound::Excluded(bound) => self.with("exclusiveMinimum", bound),
            Bound::Unbounded => self,
        };
        match highest {
            Bound::Included(bound) => schema.with("maximum", bound),
            Bound::Excluded(bound) => schema.with("exclusiveMaximum", bound),
            Bound::Unbounded => schema,
        }
    }

    pub(crate) fn at_least_items(self, lowest: usize) -> Self {
        self.with("minItems", lowest)
    }

    pub(crate) fn at_most_items(self, highest: usize) -> Self {
        self.with("maxItems", highest)
    }

    pub(crate) fn not_empty(self) -> Self {
        self.with("minLength", 1)
    }

    pub(crate) fn by_default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    pub(crate) fn about(self, text: &str) -> Self {
        self.with("description", text)
    }

    /// An object's property that is always there.
    pub(crate) fn property(mut self, name: &str, schema: Schema) -> Self {
        if let Value::Array(required) = self.0.entry("required").or_insert_with(|| Value::Array(Vec::new())) {
            required.push(name.into());
        }
        self.optional(name, schema)
    }

    /// An object's property that may be missing.
    pub(crate) fn optional(mut self, name: &str, schema: Schema) -> Self {
        if let Value::Object(properties) = self.0.entry("properties").or_insert_with(|| Value::Object(Map::new())) {
            properties.insert(name.to_owned(), schema.into());
        }
        self
    }

    /// The same, or `null`.
    pub(crate) fn or_null(mut self) -> Self {
        if self.0.contains_key("$ref") {
            return any_of([self, null()]);
        }
        match self.0.get_mut("type") {
            Some(Value::Array(names)) => names.push("null".into()),
            Some(name) => *name = vec![name.take(), "null".into()].into(),
            None => {}
        }
        for (key, null) in [("anyOf", null().into()), ("enum", Value::Null)] {
            if let Some(Value::Array(list)) = self.0.get_mut(key) {
                list.push(null);
            }
        }
        self
    }
}

impl From<Schema> for Value {
    fn from(schema: Schema) -> Self {
        Self::Object(schema.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_can_be_null_as_well() {
        for (schema, expected) in [
            (integer().at_least(1), json!({ "type": ["integer", "null"], "minimum": 1 })),
            (words(&["a"]), json!({ "type": ["string", "null"], "enum": ["a", null] })),
            (
                any_of([string(), number()]),
                json!({ "anyOf": [{ "type": "string" }, { "type": "number" }, { "type": "null" }] }),
            ),
            (named("A"), json!({ "anyOf": [{ "$ref": "#/components/schemas/A" }, { "type": "null" }] })),
            (anything(), json!({ "type": ["string", "number", "boolean", "array", "object", "null"] })),
        ] {
            assert_eq!(Value::from(schema.or_null()), expected);
        }
    }
}

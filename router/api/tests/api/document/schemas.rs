//! JSON Schema, as much of it as the document uses.

use std::collections::HashSet;

use serde_json::Value;

/// Checks values against the schemas of a document. Objects may hold what is described and nothing else.
pub(super) struct Checker<'a> {
    pub(super) document: &'a Value,
    /// The schemas of the properties that some value had.
    seen: HashSet<*const Value>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(document: &'a Value) -> Self {
        Self { document, seen: HashSet::new() }
    }

    /// A component of the document.
    pub(super) fn component(&self, name: &str) -> &'a Value {
        &self.document["components"]["schemas"][name]
    }

    /// What is wrong with a value, and where; nothing if nothing is.
    pub(super) fn complaint(&mut self, schema: &'a Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.resolve(schema);
        if let Some(schemas) = schema["anyOf"].as_array() {
            let complaints: Vec<_> = schemas.iter().map_while(|schema| self.complaint(schema, value, at)).collect();
            return (complaints.len() == schemas.len()).then(|| complaints.join("; "));
        }
        if !schema["type"].is_null() && !type_names(schema).any(|name| has_type(value, name)) {
            return Some(format!("{at}: {value} is not {}", schema["type"]));
        }
        if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            return Some(format!("{at}: {value} is none of {}", schema["enum"]));
        }
        match value {
            Value::Array(items) => items
                .iter()
                .enumerate()
                .find_map(|(i, item)| self.complaint(&schema["items"], item, &format!("{at}/{i}"))),
            Value::Object(object) => {
                let required = schema["required"].as_array().into_iter().flatten();
                let missing = required.map(|name| name.as_str().unwrap()).find(|name| !object.contains_key(*name));
                missing.map(|name| format!("{at}: `{name}` is missing")).or_else(|| {
                    object.iter().find_map(|(name, value)| self.property(schema, name, value, &format!("{at}/{name}")))
                })
            }
            _ => None,
        }
    }

    fn property(&mut self, schema: &'a Value, name: &str, value: &Value, at: &str) -> Option<String> {
        if let Some(property) = schema["properties"].get(name) {
            self.seen.insert(property);
            return self.complaint(property, value, at);
        }
        match schema.get("additionalProperties") {
            Some(others @ Value::Object(_)) => self.complaint(others, value, at),
            _ => Some(format!("{at} is not in the document")),
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.document.pointer(reference.trim_start_matches('#')).unwrap(),
            None => schema,
        }
    }

    /// Described properties, at any depth, that no value had so far.
    pub(super) fn unseen(&self, schema: &Value, at: &str) -> Vec<String> {
        let mut unseen = Vec::new();
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (name, property) in properties {
            let at = format!("{at}/{name}");
            if !self.seen.contains(&std::ptr::from_ref(property)) {
                unseen.push(at.clone());
            }
            unseen.extend(self.unseen(property, &at));
        }
        let inner = ["items", "additionalProperties"].into_iter().filter_map(|key| schema.get(key));
        let inner = inner.chain(schema["anyOf"].as_array().into_iter().flatten());
        inner.for_each(|inner| unseen.extend(self.unseen(inner, at)));
        unseen
    }
}

/// A schema's type or types.
fn type_names(schema: &Value) -> impl Iterator<Item = &str> {
    let one = schema["type"].as_str();
    let several = schema["type"].as_array().into_iter().flatten().filter_map(Value::as_str);
    one.into_iter().chain(several)
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    }
}

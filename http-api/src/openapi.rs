//! The OpenAPI document of all routers. `http-api/openapi.json` is a copy that a test keeps equal.
//!
//! Items and events are described once, by the domain's own schemas; this module only places them.

use recado_domain::event::Document;
use recado_domain::notification::Item;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use utoipa::OpenApi;

use crate::events::{EventResult, EventStatus, Results};
use crate::inbox::{AllRead, Changed, Ids, UnreadCount, UpTo};
use crate::problem::Problem;
use crate::tickets::ConnectionTicket;
use crate::{events, inbox, tickets};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Recado",
        description = "A user's inbox, tickets for its sockets, and events from applications. Errors are `application/problem+json` (RFC 9457).",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        inbox::paths::list,
        inbox::paths::unread_count,
        inbox::paths::read,
        inbox::paths::read_all,
        inbox::paths::archive,
        tickets::paths::issue,
        events::paths::publish
    ),
    components(schemas(Problem, UnreadCount, Ids, Changed, UpTo, AllRead, ConnectionTicket, Results, EventResult, EventStatus))
)]
struct Api;

/// The document as JSON.
pub fn document() -> Value {
    let mut document = serde_json::to_value(Api::openapi()).unwrap_or_default();
    document["components"]["schemas"]["Item"] = inlined::<Item<'static>>();
    document["components"]["schemas"]["Event"] = inlined::<Document>();
    document["components"]["securitySchemes"] = json!({
        "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The user's token; tenant and user come from it alone." },
        "publish_key": { "type": "http", "scheme": "bearer", "description": "A publish key, where the server has any." },
    });
    let event = json!({ "$ref": "#/components/schemas/Event" });
    let content = &mut document["paths"]["/events"]["post"]["requestBody"]["content"];
    *content = json!({
        "application/cloudevents+json": { "schema": event },
        "application/cloudevents-batch+json": { "schema": { "type": "array", "maxItems": events::BATCH_EVENTS, "items": event } },
    });
    describe_responses(&mut document);
    document
}

/// Every response has a description (OpenAPI 3.1, 4.8.17): the status's own words where the route says no more.
fn describe_responses(document: &mut Value) {
    let fields = |value: &mut Value| value.as_object_mut().map(std::mem::take).unwrap_or_default();
    let mut paths = fields(&mut document["paths"]);
    for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        for (status, response) in responses {
            let words = status.parse().ok().and_then(|status: axum::http::StatusCode| status.canonical_reason());
            if let Some(response) = response.as_object_mut() {
                response.entry("description").or_insert_with(|| words.unwrap_or_default().into());
            }
        }
    }
    document["paths"] = Value::Object(paths);
}

/// A domain schema, its parts in place.
fn inlined<T: schemars::JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_document_is_current() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let current = format!("{:#}\n", document());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &current).expect("openapi.json is writable");
        }
        let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(checked_in == current, "run `UPDATE=1 cargo test -p recado-http-api` and commit http-api/openapi.json");
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn walk(at: &Value, found: &mut Vec<String>) {
            match at {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    fields.values().for_each(|value| walk(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }
}

//! The OpenAPI document, made of the table of routes: it cannot leave one out.

use std::sync::LazyLock;

use axum::http::header;
use utoipa::openapi::{
    ComponentsBuilder, Content, Info, ObjectBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr,
    Required, ResponseBuilder, Schema,
    path::{HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    schema::Type,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::{
    route::{Access, Route, Schemas, Verb},
    routes::table,
    session::COOKIE,
};

const JSON: &str = "application/json";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());

/// `GET /openapi.json`.
pub async fn get() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, JSON)], DOCUMENT.as_str())
}

fn document() -> OpenApi {
    let mut named = Schemas::new();
    let mut paths = PathsBuilder::new();
    for route in table() {
        paths = paths.path(route.path, PathItem::new(method(route.verb), operation(route, &mut named)));
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    let components = ComponentsBuilder::new()
        .schemas_from_iter(named)
        .schema("Error", error())
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("cookie", SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(COOKIE))))
        .build();
    OpenApiBuilder::new()
        .info(Info::new("Patchbay", env!("CARGO_PKG_VERSION")))
        .paths(paths.build())
        .components(Some(components))
        .build()
}

fn method(verb: Verb) -> HttpMethod {
    match verb {
        Verb::Get => HttpMethod::Get,
        Verb::Post => HttpMethod::Post,
        Verb::Put => HttpMethod::Put,
        Verb::Delete => HttpMethod::Delete,
    }
}

fn operation(route: &Route, named: &mut Schemas) -> Operation {
    let mut operation = OperationBuilder::new()
        .operation_id(Some(operation_id(route)))
        .summary(Some(route.summary))
        .description(access(route.access));
    for name in path_parameters(route.path) {
        operation = operation.parameter(parameter(name, ParameterIn::Path));
    }
    for name in route.query {
        operation = operation.parameter(parameter(name, ParameterIn::Query));
    }
    if let Some(body) = route.body {
        let content = Content::new(Some(body(named)));
        operation = operation.request_body(Some(
            RequestBodyBuilder::new().content(JSON, content).required(Some(Required::True)).build(),
        ));
    }
    let answer = route.answer.map(|answer| answer(named));
    for status in route.answers {
        let mut response = ResponseBuilder::new().description(reason(*status));
        if route.stream {
            response = response.content("text/event-stream", Content::new(None::<RefOr<Schema>>));
        } else if let Some(answer) = &answer {
            response = response.content(JSON, Content::new(Some(answer.clone())));
        }
        operation = operation.response(status.to_string(), response.build());
    }
    if route.access != Access::Public {
        for scheme in ["bearer", "cookie"] {
            operation = operation.security(SecurityRequirement::new(scheme, [] as [&str; 0]));
        }
    }
    let refused = Content::new(Some(Ref::from_schema_name("Error")));
    let refused =
        ResponseBuilder::new().description("Not done: the status says whose fault it is").content(JSON, refused);
    operation.response("default", refused.build()).build()
}

/// Who may, as a sentence.
fn access(access: Access) -> Option<String> {
    match access {
        Access::Public => None,
        Access::Login => Some("Needs a session.".to_owned()),
        Access::Needs(permission) => Some(format!("Needs `{}`.", permission.name())),
        Access::NeedsAny(any) => {
            let names: Vec<String> = any.iter().map(|permission| format!("`{}`", permission.name())).collect();
            Some(format!("Needs {}; which one depends on the kind of command.", names.join(" or ")))
        }
    }
}

/// `POST /api/v1/hosts/{id}/rotate-key` is `post_hosts_id_rotate_key`.
fn operation_id(route: &Route) -> String {
    let path = route.path.trim_start_matches("/api/v1");
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(route.verb.name().to_ascii_lowercase())
        .chain(words.map(str::to_owned))
        .collect::<Vec<_>>()
        .join("_")
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn parameter(name: &str, place: ParameterIn) -> Parameter {
    let kind = match name {
        "limit" => Type::Integer,
        "connected" => Type::Boolean,
        _ => Type::String,
    };
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    let schema = ObjectBuilder::new().schema_type(kind);
    ParameterBuilder::new().name(name).parameter_in(place).required(required).schema(Some(schema)).build()
}

fn error() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let error = ObjectBuilder::new()
        .property("error", text())
        .required("error")
        .property("reason", text())
        .property("message", text())
        .property("retryAfter", ObjectBuilder::new().schema_type(Type::Integer));
    Schema::Object(error.build())
}

fn reason(status: u16) -> &'static str {
    match status {
        201 => "Made",
        202 => "Accepted: it is durable, and will be done",
        204 => "Done",
        409 => "Too late: the row as it is",
        _ => "Fine",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn read() -> Value {
        serde_json::from_str(&DOCUMENT).unwrap()
    }

    #[test]
    fn it_documents_exactly_the_routes_that_exist() {
        let document = read();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(move |m| (path.clone(), m.to_ascii_uppercase()))
            })
            .collect();
        let served = table().iter().map(|route| (route.path.to_owned(), route.verb.name().to_owned())).collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_name_is_used_once() {
        fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
            match value {
                Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                    Value::String(text) if key == "$ref" => drop(found.insert(text)),
                    _ => references(value, found),
                }),
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = read();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 3);
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        let ids: Vec<String> = table().iter().map(operation_id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }

    #[test]
    fn a_commands_row_is_documented_as_it_is_printed() {
        let document = read();
        let row = &document["paths"]["/api/v1/commands/{id}"]["get"]["responses"]["200"]["content"][JSON]["schema"];
        let documented: BTreeSet<&str> = row["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        let states = jobs::State::ALL.map(|state| format!("{}_at", state.name()));
        let rest = "id host_id kind state attempt final evidence error payload requested_by batch_id created_at expires_at \
                    cancel_requested_at";
        let printed: BTreeSet<&str> = rest.split_whitespace().chain(states.iter().map(String::as_str)).collect();
        assert_eq!(documented, printed);
    }
}

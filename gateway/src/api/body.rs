//! What requests carry: JSON bodies, queries, ids in paths. Each refusal is a 400 or 413 that names the field.

use std::collections::HashMap;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{Uri, request::Parts},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::error::ApiError;

/// The largest body, in bytes.
pub const BODY_MAX: usize = 1 << 20;

/// Most rows of a list.
pub const LIMIT_MAX: u32 = 1_000;

/// Rows of a list when nothing else is asked for.
pub const LIMIT_DEFAULT: u32 = 100;

/// There is no such host.
pub const NO_HOST: &str = "Host not found";

/// There is no such command.
pub const NO_COMMAND: &str = "Command not found";

/// A JSON body. Its Content-Type does not matter; what it says does.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status().as_u16() {
                413 => ApiError::TooLarge,
                _ => ApiError::bad("The body could not be read"),
            })?;
        read(&body).map(Self)
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // An array would be read as the fields in their order, unknown ones included.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad("The body must be a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // `missing field` and `unknown field` name it themselves, wrong types do not.
        let path = error.path().to_string();
        let text = error.inner().to_string();
        ApiError::bad(if path == "." || path == "?" || text.contains(" field `") {
            text
        } else {
            format!("{path}: {text}")
        })
    })?;
    json.end().map_err(|error| ApiError::bad(error.to_string()))?;
    Ok(value)
}

/// The query's parameters. Reading takes them out, so that what is left is known to be unknown.
pub struct Query(HashMap<String, Vec<String>>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Self::of(&parts.uri)
    }
}

impl Query {
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::bad("The query could not be read"))?;
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in pairs.0 {
            values.entry(name).or_default().push(value);
        }
        Ok(Self(values))
    }

    /// One value; the last one counts. An empty one is none.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)?.pop().filter(|value| !value.is_empty())
    }

    /// One value, read by `read`; `expected` ends the sentence of the refusal.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| ApiError::bad(format!("{name} must be {expected}")))
    }

    /// A UUID.
    ///
    /// # Errors
    /// 400 that names the parameter.
    pub fn uuid(&mut self, name: &str) -> Result<Option<Uuid>, ApiError> {
        self.read(name, "a UUID", |text| text.parse().ok())
    }

    /// All values, each a comma list.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        let values = self.0.remove(name).unwrap_or_default();
        let parts = values.iter().flat_map(|value| value.split(',')).map(str::trim);
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// How many rows: `limit`, [`LIMIT_DEFAULT`] when it is left out.
    ///
    /// # Errors
    /// 400 for what is not 1 to [`LIMIT_MAX`].
    pub fn limit(&mut self) -> Result<u32, ApiError> {
        self.limit_or(LIMIT_DEFAULT)
    }

    /// The same with another default.
    ///
    /// # Errors
    /// As [`Self::limit`].
    pub fn limit_or(&mut self, default: u32) -> Result<u32, ApiError> {
        let read = |text: &str| text.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n));
        Ok(self.read("limit", &format!("1 to {LIMIT_MAX}"), read)?.unwrap_or(default))
    }

    /// Where a page begins: `cursor`, as a page before gave it.
    ///
    /// # Errors
    /// 400 for what no page gave.
    pub fn cursor(&mut self) -> Result<Option<String>, ApiError> {
        self.read("cursor", "a next_cursor of this list", |text| (text.len() <= 512).then(|| text.to_owned()))
    }

    /// Nothing else may be there.
    ///
    /// # Errors
    /// 400 that names one.
    pub fn end(self) -> Result<(), ApiError> {
        match self.0.keys().min() {
            Some(name) => Err(ApiError::bad(format!("unknown parameter {name:?}"))),
            None => Ok(()),
        }
    }
}

/// The `{id}` of a host's path.
pub struct HostId(pub Uuid);

/// The `{id}` of a command's path.
pub struct CommandId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for HostId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        path_id(parts, state).await.map(Self).ok_or(ApiError::NotFound(NO_HOST))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CommandId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        path_id(parts, state).await.map(Self).ok_or(ApiError::NotFound(NO_COMMAND))
    }
}

/// What is no UUID is nothing's id.
async fn path_id<S: Send + Sync>(parts: &mut Parts, state: &S) -> Option<Uuid> {
    let Path(id) = Path::<String>::from_request_parts(parts, state).await.ok()?;
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[expect(dead_code, reason = "only its reading is tested")]
        name: String,
        #[serde(default)]
        #[expect(dead_code, reason = "only its reading is tested")]
        ids: Vec<u32>,
    }

    #[test]
    fn a_refused_body_names_the_field() {
        let why = |body: &str| read::<Thing>(body.as_bytes()).unwrap_err().to_string();
        assert!(why("{}").contains("missing field `name`"));
        assert!(why(r#"{"name":"a","nmae":1}"#).contains("unknown field `nmae`"));
        assert!(why(r#"{"name":3}"#).starts_with("name: invalid type"), "{}", why(r#"{"name":3}"#));
        assert!(why(r#"{"name":"a","ids":[1,"x"]}"#).starts_with("ids[1]: invalid type"));
        for broken in ["", "  ", "{", "[]", "null", r#"{"name":"a"} x"#] {
            assert!(!why(broken).is_empty());
        }
        assert!(read::<Thing>(br#" {"name":"a"} "#).is_ok());
    }

    #[test]
    fn a_query_is_read_whole_or_refused() {
        let query = |text: &'static str| Query::of(&Uri::from_static(text)).unwrap();
        let mut q = query("/x?id=a,b&id=c&limit=5&name=a%20b");
        assert_eq!(q.list("id"), ["a", "b", "c"]);
        assert_eq!(q.limit().unwrap(), 5);
        assert_eq!(q.text("name").as_deref(), Some("a b"));
        assert!(q.end().is_ok());
        assert_eq!(query("/x?limt=5").end().unwrap_err().to_string(), "unknown parameter \"limt\"");
        for bad in ["/x?limit=0", "/x?limit=1001", "/x?limit=-1", "/x?limit=ten"] {
            assert!(query(bad).limit().is_err(), "{bad}");
        }
        assert_eq!(query("/x").limit().unwrap(), LIMIT_DEFAULT);
    }
}

//! From what a person calls a host to the host.

use anyhow::bail;
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::{
    http::{Refused, Server},
    plain,
};

const HOSTS: &str = "/api/v1/hosts";
/// Rows of a page.
const LIMIT: &str = "1000";
/// Pages that are read before a name counts as too vague.
const PAGES_MAX: usize = 20;
/// Names that an error lists.
const LISTED: usize = 10;

/// As far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Host {
    /// In its routes.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
}

/// The host with this id, with this name, or the only one whose name or hostname contains it.
///
/// # Errors
/// When there is none, or several, or no answer.
pub async fn find(server: &Server, token: &SecretString, wanted: &str) -> anyhow::Result<Host> {
    if let Ok(id) = wanted.parse::<Uuid>() {
        match server.call(Method::GET, &format!("{HOSTS}/{id}"), &[], Some(token), None).await {
            Ok(host) => return Ok(serde_json::from_value(host)?),
            Err(error) if error.downcast_ref::<Refused>().is_some_and(|r| r.status == StatusCode::NOT_FOUND) => {}
            Err(error) => return Err(error),
        }
    }
    let mut found = Vec::new();
    let mut cursor = None::<String>;
    for _ in 0..PAGES_MAX {
        let mut query = vec![("search", wanted), ("limit", LIMIT)];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let mut page = server.call(Method::GET, HOSTS, &query, Some(token), None).await?;
        let hosts: Vec<Host> = serde_json::from_value(page["items"].take())?;
        let is_here = hosts.iter().any(|host| host.name == wanted);
        found.extend(hosts);
        cursor = match page["next_cursor"].take() {
            Value::String(next) if !is_here => Some(next),
            _ => break,
        };
    }
    pick(wanted, found)
}

/// Of the hosts that a search found.
fn pick(wanted: &str, mut found: Vec<Host>) -> anyhow::Result<Host> {
    if let Some(at) = found.iter().position(|host| host.name == wanted) {
        return Ok(found.swap_remove(at));
    }
    if found.len() > 1 {
        let names: Vec<String> = found.iter().take(LISTED).map(|host| plain(&host.name)).collect();
        let more = match found.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        bail!("{} may be one of {}{more}", plain(wanted), names.join(", "));
    }
    match found.pop() {
        Some(host) => Ok(host),
        None => bail!("no host is called {}", plain(wanted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<Host> {
        names.iter().map(|name| Host { id: Uuid::new_v4(), name: (*name).to_owned() }).collect()
    }

    #[test]
    fn the_exact_name_wins_then_the_only_one() {
        let picked =
            |wanted, names: &[&str]| pick(wanted, hosts(names)).map(|host| host.name).map_err(|e| e.to_string());
        assert_eq!(picked("web", &["a-web", "web", "web-1"]).as_deref(), Ok("web"));
        assert_eq!(picked("web", &["web-14"]).as_deref(), Ok("web-14"));
        assert_eq!(picked("web", &[]).unwrap_err(), "no host is called web");
        assert_eq!(picked("we\u{1b}b", &["a", "b\u{7}"]).unwrap_err(), "web may be one of a, b");
        let many: Vec<String> = (0..25).map(|n| format!("w{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(picked("w", &many).unwrap_err().ends_with("w8, w9 and 15 more"));
    }
}

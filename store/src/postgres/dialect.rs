//! The statements' text in PostgreSQL's words. Only one thing is spelt in two ways: a JSON array as rows.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{LazyLock, PoisonError, RwLock},
};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// SQLite's spelling, and ours: an array for `= ANY` is planned as an index scan, a subselect would be a join of unknown
/// size.
const EACH: &str = "json_each($";
const IN_EACH: &str = "IN (SELECT value FROM json_each($";

/// A statement's text as PostgreSQL takes it.
pub fn translate(text: &str) -> Cow<'_, str> {
    if !text.contains(EACH) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.find(EACH) {
        let list = rest[..at + EACH.len()].ends_with(IN_EACH);
        let begins = if list { at + EACH.len() - IN_EACH.len() } else { at };
        let number = &rest[at + EACH.len()..];
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let place = &number[..digits];
        out.push_str(&rest[..begins]);
        if list {
            out.push_str(&format!("= ANY (ARRAY(SELECT jsonb_array_elements_text(${place}::jsonb))"));
        } else {
            out.push_str(&format!("jsonb_array_elements(${place}::jsonb) AS each (value)"));
        }
        // Behind the parenthesis that closes `json_each(`.
        rest = number.get(digits + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Texts that live for ever are translated once.
static KNOWN: LazyLock<RwLock<HashMap<&'static str, &'static str>>> = LazyLock::new(RwLock::default);

/// The same for a text as a statement holds it.
pub fn prepare(text: Cow<'static, str>) -> SqlStr {
    let text = match text {
        Cow::Owned(text) => return AssertSqlSafe(translate(&text).into_owned()).into_sql_str(),
        Cow::Borrowed(text) => text,
    };
    if !text.contains(EACH) {
        return text.into_sql_str();
    }
    if let Some(known) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(text) {
        return known.into_sql_str();
    }
    let made: &'static str = Box::leak(translate(text).into_owned().into_boxed_str());
    KNOWN.write().unwrap_or_else(PoisonError::into_inner).insert(text, made);
    made.into_sql_str()
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn a_list_of_ids_is_an_array_and_rows_are_a_table() {
        assert_eq!(
            translate("SELECT id FROM hosts WHERE id IN (SELECT value FROM json_each($12)) ORDER BY id"),
            "SELECT id FROM hosts WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text($12::jsonb))) ORDER BY id"
        );
        assert_eq!(
            translate("SELECT value ->> 0 AS id FROM json_each($1)) AS v WHERE x IN (SELECT value FROM json_each($2))"),
            "SELECT value ->> 0 AS id FROM jsonb_array_elements($1::jsonb) AS each (value)) AS v \
             WHERE x = ANY (ARRAY(SELECT jsonb_array_elements_text($2::jsonb)))"
        );
        assert_eq!(translate("SELECT 1"), "SELECT 1");
    }
}

//! A statement with its values, and rows that answer it: the same for every engine.

use std::borrow::Cow;

use schemas::ApiId;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};
use uuid::Uuid;

use super::unavailable;
use crate::StoreError;

/// What a statement is given. Times, counts and flags are integers, ids and JSON are text, on every engine.
#[derive(Debug, Clone)]
pub enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Float(Option<f64>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($from:ty => |$value:ident| $to:expr,)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        })*
    };
}

values! {
    i64 => |n| Self::Int(Some(n)),
    Option<i64> => |n| Self::Int(n),
    i32 => |n| Self::Int(Some(n.into())),
    u32 => |n| Self::Int(Some(n.into())),
    bool => |b| Self::Int(Some(b.into())),
    Option<bool> => |b| Self::Int(b.map(i64::from)),
    f64 => |x| Self::Float(Some(x)),
    Option<f64> => |x| Self::Float(x),
    String => |text| Self::Text(Some(text)),
    &String => |text| Self::Text(Some(text.clone())),
    &str => |text| Self::Text(Some(text.to_owned())),
    Option<String> => |text| Self::Text(text),
    Option<&str> => |text| Self::Text(text.map(str::to_owned)),
    &ApiId => |id| Self::Text(Some(id.as_str().to_owned())),
    &[u8] => |bytes| Self::Bytes(Some(bytes.to_owned())),
    Uuid => |id| Self::Text(Some(id.to_string())),
    &Uuid => |id| Self::Text(Some(id.to_string())),
    Option<Uuid> => |id| Self::Text(id.map(|id| id.to_string())),
}

/// A statement in plain SQL. What engines spell in different ways is spelt as SQLite does, and each engine's
/// [`super::Conn`] says it in its own words.
#[derive(Debug)]
pub struct Statement {
    pub text: Cow<'static, str>,
    pub values: Vec<Value>,
}

/// A statement without values yet.
pub fn sql(text: impl Into<Cow<'static, str>>) -> Statement {
    Statement { text: text.into(), values: Vec::new() }
}

impl Statement {
    /// Gives it the next value.
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Its text as sqlx takes it: ours alone, values are never part of it.
    pub fn into_parts(self) -> (SqlStr, Vec<Value>) {
        let text = match self.text {
            Cow::Borrowed(text) => text.into_sql_str(),
            Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
        };
        (text, self.values)
    }
}

/// A row of an engine.
pub trait Cells: Send + Sync + Sized {
    fn int(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    fn text(&self, column: &str) -> Result<Option<&str>, sqlx::Error>;
    fn float(&self, column: &str) -> Result<Option<f64>, sqlx::Error>;
    fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
}

macro_rules! cells {
    ($row:ty) => {
        impl Cells for $row {
            fn int(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(column)
            }

            fn text(&self, column: &str) -> Result<Option<&str>, sqlx::Error> {
                self.try_get(column)
            }

            fn float(&self, column: &str) -> Result<Option<f64>, sqlx::Error> {
                self.try_get(column)
            }

            fn bytes(&self, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
                self.try_get(column)
            }
        }
    };
}

cells!(sqlx::sqlite::SqliteRow);
cells!(sqlx::postgres::PgRow);

/// A type that a column can be read as.
pub trait Cell<'r>: Sized {
    fn of<R: Cells>(row: &'r R, column: &str) -> Result<Self, StoreError>;
}

macro_rules! cell {
    ($($type:ty: $read:ident),*) => {
        $(impl<'r> Cell<'r> for Option<$type> {
            fn of<R: Cells>(row: &'r R, column: &str) -> Result<Self, StoreError> {
                row.$read(column).map_err(unavailable).map(|value| value.map(Into::into))
            }
        }
        impl<'r> Cell<'r> for $type {
            fn of<R: Cells>(row: &'r R, column: &str) -> Result<Self, StoreError> {
                Option::<$type>::of(row, column)?.ok_or_else(|| StoreError::Corrupt(format!("column {column} is null")))
            }
        })*
    };
}

cell!(i64: int, &'r str: text, String: text, f64: float, Vec<u8>: bytes);

/// Reads a column.
pub fn get<'r, T: Cell<'r>>(row: &'r impl Cells, column: &str) -> Result<T, StoreError> {
    T::of(row, column)
}

/// Reads an id.
pub fn get_uuid(row: &impl Cells, column: &str) -> Result<Uuid, StoreError> {
    uuid(get::<&str>(row, column)?)
}

/// Reads a flag.
pub fn get_bool(row: &impl Cells, column: &str) -> Result<bool, StoreError> {
    Ok(get::<i64>(row, column)? != 0)
}

pub fn uuid(text: &str) -> Result<Uuid, StoreError> {
    Uuid::parse_str(text).map_err(|_| StoreError::Corrupt("an id is no UUID".to_owned()))
}

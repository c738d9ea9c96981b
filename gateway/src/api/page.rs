//! Lists: `{"items":[…],"next_cursor":…}`.

use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ArrayBuilder, ObjectBuilder, RefOr, Schema,
        schema::{SchemaType, Type},
    },
};

use super::route::Schemas;

/// A page of a list.
#[derive(Serialize)]
pub struct Page<T> {
    items: Vec<T>,
    /// `cursor` of the next page; null at the end.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of rows as they are shown.
    pub fn of<R>(page: store::Page<R>, show: impl Fn(R) -> T) -> Self {
        Self { items: page.items.into_iter().map(show).collect(), next_cursor: page.next_cursor }
    }
}

// By hand: derived, a generic type refers to its rows by a name that nothing lists.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let cursor = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .description(Some("`cursor` of the next page; null at the end."));
        ObjectBuilder::new()
            .property("items", ArrayBuilder::new().items(T::schema()))
            .required("items")
            .property("next_cursor", cursor)
            .required("next_cursor")
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn schemas(named: &mut Schemas) {
        T::schemas(named);
    }
}

//! The dashboard: pages, who may see them, and what its sockets show. The sockets themselves are in [`crate::socket`].

mod entry;
mod feed;
mod pages;

pub use entry::{Entry, enter_socket};
pub use feed::{Dashboards, Place, start};
pub use pages::router;

//! What two parties must agree on: identifiers, bus subjects and messages, agent frames and HTTP bodies. Types only;
//! no behaviour beyond parsing, checking and printing.

pub mod agent;
pub mod event;
pub mod generation;
pub mod id;
pub mod message;
pub mod report;
pub mod scan;
pub mod status;
pub mod subject;
pub mod timestamp;
pub mod trace;

pub use generation::Generation;
pub use id::{ApiId, InvalidId};
pub use trace::TraceContext;

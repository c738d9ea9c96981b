//! What can be asked of a host: command kinds, their life cycle, the deeds that prove them, queues and schedules.
//! Pure: no clock, no store, no socket. Every decision about a command is made here, on values.
//!
//! *Adding a kind*: one file in `kinds/` that implements [`KindSpec`], one line in [`Kind`]. Nothing else knows it.

pub mod command;
pub mod deed;
pub mod kinds;
pub mod life;
pub mod queue;
pub mod state;
pub mod view;

pub use command::{Command, Evidence, HostFacts};
pub use deed::{Deed, Sign};
pub use kinds::{Kind, KindSpec, PayloadError, Prepared};
pub use life::{Asks, Event, Outcome, Step};
pub use queue::Queue;
pub use state::{Cause, State};

//! Starting, stopping, starting again, and the admin commands beside it: what an operator sees on a terminal.

mod again;
mod first;
mod help;
mod hosts;
mod nats;
mod refused;
mod users;

use std::{os::unix::fs::PermissionsExt, path::Path};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

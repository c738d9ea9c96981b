//! The commands of people at a shell who use a server over its API: `login`, `logout` and `ssh`.
//!
//! They read no settings of a server. What a login gives is kept in a private file ([`credentials`]); a shell's bytes
//! go through the same socket as those of the browser's terminal ([`session`]).

mod address;
mod credentials;
mod hosts;
mod http;
mod identity;
mod keys;
mod login;
mod prompt;
mod session;
mod ssh;
mod stop;
mod terminal;
#[cfg(test)]
mod tests;

pub use credentials::VARIABLE as CREDENTIALS;
pub use login::{login, logout};
pub use ssh::{PASSWORD, ssh};

/// Longest text of a server that is shown, in characters.
const SHOWN_MAX: usize = 1_000;

/// What a server said, so that it cannot steer the terminal: on one line, without control characters and without those
/// that change the direction of writing.
fn plain(text: &str) -> String {
    let steers = |c: &char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let spaced = text.chars().map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c });
    let shown: String = spaced.filter(|c| !steers(c)).take(SHOWN_MAX).collect();
    shown.trim().to_owned()
}

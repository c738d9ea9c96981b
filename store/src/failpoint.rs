//! Points at which a test kills the process: `PATCHBAY_FAILPOINT=name` or `name:n` for the n-th time. The process ends
//! by SIGKILL, as a machine that loses power would end it. Debug builds only; in release builds this is nothing.

/// Kills the process here if the environment asks for it.
#[inline]
pub fn hit(name: &str) {
    #[cfg(debug_assertions)]
    armed::hit(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    static ARMED: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let value = std::env::var("PATCHBAY_FAILPOINT").ok()?;
        let (name, n) = value.split_once(':').unwrap_or((&value, "1"));
        Some((name.to_owned(), AtomicU64::new(n.parse().unwrap_or(1))))
    });

    pub fn hit(name: &str) {
        let Some((armed, left)) = ARMED.as_ref() else { return };
        if armed == name && left.fetch_sub(1, Ordering::AcqRel) == 1 {
            eprintln!("failpoint {name}");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

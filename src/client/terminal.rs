//! The terminal at this end: raw while a shell is open and as it was afterwards, its size, and stdin and stdout on
//! threads of their own, because nothing interrupts a read or a write of theirs.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd, OwnedFd},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

use super::session::Size;

/// Bytes of one read.
const READ: usize = 4 << 10;
/// Reads, and texts to be written, that wait.
const WAITING: usize = 16;

/// Brings a terminal back to how it was, when dropped.
#[derive(Debug)]
pub struct Restore {
    terminal: OwnedFd,
    before: Termios,
}

impl Restore {
    /// The terminal of the process.
    ///
    /// # Errors
    /// When it has none.
    pub fn controlling() -> io::Result<Self> {
        Self::of(File::open("/dev/tty")?.into())
    }

    /// The terminal on stdin, which is raw from now on: each key comes at once, unchanged and not echoed.
    ///
    /// # Errors
    /// When stdin is none.
    pub fn raw() -> io::Result<Self> {
        let restore = Self::of(io::stdin().as_fd().try_clone_to_owned()?)?;
        let mut raw = restore.before.clone();
        raw.make_raw();
        tcsetattr(&restore.terminal, OptionalActions::Now, &raw)?;
        Ok(restore)
    }

    fn of(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // At once: what is still to be written could be held up for ever.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// The size of the window, or else what terminals used to have.
fn size() -> Size {
    let of = |fd: &dyn AsFd| tcgetwinsize(fd).ok().filter(|window| window.ws_col > 0 && window.ws_row > 0);
    let window = of(&io::stdout()).or_else(|| of(&io::stdin())).or_else(|| of(&io::stderr()));
    window.map_or(Size { cols: 80, rows: 24 }, |window| Size { cols: window.ws_col, rows: window.ws_row })
}

/// The size of the window, as it changes.
///
/// # Errors
/// When SIGWINCH cannot be heard.
pub fn sizes() -> io::Result<watch::Receiver<Size>> {
    let mut changed = signal(SignalKind::window_change())?;
    let (set, sizes) = watch::channel(size());
    tokio::spawn(async move {
        while changed.recv().await.is_some() && !set.is_closed() {
            set.send_if_modified(|known| std::mem::replace(known, size()) != *known);
        }
    });
    Ok(sizes)
}

/// What comes on stdin. Closed at its end.
///
/// # Errors
/// When there is no thread for it.
pub fn keys() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (typed, keys) = mpsc::channel(WAITING);
    let reading = move || {
        let (mut stdin, mut bytes) = (io::stdin().lock(), [0; READ]);
        loop {
            match stdin.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    if typed.blocking_send(bytes[..read].to_vec()).is_err() {
                        return;
                    }
                }
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(reading)?;
    Ok(keys)
}

/// Writes to stdout what is sent to it. The other end says when all of it is written, or nothing can be any more.
///
/// # Errors
/// When there is no thread for it.
pub fn screen() -> io::Result<(mpsc::Sender<Vec<u8>>, oneshot::Receiver<()>)> {
    let (screen, mut shown) = mpsc::channel::<Vec<u8>>(WAITING);
    let (done, written) = oneshot::channel();
    let writing = move || {
        let mut stdout = io::stdout().lock();
        while let Some(bytes) = shown.blocking_recv() {
            if stdout.write_all(&bytes).and_then(|()| stdout.flush()).is_err() {
                break;
            }
        }
        drop(shown);
        let _ = done.send(());
    };
    std::thread::Builder::new().name("stdout".to_owned()).spawn(writing)?;
    Ok((screen, written))
}

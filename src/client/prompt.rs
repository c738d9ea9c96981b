//! Questions on the terminal. A signal in the middle of one leaves the terminal as it was.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, bail};
use secrecy::SecretString;
use tokio::sync::oneshot;

use super::terminal::Restore;

/// The longest answer from stdin, in bytes.
const ANSWER_MAX: u64 = 4_096;

/// Asks for something that is not echoed, on the terminal of the process, whatever stdin is.
///
/// # Errors
/// When there is no terminal, or no answer.
pub async fn secret(question: String) -> anyhow::Result<SecretString> {
    // The library restores it as well, but not when the wait for it is given up.
    let _restore = Restore::controlling().context("there is no terminal to ask on")?;
    aside(move || rpassword::prompt_password(question).map(SecretString::from)).await?.context("no answer")
}

/// The password of a login: asked for, or the first line of stdin when that is no terminal.
///
/// # Errors
/// When there is none.
pub async fn password(question: String) -> anyhow::Result<SecretString> {
    if io::stdin().is_terminal() {
        return secret(question).await;
    }
    let line = line().await.context("cannot read the password from stdin")?;
    if line.is_empty() {
        bail!("stdin is no terminal, and its first line holds no password");
    }
    Ok(line.into())
}

/// Asks for a name.
///
/// # Errors
/// When there is no terminal or no answer.
pub async fn name(question: &str, instead: &str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        bail!("stdin is no terminal to ask on; use {instead}");
    }
    io::stderr().write_all(question.as_bytes())?;
    let name = line().await?.trim().to_owned();
    if name.is_empty() {
        bail!("no answer; use {instead}");
    }
    Ok(name)
}

/// The first line of stdin, without its end.
async fn line() -> anyhow::Result<String> {
    let line = aside(|| {
        let mut line = String::new();
        io::stdin().lock().take(ANSWER_MAX).read_line(&mut line)?;
        Ok(line)
    });
    Ok(line.await??.trim_end_matches(['\n', '\r']).to_owned())
}

/// Waits on a thread that the end of the process does not wait for: nothing interrupts a read of a terminal.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> anyhow::Result<io::Result<T>> {
    let (done, answer) = oneshot::channel();
    std::thread::Builder::new().name("prompt".to_owned()).spawn(move || done.send(read()).is_ok())?;
    answer.await.context("the prompt failed")
}

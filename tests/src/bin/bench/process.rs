//! A child process and what it says.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use tokio::sync::mpsc;

const LAST_LINES: usize = 30;
/// Lines of its output that may wait for us; nobody here says more.
const LINES: usize = 1_000;

/// Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: mpsc::Receiver<String>,
    last: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Process {
    /// Starts it without a terminal.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name}: {}", command.get_program().display()))?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (said, out) = mpsc::channel(LINES);
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let readers = vec![follow(stdout, last.clone(), Some(said)), follow(stderr, last.clone(), None)];
        Ok(Self { name: name.to_owned(), child, out, last, readers })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its output. An error once it has ended.
    pub async fn line(&mut self, patience: Duration) -> anyhow::Result<String> {
        match tokio::time::timeout(patience, self.out.recv()).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => bail!("{} has ended: {}", self.name, self.last_words()),
            Err(_) => bail!("{} says nothing for {patience:?}: {}", self.name, self.last_words()),
        }
    }

    /// An error once it has ended, with what it said last.
    pub fn check(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            // What it said may still be on its way to us; its output ends with it.
            self.readers.drain(..).for_each(|reader| drop(reader.join()));
            bail!("{} has ended: {}", self.name, self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let last = self.last.lock();
        last.iter().rev().take(3).rev().cloned().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(
    stream: impl Read + Send + 'static,
    last: Arc<Mutex<VecDeque<String>>>,
    said: Option<mpsc::Sender<String>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            {
                let mut last = last.lock();
                if last.len() == LAST_LINES {
                    last.pop_front();
                }
                last.push_back(line.clone());
            }
            if let Some(said) = &said {
                // Full: it says more than anybody here reads, and must not wait for us.
                let _ = said.try_send(line);
            }
        }
    })
}

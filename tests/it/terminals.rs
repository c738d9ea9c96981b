//! Terminals: who gets in, shells over SSH at a real OpenSSH, what is written down of them, and how they end.

mod access;
mod direct;
mod ends;
mod flow;
mod kept;
mod scene;
mod shell;

//! The types that settings have: how each is parsed, what an error says it expects, and what must not be shown.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use gateway::terminal::target::Allowed;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::setting::Shape;

/// A type that a setting can have.
pub trait Value: Sized {
    const SHAPE: Shape = Shape::Text;
    /// Never printed.
    const SECRET: bool = false;

    /// Ends the sentence "expected …".
    fn expects() -> String;

    /// # Errors
    /// A reason that says more than [`Self::expects`], ending in "; ", or an empty string.
    fn parse(text: &str) -> Result<Self, String>;

    /// What it is when nothing is set.
    ///
    /// # Errors
    /// When something must be set.
    fn absent() -> Result<Self, String> {
        Err("it must not be empty; ".to_owned())
    }

    /// The value as an error may show it; `None` for secrets.
    fn shown(text: &str) -> Option<String> {
        const LONGEST: usize = 80;
        if Self::SECRET {
            return None;
        }
        let mut short: String = text.chars().take(LONGEST).collect();
        if short.len() < text.len() {
            short.push('…');
        }
        Some(format!("{short:?}"))
    }
}

impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const SECRET: bool = T::SECRET;

    fn expects() -> String {
        T::expects()
    }

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn absent() -> Result<Self, String> {
        Ok(None)
    }

    fn shown(text: &str) -> Option<String> {
        T::shown(text)
    }
}

impl Value for PathBuf {
    fn expects() -> String {
        "a path".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }
}

impl Value for SocketAddr {
    fn expects() -> String {
        "an address and a port, such as 127.0.0.1:3001, 0.0.0.0:3001 or [::]:3001".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| String::new())
    }
}

impl Value for IpNet {
    fn expects() -> String {
        "a network or an address, such as 10.0.0.0/8 or 192.0.2.7".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse::<Self>()
            .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()))
            .map(|network| network.trunc())
            .map_err(|_| String::new())
    }
}

/// A whole number within bounds, both included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Whole<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Saturates on machines whose words are smaller than the number.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.get()).unwrap_or(usize::MAX)
    }

    /// Saturates.
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.get()).unwrap_or(u32::MAX)
    }

    pub const fn as_secs(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Value for Whole<MIN, MAX> {
    const SHAPE: Shape = Shape::Number;

    fn expects() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(text: &str) -> Result<Self, String> {
        // `u64::from_str` takes a leading plus.
        match text.parse() {
            Ok(number) if (MIN..=MAX).contains(&number) && !text.starts_with('+') => Ok(Self(number)),
            _ => Err(String::new()),
        }
    }
}

/// In the environment separated by commas, in the file also an array of strings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct List<T>(Vec<T>);

impl<T> std::ops::Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Value> Value for List<T> {
    const SHAPE: Shape = Shape::List;
    const SECRET: bool = T::SECRET;

    fn expects() -> String {
        format!("a list separated by commas, each {}", T::expects())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items
            .map(|item| {
                T::parse(item).map_err(|reason| match T::shown(item) {
                    Some(shown) => format!("{shown} is the one that fails; {reason}"),
                    None => reason,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn absent() -> Result<Self, String> {
        Ok(Self(Vec::new()))
    }
}

impl Value for bool {
    fn expects() -> String {
        "true or false".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| String::new())
    }
}

impl Value for Allowed {
    fn expects() -> String {
        "a network with ports or without, such as 127.0.0.0/8, 10.0.0.0/8:22 or [::1]:22-80".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|why| format!("{why}; "))
    }
}

/// The secret that signing keys are derived from. `Debug` hides it.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    pub const MIN_BYTES: usize = 32;

    /// `None` when it is too short.
    pub fn new(text: &str) -> Option<Self> {
        (text.len() >= Self::MIN_BYTES).then(|| Self(text.into()))
    }

    #[cfg(test)]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub fn to_secret_string(&self) -> SecretString {
        self.0.clone()
    }
}

impl Value for Secret {
    const SECRET: bool = true;

    fn expects() -> String {
        format!("at least {} bytes", Self::MIN_BYTES)
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).ok_or_else(|| format!("it has {} bytes; ", text.len()))
    }
}

/// A password that bcrypt takes whole. `Debug` hides it.
#[derive(Clone)]
pub struct Password(SecretString);

impl Password {
    pub const MIN_BYTES: usize = 12;
    /// bcrypt reads no further, and one byte of it is its own.
    pub const MAX_BYTES: usize = 71;

    /// `None` when it is too short or too long.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (Self::MIN_BYTES..=Self::MAX_BYTES).contains(&text.len()) && !text.contains('\0');
        fits.then(|| Self(text.into()))
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Value for Password {
    const SECRET: bool = true;

    fn expects() -> String {
        format!("{} to {} bytes", Self::MIN_BYTES, Self::MAX_BYTES)
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).ok_or_else(|| format!("it has {} bytes; ", text.len()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

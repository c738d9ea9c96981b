//! What a line of the table means: the macro behind `settings.rs`, and how one setting gets its value.

use std::{collections::BTreeMap, ffi::OsString};

use super::{Problems, file::File, values::Value};

/// One line of the table, as far as it doesn't depend on the field's type.
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// As it would stand in the environment; `None`: nothing is set.
    pub default: Option<&'static str>,
    /// The doc comment, line by line.
    pub doc: &'static [&'static str],
    pub shape: Shape,
    pub secret: bool,
    /// "an address and port such as …"
    pub expects: fn() -> String,
}

/// How a value is written in TOML.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    Text,
    Number,
    List,
}

impl Setting {
    /// The key in the file: the variable in lower case without its prefix.
    pub fn key(&self) -> String {
        key_of(self.name)
    }
}

pub fn key_of(variable: &str) -> String {
    variable.strip_prefix(super::environment::PREFIX).unwrap_or(variable).to_ascii_lowercase()
}

/// Where values come from, the first that has one wins.
pub struct Sources {
    pub environment: BTreeMap<String, OsString>,
    pub file: Option<File>,
}

impl Sources {
    /// The value of one setting; `None` after a problem was noted. Empty is the same as not set.
    pub fn read<T: Value>(&self, name: &'static str, default: Option<&str>, problems: &mut Problems) -> Option<T> {
        let (text, origin) = match self.given(name, T::SHAPE, problems)? {
            Some(given) => given,
            None => match default {
                Some(text) => (text.to_owned(), format!("the default of {name}")),
                None => ("".to_owned(), name.to_owned()),
            },
        };
        let parsed = if text.is_empty() { T::absent() } else { T::parse(&text) };
        match parsed {
            Ok(value) => Some(value),
            Err(reason) => {
                let shown = T::shown(&text).map_or_else(String::new, |shown| format!(" is {shown}"));
                let verb = if shown.is_empty() { " is not usable" } else { "" };
                problems.add(format!("{origin}{shown}{verb}: {reason}expected {}", T::expects()));
                None
            }
        }
    }

    /// What environment or file say: outer `None` after a problem, inner `None` when neither says anything.
    #[expect(clippy::option_option, reason = "a problem and silence are different answers")]
    fn given(&self, name: &'static str, shape: Shape, problems: &mut Problems) -> Option<Option<(String, String)>> {
        match self.environment.get(name) {
            Some(raw) if raw.is_empty() => {}
            Some(raw) => {
                let Some(text) = raw.to_str() else {
                    problems.add(format!("{name} is not valid UTF-8"));
                    return None;
                };
                return Some(Some((text.to_owned(), name.to_owned())));
            }
            None => {}
        }
        let Some(file) = &self.file else { return Some(None) };
        let key = key_of(name);
        let origin = format!("{key} in {}", file.path.display());
        match file.text_of(&key, shape) {
            None => Some(None),
            Some(Ok(text)) if text.is_empty() => Some(None),
            Some(Ok(text)) => Some(Some((text, origin))),
            Some(Err(expected)) => {
                problems.add(format!("{origin} has the wrong type: expected {expected}"));
                None
            }
        }
    }
}

/// Makes [`Config`](super::Config) and [`SETTINGS`](super::SETTINGS) of one table.
macro_rules! settings {
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
    ($( $(#[doc = $doc:literal])+ $name:literal $field:ident : $type:ty $(= $default:literal)?; )+) => {
        /// All settings of one process, parsed and checked.
        #[derive(Clone, Debug)]
        pub struct Config {
            /// Which part of Patchbay this process is; from the command line.
            pub role: super::Role,
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        /// The table.
        pub static SETTINGS: &[super::setting::Setting] = &[ $( super::setting::Setting {
            name: $name,
            default: super::setting::settings!(@default $($default)?),
            doc: &[$($doc),+],
            shape: <$type as super::values::Value>::SHAPE,
            secret: <$type as super::values::Value>::SECRET,
            expects: <$type as super::values::Value>::expects,
        }, )+ ];

        impl Config {
            pub(super) fn parse(
                role: super::Role,
                sources: &super::setting::Sources,
                problems: &mut super::Problems,
            ) -> Option<Self> {
                // All fields are read before the first missing one ends it, so that all problems show at once.
                $( let $field = sources.read::<$type>($name, super::setting::settings!(@default $($default)?), problems); )+
                Some(Self { role, $( $field: $field?, )+ })
            }
        }
    };
}
pub(super) use settings;

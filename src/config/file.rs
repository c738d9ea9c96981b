//! The optional configuration file.

use std::path::{Path, PathBuf};

use super::{Problems, environment::suggestion, setting::Shape, settings::SETTINGS};

/// A file whose names are all known.
pub struct File {
    pub path: PathBuf,
    values: toml::Table,
}

/// Notes a problem when the file cannot be read, is no TOML, or has a name that the table doesn't know.
pub fn read(path: &Path, problems: &mut Problems) -> Option<File> {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.add(format!("cannot read the configuration file {shown}: {error}"));
            return None;
        }
    };
    let values: toml::Table = match text.parse() {
        Ok(values) => values,
        Err(error) => {
            let line =
                error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
            let at = line.map_or_else(String::new, |line| format!(":{line}"));
            problems.add(format!("{shown}{at} is not valid TOML: {}", one_line(error.message())));
            return None;
        }
    };
    for name in values.keys() {
        if !SETTINGS.iter().any(|setting| setting.key() == *name) {
            problems.add(format!("{name} in {shown} is not a setting; {}", suggestion(name)));
        }
    }
    Some(File { path: path.to_owned(), values })
}

impl File {
    /// The value as it would stand in the environment; `Err` says which TOML type is expected.
    pub fn text_of(&self, key: &str, shape: Shape) -> Option<Result<String, &'static str>> {
        use toml::Value::{Array, Integer, String as Text};
        let text = match (shape, self.values.get(key)?) {
            (Shape::Number, Integer(number)) => Ok(number.to_string()),
            (Shape::Text | Shape::List, Text(text)) => Ok(text.clone()),
            (Shape::List, Array(items)) => {
                let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
                items.map(|items| items.join(",")).ok_or("an array of strings")
            }
            (Shape::Text, _) => Err("a string in quotes"),
            (Shape::Number, _) => Err("a whole number without quotes"),
            (Shape::List, _) => Err("an array of strings"),
        };
        Some(text)
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

//! What `patchbay config` prints: the table as a commented TOML file, or as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    setting::{Setting, Shape},
    settings::SETTINGS,
};

const HEAD: &str = "\
# Patchbay: every setting with its default.
#
# Each can stand in the environment under the name above it, or in a file like this one, named by --config or by
# PATCHBAY_CONFIG. The environment wins; empty is the same as not set; unknown names are errors. A line with nothing
# behind the = has no default. `patchbay config --check` says what is wrong with the settings in force.
#
# Beside them the usual RUST_LOG (such as info or gateway=debug).
";

pub fn as_commented_toml() -> String {
    let mut page = HEAD.to_owned();
    for setting in SETTINGS {
        page.push('\n');
        for line in setting.doc {
            let _ = writeln!(page, "#{line}");
        }
        let _ = writeln!(page, "# {}: {}", setting.name, (setting.expects)());
        match setting.default {
            Some(default) => {
                let _ = writeln!(page, "#{} = {}", setting.key(), in_toml(setting.shape, default));
            }
            None => {
                let _ = writeln!(page, "#{} =", setting.key());
            }
        }
    }
    page
}

pub fn as_json() -> Value {
    SETTINGS.iter().map(one_as_json).collect()
}

fn one_as_json(setting: &Setting) -> Value {
    let doc: Vec<&str> = setting.doc.iter().map(|line| line.trim()).collect();
    json!({
        "name": setting.name,
        "key": setting.key(),
        "default": setting.default,
        "expects": (setting.expects)(),
        "secret": setting.secret,
        "doc": doc.join(" "),
    })
}

fn in_toml(shape: Shape, text: &str) -> String {
    match shape {
        Shape::Number => text.to_owned(),
        Shape::Text => format!("{text:?}"),
        Shape::List => {
            let items = text.split(',').filter(|item| !item.is_empty());
            format!("[{}]", items.map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", "))
        }
    }
}

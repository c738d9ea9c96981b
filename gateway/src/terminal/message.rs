//! What the browser terminal says and is told (protocol 2.3, 2.4).

use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Map, Value};

/// Rows or columns that a window may have.
const SIDE_MAX: u32 = 2_000;
/// Longest name of a user, a terminal or a host, in bytes.
const NAME_MAX: usize = 255;
/// Longest password or passphrase, in bytes.
const PASSWORD_MAX: usize = 4 << 10;
/// Longest private key, in bytes: encoded, and with the rest of its frame, it must fit into what an agent reads.
const KEY_MAX: usize = 32 << 10;

/// From the browser.
#[derive(Debug)]
pub enum FromBrowser {
    /// Open a shell.
    Connect(Box<Connect>),
    /// Keystrokes.
    Input(String),
    /// The window has another size.
    Resize(Size),
    /// Close the shell.
    Disconnect,
}

/// Where to, and as whom.
#[derive(Debug)]
pub struct Connect {
    /// Directly, or through the agent.
    pub mode: Mode,
    /// The user.
    pub username: String,
    /// `TERM`.
    pub terminal: String,
    /// The window.
    pub size: Size,
    /// A password, or
    pub password: Option<SecretString>,
    /// a private key,
    pub private_key: Option<SecretString>,
    /// and what it is encrypted with.
    pub passphrase: Option<SecretString>,
}

/// How a shell is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// By the gateway, at the host's address.
    Direct {
        /// The port there.
        port: u16,
    },
    /// By the host's agent.
    Proxy {
        /// Whom the agent connects to.
        host: String,
        /// And at which port.
        port: u16,
    },
}

/// A window's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
}

impl Size {
    /// Brought to what a window can have.
    #[must_use]
    pub fn new(cols: u32, rows: u32) -> Self {
        Self { cols: cols.clamp(1, SIDE_MAX), rows: rows.clamp(1, SIDE_MAX) }
    }
}

impl FromBrowser {
    /// Reads a message. `None`: of a type that is not known, which is no fault.
    ///
    /// # Errors
    /// What is wrong with it, for the user. No value is repeated: it could be a password.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|_| "Invalid message".to_owned())?;
        let fields = Fields(&fields);
        match fields.0.get("type").and_then(Value::as_str).ok_or("Invalid message")? {
            "connect" => Connect::read(&fields).map(|connect| Some(Self::Connect(Box::new(connect)))),
            "input" => match fields.0.get("data") {
                Some(Value::String(data)) => Ok(Some(Self::Input(data.clone()))),
                None | Some(Value::Null) => Ok(Some(Self::Input(String::new()))),
                Some(_) => Err("Invalid message: data must be text".to_owned()),
            },
            "resize" => fields.size().map(|size| Some(Self::Resize(size))),
            "disconnect" => Ok(Some(Self::Disconnect)),
            _ => Ok(None),
        }
    }
}

/// Fields of a message. Null is as good as nothing.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn text(&self, name: &str, most: usize) -> Result<Option<&'a str>, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() > most => {
                Err(format!("Invalid message: {name} is longer than {most} bytes"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("Invalid message: {name} must be text")),
        }
    }

    /// One word without control characters; empty is as good as nothing.
    fn name(&self, name: &str, default: &str) -> Result<String, String> {
        let text = self.text(name, NAME_MAX)?.filter(|text| !text.is_empty()).unwrap_or(default);
        if text.chars().any(char::is_control) {
            return Err(format!("Invalid message: {name} has control characters"));
        }
        Ok(text.to_owned())
    }

    fn secret(&self, name: &str, most: usize) -> Result<Option<SecretString>, String> {
        Ok(self.text(name, most)?.filter(|text| !text.is_empty()).map(SecretString::from))
    }

    fn number(&self, name: &str, default: u32) -> Result<u32, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
                number.ok_or_else(|| format!("Invalid message: {name} must be a whole number"))
            }
        }
    }

    fn port(&self, name: &str, wrong: &str) -> Result<u16, String> {
        let port = self.number(name, 22).ok().and_then(|port| u16::try_from(port).ok());
        port.filter(|port| *port > 0).ok_or_else(|| wrong.to_owned())
    }

    fn size(&self) -> Result<Size, String> {
        Ok(Size::new(self.number("cols", 80)?, self.number("rows", 24)?))
    }
}

impl Connect {
    fn read(fields: &Fields<'_>) -> Result<Self, String> {
        let mode = match fields.text("connection_mode", NAME_MAX)?.unwrap_or("direct") {
            "" | "direct" => Mode::Direct { port: fields.port("port", "Invalid port (must be 1-65535)")? },
            "proxy" => {
                let host = fields.name("proxy_host", "localhost").ok().filter(|host| is_host(host));
                let host = host.ok_or("Invalid proxy host format")?;
                Mode::Proxy { host, port: fields.port("proxy_port", "Invalid proxy port (must be 1-65535)")? }
            }
            _ => return Err("Invalid message: connection_mode must be direct or proxy".to_owned()),
        };
        let connect = Self {
            mode,
            username: fields.name("username", "root")?,
            terminal: fields.name("terminal", "xterm-256color")?,
            size: fields.size()?,
            password: fields.secret("password", PASSWORD_MAX)?,
            private_key: fields.secret("privateKey", KEY_MAX)?,
            passphrase: fields.secret("passphrase", PASSWORD_MAX)?,
        };
        if connect.password.is_none() && connect.private_key.is_none() {
            return Err("No authentication method provided (password or private key required)".to_owned());
        }
        Ok(connect)
    }

    /// `user@host:port`, for people; `host` is where direct mode goes.
    #[must_use]
    pub fn target(&self, host: &str) -> String {
        match &self.mode {
            Mode::Direct { port } => format!("{}@{host}:{port}", self.username),
            Mode::Proxy { host, port } => format!("{}@{host}:{port}", self.username),
        }
    }
}

/// What agents take for a host (protocol 2.5): RFC 1123 labels, or IPv4.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

/// To the browser, and nothing else.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToBrowser<'a> {
    /// The shell is open.
    Connected,
    /// What it wrote.
    Data {
        /// Text.
        data: &'a str,
    },
    /// What went wrong; the socket stays.
    Error {
        /// For people.
        message: &'a str,
    },
    /// The shell is gone.
    Closed {
        /// Its status, where it told one. Upstream's UI does not look at it; `patchbay ssh` ends with it.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_status: Option<u32>,
    },
}

impl ToBrowser<'_> {
    /// As it is sent.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn read(text: &str) -> FromBrowser {
        FromBrowser::parse(text).unwrap().unwrap()
    }

    fn connect(text: &str) -> Connect {
        let FromBrowser::Connect(connect) = read(text) else { panic!("{text}") };
        *connect
    }

    fn wrong(fields: &str) -> String {
        FromBrowser::parse(&format!(r#"{{"type":"connect","password":"hunter2",{fields}}}"#)).unwrap_err()
    }

    #[test]
    fn what_the_ui_sends_is_read() {
        let direct = connect(
            r#"{"type":"connect","username":"ann","password":"pw","terminal":"xterm-256color","cols":132,"rows":43}"#,
        );
        assert_eq!((direct.mode.clone(), direct.username.as_str()), (Mode::Direct { port: 22 }, "ann"));
        assert_eq!(direct.size, Size { cols: 132, rows: 43 });
        assert_eq!(direct.target("192.0.2.1"), "ann@192.0.2.1:22");
        assert_eq!(direct.password.unwrap().expose_secret(), "pw");
        let proxied = connect(
            r#"{"type":"connect","connection_mode":"proxy","privateKey":"k","passphrase":"p","proxy_port":2222}"#,
        );
        assert_eq!(proxied.mode, Mode::Proxy { host: "localhost".into(), port: 2222 });
        assert_eq!((proxied.target("x").as_str(), proxied.size), ("root@localhost:2222", Size { cols: 80, rows: 24 }));
        assert!(matches!(read(r#"{"type":"input","data":"ls\r"}"#), FromBrowser::Input(data) if data == "ls\r"));
        let resize = read(r#"{"type":"resize","cols":0,"rows":99999}"#);
        assert!(matches!(resize, FromBrowser::Resize(Size { cols: 1, rows: SIDE_MAX })), "{resize:?}");
        assert!(matches!(read(r#"{"type":"disconnect"}"#), FromBrowser::Disconnect));
        assert!(FromBrowser::parse(r#"{"type":"reboot"}"#).unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_is_named_in_upstreams_words_where_it_has_some() {
        for (fields, why) in [
            (r#""port":0"#, "Invalid port (must be 1-65535)"),
            (r#""port":"22""#, "Invalid port (must be 1-65535)"),
            (r#""connection_mode":"proxy","proxy_port":"22abc""#, "Invalid proxy port (must be 1-65535)"),
            (r#""connection_mode":"proxy","proxy_port":70000"#, "Invalid proxy port (must be 1-65535)"),
            (r#""connection_mode":"proxy","proxy_host":7"#, "Invalid proxy host format"),
            (r#""connection_mode":"proxy","proxy_host":"a b""#, "Invalid proxy host format"),
            (r#""connection_mode":"proxy","proxy_host":"::1""#, "Invalid proxy host format"),
            (r#""connection_mode":"teleport""#, "Invalid message: connection_mode must be direct or proxy"),
            (r#""username":"a\nb""#, "Invalid message: username has control characters"),
            (r#""cols":22.5"#, "Invalid message: cols must be a whole number"),
            (r#""privateKey":7"#, "Invalid message: privateKey must be text"),
        ] {
            assert_eq!(wrong(fields), why);
        }
        let nothing = FromBrowser::parse(r#"{"type":"connect","password":""}"#).unwrap_err();
        assert_eq!(nothing, "No authentication method provided (password or private key required)");
        let long = format!(r#""privateKey":"{}""#, "x".repeat(KEY_MAX + 1));
        assert_eq!(wrong(&long), "Invalid message: privateKey is longer than 32768 bytes");
        for none in ["", "[]", "7", r#"{"type":7}"#, "{", r#"{"data":"x"}"#] {
            assert_eq!(FromBrowser::parse(none).unwrap_err(), "Invalid message");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let text = r#"{"type":"connect","password":"hunter2","privateKey":"hunter2","passphrase":"hunter2"}"#;
        assert!(!format!("{:?}", read(text)).contains("hunter2"));
        assert!(!wrong(r#""passphrase":["hunter2"]"#).contains("hunter2"));
    }

    #[test]
    fn what_the_ui_reads_is_sent() {
        assert_eq!(ToBrowser::Connected.text(), r#"{"type":"connected"}"#);
        assert_eq!(ToBrowser::Data { data: "a\u{1b}" }.text(), r#"{"type":"data","data":"a\u001b"}"#);
        assert_eq!(ToBrowser::Error { message: "no" }.text(), r#"{"type":"error","message":"no"}"#);
        assert_eq!(ToBrowser::Closed { exit_status: None }.text(), r#"{"type":"closed"}"#);
        assert_eq!(ToBrowser::Closed { exit_status: Some(3) }.text(), r#"{"type":"closed","exit_status":3}"#);
    }
}

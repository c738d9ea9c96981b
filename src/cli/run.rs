//! What each command does.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use super::{Cli, Command, ConfigArgs, Host, PasswordArgs, User, output};
use crate::{
    admin::{self, Executor as _},
    check, client,
    config::{self, Config, Password, Problems, Role},
    data_dir::{DataDir, Held},
    logging, password, serve,
};

/// While a server starts or stops it holds the data directory but doesn't listen.
const BETWEEN_STATES: Duration = Duration::from_secs(15);

/// Runs one command to its end; for a server that is a long time.
///
/// # Errors
/// Everything that keeps it from doing what was asked.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli.config.or_else(file_from_environment);
    let load = |role| Config::load(role, file.as_deref(), std::env::vars_os());
    let done = match cli.command {
        // Its exit status is the remote shell's.
        Some(Command::Ssh(args)) => return Ok(client::ssh(&args).await),
        None => serve::embedded(load(Role::Embedded)?).await,
        Some(Command::Gateway) => serve::gateway(load(Role::Gateway)?).await,
        Some(Command::Worker) => serve::worker(load(Role::Worker)?).await,
        Some(Command::Config(args)) => config_command(&args, cli.json, load),
        Some(Command::Host(command)) => host(command, cli.json, &load(Role::Embedded)?).await,
        Some(Command::User(command)) => user(command, cli.json, &load(Role::Embedded)?).await,
        Some(Command::Migrate) => {
            let config = load(Role::Embedded)?;
            let done = if config.is_shared() {
                logging::init("warn", None)?;
                serve::migrate(&config).await?
            } else {
                ask(&config, json!({"op": "migrate"})).await?
            };
            show(cli.json, &done, || "The database has this version's schema.\n".to_owned())
        }
        Some(Command::Check { url }) => {
            logging::init("warn", None)?;
            let done = check::check(&load(Role::Embedded)?, &url).await?;
            show(cli.json, &done, || {
                let (connected, delivered) = (&done["connected_ms"], &done["delivered_ms"]);
                format!(
                    "An agent connected in {connected} ms; a command was delivered to it {delivered} ms after it was asked for.\n"
                )
            })
        }
        Some(Command::Drain) => {
            let config = load(Role::Embedded)?;
            let done = match admin::call(&config.data_dir, &json!({"op": "drain"})).await? {
                Some(done) => done,
                // A gateway or a worker of its own has no socket there.
                None if admin::drain(config.internal_listen).await? => json!({"draining": true}),
                None => bail!(
                    "no server runs on the data directory {}, and nobody listens on {} (PATCHBAY_INTERNAL_LISTEN)",
                    config.data_dir.display(),
                    config.internal_listen
                ),
            };
            show(cli.json, &done, || "The server is draining.\n".to_owned())
        }
        Some(Command::Login { url, username, ca }) => {
            let done = client::login(&url, username, ca.as_deref()).await?;
            show(cli.json, &done, || format!("Logged in to {} as {}.\n", text(&done, "url"), text(&done, "username")))
        }
        Some(Command::Logout { url }) => {
            let done = client::logout(url.as_deref()).await?;
            show(cli.json, &done, || match done["told"] == true {
                true => format!("Logged out of {}.\n", text(&done, "url")),
                false => format!(
                    "Forgot the login at {}. The server was not told: {}. Its session ends after 30 min without use.\n",
                    text(&done, "url"),
                    text(&done, "why"),
                ),
            })
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn text<'a>(done: &'a Value, key: &str) -> &'a str {
    done[key].as_str().unwrap_or("?")
}

fn file_from_environment() -> Option<PathBuf> {
    std::env::var_os(config::CONFIG_FILE).filter(|path: &OsString| !path.is_empty()).map(PathBuf::from)
}

fn config_command(
    args: &ConfigArgs,
    json: bool,
    load: impl Fn(Role) -> Result<Config, Problems>,
) -> anyhow::Result<()> {
    if !args.check {
        return output::print(&if json { pretty(&config::as_json()) } else { config::as_commented_toml() });
    }
    match load(args.role) {
        Ok(_) if json => output::print(&pretty(&json!({"ok": true, "problems": []}))),
        Ok(_) => output::print("The settings are valid."),
        Err(problems) => {
            if json {
                output::print(&pretty(&json!({"ok": false, "problems": problems.lines()})))?;
            }
            Err(problems.into())
        }
    }
}

async fn host(command: Host, json: bool, config: &Config) -> anyhow::Result<()> {
    match command {
        Host::Add { name } => {
            let host = ask(config, json!({"op": "host_add", "name": name})).await?;
            show(json, &host, || credentials("Added", &host, config))
        }
        Host::List => {
            let hosts = ask(config, json!({"op": "host_list"})).await?;
            show(json, &hosts, || output::table(&hosts, output::HOST_COLUMNS))
        }
        Host::Remove { id } => {
            let done = ask(config, json!({"op": "host_remove", "id": id})).await?;
            show(json, &done, || format!("Removed {id}.\n"))
        }
        Host::RotateKey { id } => {
            let host = ask(config, json!({"op": "host_rotate_key", "id": id})).await?;
            show(json, &host, || credentials("New key for", &host, config))
        }
        Host::SshKeys { id } => {
            let keys = ask(config, json!({"op": "host_ssh_keys", "id": id})).await?;
            show(json, &keys, || output::table(&keys, output::SSH_KEY_COLUMNS))
        }
        Host::ForgetSshKeys { id, port } => {
            let said = ask(config, json!({"op": "host_forget_ssh_keys", "id": id, "port": port})).await?;
            show(json, &said, || {
                format!("Forgotten: {}. The next key that the host shows is trusted.", said["forgotten"])
            })
        }
    }
}

async fn user(command: User, json: bool, config: &Config) -> anyhow::Result<()> {
    let (verb, name, password, mut request) = match command {
        User::Add { name, role, password } => {
            ("Added", name.clone(), password, json!({"op": "user_add", "username": name, "role": role}))
        }
        User::Passwd { name, password } => {
            ("New password for", name.clone(), password, json!({"op": "user_passwd", "username": name}))
        }
    };
    let (password, generated) = choose(&password)?;
    request["password"] = password.expose().into();
    let mut user = ask(config, request).await?;
    if generated && user.is_object() {
        user["password"] = password.expose().into();
    }
    show(json, &user, || {
        let shown_once = if generated { "\nThe password is shown this once.\n" } else { "" };
        format!("{verb} {name}.\n\n{}{shown_once}", output::details(&user, &["id", "username", "role", "password"]))
    })
}

/// The password, and whether we made it up.
fn choose(args: &PasswordArgs) -> anyhow::Result<(Password, bool)> {
    Ok(match args.password_stdin {
        true => (password::read_line(std::io::stdin().lock())?, false),
        false => (password::generate(), true),
    })
}

fn credentials(verb: &str, host: &Value, config: &Config) -> String {
    let text = |key: &str| host[key].as_str().unwrap_or("?").to_owned();
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    let url = config.public_url.as_ref().map_or_else(|| format!("{scheme}://{}", config.listen), ToString::to_string);
    format!(
        "{verb} {}.\n\n{}\nThe key is shown this once. On the host, as root:\n\n  patchmon-agent config set-api {} {} {url}\n",
        text("name"),
        output::details(host, &["id", "name", "api_id", "api_key"]),
        text("api_id"),
        text("api_key"),
    )
}

/// Has the running server do it, or does it here when none runs.
async fn ask(config: &Config, request: Value) -> anyhow::Result<Value> {
    logging::init("warn", None)?;
    if config.is_shared() {
        return serve::run_shared(config, request).await;
    }
    let deadline = tokio::time::Instant::now() + BETWEEN_STATES;
    loop {
        if let Some(answer) = admin::call(&config.data_dir, &request).await? {
            return Ok(answer);
        }
        match DataDir::open(&config.data_dir) {
            Ok(data_dir) => {
                let executor = serve::executor_without_server(config, &data_dir).await?;
                return executor.run(request).await.map_err(|error| anyhow!("{error}"));
            }
            Err(error) if error.is::<Held>() && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) if error.is::<Held>() => return Err(error.context("the server does not answer")),
            Err(error) => return Err(error),
        }
    }
}

fn show(json: bool, value: &Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    output::print(&if json { pretty(value) } else { text() })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

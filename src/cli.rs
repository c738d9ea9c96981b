//! The command line.

mod output;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Role;

pub use output::complain;
pub use run::run;

/// The real-time plane for fleets of Linux hosts that run PatchMon agents.
///
/// Without a command it serves: gateway and worker in one process, on SQLite, with nothing else to install.
#[derive(Debug, Parser)]
#[command(name = "patchbay", version = crate::version::VERSION, max_term_width = 100, subcommand_help_heading = "Commands", after_help = EXAMPLES)]
pub struct Cli {
    /// TOML file with settings; the environment wins over it [env: PATCHBAY_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  patchbay                          start; agents connect to 127.0.0.1:3001
  PATCHBAY_LISTEN=0.0.0.0:3001 patchbay
                                    the same, for all networks
  patchbay host add web-14          make a host and print its credentials
  patchbay user add ann --role host_manager
                                    make a user and print its password
  patchbay config > patchbay.toml   every setting with its default, explained
  patchbay config --check           say what is wrong with the settings in force
  patchbay login https://patchbay.example
                                    log in from a shell elsewhere, and then
  patchbay ssh ann@web-14           open a shell on a host

Admin commands work beside a running server, through a socket in its data directory, and without one.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve sockets and HTTP only, beside workers elsewhere
    ///
    /// Needs a bus and a database that several processes share: PATCHBAY_BUS_URL=nats://…, DATABASE_URL=postgres://…,
    /// and the same PATCHBAY_SECRET everywhere.
    Gateway,

    /// Run jobs only, beside gateways elsewhere
    ///
    /// Needs a bus and a database that several processes share: PATCHBAY_BUS_URL=nats://…, DATABASE_URL=postgres://…,
    /// and the same PATCHBAY_SECRET everywhere.
    Worker,

    /// Manage hosts
    #[command(subcommand)]
    Host(Host),

    /// Manage users
    #[command(subcommand)]
    User(User),

    /// Print every setting with its default, or check those in force
    Config(ConfigArgs),

    /// Bring the database to this version's schema, and stop
    ///
    /// Serving does the same when it starts.
    Migrate,

    /// Connect an agent of a host made for it, have a command delivered, and remove the host again
    ///
    /// For gateways and workers that share a database and a bus: run it where DATABASE_URL and PATCHBAY_BUS_URL are
    /// theirs. Fails with the step that failed.
    Check {
        /// Where agents connect, such as http://patchbay:3001; the certificate of https:// is not looked at
        url: String,
    },

    /// Have the running server close its sockets and stop
    ///
    /// It answers 503 to newcomers, closes what is open over PATCHBAY_DRAIN_SECS, and ends, as after SIGTERM.
    Drain,

    /// Log in to a server, for `patchbay ssh`
    ///
    /// Asks for the password without echo; when stdin is no terminal the password is its first line. The login is kept
    /// in ~/.config/patchbay/credentials.json, or below XDG_CONFIG_HOME, or in the file that PATCHBAY_CREDENTIALS
    /// names; only you can read it. There can be logins at several servers: the last one is used where none is named.
    /// It ends after 30 minutes in which it was not used.
    Login {
        /// Where the server is, such as https://patchbay.example or https://ops.example/patchbay
        url: String,
        /// The name to log in with; asked for if it is not given
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
        /// Certificates (PEM) of the authorities to trust for this server instead of the system's; kept with the login
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },

    /// End a login
    ///
    /// The server ends the session with all that is open in it. If the server is away the login is forgotten here all
    /// the same, and its session ends after 30 minutes without use.
    Logout {
        /// Which one, as it was given to `patchbay login` [default: the last login]
        url: Option<String>,
    },

    /// Open a shell on a host, through the server
    ///
    /// The server connects to the host by SSH; with --proxy the host's agent does, so that the host needs no open port.
    /// Log in first with `patchbay login`.
    #[command(after_long_help = SSH_NOTES)]
    Ssh(SshArgs),
}

const SSH_NOTES: &str = "\
Examples:
  patchbay ssh web-14                       as root, with a password
  patchbay ssh ann@web-14 -i ~/.ssh/id_ed25519
                                            with a private key; its passphrase is asked for
  patchbay ssh web-14 --proxy               through the agent, to an SSH server on the host itself
  echo 'df -h /' | PATCHBAY_SSH_PASSWORD=… patchbay ssh web-14
                                            without a terminal: ends when the shell has read all

Password or private key go through the server, which uses them once and keeps neither.
In a terminal, ~. at the beginning of a line ends the session, and ~~ types one tilde.
The exit status is that of the remote shell, or 255 after an error.";

/// Where to, and as whom.
#[derive(Debug, Args)]
pub struct SshArgs {
    /// The host's name, or a part that only its name has, or its id; USER@HOST names the user as well
    pub host: String,
    /// The user on the host [default: root]
    #[arg(short = 'l', long, value_name = "USER")]
    pub user: Option<String>,
    /// The port of the SSH server
    #[arg(short, long, value_name = "PORT", default_value = "22", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Log in with this private key instead of a password
    #[arg(short, long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Have the host's agent connect, instead of the server
    #[arg(long)]
    pub proxy: bool,
    /// Whom the agent connects to
    #[arg(long, value_name = "NAME", default_value = "localhost", requires = "proxy")]
    pub proxy_host: String,
    /// The server whose login is used [default: the last login]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Host {
    /// Make a host and print the credentials that its agent needs
    ///
    /// The key is shown this once: only its hash is kept.
    Add {
        /// What people call it
        name: String,
    },
    /// List all hosts
    List,
    /// Remove a host; its agent is disconnected at once
    Remove {
        /// The id that `host list` shows
        id: String,
    },
    /// Give a host a new key; its agent is disconnected at once and needs the new one
    RotateKey {
        /// The id that `host list` shows
        id: String,
    },
    /// List the SSH keys that a host showed first, and must show from then on
    SshKeys {
        /// The id that `host list` shows, or the name
        id: String,
    },
    /// Forget a host's SSH keys; the next one that it shows is trusted
    ForgetSshKeys {
        /// The id that `host list` shows, or the name
        id: String,
        /// That of this port alone
        #[arg(long)]
        port: Option<u16>,
    },
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// Make a user; prints a generated password, or takes one from stdin
    Add {
        /// The name to log in with
        name: String,
        /// What the user may do, such as admin, host_manager or readonly
        #[arg(long)]
        role: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Give a user a new password; all its sessions end
    Passwd {
        /// The name to log in with
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
    },
}

/// Never an argument: other users of the machine can read those.
#[derive(Debug, Args)]
pub struct PasswordArgs {
    /// Read the password from the first line of stdin instead of generating one
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Check the settings in force instead of printing the defaults
    #[arg(long)]
    pub check: bool,
    /// Check for this role
    #[arg(long, value_enum, default_value = "embedded", requires = "check")]
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_and_config_stand_anywhere() {
        let cli = Cli::try_parse_from(["patchbay", "host", "list", "--json", "--config", "x"]).expect("parses");
        assert!(cli.json && cli.config.is_some());
        assert!(matches!(cli.command, Some(Command::Host(Host::List))));
    }

    #[test]
    fn a_password_is_no_argument() {
        assert!(Cli::try_parse_from(["patchbay", "user", "passwd", "ann", "hunter2hunter2"]).is_err());
        assert!(Cli::try_parse_from(["patchbay", "user", "add", "ann", "--password", "x"]).is_err());
    }

    #[test]
    fn a_host_is_reached_as_by_ssh() {
        let cli =
            Cli::try_parse_from(["patchbay", "ssh", "-l", "ann", "web", "-p", "2222", "-i", "key"]).expect("parses");
        let Some(Command::Ssh(args)) = cli.command else { panic!("not ssh") };
        assert_eq!(
            (args.host.as_str(), args.user.as_deref(), args.port, args.proxy),
            ("web", Some("ann"), 2222, false)
        );
        for wrong in
            [&["ssh"][..], &["ssh", "web", "-p", "0"], &["ssh", "web", "--proxy-host", "db"], &["ssh", "a", "ls"]]
        {
            assert!(Cli::try_parse_from([&["patchbay"], wrong].concat()).is_err(), "{wrong:?}");
        }
        assert!(Cli::try_parse_from(["patchbay", "login", "https://p", "--password", "x"]).is_err());
    }

    #[test]
    fn every_command_explains_itself() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}

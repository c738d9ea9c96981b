//! The command line.

mod output;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Role;

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

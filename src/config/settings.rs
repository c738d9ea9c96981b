//! The table of settings. To add one, add its lines here: the doc comment is what `patchbay config` prints, then the
//! variable, the field, its type (`values.rs`, `urls.rs`) and the default as it would stand in the environment. An
//! `Option` without a default is a setting that may be absent.

use std::{net::SocketAddr, path::PathBuf};

use bus::SubjectPrefix;
use gateway::terminal::target::Allowed;
use ipnet::IpNet;

use super::{
    setting::settings,
    urls::{BusUrl, DatabaseUrl, Origin, PublicUrl},
    values::{List, Password, Secret, Whole},
};

settings! {
    /// Where everything lives that must survive a restart: the database, the secret, the socket of the admin commands.
    /// Created with mode 0700 when it isn't there. One server at a time.
    "PATCHBAY_DATA_DIR" data_dir: PathBuf = "./data";

    /// Where agents, browsers and API clients connect.
    "PATCHBAY_LISTEN" listen: SocketAddr = "127.0.0.1:3001";

    /// Where health (/livez, /readyz), /metrics and /drain are served. Keep it off the public network.
    "PATCHBAY_INTERNAL_LISTEN" internal_listen: SocketAddr = "127.0.0.1:3002";

    /// The database: sqlite:<path> (one process), or postgres://user:password@host/database (PostgreSQL 14 or newer, any
    /// number of processes). TLS by ?sslmode=verify-full&sslrootcert=<file>, and sslcert, sslkey for a client's
    /// certificate. Behind PgBouncer: session mode only. Default: patchbay.db in the data directory.
    "DATABASE_URL" database_url: Option<DatabaseUrl>;

    /// PostgreSQL: most connections of this process. A worker needs at least 4.
    "PATCHBAY_DB_CONNECTIONS" db_connections: Whole<2, 1_000> = "10";

    /// PostgreSQL: for how many seconds a caller waits for a free connection before it is answered 503.
    "PATCHBAY_DB_WAIT_SECS" db_wait_secs: Whole<1, 60> = "3";

    /// PostgreSQL: after how many seconds a statement is given up, by the server and by us.
    "PATCHBAY_DB_STATEMENT_SECS" db_statement_secs: Whole<1, 600> = "10";

    /// What carries messages between gateways and workers: memory: within one process, or NATS, such as
    /// nats://user:password@host:4222. A lone user is a token; tls:// insists on TLS; several servers are separated by
    /// commas and have the same login. docs/nats.md says which permissions it needs.
    "PATCHBAY_BUS_URL" bus_url: BusUrl = "memory:";

    /// The first part of every subject on NATS. Installations that share a NATS must have different ones, none of which
    /// begins with another one and a dot.
    "PATCHBAY_BUS_PREFIX" bus_prefix: SubjectPrefix = "patchbay";

    /// Connections to NATS over which a gateway spreads what its agents listen to, beside one for everything else. Each is
    /// at most one core's work.
    "PATCHBAY_BUS_CONNECTIONS" bus_connections: Whole<1, 64> = "2";

    /// File with the seed of the nkey that logs in to NATS.
    "PATCHBAY_BUS_NKEY_FILE" bus_nkey_file: Option<PathBuf>;

    /// File with JWT and seed that log in to NATS, as `nsc generate creds` writes it.
    "PATCHBAY_BUS_CREDENTIALS_FILE" bus_credentials_file: Option<PathBuf>;

    /// PEM file with the authorities that NATS' certificate is checked against. Default: those of the system. With it, or
    /// with a certificate of our own, NATS is spoken to over TLS alone.
    "PATCHBAY_BUS_TLS_CA" bus_tls_ca: Option<PathBuf>;

    /// PEM file with the certificate chain that we show NATS.
    "PATCHBAY_BUS_TLS_CERT" bus_tls_cert: Option<PathBuf>;

    /// PEM file with the private key of that certificate.
    "PATCHBAY_BUS_TLS_KEY" bus_tls_key: Option<PathBuf>;

    /// At least 32 bytes, from which the keys that sign sessions are derived. Default: generated into the data
    /// directory. Changing it logs every user out.
    "PATCHBAY_SECRET" secret: Option<Secret>;

    /// The password of the user `admin`, 12 to 71 bytes, read only when that user is made: at the very first start.
    /// Default: generated; printed once on a terminal, else written to the file admin-password in the data directory.
    "PATCHBAY_ADMIN_PASSWORD" admin_password: Option<Password>;

    /// PEM file with the certificate chain. With it and the key Patchbay serves TLS itself; both are read again when
    /// they change.
    "PATCHBAY_TLS_CERT" tls_cert: Option<PathBuf>;

    /// PEM file with the private key of the certificate.
    "PATCHBAY_TLS_KEY" tls_key: Option<PathBuf>;

    /// Networks of the reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed. From anyone else these
    /// headers are ignored.
    "PATCHBAY_TRUSTED_PROXIES" trusted_proxies: List<IpNet> = "";

    /// The URL under which browsers reach this server, if that isn't what they send as Host.
    "PATCHBAY_PUBLIC_URL" public_url: Option<PublicUrl>;

    /// Further origins whose pages may open sockets here.
    "PATCHBAY_ALLOWED_ORIGINS" allowed_origins: List<Origin> = "";

    /// Over how many seconds the sockets are closed when the server stops, so that agents don't all come back at once.
    /// Default: 0 in one process, 30 for a gateway.
    "PATCHBAY_DRAIN_SECS" drain_secs: Option<Whole<0, 3600>>;

    /// Agents that one gateway takes; further ones get 503 and try another.
    "PATCHBAY_MAX_CONNECTIONS" max_connections: Whole<1, 1_000_000> = "50000";

    /// Threads for password hashes. 0 is one for each core.
    "PATCHBAY_BCRYPT_THREADS" bcrypt_threads: Whole<0, 256> = "0";

    /// Password hashes that may wait for a thread; beyond it the answer is 503 at once.
    "PATCHBAY_BCRYPT_QUEUE" bcrypt_queue: Whole<1, 100_000> = "64";

    /// Failed logins that one address may have at once; so many come back in a minute, one by one.
    "PATCHBAY_LOGIN_FAILURES_PER_MIN" login_failures_per_min: Whole<1, 1_000_000> = "10";

    /// Failed agent authentications that one address may have at once; so many come back in a minute. A right key always
    /// passes.
    "PATCHBAY_AGENT_AUTH_FAILURES_PER_MIN" agent_auth_failures_per_min: Whole<1, 1_000_000> = "60";

    /// How many reports, refreshes and scans are started in a second over the whole fleet.
    "PATCHBAY_PACE_PER_SEC" pace_per_sec: Whole<1, 100_000> = "200";

    /// After how many seconds a command that could not be sent is given up, unless the request says otherwise.
    "PATCHBAY_COMMAND_EXPIRES_SECS" command_expires_secs: Whole<1, 31_536_000> = "86400";

    /// For how many days finished commands are kept.
    "PATCHBAY_RETENTION_DAYS" retention_days: Whole<1, 36_500> = "30";

    /// Where direct terminals may dial beside ordinary addresses, and at which ports: entries of CIDR[:port[-port]], no port
    /// is all. Loopback, link-local and metadata addresses are dialled only when an entry of their own net names them; where
    /// an ordinary address is covered by entries, it is dialled at their ports alone.
    "PATCHBAY_SSH_ALLOW" ssh_allow: List<Allowed> = "";

    /// true: a JWT may open a terminal as ?token=, as old clients bring it. It then stands in the logs of every proxy on
    /// the way.
    "PATCHBAY_ALLOW_TOKEN_QUERY" allow_token_query: bool = "false";

    /// Terminals that one gateway holds.
    "PATCHBAY_TERMINALS_MAX" terminals_max: Whole<1, 100_000> = "500";

    /// Terminals that one user may have open.
    "PATCHBAY_TERMINALS_PER_USER" terminals_per_user: Whole<1, 10_000> = "10";

    /// Terminals that may be open on one host.
    "PATCHBAY_TERMINALS_PER_HOST" terminals_per_host: Whole<1, 10_000> = "10";

    /// Terminals that may be open through an agent before 2.0: two that are busy at once kill it.
    "PATCHBAY_TERMINALS_PER_OLD_AGENT" terminals_per_old_agent: Whole<1, 100> = "1";

    /// After how many seconds without anything typed or written a terminal is closed; the user is warned a minute before.
    "PATCHBAY_TERMINAL_IDLE_SECS" terminal_idle_secs: Whole<61, 604_800> = "900";

    /// After how many seconds any terminal is closed.
    "PATCHBAY_TERMINAL_MAX_SECS" terminal_max_secs: Whole<61, 2_592_000> = "28800";

    /// true: terminals are recorded (what the shell writes, never what is typed) on every host that does not say
    /// otherwise.
    "PATCHBAY_RECORD_TERMINALS" record_terminals: bool = "false";

    /// For how many days recordings of terminals that have ended are kept, though not longer than the audit log.
    "PATCHBAY_RECORDING_RETENTION_DAYS" recording_retention_days: Whole<1, 36_500> = "30";

    /// For how many days the audit log and the list of terminals that have ended are kept.
    "PATCHBAY_AUDIT_RETENTION_DAYS" audit_retention_days: Whole<1, 36_500> = "365";

    /// How many events a client of /api/v1/events can have missed and still get when it comes back.
    "PATCHBAY_EVENTS_WINDOW" events_window: Whole<16, 1_000_000> = "4096";

    /// MiB of agents' reports held in memory while the database is away.
    "PATCHBAY_RESULT_HOLD_MIB" result_hold_mib: Whole<1, 65_536> = "64";
}

use std::{ffi::OsString, io::Write as _, path::PathBuf};

use super::{settings::SETTINGS, *};

fn load_as(role: Role, file: Option<&Path>, environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::load(role, file, environment).map_err(|problems| problems.0)
}

fn load(environment: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    load_as(Role::Embedded, None, environment)
}

/// The only problem that this environment has.
fn problem(name: &str, value: &str) -> String {
    let mut problems = load(&[(name, value)]).expect_err("this should have been refused");
    assert_eq!(problems.len(), 1, "{problems:?}");
    let line = problems.remove(0);
    assert!(!line.contains('\n'), "{line:?}");
    line
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("write");
    file
}

#[test]
fn nothing_set_gives_the_defaults() {
    let config = load(&[]).expect("defaults");
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:3001");
    assert_eq!(config.internal_listen.to_string(), "127.0.0.1:3002");
    assert!(matches!(config.database(), DatabaseUrl::Sqlite(path) if path == Path::new("./data/patchbay.db")));
    assert!(matches!(config.bus_url, BusUrl::Memory));
    assert_eq!(config.drain(), Duration::ZERO);
    assert_eq!(config.max_connections.get(), 50_000);
    assert!(config.bcrypt_threads() >= 1);
    assert!(config.trusted_proxies.is_empty());
}

#[test]
fn every_key_is_the_variable_in_lower_case_and_the_name_of_its_field() {
    let config = format!("{:?}", load(&[]).expect("defaults"));
    for setting in SETTINGS {
        assert!(config.contains(&format!("{}: ", setting.key())), "{} is not a field", setting.key());
    }
}

#[test]
fn every_setting_says_what_it_is_for() {
    for setting in SETTINGS {
        assert!(setting.doc.concat().trim().ends_with('.'), "{}", setting.name);
    }
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = file_with("listen = \"0.0.0.0:1\"\npace_per_sec = 7\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n");
    let config = load_as(Role::Embedded, Some(file.path()), &[("PATCHBAY_LISTEN", "0.0.0.0:2")]).expect("loads");
    assert_eq!(config.listen.to_string(), "0.0.0.0:2");
    assert_eq!(config.pace_per_sec.get(), 7);
    assert_eq!(config.trusted_proxies.len(), 2);
}

#[test]
fn an_empty_variable_is_not_set() {
    let file = file_with("pace_per_sec = 7\n");
    let environment = [("PATCHBAY_PACE_PER_SEC", ""), ("PATCHBAY_PUBLIC_URL", ""), ("PATCHBAY_LISTEN", "")];
    let config = load_as(Role::Embedded, Some(file.path()), &environment).expect("loads");
    assert_eq!(config.pace_per_sec.get(), 7);
    assert_eq!(config.public_url, None);
    assert_eq!(config.listen.port(), 3001);
}

#[test]
fn text_that_looks_like_a_number_stays_text() {
    for password in ["000000000007", "1e3000000000", "true        ", "0x1234567890"] {
        let config = load(&[("PATCHBAY_ADMIN_PASSWORD", password)]).expect("loads");
        assert_eq!(config.admin_password.expect("set").expose(), password);
    }
    let file = file_with("admin_password = 12345678\n");
    let problems = load_as(Role::Embedded, Some(file.path()), &[]).expect_err("a number is no password");
    assert!(problems[0].ends_with("has the wrong type: expected a string in quotes"), "{problems:?}");
}

#[test]
fn an_error_names_the_variable_its_value_and_what_is_expected() {
    assert_eq!(
        problem("PATCHBAY_LISTEN", "localhost"),
        "PATCHBAY_LISTEN is \"localhost\": expected an address and a port, such as 127.0.0.1:3001, 0.0.0.0:3001 or \
         [::]:3001"
    );
    for number in ["0", "-1", "+5", "1e3", "5.0", " 5", "99999999999999999999", "five"] {
        assert_eq!(
            problem("PATCHBAY_PACE_PER_SEC", number),
            format!("PATCHBAY_PACE_PER_SEC is {number:?}: expected a whole number from 1 to 100000")
        );
    }
    assert!(problem("PATCHBAY_TRUSTED_PROXIES", "10.0.0.0/8,ten").contains("\"ten\" is the one that fails"));
    assert!(problem("PATCHBAY_LISTEN", &"x\n".repeat(200)).len() < 300);
}

#[test]
fn all_problems_are_reported_at_once() {
    let problems = load(&[("PATCHBAY_LISTEN", "x"), ("PATCHBAY_PACE_PER_SEC", "x"), ("PATCHBAY_PACE", "1")]);
    assert_eq!(problems.expect_err("three").len(), 3);
}

#[test]
fn a_typing_error_is_told_the_nearest_name() {
    for (wrong, right) in [
        ("PATCHBAY_LISTN", "PATCHBAY_LISTEN"),
        ("PATCHBAY_DATADIR", "PATCHBAY_DATA_DIR"),
        ("PATCHBAY_DATABASE_URL", "DATABASE_URL"),
        ("PATCHBAY_TRUSTED_PROXY", "PATCHBAY_TRUSTED_PROXIES"),
        ("PATCHBAY_BUS", "PATCHBAY_BUS_URL"),
        ("PATCHBAY_listen", "PATCHBAY_LISTEN"),
    ] {
        let expected = format!("{wrong} is not a setting; did you mean {right}?");
        assert_eq!(problem(wrong, "x"), expected);
    }
    assert!(problem("PATCHBAY_XYZZY_PLUGH", "x").ends_with("`patchbay config` lists all of them"));
}

#[test]
fn an_unknown_name_in_the_file_is_told_the_nearest_key() {
    let file = file_with("lisetn = \"0.0.0.0:1\"\n");
    let problems = load_as(Role::Embedded, Some(file.path()), &[]).expect_err("unknown");
    assert!(problems[0].ends_with("is not a setting; did you mean listen?"), "{problems:?}");
    let file = file_with("[gateway]\nlisten = \"0.0.0.0:1\"\n");
    assert!(load_as(Role::Embedded, Some(file.path()), &[]).is_err());
}

#[test]
fn a_broken_or_missing_file_is_one_line() {
    let file = file_with("listen = \"0.0.0.0:1\"\npace_per_sec = = 7\n");
    let problems = load_as(Role::Embedded, Some(file.path()), &[]).expect_err("no TOML");
    assert!(problems.len() == 1 && problems[0].contains(":2 is not valid TOML: "), "{problems:?}");
    let problems = load_as(Role::Embedded, Some(Path::new("/nonexistent/p.toml")), &[]).expect_err("missing");
    assert!(problems[0].starts_with("cannot read the configuration file /nonexistent/p.toml: "), "{problems:?}");
}

#[test]
fn service_links_of_kubernetes_are_no_settings() {
    let links = [
        ("PATCHBAY_SERVICE_HOST", "10.0.0.1"),
        ("PATCHBAY_SERVICE_PORT", "3001"),
        ("PATCHBAY_SERVICE_PORT_HTTP", "3001"),
        ("PATCHBAY_PORT", "tcp://10.0.0.1:3001"),
        ("PATCHBAY_PORT_3001_TCP", "tcp://10.0.0.1:3001"),
        ("PATCHBAY_PORT_3001_TCP_PROTO", "tcp"),
        ("PATCHBAY_PORT_3001_TCP_PORT", "3001"),
        ("PATCHBAY_PORT_3001_TCP_ADDR", "10.0.0.1"),
        ("PATCHBAY_INTERNAL_SERVICE_HOST", "10.0.0.2"),
        ("PATCHBAY_INTERNAL_PORT", "udp://10.0.0.2:53"),
        ("PATCHBAY_INTERNAL_PORT_53_UDP_ADDR", "10.0.0.2"),
    ];
    load(&links).expect("links are ignored");
    problem("PATCHBAY_PORT", "3001");
    problem("PATCHBAY_PORT_TCP", "x");
    problem("PATCHBAY_PORT_3001_TCP_COLOUR", "x");
}

#[test]
fn names_of_other_programs_are_none_of_our_business() {
    load(&[("PATCHBAYX", "1"), ("PATH", "/bin"), ("OTEL_SERVICE_NAME", "x"), ("PATCHBAY_CONFIG", "x")]).expect("ok");
    load(&[("PATCHBAY_CREDENTIALS", "x"), ("PATCHBAY_SSH_PASSWORD", "x")]).expect("of login and ssh");
}

#[test]
fn secrets_never_show() {
    let long = "s".repeat(32);
    let config = load(&[("PATCHBAY_SECRET", &long), ("PATCHBAY_ADMIN_PASSWORD", "hunter22hunter")]).expect("loads");
    let shown = format!("{config:?}");
    assert!(!shown.contains(&long) && !shown.contains("hunter22"), "{shown}");
    assert_eq!(
        problem("PATCHBAY_SECRET", "hunter2"),
        "PATCHBAY_SECRET is not usable: it has 7 bytes; expected at least 32 bytes"
    );
    problem("PATCHBAY_ADMIN_PASSWORD", &"x".repeat(73));
    for (name, url, shown) in [
        ("DATABASE_URL", "mysql://u:hunter2@db/x", "mysql://u:***@db/x"),
        ("DATABASE_URL", "mysql://u:hun,t@r2@db/x", "mysql://u:***@db/x"),
        ("PATCHBAY_BUS_URL", "kafka://hunter2@a", "kafka://***@a"),
        ("PATCHBAY_BUS_URL", "amqp://a:hunter2@b,amqp://hunter2@c", "amqp://a:***@b,amqp://***@c"),
        ("PATCHBAY_BUS_URL", "u:hunter2@b", "u:***@b"),
    ] {
        let line = problem(name, url);
        assert!(line.contains(shown) && !line.contains("hunter2"), "{line}");
    }
    let nats = BusUrl::parse_for_test("nats://u:hunter2@h");
    assert!(!format!("{nats:?}").contains("hunter2"));
    let line = problem("PATCHBAY_BUS_URL", "nats://u:hunter2@h:port");
    assert!(line.contains("nats://u:***@h:port") && !line.contains("hunter2"), "{line}");
}

impl BusUrl {
    fn parse_for_test(text: &str) -> Self {
        <Self as values::Value>::parse(text).expect("a bus URL")
    }
}

#[test]
fn a_certificate_needs_its_key() {
    assert!(problem("PATCHBAY_TLS_CERT", "c.pem").contains("PATCHBAY_TLS_KEY is not"));
    assert!(problem("PATCHBAY_TLS_KEY", "k.pem").contains("PATCHBAY_TLS_CERT is not"));
    load(&[("PATCHBAY_TLS_CERT", "c.pem"), ("PATCHBAY_TLS_KEY", "k.pem")]).expect("both");
    assert!(problem("PATCHBAY_BUS_TLS_CERT", "c.pem").contains("PATCHBAY_BUS_TLS_KEY is not"));
}

#[test]
fn the_two_ports_must_differ() {
    let same = [("PATCHBAY_LISTEN", "127.0.0.1:9"), ("PATCHBAY_INTERNAL_LISTEN", "127.0.0.1:9")];
    assert!(load(&same).is_err());
    let chosen_by_the_kernel = [("PATCHBAY_LISTEN", "127.0.0.1:0"), ("PATCHBAY_INTERNAL_LISTEN", "127.0.0.1:0")];
    load(&chosen_by_the_kernel).expect("two free ports");
}

#[test]
fn a_database_is_a_file_or_a_server() {
    for (url, path) in [("sqlite:a.db", "a.db"), ("sqlite://a/b.db", "a/b.db"), ("sqlite:///a/b.db", "/a/b.db")] {
        let config = load(&[("DATABASE_URL", url)]).expect(url);
        assert!(matches!(config.database(), DatabaseUrl::Sqlite(file) if file == Path::new(path)), "{url}");
    }
    for url in ["sqlite:", "sqlite::memory:", "sqlite:a?mode=ro", "a.db", "postgres:x", "mysql://h/d"] {
        problem("DATABASE_URL", url);
    }
    let config =
        load(&[("DATABASE_URL", "postgres://u:p@h/d"), ("PATCHBAY_BUS_URL", "nats://h")]).expect("any adapter");
    assert!(config.is_shared() && !format!("{config:?}").contains("u:p@"));
}

#[test]
fn a_bus_is_in_this_process_or_nats() {
    for url in ["nats://h", "tls://h:4222", "nats://u:p@a,nats://u:p@b", "nats://token@h"] {
        assert!(matches!(load(&[("PATCHBAY_BUS_URL", url)]).expect(url).bus_url, BusUrl::Nats(_)), "{url}");
    }
    for url in ["memory", "http://h", "nats://", "nats://h/x", "nats://a,http://b"] {
        problem("PATCHBAY_BUS_URL", url);
    }
    for prefix in [">", "a.*", "a b", "."] {
        problem("PATCHBAY_BUS_PREFIX", prefix);
    }
    let nkey = ("PATCHBAY_BUS_NKEY_FILE", "seed");
    load(&[("PATCHBAY_BUS_URL", "nats://h"), nkey]).expect("one login");
    // Unused, so no error.
    load(&[nkey, ("PATCHBAY_BUS_CREDENTIALS_FILE", "creds")]).expect("no NATS");
    for more in [("PATCHBAY_BUS_URL", "nats://u:hunter2@h"), ("PATCHBAY_BUS_CREDENTIALS_FILE", "creds")] {
        let problems = load(&[("PATCHBAY_BUS_URL", "nats://h"), nkey, more]).expect_err("two logins");
        assert!(problems.len() == 1 && problems[0].contains("PATCHBAY_BUS_NKEY_FILE"), "{problems:?}");
        assert!(!problems[0].contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn a_role_of_its_own_says_why_it_cannot_start() {
    let problems = load_as(Role::Gateway, None, &[]).expect_err("not on memory: and sqlite:").join("\n");
    for part in ["never reaches a worker", "belongs to one process", "PATCHBAY_SECRET is not set"] {
        assert!(problems.contains(part), "{part:?} is not in {problems}");
    }
    let secret = "s".repeat(32);
    let shared =
        [("PATCHBAY_SECRET", secret.as_str()), ("DATABASE_URL", "postgres://h"), ("PATCHBAY_BUS_URL", "nats://h")];
    load_as(Role::Worker, None, &shared).expect("it has all that it needs");
}

#[test]
fn origins_are_spelt_as_browsers_spell_them() {
    let origins = "HTTPS://Patchbay.Example:443/,http://[::1]:3001 , http://h:81";
    let config = load(&[("PATCHBAY_ALLOWED_ORIGINS", origins)]).expect("loads");
    let spelt: Vec<&str> = config.allowed_origins.iter().map(urls::Origin::as_str).collect();
    assert_eq!(spelt, ["https://patchbay.example", "http://[::1]:3001", "http://h:81"]);
    let config = load(&[("PATCHBAY_PUBLIC_URL", "https://H.example/patchbay/")]).expect("loads");
    let url = config.public_url.expect("set");
    assert_eq!((url.to_string().as_str(), url.origin().as_str()), ("https://h.example/patchbay", "https://h.example"));
    for wrong in ["h.example", "ftp://h", "https://", "https://h:port", "https://u@h", "https://h/?q"] {
        problem("PATCHBAY_PUBLIC_URL", wrong);
    }
    assert!(problem("PATCHBAY_ALLOWED_ORIGINS", "https://h/console").contains("write \"https://h\""));
}

#[test]
fn the_printed_page_is_a_file_that_sets_the_defaults() {
    let page = as_commented_toml();
    let set: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| is_setting(line)).collect();
    assert_eq!(set.len(), SETTINGS.iter().filter(|setting| setting.default.is_some()).count());
    let file = file_with(&set.join("\n"));
    let from_page = load_as(Role::Embedded, Some(file.path()), &[]).expect("the page is valid");
    assert_eq!(format!("{from_page:?}"), format!("{:?}", load(&[]).expect("defaults")));
    for setting in SETTINGS {
        assert!(page.contains(&format!("\n# {}: ", setting.name)), "{} is not printed", setting.name);
    }
}

fn is_setting(line: &str) -> bool {
    line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = ")
}

//! The server under OpenSSH's own client, which shares no code with our ends.

use std::process::Output;

use super::*;

/// Runs a command over SSH; the password is asked for by a program that knows it.
fn ssh(server: &OpenSsh, password: &str, options: &[&str], command: &str) -> Output {
    let helper = tempfile::tempdir().unwrap();
    let ask = helper.path().join("ask");
    fs::write(&ask, "#!/bin/sh\necho \"$PASSWORD_FOR_TEST\"\n").unwrap();
    fs::set_permissions(&ask, fs::Permissions::from_mode(0o700)).unwrap();
    let (host, port) = (server.address().ip().to_string(), server.address().port().to_string());
    Command::new("ssh")
        .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
        .args(["-o", "NumberOfPasswordPrompts=1", "-p", &port, "-l", server.user()])
        .args(options)
        .args([&host, command])
        .env("SSH_ASKPASS", &ask)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("PASSWORD_FOR_TEST", password)
        .env_remove("SSH_AUTH_SOCK")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn preferring(method: &str) -> String {
    format!("PreferredAuthentications={method}")
}

#[test]
fn each_variant_takes_its_way_in_and_no_other() {
    for (variant, way, other) in [
        (Variant::Password, "password", "keyboard-interactive"),
        (Variant::Questions, "keyboard-interactive", "password"),
    ] {
        let server = OpenSsh::start(variant);
        let said = ssh(&server, server.password(), &["-o", &preferring(way)], "id -un");
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), server.user(), "{said:?}\n{}", server.log());
        let said = ssh(&server, server.password(), &["-o", &preferring(other)], "id -un");
        assert!(!said.status.success(), "{variant:?} takes {other}");
        let said = ssh(&server, "wrong", &["-o", &preferring(way)], "id -un");
        assert!(!said.status.success(), "{variant:?} takes any password");
    }
}

#[test]
fn a_legacy_server_takes_old_algorithms_only() {
    let server = OpenSsh::start(Variant::Legacy);
    let said = ssh(&server, server.password(), &[], "true");
    assert!(String::from_utf8_lossy(&said.stderr).contains("no matching"), "{said:?}");
    let old = [
        "-oHostKeyAlgorithms=ssh-rsa",
        "-oKexAlgorithms=diffie-hellman-group14-sha1",
        "-oCiphers=aes128-cbc",
        "-oMACs=hmac-sha1",
    ];
    let said = ssh(&server, server.password(), &old, "echo in");
    assert_eq!(said.stdout, b"in\n", "{said:?}\n{}", server.log());
}

#[test]
fn whoever_lets_go_leaves_nothing_behind() {
    let server = OpenSsh::start(Variant::Password);
    let (user, folder) = (server.user().to_owned(), server.folder().to_owned());
    let exists =
        || fs::read_to_string("/etc/passwd").unwrap().lines().any(|line| line.starts_with(&format!("{user}:")));
    assert!(exists() && folder.exists());
    let process = format!("/proc/{}", server.child.lock().unwrap().as_ref().unwrap().server.id());
    assert!(Path::new(&process).exists());
    drop(server);
    assert!(!exists() && !folder.exists() && !Path::new(&process).exists());
}

#[test]
fn settings_of_a_test_win_and_wrong_ones_are_told() {
    let server = OpenSsh::try_start(Variant::Password, "PasswordAuthentication no").unwrap();
    let said = ssh(&server, server.password(), &["-o", &preferring("password")], "true");
    assert!(!said.status.success());
    let wrong = OpenSsh::try_start(Variant::Password, "NoSuchSetting yes").err().unwrap();
    assert!(wrong.to_string().contains("Bad configuration option: NoSuchSetting"), "{wrong}");
}

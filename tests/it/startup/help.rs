//! Help that helps, and the settings as they are printed.

use crate::{
    cli::{patchbay, run},
    harness::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_command_explains_itself_without_touching_anything() {
    let server = Server::prepare(&[]);
    let pages: &[(&[&str], &[&str])] = &[
        (
            &["--help"],
            &["Usage: patchbay", "host", "user", "config", "drain", "migrate", "--json", "Examples", "127.0.0.1:3001"],
        ),
        (&["host", "--help"], &["add", "list", "remove", "rotate-key", "ssh-keys", "forget-ssh-keys"]),
        (&["host", "add", "--help"], &["<NAME>", "key", "once"]),
        (&["host", "rotate-key", "--help"], &["disconnected at once"]),
        (&["host", "forget-ssh-keys", "--help"], &["--port", "trusted"]),
        (&["user", "--help"], &["add", "passwd"]),
        (&["user", "add", "--help"], &["--role", "readonly", "--password-stdin"]),
        (&["user", "passwd", "--help"], &["sessions end"]),
        (&["config", "--help"], &["--check"]),
        (&["login", "--help"], &["<URL>", "--username", "--ca", "without echo", "PATCHBAY_CREDENTIALS"]),
        (&["logout", "--help"], &["[URL]", "the last login"]),
        (&["ssh", "--help"], &["<HOST>", "--user", "--port", "--identity", "--proxy", "--server", "Examples", "~."]),
        (&["--version"], &["patchbay 0."]),
    ];
    for (args, words) in pages {
        let ran = patchbay(&server, args).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{args:?}: {ran:?}");
        for word in *words {
            assert!(ran.out.contains(word), "{args:?} does not say {word:?}:\n{}", ran.out);
        }
    }
    for args in [&["hots", "list"][..], &["host"], &["host", "add"], &["user", "add", "ann"], &["--jsno"]] {
        let ran = patchbay(&server, args).await;
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains("Usage") || ran.err.contains("usage"), "{args:?}: {ran:?}");
    }
    assert_eq!(std::fs::read_dir(server.data_dir()).unwrap().count(), 0, "something was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_settings_are_a_file_that_works() {
    let mut server = Server::prepare(&[]);
    let page = patchbay(&server, &["config"]).await.out;
    let json = patchbay(&server, &["config", "--json"]).await.json();
    let settings = json.as_array().unwrap();
    assert!(settings.len() > 20, "{json}");
    for setting in settings {
        let (name, key) = (setting["name"].as_str().unwrap(), setting["key"].as_str().unwrap());
        assert!(page.contains(&format!("# {name}: ")) && page.contains(&format!("#{key} =")), "{name} is missing");
        assert!(!setting["doc"].as_str().unwrap().is_empty(), "{name} is not explained");
    }
    // As it is, and with a line of it in force.
    let file = server.data_dir().join("patchbay.toml");
    let changed = page.replace("#events_window = 4096", "events_window = 64");
    assert_ne!(changed, page);
    std::fs::write(&file, &changed).unwrap();
    let with = ["--config", file.to_str().unwrap()];
    let checked = patchbay(&server, &[&["config", "--check", "--json"][..], &with].concat()).await.json();
    assert_eq!(checked, serde_json::json!({"ok": true, "problems": []}));
    std::fs::write(&file, format!("{changed}\nevnts_window = 5\n")).unwrap();
    let ran = patchbay(&server, &[&["config", "--check"][..], &with].concat()).await;
    assert!(ran.refusal().contains("did you mean events_window?"), "{ran:?}");
    let ran = patchbay(&server, &[&["config", "--check", "--json"][..], &with].concat()).await;
    let problems: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &problems["ok"]), (Some(1), &false.into()), "{ran:?}");
    // A server takes it from there as well; the environment wins over it.
    std::fs::write(&file, "max_connections = 7\nlisten = \"127.0.0.1:1\"\n").unwrap();
    server.set_env("PATCHBAY_CONFIG", file.to_str());
    server.restart().await;
    let mut other = server.command();
    other.args(["host", "list"]);
    assert_eq!(run(other, "").await.code, Some(0));
}

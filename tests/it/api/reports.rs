//! Reports: what is stored of them, and what a partial one changes (protocol 3).

use serde_json::{Value, json};

use super::{agent_call, agent_post, assert_secrets_kept, start, token};

fn package(name: &str, needs_update: bool, security: bool) -> Value {
    json!({"name": name, "currentVersion": "1", "needsUpdate": needs_update, "isSecurityUpdate": security})
}

fn full() -> Value {
    json!({
        "packages": [package("bash", false, false), package("curl", true, false), package("openssl", true, true)],
        "repositories": [{"name": "main", "url": "http://deb.example"}],
        "osType": "Debian GNU/Linux", "osVersion": "13", "hostname": "web-1", "ip": "192.0.2.7", "architecture": "amd64",
        "agentVersion": "2.1.4", "machineId": "m", "kernelVersion": "6.12.1", "needsReboot": true,
        "rebootReason": "a new kernel", "networkInterfaces": null, "diskDetails": null, "cpuCores": 4
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_kept_and_summed_up_and_a_partial_one_changes_its_sections_only() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("host").await.unwrap();
    let (status, answer) = agent_post(&server, &host, "/hosts/update", &full()).await;
    assert_eq!(
        (status, answer),
        (
            200,
            json!({"message": "Host updated successfully", "packagesProcessed": 3, "updatesAvailable": 2, "securityUpdates": 1})
        )
    );
    let row = || async { admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap() };
    let report = || async { admin.get(&format!("/hosts/{}/report", host.id)).await.unwrap().ok().unwrap() };
    let shown = row().await;
    let mut summary = shown["report"].clone();
    assert!(summary["reported_at"].take().is_string());
    assert_eq!(
        summary,
        json!({"reported_at": null, "os_type": "Debian GNU/Linux", "os_version": "13", "hostname": "web-1", "ip": "192.0.2.7",
            "architecture": "amd64", "kernel_version": "6.12.1", "packages": 3, "updates": 2, "security_updates": 1,
            "needs_reboot": true, "reboot_reason": "a new kernel"})
    );
    assert_eq!((&shown["agent_version"], &shown["generation"]), (&"2.1.4".into(), &"2.1".into()), "{shown}");
    assert_eq!(report().await, full());

    // As the agent sends it: all that it does not name is zero.
    let partial = json!({
        "sections": ["packages"], "packages": [package("bash", true, false)], "repositories": null, "osType": "",
        "osVersion": "", "hostname": "", "ip": "", "architecture": "", "agentVersion": "2.1.5", "kernelVersion": "",
        "needsReboot": false, "networkInterfaces": null, "cpuCores": 0
    });
    let (status, answer) = agent_post(&server, &host, "/hosts/update", &partial).await;
    assert_eq!(
        (status, &answer["updatesAvailable"], &answer["securityUpdates"]),
        (200, &1.into(), &0.into()),
        "{answer}"
    );
    let shown = row().await;
    let summary = &shown["report"];
    assert_eq!((&summary["packages"], &summary["updates"]), (&1.into(), &1.into()), "{summary}");
    assert_eq!((&summary["os_type"], &summary["hostname"]), (&"Debian GNU/Linux".into(), &"web-1".into()), "{summary}");
    assert_eq!((&summary["kernel_version"], &summary["ip"]), (&"6.12.1".into(), &"192.0.2.7".into()), "{summary}");
    assert_eq!(shown["agent_version"], "2.1.5");
    let stored = report().await;
    assert_eq!((stored["packages"].as_array().unwrap().len(), &stored["cpuCores"]), (1, &4.into()), "{stored}");
    assert_eq!(stored["repositories"], full()["repositories"]);

    // A section of its own each.
    let renamed = json!({"sections": ["hostname"], "hostname": "web-2", "packages": null});
    assert_eq!(agent_post(&server, &host, "/hosts/update", &renamed).await.0, 200);
    let summary = row().await["report"].clone();
    assert_eq!((&summary["hostname"], &summary["packages"]), (&"web-2".into(), &1.into()), "{summary}");
    // A full one is the whole truth again.
    assert_eq!(agent_post(&server, &host, "/hosts/update", &json!({"packages": [], "osType": "Alpine"})).await.0, 200);
    let summary = row().await["report"].clone();
    assert_eq!(
        (&summary["os_type"], &summary["packages"], &summary["hostname"]),
        (&"Alpine".into(), &0.into(), &"".into())
    );
    assert_secrets_kept(&server, &[&host.api_key, token(&admin)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_is_named_and_not_stored() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("host").await.unwrap();
    let many =
        |n: usize| json!({"packages": (0..n).map(|n| package(&format!("p{n}"), false, false)).collect::<Vec<_>>()});
    for (body, named) in [
        (json!([]), ""),
        (json!({"packages": "all"}), "packages"),
        (json!({"packages": [{"currentVersion": "1"}]}), "packages[0].name"),
        (
            json!({"packages": [package("a", false, false), {"name": "b", "needsUpdate": "yes"}]}),
            "packages[1].needsUpdate",
        ),
        (json!({"osType": 7}), "osType"),
        (json!({"needsReboot": "no"}), "needsReboot"),
        (json!({"hostname": ["h"]}), "hostname"),
        (json!({"sections": [1]}), "sections"),
        (many(10_001), "packages"),
    ] {
        let (status, answer) = agent_post(&server, &host, "/hosts/update", &body).await;
        let paths: Vec<_> =
            answer["errors"].as_array().into_iter().flatten().map(|error| error["path"].clone()).collect();
        assert_eq!((status, paths), (400, vec![Value::from(named)]), "{answer}");
        assert!(answer["errors"][0]["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{answer}");
    }
    let (status, answer) = agent_call(&server, &host, "POST", "/hosts/update", b"not json".to_vec()).await;
    assert_eq!((status, answer["errors"].is_array()), (400, true), "{answer}");
    assert_eq!(admin.get(&format!("/hosts/{}/report", host.id)).await.unwrap().status, 404, "something was stored");
    let (status, answer) = agent_post(&server, &host, "/hosts/update", &many(10_000)).await;
    assert_eq!((status, &answer["packagesProcessed"]), (200, &10_000.into()), "{answer}");
    let shown = admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap();
    assert_eq!(shown["report"]["packages"], 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_small_questions_are_answered_as_agents_expect() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("the web server").await.unwrap();
    for body in
        [Vec::new(), b" \n".to_vec(), b"{}".to_vec(), br#"{"agentVersion":"2.1.9","metrics":{"cpuCores":4}}"#.to_vec()]
    {
        let (status, answer) = agent_call(&server, &host, "POST", "/hosts/ping", body).await;
        assert_eq!(
            (status, &answer["message"], &answer["friendlyName"]),
            (200, &"Ping successful".into(), &"the web server".into())
        );
        assert!(answer["timestamp"].is_string() && answer.get("hashGate").is_none(), "{answer}");
    }
    let (status, answer) = agent_call(&server, &host, "POST", "/hosts/ping", b"{".to_vec()).await;
    assert_eq!((status, answer["error"].is_string()), (400, true), "{answer}");
    let shown = admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap();
    assert_eq!(shown["agent_version"], "2.1.9");
    assert!(shown["last_seen_at"].is_string(), "{shown}");
    let (_, answer) = agent_call(&server, &host, "GET", "/settings/update-interval", Vec::new()).await;
    assert_eq!(answer["updateInterval"], 60);
    let version = "/hosts/agent/version?arch=amd64&os=linux&type=go&currentVersion=1.4.2";
    let (status, answer) = agent_call(&server, &host, "GET", version, Vec::new()).await;
    assert_eq!(
        (status, &answer["currentVersion"], &answer["latestVersion"], &answer["hasUpdate"]),
        (200, &"1.4.2".into(), &"1.4.2".into(), &false.into())
    );
    assert_secrets_kept(&server, &[&host.api_key, token(&admin)]);
}

//! The body of `POST compliance/scans` (protocol 3).

use time::OffsetDateTime;

use super::process::Process;
use crate::{
    message::{self, Inbound},
    recording::{Bodies, Ordered, bodies},
};

/// Which scanners run. Only the two booleans and the profile id `docker-bench` say so; profile_type does not
/// (protocol 1.3).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scanners {
    pub(super) openscap: bool,
    pub(super) docker_bench: bool,
}

impl Scanners {
    pub(super) fn chosen(request: &Inbound, has_docker: bool) -> Self {
        let only_bench = request.profile_id.as_deref() == Some("docker-bench");
        Self {
            openscap: !only_bench && request.openscap_enabled.unwrap_or(true),
            docker_bench: has_docker && (only_bench || request.docker_bench_enabled.unwrap_or(false)),
        }
    }
}

/// What a scan found, or why it found nothing.
pub(super) struct Results<'a> {
    pub(super) scanners: Scanners,
    pub(super) profile_id: Option<&'a str>,
    pub(super) began: OffsetDateTime,
    pub(super) error: Option<&'a str>,
}

impl Process {
    /// The body of `POST compliance/scans`, and the score it shows.
    pub(super) fn scans_body(&self, results: &Results<'_>) -> (String, f64) {
        let config = &self.host.config;
        let recorded = bodies(config.generation);
        let mut scans = Vec::new();
        if results.scanners.openscap {
            scans.push(openscap_scan(recorded, results));
        }
        if results.scanners.docker_bench {
            // No recording shows one that worked; the name is the server's own for this scanner (protocol 5.1).
            let mut scan = openscap_scan(recorded, results);
            scan.set("profile_name", &"Docker Bench Security");
            scan.set("profile_type", &"docker-bench");
            scans.push(scan);
        }
        let score = scans.first().and_then(|scan| scan.get("score")?.get().parse().ok()).unwrap_or(0.0);
        let mut body = recorded.scans.clone();
        body.set("scans", &scans);
        body.set("hostname", &config.credentials.name);
        body.set("machine_id", &self.host.machine_id());
        (message::encode(&body).unwrap_or_default(), score)
    }
}

fn openscap_scan(recorded: &Bodies, results: &Results<'_>) -> Ordered {
    let began = message::nanoseconds(results.began);
    let Some(error) = results.error else {
        let mut scan = recorded.scan.clone();
        scan.set("profile_name", &results.profile_id.unwrap_or("level1_server"));
        scan.set("started_at", &began);
        let ended = message::nanoseconds(OffsetDateTime::now_utc());
        scan.set("completed_at", &ended);
        return scan;
    };
    // A failed one always says level1_server, whatever was asked for (protocol 3).
    let mut scan = recorded.failed_scan.clone();
    scan.set("started_at", &began);
    scan.set("error", &error);
    scan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> Inbound {
        Inbound::decode(json.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_booleans_and_docker_bench_choose_the_scanners() {
        let both = Scanners { openscap: true, docker_bench: true };
        let none = Scanners::default();
        let openscap = Scanners { openscap: true, docker_bench: false };
        let bench = Scanners { openscap: false, docker_bench: true };
        for (json, has_docker, wanted) in [
            (r#"{"openscap_enabled":true,"docker_bench_enabled":true}"#, true, both),
            (r#"{"openscap_enabled":true,"docker_bench_enabled":true}"#, false, openscap),
            (r#"{"openscap_enabled":false,"docker_bench_enabled":false}"#, true, none),
            (r#"{"profile_id":"docker-bench","openscap_enabled":null}"#, true, bench),
            (r#"{"profile_id":"docker-bench"}"#, false, none),
            (r#"{"profile_type":"docker-bench"}"#, true, openscap),
        ] {
            assert_eq!(Scanners::chosen(&request(json), has_docker), wanted, "{json}");
        }
    }
}

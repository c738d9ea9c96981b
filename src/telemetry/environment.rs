//! The standard `OTEL_*` variables that decide what is exported and how: those that the SDK does not read itself, and those
//! that it reads without saying that it does not understand them.

use std::{fmt, path::PathBuf};

use anyhow::{Context as _, bail};

/// What is exported.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub traces: bool,
    pub metrics: bool,
    pub tls: Tls,
    /// What was asked for and is not done; for the log.
    pub notices: Vec<String>,
}

/// Files in PEM.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that the collector's certificate is checked against, instead of the system's.
    pub authorities: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// More often would only cost time.
const DELAY_MIN_MS: u64 = 10;

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

impl Wanted {
    /// Reads the variables.
    ///
    /// # Errors
    /// One line that names the variable and says what it may be.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let read = Read(lookup);
        if read.truth("OTEL_SDK_DISABLED")? {
            return Ok(Self::default());
        }
        let mut wanted = Self { traces: read.exports("TRACES")?, metrics: read.exports("METRICS")?, ..Self::default() };
        read.notices(&mut wanted.notices)?;
        if !wanted.traces && !wanted.metrics {
            return Ok(wanted);
        }
        for signal in ["", "TRACES_", "METRICS_"] {
            read.protocol(&format!("OTEL_EXPORTER_OTLP_{signal}PROTOCOL"))?;
            read.endpoint(&format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT"))?;
            read.compression(&format!("OTEL_EXPORTER_OTLP_{signal}COMPRESSION"))?;
            read.number(&format!("OTEL_EXPORTER_OTLP_{signal}TIMEOUT"), 1)?;
            read.pairs(&format!("OTEL_EXPORTER_OTLP_{signal}HEADERS"))?;
        }
        read.pairs("OTEL_RESOURCE_ATTRIBUTES")?;
        for name in ["OTEL_BSP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"] {
            read.number(name, DELAY_MIN_MS)?;
        }
        for name in [
            "OTEL_BSP_EXPORT_TIMEOUT",
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_METRIC_EXPORT_TIMEOUT",
        ] {
            read.number(name, 1)?;
        }
        read.sampler()?;
        wanted.tls = read.tls()?;
        Ok(wanted)
    }
}

struct Read<F>(F);

impl<F: Fn(&str) -> Option<String>> Read<F> {
    /// Empty is unset, as the specification has it.
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    fn truth(&self, name: &str) -> anyhow::Result<bool> {
        match self.get(name).map(|value| value.to_ascii_lowercase()).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => bail!("{name} is {other:?}: expected true or false"),
        }
    }

    /// Without an endpoint an exporter would complain for ever that nobody listens on this machine: so one is made only
    /// when an endpoint is named, or the exporter is.
    fn exports(&self, signal: &str) -> anyhow::Result<bool> {
        let name = format!("OTEL_{signal}_EXPORTER");
        match self.get(&name).as_deref() {
            None => Ok(self.get("OTEL_EXPORTER_OTLP_ENDPOINT").is_some()
                || self.get(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")).is_some()),
            Some("otlp") => Ok(true),
            Some("none") => Ok(false),
            // Everything is at /metrics in any case.
            Some("prometheus") if signal == "METRICS" => Ok(false),
            Some(other) => bail!("{name} is {other:?}: expected otlp or none"),
        }
    }

    fn protocol(&self, name: &str) -> anyhow::Result<()> {
        match self.get(name).as_deref() {
            None | Some("http/protobuf") => Ok(()),
            Some("grpc") => bail!(
                "{name} is \"grpc\", which is not spoken here: set {name}=http/protobuf, and the endpoint to the \
                 collector's port for HTTP, such as http://collector:4318"
            ),
            Some(other) => bail!("{name} is {other:?}: expected http/protobuf"),
        }
    }

    fn endpoint(&self, name: &str) -> anyhow::Result<()> {
        let Some(text) = self.get(name) else { return Ok(()) };
        let expected = "expected a URL such as http://collector:4318";
        // The value may hold a password, so only what is wrong with it is said.
        let url = reqwest::Url::parse(&text).map_err(|error| anyhow::anyhow!("{name}: {error}; {expected}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            bail!("{name} begins with {:?}; {expected}", format!("{}:", url.scheme()));
        }
        Ok(())
    }

    fn compression(&self, name: &str) -> anyhow::Result<()> {
        match self.get(name).as_deref() {
            None | Some("gzip" | "none") => Ok(()),
            Some(other) => bail!("{name} is {other:?}: expected gzip or none"),
        }
    }

    fn number(&self, name: &str, min: u64) -> anyhow::Result<()> {
        match self.get(name) {
            Some(text) if !text.parse::<u64>().is_ok_and(|number| number >= min) => {
                bail!("{name} is {text:?}: expected a whole number of at least {min}")
            }
            _ => Ok(()),
        }
    }

    /// `name=value,name=value`. The values may be secrets, so nothing of them is said.
    fn pairs(&self, name: &str) -> anyhow::Result<()> {
        let Some(text) = self.get(name) else { return Ok(()) };
        let is_pair = |pair: &str| pair.split_once('=').is_some_and(|(key, _)| !key.trim().is_empty());
        match text.split(',').filter(|pair| !pair.trim().is_empty()).position(|pair| !is_pair(pair)) {
            Some(at) => bail!("{name}: number {} is no NAME=VALUE; several are separated by commas", at + 1),
            None => Ok(()),
        }
    }

    fn sampler(&self) -> anyhow::Result<()> {
        const NAME: &str = "OTEL_TRACES_SAMPLER";
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(sampler) = self.get(NAME) else { return Ok(()) };
        if !SAMPLERS.contains(&sampler.as_str()) {
            bail!("{NAME} is {sampler:?}: expected one of {}", SAMPLERS.join(", "));
        }
        if sampler.ends_with("traceidratio")
            && let Some(ratio) = self.get(ARGUMENT)
            && !ratio.parse::<f64>().is_ok_and(|ratio| (0.0..=1.0).contains(&ratio))
        {
            bail!("{ARGUMENT} is {ratio:?}: expected a number from 0 to 1");
        }
        Ok(())
    }

    fn tls(&self) -> anyhow::Result<Tls> {
        const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
        const KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
        let file = |name: &str| self.get(name).map(PathBuf::from);
        let identity = match (file(CERTIFICATE), file(KEY)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => bail!("{CERTIFICATE} and {KEY} belong together: only one of them is set"),
        };
        Ok(Tls { authorities: file("OTEL_EXPORTER_OTLP_CERTIFICATE"), identity })
    }

    fn notices(&self, notices: &mut Vec<String>) -> anyhow::Result<()> {
        if self.get("OTEL_LOGS_EXPORTER").is_some_and(|value| value != "none")
            || self.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT").is_some()
        {
            notices
                .push("logs are written to stderr alone, with their trace ids: OTEL_*_LOGS_* is not used".to_owned());
        }
        const PROPAGATORS: &str = "OTEL_PROPAGATORS";
        let Some(names) = self.get(PROPAGATORS) else { return Ok(()) };
        let names: Vec<&str> = names.split(',').map(str::trim).collect();
        for name in &names {
            match *name {
                "tracecontext" | "baggage" => {}
                "b3" | "b3multi" | "jaeger" | "xray" | "ottrace" => {
                    notices.push(format!("{PROPAGATORS}: {name} is not spoken, traces are carried on by tracecontext"));
                }
                "none" => notices.push(format!("{PROPAGATORS}: tracecontext is always carried on")),
                other => bail!("{PROPAGATORS}: {other:?} is no propagator; expected tracecontext"),
            }
        }
        Ok(())
    }
}

impl Tls {
    /// A client that uses the files; `None` when the exporter's own will do. Not to be called on a thread of the runtime.
    ///
    /// # Errors
    /// Names the file.
    pub fn client(&self) -> anyhow::Result<Option<reqwest::blocking::Client>> {
        if *self == Self::default() {
            return Ok(None);
        }
        let mut client = reqwest::blocking::Client::builder();
        if let Some(path) = &self.authorities {
            let pem = read("OTEL_EXPORTER_OTLP_CERTIFICATE", path)?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|some| !some.is_empty());
            let authorities = authorities
                .with_context(|| format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {} has no certificate", path.display()))?;
            client = client.tls_certs_only(authorities);
        }
        if let Some((certificate, key)) = &self.identity {
            let mut pem = read("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", certificate)?;
            pem.push(b'\n');
            pem.extend(read("OTEL_EXPORTER_OTLP_CLIENT_KEY", key)?);
            let identity = reqwest::Identity::from_pem(&pem).map_err(|error| {
                anyhow::anyhow!("{} and {}: {}", certificate.display(), key.display(), Root(&error))
            })?;
            client = client.identity(identity);
        }
        client.build().map(Some).context("cannot set up TLS to the collector")
    }
}

fn read(variable: &str, path: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{variable}: cannot read {}", path.display()))
}

/// The innermost reason of an error.
struct Root<'a>(&'a dyn std::error::Error);

impl fmt::Display for Root<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut innermost = self.0;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        write!(f, "{innermost}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> anyhow::Result<Wanted> {
        Wanted::read(|name| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned()))
    }

    fn exported(variables: &[(&str, &str)]) -> (bool, bool) {
        let wanted = read(variables).expect("read");
        (wanted.traces, wanted.metrics)
    }

    #[test]
    fn nothing_is_exported_unless_somebody_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(exported(&[]), (false, false));
        assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), (false, false));
        assert_eq!(exported(&[endpoint]), (true, true));
        assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces")]), (true, false));
        assert_eq!(exported(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]), (false, true));
        assert_eq!(exported(&[endpoint, ("OTEL_METRICS_EXPORTER", "prometheus")]), (true, false));
        assert_eq!(exported(&[("OTEL_TRACES_EXPORTER", "otlp")]), (true, false));
        assert_eq!(exported(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]), (false, false));
    }

    #[test]
    fn what_is_wrong_is_one_line_that_names_the_variable() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        for (name, value, said) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc", "set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "expected http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318", "expected a URL"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "://", "expected a URL"),
            ("OTEL_TRACES_EXPORTER", "jaeger", "expected otlp or none"),
            ("OTEL_SDK_DISABLED", "yes", "expected true or false"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "expected one of always_on"),
            ("OTEL_PROPAGATORS", "trace-context", "expected tracecontext"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/key.pem", "belong together"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzpi", "expected gzip or none"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization Bearer hunter2", "number 1 is no NAME=VALUE"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b,garbage", "number 2 is no NAME=VALUE"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "at least 1"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0", "at least 10"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1", "at least 10"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "at least 1"),
        ] {
            let error = read(&[endpoint, (name, value)]).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(said) && !error.contains('\n'), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let ratio = [endpoint, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "50%")];
        assert!(read(&ratio).expect_err("ratio").to_string().contains("from 0 to 1"));
    }

    #[test]
    fn a_password_in_an_endpoint_is_not_shown() {
        let error =
            read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:hunter2@collector")]).expect_err("scheme").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_is_not_done_is_said() {
        let wanted = read(&[("OTEL_PROPAGATORS", "tracecontext,b3"), ("OTEL_LOGS_EXPORTER", "otlp")]).expect("read");
        assert_eq!(wanted.notices.len(), 2);
        assert!(read(&[("OTEL_PROPAGATORS", "tracecontext, baggage")]).expect("read").notices.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let missing = Tls { authorities: Some("/does/not/exist.pem".into()), identity: None };
        let error = format!("{:#}", missing.client().expect_err("missing"));
        assert!(error.contains("OTEL_EXPORTER_OTLP_CERTIFICATE") && error.contains("/does/not/exist.pem"), "{error}");
    }
}

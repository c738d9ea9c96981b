//! What the internal listener says: `/metrics`, `/readyz`.

use std::time::Duration;

use anyhow::bail;

/// Reads `/metrics` of the internal listener.
pub async fn scrape(internal_url: &str) -> anyhow::Result<String> {
    Ok(get(internal_url, "/metrics").await?.error_for_status()?.text().await?)
}

/// The status of `/readyz`.
pub async fn readyz(internal_url: &str) -> anyhow::Result<u16> {
    Ok(get(internal_url, "/readyz").await?.status().as_u16())
}

async fn get(internal_url: &str, path: &str) -> anyhow::Result<reqwest::Response> {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
    Ok(client.get(format!("{internal_url}{path}")).send().await?)
}

/// One series by its name and labels as they are printed; 0 when it is not there.
pub async fn value(internal_url: &str, series: &str) -> anyhow::Result<f64> {
    let text = scrape(internal_url).await?;
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    Ok(found.unwrap_or(0.0))
}

/// Reads one series until it fits.
pub async fn wait(internal_url: &str, series: &str, fits: impl Fn(f64) -> bool) -> anyhow::Result<f64> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    loop {
        let now = value(internal_url, series).await?;
        if fits(now) {
            return Ok(now);
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("{series} is {now}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! Which root should a cluster have, and how far is it on the way to it?

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::args::{Format, RotateOptions, StatusOptions, TrustCommand};
use crate::kubernetes::{self, text};
use crate::{output, status};

/// The MeshClusters of the home cluster.
const CLUSTERS: &str = "/apis/isthmus.dev/v1alpha1/meshclusters";
/// The annotation that wishes for a root.
const ANNOTATION: &str = "isthmus.dev/root";
/// Whose field it is: `install` and `join` own the others.
const MANAGER: &str = "isthmus-trust";
/// Names of proxies in a line.
const NAMED_MAX: usize = 5;

/// `isthmus trust`.
///
/// # Errors
/// Nobody can be asked, or the wish is refused.
pub(crate) fn run(command: &TrustCommand, format: Format) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .build()
        .context("starting the runtime")?;
    match command {
        TrustCommand::Rotate(options) => runtime.block_on(rotate(options, format)),
        TrustCommand::Status(options) => runtime.block_on(show(options, format)),
    }
}

async fn rotate(options: &RotateOptions, format: Format) -> anyhow::Result<()> {
    let (cluster, reach) = (&options.cluster, &options.reach);
    let api = kubernetes::connect(reach.kubeconfig.as_deref(), reach.context.as_deref())?;
    let path = format!("{CLUSTERS}/{cluster}");
    let found = kubernetes::find(&api, &path).await?;
    let found = found.with_context(|| format!("there is no MeshCluster {cluster}"))?;
    let wished = found["metadata"]["annotations"][ANNOTATION].as_str();
    let before: u32 = wished.map_or(Ok(1), str::parse).with_context(|| {
        format!("the annotation {ANNOTATION} of {cluster} is {wished:?}: name a root with --root")
    })?;
    let root = options.root.unwrap_or_else(|| before.saturating_add(1));
    let object = json!({
        "apiVersion": "isthmus.dev/v1alpha1", "kind": "MeshCluster",
        "metadata": { "name": cluster, "annotations": { ANNOTATION: root.to_string() } },
    });
    let applied = api.apply_as(MANAGER, &path, &object, false).await;
    applied.with_context(|| format!("the annotation {ANNOTATION} of {cluster}"))?;
    match format {
        Format::Json => output::json(&json!({ "cluster": cluster, "root": root })),
        Format::Text => output::line(&format!(
            "{cluster}: root {root} is wished for; isthmus trust status tells how far it is"
        )),
    }
    Ok(())
}

async fn show(options: &StatusOptions, format: Format) -> anyhow::Result<()> {
    let seen = status::page(options, "/trust").await?;
    match format {
        Format::Json => output::json(&seen),
        Format::Text => output::line(table(&seen).trim_end()),
    }
    Ok(())
}

fn table(seen: &Value) -> String {
    let row = |(cluster, of): (&String, &Value)| {
        let missing = of["missing"].as_array().map_or(&[][..], Vec::as_slice);
        let mut names: Vec<&str> = missing.iter().filter_map(Value::as_str).collect();
        let count = of["missing_count"].as_u64().unwrap_or_default();
        let more = names.len() > NAMED_MAX;
        names.truncate(NAMED_MAX);
        let waits = match (names.is_empty(), text(of, "/waits")) {
            (true, waits) => waits.to_owned(),
            (false, _) => {
                let dots = if more { ", ..." } else { "" };
                format!("{count} proxies: {}{dots}", names.join(", "))
            }
        };
        let number = |key: &str| of[key].to_string();
        let phase = text(of, "/phase").to_owned();
        vec![
            cluster.clone(),
            phase,
            number("old_root"),
            number("new_root"),
            waits,
        ]
    };
    let rows: Vec<Vec<String>> = seen.as_object().into_iter().flatten().map(row).collect();
    let head = ["cluster", "phase", "old root", "root", "waits for"];
    output::table("roots", &head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_is_named() {
        let names: Vec<String> = (0..7).map(|n| format!("east/shop/web-{n}")).collect();
        let seen = json!({
            "east": { "phase": "stable", "old_root": 2, "new_root": 2, "missing": [],
                "missing_count": 0, "waits": "" },
            "west": { "phase": "issuing", "old_root": 1, "new_root": 2, "missing": names,
                "missing_count": 7, "waits": "7 proxies are waited for: ..." },
        });
        let text = table(&seen);
        assert!(text.contains("stable"), "{text}");
        assert!(text.contains("7 proxies: east/shop/web-0,"), "{text}");
        assert!(
            text.contains("web-4, ...") && !text.contains("web-5"),
            "{text}"
        );
    }
}

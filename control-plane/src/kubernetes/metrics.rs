//! How much do we ask of API servers, in Prometheus' text?

use std::collections::BTreeMap;

use isthmus_proto::ids::ClusterId;

use super::client::Api;
use crate::metrics::Page;

/// Writes what was asked of these API servers.
pub fn write(apis: &BTreeMap<ClusterId, Api>, out: &mut Page) {
    let name = "isthmus_kubernetes_requests_total";
    out.head(name, "Requests to API servers.", "counter");
    for (cluster, api) in apis {
        for ((verb, outcome), count) in api.traffic().requests() {
            let labels = [
                ("cluster", cluster.as_str()),
                ("verb", verb.as_str()),
                ("outcome", outcome.as_str()),
            ];
            out.sample(name, &labels, count);
        }
    }
    let name = "isthmus_kubernetes_read_bytes_total";
    out.head(name, "Bytes of answers read from API servers.", "counter");
    for (cluster, api) in apis {
        out.sample(
            name,
            &[("cluster", cluster.as_str())],
            api.traffic().bytes(),
        );
    }
    let name = "isthmus_kubernetes_connections_total";
    out.head(name, "Connections made to API servers.", "counter");
    for (cluster, api) in apis {
        let count = api.traffic().connections();
        out.sample(name, &[("cluster", cluster.as_str())], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::client::fake::{Fake, answer};

    #[tokio::test]
    async fn what_was_asked_is_counted_by_cluster() {
        let fake = Fake::plain(|_| answer(200, "12345")).await;
        let api = Api::new(fake.access()).unwrap();
        api.get("/version").await.unwrap();
        let apis = BTreeMap::from([("east".parse().unwrap(), api)]);
        let mut page = Page::default();
        write(&apis, &mut page);
        let text = page.into_text();
        for line in [
            "isthmus_kubernetes_requests_total{cluster=\"east\",verb=\"get\",outcome=\"ok\"} 1",
            "isthmus_kubernetes_read_bytes_total{cluster=\"east\"} 5",
            "isthmus_kubernetes_connections_total{cluster=\"east\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}

//! How does a client learn where the API server is and who it may be?

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::pki::Certificate;

/// Who the client is.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A certificate that the cluster's authority signed.
    Certificate(Certificate),
    /// A bearer token.
    Token(String),
}

/// One context with everything inside, as JSON, which is YAML too.
#[must_use]
pub fn text(name: &str, server: &str, authority: &str, credential: &Credential) -> String {
    let encoded = |text: &str| STANDARD.encode(text);
    let user = match credential {
        Credential::Certificate(Certificate { certificate, key }) => json!({
            "client-certificate-data": encoded(certificate),
            "client-key-data": encoded(key),
        }),
        Credential::Token(token) => json!({ "token": token }),
    };
    let config: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{
            "name": name,
            "cluster": {
                "server": server,
                // Also where something stands before the API server, at an address of its own.
                "tls-server-name": "localhost",
                "certificate-authority-data": encoded(authority),
            },
        }],
        "users": [{ "name": name, "user": user }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
    });
    format!("{config:#}\n")
}

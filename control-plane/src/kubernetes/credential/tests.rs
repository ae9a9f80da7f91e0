//! Which credentials are taken, and when are they read again?

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;
use crate::kubernetes::client::fake::Ca;

const VERSION: &str = "client.authentication.k8s.io/v1";

/// A plugin that is a script; each run leaves a line in `runs`.
struct Plugin {
    folder: tempfile::TempDir,
}

impl Plugin {
    fn new() -> Self {
        let plugin = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(plugin.path("runs"), "").unwrap();
        let script = "#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO $1 $WHO\" >> \"${0%/*}/runs\"\n\
                      cat \"${0%/*}/says\"; exit $(cat \"${0%/*}/code\")\n";
        std::fs::write(plugin.path("plugin"), script).unwrap();
        let executable = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(plugin.path("plugin"), executable).unwrap();
        plugin.says(&json!({ "token": "one" }));
        plugin
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn raw(&self, text: &str, code: i32) {
        std::fs::write(self.path("says"), text).unwrap();
        std::fs::write(self.path("code"), code.to_string()).unwrap();
    }

    fn says(&self, status: &serde_json::Value) {
        let says = json!({ "apiVersion": VERSION, "kind": "ExecCredential", "status": status });
        self.raw(&says.to_string(), 0);
    }

    fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.path("runs")).unwrap();
        runs.lines().map(ToOwned::to_owned).collect()
    }

    fn keeper(&self) -> Keeper {
        Keeper::new(Credential::Exec(Exec {
            api_version: VERSION.to_owned(),
            command: self.path("plugin").to_str().unwrap().to_owned(),
            args: vec!["get-token".to_owned()],
            env: vec![("WHO".to_owned(), "isthmus".to_owned())],
            cluster: Some(json!({ "server": "https://east" })),
        }))
    }
}

fn bearer(held: &Held) -> &str {
    held.bearer.as_ref().unwrap().to_str().unwrap()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_plugin_runs_once_until_its_credential_ends_or_is_refused() {
    let plugin = Plugin::new();
    let keeper = plugin.keeper();
    let held = keeper.current(None).await.unwrap();
    assert_eq!(bearer(&held), "Bearer one");
    assert!(held.bearer.unwrap().is_sensitive());
    keeper.current(None).await.unwrap();
    assert_eq!(plugin.runs().len(), 1);
    let told = &plugin.runs()[0];
    let info = told.strip_suffix(" get-token isthmus").unwrap();
    let info: serde_json::Value = serde_json::from_str(info).unwrap();
    assert_eq!(info["spec"]["cluster"]["server"], "https://east");
    assert_eq!(info["spec"]["interactive"], false);

    plugin.says(&json!({ "token": "two", "expirationTimestamp": "2020-01-01T00:00:00Z" }));
    let refused = keeper.current(Some(held.stamp)).await.unwrap();
    assert_eq!(bearer(&refused), "Bearer two");
    // It has ended already: asked again each time.
    plugin.says(&json!({ "token": "three", "expirationTimestamp": "2999-01-01T00:00:00Z" }));
    let third = keeper.current(None).await.unwrap();
    assert_eq!(bearer(&third), "Bearer three");
    keeper.current(None).await.unwrap();
    assert_eq!(plugin.runs().len(), 3);
}

#[tokio::test]
async fn what_a_plugin_says_wrong_is_said_without_its_words() {
    let half = json!({ "clientCertificateData": "x" });
    let of = |version: &str, kind: &str| {
        json!({ "apiVersion": version, "kind": kind, "status": { "token": "s3cret" } }).to_string()
    };
    let cases = [
        ("s3cret", 0, "does not say an ExecCredential"),
        ("", 3, "ended with"),
        (
            &of("client.authentication.k8s.io/v1beta1", "ExecCredential"),
            0,
            "/v1",
        ),
        (&of(VERSION, "TokenReview"), 0, "/v1"),
        (
            &format!("{}s3cret", " ".repeat(2 << 20)),
            0,
            "more than 1 MiB",
        ),
        (
            &json!({ "apiVersion": VERSION, "kind": "ExecCredential", "status": half }).to_string(),
            0,
            "half of a certificate",
        ),
        (
            &json!({ "apiVersion": VERSION, "kind": "ExecCredential", "status": {} }).to_string(),
            0,
            "no credential",
        ),
    ];
    for (says, code, expected) in cases {
        let plugin = Plugin::new();
        plugin.raw(says, code);
        let keeper = plugin.keeper();
        let Err(error) = keeper.current(None).await else {
            panic!("{says} was taken");
        };
        let error = error.to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(!error.contains("s3cret"), "{error}");
        // Not run in a loop: the failure stands for a while.
        assert!(keeper.current(None).await.is_err());
        assert_eq!(plugin.runs().len(), 1);
    }
}

#[tokio::test]
async fn a_plugin_may_say_a_certificate_and_another_one_needs_another_connection() {
    let (plugin, ca) = (Plugin::new(), Ca::new());
    let says = |(chain, key): (String, String)| {
        plugin.says(&json!({ "clientCertificateData": chain, "clientKeyData": key }));
    };
    let first = ca.leaf("one");
    says(first.clone());
    let keeper = plugin.keeper();
    let one = keeper.current(None).await.unwrap();
    assert!(one.certificate.is_some() && one.bearer.is_none());
    let same = keeper.current(Some(one.stamp)).await.unwrap();
    assert_eq!(same.identity, one.identity);
    says(ca.leaf("two"));
    let two = keeper.current(Some(same.stamp)).await.unwrap();
    assert_ne!(two.identity, one.identity);
}

#[tokio::test]
async fn a_file_that_is_gone_leaves_what_it_said_until_that_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let keeper = Keeper::new(Credential::TokenFile(path.clone()));
    assert!(keeper.current(None).await.is_err());
    write(&path, " \n");
    assert!(keeper.current(None).await.is_err());
    write(&path, "one\ntwo");
    assert!(keeper.current(None).await.is_err());
    write(&path, "good\n");
    let held = keeper.current(None).await.unwrap();
    assert_eq!(bearer(&held), "Bearer good");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(bearer(&keeper.current(None).await.unwrap()), "Bearer good");
    let error = keeper.current(Some(held.stamp)).await.err().unwrap();
    assert!(matches!(error, ApiError::Credential(_)), "{error}");
}

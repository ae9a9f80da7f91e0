//! What is taken from a kubeconfig, and what is refused?

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kubernetes::client::fake::Ca;

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// A kubeconfig with one context, as JSON (which is YAML).
fn plain() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {},
        "current-context": "east",
        "contexts": [{ "name": "east", "context": { "cluster": "c", "user": "u" } }],
        "clusters": [{ "name": "c", "cluster": {
            "server": "https://api.east.example:6443",
            "certificate-authority-data": base64(&Ca::new().pem()),
        } }],
        "users": [{ "name": "u", "user": { "token": "s3cret" } }],
    })
}

fn cluster(config: &mut Value) -> &mut Value {
    &mut config["clusters"][0]["cluster"]
}

fn user(config: &mut Value) -> &mut Value {
    &mut config["users"][0]["user"]
}

fn with(change: impl FnOnce(&mut Value), allow: &Allow) -> Result<Access, Refused> {
    let mut config = plain();
    change(&mut config);
    kubeconfig(&config.to_string(), None, allow)
}

fn all() -> Allow {
    Allow::of_words(["files", "insecure", "loopback", "exec:aws"]).unwrap()
}

#[test]
fn a_plain_kubeconfig_is_taken_and_shows_no_secret() {
    let access = with(|_| {}, &Allow::default()).unwrap();
    assert_eq!(access.server, "https://api.east.example:6443");
    assert!(matches!(&access.credential, Credential::Token(token) if token == "s3cret"));
    assert!(matches!(&access.roots, Roots::Given(roots) if roots.len() == 1));
    assert!(!access.loopback);
    assert!(!format!("{access:?}").contains("s3cret"));
}

#[test]
fn a_kubeconfig_as_tools_write_it_is_taken() {
    let ca = Ca::new();
    let (chain, key) = ca.leaf("admin");
    let data = |text: &str| base64(text);
    let text = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    \
         server: https://203.0.113.9:6443\n    extensions:\n    - name: minikube.sigs.k8s.io\n      \
         extension: {{version: v1}}\n    proxy-url: \"\"\n    insecure-skip-tls-verify: false\n  \
         name: kind\ncontexts:\n- context: {{cluster: kind, user: kind, namespace: shop}}\n  \
         name: kind\ncurrent-context: kind\nkind: Config\npreferences: {{}}\nusers:\n- name: kind\n  \
         user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
        data(&ca.pem()),
        data(&chain),
        data(&key)
    );
    let access = kubeconfig(&text, None, &Allow::default()).unwrap();
    assert!(matches!(access.credential, Credential::Certificate(_)));
    assert_eq!(access.namespace.as_deref(), Some("shop"));
}

#[test]
fn what_is_dangerous_is_refused_by_name_unless_exactly_that_is_allowed() {
    type Change = fn(&mut Value);
    let exec = |config: &mut Value| {
        *user(config) = json!({ "exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "aws",
            "interactiveMode": "IfAvailable", "installHint": "x",
        } });
    };
    let files = |config: &mut Value| {
        *user(config) = json!({ "client-certificate": "/a", "client-key": "/b" });
    };
    let unverified = |config: &mut Value| {
        *cluster(config) = json!({ "server": "https://e", "insecure-skip-tls-verify": true });
    };
    let cases: [(&str, &str, Change); 10] = [
        (
            "clusters[c].insecure-skip-tls-verify",
            "insecure",
            unverified,
        ),
        ("clusters[c].server", "loopback", |c| {
            cluster(c)["server"] = "https://127.0.0.1:6443".into()
        }),
        ("clusters[c].server", "loopback", |c| {
            cluster(c)["server"] = "https://[::1]".into()
        }),
        ("clusters[c].server", "loopback", |c| {
            cluster(c)["server"] = "https://LocalHost.:1".into()
        }),
        ("clusters[c].server", "loopback", |c| {
            cluster(c)["server"] = "https://0.0.0.0".into()
        }),
        ("clusters[c].server", "insecure", |c| {
            *cluster(c) = json!({ "server": "http://api.east.example" });
        }),
        ("clusters[c].certificate-authority", "files", |c| {
            *cluster(c) = json!({ "server": "https://e", "certificate-authority": "/etc/shadow" });
        }),
        ("users[u].client-certificate", "files", files),
        ("users[u].tokenFile", "files", |c| {
            user(c)["tokenFile"] = "/etc/passwd".into()
        }),
        ("users[u].exec", "exec:aws", exec),
    ];
    for (field, word, change) in cases {
        let refused = with(change, &Allow::default()).unwrap_err();
        assert_eq!(refused.field, field);
        assert_eq!(refused.context.as_deref(), Some("east"));
        assert!(refused.why.contains(&format!("{word:?}")), "{refused}");
        // All the other words do not help.
        let mut others = vec!["files", "insecure", "loopback", "exec:aws", "exec:other"];
        others.retain(|other| *other != word);
        let refused = with(change, &Allow::of_words(others).unwrap()).unwrap_err();
        assert_eq!(refused.field, field);
        with(change, &Allow::of_words([word]).unwrap()).unwrap();
    }
}

#[test]
fn what_is_never_taken_is_refused_whatever_is_allowed() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 18] = [
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "https://169.254.169.254".into()
        }),
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "https://[fe80::1]:6443".into()
        }),
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "ftp://e".into()
        }),
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "https://a:b@e".into()
        }),
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "https://e/?x=1".into()
        }),
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "https://e/#x".into()
        }),
        ("clusters[c].server", |c| {
            cluster(c)["server"] = "/run/api.sock".into()
        }),
        ("clusters[c].server", |c| cluster(c)["server"] = 7.into()),
        ("clusters[c].server", |c| {
            drop(cluster(c).as_object_mut().unwrap().remove("server"))
        }),
        ("clusters[c].proxy-url", |c| {
            cluster(c)["proxy-url"] = "socks5://e".into()
        }),
        ("clusters[c].certificate-authority-data", |c| {
            *cluster(c) = json!({ "server": "https://e" })
        }),
        ("clusters[c].certificate-authority-data", |c| {
            cluster(c)["certificate-authority-data"] = base64("no certificate").into();
        }),
        ("clusters[c].insecure-skip-tls-verify", |c| {
            cluster(c)["insecure-skip-tls-verify"] = true.into();
        }),
        ("clusters[c].new-field", |c| {
            cluster(c)["new-field"] = 1.into()
        }),
        ("users[u].auth-provider", |c| {
            user(c)["auth-provider"] = json!({ "name": "gcp" })
        }),
        ("users[u].as", |c| user(c)["as"] = "system:admin".into()),
        ("users[u].password", |c| user(c)["password"] = "x".into()),
        ("users[u].client-certificate", |c| {
            user(c)["client-key-data"] = base64("x").into()
        }),
    ];
    for (field, change) in cases {
        let refused = with(change, &all()).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
        assert!(!refused.to_string().contains("s3cret"));
    }
}

/// Arguments and variables choose what is run as the command does: they are the operator's, all of them.
#[test]
fn a_plugin_is_what_the_operator_named_and_nothing_else() {
    let good = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": "aws",
        "args": ["eks", "get-token"], "env": [{ "name": "AWS_PROFILE", "value": "s3cret" }] });
    let allow = Allow::of([
        &json!({ "exec": { "command": "aws", "args": ["eks", "get-token"],
        "env": [{ "name": "AWS_PROFILE", "value": "s3cret" }] } }),
    ]);
    let allow = allow.unwrap();
    let exec = |change: Value| {
        let mut exec = good.clone();
        let fields = exec.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        with(|c| *user(c) = json!({ "exec": exec }), &allow)
    };
    let taken = exec(json!({})).unwrap();
    let Credential::Exec(taken) = taken.credential else {
        panic!("{taken:?}")
    };
    assert_eq!(taken.args, ["eks", "get-token"]);
    assert_eq!(taken.env, [("AWS_PROFILE".to_owned(), "s3cret".to_owned())]);
    let env = |name: &str, value: &str| {
        json!({ "env": [
            { "name": "AWS_PROFILE", "value": "s3cret" }, { "name": name, "value": value },
        ] })
    };
    let cases = [
        ("exec", json!({ "command": "/tmp/aws" })),
        ("exec", json!({ "args": "get-token" })),
        ("exec.args", json!({ "args": ["eks", "--debug"] })),
        ("exec.args", json!({ "args": null })),
        (
            "exec.apiVersion",
            json!({ "apiVersion": "client.authentication.k8s.io/v1alpha1" }),
        ),
        (
            "exec.interactiveMode",
            json!({ "interactiveMode": "Always" }),
        ),
        ("exec.env", json!({ "env": [] })),
        ("exec.env", env("AWS_PROFILE", "other")),
        ("exec.env", env("LD_PRELOAD", "/tmp/x.so")),
        ("exec.env", env("PATH", "/tmp")),
        ("exec.env", env("NODE_OPTIONS", "--require /tmp/x.js")),
        ("exec.env", env("BASH_ENV", "/tmp/x")),
        ("exec.env", env("AWS_CONFIG_FILE", "/tmp/x")),
    ];
    for (field, change) in cases {
        let refused = exec(change.clone()).unwrap_err();
        assert_eq!(refused.field, format!("users[u].{field}"), "{change}");
        assert!(!refused.to_string().contains("s3cret"), "{refused}");
    }
    let both = with(
        |c| user(c)["exec"] = json!({ "apiVersion": good["apiVersion"], "command": "aws" }),
        &all(),
    );
    assert_eq!(both.unwrap_err().field, "users[u]");
}

#[test]
fn the_context_that_is_meant_is_taken_and_no_other_is_judged() {
    let mut config = plain();
    config["contexts"] = json!([
        { "name": "east", "context": { "cluster": "c", "user": "u" } },
        { "name": "bad", "context": { "cluster": "b", "user": "b" } },
        { "name": "nobody", "context": { "cluster": "c" } },
        { "name": "twice", "context": { "cluster": "d" } },
    ]);
    let list = config["clusters"].as_array_mut().unwrap();
    list.push(json!({ "name": "b", "cluster": { "server": "https://127.0.0.1" } }));
    list.push(json!({ "name": "d", "cluster": null }));
    list.push(json!({ "name": "d", "cluster": null }));
    let text = config.to_string();
    let allow = Allow::default();
    kubeconfig(&text, None, &allow).unwrap();
    let nobody = kubeconfig(&text, Some("nobody"), &allow).unwrap();
    assert!(matches!(nobody.credential, Credential::Anonymous));
    for (context, field) in [
        ("bad", "clusters[b].server"),
        ("absent", "contexts[absent]"),
        ("twice", "clusters[d]"),
    ] {
        let refused = kubeconfig(&text, Some(context), &allow).unwrap_err();
        assert_eq!(
            (refused.field.as_str(), refused.context.as_deref()),
            (field, Some(context))
        );
    }
    let refused = kubeconfig("kind: Config", None, &allow).unwrap_err();
    assert_eq!(refused.field, "current-context");
}

#[test]
fn what_is_no_kubeconfig_is_refused_without_its_words() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\n\
                c: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n\
                e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nclusters: [*g]\n";
    let deep = "[".repeat(100_000);
    let large = " ".repeat(KUBECONFIG_BYTES_MAX + 1);
    let wrong = "users: s3cret\n";
    for text in ["s3cret: [", bomb, &deep, &large, wrong, "--- \n...\n", ""] {
        let refused = kubeconfig(text, None, &all()).unwrap_err();
        assert!(!refused.to_string().contains("s3cret"), "{refused}");
    }
}

proptest! {
    #[test]
    fn no_field_that_is_not_known_is_taken(name in "[a-z][a-zA-Z-]{0,20}", of_user in any::<bool>()) {
        let known = [
            "server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority",
            "certificate-authority-data", "token", "tokenFile", "client-certificate", "exec",
            "client-certificate-data", "client-key", "client-key-data", "extensions",
            "disable-compression",
        ];
        prop_assume!(!known.contains(&name.as_str()));
        let refused = with(
            |c| (if of_user { user(c) } else { cluster(c) })[&name] = "x".into(),
            &all(),
        );
        prop_assert!(refused.unwrap_err().field.ends_with(&name));
    }

    #[test]
    fn no_server_of_this_machine_is_taken(
        last in any::<[u8; 3]>(), mapped in any::<bool>(), port in 1..u16::MAX,
    ) {
        let [b, c, d] = last;
        let host = format!("127.{b}.{c}.{d}");
        let host = if mapped { format!("[::ffff:{host}]") } else { host };
        let refused = with(
            |c| cluster(c)["server"] = format!("https://{host}:{port}").into(),
            &Allow::default(),
        );
        prop_assert_eq!(refused.unwrap_err().field, "clusters[c].server");
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = kubeconfig(&text, None, &Allow::default());
    }
}

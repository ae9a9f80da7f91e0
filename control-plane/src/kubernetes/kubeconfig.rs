//! Which parts of a kubeconfig are taken, and which are refused?
//!
//! A kubeconfig can run programs, read files and send us anywhere. It comes from other clusters'
//! people, so it is taken by an allow-list: a field that is not known is refused by name, and one
//! that is dangerous only if the operator allowed exactly that (SECURITY S28).

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::access::{Access, Certificate, Credential, Exec, Roots, unfit};
use super::allow::{Allow, Program};
use super::error::{Refused, tame};

/// Largest kubeconfig, in bytes.
pub const KUBECONFIG_BYTES_MAX: usize = 1 << 20;
/// Contexts that are named when the one that is meant is not there.
const NAMED_MAX: usize = 8;
/// Versions of the plugins' protocol that are spoken.
const EXEC_VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];
/// The extension of a cluster that is for its plugin.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";
/// Fields that say nothing about the way.
const SILENT: [&str; 2] = ["extensions", "disable-compression"];

#[derive(Deserialize)]
struct Raw {
    #[serde(default, rename = "current-context")]
    current: Option<String>,
    #[serde(default)]
    clusters: Option<Vec<Named>>,
    #[serde(default)]
    contexts: Option<Vec<Named>>,
    #[serde(default)]
    users: Option<Vec<Named>>,
}

/// An entry; only the ones that are used are looked into.
#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default, alias = "cluster", alias = "context", alias = "user")]
    value: Option<Map<String, Value>>,
}

/// The way that a context of a kubeconfig names; without a name, the current one.
///
/// # Errors
/// Which field is wrong or is not allowed.
pub fn kubeconfig(text: &str, context: Option<&str>, allow: &Allow) -> Result<Access, Refused> {
    if text.len() > KUBECONFIG_BYTES_MAX {
        let why = format!("larger than {KUBECONFIG_BYTES_MAX} bytes");
        return Err(Refused::new("kubeconfig", why));
    }
    let raw: Raw = serde_saphyr::from_str(text).map_err(|error| {
        // Without the text around it: there are secrets in it.
        let error = error.without_snippet().to_string();
        Refused::new("kubeconfig", tame(&error))
    })?;
    let contexts = raw.contexts.unwrap_or_default();
    let current = raw.current.as_deref().filter(|name| !name.is_empty());
    let Some(name) = context.or(current) else {
        let why = format!("none, and none is named; there is {}", names(&contexts));
        return Err(Refused::new("current-context", why));
    };
    let clusters = raw.clusters.unwrap_or_default();
    let users = raw.users.unwrap_or_default();
    way(name, &contexts, &clusters, &users, allow).map_err(|refused| refused.within(name))
}

fn way(
    name: &str,
    contexts: &[Named],
    clusters: &[Named],
    users: &[Named],
    allow: &Allow,
) -> Result<Access, Refused> {
    let context = Fields::of("contexts", name, contexts)?;
    context.known(&["cluster", "user", "namespace"], &[])?;
    let missing = |field| context.refused(field, "missing");
    let cluster = context.text("cluster")?.ok_or_else(|| missing("cluster"))?;
    let cluster = Fields::of("clusters", cluster, clusters)?;
    let (server, roots) = server(&cluster, allow)?;
    let credential = match context.text("user")? {
        Some(user) => user_of(&Fields::of("users", user, users)?, &cluster, allow)?,
        None => Credential::Anonymous,
    };
    let with_certificate = matches!(
        credential,
        Credential::Certificate(_) | Credential::CertificateFiles { .. }
    );
    if server.scheme_str() == Some("http") && with_certificate {
        return Err(cluster.refused("server", "has no TLS, and the user has a certificate"));
    }
    Ok(Access {
        server,
        roots,
        server_name: cluster.text("tls-server-name")?.map(ToOwned::to_owned),
        credential,
        loopback: allow.loopback,
        namespace: context.text("namespace")?.map(ToOwned::to_owned),
    })
}

fn server(cluster: &Fields<'_>, allow: &Allow) -> Result<(Uri, Roots), Refused> {
    const TAKEN: [&str; 5] = [
        "server",
        "tls-server-name",
        "insecure-skip-tls-verify",
        "certificate-authority",
        "certificate-authority-data",
    ];
    cluster.known(&TAKEN, &["proxy-url"])?;
    let text = cluster
        .text("server")?
        .ok_or_else(|| cluster.refused("server", "missing"))?;
    let uri = address(text, allow).map_err(|why| cluster.refused("server", why))?;
    if let Some(name) = cluster.text("tls-server-name")?
        && rustls::pki_types::ServerName::try_from(name).is_err()
    {
        return Err(cluster.refused("tls-server-name", "not a name"));
    }
    let skip = cluster.flag("insecure-skip-tls-verify")?;
    if skip && !allow.insecure {
        return Err(cluster.refused("insecure-skip-tls-verify", not_allowed("insecure")));
    }
    let pem = cluster.bytes("certificate-authority-data")?;
    let file = cluster.file("certificate-authority", pem.is_some(), allow)?;
    let roots = match (pem, file) {
        (Some(_), _) | (None, Some(_)) if skip => {
            let why = "there are roots, and the server is not to be verified";
            return Err(cluster.refused("insecure-skip-tls-verify", why));
        }
        (Some(pem), _) => Roots::of_pem("certificate-authority-data", &pem)
            .map_err(|refused| cluster.refused(&refused.field, refused.why))?,
        (None, Some(path)) => Roots::File(path.into()),
        (None, None) if skip || uri.scheme_str() == Some("http") => Roots::Unverified,
        (None, None) => {
            // The roots of this machine would let every public authority speak for the cluster.
            let why = "missing: the roots that the server is verified by have to be given";
            return Err(cluster.refused("certificate-authority-data", why));
        }
    };
    Ok((uri, roots))
}

/// Is this where an API server can be?
fn address(text: &str, allow: &Allow) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "not a URL".to_owned())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err("not a URL with a scheme and a host".to_owned());
    };
    if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
        return Err("has a user, a query or a fragment".to_owned());
    }
    let host = authority.host().trim_matches(['[', ']']);
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let here = match host.parse::<IpAddr>() {
        Ok(ip) => {
            if let Some(what) = unfit(ip, true) {
                return Err(format!("{what}, which is never taken"));
            }
            unfit(ip, false)
        }
        Err(_) if name == "localhost" || name.ends_with(".localhost") => Some("a loopback address"),
        // What the name is resolved to is looked at when we connect.
        Err(_) => None,
    };
    if let Some(what) = here.filter(|_| !allow.loopback) {
        return Err(format!("{what}, {}", not_allowed("loopback")));
    }
    match scheme {
        "https" => Ok(uri),
        "http" if allow.insecure || here.is_some() => Ok(uri),
        "http" => Err(format!("has no TLS, {}", not_allowed("insecure"))),
        _ => Err("not https".to_owned()),
    }
}

fn user_of(user: &Fields<'_>, cluster: &Fields<'_>, allow: &Allow) -> Result<Credential, Refused> {
    const TAKEN: [&str; 7] = [
        "token",
        "tokenFile",
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "exec",
    ];
    const NEVER: [&str; 7] = [
        "auth-provider",
        "username",
        "password",
        "as",
        "as-uid",
        "as-groups",
        "as-user-extra",
    ];
    user.known(&TAKEN, &NEVER)?;
    let file = user.file("tokenFile", false, allow)?;
    let token = match (file, user.text("token")?) {
        // As in client-go: the file is the newer one.
        (Some(file), _) => Some(Credential::TokenFile(file.into())),
        (None, token) => token.map(|token| Credential::Token(token.to_owned())),
    };
    let certificate = certificate(user, allow)?;
    let exec = match user.value("exec") {
        Some(exec) => Some(Credential::Exec(plugin(user, exec, cluster, allow)?)),
        None => None,
    };
    let mut ways = [token, certificate, exec].into_iter().flatten();
    match (ways.next(), ways.next()) {
        (None, _) => Ok(Credential::Anonymous),
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            let why = "more than one of a token, a certificate and a plugin: which is meant?";
            Err(Refused::new(&user.at, why))
        }
    }
}

fn certificate(user: &Fields<'_>, allow: &Allow) -> Result<Option<Credential>, Refused> {
    let chain = user.bytes("client-certificate-data")?;
    let key = user.bytes("client-key-data")?;
    let chain_file = user.file("client-certificate", chain.is_some(), allow)?;
    let key_file = user.file("client-key", key.is_some(), allow)?;
    match ((chain, key), (chain_file, key_file)) {
        ((None, None), (None, None)) => Ok(None),
        ((Some(chain), Some(key)), (None, None)) => Certificate::of_pem(&chain, &key)
            .map(|both| Some(Credential::Certificate(both)))
            .map_err(|refused| user.refused(&format!("{}-data", refused.field), refused.why)),
        ((None, None), (Some(chain), Some(key))) => Ok(Some(Credential::CertificateFiles {
            chain: chain.into(),
            key: key.into(),
        })),
        ((Some(_), None), (None, None)) | ((None, None), (Some(_), None)) => {
            Err(user.refused("client-key", "missing: there is a certificate"))
        }
        ((None, Some(_)), (None, None)) | ((None, None), (None, Some(_))) => {
            Err(user.refused("client-certificate", "missing: there is a key"))
        }
        _ => Err(user.refused("client-key", "one as data, the other as a file")),
    }
}

/// `users[].user.exec`, if the operator named exactly that.
fn plugin(
    user: &Fields<'_>,
    exec: &Value,
    cluster: &Fields<'_>,
    allow: &Allow,
) -> Result<Exec, Refused> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RawExec {
        api_version: String,
        #[serde(default)]
        provide_cluster_info: bool,
        #[serde(default)]
        interactive_mode: Option<String>,
    }
    let unread = |error: serde_json::Error| user.refused("exec", tame(&error.to_string()));
    let raw = RawExec::deserialize(exec).map_err(unread)?;
    let program = Program::of_exec(exec).map_err(unread)?;
    let runs = allow.runs(&program);
    runs.map_err(|(field, why)| user.refused(field, why))?;
    if !EXEC_VERSIONS.contains(&raw.api_version.as_str()) {
        let why = format!("{:?} is not spoken", tame(&raw.api_version));
        return Err(user.refused("exec.apiVersion", why));
    }
    if raw.interactive_mode.as_deref() == Some("Always") {
        return Err(user.refused("exec.interactiveMode", "nobody is there to be asked"));
    }
    let env = program.env.into_iter();
    Ok(Exec {
        api_version: raw.api_version,
        command: program.command,
        args: program.args,
        env: env.map(|one| (one.name, one.value)).collect(),
        cluster: raw.provide_cluster_info.then(|| cluster.info()),
    })
}

fn not_allowed(word: &str) -> String {
    format!("and {word:?} is not allowed by the operator")
}

fn names(entries: &[Named]) -> String {
    let names = entries.iter().take(NAMED_MAX);
    let names: Vec<String> = names.map(|entry| tame(&entry.name)).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

/// The fields of one entry, and what the entry is called in errors.
struct Fields<'a> {
    at: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn of(list: &str, name: &str, entries: &'a [Named]) -> Result<Self, Refused> {
        let at = format!("{list}[{}]", tame(name));
        let mut found = entries.iter().filter(|entry| entry.name == name);
        let Some(entry) = found.next() else {
            let why = format!("not there; there is {}", names(entries));
            return Err(Refused::new(&at, why));
        };
        if found.next().is_some() {
            return Err(Refused::new(&at, "there are two of this name"));
        }
        let fields = entry
            .value
            .as_ref()
            .ok_or_else(|| Refused::new(&at, "empty"))?;
        Ok(Self { at, fields })
    }

    fn refused(&self, field: &str, why: impl Into<String>) -> Refused {
        Refused::new(&format!("{}.{field}", self.at), why)
    }

    /// A field that says something: what is empty or false is as good as absent.
    fn value(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| match value {
            Value::Null => false,
            Value::Bool(on) => *on,
            Value::Number(_) => true,
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        })
    }

    /// Is there nothing that we do not understand, and nothing that we never do?
    fn known(&self, taken: &[&str], never: &[&str]) -> Result<(), Refused> {
        for field in self.fields.keys() {
            let name = field.as_str();
            if taken.contains(&name) || SILENT.contains(&name) || self.value(name).is_none() {
                continue;
            }
            let field = tame(name);
            if never.contains(&name) {
                return Err(self.refused(&field, "is never taken"));
            }
            return Err(self.refused(&field, "is not known, and so not taken"));
        }
        Ok(())
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, Refused> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refused(field, "not a text")),
        }
    }

    fn flag(&self, field: &str) -> Result<bool, Refused> {
        match self.value(field) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(self.refused(field, "not true or false")),
        }
    }

    fn bytes(&self, field: &str) -> Result<Option<Vec<u8>>, Refused> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        let text: String = text.split_ascii_whitespace().collect();
        STANDARD
            .decode(text)
            .map(Some)
            .map_err(|_| self.refused(field, "not base64"))
    }

    /// A path, which has to be allowed; where there is data beside it, that counts (as in kubectl).
    fn file(
        &self,
        field: &str,
        overridden: bool,
        allow: &Allow,
    ) -> Result<Option<&'a str>, Refused> {
        let path = self.text(field)?.filter(|_| !overridden);
        if path.is_some() && !allow.files {
            return Err(self.refused(field, format!("is a file, {}", not_allowed("files"))));
        }
        Ok(path)
    }

    /// What a plugin is told of the cluster.
    fn info(&self) -> Value {
        let mut info = Map::new();
        for field in ["server", "tls-server-name", "certificate-authority-data"] {
            if let Some(value) = self.value(field) {
                info.insert(field.to_owned(), value.clone());
            }
        }
        // What is for the plugin alone (client-go's `ExecCredential.spec.cluster.config`).
        let extensions = self.value("extensions").and_then(Value::as_array);
        let mut extensions = extensions.into_iter().flatten();
        if let Some(found) = extensions.find(|one| one["name"] == EXEC_EXTENSION)
            && let Some(config) = found.get("extension")
        {
            info.insert("config".to_owned(), config.clone());
        }
        Value::Object(info)
    }
}

#[cfg(test)]
mod tests;

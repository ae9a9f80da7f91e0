//! What may be written on the command line?

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::client::{self, Door};

mod clusters;
mod why;
mod trust;

pub(crate) use clusters::{
    CheckOptions, ClusterCommand, ClusterOptions, InstallOptions, JoinOptions, LeaveOptions,
    ListOptions, Reach,
};
pub(crate) use trust::{RotateOptions, TrustCommand, TrustOptions};
pub(crate) use why::{CallOptions, WhyOptions};

/// A service mesh for more than one Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(
    name = "isthmus",
    version,
    about,
    after_help = "Examples:\n  \
        isthmus demo                    two clusters on this machine, seven scenes in words\n  \
        isthmus demo --hold             ... and left running, with the addresses to try\n  \
        isthmus status                  what that mesh looks like now\n  \
        isthmus why web cart            why does a call from web to cart go where it goes?\n  \
        isthmus install --cluster east --apply             the mesh in the cluster of your kubeconfig\n  \
        isthmus cluster join west --context west           ... and a second cluster\n  \
        isthmus why west/shop/reviews-1:2a   what was behind this refusal?"
)]
pub(crate) struct Arguments {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a mesh of two clusters on this machine and show what it does.
    Demo(DemoOptions),
    /// Show clusters, proxies and endpoints of a running mesh.
    Status(StatusOptions),
    /// Explain a call, or a refusal by its reason id.
    Why(WhyOptions),
    /// Be a proxy: a sidecar or an east-west gateway, as the configuration says.
    #[command(after_help = "Examples:\n  isthmus proxy --config sidecar.json\n  \
            isthmus proxy --config sidecar.json --set pod=cart-1 --set 'addresses:=[\"10.0.0.11\"]'\n\n\
            Send SIGTERM to drain and stop.")]
    Proxy(ProxyOptions),
    /// Be the control plane.
    #[command(
        after_help = "Example:\n  isthmus control-plane --config control-plane.json\n\nSend SIGTERM to stop; proxies go on with what they know."
    )]
    ControlPlane(RoleOptions),
    /// Print what a cluster needs to run the mesh, or apply it.
    Install(InstallOptions),
    /// Join clusters to the mesh, list them, check them, and take them out.
    Cluster(ClusterOptions),
    /// Replace the roots of clusters, and see how far that is.
    Trust(TrustOptions),
    /// Print a service-account token for a workload of a folder cluster.
    Token(TokenOptions),
    /// Print the completion script of a shell.
    #[command(after_help = "Example:\n  source <(isthmus completion bash)")]
    Completion {
        /// Which shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Be one of the demo's applications.
    #[command(hide = true)]
    App(AppOptions),
    /// Send requests and say who answered.
    #[command(hide = true)]
    Load(LoadOptions),
}

/// Which shell to complete in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

/// Options of `isthmus demo`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus demo                      show every scene\n  \
        isthmus demo --scene ejection     one scene only\n  \
        isthmus demo --hold --no-scenes   just the mesh, with addresses and curl lines\n  \
        isthmus demo --hold --no-scenes --output json   the same for programs, as one line of JSON\n  \
        isthmus demo --check              for CI: one JSON line a scene, exit 0 only if all held\n  \
        isthmus demo --kubernetes         the same with two API servers, and what if one dies\n  \
        isthmus demo --kubernetes --kubeconfig ~/.kube/config --context a --context b\n  \
        \u{20}                                 join clusters that you have, and only watch\n\n\
        Everything runs as separate processes on loopback addresses, without root. Ctrl-C, a failed\n\
        scene or a panic leaves none behind.")]
pub(crate) struct DemoOptions {
    /// Leave the mesh running after the scenes, until Ctrl-C. With `--output json`, one more line of JSON
    /// says where it is (`mesh`: control_plane, proxies, folder, services, commands).
    #[arg(long, conflicts_with = "check")]
    pub(crate) hold: bool,
    /// Run the scenes once, print one JSON line each, exit 0 only if every one held.
    #[arg(long)]
    pub(crate) check: bool,
    /// Show only this scene; may be given several times.
    #[arg(long = "scene", value_enum, value_name = "SCENE")]
    pub(crate) scenes: Vec<SceneName>,
    /// Start the mesh and its traffic, but show no scene.
    #[arg(long, conflicts_with_all = ["check", "scenes"])]
    pub(crate) no_scenes: bool,
    /// Requests per second of the background traffic, over both services.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(20..=5000))]
    pub(crate) rps: u32,
    /// Chooses which pod turns bad and which sidecar is restarted.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The clusters' objects live in two Kubernetes API servers, which are started here.
    #[arg(long)]
    pub(crate) kubernetes: bool,
    /// Join clusters that you have, and only watch them: no pod is started there. One file, or several as
    /// KUBECONFIG names them.
    #[arg(long, value_name = "FILE", requires = "kubernetes", requires = "contexts",
        conflicts_with_all = ["scenes", "no_scenes"])]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// A context of that kubeconfig; may be given several times.
    #[arg(long = "context", value_name = "NAME", requires = "kubeconfig")]
    pub(crate) contexts: Vec<String>,
    /// Keep the folder with manifests, configurations and logs.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What the demo shows, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SceneName {
    /// A call from east, answered in west through its gateway.
    RemoteCall,
    /// One connection, spread over the single remote pods.
    Spread,
    /// A remote pod turned bad is ejected through the gateway.
    Ejection,
    /// The local pods stop; traffic fails over, then back.
    Failover,
    /// A policy edited into the folder forbids the call.
    Policy,
    /// The control plane killed, a sidecar restarted meanwhile.
    ControlPlane,
    /// An API server killed, then frozen; only with --kubernetes.
    ApiServer,
    /// gRPC, TCP, a server that speaks first, Redis.
    Protocols,
}

impl SceneName {
    /// Every scene, in the order of the show.
    pub(crate) const ALL: [Self; 8] = [
        Self::RemoteCall,
        Self::Spread,
        Self::Ejection,
        Self::Failover,
        Self::Policy,
        Self::ControlPlane,
        Self::ApiServer,
        Self::Protocols,
    ];

    /// As it is written on the command line and in `--check`'s JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RemoteCall => "remote-call",
            Self::Spread => "spread",
            Self::Ejection => "ejection",
            Self::Failover => "failover",
            Self::Policy => "policy",
            Self::ControlPlane => "control-plane",
            Self::ApiServer => "api-server",
            Self::Protocols => "protocols",
        }
    }

    /// Is it about an API server?
    pub(crate) fn needs_servers(self) -> bool {
        self == Self::ApiServer
    }
}

/// Where a running mesh's admin addresses are.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MeshAddresses {
    /// Admin address of the control plane.
    #[arg(long, value_name = "IP:PORT", env = "ISTHMUS_CONTROL_PLANE")]
    pub(crate) control_plane: Option<SocketAddr>,
    /// Admin address of a proxy; may be given several times.
    #[arg(long = "proxy", value_name = "IP:PORT")]
    pub(crate) proxies: Vec<SocketAddr>,
    /// A file with the token that an address asks for, `admin-token` in the state folder of who listens there; may
    /// be given several times. Without an address it is for the control plane, or else the first proxy.
    #[arg(
        long,
        value_name = "[IP:PORT=]FILE",
        env = "ISTHMUS_ADMIN_TOKEN_FILE",
        value_delimiter = ','
    )]
    pub(crate) admin_token: Vec<TokenFile>,
    /// State file of a held demo. Default: where `isthmus demo --hold` writes it.
    #[arg(long, value_name = "FILE", env = "ISTHMUS_DEMO_STATE")]
    pub(crate) demo: Option<PathBuf>,
}

impl MeshAddresses {
    /// How to ask at an address that was given.
    ///
    /// # Errors
    /// The file with the token can't be read.
    pub(crate) fn door(&self, at: SocketAddr) -> anyhow::Result<Door> {
        let first = self.control_plane.or(self.proxies.first().copied());
        let is_for = |one: &&TokenFile| one.at.or(first) == Some(at);
        let found = self.admin_token.iter().find(is_for);
        let token = found.map(|one| client::token(&one.file)).transpose()?;
        Ok(Door { at, token })
    }
}

/// A file with a token, and who is shown it: nobody else is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenFile {
    at: Option<SocketAddr>,
    file: PathBuf,
}

impl FromStr for TokenFile {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let named = text.split_once('=');
        let named = named.and_then(|(at, file)| Some((at.parse().ok()?, file)));
        let (at, file) = named.map_or((None, text), |(at, file)| (Some(at), file));
        Ok(Self {
            at,
            file: file.into(),
        })
    }
}

/// Options of `isthmus status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
        isthmus status                                   of the demo that is held on this machine\n  \
        isthmus status --context east                    of the control plane in a cluster, by kubectl\n  \
        isthmus status --control-plane 127.0.0.1:15014 --admin-token cp-state/admin-token\n  \
        isthmus status --output json")]
pub(crate) struct StatusOptions {
    /// Where to ask.
    #[command(flatten)]
    pub(crate) mesh: MeshAddresses,
    /// The cluster that the control plane runs in.
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Options of `isthmus proxy` and `isthmus control-plane`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleOptions {
    /// The configuration, JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Stop when standard input ends: so no process outlives the one that started it.
    #[arg(long)]
    pub(crate) exit_with_stdin: bool,
    /// What to log: a level, or `target=level` pairs.
    #[arg(
        long,
        default_value = "info",
        env = "ISTHMUS_LOG",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
}

/// Options of `isthmus proxy`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProxyOptions {
    /// What every role has.
    #[command(flatten)]
    pub(crate) role: RoleOptions,
    /// A value in place of the file's, as what a pod learns of itself at its start: KEY=TEXT or KEY:=JSON; may
    /// be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<isthmus_proxy::config::Set>,
}

/// Options of `isthmus token`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  isthmus token --state-dir cp-state --cluster east --namespace shop \\\n    --service-account cart --pod cart-1 > token"
)]
pub(crate) struct TokenOptions {
    /// The control plane's state folder: it holds the clusters' token keys.
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
    /// The workload's cluster.
    #[arg(long)]
    pub(crate) cluster: String,
    /// Its namespace.
    #[arg(long)]
    pub(crate) namespace: String,
    /// Its service account.
    #[arg(long)]
    pub(crate) service_account: String,
    /// Its pod.
    #[arg(long)]
    pub(crate) pod: String,
}

/// Options of the hidden `isthmus app`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AppOptions {
    /// Which application.
    #[command(subcommand)]
    pub(crate) app: App,
}

/// The demo's applications.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum App {
    /// HTTP/1.1 and HTTP/2 (h2c): answers with what it saw, as JSON.
    Http(AppListen),
    /// gRPC: sends every message back.
    Grpc(AppListen),
    /// TCP: sends every byte back.
    Tcp {
        /// Where, and as whom.
        #[command(flatten)]
        listen: AppListen,
        /// Say who it is before the client says anything.
        #[arg(long)]
        greet: bool,
    },
    /// Run another program, and kill it when standard input ends.
    Guard {
        /// Become the program, and die when this process does. The guard starts itself so.
        #[arg(long, value_name = "PID", hide = true)]
        parent: Option<u32>,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Where an application listens, and as whom.
#[derive(Debug, Clone, Args)]
pub(crate) struct AppListen {
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// The pod's name.
    #[arg(long, default_value = "app")]
    pub(crate) name: String,
    /// The pod's cluster.
    #[arg(long, default_value = "local")]
    pub(crate) cluster: String,
    /// Take connections from these networks only. Default: from everywhere.
    #[arg(long, value_name = "NETWORK")]
    pub(crate) accept_from: Vec<IpNet>,
    /// Stop when standard input ends.
    #[arg(long)]
    pub(crate) exit_with_stdin: bool,
}

/// Options of the hidden `isthmus load`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  isthmus load --to 127.20.0.11:18080 --rps 500 --seconds 10")]
pub(crate) struct LoadOptions {
    /// Where to connect.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) to: SocketAddr,
    /// The Host header. Default: the address.
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// The path.
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// Requests per second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) rps: u32,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) connections: u32,
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_shown_command_has_help_and_most_an_example() {
        for command in Arguments::command().get_subcommands() {
            assert!(
                command.get_about().is_some(),
                "{} has no help",
                command.get_name()
            );
            if !command.is_hide_set() {
                assert!(
                    command.get_after_help().is_some(),
                    "{} has no example",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn output_is_understood_on_either_side_of_the_command() {
        assert_eq!(
            parse("isthmus --output json status").unwrap().output,
            Format::Json
        );
        assert_eq!(
            parse("isthmus status --output json").unwrap().output,
            Format::Json
        );
        assert_eq!(parse("isthmus status").unwrap().output, Format::Text);
    }

    #[test]
    fn demo_takes_one_way_to_end() {
        assert!(parse("isthmus demo --hold --check").is_err());
        assert!(parse("isthmus demo --no-scenes --check").is_err());
        assert!(parse("isthmus demo --rps 3").is_err());
        let Command::Demo(options) = parse("isthmus demo --check --scene spread --scene policy")
            .unwrap()
            .command
        else {
            panic!("not a demo");
        };
        assert_eq!(options.scenes, [SceneName::Spread, SceneName::Policy]);
        assert_eq!((options.rps, options.seed), (200, 1));
    }

    #[test]
    fn scenes_are_named_as_clap_names_them() {
        for scene in SceneName::ALL {
            let value = scene.to_possible_value().unwrap();
            assert_eq!(value.get_name(), scene.name());
        }
    }

    #[test]
    fn why_takes_a_call_or_a_reason() {
        let Command::Why(call) = parse("isthmus why web cart:80 --path /x").unwrap().command else {
            panic!("not why");
        };
        assert_eq!(call.service.as_deref(), Some("cart:80"));
        assert_eq!(call.call.path.as_deref(), Some("/x"));
        let many = "isthmus why web cart --header X-Team=a=b --header Accept=x";
        let Command::Why(many) = parse(many).unwrap().command else {
            panic!("not why");
        };
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            many.call.header,
            [field("x-team", "a=b"), field("accept", "x")]
        );
        for wrong in [
            "--header nothing",
            "--header a:b=c",
            "--server-name a --path /",
        ] {
            assert!(
                parse(&format!("isthmus why web cart {wrong}")).is_err(),
                "{wrong}"
            );
        }
        let Command::Why(reason) = parse("isthmus why west/shop/a:1f").unwrap().command else {
            panic!("not why");
        };
        assert!(reason.service.is_none());
    }

    /// Who listens at another address is not shown it.
    #[test]
    fn a_token_is_for_one_address() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("{name}\n")).unwrap();
            path
        };
        let (one, other): (SocketAddr, SocketAddr) = (
            "127.0.0.1:1".parse().unwrap(),
            "127.0.0.1:2".parse().unwrap(),
        );
        let named: TokenFile = format!("{other}={}", file("b").display()).parse().unwrap();
        let plain: TokenFile = file("a").display().to_string().parse().unwrap();
        let mesh = MeshAddresses {
            proxies: vec![one, other],
            admin_token: vec![plain.clone(), named],
            ..MeshAddresses::default()
        };
        let shown = |mesh: &MeshAddresses, at| {
            let token = mesh.door(at).unwrap().token;
            token.map(|token| token.as_str().to_owned())
        };
        assert_eq!(shown(&mesh, one).as_deref(), Some("a"));
        assert_eq!(shown(&mesh, other).as_deref(), Some("b"));
        let mesh = MeshAddresses {
            control_plane: Some(other),
            admin_token: vec![plain],
            ..mesh
        };
        assert_eq!(shown(&mesh, one), None);
        assert_eq!(shown(&mesh, other).as_deref(), Some("a"));
        assert!(
            mesh.door("127.0.0.1:3".parse().unwrap())
                .unwrap()
                .token
                .is_none()
        );
    }

    #[test]
    fn a_guarded_command_keeps_its_own_flags() {
        let line = "isthmus app guard -- redis-server --port 0";
        let Command::App(AppOptions {
            app: App::Guard { command, .. },
        }) = parse(line).unwrap().command
        else {
            panic!("not a guard");
        };
        assert_eq!(command, ["redis-server", "--port", "0"]);
    }
}

//! What does the user want of the mesh? One binary for every role, and the operator's tool.

use std::process::ExitCode;

use clap::Parser;

mod args;
mod roles;
mod shutdown;
mod logging;
mod demo;
mod load;
mod app;
mod status;
mod why;
mod kubernetes;
mod install;
mod cluster;
mod trust;
mod token;
mod completion;
mod client;
mod output;
mod statistics;

use args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = arguments.output;
    let done = match arguments.command {
        Command::Demo(options) => demo::run(&options, format),
        Command::Status(options) => status::run(&options, format).map(|()| ExitCode::SUCCESS),
        Command::Why(options) => why::run(&options, format).map(|()| ExitCode::SUCCESS),
        Command::Proxy(options) => roles::proxy(&options, format).map(|()| ExitCode::SUCCESS),
        Command::ControlPlane(options) => {
            roles::control_plane(&options, format).map(|()| ExitCode::SUCCESS)
        }
        Command::Token(options) => token::run(&options, format).map(|()| ExitCode::SUCCESS),
        Command::Completion { shell } => completion::run(shell, format).map(|()| ExitCode::SUCCESS),
        Command::Install(options) => install::run(&options, format).map(|()| ExitCode::SUCCESS),
        Command::Cluster(options) => cluster::run(&options.command, format),
        Command::Trust(options) => trust::run(&options.command, format).map(|()| ExitCode::SUCCESS),
        Command::App(options) => app::run(options).map(|()| ExitCode::SUCCESS),
        Command::Load(options) => load::run(&options, format).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        output::failure(&error, format);
        ExitCode::FAILURE
    })
}

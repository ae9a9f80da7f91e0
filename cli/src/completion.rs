//! What must a shell know to complete our commands?

use std::io::{self, Write as _};

use clap::CommandFactory as _;
use clap_complete::aot;
use serde_json::json;

use crate::args::{Arguments, Format, Shell};
use crate::output;

/// Prints the script.
///
/// # Errors
/// None today; the signature is that of every command.
pub(crate) fn run(shell: Shell, format: Format) -> anyhow::Result<()> {
    let mut command = Arguments::command();
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    // Into memory first: the generator panics where a reader went away.
    let mut script = Vec::new();
    aot::generate(shell, &mut command, "isthmus", &mut script);
    match format {
        Format::Text => {
            let _gone = io::stdout().lock().write_all(&script);
        }
        Format::Json => output::json(&json!({
            "shell": shell.to_string(),
            "script": String::from_utf8_lossy(&script),
        })),
    }
    Ok(())
}

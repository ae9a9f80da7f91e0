//! Which other programs are installed here?

use std::env;
use std::path::PathBuf;
use std::process::Output;

use tokio::process::Command;

/// The file of a program, as a shell or Go would find it. A program that is not installed is said
/// on standard output, and the test that wanted it ends.
#[must_use]
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join("go/bin"));
    let found = env::split_paths(&path)
        .chain(home)
        .map(|folder| folder.join(name))
        .find(|f| f.is_file());
    if found.is_none() {
        say(&format!("skipped: {name} is not installed"));
    }
    found
}

/// Runs a program to its end.
///
/// # Panics
/// It can't be started.
pub async fn run(program: &PathBuf, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .expect("an installed program starts")
}

/// What a program said, on both outputs.
#[must_use]
pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Says what was skipped. Not by `println!`: of a test that passes, nobody would see it.
pub fn say(text: &str) {
    use std::io::Write as _;
    // Nobody reads the output any more: then nobody is told.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

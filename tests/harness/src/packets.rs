//! What if the kernel lets packets vanish, or answers them with a reset?
//!
//! Rules of nftables about one port of this machine's loopback addresses, in a table of their own that
//! goes with them. They take a privilege that most users lack: then the test says that it was skipped.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::programs::say;

/// What becomes of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They vanish, both ways, and nobody is told.
    Drop,
    /// Who sends one is told that there is no connection.
    Reset,
}

/// Rules that hold until this is dropped.
#[derive(Debug)]
pub struct Rules {
    table: String,
}

/// May this process make such rules? Says what is skipped where not.
#[must_use]
pub fn may_rule() -> bool {
    let table = format!("isthmus_test_{}", std::process::id());
    let told = nft(&format!(
        "add table inet {table}\ndelete table inet {table}\n"
    ));
    if let Err(why) = &told {
        say(&format!("skipped: tests with nftables: {}", why.trim()));
    }
    told.is_ok()
}

impl Rules {
    /// For packets to and from this port of a loopback address.
    ///
    /// # Panics
    /// The kernel refuses them.
    #[must_use]
    pub fn set(port: u16, fate: Fate) -> Self {
        let table = format!("isthmus_test_{port}");
        let verdict = match fate {
            Fate::Drop => "drop",
            Fate::Reset => "reject with tcp reset",
        };
        let rules = format!(
            "add table inet {table}\n\
             add chain inet {table} arriving {{ type filter hook input priority 0; policy accept; }}\n\
             add rule inet {table} arriving iif lo tcp dport {port} {verdict}\n\
             add rule inet {table} arriving iif lo tcp sport {port} {verdict}\n"
        );
        nft(&rules).expect("nftables takes the rules");
        Self { table }
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let deleted = nft(&format!("delete table inet {}\n", self.table));
        if let Err(why) = deleted {
            say(&format!("table {} is left: {}", self.table, why.trim()));
        }
    }
}

fn nft(commands: &str) -> Result<(), String> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("nft: {error}"))?;
    if let Some(mut stdin) = nft.stdin.take() {
        // What it does not read it complains of itself.
        let _ = stdin.write_all(commands.as_bytes());
    }
    let output = nft.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

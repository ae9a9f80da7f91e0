//! Where does the demo's text go? Above a live block in a terminal, plainly elsewhere.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, PoisonError};

/// How much there is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A terminal: text above, a live block below.
    Live,
    /// A file or a pipe: text only.
    Plain,
    /// `--check`: standard output is for JSON lines, text goes to standard error.
    Check,
}

/// The terminal, shared by the scenes and the live view.
#[derive(Debug)]
pub(crate) struct Screen {
    style: Style,
    /// Lines of the live block that are drawn now.
    drawn: Mutex<usize>,
}

impl Screen {
    /// Of this process.
    pub(crate) fn new(checks: bool) -> Self {
        let style = if checks {
            Style::Check
        } else if io::stdout().is_terminal() {
            Style::Live
        } else {
            Style::Plain
        };
        Self {
            style,
            drawn: Mutex::new(0),
        }
    }

    /// How much there is to see.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Prints text; the live block moves down.
    pub(crate) fn say(&self, text: &str) {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match self.style {
            Style::Live => {
                let mut out = io::stdout().lock();
                writeln!(out, "{}{text}", erase(*drawn)).and_then(|()| out.flush())
            }
            Style::Plain => writeln!(io::stdout().lock(), "{text}"),
            Style::Check => writeln!(io::stderr().lock(), "{text}"),
        };
        *drawn = 0;
        // Nobody reads any more: the demo goes on, its exit status is still of use.
        let _gone = written;
    }

    /// Prints a line for programs, in `--check`.
    pub(crate) fn record(&self, line: &str) {
        if self.style == Style::Check {
            let _gone = writeln!(io::stdout().lock(), "{line}");
        }
    }

    /// Draws the live block again, in a terminal.
    pub(crate) fn draw(&self, lines: &[String]) {
        if self.style != Style::Live {
            return;
        }
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        // A line that wraps would spoil the count: the terminal cuts it off (DECAWM off and on).
        let mut text = format!("{}\x1b[?7l", erase(*drawn));
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
        let mut out = io::stdout().lock();
        let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        *drawn = lines.len();
    }
}

/// Up by so many lines, and clear to the end (ECMA-48: CPL, ED).
fn erase(lines: usize) -> String {
    if lines == 0 {
        String::new()
    } else {
        format!("\x1b[{lines}F\x1b[J")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_erased_that_was_not_drawn() {
        assert_eq!(erase(0), "");
        assert_eq!(erase(12), "\x1b[12F\x1b[J");
    }
}

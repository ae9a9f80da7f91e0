//! What has the operator allowed of that which a kubeconfig may not ask for by itself?

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::{Refused, tame};

/// What the operator allowed. Default: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow {
    /// Paths of files on this machine.
    pub files: bool,
    /// A server that is not verified, and one without TLS.
    pub insecure: bool,
    /// A server on this machine.
    pub loopback: bool,
    /// Plugins that may be run.
    pub exec: Vec<Program>,
}

/// What is run: all that chooses it. An argument or a variable chooses code as well as a command does
/// (`NODE_OPTIONS`, `BASH_ENV`, `AWS_CONFIG_FILE`), so none is anybody's but the operator's.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// As the kubeconfig has it, and no other word for the same file.
    pub command: String,
    /// In their order.
    #[serde(default, deserialize_with = "or_none")]
    pub args: Vec<String>,
    /// In their order, too: of two with one name the last counts.
    #[serde(default, deserialize_with = "or_none")]
    pub env: Vec<Variable>,
}

/// A variable of a plugin's environment.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value; it may be secret.
    pub value: String,
}

impl fmt::Debug for Program {
    /// Arguments and environment may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({})", self.command)
    }
}

/// `null` is as good as absent, as in a kubeconfig.
fn or_none<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

impl Allow {
    /// Understands a configuration: the words `files`, `insecure`, `loopback` and `exec:COMMAND` (the command
    /// alone), and `{ exec: { command, args, env } }`.
    ///
    /// # Errors
    /// Something that is none of these.
    pub fn of<'a>(items: impl IntoIterator<Item = &'a Value>) -> Result<Self, Refused> {
        let mut allow = Self::default();
        for item in items {
            match item {
                Value::String(word) => allow.word(word)?,
                _ => allow.exec.push(program(item)?),
            }
        }
        Ok(allow)
    }

    /// The same, of words alone.
    ///
    /// # Errors
    /// A word that is none of these.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, Refused> {
        let mut allow = Self::default();
        for word in words {
            allow.word(word)?;
        }
        Ok(allow)
    }

    fn word(&mut self, word: &str) -> Result<(), Refused> {
        match (word, word.strip_prefix("exec:")) {
            ("files", _) => self.files = true,
            ("insecure", _) => self.insecure = true,
            ("loopback", _) => self.loopback = true,
            (_, Some(command)) if !command.is_empty() => self.exec.push(Program {
                command: command.to_owned(),
                args: Vec::new(),
                env: Vec::new(),
            }),
            _ => return Err(unknown(&format!("{word:?}"))),
        }
        Ok(())
    }

    /// May this be run? Else which field of it is in the way, and why; values are not told, they may be
    /// secret.
    pub(super) fn runs(&self, program: &Program) -> Result<(), (&'static str, String)> {
        let command = tame(&program.command);
        let named = |one: &&Program| one.command == program.command;
        let mut why = None;
        for allowed in self.exec.iter().filter(named) {
            match allowed.other(program) {
                None => return Ok(()),
                other => why = why.or(other),
            }
        }
        let Some((field, what)) = why else {
            let word = format!("exec:{command}");
            let why = format!("runs {command:?}, and {word:?} is not allowed by the operator");
            return Err(("exec", why));
        };
        let why = format!("runs {command:?}, which the operator allowed with {what}");
        Err((field, why))
    }
}

impl Program {
    /// What a kubeconfig has under `exec`, as far as it says what is run.
    ///
    /// # Errors
    /// It can't be read.
    pub fn of_exec(exec: &Value) -> Result<Self, serde_json::Error> {
        let fields = ["command", "args", "env"].into_iter();
        let said = fields.filter_map(|key| Some((key.to_owned(), exec.get(key)?.clone())));
        Self::deserialize(Value::Object(said.collect()))
    }

    /// What another one of the same command has that this one has not: the field, and what is told.
    fn other(&self, program: &Self) -> Option<(&'static str, String)> {
        if self.args != program.args {
            let mut pairs = self.args.iter().zip(&program.args);
            let at = pairs.position(|(a, b)| a != b);
            let what = match at {
                Some(at) => format!("another args[{at}]"),
                None => format!("{} args, not {}", self.args.len(), program.args.len()),
            };
            return Some(("exec.args", what));
        }
        if self.env == program.env {
            return None;
        }
        let has = |all: &[Variable], one: &Variable| all.contains(one);
        let named = |all: &[Variable], one: &Variable| all.iter().any(|v| v.name == one.name);
        let more = program.env.iter().find(|one| !has(&self.env, one));
        let less = self.env.iter().find(|one| !has(&program.env, one));
        let what = match (more, less) {
            (Some(one), _) if named(&self.env, one) => {
                format!("another value of {}", tame(&one.name))
            }
            (Some(one), _) => format!("no variable {}", tame(&one.name)),
            (None, Some(one)) => format!("the variable {}", tame(&one.name)),
            (None, None) => "its variables in another order".to_owned(),
        };
        Some(("exec.env", what))
    }
}

fn program(item: &Value) -> Result<Program, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        exec: Program,
    }
    let read = Item::deserialize(item);
    // What is wrong, and not with which value: it may be secret.
    let program = read.map_err(|error| unknown(&format!("an item ({})", tame(&error.to_string()))));
    let program = program?.exec;
    if program.command.is_empty() {
        return Err(unknown("an exec without a command"));
    }
    Ok(program)
}

fn unknown(what: &str) -> Refused {
    let known = "files, insecure, loopback, exec:COMMAND or { exec: { command, args, env } }";
    Refused::new("allow", format!("{what} is not {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_allowed_is_named_item_by_item() {
        let aws = json!({ "exec": { "command": "aws", "args": ["eks"], "env": [{ "name": "A", "value": "s3cret" }] } });
        let items = [
            json!("files"),
            json!("loopback"),
            json!("exec:/usr/bin/gke auth"),
            aws,
        ];
        let allow = Allow::of(&items).unwrap();
        assert!(allow.files && allow.loopback && !allow.insecure);
        let commands: Vec<&str> = allow.exec.iter().map(|one| one.command.as_str()).collect();
        assert_eq!(commands, ["/usr/bin/gke auth", "aws"]);
        assert_eq!(allow.exec[1].args, ["eks"]);
        assert!(!format!("{allow:?}").contains("s3cret"));
        for item in [
            json!("exec"),
            json!("exec:"),
            json!("Files"),
            json!("all"),
            json!(""),
            json!(1),
            json!({}),
            json!({ "exec": "aws" }),
            json!({ "exec": { "command": "" } }),
            json!({ "exec": { "command": "aws", "arguments": [] } }),
            json!({ "exec": { "command": "aws", "env": { "A": "s3cret" } } }),
            json!({ "exec": { "command": "aws" }, "files": true }),
        ] {
            let refused = Allow::of([&item]).unwrap_err();
            assert_eq!(refused.field, "allow", "{item}");
            assert!(!refused.to_string().contains("s3cret"), "{refused}");
        }
    }

    #[test]
    fn a_program_is_run_as_it_is_allowed_whole_and_what_differs_is_told() {
        let program = |args: &[&str], env: &[(&str, &str)]| {
            let env = env
                .iter()
                .map(|(name, value)| json!({ "name": name, "value": value }));
            let exec = json!({ "command": "aws", "args": args, "env": env.collect::<Vec<_>>(),
                "apiVersion": "any" });
            Program::of_exec(&exec).unwrap()
        };
        let mut allow = Allow::of_words(["exec:other"]).unwrap();
        let told = |allow: &Allow, asked: &Program| {
            let (field, why) = allow.runs(asked).unwrap_err();
            assert!(!why.contains("s3cret"), "{why}");
            (field, why)
        };
        let (field, why) = told(&allow, &program(&[], &[]));
        assert!(
            field == "exec" && why.contains("\"exec:aws\" is not allowed"),
            "{why}"
        );
        allow
            .exec
            .push(program(&["eks", "s3cret"], &[("A", "s3cret"), ("B", "")]));
        allow
            .runs(&program(&["eks", "s3cret"], &[("A", "s3cret"), ("B", "")]))
            .unwrap();
        for (asked, field, what) in [
            (program(&["eks", "x"], &[]), "exec.args", "another args[1]"),
            (program(&["eks"], &[]), "exec.args", "2 args, not 1"),
            (
                program(&["eks", "s3cret", "s3cret"], &[]),
                "exec.args",
                "2 args, not 3",
            ),
            (
                program(&["eks", "s3cret"], &[]),
                "exec.env",
                "the variable A",
            ),
            (
                program(&["eks", "s3cret"], &[("A", "x"), ("B", "")]),
                "exec.env",
                "another value of A",
            ),
            (
                program(
                    &["eks", "s3cret"],
                    &[("A", "s3cret"), ("B", ""), ("NODE_OPTIONS", "s3cret")],
                ),
                "exec.env",
                "no variable NODE_OPTIONS",
            ),
            (
                program(&["eks", "s3cret"], &[("B", ""), ("A", "s3cret")]),
                "exec.env",
                "in another order",
            ),
        ] {
            let (at, why) = told(&allow, &asked);
            assert!(at == field && why.contains(what), "{at}: {why}");
        }
        // Each allowance by itself.
        allow.exec.push(program(&[], &[]));
        allow.runs(&program(&[], &[])).unwrap();
        assert!(allow.runs(&program(&[], &[("A", "s3cret")])).is_err());
    }
}

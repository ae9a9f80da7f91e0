//! What is wrong with a manifest, and where?

/// Something that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// From 1; 0: not known.
    pub line: u64,
    /// From 1; 0: not known.
    pub column: u64,
    /// The object, as far as it is known: `AccessPolicy shop/cart`.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// Of a file as a whole.
    #[must_use]
    pub fn of_file(message: String) -> Self {
        Self {
            line: 0,
            column: 0,
            object: String::new(),
            message,
        }
    }

    /// With the file in which it is, for people: `b.yaml:3:1: Pod shop/b: …`.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        let space = if self.line > 0 { "" } else { " " };
        format!("{file}:{space}{self}")
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        f.write_str(&self.message)
    }
}

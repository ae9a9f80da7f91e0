//! What did a scene show, in figures, and did it hold?

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

use crate::args::SceneName;
use crate::statistics::{human, milliseconds};

/// The outcome of one scene.
#[derive(Debug)]
pub(crate) struct Report {
    scene: SceneName,
    failed: Option<u64>,
    effect: Option<Duration>,
    /// In the order in which they were seen.
    figures: Vec<(String, Value)>,
    /// What was demanded and was not so.
    broken: Vec<String>,
    /// Why it counts as held.
    because: String,
}

impl Report {
    /// Nothing was seen yet.
    pub(crate) fn new(scene: SceneName) -> Self {
        Self {
            scene,
            failed: None,
            effect: None,
            figures: Vec::new(),
            broken: Vec::new(),
            because: String::new(),
        }
    }

    /// Requests that failed, of those that were to succeed.
    pub(crate) fn failed_requests(&mut self, number: u64) {
        self.failed = Some(number);
    }

    /// From the cause to the effect that is shown.
    pub(crate) fn time_to_effect(&mut self, time: Duration) {
        self.effect = Some(time);
    }

    /// Another figure.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.push((name.to_owned(), value.into()));
    }

    /// Another time.
    pub(crate) fn time(&mut self, name: &str, time: Duration) {
        self.figure(&format!("{name}_ms"), milliseconds(time));
    }

    /// The scene holds only if this is so.
    pub(crate) fn demand(&mut self, is_so: bool, or_else: impl Into<String>) {
        if !is_so {
            self.broken.push(or_else.into());
        }
    }

    /// What was seen, in a sentence.
    pub(crate) fn because(&mut self, text: impl Into<String>) {
        self.because = text.into();
    }

    /// Was everything so that was demanded?
    pub(crate) fn held(&self) -> bool {
        self.broken.is_empty()
    }

    /// For people: verdict and figures.
    pub(crate) fn text(&self) -> String {
        let mut figures = Vec::new();
        if let Some(failed) = self.failed {
            figures.push(format!("failed requests {failed}"));
        }
        if let Some(effect) = self.effect {
            figures.push(format!("time to effect {}", human(effect)));
        }
        figures.extend(
            self.figures
                .iter()
                .map(|(name, value)| figure_text(name, value)),
        );
        let verdict = if self.held() { "held" } else { "NOT HELD" };
        format!("  {verdict}: {}\n  {}", self.why(), figures.join(" · "))
    }

    fn why(&self) -> String {
        if self.held() {
            self.because.clone()
        } else {
            self.broken.join("; ")
        }
    }
}

/// For `--check`: a flat object, verdict first.
impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("scene", self.scene.name())?;
        line.serialize_entry("held", &self.held())?;
        line.serialize_entry("why", &self.why())?;
        if let Some(failed) = self.failed {
            line.serialize_entry("failed_requests", &failed)?;
        }
        if let Some(effect) = self.effect {
            line.serialize_entry("time_to_effect_ms", &milliseconds(effect))?;
        }
        for (name, value) in &self.figures {
            line.serialize_entry(name, value)?;
        }
        line.end()
    }
}

/// `healed_after_ms: 12` reads `healed after 12 ms`.
fn figure_text(name: &str, value: &Value) -> String {
    let value = match value {
        Value::Object(fields) => {
            let parts: Vec<String> = fields
                .iter()
                .map(|(name, v)| format!("{name} {v}"))
                .collect();
            parts.join(", ")
        }
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Null | Value::Number(_) | Value::Array(_) => value.to_string(),
    };
    let (name, unit) = match (name.strip_suffix("_ms"), name.strip_suffix("_percent")) {
        (Some(name), _) => (name, " ms"),
        (None, Some(name)) => (name, " %"),
        (None, None) => (name, ""),
    };
    format!("{} {value}{unit}", name.replace('_', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Report {
        let mut report = Report::new(SceneName::Ejection);
        report.failed_requests(3);
        report.time_to_effect(Duration::from_millis(412));
        report.time("healed_after", Duration::from_millis(3_100));
        report.figure("pods", json!({ "reviews-1": 4 }));
        report.because("it was left alone");
        report
    }

    #[test]
    fn a_line_for_programs_has_the_figures_flat() {
        let line = serde_json::to_string(&report()).unwrap();
        let wanted =
            r#"{"scene":"ejection","held":true,"why":"it was left alone","failed_requests":3,"#;
        assert!(line.starts_with(wanted), "{line}");
        let rest = r#""time_to_effect_ms":412,"healed_after_ms":3100,"pods":{"reviews-1":4}}"#;
        assert!(line.ends_with(rest), "{line}");
    }

    #[test]
    fn text_for_people_has_units() {
        let wanted = "  held: it was left alone\n  failed requests 3 · time to effect 412 ms · \
                      healed after 3100 ms · pods reviews-1 4";
        assert_eq!(report().text(), wanted);
    }

    #[test]
    fn every_broken_demand_is_named() {
        let mut report = report();
        report.demand(true, "not this");
        report.demand(false, "one");
        report.demand(1 > 2, String::from("two"));
        assert!(!report.held());
        assert!(
            report.text().starts_with("  NOT HELD: one; two\n"),
            "{}",
            report.text()
        );
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .contains(r#""held":false"#)
        );
    }
}

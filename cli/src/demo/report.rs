//! What did a scene show, in figures, and did it hold?

use std::time::Duration;

use serde_json::{Map, Value};

use crate::args::SceneName;
use crate::statistics::{human, milliseconds};

/// The outcome of one scene.
#[derive(Debug)]
pub(crate) struct Report {
    scene: SceneName,
    failed: Option<u64>,
    effect: Option<Duration>,
    figures: Map<String, Value>,
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
            figures: Map::new(),
            broken: Vec::new(),
            because: String::new(),
        }
    }

    /// A scene that could not be shown to its end.
    pub(crate) fn broken(scene: SceneName, why: &anyhow::Error) -> Self {
        let mut report = Self::new(scene);
        report.broken.push(format!("{why:#}"));
        report
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
        self.figures.insert(name.to_owned(), value.into());
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

    /// For `--check`: one line.
    pub(crate) fn json(&self) -> Value {
        let mut line = Map::new();
        line.insert("scene".into(), self.scene.name().into());
        line.insert("held".into(), self.held().into());
        line.insert("why".into(), self.why().into());
        if let Some(failed) = self.failed {
            line.insert("failed_requests".into(), failed.into());
        }
        if let Some(effect) = self.effect {
            line.insert("time_to_effect_ms".into(), milliseconds(effect).into());
        }
        line.extend(self.figures.clone());
        Value::Object(line)
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
        let line = report().json();
        let wanted = json!({
            "scene": "ejection", "held": true, "why": "it was left alone", "failed_requests": 3,
            "time_to_effect_ms": 412, "healed_after_ms": 3100, "pods": { "reviews-1": 4 },
        });
        assert_eq!(line, wanted);
        assert!(!line.to_string().contains('\n'));
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
        assert_eq!(report.json()["held"], false);
    }
}

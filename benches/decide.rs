//! What does one decision cost, in nanoseconds?
//!
//! `cargo bench -p isthmus-benches --bench decide [WORD]`: only what has the word in its name.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

mod judge;
mod pick;
mod wire;

/// Measures, and calls back with a row's name and nanoseconds.
type Report = fn(&mut dyn FnMut(&str, f64)) -> isthmus_benches::Outcome;

fn main() -> isthmus_benches::Outcome {
    // Cargo adds `--bench`.
    let word = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with('-'))
        .unwrap_or_default();
    let mut row = |name: &str, ns: f64| println!("{ns:>9.1} ns  {name}");
    let parts: [(&str, Report); 3] = [
        ("pick", pick::report),
        ("judge", judge::report),
        ("wire", wire::report),
    ];
    for (name, report) in parts {
        if name.contains(&word) {
            println!("{name}");
            report(&mut row)?;
        }
    }
    Ok(())
}

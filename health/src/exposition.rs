//! Numbers in Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

/// How a number moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Up only, from 0 when the process starts.
    Counter,
    /// Up and down.
    Gauge,
}

/// One number, or the same for several labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Option<(&'static str, String)>, f64)>,
}

impl Metric {
    /// A metric without samples; `name` carries its unit, and `_total` when it counts.
    #[must_use]
    pub fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        let samples = Vec::new();
        Self {
            name,
            help,
            kind,
            samples,
        }
    }

    /// Adds its number.
    #[must_use]
    pub fn is(mut self, value: f64) -> Self {
        self.samples.push((None, value));
        self
    }

    /// Adds the number of one label.
    #[must_use]
    pub fn of(mut self, label: &'static str, label_value: impl Into<String>, value: f64) -> Self {
        self.samples.push((Some((label, label_value.into())), value));
        self
    }

    /// Writes it as Prometheus reads it.
    pub(crate) fn write(&self, out: &mut String) {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let Self { name, help, .. } = self;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {}", escaped(help, false));
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (label, value) in &self.samples {
            let _ = match label {
                None => writeln!(out, "{name} {value}"),
                Some((label, of)) => writeln!(out, "{name}{{{label}=\"{}\"}} {value}", escaped(of, true)),
            };
        }
    }
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        let mut out = String::new();
        Metric::new(Kind::Gauge, "workers", "Workers that\nare there")
            .is(2.0)
            .write(&mut out);
        let scripts = Metric::new(Kind::Counter, "scripts_total", "Scripts \\ all");
        scripts
            .of("outcome", "a \"b\"\n\\", 1.5)
            .of("outcome", "", 1e18)
            .write(&mut out);
        assert_eq!(
            out,
            "# HELP workers Workers that\\nare there\n# TYPE workers gauge\nworkers 2\n\
             # HELP scripts_total Scripts \\\\ all\n# TYPE scripts_total counter\n\
             scripts_total{outcome=\"a \\\"b\\\"\\n\\\\\"} 1.5\nscripts_total{outcome=\"\"} 1000000000000000000\n"
        );
    }
}

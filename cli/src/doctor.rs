//! `corpusmill doctor`: what this machine has for handing batches to trainers.

use corpusmill_transport::doctor::{Report, Verdict};

pub(crate) const HELP: &str = "\
Examples:
  corpusmill doctor
  corpusmill doctor --output json | jq '.transports[] | select(.usable)'

Run it on workers and on the machines of trainers: `auto` takes the first transport that both sides can use. It changes
nothing.";

/// The report for a person.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::from("transports, the preferred first\n");
    for transport in &report.transports {
        let usable = if transport.usable { "usable" } else { "not usable" };
        out += &format!("  {:<6} {usable:<12} {}\n", transport.kind.name(), transport.detail);
    }
    out += "RDMA devices\n";
    if report.devices.is_empty() {
        out += "  none\n";
    }
    for device in &report.devices {
        out += &format!("  {}  {}\n", device.name, ports(device.ports.len()));
    }
    out += "this machine\n";
    for finding in &report.findings {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Limited => "limited",
            Verdict::Missing => "missing",
        };
        out += &format!("  {:<18} {verdict:<8} {}\n", finding.name, finding.found);
        if !finding.fix.is_empty() {
            out += &format!("  {:<27} to do: {}\n", "", finding.fix);
        }
    }
    out
}

fn ports(count: usize) -> String {
    match count {
        1 => "1 port".to_owned(),
        n => format!("{n} ports"),
    }
}

#[cfg(test)]
mod tests {
    use corpusmill_transport::doctor::examine;

    #[test]
    fn every_transport_and_every_fix_is_told() {
        let report = examine();
        let text = super::text(&report);
        for name in ["shm", "rdma", "tcp"] {
            assert!(text.contains(&format!("  {name}")), "{text}");
        }
        for finding in report.findings {
            assert!(text.contains(finding.name) && text.contains(&finding.fix), "{text}");
        }
    }
}

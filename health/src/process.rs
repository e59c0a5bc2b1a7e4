//! Numbers of this process, by the names that Prometheus' own clients give them.

use std::fs;

use crate::exposition::{Kind, Metric};

/// Ticks of /proc in a second: Linux shows 100 to programs on every machine that it runs on (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// What /proc says of this process; nothing on systems without it.
pub(crate) fn metrics() -> Vec<Metric> {
    let version = Metric::new(
        Kind::Gauge,
        "corpusmill_build_info",
        "Version of corpusmill; the value is always 1.",
    );
    let mut found = vec![version.of("version", env!("CARGO_PKG_VERSION"), 1.0)];
    if let Some(seconds) = fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| cpu_seconds(&stat))
    {
        let help = "Time on processors, in user and system mode.";
        found.push(Metric::new(Kind::Counter, "process_cpu_seconds_total", help).is(seconds));
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| resident_bytes(&status))
    {
        found.push(Metric::new(Kind::Gauge, "process_resident_memory_bytes", "Resident memory.").is(bytes));
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        found.push(Metric::new(Kind::Gauge, "process_open_fds", "Open files.").is(open.count() as f64));
    }
    found
}

/// Fields 14 and 15 of proc(5)'s stat. The second field is a name in parentheses, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_name_is() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 100 200";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("42 (a) S 1"), None);
        assert_eq!(resident_bytes("VmPeak:\t9 kB\nVmRSS:\t     12 kB\n"), Some(12288.0));
        assert_eq!(resident_bytes("VmPeak:\t9 kB\n"), None);
    }
}

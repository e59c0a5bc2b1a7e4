//! What is going on, on standard error: a moving line on a terminal, plain lines in a log.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use corpusmill_coordinator::{Event, Events};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::units;

/// How often a log is told of a step that goes on.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Shows events; one for the whole program.
#[derive(Debug)]
pub(crate) struct Progress {
    quiet: bool,
    /// The moving line; `None` where standard error is a file or a pipe.
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `view clean, step 1 of 2`, for the lines that follow.
    step: String,
    last_line: Option<Instant>,
}

impl Progress {
    /// Finds out where standard error goes.
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.set_style(spinner());
            bar
        });
        Self {
            quiet,
            bar,
            state: Mutex::new(State::default()),
        }
    }

    /// Writes a line that stays.
    pub(crate) fn line(&self, text: &str) {
        if !self.quiet {
            self.always(text);
        }
    }

    /// Writes a line that stays, quiet or not.
    pub(crate) fn always(&self, text: &str) {
        let write = || {
            // A closed standard error must not stop the work.
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the moving line away, so that results can be written.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            bar.reset();
        }
    }

    /// Shows that `done` of `total` are done; `what` says of what.
    pub(crate) fn counted(&self, what: &str, done: u64, total: u64, elapsed: Duration) {
        let rate = units::count(units::per_second(done, elapsed));
        self.moving(&format!(
            "{} of {} {what}, {rate}/s",
            units::count(done),
            units::count(total)
        ));
    }

    /// Shows a moving line: in a log only now and then.
    fn moving(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
            bar.tick();
            return;
        }
        let mut state = self.state();
        if state.last_line.is_none_or(|last| last.elapsed() >= LOG_EVERY) {
            let first = state.last_line.is_none();
            state.last_line = Some(Instant::now());
            drop(state);
            // The first is too early to tell anything: it only starts the clock.
            if !first {
                self.line(text);
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is plain text: whatever a panicking thread left in it is fit to be shown.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step_started(&self, step: &str, (number, of): (usize, usize), (splits, done): (usize, usize)) {
        let name = format!("step {number}/{of} {step}");
        let already = if done > 0 {
            format!(", {done} finished by an earlier run")
        } else {
            String::new()
        };
        self.line(&format!(
            "  {name}: {}{already}",
            units::counted(splits as u64, "split")
        ));
        *self.state() = State {
            step: name,
            last_line: Some(Instant::now()),
        };
    }

    fn goes_on(&self, progress: &Event) {
        let Event::Progress {
            rows_read,
            rows_expected,
            bytes_read,
            rows_written,
            spilled_bytes,
            tasks,
            elapsed,
            ..
        } = progress
        else {
            return;
        };
        let place = tasks.map_or_else(String::new, |tasks| {
            let (running, workers) = (
                units::counted(tasks.running, "task"),
                units::counted(tasks.workers, "worker"),
            );
            let stage = (tasks.stages_done + 1).min(tasks.stages);
            format!(", stage {stage} of {}, {running} on {workers}", tasks.stages)
        });
        let spilled = match *spilled_bytes {
            0 => String::new(),
            some => format!(", {} spilled", units::bytes(some)),
        };
        let step = self.state().step.clone();
        let of = rows_expected
            .map(|rows| format!(" of {}", units::count(rows)))
            .unwrap_or_default();
        let rate = units::count(units::per_second(*rows_read, *elapsed));
        let (read, written, size) = (
            units::count(*rows_read),
            units::count(*rows_written),
            units::bytes(*bytes_read),
        );
        self.moving(&format!(
            "  {step}: {read}{of} rows read ({size}), {written} written, {rate} rows/s{spilled}{place}"
        ));
    }

    fn step_finished(&self, step: &str, (rows_in, rows_out): (u64, u64), bytes: u64, elapsed: Duration) {
        self.clear();
        let (rows_in, rows_out) = (units::count(rows_in), units::count(rows_out));
        let (size, time) = (units::bytes(bytes), units::duration(elapsed));
        self.line(&format!("  {step}: {rows_in} rows in, {rows_out} out, {size}, {time}"));
    }
}

fn how_it_starts(resumed: bool) -> &'static str {
    if resumed {
        "goes on from an earlier run"
    } else {
        "begins"
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Events for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Statement {
                number,
                of,
                line,
                summary,
            } if of > 1 => {
                self.line(&format!("[{number}/{of}] line {line}: {summary}"));
            }
            Event::BuildStarted {
                object,
                build,
                steps,
                resumed,
            } => {
                let how = how_it_starts(resumed);
                self.line(&format!(
                    "{object}: build {build} {how}, {}",
                    units::counted(steps as u64, "step")
                ));
            }
            Event::StepStarted {
                step,
                number,
                of,
                splits,
                splits_done,
                ..
            } => {
                self.step_started(&step, (number, of), (splits, splits_done));
            }
            going @ Event::Progress { .. } => self.goes_on(&going),
            Event::StepFinished {
                step,
                reused: true,
                rows_out,
                ..
            } => {
                self.clear();
                self.line(&format!(
                    "  {step}: done by an earlier run, {} rows",
                    units::count(rows_out)
                ));
            }
            Event::StepFinished {
                step,
                rows_in,
                rows_out,
                bytes,
                elapsed,
                ..
            } => self.step_finished(&step, (rows_in, rows_out), bytes, elapsed),
            Event::Waiting(reason) => self.line(&reason),
            Event::Warning(text) => self.always(&format!("warning: {text}")),
            // Events only grow: what this program does not know it does not show.
            _ => {}
        }
    }
}

//! What a coordinator tells while it works, and what a statement gives back.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
pub use corpusmill_proto::control::Tasks;
use datafusion::execution::SendableRecordBatchStream;

use crate::error::Result;
use crate::report::BuildReport;

/// Something that happened while a statement ran.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A statement of a script begins.
    Statement {
        /// Its number in the script, from 1.
        number: usize,
        /// Statements in the script.
        of: usize,
        /// Line of the file on which it starts, from 1.
        line: usize,
        /// Its first words.
        summary: String,
    },
    /// A statement waits for its turn; the text says for whom.
    Waiting(String),
    /// A build begins, or goes on after a stop.
    BuildStarted {
        /// Name of the corpus or materialised view.
        object: String,
        /// Id of the build.
        build: String,
        /// Steps in the build.
        steps: usize,
        /// It goes on from where an earlier run stopped.
        resumed: bool,
    },
    /// A step of a build begins.
    StepStarted {
        /// Id of the build.
        build: String,
        /// Name of the step.
        step: String,
        /// Its number in the build, from 1.
        number: usize,
        /// Steps in the build.
        of: usize,
        /// Splits that it has to run.
        splits: usize,
        /// Splits that were finished by an earlier run.
        splits_done: usize,
    },
    /// A step goes on; sent a few times a second at most.
    Progress {
        /// Id of the build.
        build: String,
        /// Name of the step.
        step: String,
        /// Rows read from the sources so far.
        rows_read: u64,
        /// Rows that will be read, where the sources say.
        rows_expected: Option<u64>,
        /// Bytes read from the sources so far, where they say.
        bytes_read: u64,
        /// Rows written so far.
        rows_written: u64,
        /// Bytes put on disk so far because memory was short.
        spilled_bytes: u64,
        /// Splits finished so far in this run.
        splits_done: usize,
        /// Where it runs; `None` when it runs in this process.
        tasks: Option<Tasks>,
        /// Since the step began.
        elapsed: Duration,
    },
    /// A step is complete.
    StepFinished {
        /// Id of the build.
        build: String,
        /// Name of the step.
        step: String,
        /// Nothing had to be run: an earlier run or build did it.
        reused: bool,
        /// Rows that came in.
        rows_in: u64,
        /// Rows written.
        rows_out: u64,
        /// Bytes written.
        bytes: u64,
        /// How long it took.
        elapsed: Duration,
    },
    /// Something that a person should know although nothing failed.
    Warning(String),
}

/// Told what happens; called from the thread that runs the statement, so it must return at once.
pub trait Events: Send + Sync + Debug {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn event(&self, _: Event) {}
}

/// What a statement gives back to whoever ran it.
pub enum Outcome {
    /// Rows: of a query, or of SHOW, DESCRIBE, EXPLAIN.
    Rows(SendableRecordBatchStream),
    /// One line to be shown: what a statement did.
    Message(String),
    /// A corpus was built, or there was nothing to build.
    Build(Box<BuildReport>),
}

/// Takes the outcomes of a script, one for each statement, in order.
#[async_trait]
pub trait Sink: Send {
    /// Takes the outcome of a statement; a stream of rows must be read to its end for an error in it to be seen.
    ///
    /// # Errors
    /// What the stream of rows ends with ([`CoordinatorError::from`](crate::CoordinatorError) takes it), or what the
    /// sink meets when it writes; the script ends there.
    async fn outcome(&mut self, outcome: Outcome) -> Result<()>;
}

//! Events, outcomes and failures as messages, and back.

use std::time::Duration;

use corpusmill_proto::control::message::What;
use corpusmill_proto::control::{
    BuildBegins, Failure, FailureKind, Progress, Queued, StatementBegins, StepBegins, StepEnds,
};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;

use crate::error::{CoordinatorError, RemoteKind};
use crate::events::Event;

/// Bytes of a batch that is sent as one message; a larger one is cut by rows.
const BATCH_BYTES: usize = 8 << 20;

/// An event as a message; `None` for one that this version does not send.
pub(super) fn from_event(event: Event) -> Option<What> {
    Some(match event {
        Event::Statement {
            number,
            of,
            line,
            summary,
        } => What::Statement(StatementBegins {
            number: number as u64,
            of: of as u64,
            line: line as u64,
            summary,
        }),
        Event::BuildStarted {
            object,
            build,
            steps,
            resumed,
        } => What::Build(BuildBegins {
            object,
            build,
            steps: steps as u64,
            resumed,
        }),
        Event::Warning(text) => What::Warning(text),
        Event::Waiting(reason) => What::Queued(Queued { ahead: 0, reason }),
        of_step => return from_step(of_step),
    })
}

/// What happens to a step.
fn from_step(event: Event) -> Option<What> {
    Some(match event {
        Event::StepStarted {
            build,
            step,
            number,
            of,
            splits,
            splits_done,
        } => What::Step(StepBegins {
            build,
            step,
            number: number as u64,
            of: of as u64,
            splits: splits as u64,
            splits_done: splits_done as u64,
        }),
        Event::Progress {
            build,
            step,
            rows_read,
            rows_expected,
            bytes_read,
            rows_written,
            spilled_bytes,
            splits_done,
            tasks,
            elapsed,
        } => What::Progress(Progress {
            build,
            step,
            rows_read,
            rows_expected,
            bytes_read,
            rows_written,
            spilled_bytes,
            splits_done: splits_done as u64,
            elapsed_ms: milliseconds(elapsed),
            tasks,
        }),
        Event::StepFinished {
            build,
            step,
            reused,
            rows_in,
            rows_out,
            bytes,
            elapsed,
        } => What::StepEnds(StepEnds {
            build,
            step,
            reused,
            rows_in,
            rows_out,
            bytes,
            elapsed_ms: milliseconds(elapsed),
        }),
        _ => return None,
    })
}

/// A message as an event, if it is one.
pub(super) fn to_event(what: What) -> Option<Event> {
    Some(match what {
        What::Statement(s) => {
            let (number, of, line) = (s.number as usize, s.of as usize, s.line as usize);
            Event::Statement {
                number,
                of,
                line,
                summary: s.summary,
            }
        }
        What::Build(b) => Event::BuildStarted {
            object: b.object,
            build: b.build,
            steps: b.steps as usize,
            resumed: b.resumed,
        },
        What::Step(s) => Event::StepStarted {
            build: s.build,
            step: s.step,
            number: s.number as usize,
            of: s.of as usize,
            splits: s.splits as usize,
            splits_done: s.splits_done as usize,
        },
        What::Progress(p) => Event::Progress {
            build: p.build,
            step: p.step,
            rows_read: p.rows_read,
            rows_expected: p.rows_expected,
            bytes_read: p.bytes_read,
            rows_written: p.rows_written,
            spilled_bytes: p.spilled_bytes,
            splits_done: p.splits_done as usize,
            tasks: p.tasks,
            elapsed: Duration::from_millis(p.elapsed_ms),
        },
        What::StepEnds(s) => Event::StepFinished {
            build: s.build,
            step: s.step,
            reused: s.reused,
            rows_in: s.rows_in,
            rows_out: s.rows_out,
            bytes: s.bytes,
            elapsed: Duration::from_millis(s.elapsed_ms),
        },
        What::Warning(text) => Event::Warning(text),
        What::Queued(queued) => Event::Waiting(queued.reason),
        _ => return None,
    })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Why a script failed, as a message.
pub(super) fn from_error(error: &CoordinatorError) -> Failure {
    let kind = match error.kind() {
        RemoteKind::Other => FailureKind::Unspecified,
        RemoteKind::Expectation => FailureKind::Expectation,
        RemoteKind::Cancelled => FailureKind::Cancelled,
        RemoteKind::Busy => FailureKind::Busy,
    };
    Failure {
        kind: kind.into(),
        message: corpusmill_operators::with_sources(error),
    }
}

/// The schema of a result.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    writer.finish()?;
    writer.into_inner()
}

/// A batch of a result, as one or more messages.
pub(super) fn batch_bytes(batch: &RecordBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
    let pieces = batch.get_array_memory_size().div_ceil(BATCH_BYTES).max(1);
    let rows = batch.num_rows().div_ceil(pieces).max(1);
    let starts = (0..batch.num_rows()).step_by(rows);
    starts
        .map(|start| {
            let piece = batch.slice(start, rows.min(batch.num_rows() - start));
            let mut writer = StreamWriter::try_new(Vec::new(), &piece.schema())?;
            writer.write(&piece)?;
            writer.finish()?;
            writer.into_inner()
        })
        .collect()
}

/// Reads what [`schema_bytes`] or [`batch_bytes`] wrote.
pub(super) fn batches(bytes: &[u8]) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let reader = StreamReader::try_new(bytes, None)?;
    let schema = reader.schema();
    Ok((schema, reader.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use corpusmill_proto::RemoteError;
    use datafusion::arrow::array::{BinaryArray, Int64Array};
    use datafusion::arrow::compute::concat_batches;

    use super::*;
    use crate::events::Tasks;

    #[test]
    fn events_come_back_as_they_were() {
        let text = || "x".to_owned();
        let events = [
            Event::Statement {
                number: 1,
                of: 2,
                line: 3,
                summary: text(),
            },
            Event::BuildStarted {
                object: text(),
                build: text(),
                steps: 2,
                resumed: true,
            },
            Event::StepStarted {
                build: text(),
                step: text(),
                number: 1,
                of: 2,
                splits: 8,
                splits_done: 3,
            },
            Event::Progress {
                build: text(),
                step: text(),
                rows_read: 1,
                rows_expected: Some(9),
                bytes_read: 2,
                rows_written: 3,
                spilled_bytes: 6,
                splits_done: 4,
                tasks: Some(Tasks {
                    stages: 3,
                    stages_done: 1,
                    running: 2,
                    done: 9,
                    workers: 2,
                }),
                elapsed: Duration::from_millis(5),
            },
            Event::StepFinished {
                build: text(),
                step: text(),
                reused: true,
                rows_in: 1,
                rows_out: 2,
                bytes: 3,
                elapsed: Duration::from_millis(4),
            },
            Event::Warning(text()),
        ];
        for event in events {
            assert_eq!(from_event(event.clone()).and_then(to_event), Some(event));
        }
    }

    #[test]
    fn failures_keep_what_exit_codes_say() {
        let failed = CoordinatorError::ExpectationFailed {
            corpus: "c".into(),
            build: "b".into(),
            expectation: "enough".into(),
            detail: "count(*) >= 10".into(),
        };
        let back = CoordinatorError::from(RemoteError::Failed(from_error(&failed)));
        assert_eq!(
            (back.kind(), back.to_string()),
            (RemoteKind::Expectation, failed.to_string())
        );
        assert_eq!(from_error(&CoordinatorError::Cancelled).kind(), FailureKind::Cancelled);
    }

    #[test]
    fn large_batches_are_cut_and_come_back_whole() {
        let ids: Int64Array = (0..5).collect();
        let blob = vec![7u8; 5 << 20];
        let blobs = BinaryArray::from(vec![blob.as_slice(); 5]);
        let schema = Schema::new(vec![
            datafusion::arrow::datatypes::Field::new("id", ids.data_type().clone(), false),
            datafusion::arrow::datatypes::Field::new("blob", blobs.data_type().clone(), false),
        ]);
        use datafusion::arrow::array::Array as _;
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(blobs)]).unwrap();
        let messages = batch_bytes(&batch).unwrap();
        assert!(messages.len() > 1 && messages.iter().all(|m| m.len() < corpusmill_proto::MESSAGE_BYTES_MAX));
        let pieces: Vec<RecordBatch> = messages.iter().flat_map(|m| batches(m).unwrap().1).collect();
        assert_eq!(concat_batches(&batch.schema(), &pieces).unwrap(), batch);
        assert_eq!(
            batches(&schema_bytes(&batch.schema()).unwrap()).unwrap(),
            (batch.schema(), vec![])
        );
    }
}

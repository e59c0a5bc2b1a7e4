//! A script on a coordinator, followed for `corpusmill.submit`.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use corpusmill_access::Credentials;
use corpusmill_proto::control::SubmitRequest;
use corpusmill_proto::control::message::What;
use corpusmill_proto::{Remote, RemoteError};
use corpusmill_serve::ServeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::error::{LoaderError, Result};

/// Messages that wait to be taken.
const AHEAD: usize = 16;
/// How often a waiting thread looks whether Python has a signal for it.
const SIGNALS: Duration = Duration::from_millis(50);

type Messages = mpsc::Receiver<Result<What, RemoteError>>;

/// A script, from its submission to its end. It goes on at the coordinator when this is dropped.
#[pyclass(frozen, name = "Script", module = "corpusmill._native")]
pub(crate) struct PyScript {
    messages: Mutex<Messages>,
    cancel: CancellationToken,
    /// Follows the script also while Python is busy with what it was told.
    runtime: Runtime,
}

#[pymethods]
impl PyScript {
    /// Connects to a coordinator, and begins to send the script.
    #[new]
    #[pyo3(signature = (coordinator, text, origin, base_dir, as_of_ms, certs = None))]
    fn new(
        py: Python<'_>,
        coordinator: &str,
        text: String,
        origin: String,
        base_dir: String,
        as_of_ms: Option<i64>,
        certs: Option<PathBuf>,
    ) -> Result<Self> {
        let request = SubmitRequest {
            text,
            origin,
            base_dir,
            as_of_ms,
        };
        py.detach(|| Self::submit(coordinator, request, certs))
    }

    /// What happens next, None after a good end. Waits without the GIL; a signal's exception leaves the script as it is.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<(&'static str, Bound<'py, PyAny>)>> {
        loop {
            let heard = py.detach(|| {
                let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
                self.runtime.block_on(async {
                    tokio::select! {
                        heard = messages.recv() => Some(heard),
                        () = tokio::time::sleep(SIGNALS) => None,
                    }
                })
            });
            match heard {
                Some(None) => return Ok(None),
                Some(Some(Err(error))) => return Err(LoaderError::Remote(error).into()),
                Some(Some(Ok(what))) => return Ok(Some(told(py, what))),
                None => py.check_signals()?,
            }
        }
    }

    /// Asks the coordinator to stop the script cleanly; `next` goes on to its end.
    fn cancel(&self) {
        self.cancel.cancel();
    }
}

impl PyScript {
    fn submit(coordinator: &str, request: SubmitRequest, certs: Option<PathBuf>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("corpusmill-submit")
            .enable_all()
            .build()
            .map_err(LoaderError::Threads)?;
        let credentials = match certs {
            Some(folder) => Credentials::read(&folder).map(Some),
            None => Credentials::of_environment(),
        };
        let credentials = credentials.map_err(ServeError::from)?;
        let remote = runtime.block_on(Remote::connect(coordinator, credentials.as_ref()))?;
        let cancel = CancellationToken::new();
        let mut conversation = remote.run(request, cancel.clone());
        let (send, messages) = mpsc::channel(AHEAD);
        runtime.spawn(async move {
            while let Some(heard) = conversation.next().await.transpose() {
                let last = heard.is_err();
                if send.send(heard).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Self {
            messages: Mutex::new(messages),
            cancel,
            runtime,
        })
    }
}

/// A message as Python takes it: what it is, and its text, JSON or bytes.
fn told(py: Python<'_>, what: What) -> (&'static str, Bound<'_, PyAny>) {
    let text = |text: &str| PyString::new(py, text).into_any();
    let bytes = |bytes: &[u8]| PyBytes::new(py, bytes).into_any();
    match what {
        What::Said(said) => ("said", text(&said)),
        What::Built(report) => ("built", text(&report)),
        What::RowsBegin(schema) => ("rows_begin", bytes(&schema)),
        What::Rows(rows) => ("rows", bytes(&rows)),
        What::RowsEnd(_) => ("rows_end", text("")),
        event => ("event", text(&event_json(event))),
    }
}

/// An event as JSON: its kind, and its fields by the names of the protocol.
fn event_json(what: What) -> String {
    let event = match what {
        What::Queued(q) => json!({"kind": "queued", "ahead": q.ahead}),
        What::Warning(text) => json!({"kind": "warning", "message": text}),
        What::Statement(s) => json!({
            "kind": "statement", "number": s.number, "of": s.of, "line": s.line, "summary": s.summary,
        }),
        What::Build(b) => json!({
            "kind": "build", "object": b.object, "build": b.build, "steps": b.steps, "resumed": b.resumed,
        }),
        What::Step(s) => json!({
            "kind": "step", "build": s.build, "step": s.step, "number": s.number, "of": s.of,
            "splits": s.splits, "splits_done": s.splits_done,
        }),
        What::Progress(p) => json!({
            "kind": "progress", "build": p.build, "step": p.step, "rows_read": p.rows_read,
            "rows_expected": p.rows_expected, "bytes_read": p.bytes_read, "rows_written": p.rows_written,
            "splits_done": p.splits_done, "elapsed_ms": p.elapsed_ms, "spilled_bytes": p.spilled_bytes,
            "tasks": p.tasks.map(|tasks| json!({
                "stages": tasks.stages, "stages_done": tasks.stages_done, "running": tasks.running,
                "done": tasks.done, "workers": tasks.workers,
            })),
        }),
        What::StepEnds(s) => json!({
            "kind": "step_ends", "build": s.build, "step": s.step, "reused": s.reused, "rows_in": s.rows_in,
            "rows_out": s.rows_out, "bytes": s.bytes, "elapsed_ms": s.elapsed_ms,
        }),
        // The others are no events.
        What::Said(_) | What::Built(_) | What::RowsBegin(_) | What::Rows(_) | What::RowsEnd(_) | What::Ended(_) => {
            json!({"kind": "warning", "message": "the coordinator said something out of turn"})
        }
    };
    event.to_string()
}

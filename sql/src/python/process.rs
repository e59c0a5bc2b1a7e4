//! The processes behind a Python function, and what is said when one fails.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;

use crate::error::Fault;

const WORKER: &str = include_str!("worker.py");
/// Seconds that one batch may take.
const TIMEOUT_S: u64 = 300;
/// Bytes of a process's last words that are kept.
const LAST_WORDS_BYTES: usize = 4096;
/// Largest answer that is believed, in bytes; more than this is a broken frame.
const ANSWER_BYTES_MAX: u64 = 1 << 33;

/// Why a call of a function failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The interpreter could not be started.
    Start(io::Error),
    /// The function raised; the traceback.
    Raised(String),
    /// The process ended on its own: how, and its last words.
    Crashed(String, String),
    /// The process took longer than this.
    TimedOut(Duration),
    /// The process answered what it must not.
    Protocol(String),
}

impl Failure {
    /// What a person is told.
    pub(super) fn fault(&self, function: &str) -> Box<Fault> {
        match self {
            Failure::Start(error) => Fault::new(format!(
                "function {function}: cannot start '{}': {error}",
                interpreter()
            ))
            .with_help("set CORPUSMILL_PYTHON to a Python with pyarrow"),
            Failure::Raised(traceback) => {
                let traceback = traceback.trim_end();
                let last = traceback.lines().last().unwrap_or_default();
                let fault = Fault::new(format!("function {function} failed: {last}\n{traceback}"));
                if traceback.contains("No module named 'pyarrow'") {
                    return fault.with_help("pip install pyarrow, or set CORPUSMILL_PYTHON to a Python that has it");
                }
                fault
            }
            Failure::Crashed(how, words) => {
                let words = words.trim();
                let words = if words.is_empty() {
                    String::new()
                } else {
                    format!("; its last words:\n{words}")
                };
                Fault::new(format!(
                    "function {function}: its Python process ended in the middle of a batch ({how}){words}"
                ))
            }
            Failure::TimedOut(limit) => Fault::new(format!(
                "function {function}: one batch took longer than {} s, so its process was ended",
                limit.as_secs()
            ))
            .with_help("raise CORPUSMILL_PYTHON_TIMEOUT_S, or SET datafusion.execution.batch_size lower"),
            Failure::Protocol(what) => {
                Fault::new(format!("function {function}: its process answered nonsense: {what}"))
            }
        }
    }
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Failure::Protocol(error.to_string())
    }
}

fn interpreter() -> String {
    std::env::var("CORPUSMILL_PYTHON").unwrap_or_else(|_| "python3".to_string())
}

fn timeout() -> Duration {
    let seconds = std::env::var("CORPUSMILL_PYTHON_TIMEOUT_S")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(TIMEOUT_S);
    Duration::from_secs(seconds)
}

/// Idle processes of one function. There are at most as many as threads ever called at once.
#[derive(Debug)]
pub(super) struct Pool {
    name: String,
    source: String,
    returns: DataType,
    idle: Mutex<Vec<Process>>,
}

impl Pool {
    pub(super) fn new(name: String, source: String, returns: DataType) -> Pool {
        Pool {
            name,
            source,
            returns,
            idle: Mutex::default(),
        }
    }

    /// Starts a process and keeps it for the first call.
    pub(super) fn start(&self) -> Result<(), Failure> {
        let process = self.spawn()?;
        self.put_back(process);
        Ok(())
    }

    /// Runs the function over one batch of arguments.
    pub(super) fn call(&self, batch: &RecordBatch) -> Result<ArrayRef, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut process = match idle {
            Some(process) => process,
            None => self.spawn()?,
        };
        let answer = process.ask(&encode(batch)?);
        // A function that raised is still able to work; a process that failed otherwise is dropped, which ends it.
        if matches!(answer, Ok(_) | Err(Failure::Raised(_))) {
            self.put_back(process);
        }
        decode(&answer?)
    }

    fn put_back(&self, process: Process) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    }

    fn spawn(&self) -> Result<Process, Failure> {
        let mut process = Process::start().map_err(Failure::Start)?;
        let spec = serde_json::json!({"name": self.name, "source": self.source}).to_string();
        process.send(spec.as_bytes())?;
        let field = Field::new("result", self.returns.clone(), true);
        let mut schema = Vec::new();
        StreamWriter::try_new(&mut schema, &Schema::new(vec![field]))?.finish()?;
        process.ask(&schema)?;
        Ok(process)
    }
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(batch.get_array_memory_size());
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<ArrayRef, Failure> {
    let mut reader = StreamReader::try_new(bytes, None)?;
    match reader.next() {
        Some(batch) => match batch?.columns() {
            [column] => Ok(Arc::clone(column)),
            columns => Err(Failure::Protocol(format!("{} columns", columns.len()))),
        },
        None => Err(Failure::Protocol("no batch".into())),
    }
}

type Answer = io::Result<(u8, Vec<u8>)>;

/// One interpreter.
#[derive(Debug)]
struct Process {
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<Answer>,
    last_words: Arc<Mutex<VecDeque<u8>>>,
}

impl Process {
    fn start() -> io::Result<Process> {
        let mut child = Command::new(interpreter())
            .args(["-u", "-c", WORKER])
            // Sets and dicts of strings iterate in the same order in every run.
            .env("PYTHONHASHSEED", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let missing = || io::Error::other("a pipe is missing");
        let requests = child.stdin.take();
        let mut stdout = child.stdout.take().ok_or_else(missing)?;
        let mut stderr = child.stderr.take().ok_or_else(missing)?;
        // Each pipe has a thread that ends with its process: a read cannot be given up, waiting for a thread can.
        let (sender, answers) = sync_channel(1);
        std::thread::Builder::new()
            .name("python-answers".into())
            .spawn(move || {
                loop {
                    let answer = read_answer(&mut stdout);
                    let ended = answer.is_err();
                    if sender.send(answer).is_err() || ended {
                        return;
                    }
                }
            })?;
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&last_words);
        std::thread::Builder::new().name("python-words".into()).spawn(move || {
            let mut buffer = [0u8; 1024];
            while let Ok(read) = stderr.read(&mut buffer) {
                if read == 0 {
                    return;
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&buffer[..read]);
                let excess = kept.len().saturating_sub(LAST_WORDS_BYTES);
                kept.drain(..excess);
            }
        })?;
        Ok(Process {
            child,
            requests,
            answers,
            last_words,
        })
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let written = match &mut self.requests {
            Some(requests) => requests
                .write_all(&(payload.len() as u64).to_le_bytes())
                .and_then(|()| requests.write_all(payload))
                .and_then(|()| requests.flush()),
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        };
        written.map_err(|_| self.crashed())
    }

    fn ask(&mut self, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        self.send(payload)?;
        let limit = timeout();
        match self.answers.recv_timeout(limit) {
            Ok(Ok((0, answer))) => Ok(answer),
            Ok(Ok((1, words))) => Err(Failure::Raised(String::from_utf8_lossy(&words).into_owned())),
            Ok(Ok((status, _))) => Err(Failure::Protocol(format!("status {status}"))),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => Err(self.crashed()),
            Err(RecvTimeoutError::Timeout) => {
                // Ended here, so that nothing waits for its pipes any longer.
                let _ = self.child.kill();
                Err(Failure::TimedOut(limit))
            }
        }
    }

    /// Says how the process ended; it is about to, or has.
    fn crashed(&mut self) -> Failure {
        self.requests = None;
        let how = match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let mut kept = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        Failure::Crashed(how, words)
    }
}

fn read_answer(from: &mut impl Read) -> Answer {
    let mut header = [0u8; 9];
    from.read_exact(&mut header)?;
    let mut length = [0u8; 8];
    length.copy_from_slice(&header[1..]);
    let length = u64::from_le_bytes(length);
    if length > ANSWER_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut payload = Vec::new();
    from.take(length).read_to_end(&mut payload)?;
    if payload.len() as u64 != length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok((header[0], payload))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

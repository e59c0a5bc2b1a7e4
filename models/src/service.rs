//! The threads that compute: one pool for all models and all partitions of a process.
//!
//! ```text
//!   partition ─► request: sequences, equal ones once, sorted by length ─► jobs of at most JOB_TOKENS tokens
//!                                                                           │ one queue, first come first served
//!                 values in the order of the texts ◄── the last job of a request ◄── a thread for each core
//! ```
//! Each job runs on one thread from its first layer to its last, so that threads share nothing but the weights.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::error::{ModelError, Result};
use crate::model::{ModelScratch, TextModel};
use crate::text::Sequences;

/// Tokens of a job: enough to use each weight often, few enough for the states to stay in the caches.
pub(crate) const JOB_TOKENS: usize = 512;

/// The results of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results {
    /// A row of values for each sequence, in their order.
    pub values: Vec<f32>,
    /// Sequences that were computed: the others are equal to one of these.
    pub sequences: usize,
    /// Tokens that were computed.
    pub tokens: usize,
}

/// The pool of a process.
pub(crate) struct Service {
    queue: Mutex<VecDeque<Job>>,
    filled: Condvar,
}

/// Some sequences of a request that are computed together.
struct Job {
    request: Arc<Request>,
    sequences: Sequences,
    /// The different sequences of the request that these are.
    numbers: Vec<usize>,
}

struct Request {
    model: Arc<TextModel>,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Rows of the different sequences.
    values: Vec<f32>,
    jobs_left: usize,
    answer: Option<oneshot::Sender<Vec<f32>>>,
}

impl Service {
    /// The pool, its threads started by the first call.
    pub(crate) fn of_process() -> &'static Self {
        static SERVICE: OnceLock<Service> = OnceLock::new();
        static THREADS: OnceLock<()> = OnceLock::new();
        let service = SERVICE.get_or_init(|| Service {
            queue: Mutex::default(),
            filled: Condvar::new(),
        });
        THREADS.get_or_init(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            for core in 0..cores {
                // A thread that cannot be started leaves its work to the others, and the first must start.
                let started = thread::Builder::new()
                    .name(format!("encoder-{core}"))
                    .spawn(|| service.work());
                assert!(
                    started.is_ok() || core > 0,
                    "the system gives no thread for the encoder"
                );
            }
        });
        service
    }

    /// Computes sequences; the work that is not begun is dropped with the future.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] when a thread failed.
    pub(crate) async fn run(&self, model: &Arc<TextModel>, sequences: &Sequences) -> Result<Results> {
        let (order, number_of) = different(sequences);
        if order.is_empty() {
            return Ok(Results::default());
        }
        let (answer, answered) = oneshot::channel();
        let jobs = cut(sequences, &order);
        let request = Arc::new(Request {
            model: Arc::clone(model),
            progress: Mutex::new(Progress {
                values: vec![0.0; order.len() * model.width()],
                jobs_left: jobs.len(),
                answer: Some(answer),
            }),
        });
        let tokens = jobs.iter().map(|(sequences, _)| sequences.ids.len()).sum();
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.extend(jobs.into_iter().map(|(sequences, numbers)| Job {
                request: Arc::clone(&request),
                sequences,
                numbers,
            }));
        }
        self.filled.notify_all();
        // The jobs alone keep the request, so that its answer is dropped with the last of them.
        drop(request);
        let rows = answered
            .await
            .map_err(|_| ModelError::Stopped(model.name().to_owned()))?;
        let width = model.width();
        let mut values = Vec::with_capacity(number_of.len() * width);
        for number in number_of {
            values.extend_from_slice(&rows[number * width..(number + 1) * width]);
        }
        Ok(Results {
            values,
            sequences: order.len(),
            tokens,
        })
    }

    fn work(&self) {
        let mut scratch = ModelScratch::default();
        loop {
            let job = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    match queue.pop_front() {
                        Some(job) => break job,
                        None => queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                    }
                }
            };
            // A panic ends the request it belongs to, not the pool: its answer is dropped with the job.
            if catch_unwind(AssertUnwindSafe(|| job.run(&mut scratch))).is_err() {
                job.give_up();
                scratch = ModelScratch::default();
            }
        }
    }
}

impl Job {
    fn run(&self, scratch: &mut ModelScratch) {
        let wanted = |progress: &Progress| progress.answer.as_ref().is_some_and(|answer| !answer.is_closed());
        if !wanted(&self.request.progress()) {
            return;
        }
        let model = &self.request.model;
        let rows = model.run(&self.sequences, scratch);
        let width = model.width();
        let mut progress = self.request.progress();
        for (row, number) in rows.chunks_exact(width).zip(&self.numbers) {
            progress.values[number * width..(number + 1) * width].copy_from_slice(row);
        }
        progress.jobs_left -= 1;
        if progress.jobs_left == 0
            && let Some(answer) = progress.answer.take()
        {
            // Whoever asked may have gone meanwhile.
            let _ = answer.send(std::mem::take(&mut progress.values));
        }
    }

    fn give_up(&self) {
        self.request.progress().answer = None;
    }
}

impl Request {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The different sequences, short ones first, and for each sequence its number among them.
fn different(sequences: &Sequences) -> (Vec<usize>, Vec<usize>) {
    let ids = |at: usize| &sequences.ids[sequences.offsets[at]..sequences.offsets[at + 1]];
    let mut sorted: Vec<usize> = (0..sequences.len()).collect();
    sorted.sort_by(|a, b| (ids(*a).len(), ids(*a)).cmp(&(ids(*b).len(), ids(*b))));
    let mut order: Vec<usize> = Vec::new();
    let mut number_of = vec![0; sequences.len()];
    for at in sorted {
        if order.last().is_none_or(|last| ids(*last) != ids(at)) {
            order.push(at);
        }
        number_of[at] = order.len() - 1;
    }
    (order, number_of)
}

/// Sequences that follow each other in the order, as many as fit a job; one that is longer is a job of its own.
fn cut(sequences: &Sequences, order: &[usize]) -> Vec<(Sequences, Vec<usize>)> {
    let mut jobs: Vec<(Sequences, Vec<usize>)> = Vec::new();
    for (number, at) in order.iter().enumerate() {
        let ids = &sequences.ids[sequences.offsets[*at]..sequences.offsets[*at + 1]];
        let fits = jobs
            .last()
            .is_some_and(|(job, _)| job.ids.len() + ids.len() <= JOB_TOKENS);
        if !fits {
            let empty = Sequences {
                ids: Vec::new(),
                offsets: vec![0],
            };
            jobs.push((empty, Vec::new()));
        }
        if let Some((job, numbers)) = jobs.last_mut() {
            job.ids.extend_from_slice(ids);
            job.offsets.push(job.ids.len());
            numbers.push(number);
        }
    }
    jobs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_sequence_is_in_one_job_within_the_budget(
            lengths in prop::collection::vec((0usize..700, 0u32..3), 0..60),
        ) {
            let mut sequences = Sequences { ids: vec![], offsets: vec![0] };
            for (length, id) in &lengths {
                sequences.ids.extend(std::iter::repeat_n(*id, *length));
                sequences.offsets.push(sequences.ids.len());
            }
            let (order, number_of) = different(&sequences);
            let jobs = cut(&sequences, &order);
            let of = |at: usize| sequences.ids[sequences.offsets[at]..sequences.offsets[at + 1]].to_vec();
            let mut computed = vec![None; order.len()];
            for (job, numbers) in &jobs {
                prop_assert!(job.ids.len() <= JOB_TOKENS || numbers.len() == 1);
                prop_assert_eq!(job.len(), numbers.len());
                for (range, number) in job.offsets.windows(2).zip(numbers) {
                    prop_assert!(computed[*number].is_none());
                    computed[*number] = Some(job.ids[range[0]..range[1]].to_vec());
                }
            }
            for (at, number) in number_of.iter().enumerate() {
                prop_assert_eq!(computed[*number].as_ref(), Some(&of(at)));
            }
            let different: std::collections::BTreeSet<_> = (0..sequences.len()).map(of).collect();
            prop_assert_eq!(different.len(), order.len());
        }
    }
}

//! Ranks that read: of a job all are on one plan and one world size, and each is one process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corpusmill_proto::stream::OpenRequest;

/// The jobs that have ranks open.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<HashMap<String, Job>>);

#[derive(Debug)]
struct Job {
    plan_hash: String,
    world: u32,
    /// The reader of each rank that is open.
    ranks: BTreeMap<u32, String>,
}

/// A rank that is open; dropped, it may be taken by another.
#[derive(Debug)]
pub(crate) struct OpenRank {
    jobs: Arc<Jobs>,
    job: String,
    rank: u32,
    reader: String,
}

/// Why a rank is not taken in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It can never be: the reason.
    Refused(String),
    /// Another process has it; it may be gone in a moment.
    Busy(String),
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a rank in, and says whether it is the first of its job.
    pub(crate) fn open(self: &Arc<Self>, request: &OpenRequest) -> Result<(OpenRank, bool), NotTaken> {
        let OpenRequest {
            job,
            rank,
            world,
            plan_hash,
            reader,
            ..
        } = request;
        if rank >= world {
            return Err(NotTaken::Refused(format!(
                "rank {rank} is not one of {world} ranks, which count from 0"
            )));
        }
        let mut jobs = self.lock();
        let entry = jobs.entry(job.clone()).or_insert_with(|| Job {
            plan_hash: plan_hash.clone(),
            world: *world,
            ranks: BTreeMap::new(),
        });
        if entry.plan_hash != *plan_hash {
            return Err(NotTaken::Refused(format!(
                "job {job}: rank {rank} has plan {plan_hash}, the ranks {:?} have {}: give all ranks the same arguments \
                 and corpus versions",
                entry.ranks.keys().collect::<Vec<_>>(),
                entry.plan_hash
            )));
        }
        if entry.world != *world {
            return Err(NotTaken::Refused(format!(
                "job {job}: rank {rank} says there are {world} ranks, the ranks {:?} say {}",
                entry.ranks.keys().collect::<Vec<_>>(),
                entry.world
            )));
        }
        if let Some(other) = entry.ranks.get(rank).filter(|other| *other != reader) {
            return Err(NotTaken::Busy(format!(
                "job {job}: rank {rank} is read by another process ({other}): every rank is one process, \
                 and other runs have other job names"
            )));
        }
        let is_first = entry.ranks.is_empty();
        entry.ranks.insert(*rank, reader.clone());
        let rank = OpenRank {
            jobs: self.clone(),
            job: job.clone(),
            rank: *rank,
            reader: reader.clone(),
        };
        Ok((rank, is_first))
    }

    /// How many ranks of a job are open, and which of its world are not.
    pub(crate) fn missing(&self, job: &str) -> (u32, Vec<u32>) {
        let jobs = self.lock();
        let Some(job) = jobs.get(job) else {
            return (0, Vec::new());
        };
        let missing = (0..job.world).filter(|rank| !job.ranks.contains_key(rank)).collect();
        (job.ranks.len() as u32, missing)
    }
}

impl Drop for OpenRank {
    fn drop(&mut self) {
        let mut jobs = self.jobs.lock();
        let Some(job) = jobs.get_mut(&self.job) else { return };
        if job.ranks.get(&self.rank) == Some(&self.reader) {
            job.ranks.remove(&self.rank);
        }
        if job.ranks.is_empty() {
            jobs.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(rank: u32, world: u32, plan: &str, reader: &str) -> OpenRequest {
        OpenRequest {
            job: "j".into(),
            rank,
            world,
            plan_hash: plan.into(),
            host: "h".into(),
            reader: reader.into(),
        }
    }

    #[test]
    fn ranks_of_a_job_are_disjoint_and_on_one_plan() {
        let jobs = Arc::new(Jobs::default());
        let first = jobs.open(&request(0, 2, "p", "a")).unwrap();
        let refused = |request| match jobs.open(&request) {
            Err(NotTaken::Refused(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(refused(request(1, 2, "q", "b")).contains("plan q"));
        assert!(refused(request(1, 3, "p", "b")).contains("3 ranks"));
        assert!(refused(request(2, 2, "p", "b")).contains("count from 0"));
        assert!(matches!(jobs.open(&request(0, 2, "p", "b")), Err(NotTaken::Busy(why)) if why.contains("(a)")));
        assert_eq!(jobs.missing("j"), (1, vec![1]));
        let second = jobs.open(&request(1, 2, "p", "b")).unwrap();
        assert_eq!(jobs.missing("j"), (2, vec![]));
        drop(first);
        let _again = jobs.open(&request(0, 2, "p", "c")).unwrap();
        drop(second);
        assert_eq!(jobs.missing("j"), (1, vec![1]));
    }

    #[test]
    fn a_job_without_ranks_is_forgotten() {
        let jobs = Arc::new(Jobs::default());
        drop(jobs.open(&request(0, 2, "p", "a")).unwrap());
        jobs.open(&request(0, 4, "another plan", "a")).unwrap();
    }
}

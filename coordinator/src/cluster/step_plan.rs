//! The plan of a step as a cluster runs it: where receipts go, which splits there are, whether rows cross an exchange.

use std::collections::BTreeSet;
use std::sync::Arc;

use ballista_core::execution_plans::ShuffleWriter;
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner as _};
use ballista_scheduler::state::task_builder::restrict_plan_to_partitions;
use corpusmill_operators::{Destination, RowSink, Screen, ShardSink, WriteRows, WriteShards};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _};

/// The plan of one step.
#[derive(Debug, Clone)]
pub(super) struct StepPlan {
    plan: Arc<dyn ExecutionPlan>,
    sink: Sink,
    /// Rows go from one task to another.
    pub(super) exchange: bool,
    /// The splits that must have a receipt at the end.
    pub(super) splits: BTreeSet<u32>,
}

#[derive(Debug, Clone)]
enum Sink {
    Shards(Arc<ShardSink>),
    Rows(Arc<RowSink>),
}

impl StepPlan {
    /// Looks at a plan that ends in `WriteShards` or `WriteRows`, as the scheduler will cut it into stages.
    ///
    /// # Errors
    /// When the plan ends in something else, or cannot be cut.
    pub(super) fn new(plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Self> {
        let stages = stages(&plan, config)?;
        let exchange = stages.len() > 1;
        if let Some(write) = plan.downcast_ref::<WriteRows>() {
            // The scheduler leaves out some exchanges, and with them the number of partitions that they would make.
            let partitions = stages.last().map_or(0, |stage| input_partitions(stage.as_ref()));
            let sink = Sink::Rows(Arc::clone(write.sink()));
            let splits = (0..partitions as u32).collect();
            return Ok(Self {
                plan,
                sink,
                exchange,
                splits,
            });
        }
        if let Some(write) = plan.downcast_ref::<WriteShards>() {
            let (sources, splits) = screened(&stages)
                .ok_or_else(|| DataFusionError::Internal("a step that writes shards has no screen".to_owned()))?;
            let sink = Arc::new(ShardSink {
                sources,
                ..write.sink().as_ref().clone()
            });
            let splits = splits.into_iter().collect();
            return Ok(Self {
                plan,
                sink: Sink::Shards(sink),
                exchange,
                splits,
            });
        }
        Err(DataFusionError::Internal(format!(
            "a step ends in {}, which gives no receipts",
            plan.name()
        )))
    }

    /// The step's staging folder.
    pub(super) fn staging(&self) -> &Destination {
        match &self.sink {
            Sink::Shards(sink) => &sink.staging,
            Sink::Rows(sink) => &sink.staging,
        }
    }

    /// The plan with its receipts in `staging`; of some splits only, where the step has no exchange.
    ///
    /// # Errors
    /// When a split of a step with an exchange is left out, or the plan cannot be rebuilt.
    pub(super) fn attempt(&self, staging: Destination, missing: &BTreeSet<u32>) -> Result<Arc<dyn ExecutionPlan>> {
        let children: Vec<_> = self.plan.children().into_iter().cloned().collect();
        let [input] = children.as_slice() else {
            return Err(DataFusionError::Internal(format!("{} has no input", self.plan.name())));
        };
        if *missing == self.splits || self.exchange {
            return Ok(match &self.sink {
                Sink::Shards(sink) => {
                    let sink = ShardSink {
                        staging,
                        ..sink.as_ref().clone()
                    };
                    Arc::new(WriteShards::try_new(Arc::clone(input), Arc::new(sink))?)
                }
                Sink::Rows(sink) => Arc::new(WriteRows::new(
                    Arc::clone(input),
                    Arc::new(RowSink {
                        staging,
                        ..sink.as_ref().clone()
                    }),
                )),
            });
        }
        let Sink::Rows(sink) = &self.sink else {
            return Err(DataFusionError::Internal(
                "shards are written behind an exchange".to_owned(),
            ));
        };
        let partitions: Vec<usize> = missing.iter().map(|split| *split as usize).collect();
        let input = restrict_plan_to_partitions(Arc::clone(input), &partitions)?;
        let splits = Some(missing.iter().copied().collect());
        let sink = RowSink {
            staging,
            splits,
            ..sink.as_ref().clone()
        };
        Ok(Arc::new(WriteRows::new(input, Arc::new(sink))))
    }
}

fn stages(plan: &Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Vec<Arc<dyn ShuffleWriter>>> {
    DefaultDistributedPlanner::new()
        .plan_query_stages(&"plan".into(), Arc::clone(plan), config)
        .map_err(|error| DataFusionError::External(Box::new(error)))
}

fn input_partitions(stage: &dyn ShuffleWriter) -> usize {
    stage
        .children()
        .first()
        .map_or(0, |input| input.output_partitioning().partition_count())
}

/// Partitions that the screen of a step will have, and the shards that it reports.
fn screened(stages: &[Arc<dyn ShuffleWriter>]) -> Option<(usize, Vec<u32>)> {
    fn find(plan: &Arc<dyn ExecutionPlan>) -> Option<(usize, Vec<u32>)> {
        if let Some(screen) = plan.downcast_ref::<Screen>() {
            return Some((
                plan.output_partitioning().partition_count(),
                screen.spec().splits.clone(),
            ));
        }
        plan.children().into_iter().find_map(find)
    }
    stages
        .iter()
        .find_map(|stage| stage.children().into_iter().find_map(find))
}

/// A folder beside `staging` for the receipts of one attempt: nothing that an attempt leaves behind, early or late,
/// is where receipts are looked for.
pub(super) fn attempt_folder(staging: &Destination, name: &str) -> Destination {
    let mut url = staging.url().clone();
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().pop().extend(["_attempts", name]);
    }
    Destination::new(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_have_folders_of_their_own() {
        let staging = Destination::new("file:///w/_staging/b1/shards".parse().unwrap());
        let folder = attempt_folder(&staging, "shards-1");
        assert_eq!(folder.url().as_str(), "file:///w/_staging/b1/_attempts/shards-1");
        let slash = Destination::new("file:///w/_staging/b1/shards/".parse().unwrap());
        assert_eq!(attempt_folder(&slash, "shards-1"), folder);
    }
}

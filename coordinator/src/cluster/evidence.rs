//! What makes the history of a job suspicious: any sign that something was run again, or that rows were lost or
//! doubled between two stages.
//!
//! Ballista 55 repairs a lost shuffle by running tasks again, and links the surviving outputs a second time: the job
//! ends well, with rows doubled. None of its repairs is trusted here. A job is sound when every stage had one attempt,
//! every partition was run by one task, and every stage read what the stages before it wrote.

use std::collections::{HashMap, HashSet};

use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::scheduler::PartitionLocation;
use ballista_scheduler::state::execution_stage::{ExecutionStage, StageOutput, SuccessfulStage, TaskInfo};
use datafusion::arrow::array::{Array as _, AsArray as _};
use datafusion::arrow::datatypes::UInt64Type;
use datafusion::physical_plan::ExecutionPlan;

use super::progress::output_rows_of;

/// The stages of a job, by number.
pub(super) type Stages = HashMap<usize, ExecutionStage>;

/// Says what went wrong so far, if anything did; a job with such a history is not worth waiting for.
pub(super) fn so_far(stages: &Stages) -> Option<String> {
    stages.iter().find_map(|(id, stage)| {
        let attempt = attempt(stage);
        if attempt > 0 {
            return Some(format!("stage {id} was run again (attempt {attempt})"));
        }
        stage.task_infos().and_then(|tasks| suspicious_task(*id, tasks))
    })
}

/// Says why a job that ended well is not to be trusted, if it is not.
pub(super) fn at_the_end(stages: &Stages) -> Option<String> {
    so_far(stages).or_else(|| stages.iter().find_map(|(id, stage)| incomplete(*id, stage, stages)))
}

fn attempt(stage: &ExecutionStage) -> usize {
    match stage {
        ExecutionStage::UnResolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Resolved(stage) => stage.stage_attempt_num,
        ExecutionStage::Running(stage) => stage.stage_attempt_num,
        ExecutionStage::Successful(stage) => stage.stage_attempt_num,
        ExecutionStage::Failed(stage) => stage.stage_attempt_num,
    }
}

/// A task that failed, or a partition that two tasks had.
fn suspicious_task(stage: usize, tasks: &[TaskInfo]) -> Option<String> {
    let mut seen = HashSet::new();
    for task in tasks {
        if let Status::Failed(failed) = &task.task_status {
            return Some(format!(
                "task {} of stage {stage} failed: {}",
                task.task_id, failed.error
            ));
        }
        for partition in &task.global_input_partition_ids {
            if !seen.insert(partition) {
                return Some(format!("partition {partition} of stage {stage} was run twice"));
            }
        }
    }
    None
}

fn incomplete(id: usize, stage: &ExecutionStage, stages: &Stages) -> Option<String> {
    let ExecutionStage::Successful(done) = stage else {
        return Some(format!("stage {id} is {}", stage.variant_name()));
    };
    let ran: usize = done
        .task_infos
        .iter()
        .map(|task| task.global_input_partition_ids.len())
        .sum();
    if ran != done.partitions {
        return Some(format!("stage {id} has {} partitions, {ran} were run", done.partitions));
    }
    for (producer, output) in &done.inputs {
        let Some(ExecutionStage::Successful(written)) = stages.get(producer) else {
            return Some(format!("stage {id} reads stage {producer}, which did not end"));
        };
        if let Some(what) = differs(id, done, *producer, written, output) {
            return Some(what);
        }
    }
    None
}

/// Holds what a stage wrote against what the next one was given, and against what that read.
fn differs(
    reader: usize,
    reading: &SuccessfulStage,
    writer: usize,
    writing: &SuccessfulStage,
    output: &StageOutput,
) -> Option<String> {
    let locations = || output.partition_locations.values().flatten();
    let mut links = HashSet::new();
    for location in locations() {
        if !links.insert(place(location)) {
            return Some(format!("stage {reader} was given an output of stage {writer} twice"));
        }
    }
    let written = rows_written(writing);
    let given: u64 = locations().filter_map(rows_at).sum();
    if written != given {
        return Some(format!(
            "stage {writer} wrote {written} rows, stage {reader} was given {given}"
        ));
    }
    let readers: Vec<_> = readers_of(&reading.plan, writer);
    let [position] = readers.as_slice() else { return None };
    let read = output_rows_of(&reading.stage_metrics, *position)?;
    if read > given || (read < given && drains(&reading.plan)) {
        return Some(format!(
            "stage {writer} wrote {written} rows, stage {reader} read {read}"
        ));
    }
    None
}

fn place(location: &PartitionLocation) -> (usize, usize, Option<u64>, &str) {
    let partition = location.partition_id.partition_id;
    (
        location.map_partition_id,
        partition,
        location.file_id,
        location.executor_meta.id.as_str(),
    )
}

fn rows_written(stage: &SuccessfulStage) -> u64 {
    let partitions = stage.task_infos.iter().flat_map(|task| match &task.task_status {
        Status::Successful(done) => done.partitions.as_slice(),
        _ => &[],
    });
    partitions.map(|partition| partition.num_rows).sum()
}

/// Rows of an output, as its writer counted them; the number itself is not public.
fn rows_at(location: &PartitionLocation) -> Option<u64> {
    let statistics = location.partition_stats.to_arrow_arrayref().ok()?;
    let rows = statistics
        .column_by_name("num_rows")?
        .as_primitive_opt::<UInt64Type>()?;
    (rows.len() == 1 && rows.is_valid(0)).then(|| rows.value(0))
}

/// Places, in the order of the metrics, of the nodes that read the output of `stage` once.
fn readers_of(plan: &std::sync::Arc<dyn ExecutionPlan>, stage: usize) -> Vec<usize> {
    fn walk(plan: &std::sync::Arc<dyn ExecutionPlan>, stage: usize, next: &mut usize, found: &mut Vec<usize>) {
        let reads = plan
            .downcast_ref::<ShuffleReaderExec>()
            .is_some_and(|r| r.stage_id == stage && !r.broadcast);
        if reads {
            found.push(*next);
        }
        if plan.metrics().is_some() {
            *next += 1;
        }
        for child in plan.children() {
            walk(child, stage, next, found);
        }
    }
    let mut found = Vec::new();
    walk(plan, stage, &mut 0, &mut found);
    found
}

/// Whether every node of a stage reads its input to the end. Joins and limits may stop early.
fn drains(plan: &std::sync::Arc<dyn ExecutionPlan>) -> bool {
    const TO_THE_END: [&str; 15] = [
        "AggregateExec",
        "BoundedWindowAggExec",
        "CoalesceBatchesExec",
        "CoalescePartitionsExec",
        "DataSourceExec",
        "FilterExec",
        "ProjectionExec",
        "Screen",
        "ShuffleReaderExec",
        "ShuffleWriterExec",
        "SortExec",
        "SortShuffleWriterExec",
        "WindowAggExec",
        "WriteRows",
        "WriteShards",
    ];
    TO_THE_END.contains(&plan.name()) && plan.fetch().is_none() && plan.children().into_iter().all(drains)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ballista_core::execution_plans::ShuffleWriterExec;
    use ballista_core::serde::protobuf::{FailedTask, ShuffleWritePartition, SuccessfulTask};
    use ballista_core::serde::scheduler::{
        ExecutorMetadata, ExecutorOperatingSystemSpecification, ExecutorSpecification, PartitionId, PartitionStats,
    };
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::prelude::SessionConfig;

    use super::*;

    fn task(task_id: usize, partition: usize, rows: u64) -> TaskInfo {
        let written = ShuffleWritePartition {
            partition_id: 0,
            num_rows: rows,
            ..Default::default()
        };
        let done = SuccessfulTask {
            executor_id: "w1".into(),
            partitions: vec![written],
            ..Default::default()
        };
        TaskInfo {
            task_id,
            scheduled_time: 0,
            launch_time: 0,
            start_exec_time: 0,
            end_exec_time: 0,
            finish_time: 0,
            task_status: Status::Successful(done),
            global_input_partition_ids: vec![partition],
            vcores_consumed: 1,
        }
    }

    fn location(task: usize, rows: u64) -> PartitionLocation {
        PartitionLocation {
            map_partition_id: task,
            partition_id: PartitionId {
                job_id: "j".into(),
                stage_id: 1,
                partition_id: 0,
            },
            executor_meta: ExecutorMetadata {
                id: "w1".into(),
                host: String::new(),
                port: 0,
                grpc_port: 0,
                specification: ExecutorSpecification::default(),
                os_info: ExecutorOperatingSystemSpecification::default(),
            },
            partition_stats: PartitionStats::new(Some(rows), Some(1), Some(1)),
            file_id: Some(task as u64),
            is_sort_shuffle: true,
        }
    }

    fn stage(stage_id: usize, tasks: Vec<TaskInfo>, inputs: HashMap<usize, StageOutput>) -> SuccessfulStage {
        let empty = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let plan = ShuffleWriterExec::try_new("j".into(), stage_id, empty, String::new()).unwrap();
        SuccessfulStage {
            stage_id,
            stage_attempt_num: 0,
            partitions: tasks.len(),
            output_links: vec![],
            inputs,
            plan: Arc::new(plan),
            task_infos: tasks,
            stage_metrics: vec![],
            session_config: Arc::new(SessionConfig::new()),
            output_column_stats: vec![],
        }
    }

    /// Two stages: two tasks write 7 and 5 rows, one task reads both outputs.
    fn sound() -> (SuccessfulStage, SuccessfulStage) {
        let first = stage(1, vec![task(0, 0, 7), task(1, 1, 5)], HashMap::new());
        let mut output = StageOutput::new();
        output.add_partition(location(0, 7));
        output.add_partition(location(1, 5));
        (first, stage(2, vec![task(0, 0, 1)], HashMap::from([(1, output)])))
    }

    fn judged(first: SuccessfulStage, second: SuccessfulStage) -> Option<String> {
        let stages = [
            (1, ExecutionStage::Successful(first)),
            (2, ExecutionStage::Successful(second)),
        ];
        at_the_end(&stages.into())
    }

    #[test]
    fn a_job_without_incident_is_sound() {
        let (first, second) = sound();
        assert_eq!(judged(first, second), None);
    }

    #[test]
    fn an_output_that_is_linked_twice_is_found() {
        let (first, mut second) = sound();
        second.inputs.get_mut(&1).unwrap().add_partition(location(1, 5));
        assert!(judged(first, second).unwrap().contains("twice"));
    }

    #[test]
    fn rows_that_differ_are_found() {
        let (mut first, second) = sound();
        first.task_infos[0] = task(0, 0, 8);
        assert_eq!(
            judged(first, second).unwrap(),
            "stage 1 wrote 13 rows, stage 2 was given 12"
        );
    }

    #[test]
    fn anything_that_ran_again_is_found() {
        let (mut first, second) = sound();
        first.stage_attempt_num = 1;
        assert!(judged(first, second).unwrap().contains("stage 1 was run again"));
        let (mut first, second) = sound();
        first.task_infos.push(task(2, 1, 5));
        assert!(
            judged(first, second)
                .unwrap()
                .contains("partition 1 of stage 1 was run twice")
        );
        let (mut first, second) = sound();
        first.task_infos[1].task_status = Status::Failed(FailedTask {
            error: "lost".into(),
            ..Default::default()
        });
        assert!(
            judged(first, second)
                .unwrap()
                .contains("task 1 of stage 1 failed: lost")
        );
        let (mut first, second) = sound();
        first.partitions = 3;
        assert!(judged(first, second).unwrap().contains("3 partitions, 2 were run"));
    }
}

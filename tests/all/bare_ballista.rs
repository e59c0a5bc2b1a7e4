//! Why there is a gate: Ballista by itself, without anything of ours, gives wrong rows without an error.
//!
//! ```text
//!   stage 1: partial counts ─► exchange ─► stage 2: counts        777 groups
//!            on both executors, done          one task waits on executor A, which is then killed
//! ```
//! Ballista 55 runs the tasks of stage 1 that A had once more, and links what executor B had written twice. When this
//! test fails because the rows are right, a release has mended it: look whether the gate of
//! `coordinator/src/cluster/evidence.rs` can go.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ballista_core::config::{BALLISTA_ADAPTIVE_PLANNER_ENABLED, TaskSchedulingPolicy};
use ballista_core::extension::SessionConfigExt as _;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::utils::{default_config_producer, default_session_builder};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::{BallistaCluster, ClusterState};
use ballista_scheduler::config::{SchedulerConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use ballista_scheduler::scheduler_server::SchedulerServer;
use corpusmill_tests::Place;
use datafusion::arrow::datatypes::DataType;
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion::prelude::{CsvReadOptions, SessionConfig, SessionContext};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};

const GROUPS: i64 = 777;
const ROUNDS: u32 = 5;
const DEADLINE: Duration = Duration::from_secs(120);
/// Folder of an executor; the file `hold` in it makes `wait_here` wait.
const FOLDER: &str = "CORPUSMILL_TEST_BARE_FOLDER";
const SCHEDULER: &str = "CORPUSMILL_TEST_BARE_SCHEDULER";

/// Gives its argument back; in an executor whose folder has a file `hold`, says so and waits to be killed.
fn wait_here() -> ScalarUDF {
    create_udf(
        "wait_here",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|arguments: &[ColumnarValue]| {
            if let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from)
                && folder.join("hold").exists()
            {
                std::fs::write(folder.join("holds"), "")?;
                std::thread::sleep(DEADLINE);
            }
            Ok(arguments[0].clone())
        }),
    )
}

fn config() -> SessionConfig {
    SessionConfig::new()
        .upgrade_for_ballista()
        .with_target_partitions(4)
        // With adaptive planning the same kill gives a job that hangs.
        .set_bool(BALLISTA_ADAPTIVE_PLANNER_ENABLED, false)
}

fn context() -> Result<SessionContext> {
    let context = SessionContext::new_with_config(config());
    context.state_ref().write().register_udf(Arc::new(wait_here()))?;
    Ok(context)
}

/// Not a test of its own: an executor of the one below.
#[test]
#[ignore = "run by ballista_alone_gives_wrong_rows in a process of its own"]
fn executor_process() -> Result<()> {
    let scheduler = std::env::var(SCHEDULER).context("only run by its parent")?;
    let folder = PathBuf::from(std::env::var_os(FOLDER).context("only run by its parent")?);
    let (host, port) = scheduler.split_once(':').context("no port")?;
    let free = || -> Result<u16> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
    let functions = BallistaFunctionRegistry::from(&context()?.state());
    let options = ExecutorProcessConfig {
        bind_host: "127.0.0.1".into(),
        external_host: Some("127.0.0.1".into()),
        port: free()?,
        grpc_port: free()?,
        scheduler_host: host.into(),
        scheduler_port: port.parse()?,
        scheduler_connect_timeout_seconds: 20,
        vcores: 2,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(folder.display().to_string()),
        executor_heartbeat_interval_seconds: 1,
        override_function_registry: Some(Arc::new(functions)),
        ..ExecutorProcessConfig::default()
    };
    on_large_stack(async move { Ok(start_executor_process(Arc::new(options)).await?) })
}

fn on_large_stack<T: Send + 'static>(future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(16 << 20)
        .build()?;
    let ended = runtime.block_on(async { tokio::spawn(future).await });
    runtime.shutdown_background();
    ended?
}

/// A process, gone when it is dropped.
struct Executor(Child);

impl Executor {
    fn start(scheduler: &str, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--exact", "bare_ballista::executor_process", "--ignored", "--nocapture"])
            .env(SCHEDULER, scheduler)
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Server = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

async fn scheduler() -> Result<(Server, Arc<dyn ClusterState>, String)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let cluster = BallistaCluster::new_memory(
        address.to_string(),
        Arc::new(default_session_builder),
        Arc::new(default_config_producer),
    );
    let config = SchedulerConfig {
        external_host: "127.0.0.1".into(),
        bind_host: "127.0.0.1".into(),
        bind_port: address.port(),
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        executor_timeout_seconds: 5,
        expire_dead_executor_interval_seconds: 1,
        executor_termination_grace_period: 0,
        ..SchedulerConfig::default()
    };
    let executors = cluster.cluster_state();
    let server: Server = create_scheduler(cluster, Arc::new(config)).await?;
    tokio::spawn(start_grpc_service_with_listener(listener, server.clone()));
    Ok((server, executors, address.to_string()))
}

async fn until(what: &str, there: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !there() {
        if began.elapsed() > DEADLINE {
            bail!("{what} in {DEADLINE:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[test]
fn ballista_alone_gives_wrong_rows() -> Result<()> {
    let place = Place::new()?;
    for file in 0..4 {
        let rows: String = (0..3_000)
            .map(|row| format!("{}\n", (file * 3_000 + row) % GROUPS))
            .collect();
        place.write(&format!("t/{file}.csv"), format!("k\n{rows}"))?;
    }
    let (without, _) = counted(&place, false)?;
    assert_eq!(without, GROUPS, "without a fault the rows are right");
    // The executor may die in the middle of a body that another one reads, and then the job fails: that is no answer.
    for round in 0..ROUNDS {
        let (with, error) = counted(&place, true)?;
        println!("round {round}: {with} rows instead of {GROUPS}, error: {error:?}");
        if error.is_none() {
            ensure!(
                with != GROUPS,
                "the rows are right: a release of Ballista has mended this, look whether the gate can go"
            );
            return Ok(());
        }
    }
    bail!("the job failed in each of {ROUNDS} rounds, which is better than wrong rows: look whether the gate can go")
}

/// Rows of the query, and the error of its job; with a fault, an executor dies in stage 2.
fn counted(place: &Place, fault: bool) -> Result<(i64, Option<String>)> {
    let (table, root) = (place.path().join("t"), place.path().join(format!("fault-{fault}")));
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    on_large_stack(async move {
        let (server, executors, address) = scheduler().await?;
        let (a, b) = (root.join("a"), root.join("b"));
        let mut first = Executor::start(&address, &a)?;
        let _second = Executor::start(&address, &b)?;
        if fault {
            std::fs::write(a.join("hold"), "")?;
        }
        until("the executors did not register", || {
            executors.executor_heartbeats().len() == 2
        })
        .await?;
        let context = context()?;
        let path = table.display().to_string();
        context.register_csv("t", &path, CsvReadOptions::new()).await?;
        let query = "SELECT wait_here(k) AS k, n FROM (SELECT k, count(*) AS n FROM t GROUP BY k)";
        let plan = context.sql(query).await?.create_physical_plan().await?;
        let job = server
            .submit_physical_plan("bare", Arc::new(context), plan, None)
            .await?;
        if fault {
            until("no task of stage 2 ran on executor A", || a.join("holds").exists()).await?;
            first.0.kill()?;
            first.0.wait()?;
        }
        let began = Instant::now();
        loop {
            let status = server.state.task_manager.get_job_status(&job).await?;
            match status.and_then(|status| status.status) {
                Some(Status::Successful(ended)) => {
                    let rows = ended
                        .partition_location
                        .iter()
                        .filter_map(|part| part.partition_stats.as_ref());
                    return Ok((rows.map(|rows| rows.num_rows).sum(), None));
                }
                Some(Status::Failed(failed)) => return Ok((0, Some(failed.error))),
                _ if began.elapsed() > DEADLINE => return Ok((0, Some("the job hangs".into()))),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
}

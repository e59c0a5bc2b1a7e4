//! SQL and what it must answer: the files in `slt/`, each over a fresh home.
//!
//! `UPDATE_SLT=1 cargo nextest run --workspace -E 'test(slt)'` writes what was answered into the files; read the diff.
//! In SQL, `{work}` is the folder of the test and `{data}` a generated data set (`corpusmill generate --posts 1500
//! --seed 11 --images 4`).

use std::path::PathBuf;

use anyhow::Result;
use arrow::datatypes::DataType;
use corpusmill_coordinator::CoordinatorError;
use corpusmill_tests::{Database, Place, Sandbox, repository, run_on, without_paths};
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, Runner, default_normalizer, default_validator, strict_column_validator,
};

/// Where the statements of a file run.
enum Connection {
    Here(Box<Database>),
    /// On a coordinator and two workers, all processes of their own.
    Cluster(Sandbox),
}

impl Connection {
    fn place(&self) -> &Place {
        match self {
            Self::Here(database) => database.place(),
            Self::Cluster(sandbox) => sandbox.place(),
        }
    }

    fn cluster() -> Result<Self> {
        let mut sandbox = Sandbox::new(Place::new()?)?;
        sandbox.worker(None)?;
        sandbox.worker(None)?;
        sandbox.wait_for_workers(2)?;
        Ok(Self::Cluster(sandbox))
    }
}

/// The coordinator's error, with the paths of this run taken out.
#[derive(Debug)]
struct Told(String);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Told {}

fn column(of: &DataType) -> DefaultColumnType {
    match of {
        of if of.is_integer() => DefaultColumnType::Integer,
        of if of.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

#[async_trait::async_trait]
impl AsyncDB for Connection {
    type Error = Told;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Told> {
        let this = &*self;
        let told = |error: CoordinatorError| Told(without_paths(&error.to_string(), this.place()));
        let answer = match this {
            Self::Here(database) => database.run(sql).await,
            Self::Cluster(sandbox) => run_on(sandbox, sql).await,
        };
        let answer = answer.map_err(told)?;
        Ok(match (answer.rows, answer.build) {
            (Some((types, rows)), _) => {
                let clean = |value: String| without_paths(&value, this.place());
                let rows = rows
                    .into_iter()
                    .map(|row| row.into_iter().map(clean).collect())
                    .collect();
                DBOutput::Rows {
                    types: types.iter().map(column).collect(),
                    rows,
                }
            }
            (None, Some(build)) => DBOutput::StatementComplete(build.rows),
            (None, None) => DBOutput::StatementComplete(0),
        })
    }

    async fn shutdown(&mut self) {}
}

fn files() -> Result<Vec<PathBuf>> {
    let mut found = std::fs::read_dir(repository().join("tests/slt"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    found.retain(|path| path.extension().is_some_and(|e| e == "slt"));
    found.sort();
    Ok(found)
}

async fn run(file: PathBuf, cluster: bool) -> Result<()> {
    let connect = || async {
        let connection = match cluster {
            true => Connection::cluster(),
            false => Database::new()
                .await
                .map(|database| Connection::Here(Box::new(database))),
        };
        connection.map_err(|error| Told(format!("{error:#}")))
    };
    let mut runner = Runner::new(connect);
    runner.with_column_validator(strict_column_validator);
    if std::env::var_os("UPDATE_SLT").is_some() && !cluster {
        let update = runner.update_test_file(
            &file,
            " ",
            default_validator,
            default_normalizer,
            strict_column_validator,
        );
        update.await.map_err(|error| anyhow::anyhow!("{error}"))?;
        return Ok(());
    }
    Ok(runner.run_file_async(&file).await?)
}

#[test]
fn sql_answers_as_written() -> Result<()> {
    each_file(false)
}

#[test]
fn sql_answers_as_written_on_two_workers() -> Result<()> {
    each_file(true)
}

fn each_file(cluster: bool) -> Result<()> {
    let files = files()?;
    assert!(!files.is_empty(), "tests/slt is empty");
    let mut failed = Vec::new();
    for file in files {
        // A thread with a deep stack: planning recurses, and this build is not optimised.
        let name = file.display().to_string();
        let thread = std::thread::Builder::new()
            .stack_size(32 << 20)
            .spawn(move || -> Result<()> {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .thread_stack_size(16 << 20)
                    .build()?;
                runtime.block_on(run(file, cluster))
            })?;
        match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(format!("{name}\n{error:#}")),
            Err(_) => failed.push(format!("{name}\npanicked")),
        }
    }
    assert!(
        failed.is_empty(),
        "{} files failed:\n{}",
        failed.len(),
        failed.join("\n\n")
    );
    Ok(())
}

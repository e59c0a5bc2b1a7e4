//! SQL in process: a coordinator over a home, its answers as text.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use corpusmill_coordinator::{
    BuildReport, Coordinator, CoordinatorError, CoordinatorOptions, Events, Outcome, Remote, RemoteScript, Silent, Sink,
};
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::place::{Place, dataset};
use crate::sandbox::Sandbox;

/// A fresh home and a coordinator over it. `{work}` in SQL stands for the test's folder, `{data}` for the data set.
#[derive(Debug)]
pub struct Database {
    coordinator: Coordinator,
    place: Place,
}

/// What the last statement of a script gave back.
#[derive(Debug, Default)]
pub struct Answer {
    /// Rows, of a query.
    pub rows: Option<(Vec<DataType>, Vec<Vec<String>>)>,
    /// A message.
    pub message: Option<String>,
    /// The report of a build.
    pub build: Option<BuildReport>,
}

impl Database {
    /// Opens a coordinator in a place of its own.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn new() -> Result<Self> {
        Self::with(Place::new()?, |_| {}).await
    }

    /// Opens a coordinator in `place`, with changed options.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn with(place: Place, change: impl FnOnce(&mut CoordinatorOptions)) -> Result<Self> {
        let mut options = CoordinatorOptions::new(place.home());
        // Two partitions, whatever the machine has: plans in expected output do not depend on it.
        options.target_partitions = Some(2);
        change(&mut options);
        Ok(Self {
            coordinator: Coordinator::open(options).await?,
            place,
        })
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// The test's folder.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Runs a script and returns what its last statement gave back.
    ///
    /// # Errors
    /// What the coordinator says.
    pub async fn run(&self, sql: &str) -> Result<Answer, CoordinatorError> {
        let sql = with_paths(sql, &self.place)?;
        let mut last = Last(Answer::default());
        self.coordinator.run_script(&sql, "test.sql", &mut last).await?;
        Ok(last.0)
    }

    /// Runs one query and returns its rows.
    ///
    /// # Errors
    /// As [`Database::run`].
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        Ok(self.run(sql).await?.rows.map(|(_, rows)| rows).unwrap_or_default())
    }
}

/// Runs a script on the cluster of a sandbox, and returns what its last statement gave back.
///
/// # Errors
/// What the coordinator there says.
pub async fn run_on(sandbox: &Sandbox, sql: &str) -> Result<Answer, CoordinatorError> {
    let script = RemoteScript {
        text: with_paths(sql, sandbox.place())?,
        origin: "test.sql".to_owned(),
        base_dir: sandbox.place().path().display().to_string(),
        as_of: None,
    };
    let events: Arc<dyn Events> = Arc::new(Silent);
    let mut last = Last(Answer::default());
    let mut remote = Remote::connect(sandbox.url(), None).await?;
    remote
        .run_script(script, &mut last, &events, &CancellationToken::new())
        .await?;
    Ok(last.0)
}

fn with_paths(sql: &str, place: &Place) -> Result<String, CoordinatorError> {
    let data = dataset().map_err(|error| CoordinatorError::Invalid(format!("{error:#}")))?;
    let sql = sql.replace("{work}", &place.path().display().to_string());
    Ok(sql.replace("{data}", &data.display().to_string()))
}

/// Puts the paths of this run back to their names.
pub fn without_paths(text: &str, place: &Place) -> String {
    let mut text = text.replace(&place.path().display().to_string(), "{work}");
    if let Ok(data) = dataset() {
        text = text.replace(&data.display().to_string(), "{data}");
    }
    text
}

struct Last(Answer);

#[async_trait]
impl Sink for Last {
    async fn outcome(&mut self, outcome: Outcome) -> corpusmill_coordinator::Result<()> {
        self.0 = Answer::default();
        match outcome {
            Outcome::Rows(stream) => {
                let types = stream.schema().fields().iter().map(|f| f.data_type().clone()).collect();
                let batches: Vec<RecordBatch> = stream.try_collect().await?;
                self.0.rows = Some((types, text(&batches)?));
            }
            Outcome::Message(message) => self.0.message = Some(message),
            Outcome::Build(build) => self.0.build = Some(*build),
        }
        Ok(())
    }
}

/// Each value as text; NULL as `NULL`, an empty text as `(empty)`.
fn text(batches: &[RecordBatch]) -> corpusmill_coordinator::Result<Vec<Vec<String>>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CoordinatorError::Invalid(error.to_string()))?;
        for row in 0..batch.num_rows() {
            let shown = |column: &ArrayFormatter<'_>| match column.value(row).to_string() {
                empty if empty.is_empty() => "(empty)".to_owned(),
                value => value,
            };
            rows.push(columns.iter().map(shown).collect());
        }
    }
    Ok(rows)
}

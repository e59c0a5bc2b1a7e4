//! Histories of corpora: what the manifest of the newest version names, or what the build in hand has made of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use corpusmill_corpus::Manifest;
use corpusmill_operators::RowFile;
use corpusmill_sql::{BandOptions, FileTable, Generation, History, ObjectKind};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::{CatalogObjects, data_file};
use crate::catalog::Space;
use crate::error::{CoordinatorError, Result};
use crate::layout::corpus_folder;

/// Key of the manifest's own member for the history.
const HISTORY: &str = "history";

/// What one build has added to the history of its corpus, as manifests keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryFiles {
    /// The build.
    pub(crate) build: String,
    /// How its texts were cut.
    pub(crate) options: BandOptions,
    /// Files of texts, in the corpus' folder.
    pub(crate) texts: Vec<RowFile>,
    /// Files of bands, in the corpus' folder.
    pub(crate) bands: Vec<RowFile>,
}

impl HistoryFiles {
    /// The history that a version has, the oldest build first.
    ///
    /// # Errors
    /// When the manifest holds one that this release cannot read.
    pub(crate) fn of(manifest: &Manifest) -> Result<Vec<Self>> {
        let Some(value) = manifest.more.get(HISTORY) else {
            return Ok(vec![]);
        };
        serde_json::from_value(value.clone()).map_err(|e| {
            CoordinatorError::Invalid(format!(
                "version {} of corpus {} has a history that cannot be read; use a newer corpusmill: {e}",
                manifest.version, manifest.corpus
            ))
        })
    }

    /// Writes a history down in the manifest of a version.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(crate) fn keep(history: &[Self], manifest: &mut Manifest) -> Result<()> {
        if history.is_empty() {
            return Ok(());
        }
        let value = serde_json::to_value(history)
            .map_err(|e| CoordinatorError::Invalid(format!("the history of build {}: {e}", manifest.build)))?;
        manifest.more.insert(HISTORY.to_owned(), value);
        Ok(())
    }

    /// Paths of its files in the corpus' folder.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> + '_ {
        self.texts.iter().chain(&self.bands).map(|file| file.path.clone())
    }
}

impl CatalogObjects {
    /// From now on the history of `corpus`, which is being built, is `files`; `complete` says that the texts of the build
    /// are in it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(crate) async fn begin_history(&self, corpus: &str, files: &[HistoryFiles], complete: bool) -> Result<()> {
        let history = Arc::new(self.history_in(corpus, files, complete).await?);
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some(history);
        Ok(())
    }

    /// No corpus is being built any more.
    pub(crate) fn end_history(&self) {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether any corpus that is not there has an empty history, for a view that its first version is made with.
    pub(crate) fn expect_corpora(&self, expected: bool) {
        self.corpora_expected.store(expected, Ordering::Relaxed);
    }

    /// The history of a corpus; `None` where there is no such corpus.
    ///
    /// # Errors
    /// When its manifest or a file cannot be read.
    pub(super) async fn history_of(&self, corpus: &str) -> Result<Option<Arc<History>>> {
        let built = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(built) = built.filter(|built| built.corpus == corpus) {
            return Ok(Some(built));
        }
        let warehouse = self.layout.warehouse();
        let files = if warehouse.corpora().await?.iter().any(|name| name == corpus) {
            match warehouse.newest(corpus).await? {
                Some(manifest) => HistoryFiles::of(&manifest)?,
                None => vec![],
            }
        } else {
            // One that is defined, and has no version yet.
            let object = self.catalog.object(Space::Relation, corpus).await?;
            let defined = object.is_some_and(|object| object.kind == ObjectKind::Corpus.words());
            if !defined && !self.corpora_expected.load(Ordering::Relaxed) {
                return Ok(None);
            }
            vec![]
        };
        Ok(Some(Arc::new(self.history_in(corpus, &files, false).await?)))
    }

    async fn history_in(&self, corpus: &str, files: &[HistoryFiles], complete: bool) -> Result<History> {
        let mut generations = Vec::with_capacity(files.len());
        for of_build in files {
            let root = self.layout.folder(&corpus_folder(corpus)).url().to_string();
            generations.push(Generation {
                options: of_build.options.clone(),
                texts: self.row_table(&corpus_folder(corpus), &of_build.texts).await?,
                bands: FileTable {
                    schema: bands_schema(),
                    partition_columns: vec![],
                    root,
                    files: of_build.bands.iter().map(data_file).collect(),
                },
            });
        }
        Ok(History {
            corpus: corpus.to_owned(),
            generations,
            complete,
        })
    }

    /// Files in a folder of the warehouse as a relation; there is at least one.
    ///
    /// # Errors
    /// When the first cannot be read.
    pub(crate) async fn row_table(&self, folder: &str, files: &[RowFile]) -> Result<FileTable> {
        let Some(first) = files.first() else {
            return Err(CoordinatorError::Invalid(format!("there is no file in {folder}")));
        };
        Ok(FileTable {
            schema: self.schema_of(folder, first).await?,
            partition_columns: vec![],
            root: self.layout.folder(folder).url().to_string(),
            files: files.iter().map(data_file).collect(),
        })
    }
}

/// The columns of the bands of a history.
fn bands_schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("band"), column("content")]))
}

//! Answers the dialect's questions about names from the catalogue and the warehouse.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path as FilePath;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use corpusmill_corpus::{CorpusError, Manifest, StoreOptions, open_store};
use corpusmill_operators::RowFile;
use corpusmill_sql::{
    CorpusTable, CreateFunction, CreateTokenizer, DataFile, FileTable, HashList, History, Model, ObjectKind, Objects,
    Relation, Result as SqlResult, SqlError, Statement, StatementKind, Tokenizer, parse_script,
};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::ParquetMetaDataReader;
use object_store::ObjectStoreExt as _;

use crate::catalog::{Catalog, ObjectRow, Space};
use crate::error::{CoordinatorError, Result};
use crate::inputs::digest;
use crate::layout::{Layout, corpus_folder, view_folder};
use crate::report::BuildState;

mod hash_lists;
mod history;
mod models;
mod paths;

pub(crate) use history::HistoryFiles;
pub(crate) use models::describe_model;
pub(crate) use paths::resolve_paths;

/// Column of the quarantine that names the expectation.
const REASON: &str = "_reason";

/// A footer is smaller than this in most files, so that one request reads it.
const FOOTER_GUESS_BYTES: u64 = 64 * 1024;

/// Objects by name, as the catalogue has them now.
#[derive(Debug)]
pub(crate) struct CatalogObjects {
    catalog: Catalog,
    layout: Layout,
    seen: Mutex<Seen>,
    /// Of the corpus that is being built.
    history: Mutex<Option<Arc<History>>>,
    corpora_expected: AtomicBool,
    tokenizers: Mutex<HashMap<String, (String, Arc<Tokenizer>)>>,
}

/// What a plan asked for: what it depends on.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// Materialised views.
    pub(crate) views: BTreeSet<String>,
    /// External tables with the digest of their definition: a plan does not show how their files are read.
    pub(crate) tables: BTreeMap<String, String>,
    /// Tokenizers and functions with their digest: a plan shows their names only.
    pub(crate) functions: BTreeMap<String, String>,
    /// Corpora of which the newest version is read.
    pub(crate) corpora: BTreeSet<String>,
}

impl Seen {
    /// Adds what another plan of the same statement asked for.
    pub(crate) fn add(&mut self, other: Self) {
        self.views.extend(other.views);
        self.tables.extend(other.tables);
        self.functions.extend(other.functions);
        self.corpora.extend(other.corpora);
    }

    /// What a fingerprint needs beside plan and input files.
    pub(crate) fn digests(&self) -> impl Iterator<Item = String> {
        let named = self.tables.iter().chain(&self.functions);
        named.map(|(name, digest)| format!("{name} {digest}"))
    }
}

impl CatalogObjects {
    /// Objects of one home.
    pub(crate) fn new(catalog: Catalog, layout: Layout) -> Self {
        Self {
            catalog,
            layout,
            seen: Mutex::default(),
            history: Mutex::default(),
            corpora_expected: AtomicBool::new(false),
            tokenizers: Mutex::default(),
        }
    }

    /// Forgets what was asked for so far, and gives it.
    pub(crate) fn take_seen(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The statement that defines an object, its relative paths made absolute.
    pub(crate) fn statement(object: &ObjectRow) -> Result<Statement> {
        let mut statements = parse_script(&object.sql, &object.origin)?;
        if statements.len() != 1 {
            return Err(CoordinatorError::Object(format!(
                "the definition of {} {} in the catalogue is not one statement; DROP it and create it again",
                object.kind, object.name
            )));
        }
        let mut statement = statements.remove(0);
        resolve_paths(&mut statement, FilePath::new(&object.base_dir));
        Ok(statement)
    }

    async fn relation_of(&self, name: &str) -> Result<Option<Relation>> {
        let Some(object) = self.catalog.object(Space::Relation, name).await? else {
            return Ok(None);
        };
        if object.kind == ObjectKind::Corpus.words() {
            return Ok(None);
        }
        if object.kind == ObjectKind::HashList.words() {
            let list = self.hash_list_of(name).await?;
            return Ok(list.map(|list| Relation::Files(list.table.clone())));
        }
        if object.kind == ObjectKind::Table.words() {
            self.note(|seen| {
                seen.tables.insert(format!("table {name}"), digest(&object.sql));
            });
        }
        if object.kind == ObjectKind::MaterializedView.words() {
            self.note(|seen| {
                seen.views.insert(name.to_owned());
            });
            if let Some(table) = self.view_table(name).await? {
                return Ok(Some(Relation::Files(table)));
            }
        }
        Ok(Some(Relation::Defined(Box::new(Self::statement(&object)?))))
    }

    /// The newest committed files of a materialised view.
    pub(crate) async fn view_table(&self, name: &str) -> Result<Option<FileTable>> {
        let builds = self.catalog.builds_of(name).await?;
        let Some(build) = builds
            .into_iter()
            .find(|b| b.state == BuildState::Committed && !b.files.is_empty())
        else {
            return Ok(None);
        };
        let folder = view_folder(name, &build.id);
        let schema = self.schema_of(&folder, &build.files[0]).await?;
        Ok(Some(FileTable {
            schema,
            partition_columns: vec![],
            root: self.layout.folder(&folder).url().to_string(),
            files: build.files.iter().map(data_file).collect(),
        }))
    }

    /// The schema of a Parquet file, from its footer.
    async fn schema_of(&self, folder: &str, file: &RowFile) -> Result<SchemaRef> {
        let path = self.layout.path(&format!("{folder}/{}", file.path));
        let fail = |source| CorpusError::Parquet {
            path: path.to_string(),
            source,
        };
        let mut tail = FOOTER_GUESS_BYTES.min(file.bytes);
        loop {
            let range = file.bytes - tail..file.bytes;
            let bytes =
                self.layout
                    .store()
                    .get_range(&path, range)
                    .await
                    .map_err(|source| CoordinatorError::Store {
                        action: "read",
                        path: path.to_string(),
                        source,
                    })?;
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&bytes, file.bytes) {
                Ok(()) => {}
                Err(ParquetError::NeedMoreData(needed)) if (needed as u64) > tail && needed as u64 <= file.bytes => {
                    tail = needed as u64;
                    continue;
                }
                Err(source) => return Err(fail(source).into()),
            }
            let metadata = reader.finish().map_err(fail)?;
            let metadata = metadata.file_metadata();
            let schema =
                parquet_to_arrow_schema(metadata.schema_descr(), metadata.key_value_metadata()).map_err(fail)?;
            return Ok(Arc::new(schema));
        }
    }

    async fn corpus_of(&self, name: &str, version: Option<u64>) -> Result<Option<CorpusTable>> {
        let (warehouse, newest) = (self.layout.warehouse(), version.is_none());
        let version = match version {
            Some(version) => version,
            None => match warehouse.versions(name).await {
                Ok(versions) => versions.last().copied().unwrap_or(0),
                Err(CorpusError::NotFound { .. } | CorpusError::Argument { .. }) => return Ok(None),
                Err(other) => return Err(other.into()),
            },
        };
        let manifest = match warehouse.manifest(name, version).await {
            // A version of a corpus that exists is missing: says which exist.
            Err(CorpusError::NotFound { what: "corpus", .. }) => return Ok(None),
            manifest => manifest?,
        };
        if newest {
            self.note(|seen| {
                seen.corpora.insert(name.to_owned());
            });
        }
        Ok(Some(self.corpus_table(name, version, &manifest)?))
    }

    fn corpus_table(&self, name: &str, version: u64, manifest: &Manifest) -> Result<CorpusTable> {
        let schema = manifest.schema();
        let mut fields: Vec<_> = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(REASON, DataType::Utf8, false)));
        let quarantine = quarantine_files(manifest)
            .into_iter()
            .map(|file| data_file(&file))
            .collect();
        Ok(CorpusTable {
            name: name.to_owned(),
            version,
            data: shard_table(
                &self.layout,
                name,
                &schema,
                &manifest.partition_by,
                &manifest.shard_files,
            ),
            quarantine: FileTable {
                schema: Arc::new(Schema::new(fields)),
                partition_columns: vec![],
                root: self.layout.folder(&corpus_folder(name)).url().to_string(),
                files: quarantine,
            },
            drops: drops(manifest)?,
        })
    }

    async fn tokenizer_of(&self, name: &str) -> Result<Option<Arc<Tokenizer>>> {
        let Some(object) = self.catalog.object(Space::Tokenizer, name).await? else {
            return Ok(None);
        };
        let key = format!("{}\n{}", object.base_dir, object.sql);
        let known = self
            .tokenizers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        let tokenizer = match known {
            Some((definition, tokenizer)) if definition == key => tokenizer,
            _ => {
                let statement = Self::statement(&object)?;
                let StatementKind::CreateTokenizer(create) = &statement.kind else {
                    return Err(CoordinatorError::Object(format!("{name} is not a tokenizer")));
                };
                let loaded = load_tokenizer(create).await?;
                self.tokenizers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name.to_owned(), (key, Arc::clone(&loaded)));
                loaded
            }
        };
        self.note(|seen| {
            let length = tokenizer
                .max_length()
                .map_or_else(String::new, |length| format!(" max_length {length}"));
            seen.functions
                .insert(format!("tokenizer {name}"), format!("{}{length}", tokenizer.digest()));
        });
        Ok(Some(tokenizer))
    }

    async fn function_of(&self, name: &str) -> Result<Option<CreateFunction>> {
        let Some(object) = self.catalog.object(Space::Function, name).await? else {
            return Ok(None);
        };
        let statement = Self::statement(&object)?;
        let StatementKind::CreateFunction(create) = statement.kind else {
            return Err(CoordinatorError::Object(format!("{name} is not a function")));
        };
        self.note(|seen| {
            seen.functions.insert(format!("function {name}"), digest(&object.sql));
        });
        Ok(Some(create))
    }

    async fn all_names(&self) -> Result<Vec<(ObjectKind, String)>> {
        let mut names = Vec::new();
        for object in self.catalog.objects(Space::Relation).await? {
            let kinds = [
                ObjectKind::Table,
                ObjectKind::View,
                ObjectKind::MaterializedView,
                ObjectKind::HashList,
                ObjectKind::Corpus,
            ];
            if let Some(kind) = kinds.into_iter().find(|kind| kind.words() == object.kind) {
                names.push((kind, object.name));
            }
        }
        for name in self.layout.warehouse().corpora().await? {
            if !names.iter().any(|(_, known)| *known == name) {
                names.push((ObjectKind::Corpus, name));
            }
        }
        for (space, kind) in [
            (Space::Tokenizer, ObjectKind::Tokenizer),
            (Space::Model, ObjectKind::Model),
            (Space::Function, ObjectKind::Function),
        ] {
            let objects = self.catalog.objects(space).await?;
            names.extend(objects.into_iter().map(|object| (kind, object.name)));
        }
        Ok(names)
    }
}

/// Shards as a relation: of a version, or of a build that is not committed yet.
pub(crate) fn shard_table(
    layout: &Layout,
    corpus: &str,
    schema: &SchemaRef,
    partition_by: &[String],
    shards: &[corpusmill_corpus::ShardFile],
) -> FileTable {
    let values = |shard: &corpusmill_corpus::ShardFile| {
        let value = |name: &String| {
            shard
                .partition
                .iter()
                .find(|(column, _)| column == name)
                .and_then(|(_, value)| value.clone())
        };
        partition_by.iter().map(value).collect()
    };
    FileTable {
        schema: Arc::clone(schema),
        partition_columns: partition_by.to_vec(),
        root: layout.folder(&corpus_folder(corpus)).url().to_string(),
        files: shards
            .iter()
            .map(|shard| DataFile {
                path: shard.path.clone(),
                bytes: shard.bytes,
                rows: Some(shard.rows),
                partition_values: values(shard),
            })
            .collect(),
    }
}

/// Key of the manifest's own member for the quarantine's files with sizes.
pub(crate) const QUARANTINE_FILES: &str = "quarantine_rows_files";

/// Files of the quarantine with their sizes, which the engine's scan needs.
fn quarantine_files(manifest: &Manifest) -> Vec<RowFile> {
    let files = manifest.more.get(QUARANTINE_FILES).cloned();
    files
        .and_then(|files| serde_json::from_value(files).ok())
        .unwrap_or_default()
}

pub(crate) fn data_file(file: &RowFile) -> DataFile {
    DataFile {
        path: file.path.clone(),
        bytes: file.bytes,
        rows: Some(file.rows),
        partition_values: vec![],
    }
}

/// `name.drops`: one row for each row expectation that took rows out.
fn drops(manifest: &Manifest) -> Result<RecordBatch> {
    let counted = |counts: &BTreeMap<String, u64>, action: &'static str| {
        let rows = counts
            .iter()
            .map(|(reason, rows)| (reason.clone(), action, *rows as i64));
        rows.collect::<Vec<_>>()
    };
    let mut rows = counted(&manifest.drops, "drop row");
    rows.extend(counted(&manifest.quarantined, "quarantine row"));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "reason",
            Arc::new(rows.iter().map(|r| Some(r.0.as_str())).collect::<StringArray>()),
        ),
        (
            "action",
            Arc::new(rows.iter().map(|r| Some(r.1)).collect::<StringArray>()),
        ),
        ("rows", Arc::new(rows.iter().map(|r| Some(r.2)).collect::<Int64Array>())),
    ];
    Ok(RecordBatch::try_from_iter(columns).map_err(DataFusionError::from)?)
}

/// Reads the file of a tokenizer.
///
/// # Errors
/// [`CoordinatorError::Object`] when the file is not there or is not a tokenizer.
pub(crate) async fn load_tokenizer(create: &CreateTokenizer) -> Result<Arc<Tokenizer>> {
    let fail = |why: String| {
        CoordinatorError::Object(format!(
            "CREATE TOKENIZER {}: uri = '{}': {why}",
            create.name, create.uri
        ))
    };
    let (store, path) = open_store(&create.uri, &StoreOptions::new()).map_err(|e| fail(e.to_string()))?;
    let bytes = match store.get(&path).await {
        Ok(object) => object.bytes().await.map_err(|e| fail(e.to_string()))?,
        Err(object_store::Error::NotFound { .. }) => {
            return Err(fail(
                "there is no such file; expected the path or URL of a tokenizer.json".into(),
            ));
        }
        Err(error) => return Err(fail(error.to_string())),
    };
    let length = create.max_length.map(|length| length as usize);
    let tokenizer = Tokenizer::from_bytes(&create.name, &bytes, length);
    Ok(Arc::new(
        tokenizer.map_err(|e| fail(corpusmill_operators::with_sources(&e)))?,
    ))
}

/// The coordinator's errors as the dialect passes them on.
fn to_sql(error: CoordinatorError) -> SqlError {
    match error {
        CoordinatorError::Sql(error) => error,
        other => SqlError::Engine(DataFusionError::External(Box::new(other))),
    }
}

#[async_trait]
impl Objects for CatalogObjects {
    async fn relation(&self, name: &str) -> SqlResult<Option<Relation>> {
        self.relation_of(name).await.map_err(to_sql)
    }

    async fn corpus(&self, name: &str, version: Option<u64>) -> SqlResult<Option<CorpusTable>> {
        self.corpus_of(name, version).await.map_err(to_sql)
    }

    async fn tokenizer(&self, name: &str) -> SqlResult<Option<Arc<Tokenizer>>> {
        self.tokenizer_of(name).await.map_err(to_sql)
    }

    async fn model(&self, name: &str) -> SqlResult<Option<Arc<Model>>> {
        self.model_of(name).await.map_err(to_sql)
    }

    async fn hash_list(&self, name: &str) -> SqlResult<Option<Arc<HashList>>> {
        self.hash_list_of(name).await.map_err(to_sql)
    }

    async fn history(&self, corpus: &str) -> SqlResult<Option<Arc<History>>> {
        self.history_of(corpus).await.map_err(to_sql)
    }

    async fn function(&self, name: &str) -> SqlResult<Option<CreateFunction>> {
        self.function_of(name).await.map_err(to_sql)
    }

    async fn names(&self) -> SqlResult<Vec<(ObjectKind, String)>> {
        self.all_names().await.map_err(to_sql)
    }
}

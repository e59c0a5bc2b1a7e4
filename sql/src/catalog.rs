//! The engine's view of named objects: each name is looked up when a statement needs it.
//!
//! ```text
//! t               external table, view, materialised view, newest version of a corpus or hash list
//! "c@3"           version 3 of corpus or list c    (written: c VERSION AS OF 3)
//! c.quarantine    rows that an expectation put aside
//! c.drops         rows left out, counted by reason
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::{MemTable, TableProvider, ViewTable};

use crate::error::{Fault, SqlError};
use crate::objects::{CorpusTable, Relation};
use crate::session::{Inner, Session};
use crate::sources::open_external_table;
use crate::statement::{CreateView, Statement, StatementKind};

/// Name of the only catalogue.
pub(crate) const CATALOG: &str = "corpusmill";
/// Name of the schema that bare names live in.
pub(crate) const SCHEMA: &str = "main";

tokio::task_local! {
    /// Relations that stand in for names while one plan is made, and the views that are being expanded.
    static SCOPE: Scope;
}

/// What is in force while one statement is planned.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    stand_ins: HashMap<String, Arc<dyn TableProvider>>,
    views: Vec<String>,
}

impl Scope {
    /// Plans with `name` standing for `table`.
    pub(crate) async fn with_stand_in<F: Future>(name: &str, table: Arc<dyn TableProvider>, future: F) -> F::Output {
        let mut scope = Scope::current();
        scope.stand_ins.insert(name.to_string(), table);
        SCOPE.scope(scope, future).await
    }

    fn current() -> Scope {
        SCOPE.try_with(Clone::clone).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(crate) struct ObjectCatalog {
    main: Arc<MainSchema>,
    session: Weak<Inner>,
}

impl ObjectCatalog {
    pub(crate) fn new(session: Weak<Inner>) -> Self {
        let main = Arc::new(MainSchema {
            session: session.clone(),
            registered: Mutex::default(),
        });
        ObjectCatalog { main, session }
    }
}

impl CatalogProvider for ObjectCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![SCHEMA.to_string()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == SCHEMA {
            return Some(Arc::clone(&self.main) as Arc<dyn SchemaProvider>);
        }
        Some(Arc::new(CorpusSchema {
            session: self.session.clone(),
            corpus: name.to_string(),
        }))
    }
}

fn upgrade(session: &Weak<Inner>) -> Result<Session> {
    session
        .upgrade()
        .map(Session::from_inner)
        .ok_or_else(|| DataFusionError::Configuration("the session was closed while a statement ran".into()))
}

/// Bare names.
#[derive(Debug)]
struct MainSchema {
    session: Weak<Inner>,
    /// Tables that the process registered itself, such as the input of a step.
    registered: Mutex<HashMap<String, Arc<dyn TableProvider>>>,
}

impl MainSchema {
    fn registered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<dyn TableProvider>>> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SchemaProvider for MainSchema {
    fn table_names(&self) -> Vec<String> {
        self.registered().keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let scope = Scope::current();
        if let Some(table) = scope.stand_ins.get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        if let Some(table) = self.registered().get(name) {
            return Ok(Some(Arc::clone(table)));
        }
        let session = upgrade(&self.session)?;
        let objects = session.objects();
        let (bare, version) = split_version(name);
        if version.is_none()
            && let Some(relation) = objects.relation(name).await?
        {
            return match relation {
                Relation::Files(files) => Ok(Some(Arc::new(files))),
                Relation::Defined(statement) => defined(&session, name, &statement, scope).await.map(Some),
            };
        }
        match objects.corpus(bare, version).await? {
            Some(corpus) => Ok(Some(Arc::new(corpus.data))),
            None => match objects.hash_list(name).await? {
                Some(list) => Ok(Some(Arc::new(list.table.clone()))),
                None => Ok(None),
            },
        }
    }

    fn register_table(&self, name: String, table: Arc<dyn TableProvider>) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.registered().insert(name, table))
    }

    fn deregister_table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        Ok(self.registered().remove(name))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.registered().contains_key(name)
    }
}

async fn defined(session: &Session, name: &str, statement: &Statement, scope: Scope) -> Result<Arc<dyn TableProvider>> {
    match &statement.kind {
        StatementKind::CreateExternalTable(table) => Ok(open_external_table(session, table, &statement.text).await?),
        StatementKind::CreateView(view) | StatementKind::CreateMaterializedView(view) => {
            expand_view(session, name, view, scope).await
        }
        _ => Err(DataFusionError::from(SqlError::Plan(Fault::at(
            &statement.text,
            Some(statement.position()),
            format!("'{name}' is not a relation"),
        )))),
    }
}

async fn expand_view(
    session: &Session,
    name: &str,
    view: &CreateView,
    mut scope: Scope,
) -> Result<Arc<dyn TableProvider>> {
    if scope.views.iter().any(|outer| outer == name) {
        return Err(DataFusionError::from(SqlError::Plan(Fault::at(
            &view.query,
            Some(view.query.start),
            format!("view '{name}' refers to itself: {} → {name}", scope.views.join(" → ")),
        ))));
    }
    scope.views.push(name.to_string());
    // A view sees the objects of the catalogue, not what stands in for a name in the statement that uses it.
    scope.stand_ins.clear();
    let plan = SCOPE.scope(scope, Box::pin(session.plan_view(view))).await?;
    Ok(Arc::new(ViewTable::new(plan, Some(view.query.text.to_string()))))
}

/// `corpus.quarantine` and `corpus.drops`.
#[derive(Debug)]
struct CorpusSchema {
    session: Weak<Inner>,
    corpus: String,
}

#[async_trait]
impl SchemaProvider for CorpusSchema {
    fn table_names(&self) -> Vec<String> {
        vec!["quarantine".to_string(), "drops".to_string()]
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let session = upgrade(&self.session)?;
        let (bare, version) = split_version(name);
        if !self.table_exist(bare) {
            return Ok(None);
        }
        let Some(CorpusTable { quarantine, drops, .. }) = session.objects().corpus(&self.corpus, version).await? else {
            return Ok(None);
        };
        Ok(Some(match bare {
            "quarantine" => Arc::new(quarantine),
            _ => Arc::new(MemTable::try_new(drops.schema(), vec![vec![drops]])?),
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        matches!(split_version(name).0, "quarantine" | "drops")
    }
}

/// `c@3` is version 3 of `c`.
fn split_version(name: &str) -> (&str, Option<u64>) {
    match name.rsplit_once('@') {
        Some((bare, version)) => match version.parse() {
            Ok(version) => (bare, Some(version)),
            Err(_) => (name, None),
        },
        None => (name, None),
    }
}

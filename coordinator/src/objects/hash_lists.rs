//! Hash lists by name and version: the committed builds of a list, the oldest of which is version 0.

use std::sync::Arc;

use corpusmill_sql::{FileTable, HashList, ObjectKind, StatementKind};

use super::{CatalogObjects, data_file};
use crate::catalog::{BuildRow, ObjectRow, Space};
use crate::error::{CoordinatorError, Result};
use crate::layout::view_folder;
use crate::report::BuildState;

impl CatalogObjects {
    /// The list called `name`, at its newest version or at the one behind an `@`.
    pub(crate) async fn hash_list_of(&self, name: &str) -> Result<Option<Arc<HashList>>> {
        let (bare, version) = match name
            .rsplit_once('@')
            .map(|(bare, version)| (bare, version.parse::<u64>()))
        {
            Some((bare, Ok(version))) => (bare, Some(version)),
            _ => (name, None),
        };
        let object = self.catalog.object(Space::Relation, bare).await?;
        let Some(object) = object.filter(|object| object.kind == ObjectKind::HashList.words()) else {
            return Ok(None);
        };
        let versions = self.hash_list_versions(bare).await?;
        let wanted = |build: &&BuildRow| version.is_none() || build.version == version;
        let Some(build) = versions.iter().find(wanted) else {
            let newest = versions.first().and_then(|build| build.version);
            let has = newest.map_or("no version yet".to_owned(), |newest| format!("versions 0 to {newest}"));
            return Err(CoordinatorError::Object(format!(
                "there is no hash list {name}: {bare} has {has}"
            )));
        };
        // Each version says in its own words what its signal is, and how near a match must be.
        let statement = Self::statement(&ObjectRow {
            sql: build.sql.clone(),
            ..object
        })?;
        let StatementKind::CreateHashList(create) = &statement.kind else {
            return Err(CoordinatorError::Object(format!("{bare} is not a hash list")));
        };
        self.note(|seen| {
            seen.functions.insert(format!("hash list {name}"), build.id.clone());
        });
        let folder = view_folder(bare, &build.id);
        Ok(Some(Arc::new(HashList {
            name: bare.to_owned(),
            version: build.version.unwrap_or(0),
            signal: create.signal,
            max_distance: create.max_distance,
            min_quality: create.min_quality,
            table: FileTable {
                schema: self.schema_of(&folder, &build.files[0]).await?,
                partition_columns: vec![],
                root: self.layout.folder(&folder).url().to_string(),
                files: build.files.iter().map(data_file).collect(),
            },
        })))
    }

    /// The committed versions of a list, the newest first.
    pub(crate) async fn hash_list_versions(&self, name: &str) -> Result<Vec<BuildRow>> {
        let mut builds = self.catalog.builds_of(name).await?;
        builds.retain(|build| build.state == BuildState::Committed && !build.files.is_empty());
        Ok(builds)
    }
}

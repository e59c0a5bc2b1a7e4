//! Where the relative paths of a definition start.

use std::path::{Path as FilePath, PathBuf};

use corpusmill_sql::{HashSource, Statement, StatementKind};
use datafusion::sql::parser::Statement as EngineStatement;

/// Makes relative paths in a definition start from the folder in which the statement was first run.
pub(crate) fn resolve_paths(statement: &mut Statement, base: &FilePath) {
    let absolute = |location: &str| -> String {
        if location.contains("://") || FilePath::new(location).is_absolute() {
            return location.to_owned();
        }
        let joined: PathBuf = base.join(location);
        let mut text = joined.to_string_lossy().into_owned();
        // The slash at the end says that it is a folder.
        if location.ends_with('/') && !text.ends_with('/') {
            text.push('/');
        }
        text
    };
    match &mut statement.kind {
        StatementKind::CreateTokenizer(create) => create.uri = absolute(&create.uri),
        StatementKind::CreateModel(create) => create.uri = absolute(&create.uri),
        StatementKind::CreateHashList(create) => {
            if let HashSource::Files(uri) = &mut create.source {
                *uri = absolute(uri);
            }
        }
        StatementKind::CreateExternalTable(create) => {
            for location in &mut create.locations {
                *location = absolute(location);
            }
            if let EngineStatement::CreateExternalTable(definition) = create.definition.as_mut() {
                definition.locations = create.locations.clone();
            }
        }
        StatementKind::CopyTo(copy) => {
            if let EngineStatement::CopyTo(copy) = copy.as_mut() {
                copy.target = absolute(&copy.target);
            }
        }
        _ => {}
    }
}

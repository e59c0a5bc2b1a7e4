//! Objects by name: tables, views, corpora, tokenizers, functions, with the SQL that made them.

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::{Catalog, now_ms};
use crate::error::Result;

/// Names are unique in a space: a view and a corpus cannot share one, a tokenizer and a view can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Tables, views, materialised views, corpora.
    Relation,
    /// Tokenizers.
    Tokenizer,
    /// Models.
    Model,
    /// Functions.
    Function,
}

impl Space {
    fn as_str(self) -> &'static str {
        match self {
            Self::Relation => "relation",
            Self::Tokenizer => "tokenizer",
            Self::Model => "model",
            Self::Function => "function",
        }
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectRow {
    /// Its name.
    pub(crate) name: String,
    /// `table`, `view`, `materialized view`, `corpus`, `tokenizer`, `function`.
    pub(crate) kind: String,
    /// The statement that made it.
    pub(crate) sql: String,
    /// File that the statement stood in.
    pub(crate) origin: String,
    /// Folder that relative paths in the statement start from.
    pub(crate) base_dir: String,
    /// JSON object: what ALTER changed.
    pub(crate) settings: String,
    /// When it was made or replaced.
    pub(crate) updated_ms: i64,
}

const COLUMNS: &str = "name, kind, sql, origin, base_dir, settings, updated_ms";

fn object(row: &AnyRow) -> Result<ObjectRow, sqlx::Error> {
    Ok(ObjectRow {
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
        sql: row.try_get("sql")?,
        origin: row.try_get("origin")?,
        base_dir: row.try_get("base_dir")?,
        settings: row.try_get("settings")?,
        updated_ms: row.try_get("updated_ms")?,
    })
}

impl Catalog {
    /// The object called `name`.
    pub(crate) async fn object(&self, space: Space, name: &str) -> Result<Option<ObjectRow>> {
        let sql = format!("SELECT {COLUMNS} FROM objects WHERE space = $1 AND name = $2");
        let rows = self.rows(|| {
            let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone()));
            query.bind(space.as_str()).bind(name)
        });
        let row = rows.await?.into_iter().next();
        row.map(|row| object(&row)).transpose().map_err(|e| self.fail(e))
    }

    /// All objects of a space, by name.
    pub(crate) async fn objects(&self, space: Space) -> Result<Vec<ObjectRow>> {
        // By its bytes, whatever the database takes for the order of letters.
        let order = if self.location.is_server() {
            "name COLLATE \"C\""
        } else {
            "name"
        };
        let sql = format!("SELECT {COLUMNS} FROM objects WHERE space = $1 ORDER BY {order}");
        let rows = self.rows(|| sqlx::query(sqlx::AssertSqlSafe(sql.clone())).bind(space.as_str()));
        rows.await?
            .iter()
            .map(object)
            .collect::<Result<_, _>>()
            .map_err(|e| self.fail(e))
    }

    /// Keeps an object, in place of one of the same name.
    pub(crate) async fn put_object(&self, space: Space, object: &ObjectRow) -> Result<()> {
        let created = now_ms();
        self.write(|| {
            let query = sqlx::query(
                "INSERT INTO objects (space, name, kind, sql, origin, base_dir, settings, created_ms, updated_ms)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 ON CONFLICT (space, name) DO UPDATE SET kind = excluded.kind, sql = excluded.sql,
                   origin = excluded.origin, base_dir = excluded.base_dir, settings = excluded.settings,
                   updated_ms = excluded.updated_ms",
            );
            let query = query
                .bind(space.as_str())
                .bind(&object.name)
                .bind(&object.kind)
                .bind(&object.sql)
                .bind(&object.origin)
                .bind(&object.base_dir)
                .bind(&object.settings)
                .bind(created)
                .bind(object.updated_ms);
            vec![query]
        })
        .await
        .map(|_| ())
    }

    /// Forgets an object; says whether there was one.
    pub(crate) async fn drop_object(&self, space: Space, name: &str) -> Result<bool> {
        let touched = self.write(|| {
            let sql = "DELETE FROM objects WHERE space = $1 AND name = $2";
            vec![sqlx::query(sql).bind(space.as_str()).bind(name)]
        });
        Ok(touched.await? > 0)
    }
}

//! Locations as people write them: paths, URLs, and globs in either.

use std::sync::Arc;

use datafusion::catalog::TableProviderFactory;
use datafusion::common::{DFSchema, Result, config_datafusion_err, plan_err};
use datafusion::datasource::TableProvider;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;

const GLOB: [char; 3] = ['*', '?', '['];

/// Stores that list their objects. A web server does not, and a `?` in its URLs begins a query.
const LISTED: [&str; 8] = ["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"];

/// Parses a path or URL. Of URLs the engine takes globs apart only when it is told where they begin: at the first
/// part of the path that has one.
pub(crate) fn parse(location: &str) -> Result<ListingTableUrl> {
    match glob_of_url(location) {
        Some((folder, glob)) => ListingTableUrl::parse(folder)?.with_glob(glob),
        None => ListingTableUrl::parse(location),
    }
}

/// The folder of a URL with a glob, and the glob below it.
fn glob_of_url(location: &str) -> Option<(&str, &str)> {
    let (scheme, path) = location.split_once("://")?;
    if !LISTED.contains(&scheme) {
        return None;
    }
    let glob = location.len() - path.len() + path.find(GLOB)?;
    let slash = location[..glob].rfind('/')?;
    Some(location.split_at(slash + 1))
}

/// Opens the files of a definition as the engine does, and with globs in URLs.
pub(super) async fn listing_table(
    state: &SessionState,
    definition: &CreateExternalTable,
) -> Result<Arc<dyn TableProvider>> {
    let Some((folder, glob)) = definition.locations.iter().find_map(|location| glob_of_url(location)) else {
        return ListingTableFactory::new().create(state, definition).await;
    };
    if let [_, second, ..] = definition.locations.as_slice() {
        return plan_err!("a URL with a glob is the only location of its table; '{second}' needs a table of its own");
    }
    // The engine's factory sees the folder and the schema of what the glob chooses; then the glob takes its place.
    let url = ListingTableUrl::parse(folder)?
        .with_table_ref(definition.name.clone())
        .with_glob(glob)?;
    let mut of_folder = definition.clone();
    of_folder.locations = vec![folder.to_owned()];
    if definition.schema.fields().is_empty() {
        let format = state
            .get_file_format_factory(&definition.file_type)
            .ok_or_else(|| config_datafusion_err!("there is no file format {}", definition.file_type))?
            .create(state, &definition.options)?;
        let options = ListingOptions::new(format).with_file_extension("");
        of_folder.schema = Arc::new(DFSchema::try_from(options.infer_schema(state, &url).await?)?);
    }
    let table = ListingTableFactory::new().create(state, &of_folder).await?;
    let Some(listing) = table.downcast_ref::<ListingTable>() else {
        return Ok(table);
    };
    let config = ListingTableConfig::new(url)
        .with_listing_options(listing.options().clone())
        .with_schema(of_folder.schema.inner().clone());
    let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
    Ok(Arc::new(ListingTable::try_new(config)?.with_cache(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_of_urls_begin_at_the_first_part_that_has_one() {
        for (location, expected) in [
            ("s3://lake/csv/part-[01].csv", Some(("s3://lake/csv/", "part-[01].csv"))),
            ("s3://lake/*/a?.csv", Some(("s3://lake/", "*/a?.csv"))),
            ("file:///tmp/**/a.csv", Some(("file:///tmp/", "**/a.csv"))),
            ("s3://lake/csv/", None),
            ("https://host/a.csv?part=1", None),
            ("csv/*.csv", None),
        ] {
            assert_eq!(glob_of_url(location), expected, "{location}");
        }
        let url = parse("s3://lake/csv/part-[01].csv").unwrap();
        assert_eq!(url.as_str(), "s3://lake/csv/");
        assert!(url.contains(&"csv/part-1.csv".into(), true));
        assert!(!url.contains(&"csv/part-2.csv".into(), true));
        assert!(parse("s3://lake/[a").is_err());
    }
}

//! The crates depend on each other as the page of record says, and what must stay small stays small.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

use crate::repository;

/// Crates that are outside of the arrows: they may look at everything, and nothing may depend on them.
const OUTSIDE: [&str; 2] = ["tests", "benches"];

fn metadata() -> Result<Metadata> {
    // The lock file is there and so are its crates: this test was just compiled with them.
    let options = ["--offline".to_owned(), "--locked".to_owned()];
    Ok(MetadataCommand::new()
        .current_dir(repository())
        .other_options(options)
        .exec()?)
}

fn short(name: &str) -> Option<&str> {
    name.strip_prefix("corpusmill-")
}

/// The block of docs/ARCHITECTURE.md that is marked `arrows`: `crate -> what it may depend on`.
fn allowed() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let page = std::fs::read_to_string(repository().join("docs/ARCHITECTURE.md"))?;
    let start = page
        .find("```arrows\n")
        .context("docs/ARCHITECTURE.md has no block marked `arrows`")?;
    let block = page[start..]
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("```"));
    block
        .map(|line| {
            let (from, to) = line.split_once("->").with_context(|| format!("no arrow in `{line}`"))?;
            Ok((
                from.trim().to_owned(),
                to.split_whitespace().map(str::to_owned).collect(),
            ))
        })
        .collect()
}

#[test]
fn crates_depend_on_each_other_as_drawn() -> Result<()> {
    let allowed = allowed()?;
    let metadata = metadata()?;
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let Some(from) = short(&package.name).filter(|name| !OUTSIDE.contains(name)) else {
            continue;
        };
        seen.insert(from.to_owned());
        let Some(arrows) = allowed.get(from) else {
            wrong.push(format!("{from} has no line in docs/ARCHITECTURE.md"));
            continue;
        };
        let ours = package
            .dependencies
            .iter()
            .filter(|d| d.kind != DependencyKind::Development);
        for to in ours.filter_map(|d| short(&d.name)).filter(|to| !arrows.contains(*to)) {
            wrong.push(format!(
                "{from} -> {to} is in {from}/Cargo.toml, but not in docs/ARCHITECTURE.md"
            ));
        }
    }
    for from in allowed.keys().filter(|from| !seen.contains(*from)) {
        wrong.push(format!(
            "docs/ARCHITECTURE.md speaks of a crate `{from}` that does not exist"
        ));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn arrows_have_no_cycle() -> Result<()> {
    let mut left = allowed()?;
    while !left.is_empty() {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, to)| to.is_empty())
            .map(|(from, _)| from.clone())
            .collect();
        assert!(!free.is_empty(), "a cycle among {:?}", left.keys());
        left.retain(|from, _| !free.contains(from));
        left.values_mut().for_each(|to| to.retain(|name| !free.contains(name)));
    }
    Ok(())
}

#[test]
fn the_loader_brings_no_engine_along() -> Result<()> {
    let metadata = metadata()?;
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolved nothing")?;
    let names: BTreeMap<&PackageId, &str> = metadata.packages.iter().map(|p| (&p.id, p.name.as_str())).collect();
    for crate_name in [
        "corpusmill-kernels",
        "corpusmill-corpus",
        "corpusmill-stream",
        "corpusmill-loader",
    ] {
        let root = names
            .iter()
            .find(|(_, name)| **name == crate_name)
            .context("a crate is missing")?;
        let (mut seen, mut next) = (BTreeSet::new(), vec![*root.0]);
        while let Some(id) = next.pop() {
            if seen.insert(id) {
                let node = resolve
                    .nodes
                    .iter()
                    .find(|n| n.id == *id)
                    .context("a node is missing")?;
                let normal = node
                    .deps
                    .iter()
                    .filter(|d| d.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal));
                next.extend(normal.map(|d| &d.pkg));
            }
        }
        let heavy: Vec<&str> = seen
            .iter()
            .map(|id| names[*id])
            .filter(|name| {
                ["datafusion", "deltalake", "ballista", "sqlx"]
                    .iter()
                    .any(|engine| name.starts_with(engine))
            })
            .collect();
        assert!(heavy.is_empty(), "{crate_name} must not bring {heavy:?} along");
    }
    Ok(())
}

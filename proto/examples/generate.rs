//! Writes `src/generated/` from `proto/*.proto`, without protoc:
//! `cargo run -p corpusmill-proto --example generate`. `tests/generated.rs` sees that this was done.

#[path = "generator/write.rs"]
mod write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    write::generated(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated"))
}

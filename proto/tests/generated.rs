//! The committed code is what the definitions of the services give.

#[path = "../examples/generator/write.rs"]
mod write;

#[test]
fn the_committed_code_is_up_to_date() {
    let fresh = tempfile::tempdir().unwrap();
    write::generated(fresh.path()).unwrap();
    for package in ["control", "stream"] {
        let name = format!("corpusmill.{package}.v1.rs");
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
        let expected = read(fresh.path().join(&name));
        let committed = read(
            std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("src/generated")
                .join(&name),
        );
        assert!(
            expected == committed,
            "proto/{package}.proto was changed: run `cargo run -p corpusmill-proto --example generate`"
        );
    }
}

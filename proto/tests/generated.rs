//! The committed code is what the definition of the service gives.

#[path = "../examples/generator/write.rs"]
mod write;

#[test]
fn the_committed_code_is_up_to_date() {
    let fresh = tempfile::tempdir().unwrap();
    write::generated(fresh.path()).unwrap();
    let name = "corpusmill.control.v1.rs";
    let expected = std::fs::read_to_string(fresh.path().join(name)).unwrap();
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/src/generated/corpusmill.control.v1.rs");
    let committed = std::fs::read_to_string(committed).unwrap();
    assert!(
        expected == committed,
        "proto/control.proto was changed: run `cargo run -p corpusmill-proto --example generate`"
    );
}

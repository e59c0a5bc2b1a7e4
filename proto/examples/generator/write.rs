//! From the definitions of the services to Rust.

use std::error::Error;
use std::path::Path;

/// Writes the code of the services into the folder `to`.
pub(crate) fn generated(to: &Path) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let definition = protox::compile(["control.proto", "stream.proto"], [folder])?;
    tonic_prost_build::configure().out_dir(to).compile_fds(definition)?;
    Ok(())
}

//! From the definition of the service to Rust.

use std::error::Error;
use std::path::Path;

/// Writes the code of the control service into the folder `to`.
pub(crate) fn generated(to: &Path) -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let definition = protox::compile(["control.proto"], [folder])?;
    tonic_prost_build::configure().out_dir(to).compile_fds(definition)?;
    Ok(())
}

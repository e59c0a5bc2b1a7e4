//! Azure's storage emulator (Azurite) in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::place::{Place, cache, not_run_here, python};

/// Account and key of every Azurite: they are published with it.
const CONNECTION: &str = "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=\
    Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;";

const CONTAINER: &str = "
import sys
from azure.storage.blob import BlobServiceClient
BlobServiceClient.from_connection_string(sys.argv[1]).create_container('lake')
";

/// The emulator; it ends when it is dropped.
#[derive(Debug)]
pub struct Azurite(Child);

impl Azurite {
    /// Starts one with an empty container `lake`, and gives programs that run in `place` the variables to reach it.
    /// `None`, after saying so, where it is not installed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(test: &str, place: &mut Place) -> Result<Option<Self>> {
        let program = cache().map(|cache| cache.join("tools/azurite/node_modules/.bin/azurite-blob"));
        let (Some(program), Some(python)) = (
            program.filter(|program| program.is_file()),
            python(&["azure.storage.blob"]),
        ) else {
            not_run_here(
                test,
                "no Azurite (`tools/setup azurite` needs npm) or no azure-storage-blob",
            );
            return Ok(None);
        };
        let mut process = Command::new(program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--skipApiVersionCheck"])
            .arg("--location")
            .arg(place.path().join("azurite"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(place.path().join("azurite.log"))?)
            .spawn()?;
        let output = process.stdout.take().context("it has no standard output")?;
        let this = Self(process);
        let mut lines = BufReader::new(output).lines();
        let url = lines
            .find_map(|line| Some(line.ok()?.rsplit_once("listens on ")?.1.trim().to_owned()))
            .context("Azurite ended before it listened")?;
        // It waits for whoever reads what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        let made = Command::new(python)
            .args([
                "-c",
                CONTAINER,
                &format!("{CONNECTION}BlobEndpoint={url}/devstoreaccount1;"),
            ])
            .output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, value) in [
            ("AZURE_STORAGE_USE_EMULATOR", "true"),
            ("AZURITE_BLOB_STORAGE_URL", url.as_str()),
            ("NO_PROXY", "127.0.0.1"),
        ] {
            place.set(name, value);
        }
        Ok(Some(this))
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

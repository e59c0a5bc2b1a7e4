//! The ways in which device memory cannot be used, where there is none.

use std::os::fd::OwnedFd;

use clap::Args;
use corpusmill_transport::{Checksum, Error, Puller, Result, TrainerMemory};
use serde_json::json;

use crate::{Agreement, Target, say};

#[derive(Args)]
pub(crate) struct DeviceMemory {
    #[command(flatten)]
    agreement: Agreement,
    #[command(flatten)]
    target: Target,
}

impl DeviceMemory {
    pub(crate) async fn run(self) -> Result<()> {
        let failed = |source| Error::Io {
            what: "opening a file that is no dmabuf".to_owned(),
            source,
        };
        let no_dmabuf = OwnedFd::from(std::fs::File::open("/proc/self/exe").map_err(failed)?);
        let mut options = self.target.options(&self.agreement);
        options.checksum_least = Some(Checksum::None);
        options.memory = TrainerMemory::Dmabuf {
            fd: no_dmabuf,
            offset: 0,
            length: u64::from(u32::MAX),
            address: 1 << 32,
        };
        let refused = match Puller::connect(self.target.connect, options).await {
            Ok(puller) => format!("a file was taken for device memory over {}", puller.kind()),
            Err(error @ (Error::Memory { .. } | Error::Unavailable { .. })) if error.to_string().contains("dmabuf") => {
                say(&json!({"event": "refused", "text": error.to_string()}));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        Err(Error::Protocol {
            peer: self.target.connect.to_string(),
            what: refused,
        })
    }
}

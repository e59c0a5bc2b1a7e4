//! Ctrl-C and SIGTERM: the first asks for a clean stop, the second stops at once.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::exit;

/// Whether a person has asked to stop, in the two forms that work is told of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    /// For async work.
    pub(crate) token: CancellationToken,
    /// For plain threads.
    pub(crate) flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts to listen. The listener lives as long as the program.
    ///
    /// # Errors
    /// When the system does not let the program handle signals.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let interrupt = Self::default();
        let (token, flag) = (interrupt.token.clone(), interrupt.flag.clone());
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut control_c = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = control_c.recv() => {}
                    _ = terminate.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(exit::INTERRUPTED.into());
                }
                token.cancel();
                // Nobody can be told if standard error is closed; stopping goes on all the same.
                let _ = writeln!(std::io::stderr(), "\nstopping cleanly; once more to stop at once");
            }
        });
        Ok(interrupt)
    }
}

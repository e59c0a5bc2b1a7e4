//! An open home: what all scripts of one process share, and the right to write.
//!
//! ```text
//!   catalogue in HOME           the right is a lock on HOME/lock, taken by whoever writes first
//!   catalogue in PostgreSQL     the right is the lease of the catalogue: taken by whoever writes first, or, in a
//!                               coordinator that serves, by its campaign and by nobody else
//! ```
//! Either way it is shared by the scripts of the process, and builds that stopped half-way are ended when it is taken.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::admission::Admission;
use crate::catalog::{Candidate, Catalog, Lease, Location};
use crate::error::{CoordinatorError, Result};
use crate::layout::Layout;
use crate::lock::HomeLock;
use crate::maintenance;
use crate::options::CoordinatorOptions;
use crate::workspace::Workspace;

/// The catalogue in a home.
const CATALOG: &str = "catalog.sqlite";
/// Where the catalogue of a home is, when it is not inside; never with a password.
const ELSEWHERE: &str = "catalog.url";
/// How long a lease lasts that a command takes for itself.
const LEASE: Duration = Duration::from_secs(10);
/// How often it looks whether a lease has run out.
const LOOK: Duration = Duration::from_millis(300);

/// The right to write to a catalogue and its warehouse.
#[derive(Debug)]
pub(crate) enum Right {
    /// No other process writes to the home.
    Lock(#[expect(dead_code, reason = "held, not read")] HomeLock),
    /// No other process leads.
    Lease(Lease),
}

/// Catalogue, folders, and who may write and build.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) catalog: Catalog,
    pub(crate) layout: Layout,
    pub(crate) admission: Arc<Admission>,
    seat: Mutex<Weak<Right>>,
    /// A campaign takes the lead, nobody else.
    campaigns: AtomicBool,
}

impl Home {
    /// Opens the home of `options`, and makes it when it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made, it or the catalogue has another warehouse, or the catalogue cannot be opened.
    pub(crate) async fn open(options: &CoordinatorOptions) -> Result<Arc<Self>> {
        let home = std::path::absolute(&options.home).map_err(|source| CoordinatorError::Io {
            action: "open",
            path: options.home.clone(),
            source,
        })?;
        let location = location(&home, options.catalog.as_deref())?;
        let (catalog, layout) = match location.is_server() {
            true => shared(&home, location, options.warehouse.as_deref()).await?,
            false => {
                let layout = Layout::new(&home, options.warehouse.as_deref())?;
                layout.create()?;
                (Catalog::open(location).await?, layout)
            }
        };
        Ok(Arc::new(Self {
            catalog,
            layout,
            admission: Arc::new(Admission::new(options.builds_max)),
            seat: Mutex::default(),
            campaigns: AtomicBool::new(false),
        }))
    }

    /// The right to write, taken now unless this process has it; what was left half-way is ended then, by `workspace`.
    ///
    /// # Errors
    /// [`CoordinatorError::Locked`] or [`CoordinatorError::Led`] when another process has it,
    /// [`CoordinatorError::Deposed`] when a campaign of this process lost it, and those of [`maintenance::recover`].
    pub(crate) async fn right(&self, workspace: &Workspace) -> Result<Arc<Right>> {
        let mut seat = self.seat.lock().await;
        if let Some(right) = seat.upgrade() {
            return Ok(right);
        }
        let right = if !self.catalog.location().is_server() {
            Right::Lock(HomeLock::take(self.layout.home())?)
        } else if self.campaigns.load(Ordering::SeqCst) {
            return Err(CoordinatorError::Deposed {
                catalog: self.catalog.location().to_string(),
            });
        } else {
            Right::Lease(self.take_lease().await?)
        };
        if let Right::Lease(lease) = &right {
            workspace.catalog.write_under(lease);
        }
        let right = Arc::new(right);
        maintenance::recover(workspace).await?;
        *seat = Arc::downgrade(&right);
        Ok(right)
    }

    /// From now on only [`Home::lead`] takes the lead.
    pub(crate) fn campaign(&self) {
        self.campaigns.store(true, Ordering::SeqCst);
    }

    /// Gives what a campaign won to all scripts of the process, after `workspace` has ended what was left half-way.
    ///
    /// # Errors
    /// Those of [`maintenance::recover`]: the lease is given back then.
    pub(crate) async fn lead(&self, lease: Lease, workspace: &Workspace) -> Result<Arc<Right>> {
        let mut seat = self.seat.lock().await;
        workspace.catalog.write_under(&lease);
        if let Err(error) = maintenance::recover(workspace).await {
            lease.release().await;
            return Err(error);
        }
        let right = Arc::new(Right::Lease(lease));
        *seat = Arc::downgrade(&right);
        Ok(right)
    }

    /// Takes the lease for a command. One that is renewed has a living holder; one that is not runs out.
    async fn take_lease(&self) -> Result<Lease> {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let candidate = Candidate {
            address: format!("corpusmill process {} on {}", std::process::id(), host.trim()),
            length: LEASE,
        };
        let deadline = Instant::now() + LEASE * 3;
        let mut seen = None;
        loop {
            if let Some(lease) = self.catalog.try_lead(&candidate).await? {
                return Ok(lease);
            }
            if let Some(leader) = self.catalog.leader().await? {
                let first = *seen.get_or_insert(leader.expires_ms);
                if first != leader.expires_ms || Instant::now() > deadline {
                    return Err(CoordinatorError::Led {
                        catalog: self.catalog.location().to_string(),
                        leader: leader.address,
                    });
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Opens a catalogue that several homes share: all must have the same warehouse.
async fn shared(home: &Path, location: Location, warehouse: Option<&str>) -> Result<(Catalog, Layout)> {
    let catalog = Catalog::open(location).await?;
    let agreed = catalog.settle("warehouse", None).await?;
    let layout = Layout::new(home, warehouse.or(agreed.as_deref()))?;
    let mine = layout.url().to_string();
    let agreed = catalog.settle("warehouse", Some(&mine)).await?;
    if let Some(agreed) = agreed.filter(|agreed| *agreed != mine) {
        return Err(CoordinatorError::Invalid(format!(
            "catalogue {} belongs to the warehouse {agreed}, not to {mine}: leave --warehouse (CORPUSMILL_WAREHOUSE) away, \
             or give another --catalog",
            catalog.location()
        )));
    }
    layout.create()?;
    let note = home.join(ELSEWHERE);
    if !note.exists() {
        let written = std::fs::write(&note, format!("{}\n", catalog.location()));
        written.map_err(|source| CoordinatorError::Io {
            action: "write",
            path: note,
            source,
        })?;
    }
    Ok((catalog, layout))
}

/// Where the catalogue of `home` is: as given, or as the home remembers it.
fn location(home: &Path, given: Option<&str>) -> Result<Location> {
    let (note, inside) = (home.join(ELSEWHERE), home.join(CATALOG));
    let remembered = match std::fs::read_to_string(&note) {
        Ok(text) => Some(Location::server(&text)?),
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            None
        }
        Err(source) => {
            return Err(CoordinatorError::Io {
                action: "read",
                path: note,
                source,
            });
        }
    };
    let elsewhere = |there: PathBuf, given: &Location| {
        CoordinatorError::Invalid(format!(
            "the home {} has its catalogue in {}, not in {given}: leave --catalog (CORPUSMILL_CATALOG) away, or give another \
             --home",
            home.display(),
            there.display()
        ))
    };
    match (given.map(Location::server).transpose()?, remembered) {
        (Some(given), Some(there)) if given.to_string() != there.to_string() => {
            Err(elsewhere(PathBuf::from(there.to_string()), &given))
        }
        (Some(given), None) if inside.exists() => Err(elsewhere(inside, &given)),
        (Some(given), _) => Ok(given),
        (None, Some(there)) => Ok(there),
        (None, None) => Ok(Location::File(inside)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_catalogue() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path();
        assert!(!location(home, None).unwrap().is_server());
        let url = "postgres://mill:s3cret@db/corpora";
        assert!(location(home, Some(url)).unwrap().is_server());
        std::fs::write(home.join(ELSEWHERE), "postgres://mill@db/corpora\n").unwrap();
        assert_eq!(location(home, None).unwrap().to_string(), "postgres://mill@db/corpora");
        assert!(location(home, Some(url)).is_ok(), "the password does not count");
        let error = location(home, Some("postgres://mill:s3cret@db/other"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("db/corpora") && !error.contains("s3cret"), "{error}");
        std::fs::remove_file(home.join(ELSEWHERE)).unwrap();
        std::fs::write(home.join(CATALOG), "").unwrap();
        let error = location(home, Some(url)).unwrap_err().to_string();
        assert!(error.contains("catalog.sqlite") && error.contains("--home"), "{error}");
    }
}

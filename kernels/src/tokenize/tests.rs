//! Golden tests against the Python package.

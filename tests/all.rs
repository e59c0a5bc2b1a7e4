//! All tests of the whole, in one binary.

#[path = "all/arrows.rs"]
mod arrows;
#[path = "all/bad_input.rs"]
mod bad_input;
#[path = "all/cli.rs"]
mod cli;
#[path = "all/cluster.rs"]
mod cluster;
#[path = "all/deploy.rs"]
mod deploy;
#[path = "all/docs_sql.rs"]
mod docs_sql;
#[path = "all/health.rs"]
mod health;
#[path = "all/house.rs"]
mod house;
#[path = "all/interop.rs"]
mod interop;
#[path = "all/models.rs"]
mod models;
#[path = "all/moderation.rs"]
mod moderation;
#[path = "all/object_storage.rs"]
mod object_storage;
#[path = "all/redefined.rs"]
mod redefined;
#[path = "all/resume.rs"]
mod resume;
#[path = "all/slt.rs"]
mod slt;
#[path = "all/tweets.rs"]
mod tweets;

use corpusmill_tests::repository;

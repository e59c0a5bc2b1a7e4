//! All tests of the whole, in one binary.

#[path = "all/admission.rs"]
mod admission;
#[path = "all/arrows.rs"]
mod arrows;
#[path = "all/bad_input.rs"]
mod bad_input;
#[path = "all/bare_ballista.rs"]
mod bare_ballista;
#[path = "all/cli.rs"]
mod cli;
#[path = "all/cluster.rs"]
mod cluster;
#[path = "all/cluster_faults.rs"]
mod cluster_faults;
#[path = "all/deploy.rs"]
mod deploy;
#[path = "all/docs_sql.rs"]
mod docs_sql;
#[path = "all/duplicates.rs"]
mod duplicates;
#[path = "all/exports.rs"]
mod exports;
#[path = "all/foreign_writer.rs"]
mod foreign_writer;
#[path = "all/full_disk.rs"]
mod full_disk;
#[path = "all/health.rs"]
mod health;
#[path = "all/house.rs"]
mod house;
#[path = "all/interop.rs"]
mod interop;
#[path = "all/leaders.rs"]
mod leaders;
#[path = "all/media.rs"]
mod media;
#[path = "all/models.rs"]
mod models;
#[path = "all/moderation.rs"]
mod moderation;
#[path = "all/object_storage.rs"]
mod object_storage;
#[path = "all/python_functions.rs"]
mod python_functions;
#[path = "all/redefined.rs"]
mod redefined;
#[path = "all/remote.rs"]
mod remote;
#[path = "all/resume.rs"]
mod resume;
#[path = "all/schedules.rs"]
mod schedules;
#[path = "all/security.rs"]
mod security;
#[path = "all/security_network.rs"]
mod security_network;
#[path = "all/slt.rs"]
mod slt;
#[path = "all/traces.rs"]
mod traces;
#[path = "all/tweets.rs"]
mod tweets;

use corpusmill_tests::repository;
